"""MemorySharedState does what SharedState promises, and forgets in time what it need not know."""

from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unit.gateway.shared_contract import CONTRACT
from vdi.gateway.shared_state import (
    BACKLOG,
    MemorySharedState,
    RedisSharedState,
    SharedState,
    SharedUnavailableError,
)
from vdi.gateway.store.database import Database, DatabaseUnavailableError


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
