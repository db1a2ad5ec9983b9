"""Whatever comes twice, late, from two replicas, or never: each run is there once, and nothing is
invented.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from unit.gateway.history_stage import Life, at, template, without_marks
from vdi.api.session import VDISession
from vdi.gateway.history.transitions import SessionSnapshot, derive, read_snapshot
from vdi.gateway.store.history import Record, RunRow, SessionRow

Rows = tuple[SessionRow | None, dict[datetime, RunRow]]
Seen = tuple[SessionSnapshot, datetime]


class Table:
    """What the database keeps between two of the recorder's steps."""

    def __init__(self) -> None:
        self.session: SessionRow | None = None
        self.runs: dict[datetime, RunRow] = {}

    def take(self, seen: SessionSnapshot, now: datetime) -> None:
        old = (
            Record(self.session, self.runs[max(self.runs)] if self.runs else None)
            if self.session
            else None
        )
        derived = derive(old, seen, now)
        if derived.news:
            self.session = derived.record.session
            self.runs |= {run.start: run for run in derived.runs}

    @property
    def rows(self) -> Rows:
        return (without_marks(self.session) if self.session else None), self.runs


@st.composite
def lives(draw: st.DrawFn) -> list[Seen]:
    """A whole life as the watch shows it, each state with the moment when it comes; each step takes
    some minutes.
    """
    life, minute = Life(), 0.0
    states: list[Seen] = [(read_snapshot(life.created(), template()), at(0))]
    on = False
    for _ in range(draw(st.integers(0, 12))):
        minute += draw(st.integers(1, 90))
        why = draw(st.sampled_from(["Suspended", "TimedOut", "IdleTooLong"]))
        steps: dict[str, Callable[[], VDISession]] = {
            "start": partial(life.starting, minute),
            "running": partial(life.running, minute),
            "between_pods": life.between_pods,
            "suspended": partial(life.suspended, minute, why),
            "given_up": partial(life.given_up, minute),
            "queued": partial(life.queued, minute),
        }
        possible = (
            [name for name in steps if name != "start"] if on else ["queued", "start", "suspended"]
        )
        step = draw(st.sampled_from(possible))
        states.append((read_snapshot(steps[step](), template()), at(minute)))
        on = step in ("start", "running", "between_pods")
    if draw(st.booleans()):
        ending = life.ending(minute + 1, draw(st.sampled_from(["Stopping", "TimedOut"])))
        states.append((read_snapshot(ending, template()), at(minute + 1)))
        if draw(st.booleans()):
            states.append((read_snapshot(ending, template(), gone=True), at(minute + 2)))
    return states


def recorded(states: Sequence[Seen]) -> Rows:
    table = Table()
    for seen, now in states:
        table.take(seen, now)
    return table.rows


@given(lives(), st.data())
def test_what_comes_again_changes_nothing(states: list[Seen], data: st.DataObject) -> None:
    """A restart lists again from any point on; an event comes twice; a lagging replica tells old
    news.
    """
    again: list[Seen] = []
    for index, (seen, now) in enumerate(states):
        again.append((seen, now))
        old = data.draw(st.lists(st.integers(0, index), max_size=4))
        again += [(states[one][0], now) for one in old if not states[one][0].gone]
    assert recorded(again) == recorded(states)


@given(lives(), st.randoms(use_true_random=False))
def test_two_replicas_that_both_watch_write_what_one_would(
    states: list[Seen], random: Random
) -> None:
    both, places = Table(), [0, 0]
    while any(place < len(states) for place in places):
        replica = random.choice([one for one in (0, 1) if places[one] < len(states)])
        places[replica] += 1
        both.take(states[places[replica] - 1][0], states[max(places) - 1][1])
    assert both.rows == recorded(states)


@given(lives(), st.data())
def test_what_never_comes_is_missed_and_not_invented(
    states: list[Seen], data: st.DataObject
) -> None:
    """The gateway was down for any part of it."""
    missed = data.draw(st.sets(st.integers(0, len(states) - 1)))
    kept = [state for index, state in enumerate(states) if index not in missed]
    _, all_runs = recorded(states)
    session, runs = recorded(kept)
    assert runs.keys() == {seen.run.start for seen, _ in kept if seen.run}
    assert runs.keys() <= all_runs.keys()
    for start, run in runs.items():
        last = [seen.run for seen, _ in kept if seen.run and seen.run.start == start][-1]
        assert (run.ready, run.expires) == (last.ready or run.ready, last.expires)
        true = all_runs[start]
        assert run.ended is None or run.ended >= run.start
        if run.ended and true.ended and run.expires:
            assert run.ended >= min(true.ended, run.expires)
    still_open = [run for run in runs.values() if run.ended is None]
    if still_open:
        assert still_open == [runs[max(runs)]]
        assert kept[-1][0].run and session and session.ended is None
