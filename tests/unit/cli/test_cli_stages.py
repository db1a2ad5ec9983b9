"""`create --wait` as a state machine: which stages are passed when, and how a start ends."""

from typing import Any

import msgspec
import pytest

from support.builders import a_session
from vdi.api.meta import Condition
from vdi.api.session import QueueStatus, VDISession
from vdi.cli.session.stages import Outcome, Start
from vdi.cluster.objects import Pod


def session_with(*true: str, phase: str = "Creating", message: str = "", **status: Any) -> VDISession:
    """A session in this state, of whose conditions these are true."""
    conditions = [{"type": kind, "status": "True", "reason": "Ok"} for kind in true]
    return a_session(generation=0, status={"phase": phase, "message": message, "conditions": conditions, **status})


def refused(kind: str, message: str, phase: str = "Pending", reason: str = "Because") -> VDISession:
    session = session_with(phase=phase)
    session.status.conditions = (Condition(type=kind, status="False", reason=reason, message=message),)
    return session


def untouched() -> VDISession:
    session = session_with()
    session.status = type(session.status)()
    return session


def test_a_start_passes_each_stage_once_with_its_own_seconds() -> None:
    start = Start(100.0)
    assert start.observe(untouched(), 100.1) == []
    first = start.observe(session_with("TemplateFound"), 100.5)
    second = start.observe(session_with("TemplateFound", "Admitted", "HomeBound", nodeName="n1"), 101.5)
    third = start.observe(session_with("TemplateFound", "Admitted", "HomeBound", "PodReady", nodeName="n1"), 104.0)
    last = start.observe(
        session_with("TemplateFound", "Admitted", "HomeBound", "PodReady", phase="Running", nodeName="n1"), 104.25
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


@pytest.mark.parametrize("kind", ["TemplateFound", "Admitted"])
def test_what_only_an_edit_can_fix_ends_the_wait_with_its_sentence(kind: str) -> None:
    start = Start(0.0)
    start.observe(refused(kind, "There is no template 'x'."), 1.0)
    assert (start.outcome, start.reason) == (Outcome.FAILED, "There is no template 'x'.")


@pytest.mark.parametrize("kind", ["HomeBound", "PodReady", "RouteReady"])
def test_what_time_can_fix_does_not_end_the_wait(kind: str) -> None:
    start = Start(0.0)
    start.observe(refused(kind, "Waits for its first consumer."), 1.0)
    assert start.outcome is None


@pytest.mark.parametrize("reason", ["HomeInUse", "QuotaExceeded", "GPUsBusy", "HomeNodeFull", "NoGPUs"])
def test_what_another_session_s_end_can_fix_does_not_end_the_wait(reason: str) -> None:
    start = Start(0.0)
    start.observe(refused("Admitted", "The home is in use.", reason=reason), 1.0)
    assert start.outcome is None


@pytest.mark.parametrize("reason", ["OverLimit", "Suspended"])
def test_what_no_end_of_another_session_can_fix_ends_the_wait_too(reason: str) -> None:
    start = Start(0.0)
    start.observe(refused("Admitted", "No node has 3 GPUs.", reason=reason), 1.0)
    assert (start.outcome, start.reason) == (Outcome.FAILED, "No node has 3 GPUs.")


def test_a_wait_for_room_that_no_one_can_make_ends() -> None:
    start = Start(0.0)
    busy, large = (refused("Admitted", "", reason=reason) for reason in ("GPUsBusy", "TooLarge"))
    busy.status.queue = QueueStatus(position=2, reason="GPUsBusy")
    start.observe(busy, 1.0)
    while_busy = start.outcome
    large.status.queue = QueueStatus(reason="TooLarge")
    large.status.message = "There is no room, and none to wait for."
    start.observe(large, 2.0)
    assert (while_busy, start.outcome) == (None, Outcome.FAILED)
    assert start.reason == "There is no room, and none to wait for."


def test_the_phase_that_a_new_session_shows_is_no_operator() -> None:
    start = Start(0.0)
    assert start.observe(session_with(phase="Pending"), 1.0) == []


def test_a_status_of_before_the_resumption_is_not_believed() -> None:
    start, session = Start(0.0), session_with(phase="Suspended", observedGeneration=2)
    session.metadata.generation, session.metadata.uid = 3, "u1"
    stopping = a_pod(spec={"nodeName": "n1"}, status=container({"running": {}}, ready=True))
    stopping.metadata.deletion_timestamp = "2026-11-20T08:00:00Z"
    assert start.observe(session, 1.0, stopping) == []
    session.status.observed_generation = 3
    session.status.phase = "Running"
    assert start.observe(session, 2.0)[-1].text == "session Running"


def test_a_session_that_somebody_suspends_ends_the_wait() -> None:
    start, session = Start(0.0), session_with()
    session.spec.suspended = True
    start.observe(session, 1.0)
    assert (start.outcome, start.reason) == (Outcome.FAILED, "it is suspended; resume it")


def test_a_desktop_from_a_pool_is_said() -> None:
    start, session = Start(0.0), session_with(phase="Running")
    session.status.conditions = (Condition(type="Admitted", status="True", reason="ClaimedFromPool"),)
    assert "a started desktop was taken from the pool" in [stage.text for stage in start.observe(session, 1.0)]


def a_pod(**parts: Any) -> Pod:
    """A pod of the session with uid `u1`."""
    owner = {"apiVersion": "vdi.kasm.io/v1alpha1", "kind": "VDISession", "name": "alice-desktop", "uid": "u1"}
    return msgspec.convert({"metadata": {"name": "alice-desktop", "ownerReferences": [owner]}, **parts}, Pod)


def container(state: dict[str, Any], *, ready: bool = False) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {"containerStatuses": [{"name": "desktop", "state": state, "ready": ready}], "conditions": conditions}


def test_the_pod_is_believed_before_the_status_which_is_written_later() -> None:
    start, session = Start(0.0), untouched()
    session.metadata.uid = "u1"
    home = {"volumes": [{"name": "home", "persistentVolumeClaim": {"claimName": "home-alice"}}]}
    first = start.observe(session, 0.5, a_pod(spec=home))
    assert first[0].text == "the operator is processing it"
    assert start.reason == "Looking for a node with capacity."
    placed = start.observe(session, 1.0, a_pod(spec={"nodeName": "n1", **home}))
    assert [p.text for p in placed] == ["home volume bound", "pod placed on node n1"]
    assert start.reason == "Node n1 is preparing the image."
    started = start.observe(session, 2.0, a_pod(spec={"nodeName": "n1"}, status=container({"running": {}})))
    assert [(p.text, p.seconds) for p in started] == [("image pulled, container started", 1.0)]
    ready = start.observe(session, 5.0, a_pod(spec={"nodeName": "n1"}, status=container({"running": {}}, ready=True)))
    assert [(p.text, p.seconds) for p in ready] == [("desktop answers", 3.0)]
    assert start.outcome is None


def test_the_operator_s_sentence_is_kept_where_the_pod_is_stuck() -> None:
    start, session = Start(0.0), session_with(message="The image x cannot be pulled: the registry has no such image.")
    session.metadata.uid = "u1"
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}
    start.observe(session, 1.0, a_pod(spec={"nodeName": "n1"}, status=container(waiting)))
    assert start.reason == "The image x cannot be pulled: the registry has no such image."


