"""What one state after the other makes of the rows: the lives that people lead, and what was missed
of them.
"""

from collections.abc import Callable
from datetime import timedelta

import msgspec
import pytest
from msgspec.structs import replace

from unit.gateway.history_stage import Life, at, template, without_marks
from vdi.api.session import VDISession
from vdi.gateway.history.transitions import MAX_DETAIL_CHARACTERS, derive, fold, lose, read_snapshot
from vdi.gateway.limits import size_of
from vdi.gateway.store.history import EndReason, Record, RunRow, SessionRow

NOW = at(10_000)
SIZE = size_of(template(), Life().created())


def record_of(
    *states: VDISession, gone: bool = False, ended_by: str = ""
) -> tuple[SessionRow, dict[int, RunRow]]:
    """The session's row and its runs, by the minute of their start."""
    seen = [read_snapshot(state, template()) for state in states]
    if gone:
        seen.append(read_snapshot(states[-1], template(), gone=True))
    derived = fold(None, seen, NOW, ended_by)
    by_start = {int((run.start - at(0)).total_seconds() // 60): run for run in derived.runs}
    return derived.record.session, by_start


def test_a_life_from_the_queue_to_the_end() -> None:
    life = Life()
    states = [life.created(), life.queued(1), life.starting(5), life.running(7), life.ending(65)]
    session, runs = record_of(*states, gone=True)
    assert without_marks(session) == SessionRow(
        uid="uid-alice",
        name="alice",
        namespace="vdi-sessions",
        owner="alice@example.com",
        template="office",
        created=at(0),
        ended=at(65),
        end_reason=EndReason.DELETED,
    )
    assert runs == {
        5: RunRow(
            uid="uid-alice",
            start=at(5),
            ready=at(7),
            node="node-1",
            pod="alice",
            gpus=2,
            cpu=SIZE["cpu"],
            memory_gib=SIZE["memory_gib"],
            expires=at(485),
            queue_seconds=240,
            startup_seconds=120,
            ended=at(65),
            end_reason=EndReason.DELETED,
        )
    }


@pytest.mark.parametrize(
    ("why", "requested_by", "reason", "ended_by"),
    [
        ("Stopping", "alice@example.com", "user", "alice@example.com"),
        ("Stopping", "root@example.com", "admin", "root@example.com"),
        ("Stopping", "", "deleted", ""),
        ("TimedOut", "alice@example.com", "timeout", ""),
        ("IdleTooLong", "alice@example.com", "idle", ""),
    ],
)
def test_who_ended_it(why: str, requested_by: str, reason: str, ended_by: str) -> None:
    life = Life(user="Alice@Example.com")
    session, runs = record_of(life.starting(0), life.ending(9, why), ended_by=requested_by)
    assert (session.end_reason, session.ended_by, session.ended) == (reason, ended_by, at(9))
    assert (runs[0].end_reason, runs[0].ended) == (reason, at(9))


def test_a_resume_is_a_new_run_and_a_wait_counts_once() -> None:
    life = Life()
    states = [
        life.queued(0),
        life.starting(10),
        life.suspended(30),
        life.starting(60),
        life.suspended(70),
    ]
    _, runs = record_of(*states, life.queued(80), life.starting(81))
    assert [run.queue_seconds for run in runs.values()] == [600, None, 60]
    assert [run.ended for run in runs.values()] == [at(30), at(70), None]
    life = Life()
    _, runs = record_of(life.queued(0), life.suspended(1), life.starting(600))
    assert runs[600].queue_seconds is None, "the wait was given up"


def test_one_run_goes_on_over_several_pods() -> None:
    life = Life()
    _, runs = record_of(
        life.starting(0), life.running(1), life.between_pods(), life.running(9, node="node-2")
    )
    (run,) = runs.values()
    assert (run.node, run.pod, run.ended) == ("node-2", "alice", None)
    _, runs = record_of(life.running(1), life.between_pods())
    assert (runs[0].node, runs[0].pod) == ("node-1", "alice")
    _, runs = record_of(life.between_pods())
    assert (runs[0].node, runs[0].pod) == ("", "")


def failing(life: Life, reason: str, *states: VDISession) -> list[VDISession]:
    """A life whose desktop was lost after three minutes."""
    life.status["failures"] = {
        "count": 1,
        "reason": reason,
        "message": "m",
        "time": "2026-11-20T08:03:00Z",
    }
    return list(states)


# What people do and operators write -> start of each run, and its end, end reason and detail.
RUNS: dict[
    str, tuple[Callable[[Life], list[VDISession]], dict[int, tuple[float | None, str | None, str]]]
] = {
    "suspended": (lambda life: [life.starting(0), life.suspended(30)], {0: (30, "suspended", "")}),
    "time limit": (
        lambda life: [life.starting(0), life.suspended(30, "TimedOut")],
        {0: (30, "timeout", "")},
    ),
    "idle": (
        lambda life: [life.starting(0), life.suspended(30, "IdleTooLong")],
        {0: (30, "idle", "")},
    ),
    "given up": (
        lambda life: [life.starting(0), life.running(1), life.given_up(20)],
        {0: (20, "failed", "CrashLoop: It crashes.")},
    ),
    "lost and back in the queue": (
        lambda life: [
            life.starting(0),
            *failing(life, "NoGPUFree"),
            life.queued(4),
            life.starting(6),
        ],
        {0: (3, "failed", "NoGPUFree: m"), 6: (None, None, "")},
    ),
    "a loss of an earlier run": (
        lambda life: [
            *failing(life, "Lost"),
            life.starting(10),
            life.state(phase="Pending", **Life._NO_RUN),
        ],
        {10: (490, "unknown", "")},
    ),
    "its end was missed": (
        lambda life: [life.starting(0), life.running(1), life.starting(60)],
        {0: (60, "unknown", ""), 60: (None, None, "")},
    ),
    "missed, and its time was over": (
        lambda life: [life.starting(100), life.starting(5000)],
        {100: (580, "unknown", ""), 5000: (None, None, "")},
    ),
    "a start time that goes back": (
        lambda life: [life.starting(60), life.suspended(70), life.starting(10)],
        {60: (70, "suspended", "")},
    ),
    "clocks of API server and operator differ": (
        lambda life: [life.starting(5), life.ending(4)],
        {5: (5, "deleted", "")},
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_runs_end_when_and_why_the_operator_says(name: str) -> None:
    states, expected = RUNS[name]
    session, runs = record_of(*states(Life()))
    ends = {
        start: (at(end) if end is not None else None, *why)
        for start, (end, *why) in expected.items()
    }
    assert {
        start: (run.ended, run.end_reason, run.end_detail) for start, run in runs.items()
    } == ends
    assert session.ended == (at(4) if "clocks" in name else None)


def test_an_unseen_end_is_unknown_unless_a_user_requested_it() -> None:
    life = Life()
    record = fold(None, [read_snapshot(life.starting(0), template())], NOW).record
    derived = lose(record, NOW)
    (run,) = derived.runs
    assert derived.news
    assert (derived.record.session.end_reason, run.end_reason) == ("unknown", "unknown")
    assert (derived.record.session.ended, run.ended) == (at(480), at(480))
    known = lose(record, NOW, "root@example.com")
    assert (known.record.session.end_reason, known.record.session.ended_by) == (
        "admin",
        "root@example.com",
    )
    assert not lose(derived.record, NOW + timedelta(days=1)).news
    never_ran = lose(fold(None, [read_snapshot(Life().created(), template())], NOW).record, NOW)
    assert (never_ran.record.session.ended, never_ran.runs) == (NOW, ())


def test_the_end_stays_what_it_was() -> None:
    life = Life()
    before = fold(
        None, [read_snapshot(life.starting(0), None), read_snapshot(life.ending(9), None)], NOW
    ).record
    for later in (life.starting(20), life.ending(30, "TimedOut")):
        derived = derive(before, read_snapshot(later, None), NOW, "root@example.com")
        assert not derived.news
        assert derived.record == before


def test_an_older_state_teaches_nothing() -> None:
    life = Life()
    older, newer = life.starting(0), life.suspended(9)
    record = fold(None, [read_snapshot(older, None), read_snapshot(newer, None)], NOW).record
    derived = derive(record, read_snapshot(older, None), NOW)
    assert (derived.record, derived.news) == (record, False)


def test_older_or_not_what_is_gone_has_ended() -> None:
    life = Life()
    older = life.starting(0)
    record = fold(None, [read_snapshot(life.running(1), None)], NOW).record
    after = derive(record, read_snapshot(older, None, gone=True), NOW).record
    assert after.session.ended == NOW
    assert after.run
    assert (after.run.ready, after.run.ended) == (at(1), NOW)


def test_a_newer_state_that_says_the_same_is_not_written() -> None:
    life = Life()
    record = fold(None, [read_snapshot(life.running_since(0), None)], NOW).record
    again = life.state(message="Still here.", lastActivityTime="2026-11-20T09:00:00Z")
    derived = derive(record, read_snapshot(again, None), NOW)
    assert (derived.news, derived.runs) == (False, ())


def test_a_run_that_was_closed_too_soon_goes_on() -> None:
    life = Life()
    record = fold(None, [read_snapshot(life.running_since(0), None)], NOW).record
    assert record.run
    closed = Record(
        record.session,
        replace(record.run, ended=at(5), end_reason=EndReason.UNKNOWN, end_detail="?"),
    )
    again = derive(closed, read_snapshot(life.state(message="on"), None), NOW).record
    assert again.run == record.run


def test_a_run_keeps_what_drew_and_what_encoded_it() -> None:
    life = Life()
    graphics = {"renderer": "Zink", "encoder": "nvenc", "hardwareEncoder": True}
    states = [
        life.starting(0),
        life.running(1),
        life.state(graphics=graphics),
        life.between_pods(),
        life.running(5),
    ]
    _, runs = record_of(*states, life.ending(9))
    assert (runs[0].renderer, runs[0].encoder) == ("Zink", "nvenc")


def test_gpus_are_those_that_it_was_started_with() -> None:
    life = Life()
    state = life.starting(0)
    changed_since = template(gpu=4, generation=2)
    for present, gpus in ((template(), 2), (changed_since, None), (None, None)):
        assert (run := read_snapshot(state, present).run) and run.gpus == gpus
    life.spec["resources"] = {"gpu": 3}
    assert (run := read_snapshot(life.state(), template()).run) and run.gpus == 3
    record = fold(
        None, [read_snapshot(state, template()), read_snapshot(life.state(), None)], NOW
    ).record
    assert record.run and record.run.gpus == 2


def test_a_state_without_sense_is_refused_and_a_long_reason_cut() -> None:
    life = Life()
    with pytest.raises(ValueError, match="yesterday"):
        read_snapshot(life.state(startTime="yesterday"), None)
    failed = Life().state(phase="Failed", message="x\0" * 2000)
    stop = read_snapshot(failed, None).stop
    assert stop and stop.detail == "x" * MAX_DETAIL_CHARACTERS


def test_what_people_read_on_the_way_is_no_news() -> None:
    life = Life()
    one = life.running_since(0)
    other = msgspec.structs.replace(
        one, status=msgspec.structs.replace(one.status, message="m", url="u")
    )
    assert read_snapshot(one, None) == read_snapshot(other, None)


def test_a_run_has_the_size_of_its_desktop() -> None:
    life = Life()
    life.spec["resources"] = {"gpu": 1, "memory": "16Gi", "cpu": "1500m"}
    _, runs = record_of(life.running_since(0))
    assert (runs[0].cpu, runs[0].memory_gib) == (1.5, 16.0)
