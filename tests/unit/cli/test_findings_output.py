"""Every command that runs checks prints its findings in the same four formats."""

import asyncio
import json
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock
from xml.etree import ElementTree

import pytest

from unit.cli.conftest import Vdi
from unit.doctor.doctor_builders import Cluster
from unit.doctor.doctor_kasm import KASM_FAULTS
from unit.gpu.gpu_states import a_node as a_gpu_node
from unit.gpu.gpu_states import fresh
from unit.kasm.preflight_site import a_node, changed, k3s_with_traefik
from unit.kasm.validate_site import a_kasm, broken
from vdi.diagnosis.snapshot import save

COMMANDS = ["doctor", "gpu verify", "kasm diagnose", "kasm preflight", "kasm validate", "kasm values check"]
CHECKED_FIRST = ["install", "upgrade"]


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Each command on something with findings, in the place of a cluster."""
    cluster = Cluster(0)
    KASM_FAULTS["kasm_circle_of_waits"][1](cluster)
    bundle, values = tmp_path / "bundle.json", tmp_path / "values.yaml"
    bundle.write_bytes(save(cluster.snapshot()))
    values.write_text("global: {hostname: kasm.example.com}\n")
    found: dict[str, Any] = {
        "gpu.commands": fresh(a_gpu_node()),
        "kasm preflight": changed(k3s_with_traefik(), nodes=[a_node(cpu="2")]),
        "kasm validate": broken(a_kasm(), pods=[]),
    }
    state = found["gpu.commands"]
    monkeypatch.setattr("vdi.cli.gpu.KubeConnection", lambda *_, **__: _Answering(state))
    for name in ("preflight", "validate"):
        answer = AsyncMock(return_value=found[f"kasm {name}"])
        monkeypatch.setattr(f"vdi.cli.kasm.commands.collect_{name}", answer)
    monkeypatch.setattr("vdi.cli.kasm.commands.KubeConnection", lambda *_, **__: _Running())
    return {
        "doctor": ["--from", str(bundle)],
        "gpu verify": [],
        "kasm diagnose": ["--from", str(bundle)],
        "kasm preflight": [],
        "kasm validate": [],
        "kasm values check": [str(values)],
    }


class _Answering:
    """A KubeConnection whose cluster is this."""

    flags = ""

    def __init__(self, state: Any) -> None:
        self._state = state

    def run(self, _: Any) -> Any:
        return self._state


class _Running:
    """A KubeConnection without a cluster, for collectors that need none."""

    def run(self, work: Any) -> Any:
        return asyncio.run(work(None))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_four_formats(command: str, typed: dict[str, list[str]], vdi: Vdi) -> None:
    def out(form: str) -> str:
        ran = vdi(*command.split(), *typed[command], "-o", form)
        assert ran.code in (1, 3), ran.err
        return ran.out

    findings = json.loads(out("json"))["findings"]
    assert findings
    for finding in findings:
        assert set(finding["remedy"]) == {"sentence", "commands"}
        assert finding["severity"] in ("error", "unknown", "warning", "ok")
    cases = ElementTree.fromstring(out("junit"))
    assert [case.attrib["name"].split(" ")[0] for case in cases] == [
        finding["code"].split(" ")[0] for finding in findings
    ]
    text = out("text")
    assert findings[0]["code"] in text
    assert out("table") == text


@pytest.mark.parametrize("command", [*COMMANDS, *CHECKED_FIRST])
def test_the_help_names_the_formats(command: str, vdi: Vdi) -> None:
    assert "text|json|junit" in vdi(*command.split(), "--help").out


@pytest.mark.parametrize("command", COMMANDS)
def test_another_format_is_refused(command: str, typed: dict[str, list[str]], vdi: Vdi) -> None:
    ran = vdi(*command.split(), *typed[command], "-o", "xml")
    assert ran.code == 2
    assert "'xml'; allowed: text, json, junit" in " ".join(ran.err.split())
