"""Limits of what is under way between clients and desktops: counted, shared fairly, and given
back.
"""

import asyncio
from contextlib import AsyncExitStack, ExitStack

import pytest
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from support.waiting import PATIENCE
from vdi.gateway.app import _Server, _uvicorn_config, listen
from vdi.gateway.denied import BusyError
from vdi.gateway.in_flight import (
    ACTIONS,
    ANSWERS_BYTES,
    FILES,
    LANES,
    OPEN_RECORDINGS,
    PAGES,
    TOKEN_WAITING_CALLS,
    USER_OPEN_RECORDINGS,
    USER_WAITING_CALLS,
    WAITING_CALLS,
    AnswerBudget,
    HeldResponse,
    Lane,
    OpenRecordings,
    RequestLimits,
    WaitingCalls,
)


@pytest.mark.parametrize("lane", LANES, ids=lambda lane: lane.what)
def test_slow_desktop_takes_no_other_ones_turn(lane: Lane) -> None:
    limits = RequestLimits()
    with ExitStack() as slow:
        for _ in range(lane.each):
            slow.enter_context(limits.enter(lane, "slow", "cad", "alice"))
        with pytest.raises(BusyError, match="'cad' has not answered") as refused:
            slow.enter_context(limits.enter(lane, "slow", "cad", "alice"))
        assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "1"})
        with limits.enter(lane, "other", "office", "alice"):
            pass
        for another in LANES:
            if another is not lane:
                with limits.enter(another, "slow", "cad", "alice"):
                    pass
    assert len(limits) == 0


def test_all_desktops_together_have_a_limit() -> None:
    lane, limits = Lane("request", 2, 3, 3), RequestLimits()
    with ExitStack() as held:
        for uid in ("a", "a", "b"):
            held.enter_context(limits.enter(lane, uid, uid, uid))
        with pytest.raises(BusyError, match="Too many desktops") as refused:
            held.enter_context(limits.enter(lane, "c", "c", "c"))
        assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "5"})
    with limits.enter(lane, "c", "c", "c"):
        pass


@pytest.mark.parametrize("lane", [ACTIONS, PAGES, FILES], ids=lambda lane: lane.what)
def test_desktops_of_one_user_leave_turns_for_others(lane: Lane) -> None:
    limits = RequestLimits()
    with ExitStack() as held:
        for number in range(lane.of_user):
            held.enter_context(limits.enter(lane, str(number), "cad", "alice"))
        with pytest.raises(BusyError, match="Desktops of alice have not answered") as refused:
            held.enter_context(limits.enter(lane, "another", "cad", "alice"))
        assert refused.value.status == 429
        with limits.enter(lane, "office", "office", "bob"):
            pass
    with limits.enter(lane, "another", "cad", "alice"):
        pass
    assert len(limits) == 0


async def test_one_user_leaves_bytes_for_others() -> None:
    budget = AnswerBudget(100, 40)
    async with AsyncExitStack() as held:
        await budget.reserve(held, "alice", 40)
        with pytest.raises(BusyError, match="on their way to clients"):
            await budget.reserve(held, "alice", 1, seconds=0)
        await budget.reserve(held, "bob", 40)
        with pytest.raises(BusyError):
            await budget.reserve(held, "carol", 21, seconds=0)
        await budget.reserve(held, "carol", 20, seconds=0)
        assert len(budget) == 100
    assert len(budget) == 0


async def test_bytes_that_are_released_go_to_those_who_wait() -> None:
    budget, first, held = AnswerBudget(100, 100), AsyncExitStack(), AsyncExitStack()
    await budget.reserve(first, "alice", 100)
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group, held:
        waits = [
            group.create_task(budget.reserve(held, user, 50, seconds=PATIENCE))
            for user in ("bob", "carol")
        ]
        await asyncio.sleep(0)  # both wait now
        await first.aclose()
        await asyncio.gather(*waits)
        assert len(budget) == 100
    assert len(budget) == 0


