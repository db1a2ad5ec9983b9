"""The replicas' shared state on a real Redis: the contract, two at once, and a Redis that dies and
comes back.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from cluster.redis_stage import RedisServer, redis
from support.waiting import PATIENCE, eventually
from unit.gateway.shared_contract import CONTRACT
from vdi.gateway import shared_state as module
from vdi.gateway.shared_state import RedisSharedState, SharedState, open_shared_state

__all__ = ["redis"]


@pytest.fixture
async def shared(redis: RedisServer) -> AsyncIterator[RedisSharedState]:
    shared = open_shared_state(redis.url)
    assert isinstance(shared, RedisSharedState)
    yield shared
    await shared.close()


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda one: one.__name__)
async def test_shared_in_redis(
    shared: RedisSharedState, promise: Callable[[SharedState], Awaitable[None]]
) -> None:
    await promise(shared)


async def test_replicas_share_state_through_redis(
    redis: RedisServer, shared: RedisSharedState
) -> None:
    one, two = shared, RedisSharedState(redis.url)
    try:
        answers = await asyncio.gather(*(each.take_once("ticket", 30) for each in (one, two) * 10))
        assert sorted(answers) == [False] * 19 + [True]
        counts = await asyncio.gather(*(each.count("login/alice", 30) for each in (one, two) * 10))
        assert sorted(counts) == list(range(1, 21))
        await one.put("t", "alice", 30)
        popped = await asyncio.gather(*(each.pop("t") for each in (one, two) * 10))
        assert [value for value in popped if value] == ["alice"]
        async with one.subscribe("ended") as here, two.subscribe("ended") as there:
            await one.publish("ended", "grant-1")
            assert (await anext(here), await anext(there)) == ("grant-1", "grant-1")
    finally:
        await two.close()


async def test_cancelled_listener_always_ends(shared: RedisSharedState) -> None:
    """Python 3.11's asyncio.wait_for loses a cancellation that comes when what it waits for has
    just ended.
    """

    async def listen() -> None:
        async with shared.subscribe("news"):
            await asyncio.Event().wait()

    for steps in range(300):
        listener = asyncio.create_task(listen())
        for _ in range(steps):
            await asyncio.sleep(0)
        listener.cancel()
        _, left = await asyncio.wait([listener], timeout=PATIENCE)
        assert not left, f"cancelled after {steps} steps"


async def test_listener_reconnects_after_redis_was_lost(
    redis: RedisServer, shared: RedisSharedState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LISTEN_AGAIN", 0.05)
    heard: list[str] = []

    async def listen() -> None:
        async with shared.subscribe("news") as news:
            async for text in news:
                heard.append(text)

    listener = asyncio.create_task(listen())
    try:

        async def hears(text: str) -> bool:
            await shared.publish("news", text)
            return text in heard

        await eventually(lambda: hears("before"), "it listens")
        await redis.kill()
        for action in (
            shared.check(),
            shared.take_once("a", 1),
            shared.count("a", 1),
            shared.pop("a"),
        ):
            with pytest.raises(OSError, match="Redis does not respond"):
                await action
        await redis.start()
        await shared.put("a", "", 1)  # the last write works again
        await shared.check()
        await eventually(lambda: hears("after"), "it listens again")
    finally:
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)


async def test_subscribing_without_redis_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SUBSCRIBE_SECONDS", 0.2)
    shared = RedisSharedState(f"unix://{tmp_path}/nobody.sock")
    with pytest.raises(OSError):
        async with shared.subscribe("news"):
            pass
    await shared.close()
