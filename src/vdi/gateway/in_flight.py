"""Limits of what this process holds for desktops and their clients: requests, bytes of answers,
waiting calls.

`DesktopAgent` takes every request through `RequestLimits` and every large answer through
`AnswerBudget`; `/mcp` takes calls that wait through `WaitingCalls`, and `Recordings` sends
recordings through `OpenRecordings`. The constants of this module multiply to the memory that this
may take.
"""

import asyncio
from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from vdi.gateway.denied import BusyError

Key = TypeVar("Key", bound=Hashable)
# Bytes of all answers of desktops in memory at a time, and of those of one user's desktops. An
# answer counts ANSWER_COPIES times: as the desktop sent it, and as JSON for the client. It counts
# until the client has read it.
ANSWERS_BYTES, USER_ANSWERS_BYTES, ANSWER_COPIES = 40 << 20, 12 << 20, 2
# The same for the gateway's own polls (recordings, transfers), so that neither waits for the other.
# An answer counts until the poll has stored it.
POLLED_BYTES, USER_POLLED_BYTES = 24 << 20, 12 << 20
# Answers up to this size, but those of polls, are bounded by the number of requests alone: no click
# waits for someone's pictures.
SMALL_ANSWER_BYTES = 64 << 10
# Largest answer to an action: the base64 of a PNG.
ACTION_ANSWER_BYTES = 4 << 20
# An answer waits for so long for its bytes.
_BYTES_SECONDS = 5.0

# Requests of one API token under way, and those of all tokens whose token and rate are being looked
# up.
TOKEN_REQUESTS, TOKEN_LOOKUPS = 32, 8
# Calls of /mcp that wait, and what one holds while it does.
WAITING_CALLS, USER_WAITING_CALLS, TOKEN_WAITING_CALLS = 200, 20, 4
WAITING_CALL_BYTES = 36 << 10

# Recordings that are sent to browsers at a time, and the pieces in which they are: each is in
# memory twice.
OPEN_RECORDINGS, USER_OPEN_RECORDINGS, RECORDING_PIECE_BYTES = 32, 4, 128 << 10


@dataclass(frozen=True, slots=True)
class Lane:
    """Requests to desktops that share a limit: `each` of one desktop, `of_user` of one owner's, and
    `most` of all.
    """

    what: str
    each: int
    of_user: int
    most: int


# Actions of software agents, until the client has read the answer.
ACTIONS = Lane("action", 1, 64, 128)
# What pages and the REST API ask: pictures, reports, probes, the bar.
PAGES = Lane("request", 6, 32, 128)
# Lists of files, downloads and uploads; these take as long as the browser does.
FILES = Lane("file request", 4, 8, 32)
# The gateway's own polls: two for a desktop. Of more desktops than this some wait: they keep what
# they have to report.
POLLS = Lane("poll", 4, 2048, 2048)
LANES = (ACTIONS, PAGES, FILES, POLLS)
# What one request holds beside its answer: the client with its connection, and pieces of a file on
# their way.
REQUEST_BYTES, FILE_REQUEST_BYTES = 48 << 10, 256 << 10


@contextmanager
def _counted(counter: Counter[Key], key: Key) -> Iterator[None]:
    """Count one more of this key while the context lasts; a counter keeps no keys of what has
    ended.
    """
    counter[key] += 1
    try:
        yield
    finally:
        counter[key] -= 1
        if not counter[key]:
            del counter[key]


class RequestLimits:
    """Requests to desktops under way."""

    def __init__(self) -> None:
        # By session uid, and by owner.
        self._of_desktop: Counter[tuple[Lane, str]] = Counter()
        self._of_user: Counter[tuple[Lane, str]] = Counter()
        self._of_all: Counter[Lane] = Counter()

    @contextmanager
    def enter(self, lane: Lane, uid: str, name: str, user: str) -> Iterator[None]:
        """Count a request to a desktop of this user for as long as the context lasts. Raises
        BusyError.

        `uid`, `name`: the session's.
        """
        if self._of_desktop[lane, uid] >= lane.each:
            if lane.each == 1:
                requests = f"another {lane.what}"
            else:
                requests = f"{lane.each} {lane.what}s"
            message = f"The desktop {name!r} has not answered {requests} yet. Try again in 1 s."
            raise BusyError("TooManyRequests", message)
        if self._of_user[lane, user] >= lane.of_user:
            requests = f"{lane.of_user} {lane.what}s"
            message = f"Desktops of {user} have not answered {requests} yet. Try again in 1 s."
            raise BusyError("TooManyRequests", message)
        if self._of_all[lane] >= lane.most:
            raise BusyError(
                "Unavailable",
                "Too many desktops have not answered yet. Try again in a few seconds.",
            )
        of_desktop = _counted(self._of_desktop, (lane, uid))
        of_user = _counted(self._of_user, (lane, user))
        with of_desktop, of_user, _counted(self._of_all, lane):
            yield

    def __len__(self) -> int:
        return self._of_all.total()


