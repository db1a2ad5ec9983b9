"""The journey on a real node: values, preflight and helm by `install`, the database kept, and the
way back.
"""

import os
import shutil
from pathlib import Path

import pytest
import yaml

from kasm.kasm_ward import CHARTS, QUICK, KasmStage
from vdi.cli.main import main
from vdi.kasm.values.render import set_at


def test_a_failed_upgrade_leaves_the_data_and_helm_rolls_back(
    ward: KasmStage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    programs = os.pathsep.join(
        str(each.parent) for each in (ward.tools.helm_binary, ward.tools.kubectl_binary)
    )
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    file = tmp_path / "values.yaml"

    def run(*words: str, status: int = 0) -> str:
        code = main(["kasm", *words])
        said = capsys.readouterr()
        assert code == status, said.out + said.err
        return said.out + said.err

    def install(chart: Path, *words: str, status: int = 0) -> str:
        place = ("--namespace", ward.namespace, "--kubeconfig", str(ward.tools.kubeconfig))
        return run(
            *("install", "-f", str(file), "--chart", str(chart), *place),
            # Traefik is a program of the node here, no pod: it answers, and no object holds the
            # port.
            *("--ignore", "dns", "--ignore", "room", "--ignore", "port-443", *words),
            status=status,
        )

    def psql(statement: str) -> str:
        script = f'psql -U "$POSTGRES_USER" -d "$POSTGRES_DB" -qAtc "{statement}"'
        return ward.kubectl("exec", "kasm-db-1-19-0-0", "--", "sh", "-c", script).strip()

    ward.kubectl(
        "create", "secret", "generic", "tls", "--from-literal=tls.crt=c", "--from-literal=tls.key=k"
    )
    values = yaml.safe_load(
        run(
            "values",
            "render",
            "--hostname",
            "kasm.example.com",
            "--profile",
            "4gb",
            "--tls-secret",
            "tls",
        )
    )
    for path, value in QUICK.items():
        set_at(values, path, int(value))
    file.write_text(yaml.safe_dump(values))
    # The chart of the tests has keys of its own, which are no keys of Kasm's.
    assert "unknown_key" in install(CHARTS / "c", status=1)
    assert "everything is ready" in install(CHARTS / "c", "--ignore", "unknown_key")
    psql("insert into zones values ('mine')")

    newer = tmp_path / "newer"
    shutil.copytree(CHARTS / "c", newer)
    meta = yaml.safe_load((newer / "Chart.yaml").read_text())
    (newer / "Chart.yaml").write_text(
        yaml.safe_dump({**meta, "version": "1.1191.0", "appVersion": "1.19.1"})
    )
    upgrade = ("--ignore", "unknown_key")
    assert "starts with an empty database" in install(newer, *upgrade, status=1)
    set_at(values, "dbManagement", {"initialize": False, "upgrade": {"enable": True}})
    file.write_text(yaml.safe_dump(values))
    # The stand-in has no Job that carries the data over: its new database stays empty, and no pod
    # gets ready
    said = install(newer, *upgrade, "--timeout", "40s", status=1)
    assert f"Undo: helm rollback kasm --namespace {ward.namespace}" in said
    done = ward.tools.helm("rollback", "kasm", "--namespace", ward.namespace)
    assert done.returncode == 0, done.stderr
    ward.kubectl("rollout", "status", "statefulset/kasm-db-1-19-0", "--timeout=60s")
    assert psql("select count(*) from zones where zone_id = 'mine'") == "1"
