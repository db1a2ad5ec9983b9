"""Output and exit status of `vdi kasm preflight`."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from unit.kasm.preflight_site import Site, a_node, changed, k3s_with_traefik
from vdi.cli.main import main
from vdi.kasm.preflight.model import Preflight
from vdi.kasm.preflight.needs import PlannedRelease


@pytest.fixture
def facts_are(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command sees these facts in the place of a cluster."""

    def put(facts: Site) -> None:
        async def collect(_: object, planned: PlannedRelease) -> Preflight:
            return facts.preflight(planned)

        monkeypatch.setattr("vdi.cli.kasm.collect_preflight", collect)
        monkeypatch.setattr(
            "vdi.cli.kasm.KubeConnection.run", lambda _, work: asyncio.run(work(None))
        )

    return put


def test_passed_preflight_exits_with_0(facts_are: Any, capsys: pytest.CaptureFixture[str]) -> None:
    facts_are(k3s_with_traefik())
    assert main(["kasm", "preflight", "--hostname", "kasm.example.com"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "OK       kubernetes  v1.34.4+k3s1 (expected: K3s 1.25 or later, 1.28 recommended)\n"
    )
    assert out.rstrip().endswith(" ok.")
    assert "total of 7 pods" in out


def test_failed_preflight_exits_with_1_and_reports_json(
    facts_are: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    facts_are(changed(k3s_with_traefik(), nodes=[a_node(cpu="2")]))
    file = tmp_path / "values.yaml"
    file.write_text(
        yaml.safe_dump({"publicAddr": "kasm.example.com", "ingress": {"enabled": True}})
    )
    assert main(["kasm", "preflight", "-f", str(file), "-o", "json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["severity"] == "error"
    assert data["hostname"] == "kasm.example.com"
    room = next(finding for finding in data["findings"] if finding["code"] == "room")
    assert room["severity"] == "error"
    assert any("missing" in text for text in room["evidence"])


@pytest.mark.parametrize(
    ("words", "said"), [(["--generation", "D"], "'D'"), (["--chart-version", "new"], "'new'")]
)
def test_usage(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kasm", "preflight", *words]) == 2
    assert said in capsys.readouterr().err
