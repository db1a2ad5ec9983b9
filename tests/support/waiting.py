"""Waiting for a condition, with a deadline: the only place where a test sleeps."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar, overload

import pytest

T = TypeVar("T")

# Seconds, where a test names none: on a machine with nothing else to do, a tenth of it is enough.
PATIENCE = 40.0
# Seconds between the first two questions; each pause is twice the one before it, up to a limit.
_FIRST_PAUSE = 0.001


def wait_until(
    what: str, true: Callable[[], T | None], seconds: float = 60.0, *, every: float = 0.1
) -> T:
    """The first answer that is true; AssertionError with `what` and the last answer after so many
    seconds.

    `every`: the longest pause, for questions that cost something.
    """
    deadline = time.monotonic() + seconds
    pause = _FIRST_PAUSE
    while not (answer := true()):
        assert time.monotonic() < deadline, _late(what, seconds, answer)
        time.sleep(pause)
        pause = min(2 * pause, every)  # a question is often a program to start
    return answer


@overload
async def eventually(
    true: Callable[[], Awaitable[T | None]], what: str = ..., seconds: float = ...
) -> T: ...
@overload
async def eventually(true: Callable[[], T | None], what: str = ..., seconds: float = ...) -> T: ...
async def eventually(
    true: Callable[[], object], what: str = "the condition", seconds: float = PATIENCE
) -> object:
    """`wait_until` in an event loop, where `true` may be a coroutine function. `what` is for
    conditions with a name.
    """
    deadline = time.monotonic() + seconds
    pause = _FIRST_PAUSE
    while not (answer := await _answer(true)):
        assert time.monotonic() < deadline, _late(what, seconds, answer)
        await asyncio.sleep(pause)
        pause = min(2 * pause, 0.02)
    return answer


async def _answer(true: Callable[[], object]) -> object:
    answer = true()
    return await answer if inspect.isawaitable(answer) else answer


def _late(what: str, seconds: float, answer: object) -> str:
    return f"{what}: not within {seconds} s, last answer {answer!r}"


def is_waiting(pid: int) -> bool:
    """Whether the main thread of this process waits for something to happen. Linux: state S in
    /proc.
    """
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def hold_calls(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str
) -> tuple[asyncio.Event, asyncio.Event]:
    """Let calls of an asynchronous method wait: the first event says that one has come, the second
    lets them go on.
    """
    begun, go_on = asyncio.Event(), asyncio.Event()
    method = getattr(owner, name)

    async def held(*args: Any, **more: Any) -> Any:
        begun.set()
        await go_on.wait()
        return await method(*args, **more)

    monkeypatch.setattr(owner, name, held)
    return begun, go_on
