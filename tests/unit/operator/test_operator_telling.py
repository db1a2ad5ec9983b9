"""What the operator says: status patches, Events, log lines, metrics."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from prometheus_client import generate_latest

from support.builders import a_session
from support.clock import FakeClock
from support.hostile import HOSTILE, leaves, sample, text_at
from vdi.api.session import SessionStatus, VDISession
from vdi.kube.meta import ObjectReference
from vdi.kube.queue import Controller
from vdi.operator.metrics import Metrics
from vdi.operator.reservations import Reservations
from vdi.operator.status import PROGRESS_PAUSE, START_PAUSE, SessionEvents, StatusWriter, difference
from vdi.printable import is_printable
from vdi.process import JsonFormatter, KeyValueFormatter, log_about, log_session

NOW = datetime(2026, 11, 20, 8, 0, 7, tzinfo=UTC)


def session_with(*, generation: Any = 1, **status: Any) -> VDISession:
    """A session that has this status."""
    return a_session("a", namespace="n", generation=generation, status=status)


def a_condition(kind: str, status: str, reason: str, message: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


class Heard:
    """In the place of the EventRecorder."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    def emit(self, _subject: ObjectReference, kind: str, reason: str, note: str, _action: str) -> None:
        self.events.append((kind, reason, note))


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def session_events(heard: Heard, metrics: Metrics) -> SessionEvents:
    return SessionEvents(heard, metrics)  # type: ignore[arg-type]


RUNS = {
    "phase": "Running",
    "startTime": "2026-11-20T08:00:01Z",
    "readyTime": "2026-11-20T08:00:06Z",
    "url": "https://a",
}


def test_first_readiness_is_announced_and_measured_once(
    session_events: SessionEvents, heard: Heard, metrics: Metrics
) -> None:
    creating = session_with(phase="Creating", startTime="2026-11-20T08:00:01Z")
    session_events.announce(creating, session_with(**RUNS), NOW)
    session_events.announce(session_with(**RUNS), session_with(**RUNS, nodeName="node-1"), NOW)
    assert heard.events == [("Normal", "Ready", "The desktop is ready after 7 s: https://a")]
    assert b"session_startup_seconds_sum 7.0" in generate_latest(metrics.registry)


def test_later_run_is_measured_from_its_pod(session_events: SessionEvents, heard: Heard) -> None:
    again = RUNS | {"startTime": "2026-11-20T08:00:04Z", "readyTime": "2026-11-20T08:00:07Z"}
    waiting = session_with(phase="Creating", startTime="2026-11-20T08:00:01Z", readyTime="2026-11-20T08:00:06Z")
    session_events.announce(waiting, session_with(generation=3, **again), NOW)
    assert heard.events == [("Normal", "Ready", "The desktop is ready after 3 s: https://a")]


def test_refusal_is_announced_when_its_reason_changes(session_events: SessionEvents, heard: Heard) -> None:
    in_use = session_with(phase="Pending", conditions=[a_condition("Admitted", "False", "HomeInUse", "In use.")])
    over = session_with(phase="Failed", conditions=[a_condition("Admitted", "False", "OverLimit", "Too much.")])
    session_events.announce(session_with(), in_use, NOW)
    session_events.announce(in_use, in_use, NOW)
    session_events.announce(in_use, over, NOW)
    assert heard.events == [("Warning", "HomeInUse", "In use."), ("Warning", "OverLimit", "Too much.")]


def test_failed_pod_and_end_of_time_are_announced(session_events: SessionEvents, heard: Heard) -> None:
    conditions = [a_condition("Admitted", "True", "Admitted"), a_condition("PodReady", "False", "Evicted")]
    session_events.announce(
        session_with(), session_with(phase="Failed", message="Evicted.", conditions=conditions), NOW
    )
    over = session_with(phase="Terminating", message="Over.", conditions=[a_condition("Ready", "False", "TimedOut")])
    session_events.announce(session_with(phase="Running"), over, NOW)
    session_events.announce(over, over, NOW)
    assert heard.events == [("Warning", "Evicted", "Evicted."), ("Normal", "TimedOut", "Over.")]


