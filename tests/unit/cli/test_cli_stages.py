"""`create --wait` as a state machine: which stages are passed when, and how a start ends."""

from typing import Any

import msgspec
import pytest

from support.builders import a_session
from vdi.api.meta import Condition
from vdi.api.session import QueueStatus, VDISession
from vdi.cli.session.stages import Outcome, Start
from vdi.cluster.objects import Pod


def session_with(
    *true: str, phase: str = "Creating", message: str = "", **status: Any
) -> VDISession:
    """A session in this state, of whose conditions these are true."""
    conditions = [{"type": kind, "status": "True", "reason": "Ok"} for kind in true]
    return a_session(
        generation=0,
        status={"phase": phase, "message": message, "conditions": conditions, **status},
    )


def refused(kind: str, message: str, phase: str = "Pending", reason: str = "Because") -> VDISession:
    session = session_with(phase=phase)
    session.status.conditions = (
        Condition(type=kind, status="False", reason=reason, message=message),
    )
    return session


def untouched() -> VDISession:
    session = session_with()
    session.status = type(session.status)()
    return session


def test_each_stage_is_passed_once_with_its_own_seconds() -> None:
    start = Start(100.0)
    assert start.observe(untouched(), 100.1) == []
    first = start.observe(session_with("TemplateFound"), 100.5)
    second = start.observe(
        session_with("TemplateFound", "Admitted", "HomeBound", nodeName="n1"), 101.5
    )
    third = start.observe(
        session_with("TemplateFound", "Admitted", "HomeBound", "PodReady", nodeName="n1"), 104.0
    )
    last = start.observe(
        session_with(
            "TemplateFound", "Admitted", "HomeBound", "PodReady", phase="Running", nodeName="n1"
        ),
        104.25,
    )
    assert [(p.text, p.seconds) for p in first] == [
        ("the operator is processing it", 0.5),
        ("template ubuntu-desktop found", 0.0),
    ]
    assert [(p.text, p.seconds) for p in second] == [
        ("within the template's limits", 1.0),
        ("capacity on the cluster", 0.0),
        ("home volume bound", 0.0),
        ("pod placed on node n1", 0.0),
    ]
    assert [(p.text, p.seconds) for p in third] == [
        ("image pulled, container started", 2.5),
        ("desktop answers", 0.0),
    ]
    assert [(p.text, p.seconds) for p in last] == [("session Running", 0.25)]
    assert start.outcome is Outcome.RUNNING
    assert 104.25 - start.begun == pytest.approx(sum(p.seconds for p in start.passed))


def queued(position: int, reason: str, message: str = "") -> VDISession:
    session = refused("Admitted", "", reason=reason)
    session.status.queue = QueueStatus(position=position, reason=reason)
    session.status.message = message
    return session


def suspended() -> VDISession:
    session = session_with()
    session.spec.suspended = True
    return session


def deleted() -> VDISession:
    session = session_with()
    session.metadata.deletion_timestamp = "2026-11-20T08:00:00Z"
    return session


NO_REASON = "the session failed, and its status does not contain a reason"
GONE = "the session was deleted while it started"


@pytest.mark.parametrize(
    ("session", "outcome", "reason"),
    [
        (
            refused("TemplateFound", "There is no template."),
            Outcome.FAILED,
            "There is no template.",
        ),
        (refused("Admitted", "Too much.", reason="OverLimit"), Outcome.FAILED, "Too much."),
        (refused("Admitted", "Suspended.", reason="Suspended"), Outcome.FAILED, "Suspended."),
        (queued(0, "TooLarge", "No node can run it."), Outcome.FAILED, "No node can run it."),
        (suspended(), Outcome.FAILED, "it is suspended; resume it"),
        (session_with(phase="Failed", message="Out of memory."), Outcome.FAILED, "Out of memory."),
        (session_with(phase="Failed"), Outcome.FAILED, NO_REASON),
        (None, Outcome.GONE, GONE),
        (deleted(), Outcome.GONE, GONE),
        (session_with(phase="Running"), Outcome.RUNNING, ""),
        # Time, or the end of another session, can change these.
        (queued(2, "GPUsBusy"), None, ""),
        (refused("HomeBound", "Waits for its first consumer."), None, ""),
        (refused("PodReady", "Pulling."), None, ""),
        *(
            (refused("Admitted", "", reason=reason), None, "")
            for reason in ("HomeInUse", "QuotaExceeded", "GPUsBusy", "HomeNodeFull", "NoGPUs")
        ),
    ],
)
def test_a_start_ends_when_nothing_but_an_edit_helps(
    session: VDISession | None, outcome: Outcome | None, reason: str
) -> None:
    start = Start(0.0)
    start.observe(session, 1.0)
    assert (start.outcome, start.reason) == (outcome, reason)
    if outcome:
        assert start.observe(session_with("TemplateFound"), 2.0) == []
        assert start.outcome is outcome