class AnswerBudget:
    """Bytes that may be in memory at a time: `most` in all, `each` for the desktops of one user.

    First come, first served, but those who wait for their own user's bytes hold up no one else.
    """

    def __init__(self, most: int, each: int) -> None:
        self._most, self._each = most, each
        self._of_user: Counter[str] = Counter()
        # User and bytes of those who wait, in the order in which they came.
        self._waiting: dict[object, tuple[str, int]] = {}
        # Set and replaced whenever bytes are released, or one waits no longer.
        self._changed = asyncio.Event()

    async def reserve(
        self, held: AsyncExitStack, user: str, size: int, seconds: float | None = None
    ) -> None:
        """Reserve bytes until `held` is closed; waits for them at most `seconds`. Raises
        BusyError.
        """
        size = min(size, self._each)  # more would never be free
        turn = object()
        self._waiting[turn] = user, size
        try:
            async with asyncio.timeout(_BYTES_SECONDS if seconds is None else seconds):
                while not self._is_next(turn):
                    await self._changed.wait()
        except TimeoutError as error:
            message = "Too many large answers are on their way to clients. Try again in 5 s."
            raise BusyError("Unavailable", message) from error
        finally:
            del self._waiting[turn]
            self._wake()
        self._of_user[user] += size
        held.callback(self._release, user, size)

    def _is_next(self, turn: object) -> bool:
        for other, (user, size) in self._waiting.items():
            if self._of_user[user] + size <= self._each:
                return other is turn and self._of_user.total() + size <= self._most
        return False

    def _release(self, user: str, size: int) -> None:
        self._of_user[user] -= size
        if not self._of_user[user]:
            del self._of_user[user]
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return self._of_user.total()


class TokenRequests:
    """Requests of each API token under way, those that wait included.

    Counted before anything is looked up: a flood by one token costs the others nothing but its
    refusals.
    """

    def __init__(self) -> None:
        self._under_way: Counter[int] = Counter()
        # Few are looked up at a time. Hundreds would all be ready in each round of the event loop,
        # and a page, which takes some twenty rounds, would take seconds.
        self.lookup = asyncio.Semaphore(TOKEN_LOOKUPS)

    @contextmanager
    def enter(self, token: str) -> Iterator[None]:
        """Count a request for as long as the context lasts, whether the token is valid or not.
        Raises BusyError.
        """
        key = hash(token)
        if self._under_way[key] >= TOKEN_REQUESTS:
            message = f"This API token already has {TOKEN_REQUESTS} requests under way."
            raise BusyError("TooManyRequests", message)
        with _counted(self._under_way, key):
            yield

    def __len__(self) -> int:
        return self._under_way.total()


class WaitingCalls:
    """Calls that wait for something to happen: of one token, of one user, and all."""

    def __init__(self) -> None:
        self._waiting: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def enter(self, user: str, login_id: str) -> Iterator[None]:
        """Count a call for as long as the context lasts. Raises BusyError."""
        of_user = sum(count for (name, _), count in self._waiting.items() if name == user)
        if self._waiting[user, login_id] >= TOKEN_WAITING_CALLS:
            raise BusyError(
                "TooManyRequests", f"This token already has {TOKEN_WAITING_CALLS} calls that wait."
            )
        if of_user >= USER_WAITING_CALLS:
            raise BusyError(
                "TooManyRequests", f"{user} already has {USER_WAITING_CALLS} calls that wait."
            )
        if self._waiting.total() >= WAITING_CALLS:
            raise BusyError(
                "Unavailable", "Too many calls wait at this gateway. Try again in a few seconds."
            )
        with _counted(self._waiting, (user, login_id)):
            yield

    def __len__(self) -> int:
        return self._waiting.total()


class OpenRecordings:
    """Recordings that are being sent to browsers: to those of one user, and all."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    @contextmanager
    def enter(self, user: str) -> Iterator[None]:
        """Count a recording for as long as the context lasts. Raises BusyError."""
        if self._open[user] >= USER_OPEN_RECORDINGS:
            message = f"{user} already has {USER_OPEN_RECORDINGS} recordings open. Close one first."
            raise BusyError("TooManyRequests", message)
        if self._open.total() >= OPEN_RECORDINGS:
            message = "Too many recordings are being watched. Try again in a few seconds."
            raise BusyError("Unavailable", message)
        with _counted(self._open, user):
            yield

    def __len__(self) -> int:
        return self._open.total()


def until_read(send: Send) -> Send:
    """`send` for a response that ends when the client has read it, or is gone."""

    async def send_and_wait(message: Message) -> None:
        if message["type"] != "http.response.body" or message.get("more_body"):
            await send(message)
            return
        # uvicorn returns from the last `send` before the bytes are gone, and waits for them at each
        # earlier one.
        await send({**message, "more_body": True})
        await send({"type": "http.response.body"})

    return send_and_wait


class HeldResponse(Response):
    """A response, with what is held for it until the client has read it or is gone."""

    def __init__(self, response: Response, held: AsyncExitStack) -> None:
        super().__init__(response.body, response.status_code)
        self.raw_headers, self._held = response.raw_headers, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await super().__call__(scope, receive, until_read(send))
