"""`vdi doctor` on bundles: what is printed, and with which status it ends."""

from collections.abc import Callable
from pathlib import Path

import pytest

from unit.doctor.doctor_builders import Cluster
from unit.doctor.doctor_faults import FAULTS
from vdi.cli.main import main
from vdi.snapshot.model import save

# What is typed after `vdi doctor --from`; gives the exit code, and what went to stdout and stderr.
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def typed(cluster: Cluster, *words: str) -> tuple[int, str, str]:
        file = tmp_path / "bundle.json"
        file.write_bytes(save(cluster.snapshot()))
        code = main(["doctor", "--from", str(file), *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return typed


@pytest.mark.parametrize(
    ("fault", "status"), [("role_cut", 1), ("encoder_of_selkies_1", 1), ("routes_forbidden", 3)]
)
def test_the_status_says_how_it_ended(run: Run, fault: str, status: int) -> None:
    cluster = FAULTS.broken(fault)
    assert run(cluster)[0] == status


def test_causes_come_first_and_what_follows_is_folded_under_them(run: Run) -> None:
    cluster = FAULTS.broken("operator_not_ready")
    _, out, _ = run(cluster)
    first, *rest = [
        line
        for line in out.splitlines()
        if line.split(" ")[0] in ("ERROR", "WARNING") or "follows" in line[:12]
    ]
    assert first.startswith("ERROR    operator_down")
    assert rest
    assert all(line.startswith("   follows") for line in rest)


def test_one_session_of_a_bundle(run: Run) -> None:
    cluster = FAULTS.broken("image_wrong", 2)
    assert run(cluster, "alice-0")[0] == 1
    assert run(cluster, "alice-1")[0] == 0
    code, _, err = run(cluster, "bob")
    assert code == 1
    assert "there is no session bob" in err


def test_what_is_typed_wrongly(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Cluster(), "alice-0", "--all")[0] == 2
    assert main(["doctor", "--from", "/does/not/exist"]) == 3
    assert main(["doctor", "--explain", "gpu_config"]) == 2
    assert "gpu_config_not_read" in capsys.readouterr().err
    assert main(["doctor", "--explain", "gpu_config_not_read"]) == 0
    assert "Restart the device plugin" in capsys.readouterr().out
