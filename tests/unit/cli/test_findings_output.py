"""Every command that runs checks prints its findings in the same three formats."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from unit.cli.conftest import Vdi
from unit.doctor.doctor_builders import Cluster
from unit.doctor.doctor_kasm import KASM_FAULTS
from vdi.snapshot.model import save

WITH_FINDINGS = ["doctor", "kasm diagnose", "kasm values check"]
COMMANDS = [
    *WITH_FINDINGS,
    "gpu verify",
    "install",
    "kasm preflight",
    "kasm validate",
    "template try",
    "upgrade",
]


@pytest.fixture
def source(tmp_path: Path) -> dict[str, list[str]]:
    """By command, the options that name a file with something to find."""
    cluster = Cluster(0)
    KASM_FAULTS["kasm_circle_of_waits"][1](cluster)
    bundle, values = tmp_path / "bundle.json", tmp_path / "values.yaml"
    bundle.write_bytes(save(cluster.snapshot()))
    values.write_text("global: {hostname: kasm.example.com}\n")
    return dict(
        zip(
            WITH_FINDINGS,
            (["--from", str(bundle)], ["--from", str(bundle)], [str(values)]),
            strict=True,
        )
    )


@pytest.mark.parametrize("command", WITH_FINDINGS)
def test_findings_have_three_formats(command: str, source: dict[str, list[str]], vdi: Vdi) -> None:
    def out(form: str) -> str:
        ran = vdi(*command.split(), *source[command], "-o", form)
        assert ran.code in (1, 3), ran.err
        return ran.out

    findings = json.loads(out("json"))["findings"]
    assert findings
    for finding in findings:
        assert set(finding["remedy"]) == {"sentence", "commands"}
        assert finding["severity"] in ("error", "unknown", "warning", "ok")
    cases = ElementTree.fromstring(out("junit"))
    codes = [finding["code"].split(" ")[0] for finding in findings]
    assert [case.attrib["name"].split(" ")[0] for case in cases] == codes
    assert findings[0]["code"] in out("text")


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_with_checks_name_the_formats(command: str, vdi: Vdi) -> None:
    assert "text|json|junit" in vdi(*command.split(), "--help").out
    assert vdi(*command.split(), "-o", "xml").code == 2
