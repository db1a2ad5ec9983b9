"""MemorySharedState does what SharedState promises, and forgets in time what it need not know.
RedisSharedState does not wait for a Redis that is silent.
"""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.waiting import PATIENCE, eventually
from unit.gateway.shared_contract import CONTRACT
from unit.gateway.silent_redis import SilentRedis, silent_redis
from vdi.gateway import shared_state
from vdi.gateway.shared_state import (
    BACKLOG,
    MemorySharedState,
    RedisSharedState,
    SharedState,
    SharedUnavailableError,
)
from vdi.gateway.store.database import Database, DatabaseUnavailableError

__all__ = ["silent_redis"]


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda one: one.__name__)
async def test_shared_in_memory(promise: Callable[[SharedState], Awaitable[None]]) -> None:
    await promise(MemorySharedState())


async def test_an_unknown_host_is_told_from_a_silent_one() -> None:
    shared = RedisSharedState("redis://nobody.invalid")
    with pytest.raises(SharedUnavailableError, match="cannot resolve its host name: "):
        await shared.check()
    await shared.close()
    database = Database("postgresql+asyncpg://vdi@nobody.invalid/vdi")
    with pytest.raises(DatabaseUnavailableError, match="cannot resolve its host name: "):
        async with database.connect():
            pass


async def test_a_silent_redis_is_waited_for_once(
    silent_redis: SilentRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_state, "_LAST_SECONDS", 0.05)
    monkeypatch.setattr(shared_state, "_LISTEN_AGAIN", 0.01)
    shared = silent_redis.shared
    first = asyncio.create_task(shared.get("a"))
    await eventually(lambda: silent_redis.connections == 1, "the first command waits")
    monkeypatch.setattr(shared_state, "_RESPONSE_SECONDS", 3600.0)
    later = asyncio.create_task(shared.get("b"))
    async with asyncio.timeout(PATIENCE):
        for command in (first, later, shared.get("c"), shared.check()):
            with pytest.raises(SharedUnavailableError):
                await command
        silent_redis.answer()
        await eventually(lambda: works(shared), "Redis is asked again after a ping")


async def works(shared: SharedState) -> bool:
    try:
        await shared.get("a")
    except SharedUnavailableError:
        return False
    return True


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_what_has_expired_takes_no_memory() -> None:
    time = Time()
    shared = MemorySharedState(time)
    for number in range(1000):
        await shared.put(f"ticket/{number}", "x", 30)
    time.now += 60
    await shared.take_once("one", 30)
    assert len(shared) == 1


async def test_a_listener_who_is_slow_loses_the_oldest() -> None:
    shared = MemorySharedState()
    async with shared.subscribe("news") as slow:
        for number in range(BACKLOG + 10):
            await shared.publish("news", str(number))
        assert await anext(slow) == "10"


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0.1, 20)), max_size=60))
async def test_counts_are_those_of_fixed_windows(steps: list[tuple[str, float]]) -> None:
    """As a model that keeps nothing but (end, number) per key."""
    time = Time()
    shared = MemorySharedState(time)
    model: dict[str, tuple[float, int]] = {}
    for key, wait in steps:
        end, number = model.get(key, (0.0, 0))
        if time.now >= end:
            end, number = time.now + 10, 0
        model[key] = end, number + 1
        assert await shared.count(key, 10) == number + 1
        time.now += wait
