from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest

from support.builders import (
    CREATED,
    a_claim,
    a_node,
    a_pod,
    a_route,
    a_secret,
    a_service,
    a_session,
    a_template,
)
from vdi.api.session import SessionStatus
from vdi.cluster.units import parse_time
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.conditions import CONDITION_TYPES
from vdi.session.decide import Observed, host_taken
from vdi.session.effective import Blocked
from vdi.session.status import derive

NOW = parse_time(CREATED) + timedelta(seconds=5)
SETTINGS = ClusterSettings()


def seen(**fields: Any) -> Observed:
    """A session with all children, its pod not ready, and overrides."""
    base = {"session": a_session(), "template": a_template(), "pod": a_pod(), "home": a_claim()}
    return Observed(
        **(base | {"service": a_service(), "route": a_route(), "secret": a_secret()} | fields)
    )


def status_of(
    observed: Observed, problem: Blocked | None = None, now: datetime = NOW
) -> SessionStatus:
    return derive(observed, problem, SETTINGS, now)


def holding(status: SessionStatus) -> set[str]:
    return {condition.type for condition in status.conditions if condition.status == "True"}


def reason(status: SessionStatus, kind: str) -> str:
    return next(condition.reason for condition in status.conditions if condition.type == kind)


CRASHED = {"restartCount": 4, "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}}}
LOOPING = {**CRASHED, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
WAITS = Blocked("HomeInUse", "The home is in use.")
SOON = Blocked("CrashLoop", "Again in a while.", condition="PodReady")
GIVEN_UP = Blocked("CrashLoop", "No more.", condition="PodReady", needs_change=True)
STUCK = Blocked("OverLimit", "Too much.", needs_change=True)

PHASES = [
    ("nothing yet", seen(pod=None, route=None), None, "Pending"),
    ("waits for something", seen(pod=None), WAITS, "Pending"),
    ("needs a person", seen(pod=None), STUCK, "Failed"),
    ("pod starts", seen(), None, "Creating"),
    ("pod ready", seen(pod=a_pod(ready=True)), None, "Running"),
    ("pod ready, route missing", seen(pod=a_pod(ready=True), route=None), None, "Creating"),
    ("pod ready, template gone", seen(pod=a_pod(ready=True), template=None), None, "Running"),
    ("pod is gone, next one in a while", seen(pod=None), SOON, "Pending"),
    ("pod is gone for good", seen(pod=None), GIVEN_UP, "Failed"),
    (
        "pod ready, node does not answer",
        seen(pod=a_pod(ready=True), node=a_node(ready=False)),
        None,
        "Creating",
    ),
    (
        "pod crashed once",
        seen(pod=a_pod(container={**LOOPING, "restartCount": 1})),
        None,
        "Creating",
    ),
    ("session deleted", seen(session=a_session(deleting=True)), None, "Terminating"),
    (
        "session deleted, no pod",
        seen(session=a_session(deleting=True), pod=None),
        None,
        "Terminating",
    ),
]


@pytest.mark.parametrize(
    ("name", "observed", "problem", "phase"), PHASES, ids=[row[0] for row in PHASES]
)
def test_phase_follows_what_is_observed(
    name: str, observed: Observed, problem: Blocked | None, phase: str
) -> None:
    status = status_of(observed, problem)
    assert status.phase == phase
    assert tuple(condition.type for condition in status.conditions) == CONDITION_TYPES
    assert ("Ready" in holding(status)) == (phase == "Running")
    assert status.message or phase == "Running"


def test_deletion_needs_one_status_until_the_pod_is_gone() -> None:
    deleted = a_session(deleting=True)
    before = status_of(seen(session=deleted, pod=a_pod(ready=True)))
    deleted = msgspec.structs.replace(deleted, status=before)
    pod = a_pod(deletionTimestamp=CREATED)
    assert status_of(seen(session=deleted, pod=pod)) == before
    assert status_of(seen(session=deleted, pod=pod, route=None, host="alice-desktop")) == before
    assert (reason(before, "PodReady"), reason(before, "RouteReady")) == ("PodStopping", "Stopping")
    assert "a new one follows" not in str(before)
    lost = status_of(
        seen(session=a_session(deleting=True), pod=a_pod(ready=True), node=a_node(ready=False))
    )
    assert reason(lost, "PodReady") == "NodeLost"


def test_running_session_says_all_that_a_person_asks() -> None:
    status = status_of(seen(pod=a_pod(ready=True, home="home", status={"podIP": "10.42.0.7"})))
    assert status.url == "https://alice-desktop.vdi.localhost"
    assert (status.start_time, status.ready_time) == (CREATED, "2026-11-20T08:00:03Z")
    assert status.expires_at == "2026-11-20T16:00:00Z"
    assert (status.pod_name, status.node_name, status.template_revision) == (
        "alice-desktop",
        "node-1",
        "1",
    )
    assert status.pod_ip == "10.42.0.7"
    assert status.message == ""
    assert holding(status) == set(CONDITION_TYPES)
    assert {condition.message for condition in status.conditions} == {""}


def test_url_has_the_port_unless_it_is_the_usual_one() -> None:
    assert (
        derive(seen(), None, ClusterSettings(url_port=8443), NOW).url
        == "https://alice-desktop.vdi.localhost:8443"
    )


def test_transition_time_moves_only_when_the_status_flips() -> None:
    first = status_of(seen())
    later = NOW + timedelta(minutes=1)
    session = msgspec.structs.replace(a_session(), status=first)
    again = status_of(seen(session=session), now=later)
    assert again == first
    ready = status_of(seen(session=session, pod=a_pod(ready=True)), now=later)
    moved = {
        condition.type
        for condition in ready.conditions
        if condition.last_transition_time == "2026-11-20T08:01:05Z"
    }
    assert moved == {"PodReady", "Ready"}


def test_ready_time_is_kept_within_a_run() -> None:
    running = {"readyTime": "2026-11-20T08:00:02Z", "startTime": CREATED}
    assert status_of(
        seen(session=a_session(status=running), pod=a_pod(ready=True))
    ).ready_time.endswith("02Z")
    assert status_of(seen(session=a_session(status=running))).ready_time.endswith("02Z")
    old = running | {"startTime": "2026-11-19T08:00:00Z"}
    assert status_of(
        seen(session=a_session(status=old), pod=a_pod(ready=True))
    ).ready_time.endswith("03Z")
    assert status_of(seen(session=a_session(status=old))).ready_time == ""


def test_newer_template_is_named_and_does_not_touch_the_desktop() -> None:
    status = status_of(seen(pod=a_pod(ready=True), template=a_template(generation=3)))
    assert (status.phase, status.template_revision) == ("Running", "1")
    assert reason(status, "TemplateFound") == "NewerRevision"


def test_problem_stands_at_its_condition_and_in_the_message() -> None:
    missing = Blocked("TemplateNotFound", "There is no template 'x'.", condition="TemplateFound")
    status = status_of(seen(pod=None, template=None, route=None), missing)
    assert reason(status, "TemplateFound") == reason(status, "Admitted") == "TemplateNotFound"
    assert status.message == "There is no template 'x'."


def test_refused_route_leaves_a_running_pod_admitted() -> None:
    status = status_of(seen(), Blocked("Refused", "No.", condition="RouteReady"))
    assert reason(status, "RouteReady") == "Refused" and "Admitted" in holding(status)
    status = status_of(seen(pod=a_pod(ready=True), host_blocked=host_taken("desk")))
    assert reason(status, "RouteReady") == "HostTaken"


def test_password_younger_than_the_desktop_is_named() -> None:
    container = {"ready": True, "state": {"running": {"startedAt": "2026-11-20T08:00:02Z"}}}
    observed = seen(pod=a_pod(ready=True, container=container))
    assert status_of(observed).message == ""
    status = status_of(replace(observed, secret=a_secret("2026-11-20T09:00:00Z")))
    assert "vdi session restart alice-desktop" in status.message


@pytest.mark.parametrize(
    ("pod", "claim", "expected"),
    [
        (a_pod(), None, "NoHome"),
        (a_pod(home="home"), None, "NotCreated"),
        (a_pod(home="home"), a_claim("Pending"), "HomePending"),
        (a_pod(home="home"), a_claim("Lost"), "HomeLost"),
        (a_pod(home="home"), a_claim("Bound"), "Bound"),
    ],
)
def test_home_condition_follows_the_claim(pod: Any, claim: Any, expected: str) -> None:
    assert reason(status_of(seen(pod=pod, home=claim)), "HomeBound") == expected
