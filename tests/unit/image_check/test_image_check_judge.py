"""Conclusions from one observed session of an image."""

from typing import Any

import pytest

from vdi.api.template import Protocol, TemplateSpec
from vdi.findings.model import Finding, Remedy, Severity
from vdi.image_check.judge import (
    AGENT,
    END,
    NOT_CHECKED,
    START,
    START_UP,
    TOKENS,
    Observation,
    find_level,
    judge,
    make_report,
)

SELKIES_2, WEB = TemplateSpec(image="x:1"), TemplateSpec(image="lab:1", protocol=Protocol.WEB)
RUNS: dict[str, Any] = {"runs": True, "ready_seconds": 2.0, "exit_code": 143, "end_seconds": 1.2}
TABLE: dict[str, Any] = {"token_table": 200, "with_token": 200, "without_token": 401}
ALL: dict[str, Any] = {**RUNS, **TABLE, "agent": 200, "agent_without_token": 401}


def a_session(spec: TemplateSpec = SELKIES_2, **seen: Any) -> Observation:
    return Observation("vditemplate/cad", spec, **seen)


def severities(seen: Observation) -> dict[str, Severity]:
    return {finding.code: finding.severity for finding in judge(seen)}


def test_our_own_image_reaches_the_highest_level() -> None:
    report = make_report(a_session(**ALL))
    assert {finding.severity for finding in report.findings} == {Severity.OK}
    assert report.summary == "vditemplate/cad: level full; 5 ok."
    assert report.context == {"level": "full"}


@pytest.mark.parametrize(
    ("change", "code", "severity", "level"),
    [
        ({"agent": 0}, AGENT, Severity.WARNING, "Selkies 2"),
        ({"agent_without_token": 200}, AGENT, Severity.ERROR, "Selkies 2"),
        ({"without_token": 200}, TOKENS, Severity.ERROR, "web"),
        ({"token_table": 404}, TOKENS, Severity.ERROR, "web"),
        ({"with_token": 401}, TOKENS, Severity.ERROR, "web"),
        ({"exit_code": 137}, END, Severity.ERROR, ""),
        ({"exit_code": None}, NOT_CHECKED, Severity.UNKNOWN, ""),
        ({"ready_seconds": 31.0}, START_UP, Severity.WARNING, "full"),
        ({"requests_unchecked": "kubectl is not in PATH"}, NOT_CHECKED, Severity.UNKNOWN, "web"),
    ],
)
def test_each_requirement_that_is_missed(
    change: dict[str, Any], code: str, severity: Severity, level: str
) -> None:
    seen = a_session(**{**ALL, **change})
    assert severities(seen)[code] is severity
    assert find_level(judge(seen)) == level
    assert all(
        finding.remedy
        for finding in judge(seen)
        if finding.severity in (Severity.ERROR, Severity.WARNING)
    )


def test_a_web_image_has_one_level() -> None:
    seen = a_session(WEB, **RUNS)
    assert severities(seen) == {START: Severity.OK, START_UP: Severity.OK, END: Severity.OK}
    assert find_level(judge(seen)) == "web"


def test_failed_start_is_a_consequence_of_doctor_findings() -> None:
    cause = Finding(
        code="image_not_found", severity=Severity.ERROR, object="vdisession/vdi/vdi-template-try"
    )
    first, start, rest = judge(
        a_session(is_at_fault=True, message="The image cannot be pulled.", diagnosis=[cause])
    )
    assert first == cause
    assert (start.code, start.caused_by) == (START, cause.key)
    assert start.message == "The desktop does not start: The image cannot be pulled."
    assert rest.code == NOT_CHECKED


def test_remedies_outlast_the_trial() -> None:
    commands = ("kubectl edit vditemplate vdi-template-try", "kubectl get storageclass")
    remedy = Remedy("Correct spec.image of template `vdi-template-try`.", commands)
    cause = Finding(
        code="image_not_found", severity=Severity.ERROR, object="vditemplate/x", remedy=remedy
    )
    first, *_ = judge(a_session(is_at_fault=True, diagnosis=[cause]))
    assert first.remedy == Remedy("Correct spec.image of template `cad`.", commands[1:])


def test_queued_session_does_not_judge_the_image() -> None:
    (only,) = judge(a_session(message="All GPUs are in use."))
    assert (only.code, only.severity) == (NOT_CHECKED, Severity.UNKNOWN)