def test_another_s_pod_of_the_same_name_is_not_believed() -> None:
    start, session = Start(0.0), untouched()
    session.metadata.uid = "u2"
    assert start.observe(session, 1.0, a_pod(spec={"nodeName": "n1"})) == []


def test_no_home_is_a_stage_too() -> None:
    start, session = Start(0.0), untouched()
    session.metadata.uid = "u1"
    texts = [p.text for p in start.observe(session, 1.0, a_pod(spec={"nodeName": "n1"}))]
    assert "no home volume requested" in texts


@pytest.mark.parametrize("message", ["The desktop ran out of memory.", ""])
def test_a_failed_session_ends_the_wait_and_always_says_something(message: str) -> None:
    start = Start(0.0)
    start.observe(session_with(phase="Failed", message=message), 1.0)
    assert start.outcome is Outcome.FAILED
    assert start.reason == (message or "the session failed, and its status does not contain a reason")


def test_a_session_that_vanishes_is_gone_not_failed() -> None:
    start = Start(0.0)
    start.observe(None, 1.0)
    assert start.outcome is Outcome.GONE


def test_a_session_that_is_being_deleted_is_gone() -> None:
    start, session = Start(0.0), session_with()
    session.metadata.deletion_timestamp = "2026-11-20T08:00:00Z"
    start.observe(session, 1.0)
    assert start.outcome is Outcome.GONE


def test_after_the_end_nothing_changes() -> None:
    start = Start(0.0)
    start.observe(session_with(phase="Running"), 1.0)
    assert start.observe(None, 2.0) == []
    assert start.outcome is Outcome.RUNNING


def test_the_url_is_the_last_stage() -> None:
    start = Start(0.0)
    start.observe(session_with(phase="Running"), 2.0)
    assert start.answered("https://a.example.com answers", 3.5).seconds == 1.5
