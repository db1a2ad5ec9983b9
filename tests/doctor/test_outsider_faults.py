"""The doctor's score on faults that no check was written for: each is made on a real node, and
graded.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pytest

from doctor.outsider_faults import FAULTS, Fault
from e2e.desktops import Object
from e2e.world import World
from support.waiting import wait_until

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
# Found on a node with an older kernel, whatever the fault is.
OLDER_NODE = "user_namespace_unavailable"
# Part of the faults whose cause the first finding has to name.
_SHARE = 0.8
# Seconds: pauses of the kubelet, and of the doctor itself for what may pass by itself.
PATIENCE = 150.0
# Seconds between two runs of the command.
_INTERVAL = 3.0
_HEADLINE = ("object", "message", "observed", "expected")


class Grade(StrEnum):
    """The doctor's success with one fault, the best first."""

    FIRST = "named first"
    # In a later finding, or only in the evidence of one.
    SOMEWHERE = "named somewhere"
    OTHER = "said something else"
    NOTHING = "no problems found"


@dataclass(frozen=True)
class Score:
    """The grade of one fault, and what was said."""

    fault: str
    grade: Grade
    cause: str
    findings: list[str]


def grade_of(fault: Fault, findings: Sequence[Object]) -> Grade:
    """The grade of a report. A log line that happens to contain the words is no diagnosis: evidence
    ranks lower.
    """
    if not findings:
        return Grade.NOTHING
    if _names(fault, _headline(findings[0])) or _is_difference(fault, findings[0]):
        return Grade.FIRST
    everything = (
        f"{_headline(finding)} {' '.join(finding.get('evidence', ()))}" for finding in findings
    )
    return Grade.SOMEWHERE if any(_names(fault, text) for text in everything) else Grade.OTHER


def _headline(finding: Object) -> str:
    return " ".join(str(finding.get(field, "")) for field in _HEADLINE)


def _names(fault: Fault, text: str) -> bool:
    low = text.lower()
    return all(any(word.lower() in low for word in words) for words in (fault.objects, fault.words))


def _is_difference(fault: Fault, finding: Object) -> bool:
    """Whether it is the difference that the fault has made, with the values and the remedy."""
    return (
        finding.get("code") == "release_differs"
        and finding["object"] == fault.differs
        and any("; expected: " in line for line in finding["evidence"])
        and bool(finding["remedy"]["commands"])
    )


def run_doctor(world: World) -> list[Object]:
    """The findings that the command prints, causes first. What is no report counts as one
    finding.
    """
    printed = world.vdi("doctor", "-o", "json", check=False)
    try:
        report: Object = json.JSONDecoder().raw_decode(printed.lstrip())[0]
        findings: list[Object] = [
            finding for finding in report["findings"] if finding["code"] != OLDER_NODE
        ]
    except (ValueError, KeyError, TypeError):
        return [{"code": "no_report", "message": printed.strip()}]
    return findings


def _told(findings: Sequence[Object]) -> list[str]:
    return [f"{finding.get('code', '')} {_headline(finding)}" for finding in findings]


def wait_until_quiet(world: World) -> None:
    """Wait until the doctor finds nothing."""
    last: list[str] = []

    def is_quiet() -> bool:
        last[:] = _told(run_doctor(world))
        return not last

    try:
        wait_until("no problems found", is_quiet, PATIENCE, every=_INTERVAL)
    except AssertionError as error:
        raise AssertionError(f"{error}; it says {last}") from None


def diagnose(world: World, fault: Fault) -> tuple[Grade, list[Object]]:
    """The grade once the cause is named first, else at the end of the patience; and the report that
    got it.
    """
    last: list[Object] = []

    def is_named_first() -> bool:
        last[:] = run_doctor(world)
        return grade_of(fault, last) is Grade.FIRST

    try:
        wait_until("the cause is named first", is_named_first, PATIENCE, every=_INTERVAL)
    except AssertionError:
        return grade_of(fault, last), last
    return Grade.FIRST, last


def test_grade_ranks_evidence_below_the_message() -> None:
    fault = FAULTS["the_node_is_tainted"]
    node = fault.objects[0]
    cause: Object = {"object": f"node/{node}", "message": "Its TAINT keeps desktops away."}
    other: Object = {
        "object": f"node/{node}",
        "message": "It has no room.",
        "evidence": ["spec.taints: dedicated"],
    }
    silent: Object = {"object": "vdisession/a/b", "message": "It waits because of a taint."}
    reports: list[list[Object]] = [[cause, silent], [silent, cause], [other], [silent], []]
    assert [grade_of(fault, report) for report in reports] == [
        Grade.FIRST,
        Grade.SOMEWHERE,
        Grade.SOMEWHERE,
        Grade.OTHER,
        Grade.NOTHING,
    ]


def test_difference_with_its_remedy_is_the_cause() -> None:
    fault = FAULTS["the_identity_provider_is_unknown"]
    finding: Object = {
        "code": "release_differs",
        "object": fault.differs,
        "message": "It is not as Helm installed it.",
        "evidence": ["spec.replicas: 2; expected: 1 (kubectl, now)"],
        "remedy": {"commands": ["vdi upgrade --yes"]},
    }
    assert grade_of(fault, [finding]) is Grade.FIRST
    changes: list[Object] = [
        {"object": "service/x/y"},
        {"evidence": []},
        {"remedy": {"commands": []}},
    ]
    for change in changes:
        assert grade_of(fault, [finding | change]) is Grade.OTHER


@pytest.fixture(scope="module")
def scores(request: pytest.FixtureRequest) -> Iterator[list[Score]]:
    """The scores of this run, printed at its end."""
    kept: list[Score] = []
    yield kept
    reporter: Any = request.config.pluginmanager.getplugin("terminalreporter")
    capture: Any = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        reporter.write_line("")
        for score in kept:
            reporter.write_line(f"{score.grade:<20} {score.fault}")
            if score.grade is not Grade.FIRST:
                reporter.write_line(f"  expected: {score.cause}")
                reporter.write_line(f"  found: {score.findings[:2]}")
        totals = (f"{sum(score.grade is grade for score in kept)} {grade}" for grade in Grade)
        reporter.write_line(f"{len(kept)} faults: {', '.join(totals)}")


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_made_graded_and_over(sessions: World, scores: list[Score], name: str) -> None:
    fault = FAULTS[name]
    wait_until_quiet(sessions)  # remains of the fault before must not count here
    with fault.make(sessions):
        grade, findings = diagnose(sessions, fault)
        scores.append(Score(name, grade, fault.cause, _told(findings)))
    sessions.kubectl("delete", "vdi", "--all", "--wait=true", "--timeout=60s")
    wait_until_quiet(sessions)


def test_most_causes_are_named_first(scores: list[Score]) -> None:
    """After the faults above."""
    assert sum(score.grade is Grade.FIRST for score in scores) >= _SHARE * len(scores)