def test_difference_has_what_changed_and_removes_what_became_empty() -> None:
    before = SessionStatus(phase="Creating", message="Looking.", url="https://a")
    now = SessionStatus(phase="Running", url="https://a")
    assert difference(before, now) == {"phase": "Running", "message": None}


def test_nested_difference_has_what_changed_only() -> None:
    before, now = (
        session_with(failures={"count": 1, "reason": "A", "time": "t"}),
        session_with(failures={"reason": "A"}),
    )
    assert difference(before.status, now.status) == {"failures": {"count": None, "time": None}}


def test_loss_warning_and_suspension_are_announced_once(session_events: SessionEvents, heard: Heard) -> None:
    lost = session_with(phase="Pending", message="Crashed.", failures={"count": 1, "reason": "CrashLoop", "time": "t"})
    for _ in range(2):
        session_events.announce(session_with(phase="Running"), lost, NOW)
        session_events.announce(lost, lost, NOW)
    warned = session_with(phase="Running", conditions=[a_condition("Expiring", "True", "ExpiringSoon", "Soon.")])
    session_events.announce(session_with(phase="Running"), warned, NOW)
    session_events.announce(warned, warned, NOW)
    suspended = [a_condition("Admitted", "False", "Suspended"), a_condition("Ready", "False", "Suspended")]
    rests = session_with(phase="Suspended", message="It rests.", conditions=suspended)
    session_events.announce(warned, rests, NOW)
    session_events.announce(rests, rests, NOW)
    assert heard.events == [
        ("Warning", "CrashLoop", "Crashed."),
        ("Warning", "CrashLoop", "Crashed."),
        ("Warning", "ExpiringSoon", "Soon."),
        ("Normal", "Suspended", "It rests."),
    ]


class PatchingClient:
    """In the place of the Client: answers with the session as it would be."""

    def __init__(self) -> None:
        self.patches: list[dict[str, Any]] = []

    async def patch(self, _kind: object, _name: str, patch: dict[str, Any], **_where: Any) -> VDISession:
        self.patches.append(patch)
        return session_with(**{name: value for name, value in patch["status"].items() if value is not None})


class Remembering:
    def remember(self, _session: VDISession) -> None: ...


@pytest.fixture
def client() -> PatchingClient:
    return PatchingClient()


@pytest.fixture
def clock() -> FakeClock:
    clock = FakeClock(NOW)
    clock.seconds = 0.0
    return clock


@pytest.fixture
def writer(client: PatchingClient, clock: FakeClock) -> StatusWriter:
    return StatusWriter(client, Remembering(), clock)  # type: ignore[arg-type]


async def test_progress_waits_and_news_does_not(writer: StatusWriter, client: PatchingClient, clock: FakeClock) -> None:
    session, due = await writer.write(session_with(), SessionStatus(phase="Failed", message="one"))
    assert due is None
    unchanged, due = await writer.write(session, SessionStatus(phase="Failed", message="two"))
    assert (unchanged is session, due) == (True, PROGRESS_PAUSE)
    clock.seconds = 2.0
    session, due = await writer.write(session, SessionStatus(phase="Running"))
    assert (session.status.phase, due) == ("Running", None)
    session, due = await writer.write(session, SessionStatus(phase="Running"))
    assert due is None
    clock.seconds = 5.0
    session, _ = await writer.write(session, SessionStatus(phase="Running", message="note"))
    assert session.status.message == "note"
    assert [patch["metadata"] for patch in client.patches] == [{"uid": "uid-a"}] * 3


async def test_hostile_text_in_a_status_is_escaped_and_written_once(
    writer: StatusWriter, client: PatchingClient, clock: FakeClock
) -> None:
    """kubelet repeats what an image is called and what a desktop's program says when it ends."""
    desired = msgspec.convert(sample(SessionStatus, HOSTILE) | {"phase": "Failed"}, SessionStatus)
    session, _ = await writer.write(session_with(), desired)
    status = client.patches[0]["status"]
    assert [path for path in leaves(status) if not is_printable(text_at(status, path), "\n")] == []
    assert "\\u001b]0;title" in status["message"]
    clock.seconds = 60.0
    assert await writer.write(session, desired) == (session, None)
    assert len(client.patches) == 1