def test_the_initial_phase_does_not_count_as_an_operator() -> None:
    assert Start(0.0).observe(session_with(phase="Pending"), 1.0) == []


def test_a_status_from_before_the_resume_is_ignored() -> None:
    start, session = Start(0.0), session_with(phase="Suspended", observedGeneration=2)
    session.metadata.generation, session.metadata.uid = 3, "u1"
    stopping = a_pod(spec={"nodeName": "n1"}, status=container({"running": {}}, ready=True))
    stopping.metadata.deletion_timestamp = "2026-11-20T08:00:00Z"
    assert start.observe(session, 1.0, stopping) == []
    session.status.observed_generation = 3
    session.status.phase = "Running"
    assert start.observe(session, 2.0)[-1].text == "session Running"


def test_a_desktop_from_a_pool_is_reported() -> None:
    start, session = Start(0.0), session_with(phase="Running")
    session.status.conditions = (
        Condition(type="Admitted", status="True", reason="ClaimedFromPool"),
    )
    assert "a started desktop was taken from the pool" in [
        stage.text for stage in start.observe(session, 1.0)
    ]


def a_pod(**parts: Any) -> Pod:
    """A pod of the session with uid `u1`."""
    owner = {
        "apiVersion": "vdi.kasm.io/v1alpha1",
        "kind": "VDISession",
        "name": "alice-desktop",
        "uid": "u1",
    }
    return msgspec.convert(
        {"metadata": {"name": "alice-desktop", "ownerReferences": [owner]}, **parts}, Pod
    )


def container(state: dict[str, Any], *, ready: bool = False) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {
        "containerStatuses": [{"name": "desktop", "state": state, "ready": ready}],
        "conditions": conditions,
    }


def test_the_pod_is_ahead_of_the_status() -> None:
    start, session = Start(0.0), untouched()
    session.metadata.uid = "u1"
    home = {"volumes": [{"name": "home", "persistentVolumeClaim": {"claimName": "home-alice"}}]}
    first = start.observe(session, 0.5, a_pod(spec=home))
    assert first[0].text == "the operator is processing it"
    assert start.reason == "Looking for a node with capacity."
    placed = start.observe(session, 1.0, a_pod(spec={"nodeName": "n1", **home}))
    assert [p.text for p in placed] == ["home volume bound", "pod placed on node n1"]
    assert start.reason == "Node n1 is preparing the image."
    started = start.observe(
        session, 2.0, a_pod(spec={"nodeName": "n1"}, status=container({"running": {}}))
    )
    assert [(p.text, p.seconds) for p in started] == [("image pulled, container started", 1.0)]
    ready = start.observe(
        session, 5.0, a_pod(spec={"nodeName": "n1"}, status=container({"running": {}}, ready=True))
    )
    assert [(p.text, p.seconds) for p in ready] == [("desktop answers", 3.0)]
    assert start.outcome is None


def test_a_stuck_pod_shows_the_operator_s_message() -> None:
    start = Start(0.0)
    session = session_with(message="The image x cannot be pulled: the registry has no such image.")
    session.metadata.uid = "u1"
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}
    start.observe(session, 1.0, a_pod(spec={"nodeName": "n1"}, status=container(waiting)))
    assert start.reason == "The image x cannot be pulled: the registry has no such image."


def test_a_pod_of_another_owner_is_ignored() -> None:
    start, session = Start(0.0), untouched()
    session.metadata.uid = "u2"
    assert start.observe(session, 1.0, a_pod(spec={"nodeName": "n1"})) == []


def test_no_home_is_a_stage_too() -> None:
    start, session = Start(0.0), untouched()
    session.metadata.uid = "u1"
    texts = [p.text for p in start.observe(session, 1.0, a_pod(spec={"nodeName": "n1"}))]
    assert "no home volume requested" in texts


def test_the_url_is_the_last_stage() -> None:
    start = Start(0.0)
    start.observe(session_with(phase="Running"), 2.0)
    assert start.answered("https://a.example.com answers", 3.5).seconds == 1.5
