"""One model, one renderer: what every command that runs checks prints, and how it ends."""

import json
from xml.etree import ElementTree

import msgspec
import pytest

from vdi.findings import ExitCode
from vdi.findings.model import Finding, Remedy, Severity, errors, exit_code, roots, worst
from vdi.findings.render import Report, as_data, as_junit, as_text, findings_as_text

COMMAND = (
    "kubectl --namespace kasm rollout restart deployment/one-that-is-longer"
    " deployment/than-a-line-may-be"
)
CAUSE = Finding(
    code="operator_down",
    severity=Severity.ERROR,
    object="deployment/kasm/vdi-operator",
    message="No replica is ready.",
    evidence=("status.readyReplicas: 0",),
    remedy=Remedy("Restart it.", (COMMAND, "kubectl get pods")),
    remedy_url="docs/doctor/control-plane.md#operator_down",
    related_objects=("node/a",),
)
FOLLOWS = Finding(
    code="session_ignored",
    severity=Severity.ERROR,
    object="vdisession/s/a",
    message="No pod.",
    caused_by=CAUSE.key,
)
WARNING = Finding(
    code="memory",
    severity=Severity.WARNING,
    message="This is <the minimum>.",
    observed="4 GiB",
    expected="8 GB",
    remedy=Remedy("Give the machine more."),
)
UNKNOWN = Finding(
    code="clock", severity=Severity.UNKNOWN, observed="not read", message="You may not."
)
OK = Finding(
    code="helm",
    severity=Severity.OK,
    observed="3.18.4",
    expected="3.14 or later",
    evidence=("a sum",),
)
ALL = (CAUSE, FOLLOWS, WARNING, UNKNOWN, OK)


def a_report(*findings: Finding, warnings_fail: bool = False) -> Report:
    return Report(
        tool="vdi doctor",
        findings=findings,
        warnings_fail=warnings_fail,
        context={"namespace": "kasm"},
    )


@pytest.mark.parametrize(
    ("findings", "warnings_fail", "code"),
    [
        ((), False, ExitCode.OK),
        ((OK,), False, ExitCode.OK),
        ((OK, WARNING), False, ExitCode.OK),
        ((OK, WARNING), True, ExitCode.FINDINGS),
        ((WARNING, UNKNOWN), False, ExitCode.COULD_NOT_LOOK),
        ((WARNING, UNKNOWN), True, ExitCode.FINDINGS),
        ((UNKNOWN,), True, ExitCode.COULD_NOT_LOOK),
        ((OK, UNKNOWN, CAUSE), False, ExitCode.FINDINGS),
    ],
)
def test_the_exit_code_and_junit_agree(
    findings: tuple[Finding, ...], warnings_fail: bool, code: int
) -> None:
    assert exit_code(findings, warnings_fail=warnings_fail) == code
    suite = ElementTree.fromstring(as_junit(a_report(*findings, warnings_fail=warnings_fail)))
    assert (int(suite.attrib["failures"]) > 0) == (code == ExitCode.FINDINGS)
    assert len(suite) == max(1, len(findings)) == int(suite.attrib["tests"])


def test_worst_severity_is_error_then_unknown() -> None:
    assert worst(ALL) is Severity.ERROR
    assert worst((WARNING, UNKNOWN, OK)) is Severity.UNKNOWN
    assert worst(()) is Severity.OK
    assert errors(ALL) == [CAUSE, FOLLOWS]
    assert roots(ALL) == [CAUSE, WARNING, UNKNOWN, OK]


def test_cut_evidence_keeps_its_end() -> None:
    line = f"failed to pull: {'around ' * 40}no such host"
    shown = findings_as_text([msgspec.structs.replace(CAUSE, evidence=(line,))], verbose=False)
    assert any(text.endswith("no such host") for text in shown)


def test_text_report() -> None:
    assert list(as_text(a_report(*ALL))) == [
        "ERROR    operator_down  deployment/kasm/vdi-operator",
        "  No replica is ready.",
        "  | status.readyReplicas: 0",
        "  > Restart it.",
        f"  $ {COMMAND}",
        "  $ kubectl get pods",
        "  ? vdi doctor --explain operator_down",
        "",
        "   follows  session_ignored  vdisession/s/a",
        "     No pod.",
        "",
        "WARNING  memory",
        "  This is <the minimum>.",
        "  observed: 4 GiB",
        "  expected: 8 GB",
        "  > Give the machine more.",
        "",
        "UNKNOWN  clock",
        "  You may not.",
        "  observed: not read",
        "",
        "OK       helm  3.18.4 (expected: 3.14 or later)",
        "  | a sum",
        "1 error, 1 unknown, 1 warning, 1 ok, and 1 consequence.",
    ]
    assert list(as_text(a_report())) == ["No problems found."]


def test_three_of_many_equal_findings_are_shown() -> None:
    many = [
        Finding(code="a", severity=Severity.ERROR, object=f"pod/{number}") for number in range(5)
    ]
    lines = list(as_text(a_report(*many)))
    assert "... and 2 more a (-o json lists them)" in lines
    assert sum(line.startswith("ERROR") for line in lines) == 3
    fine = [
        Finding(code="part", severity=Severity.OK, object=f"pod/{number}") for number in range(5)
    ]
    assert sum(line.startswith("OK") for line in as_text(a_report(*fine))) == 5


def test_json_report() -> None:
    data = json.loads(json.dumps(as_data(a_report(*ALL))))
    assert (data["namespace"], data["severity"]) == ("kasm", "error")
    assert data["findings"][0] == {
        "code": "operator_down",
        "severity": "error",
        "object": "deployment/kasm/vdi-operator",
        "message": "No replica is ready.",
        "observed": "",
        "expected": "",
        "evidence": ["status.readyReplicas: 0"],
        "remedy": {"sentence": "Restart it.", "commands": [COMMAND, "kubectl get pods"]},
        "remedy_url": "docs/doctor/control-plane.md#operator_down",
        "caused_by": "",
    }
    assert data["findings"][1]["caused_by"] == "operator_down deployment/kasm/vdi-operator"


def test_junit_report() -> None:
    cases = list(ElementTree.fromstring(as_junit(a_report(*ALL))))
    assert [[one.tag for one in case] for case in cases] == [
        ["failure"],
        ["failure"],
        ["system-out"],
        ["skipped"],
        [],
    ]
    assert cases[0].attrib["name"] == "operator_down deployment/kasm/vdi-operator"
    failure = cases[0][0]
    assert (failure.attrib["type"], failure.attrib["message"]) == ("error", "No replica is ready.")
    assert f"remedy: Restart it: {COMMAND}; kubectl get pods" in (failure.text or "")
    assert "This is <the minimum>. 4 GiB (expected: 8 GB)" in (cases[2][0].text or "")


@pytest.mark.parametrize(
    ("remedy", "text"),
    [
        (Remedy(), ""),
        (Remedy("Wait."), "Wait."),
        (
            Remedy.run("kubectl get pods", "kubectl get nodes"),
            "kubectl get pods; kubectl get nodes",
        ),
        (Remedy("Look at them.", ("kubectl get pods",)), "Look at them: kubectl get pods"),
        (Remedy("On the node:", ("nvidia-smi",)), "On the node: nvidia-smi"),
    ],
)
def test_remedy_on_one_line(remedy: Remedy, text: str) -> None:
    assert remedy.text == text
    assert bool(remedy) == bool(text)
