"""Reports of the operator: status patches, Events, log lines, metrics."""

import json
import logging
import sys
from contextvars import copy_context
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from support.builders import a_session
from support.clock import FakeClock
from support.hostile import HOSTILE, leaves, sample, text_at
from vdi.api.session import SessionStatus, VDISession
from vdi.kube.events import EventRecorder
from vdi.kube.queue import Controller
from vdi.operator.metrics import Metrics
from vdi.operator.reservations import Reservations
from vdi.operator.status import PROGRESS_PAUSE, START_PAUSE, SessionEvents, StatusWriter, difference
from vdi.printable import is_printable
from vdi.process import JsonFormatter, KeyValueFormatter, set_log_subject

NOW = datetime(2026, 11, 20, 8, 0, 7, tzinfo=UTC)


def session_with(*, generation: Any = 1, **status: Any) -> VDISession:
    """A session that has this status."""
    return a_session("a", namespace="n", generation=generation, status=status)


def a_condition(kind: str, status: str, reason: str, message: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def out_of_memory(message: str) -> dict[str, Any]:
    return {
        "phase": "Running",
        "conditions": [a_condition("OutOfMemory", "True", "DesktopKilled", message)],
    }


OUT_OF_MEMORY = out_of_memory("At 08:00.")
RUNS = {
    "phase": "Running",
    "startTime": "2026-11-20T08:00:01Z",
    "readyTime": "2026-11-20T08:00:06Z",
    "url": "https://a",
}
FIRST_RUN = {"phase": "Creating", "startTime": "2026-11-20T08:00:01Z"}
LATER_RUN = {"startTime": "2026-11-20T08:00:04Z", "readyTime": "2026-11-20T08:00:07Z"}
HOME_IN_USE = {
    "phase": "Pending",
    "conditions": [a_condition("Admitted", "False", "HomeInUse", "In use.")],
}
OVER_LIMIT = {
    "phase": "Failed",
    "conditions": [a_condition("Admitted", "False", "OverLimit", "Too much.")],
}
EVICTED = {
    "phase": "Failed",
    "message": "Evicted.",
    "conditions": [
        a_condition("Admitted", "True", "Admitted"),
        a_condition("PodReady", "False", "Evicted"),
    ],
}
TIMED_OUT = {
    "phase": "Terminating",
    "message": "Over.",
    "conditions": [a_condition("Ready", "False", "TimedOut")],
}
CRASHED = {
    "phase": "Pending",
    "message": "Crashed.",
    "failures": {"count": 1, "reason": "CrashLoop", "time": "t"},
}
EXPIRING = {
    "phase": "Running",
    "conditions": [a_condition("Expiring", "True", "ExpiringSoon", "Soon.")],
}
SIZE_WAITS = {
    "phase": "Running",
    "conditions": [a_condition("ResizePending", "True", "InUse", "Waits.")],
}
SUSPENDED = {
    "phase": "Suspended",
    "message": "Suspended.",
    "conditions": [
        a_condition("Admitted", "False", "Suspended"),
        a_condition("Ready", "False", "Suspended"),
    ],
}


FIRST_RUN_READY = ("Normal", "Ready", "The desktop is ready after 7 s: https://a")
LATER_RUN_READY = ("Normal", "Ready", "The desktop is ready after 3 s: https://a")


@pytest.mark.parametrize(
    ("before", "after", "event"),
    [
        (FIRST_RUN, RUNS, FIRST_RUN_READY),
        (
            {**FIRST_RUN, "readyTime": RUNS["readyTime"]},
            RUNS | LATER_RUN | {"generation": 3},
            LATER_RUN_READY,
        ),
        ({}, HOME_IN_USE, ("Warning", "HomeInUse", "In use.")),
        (HOME_IN_USE, OVER_LIMIT, ("Warning", "OverLimit", "Too much.")),
        ({}, EVICTED, ("Warning", "Evicted", "Evicted.")),
        ({"phase": "Running"}, TIMED_OUT, ("Normal", "TimedOut", "Over.")),
        ({"phase": "Running"}, CRASHED, ("Warning", "CrashLoop", "Crashed.")),
        ({"phase": "Running"}, EXPIRING, ("Warning", "ExpiringSoon", "Soon.")),
        ({"phase": "Running"}, OUT_OF_MEMORY, ("Warning", "DesktopKilled", "At 08:00.")),
        (OUT_OF_MEMORY, out_of_memory("At 09:00."), ("Warning", "DesktopKilled", "At 09:00.")),
        (
            SIZE_WAITS,
            {"phase": "Running"},
            ("Normal", "Resized", "The desktop has the size of its spec now."),
        ),
        (EXPIRING, SUSPENDED, ("Normal", "Suspended", "Suspended.")),
    ],
)
def test_change_of_a_status_is_announced_once(
    before: dict[str, Any], after: dict[str, Any], event: tuple[str, str, str]
) -> None:
    announced: list[tuple[str, str, str]] = []
    metrics = Metrics()
    recorder = SimpleNamespace(
        emit=lambda _subject, kind, reason, note, _action: announced.append((kind, reason, note))
    )
    session_events = SessionEvents(cast(EventRecorder, recorder), metrics)
    session_events.announce(session_with(**before), session_with(**after), NOW)
    session_events.announce(session_with(**after), session_with(**after, nodeName="node-1"), NOW)
    assert announced == [event]
    seconds = metrics.registry.get_sample_value("session_startup_seconds_sum")
    assert seconds == {FIRST_RUN_READY: 7.0, LATER_RUN_READY: 3.0}.get(event, 0.0)


@pytest.mark.parametrize(
    "after",
    [
        {"phase": "Running", "observedGeneration": 2},
        {"phase": "Creating"},
        {
            "phase": "Running",
            "conditions": [a_condition("ResizePending", "True", "Deferred", "Waits.")],
        },
    ],
    ids=["another spec", "another pod", "still waits"],
)
def test_size_that_is_not_applied_is_not_announced(after: dict[str, Any]) -> None:
    announced: list[str] = []
    recorder = SimpleNamespace(emit=lambda _subject, _kind, reason, *_: announced.append(reason))
    session_events = SessionEvents(cast(EventRecorder, recorder), Metrics())
    session_events.announce(session_with(**SIZE_WAITS), session_with(**after), NOW)
    assert announced == []


def test_difference_has_only_changes_and_nulls_for_removals() -> None:
    before = SessionStatus(phase="Creating", message="Looking.", url="https://a")
    assert difference(before, SessionStatus(phase="Running", url="https://a")) == {
        "phase": "Running",
        "message": None,
    }
    failed = session_with(failures={"count": 1, "reason": "A", "time": "t"})
    assert difference(failed.status, session_with(failures={"reason": "A"}).status) == {
        "failures": {"count": None, "time": None}
    }


class WriterWorld:
    """A StatusWriter, and the client that it writes with: this answers with the session as it would
    be.
    """

    def __init__(self) -> None:
        self.patches: list[dict[str, Any]] = []
        self.clock = FakeClock(NOW)
        self.clock.seconds = 0.0
        self.write = StatusWriter(self, SimpleNamespace(remember=lambda _: None), self.clock).write  # type: ignore[arg-type]

    async def patch(
        self, _kind: object, _name: str, patch: dict[str, Any], **_where: Any
    ) -> VDISession:
        self.patches.append(patch)
        return session_with(
            **{name: value for name, value in patch["status"].items() if value is not None}
        )


@pytest.fixture
def world() -> WriterWorld:
    return WriterWorld()


async def test_progress_is_throttled_and_a_new_phase_is_not(world: WriterWorld) -> None:
    session, due = await world.write(session_with(), SessionStatus(phase="Failed", message="one"))
    assert due is None
    unchanged, due = await world.write(session, SessionStatus(phase="Failed", message="two"))
    assert (unchanged is session, due) == (True, PROGRESS_PAUSE)
    world.clock.seconds = 2.0
    session, due = await world.write(session, SessionStatus(phase="Running"))
    assert (session.status.phase, due) == ("Running", None)
    session, due = await world.write(session, SessionStatus(phase="Running"))
    assert due is None
    world.clock.seconds = 5.0
    session, _ = await world.write(session, SessionStatus(phase="Running", message="note"))
    assert session.status.message == "note"
    assert [patch["metadata"] for patch in world.patches] == [{"uid": "uid-a"}] * 3


async def test_hostile_text_in_a_status_is_escaped_and_written_once(world: WriterWorld) -> None:
    """kubelet repeats what an image is called and what a desktop's program says when it ends."""
    desired = msgspec.convert(sample(SessionStatus, HOSTILE) | {"phase": "Failed"}, SessionStatus)
    session, _ = await world.write(session_with(), desired)
    status = world.patches[0]["status"]
    assert [path for path in leaves(status) if not is_printable(text_at(status, path), "\n")] == []
    assert "\\u001b]0;title" in status["message"]
    world.clock.seconds = 60.0
    assert await world.write(session, desired) == (session, None)
    assert len(world.patches) == 1


async def test_quick_start_is_one_status(world: WriterWorld) -> None:
    session, due = await world.write(
        session_with(phase="Pending"), SessionStatus(phase="Creating", message="one")
    )
    assert due == START_PAUSE
    world.clock.seconds = START_PAUSE - 0.1
    session, _ = await world.write(session, SessionStatus(phase="Running"))
    assert [patch["status"]["phase"] for patch in world.patches] == ["Running"]


async def test_slow_start_is_reported_when_it_has_become_slow(world: WriterWorld) -> None:
    session, _ = await world.write(
        session_with(phase="Pending"), SessionStatus(phase="Creating", message="one")
    )
    world.clock.seconds = 1.0
    session, due = await world.write(session, SessionStatus(phase="Creating", message="two"))
    assert due == pytest.approx(START_PAUSE - 1.0)
    world.clock.seconds = START_PAUSE
    session, _ = await world.write(session, SessionStatus(phase="Creating", message="two"))
    assert session.status.message == "two"


@pytest.mark.parametrize(
    ("others", "due"), [(10, START_PAUSE), (100, 5.0), (200, 10.0), (1000, 15.0)]
)
async def test_many_starts_delay_the_status_of_the_last(
    world: WriterWorld, others: int, due: float
) -> None:
    crowd = []
    for number in range(others):
        one = session_with(phase="Pending")
        crowd.append(
            msgspec.structs.replace(
                one, metadata=msgspec.structs.replace(one.metadata, uid=f"uid-{number}")
            )
        )
        await world.write(crowd[-1], SessionStatus(phase="Creating"))
    _, wait = await world.write(session_with(phase="Pending"), SessionStatus(phase="Creating"))
    assert wait == pytest.approx(due)
    for one in crowd:
        await world.write(one, SessionStatus(phase="Running"))
    world.clock.seconds = 1.0
    _, wait = await world.write(session_with(phase="Pending"), SessionStatus(phase="Creating"))
    assert wait == pytest.approx(due - 1.0)


async def test_status_needed_by_the_next_step_is_written_at_once(world: WriterWorld) -> None:
    session, due = await world.write(
        session_with(phase="Pending"), SessionStatus(phase="Creating"), at_once=True
    )
    assert (session.status.phase, due) == ("Creating", None)


async def test_activity_alone_is_not_written(world: WriterWorld) -> None:
    runs = {"phase": "Running", "lastActivityTime": "2026-11-20T08:00:00Z"}
    later = SessionStatus(phase="Running", last_activity_time="2026-11-20T08:05:00Z")
    _, due = await world.write(session_with(**runs), later)
    assert (due, world.patches) == (None, [])
    later = msgspec.structs.replace(later, phase="Suspended")
    session, _ = await world.write(session_with(**runs), later)
    assert session.status.last_activity_time == "2026-11-20T08:05:00Z"


async def test_first_activity_is_written(world: WriterWorld) -> None:
    first = SessionStatus(phase="Running", last_activity_time="2026-11-20T08:00:00Z")
    session, _ = await world.write(session_with(phase="Running"), first)
    assert session.status.last_activity_time == "2026-11-20T08:00:00Z"


async def test_warning_is_reported_when_it_begins_and_when_it_ends(world: WriterWorld) -> None:
    warned = session_with(
        phase="Running", conditions=[a_condition("Idle", "True", "Idle", "Nobody.")]
    ).status
    session, _ = await world.write(session_with(phase="Running"), warned)
    session, _ = await world.write(session, SessionStatus(phase="Running"))
    assert len(world.patches) == 2


def test_reservation_is_one_sessions_until_released() -> None:
    reservations = Reservations()
    assert reservations.reserve("home", "a")
    assert reservations.reserve("home", "a")
    assert not reservations.reserve("home", "b")
    assert reservations.holder("home") == "a"
    reservations.release("b")
    assert reservations.holder("home") == "a"
    reservations.release("a")
    assert reservations.reserve("home", "b")


def test_log_line_names_its_object() -> None:
    record = logging.LogRecord("vdi", logging.WARNING, "f", 1, 'said "%s"', ("no",), None)

    def line_about(kind: str, name: str, formatter: logging.Formatter) -> str:
        set_log_subject(kind, name)
        return formatter.format(record)

    line = copy_context().run(line_about, "session", "desks/alice", KeyValueFormatter())
    assert line.endswith(' level=warning logger=vdi session=desks/alice msg="said \\"no\\""')
    assert "session=" not in KeyValueFormatter().format(record)
    fields = json.loads(copy_context().run(line_about, "pool", "gpu", JsonFormatter()))
    assert fields.pop("time").endswith("Z")
    assert fields == {"level": "warning", "logger": "vdi", "pool": "gpu", "msg": 'said "no"'}


def test_json_log_line_has_its_traceback_on_the_same_line() -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        record = logging.LogRecord("vdi", logging.ERROR, "f", 1, "failed", (), sys.exc_info())
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert "ValueError: first\nsecond" in json.loads(line)["error"]


@pytest.mark.parametrize("formatter", [KeyValueFormatter(), JsonFormatter()])
def test_hostile_text_stays_within_its_log_line_and_is_escaped(
    formatter: logging.Formatter,
) -> None:
    forged = f"{HOSTILE}\ntime=2026-11-20T08:00:00.000Z level=info msg=forged"
    try:
        raise ValueError(forged)
    except ValueError:
        record = logging.LogRecord(
            "vdi", logging.ERROR, "f", 1, "failed: %s", (forged,), sys.exc_info()
        )

    def format_about_hostile() -> str:
        set_log_subject("session", HOSTILE)
        return formatter.format(record)

    text = copy_context().run(format_about_hostile)
    assert is_printable(text, "\n")
    first, *others = text.split("\n")
    assert "failed: " in first
    assert all(line.startswith("  ") for line in others)


def sample_of(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"vdi_{name}", labels)


def test_sessions_are_counted_by_phase_graphics_and_user_namespace() -> None:
    zink = {"renderer": "Zink", "encoder": "nvenc", "hardwareEncoder": True}
    software = {"renderer": "Software", "encoder": "x264", "reason": "NoGPU"}
    accelerated = session_with(phase="Running", graphics=zink, isolation={"userNamespace": True})
    sessions = [
        accelerated,
        *[session_with(phase="Running", graphics=software, isolation={}) for _ in range(2)],
    ]
    metrics = Metrics()
    metrics.watch_sessions(lambda: [*sessions, session_with(), session_with(phase="Running")])
    phases = {
        phase: sample_of(metrics, "sessions", phase=phase)
        for phase in ("Running", "Pending", "Failed")
    }
    assert phases == {"Running": 4, "Pending": 1, "Failed": 0}
    assert sample_of(metrics, "session_graphics", encoder="gpu", renderer="gpu") == 1
    assert sample_of(metrics, "session_graphics", encoder="software", renderer="software") == 2
    assert sample_of(metrics, "session_graphics", encoder="software", renderer="gpu") == 0
    assert [
        sample_of(metrics, "session_user_namespaces", used=used) for used in ("true", "false")
    ] == [1, 2]


def test_waiting_sessions_are_counted_at_each_scrape() -> None:
    waits = [3.0, 61.5]
    metrics = Metrics()
    metrics.watch_waiting(lambda *, gpu=False: waits[1:] if gpu else waits)
    names = ("waiting_sessions", "waiting_gpu_sessions", "longest_wait_seconds")
    assert [sample_of(metrics, name) for name in names] == [2, 1, 61.5]
    waits.clear()
    assert [sample_of(metrics, name) for name in names] == [0, 0, 0]
    metrics.queue_wait.observe(70)
    assert sample_of(metrics, "queue_wait_seconds_bucket", le="60.0") == 0


async def test_controllers_have_metrics_before_their_first_reconcile() -> None:
    pools: Controller[str] = Controller("pool")
    pools.enqueue("a")
    metrics = Metrics()
    metrics.watch_queues([pools])
    metrics.count_reconcile("pool", "retry", 0.2)
    assert sample_of(metrics, "workqueue_depth", controller="pool") == 1
    assert sample_of(metrics, "reconciles_total", controller="pool", outcome="done") == 0
    assert sample_of(metrics, "reconciles_total", controller="pool", outcome="retry") == 1
    assert sample_of(metrics, "reconcile_seconds_count", controller="pool") == 1
