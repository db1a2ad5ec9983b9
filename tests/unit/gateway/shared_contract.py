"""What every `SharedState` must do; run by the unit tests on memory and by the cluster tests on a
real Redis.
"""

import asyncio

from support.waiting import eventually
from vdi.gateway.shared_state import SharedState


async def takes_once(shared: SharedState) -> None:
    answers = await asyncio.gather(*(shared.take_once("ticket/a", 30) for _ in range(20)))
    assert sorted(answers) == [False] * 19 + [True]
    assert await shared.take_once("ticket/b", 30)


async def gives_the_key_back_when_time_is_over(shared: SharedState) -> None:
    assert await shared.take_once("soon", 0.05)
    assert not await shared.take_once("soon", 30)
    await eventually(lambda: shared.take_once("soon", 30), "the key is free again")


async def counts_from_one_in_each_window(shared: SharedState) -> None:
    assert [await shared.count("who", 30) for _ in range(3)] == [1, 2, 3]
    assert await shared.count("other", 30) == 1
    assert sorted(await asyncio.gather(*(shared.count("many", 30) for _ in range(50)))) == list(
        range(1, 51)
    )


async def takes_a_count_back(shared: SharedState) -> None:
    assert [await shared.count("tries", 30) for _ in range(3)] == [1, 2, 3]
    await shared.uncount("tries")
    await shared.uncount("tries")
    assert await shared.count("tries", 30) == 2
    await shared.uncount("never counted")
    assert await shared.count("never counted", 30) == 1


async def begins_a_window_again(shared: SharedState) -> None:
    """A window that was extended by each count would never end for whoever keeps trying."""
    await shared.count("window", 0.1)

    async def is_again() -> bool:
        return await shared.count("window", 0.1) == 1

    await eventually(is_again, "a new window")


async def pops_for_one_only(shared: SharedState) -> None:
    await shared.put("ticket", "alice", 30)
    await shared.put("ticket", "bob", 30)
    answers = await asyncio.gather(*(shared.pop("ticket") for _ in range(10)))
    assert [answer for answer in answers if answer is not None] == ["bob"]
    assert await shared.pop("never") is None


async def is_held_by_one(shared: SharedState) -> None:
    answers = await asyncio.gather(*(shared.hold("wheel", name, 30) for name in "abab"))
    assert len(set(answers)) == 1
    assert await shared.get("wheel") == answers[0]
    assert (await shared.get("never"), await shared.hold("short", "a", 0.05)) == (None, "a")

    async def is_free() -> bool:
        return await shared.hold("short", "b", 30) == "b"

    await eventually(is_free, "the value has expired")


async def forgets_values(shared: SharedState) -> None:
    await shared.put("short", "x", 0.05)
    await shared.take_once("short/marker", 0.05)
    await eventually(lambda: shared.take_once("short/marker", 30), "time has passed")
    assert await shared.pop("short") is None


async def tells_all_listeners_what_comes_after(shared: SharedState) -> None:
    await shared.publish("news", "before")
    async with (
        shared.subscribe("news") as one,
        shared.subscribe("news") as two,
        shared.subscribe("other") as other,
    ):
        await shared.publish("news", "first")
        await shared.publish("news", "second")
        await shared.publish("other", "elsewhere")
        assert [await anext(one), await anext(one)] == ["first", "second"]
        assert [await anext(two), await anext(two)] == ["first", "second"]
        assert await anext(other) == "elsewhere"
    await shared.publish("news", "nobody listens")


CONTRACT = (
    takes_once,
    gives_the_key_back_when_time_is_over,
    counts_from_one_in_each_window,
    takes_a_count_back,
    begins_a_window_again,
    pops_for_one_only,
    is_held_by_one,
    forgets_values,
    tells_all_listeners_what_comes_after,
)