async def test_quick_start_is_one_status(writer: StatusWriter, client: PatchingClient, clock: FakeClock) -> None:
    session, due = await writer.write(session_with(phase="Pending"), SessionStatus(phase="Creating", message="one"))
    assert due == START_PAUSE
    clock.seconds = START_PAUSE - 0.1
    session, _ = await writer.write(session, SessionStatus(phase="Running"))
    assert [patch["status"]["phase"] for patch in client.patches] == ["Running"]


async def test_slow_start_is_reported_when_it_has_become_slow(
    writer: StatusWriter, client: PatchingClient, clock: FakeClock
) -> None:
    session, _ = await writer.write(session_with(phase="Pending"), SessionStatus(phase="Creating", message="one"))
    clock.seconds = 1.0
    session, due = await writer.write(session, SessionStatus(phase="Creating", message="two"))
    assert due == pytest.approx(START_PAUSE - 1.0)
    clock.seconds = START_PAUSE
    session, _ = await writer.write(session, SessionStatus(phase="Creating", message="two"))
    assert session.status.message == "two"


@pytest.mark.parametrize(("others", "due"), [(10, START_PAUSE), (100, 5.0), (200, 10.0), (1000, 15.0)])
async def test_in_a_crowd_a_start_goes_unsaid_for_longer_until_its_turn_has_come(
    writer: StatusWriter, clock: FakeClock, others: int, due: float
) -> None:
    crowd = []
    for number in range(others):
        one = session_with(phase="Pending")
        crowd.append(msgspec.structs.replace(one, metadata=msgspec.structs.replace(one.metadata, uid=f"uid-{number}")))
        await writer.write(crowd[-1], SessionStatus(phase="Creating"))
    _, wait = await writer.write(session_with(phase="Pending"), SessionStatus(phase="Creating"))
    assert wait == pytest.approx(due)
    for one in crowd:
        await writer.write(one, SessionStatus(phase="Running"))
    clock.seconds = 1.0
    _, wait = await writer.write(session_with(phase="Pending"), SessionStatus(phase="Creating"))
    assert wait == pytest.approx(due - 1.0)


async def test_status_that_the_next_step_needs_is_written_at_once(writer: StatusWriter) -> None:
    session, due = await writer.write(session_with(phase="Pending"), SessionStatus(phase="Creating"), at_once=True)
    assert (session.status.phase, due) == ("Creating", None)


async def test_activity_alone_is_no_reason_to_write(writer: StatusWriter, client: PatchingClient) -> None:
    runs = {"phase": "Running", "lastActivityTime": "2026-11-20T08:00:00Z"}
    later = SessionStatus(phase="Running", last_activity_time="2026-11-20T08:05:00Z")
    _, due = await writer.write(session_with(**runs), later)
    assert (due, client.patches) == (None, [])
    later = msgspec.structs.replace(later, phase="Suspended")
    session, _ = await writer.write(session_with(**runs), later)
    assert session.status.last_activity_time == "2026-11-20T08:05:00Z"


async def test_warning_is_reported_when_it_begins_and_when_it_ends(
    writer: StatusWriter, client: PatchingClient
) -> None:
    warned = session_with(phase="Running", conditions=[a_condition("Idle", "True", "Idle", "Nobody.")]).status
    session, _ = await writer.write(session_with(phase="Running"), warned)
    session, _ = await writer.write(session, SessionStatus(phase="Running"))
    assert len(client.patches) == 2


def test_only_one_session_can_reserve_a_thing_until_it_is_released() -> None:
    reservations = Reservations()
    assert reservations.reserve("home", "a")
    assert reservations.reserve("home", "a")
    assert not reservations.reserve("home", "b")
    assert reservations.holder("home") == "a"
    reservations.release("b")
    assert reservations.holder("home") == "a"
    reservations.release("a")
    assert reservations.reserve("home", "b")


def test_log_line_names_the_session_it_is_about() -> None:
    record = logging.LogRecord("vdi", logging.WARNING, "f", 1, 'said "%s"', ("no",), None)
    with log_session(("desks", "alice")):
        line = KeyValueFormatter().format(record)
    assert line.endswith(' level=warning logger=vdi session=desks/alice msg="said \\"no\\""')
    assert "session=" not in KeyValueFormatter().format(record)
    with log_about("pool", "gpu"):
        line = JsonFormatter().format(record)
    fields = json.loads(line)
    assert fields.pop("time").endswith("Z")
    assert fields == {"level": "warning", "logger": "vdi", "pool": "gpu", "msg": 'said "no"'}