async def test_those_who_came_first_get_bytes_first() -> None:
    budget, first, second = AnswerBudget(100, 60), AsyncExitStack(), AsyncExitStack()
    await budget.reserve(first, "alice", 60)
    await budget.reserve(second, "bob", 40)
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group, AsyncExitStack() as held:
        own = group.create_task(budget.reserve(held, "alice", 1, seconds=PATIENCE))
        large = group.create_task(budget.reserve(held, "carol", 50, seconds=PATIENCE))
        await asyncio.sleep(0)  # both wait now
        await second.aclose()
        with pytest.raises(BusyError):
            await budget.reserve(held, "dave", 40, seconds=0)
        assert not own.done(), "alice has as much as she may"
        await first.aclose()
        await asyncio.gather(own, large)
        await budget.reserve(held, "dave", 40, seconds=0)
        assert len(budget) == 91
    assert len(budget) == 0


async def test_one_who_gives_up_waiting_lets_the_next_go_on() -> None:
    budget, first = AnswerBudget(100, 100), AsyncExitStack()
    await budget.reserve(first, "alice", 60)
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group, AsyncExitStack() as held:
        large = group.create_task(budget.reserve(held, "bob", 80, seconds=PATIENCE))
        small = group.create_task(budget.reserve(held, "carol", 40, seconds=PATIENCE))
        await asyncio.sleep(0)  # both wait now
        assert not small.done()
        large.cancel()
        await small
    await first.aclose()


def test_waiting_calls_of_a_token_a_user_and_all_are_few() -> None:
    waiting = WaitingCalls()
    with ExitStack() as held:
        for number in range(USER_WAITING_CALLS):
            held.enter_context(waiting.enter("alice", f"token{number // TOKEN_WAITING_CALLS}"))
        with pytest.raises(BusyError, match="This token already has 4"):
            held.enter_context(waiting.enter("alice", "token0"))
        with pytest.raises(BusyError, match="alice already has 20"):
            held.enter_context(waiting.enter("alice", "another"))
        for number in range(WAITING_CALLS - USER_WAITING_CALLS):
            held.enter_context(waiting.enter(f"user{number}", "token"))
        with pytest.raises(BusyError, match="Too many calls"):
            held.enter_context(waiting.enter("bob", "token"))
    assert len(waiting) == 0


def test_open_recordings_of_a_user_and_all_are_few() -> None:
    recordings = OpenRecordings()
    with ExitStack() as held:
        for number in range(OPEN_RECORDINGS):
            held.enter_context(recordings.enter(f"user{number // USER_OPEN_RECORDINGS}"))
        with pytest.raises(BusyError, match="user0 already has 4 recordings open"):
            held.enter_context(recordings.enter("user0"))
        with pytest.raises(BusyError, match="Too many recordings"):
            held.enter_context(recordings.enter("alice"))
    assert len(recordings) == 0


@pytest.mark.parametrize("leaves", [False, True], ids=["reads at last", "leaves"])
async def test_answer_is_held_until_its_client_has_read_it(leaves: bool) -> None:
    budget, body = AnswerBudget(ANSWERS_BYTES, ANSWERS_BYTES), b"x" * (8 << 20)
    written, ended = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_tell(message: Message) -> None:
            await send(message)
            if message.get("body"):
                written.set()

        held = AsyncExitStack()
        await budget.reserve(held, "alice", len(body))
        await HeldResponse(Response(body), held)(scope, receive, send_and_tell)
        ended.set()

    server = _Server(_uvicorn_config(app))
    with listen(("127.0.0.1", 0), "VDI_PUBLIC_ADDR") as where:
        task = asyncio.create_task(server.serve([where]))
        async with asyncio.timeout(PATIENCE):
            # The client's own buffer is small, and takes nothing more until it is read.
            reader, writer = await asyncio.open_connection(*where.getsockname()[:2], limit=1024)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await written.wait()
            assert len(budget) == len(body), "the client has read nothing"
            if not leaves:
                head = await reader.readuntil(b"\r\n\r\n")
                assert b"content-length: 8388608" in head
                assert await reader.readexactly(len(body)) == body
            writer.close()
            await ended.wait()
            assert len(budget) == 0
        server.should_exit = True
        await asyncio.wait_for(task, PATIENCE)
