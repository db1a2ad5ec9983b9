"""What is too old goes, in small batches, and nothing that is not."""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from support.clock import FakeClock, replace_sleep
from unit.gateway.history_stage import Life, Replica, at, rows_of
from vdi.gateway.history import recorder as module
from vdi.gateway.history.recorder import Recorder, Retention
from vdi.gateway.store.audit import Act, Audit
from vdi.gateway.store.database import Database, DatabaseUnavailableError

DAYS = 30
NOW = at(4) + timedelta(days=DAYS)


def retention(database: Database, recorder: object = None) -> Retention:
    return Retention(
        database=database,
        recorder=cast(Recorder, recorder),
        kept=timedelta(days=DAYS),
        clock=lambda: NOW,
    )


@pytest.mark.parametrize("batch", [1, 2, 100])
async def test_what_ended_before_goes_with_its_runs_and_the_rest_stays(
    database: Database, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DELETE_BATCH", batch)
    monkeypatch.setattr(module, "_BATCH_PAUSE_SECONDS", 0)
    clock = FakeClock(NOW)
    replica, trail = Replica(database, lambda: NOW), Audit(database, clock.now)
    for number in range(1, 7):
        life = Life(f"s{number}")
        replica.tell(life.starting(-500))
        replica.tell(life.suspended(-400))
        replica.tell(life.starting(-300))
        replica.tell(life.ending(number))
        clock.wall = at(number)
        await trail.record(Act(actor="a", action="login", target=f"t{number}"))
    replica.tell(Life("open").starting(-10_000))
    await replica.write()
    assert await retention(database).drop_old() == (3, 3)
    sessions, runs = await rows_of(database)
    assert [session.name for session in sessions] == ["open", "s4", "s5", "s6"]
    assert len(runs) == 7
    assert [entry.target for entry in await trail.entries(limit=9)] == ["t6", "t5", "t4"]
    assert await retention(database).drop_old() == (0, 0)


async def test_trouble_is_said_and_tried_again_soon(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slept: list[float] = []
    tries, trail = 0, Audit(database, lambda: at(0))
    await trail.record(Act(actor="a", action="login", target="old"))

    async def close_lost() -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise DatabaseUnavailableError("it is away")

    async def sleep(seconds: float) -> Any:
        slept.append(seconds)
        if len(slept) == 2:
            raise InterruptedError

    replace_sleep(monkeypatch, sleep)
    with pytest.raises(InterruptedError):
        await retention(database, SimpleNamespace(close_lost=close_lost)).run()
    assert slept == [module.RETRY_SECONDS, module.ROUND_SECONDS]
    assert "closing records of deleted sessions is put off for 30 s: it is away" in caplog.text
    assert (await trail.entries(limit=9)) == []  # what is old was dropped all the same