def test_json_log_line_keeps_a_traceback_on_its_one_line() -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        record = logging.LogRecord("vdi", logging.ERROR, "f", 1, "failed", (), sys.exc_info())
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert "ValueError: first\nsecond" in json.loads(line)["error"]


@pytest.mark.parametrize("formatter", [KeyValueFormatter(), JsonFormatter()])
def test_hostile_text_is_no_line_of_the_log_and_acts_on_no_terminal(formatter: logging.Formatter) -> None:
    forged = f"{HOSTILE}\ntime=2026-11-20T08:00:00.000Z level=info msg=forged"
    try:
        raise ValueError(forged)
    except ValueError:
        record = logging.LogRecord("vdi", logging.ERROR, "f", 1, "failed: %s", (forged,), sys.exc_info())
    with log_session(("desks", HOSTILE)):
        text = formatter.format(record)
    assert is_printable(text, "\n")
    first, *others = text.split("\n")
    assert "failed: " in first
    assert all(line.startswith("  ") for line in others)


def test_sessions_are_counted_by_phase(metrics: Metrics) -> None:
    metrics.watch_sessions(lambda: [session_with(phase="Running"), session_with(), session_with(phase="Running")])
    text = generate_latest(metrics.registry).decode()
    assert 'vdi_sessions{phase="Running"} 2.0' in text
    assert 'vdi_sessions{phase="Pending"} 1.0' in text
    assert 'vdi_sessions{phase="Failed"} 0.0' in text
    assert 'vdi_sessions{phase="Suspended"} 0.0' in text


def test_sessions_are_counted_by_what_draws_and_what_encodes(metrics: Metrics) -> None:
    zink = {"renderer": "Zink", "encoder": "nvenc", "hardwareEncoder": True}
    software = {"renderer": "Software", "encoder": "x264", "reason": "NoGPU"}
    seen = [session_with(phase="Running", graphics=graphics) for graphics in (zink, software, software)]
    metrics.watch_sessions(lambda: [*seen, session_with(phase="Running")])

    text = generate_latest(metrics.registry).decode()

    assert 'vdi_session_graphics{encoder="gpu",renderer="gpu"} 1.0' in text
    assert 'vdi_session_graphics{encoder="software",renderer="software"} 2.0' in text
    assert 'vdi_session_graphics{encoder="software",renderer="gpu"} 0.0' in text


def test_those_who_wait_for_room_are_counted_as_they_are_when_asked(metrics: Metrics) -> None:
    waits = [3.0, 61.5]
    metrics.watch_waiting(lambda *, gpu=False: waits[1:] if gpu else waits)
    metrics.queue_wait.observe(70)
    text = generate_latest(metrics.registry).decode()
    assert "vdi_waiting_sessions 2.0" in text
    assert "vdi_waiting_gpu_sessions 1.0" in text
    assert "vdi_longest_wait_seconds 61.5" in text
    assert 'vdi_queue_wait_seconds_bucket{le="60.0"} 0.0' in text
    waits.clear()
    text = generate_latest(metrics.registry).decode()
    assert "vdi_waiting_sessions 0.0" in text
    assert "vdi_waiting_gpu_sessions 0.0" in text
    assert "vdi_longest_wait_seconds 0.0" in text


async def test_every_controller_shows_its_queue_and_outcomes_before_it_has_worked(metrics: Metrics) -> None:
    pools: Controller[str] = Controller("pool")
    pools.enqueue("a")
    metrics.watch_queues([pools])
    metrics.count_reconcile("pool", "retry", 0.2)
    text = generate_latest(metrics.registry).decode()
    assert 'vdi_workqueue_depth{controller="pool"} 1.0' in text
    assert 'vdi_reconciles_total{controller="pool",outcome="done"} 0.0' in text
    assert 'vdi_reconciles_total{controller="pool",outcome="retry"} 1.0' in text
    assert 'vdi_reconcile_seconds_count{controller="pool"} 1.0' in text
