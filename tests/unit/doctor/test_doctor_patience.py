"""Patience belongs to a cause, and a desktop that was ready before is not slow."""

import re
from typing import Any

import pytest

from unit.doctor.doctor_builders import JUST_NOW, READY, Cluster, ready_condition
from unit.doctor.doctor_faults import FAULTS
from vdi.findings.model import Finding, Severity

RESTART = "vdi session restart alice-0 -n vdi-sessions"
PULLING = {"reason": "ErrImagePull", "message": "registry.example.com/desktop:1: not found"}


def newborn(waiting: dict[str, Any] | None = None) -> Cluster:
    """A desktop of two seconds that is not ready."""
    cluster = Cluster()
    cluster.not_ready(waiting=waiting)
    for condition in cluster.pod["status"]["conditions"]:
        condition["lastTransitionTime"] = JUST_NOW
    cluster.pod["metadata"]["creationTimestamp"] = JUST_NOW
    cluster.session["metadata"]["creationTimestamp"] = JUST_NOW
    return cluster


@pytest.mark.parametrize(
    ("waiting", "code"),
    [
        (PULLING, "image_unavailable"),
        (
            {"reason": "ErrImagePull", "message": "unexpected status: 401 Unauthorized"},
            "image_unavailable",
        ),
        (
            {"reason": "ErrImagePull", "message": "x509: certificate signed by unknown authority"},
            "image_unavailable",
        ),
        ({"reason": "InvalidImageName", "message": "x"}, "image_unavailable"),
        (
            {"reason": "RunContainerError", "message": "exec: executable file not found"},
            "desktop_cannot_start",
        ),
        ({"reason": "ErrImagePull", "message": "dial tcp: i/o timeout"}, None),
        ({"reason": "CreateContainerConfigError", "message": 'secret "x" not found'}, None),
    ],
)
def test_lasting_causes_are_reported_at_once(waiting: dict[str, Any], code: str | None) -> None:
    assert newborn(waiting).roots() == ([code] if code else [])


def test_cordoned_nodes_are_reported_at_once() -> None:
    cluster = newborn()
    cluster.unscheduled("0/1 nodes are available: 1 node(s) were unschedulable.", at=JUST_NOW)
    assert cluster.roots() == ["desktop_unschedulable"]


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("TooLarge", "room_insufficient"),
        ("TemplateNotFound", "template_missing"),
        ("NoGPUs", ""),
        ("HomeInUse", ""),
    ],
)
def test_lasting_reasons_of_a_session_are_reported_at_once(reason: str, code: str) -> None:
    cluster = Cluster()
    cluster.without_pod(reason, "It requests more than any node has.", queue={"reason": reason})
    # Its place in the queue keeps the doctor from reckoning again.
    cluster.add_session("bob", "bob@example.com")
    cluster.one("vdisessions", "bob")["status"]["queue"] = {"position": 1}
    cluster.session["metadata"]["creationTimestamp"] = JUST_NOW
    assert cluster.roots() == ([code] if code else [])


def test_frozen_desktop_is_not_called_slow() -> None:
    (finding,) = FAULTS.broken("desktop_frozen").findings()
    assert finding.code == "desktop_hung"
    assert "does not answer its health check in time" in finding.message
    assert finding.remedy.commands == (RESTART,)


def test_frozen_desktop_gets_15_seconds_to_respond() -> None:
    cluster = FAULTS.broken("desktop_frozen")
    ready_condition(cluster.pod)["lastTransitionTime"] = JUST_NOW
    assert "desktop_hung" not in cluster.roots()


def test_restart_of_a_hung_desktop_stays_visible() -> None:
    (finding,) = FAULTS.broken("restarted_because_it_hung").findings()
    assert (finding.code, finding.severity) == ("desktop_hung", Severity.WARNING)
    assert finding.remedy.commands == (
        "kubectl --namespace vdi-sessions logs alice-0 --previous",
        RESTART,
    )


def test_hung_desktop_that_starts_again_has_not_crashed() -> None:
    cluster = FAULTS.broken("restarted_because_it_hung")
    ended = cluster.pod["status"]["containerStatuses"][0]["lastState"]
    cluster.not_ready(last=ended["terminated"], restarts=1, phase="Running")
    cluster.session["status"]["readyTime"] = READY
    assert cluster.roots() == ["desktop_hung"]
    del cluster.session["status"]["readyTime"]
    assert cluster.roots() == ["desktop_crashes"], "it never was ready, so it does not hang"


def slow(note: str, cpu: str = "2") -> Finding:
    """The finding of a desktop that has started for an hour, with this message of its probe."""
    cluster = Cluster()
    cluster.template["resources"] |= {"defaultCPU": cpu}
    cluster.not_ready(phase="Running")
    cluster.warn_pod("Unhealthy", f"Readiness probe failed: {note}")
    (finding,) = cluster.findings()
    assert finding.code == "start_slow"
    return finding


@pytest.mark.parametrize(
    ("note", "words"),
    [
        (
            "Get http://10.42.0.5:8080/: context deadline exceeded",
            "does not answer its health check in time",
        ),
        ("dial tcp 10.42.0.5:8080: connect: connection refused", "nothing listens on its port"),
        ("HTTP probe failed with statuscode: 503", "answers its health check with status 503"),
        ("HTTP probe failed with statuscode: 404", "Set healthPath in the template"),
    ],
)
def test_slow_start_says_how_its_probe_fails(note: str, words: str) -> None:
    assert words in slow(note).message


def test_slow_start_names_the_part_that_took_the_time() -> None:
    cluster = Cluster()
    cluster.not_ready(phase="Running")
    (finding,) = cluster.findings()
    words = (
        r"It has been starting for \d+ s\. \w+( s)? of that is the desktop itself: its readiness"
        r" probe "
    )
    assert re.match(words, finding.message)


@pytest.mark.parametrize(("cpu", "advised"), [("500m", True), ("2", False)])
def test_more_cpu_is_advised_where_the_limit_is_low(cpu: str, advised: bool) -> None:
    remedy = slow("connect: connection refused", cpu).remedy
    assert ("CPU" in remedy.sentence) == advised
    assert remedy.commands == (
        (
            "kubectl edit vditemplate ubuntu-desktop"
            if advised
            else "kubectl --namespace vdi-sessions logs alice-0"
        ),
    )


def test_slow_start_is_forgotten_once_the_template_changed() -> None:
    cluster = FAULTS.broken("slow_image")
    assert cluster.roots() == ["start_slow"]
    cluster.one("vditemplates")["metadata"]["generation"] = 9
    assert cluster.roots() == []
