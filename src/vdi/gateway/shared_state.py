"""State that all replicas share: single use, counters, short-lived values, and messages. In this
process, or in Redis.

Logins, tickets, rate limits and the edge's revocations use it; the database has what must survive a
restart.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from vdi.gateway.last_write import LastWrite
from vdi.http_client import is_unknown_host

log = logging.getLogger(__name__)
T = TypeVar("T")

# Messages that are kept for a slow listener; of more, the oldest are lost.
BACKLOG = 1000

_SUBSCRIBE_SECONDS = 5.0
# Time for one command: enough for a second try after a lost connection.
_RESPONSE_SECONDS = 4.0
_LISTEN_AGAIN = 1.0
# Commands under way when another one had no response may still wait for so long.
_LAST_SECONDS = 2.0
_SILENCE = 15.0
# One step for all replicas: a counter without an end would shut somebody out for ever.
_COUNT = """
local number = redis.call('INCR', KEYS[1])
if number == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return number
"""
# DECR alone would make a counter without an end.
_UNCOUNT = "if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('DECR', KEYS[1]) end"
# One step for all replicas: of two holders at once, one wins.
_HOLD = """
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return held end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
"""
# Seconds between two removals of what has expired, so that memory is bounded by what is asked in
# that time.
_SWEEP = 10.0


class SharedUnavailableError(OSError):
    """Raised when the shared state does not respond. The caller must refuse: it fails closed."""


@dataclass(slots=True)
class _Entry:
    ends: float
    value: str = ""
    number: int = 0


class MemorySharedState:
    """Shared state of one replica.

    Keys are plain text chosen by the caller, with a prefix per use, such as `ticket/...`. Seconds
    are above zero. Used only from the event loop's thread, between two awaits: hence no lock.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._now = monotonic
        self._entries: dict[str, _Entry] = {}
        self._swept = monotonic()
        self._listeners: defaultdict[str, set[asyncio.Queue[str]]] = defaultdict(set)

    async def take_once(self, key: str, seconds: float) -> bool:
        """True for the first caller of all replicas, False for all others during the next
        `seconds`.
        """
        if self._alive(key) is not None:
            return False
        self._entries[key] = _Entry(self._now() + seconds)
        return True

    async def count(self, key: str, seconds: float) -> int:
        """Add one; returns the count in the window, which begins with its first count and lasts
        `seconds`.
        """
        entry = self._alive(key)
        if entry is None:
            entry = self._entries[key] = _Entry(self._now() + seconds)
        entry.number += 1
        return entry.number

    async def uncount(self, key: str) -> None:
        """Subtract one, while the window lasts."""
        entry = self._alive(key)
        if entry is not None:
            entry.number -= 1

    async def put(self, key: str, value: str, seconds: float) -> None:
        """Store a value for so long, in place of an existing one."""
        self._alive(key)
        self._entries[key] = _Entry(self._now() + seconds, value)

    async def get(self, key: str) -> str | None:
        """The value, while it lasts."""
        entry = self._alive(key)
        return entry.value if entry else None

    async def hold(self, key: str, value: str, seconds: float) -> str:
        """Store a value for so long, unless another one is there; returns the one that is there
        then.
        """
        entry = self._alive(key)
        if entry is None or entry.value == value:
            entry = self._entries[key] = _Entry(self._now() + seconds, value)
        return entry.value

    async def pop(self, key: str) -> str | None:
        """Take the value: one of all callers gets it, while it lasts."""
        entry = self._alive(key)
        if entry is None:
            return None
        del self._entries[key]
        return entry.value

    async def publish(self, channel: str, text: str) -> None:
        """Send a message to all current listeners of the channel, in every replica; this one
        too.
        """
        for queue in self._listeners.get(channel, ()):
            offer(queue, text)

    @asynccontextmanager
    async def subscribe(self, channel: str) -> AsyncIterator[AsyncIterator[str]]:
        """Listen while the context lasts. A slow listener loses the oldest messages (`BACKLOG` are
        kept).
        """
        queue: asyncio.Queue[str] = asyncio.Queue(BACKLOG)
        self._listeners[channel].add(queue)
        try:
            yield from_queue(queue)
        finally:
            self._listeners[channel].discard(queue)
            if not self._listeners[channel]:
                del self._listeners[channel]

    async def check(self) -> None:
        """Return when the last write worked; without a recent one, write."""

    async def close(self) -> None:
        """Close the connections."""

    def __len__(self) -> int:
        return len(self._entries)

    def _alive(self, key: str) -> _Entry | None:
        now = self._now()
        if now - self._swept > _SWEEP:
            self._swept = now
            self._entries = {
                name: entry for name, entry in self._entries.items() if entry.ends > now
            }
        entry = self._entries.get(key)
        if entry is not None and entry.ends > now:
            return entry
        return None


def offer(queue: "asyncio.Queue[str]", text: str) -> None:
    """Put without waiting; a full queue drops its oldest."""
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(text)


async def from_queue(queue: "asyncio.Queue[str]") -> AsyncIterator[str]:
    """The messages of a queue, without end."""
    while True:
        yield await queue.get()


class RedisSharedState:
    """Shared state of several replicas in Redis 6.2 or newer, with the methods of
    `MemorySharedState`.

    All keys begin with `vdi:`. Every method raises SharedUnavailableError. After a command without a
    response it is raised at once, until a ping is answered: what waits for a silent Redis holds up
    what could be refused (`in_flight.TOKEN_LOOKUPS`).
    """

    def __init__(self, url: str) -> None:
        # With a `socket_timeout`, its default, redis-py sends through asyncio.wait_for. In Python
        # 3.11 that can lose a cancellation: the task goes on, and its canceller waits for ever. So
        # `_within` has the deadlines.
        client = partial(
            Redis.from_url,
            url,
            decode_responses=True,
            socket_connect_timeout=2.0,
            socket_timeout=None,
        )
        self._redis = client(health_check_interval=30, max_connections=64)
        self._listening = client()
        self._last_write = LastWrite(SharedUnavailableError)
        self._deadlines: set[asyncio.Timeout] = set()
        # Pings Redis while it is silent.
        self._pinging: asyncio.Task[None] | None = None
        self._count = self._redis.register_script(_COUNT)
        self._uncount = self._redis.register_script(_UNCOUNT)
        self._hold = self._redis.register_script(_HOLD)

    async def take_once(self, key: str, seconds: float) -> bool:
        milliseconds = _milliseconds(seconds)
        return bool(
            await self._write(lambda: self._redis.set(_key(key), "", nx=True, px=milliseconds))
        )

    async def count(self, key: str, seconds: float) -> int:
        arguments = [_milliseconds(seconds)]
        return int(await self._write(lambda: self._count(keys=[_key(key)], args=arguments)))

    async def uncount(self, key: str) -> None:
        await self._ask(lambda: self._uncount(keys=[_key(key)]))

    async def put(self, key: str, value: str, seconds: float) -> None:
        milliseconds = _milliseconds(seconds)
        await self._write(lambda: self._redis.set(_key(key), value, px=milliseconds))

    async def get(self, key: str) -> str | None:
        value = await self._ask(lambda: self._redis.get(_key(key)))
        return None if value is None else str(value)

    async def hold(self, key: str, value: str, seconds: float) -> str:
        arguments: list[str | int] = [value, _milliseconds(seconds)]
        return str(await self._ask(lambda: self._hold(keys=[_key(key)], args=arguments)))

    async def pop(self, key: str) -> str | None:
        value = await self._ask(lambda: self._redis.getdel(_key(key)))
        return None if value is None else str(value)

    async def publish(self, channel: str, text: str) -> None:
        await self._ask(lambda: self._redis.publish(_key(channel), text))

    @asynccontextmanager
    async def subscribe(self, channel: str) -> AsyncIterator[AsyncIterator[str]]:
        """Listen while the context lasts. A lost connection is opened again; messages in between
        are lost.
        """
        queue: asyncio.Queue[str] = asyncio.Queue(BACKLOG)
        ready = asyncio.Event()
        listener = asyncio.create_task(
            self._listen(_key(channel), queue, ready), name=f"listening on {channel}"
        )
        try:
            try:
                async with asyncio.timeout(_SUBSCRIBE_SECONDS):
                    await ready.wait()
            except TimeoutError as error:
                raise SharedUnavailableError(
                    f"Redis: no response within {_SUBSCRIBE_SECONDS:g} s"
                ) from error
            yield from_queue(queue)
        finally:
            listener.cancel()
            with suppress(asyncio.CancelledError):
                await listener

    async def check(self) -> None:
        await self._last_write.check(partial(self.put, "health", "", 60))

    async def close(self) -> None:
        if self._pinging:
            self._pinging.cancel()
            with suppress(asyncio.CancelledError):
                await self._pinging
        await self._redis.aclose()
        await self._listening.aclose()

    async def _write(self, send: Callable[[], Awaitable[T]]) -> T:
        """The response to a command that always needs memory, which a full Redis and a replica
        refuse.
        """
        with self._last_write.record():
            return await self._ask(send)

    async def _ask(self, send: Callable[[], Awaitable[T]]) -> T:
        """The response to a command. Raises SharedUnavailableError."""
        if self._pinging:
            raise SharedUnavailableError("Redis has not responded lately")
        deadline = asyncio.timeout(_RESPONSE_SECONDS)
        self._deadlines.add(deadline)
        try:
            async with deadline:
                return await send()
        except (TimeoutError, RedisTimeoutError) as error:
            self._note_silence()
            raise SharedUnavailableError("Redis does not respond in time") from error
        except RedisError as error:
            problem = "Redis does not respond as expected"
            if is_unknown_host(error):
                problem = "cannot resolve its host name"
            raise SharedUnavailableError(f"{problem}: {error}") from error
        finally:
            self._deadlines.discard(deadline)

    def _note_silence(self) -> None:
        """Refuse all commands from now on, soon also those under way, until a ping is answered."""
        if self._pinging:
            return
        self._pinging = asyncio.create_task(self._ping())
        latest = asyncio.get_running_loop().time() + _LAST_SECONDS
        for deadline in self._deadlines:
            when = deadline.when()
            if when is not None and when > latest and not deadline.expired():
                deadline.reschedule(latest)

    async def _ping(self) -> None:
        try:
            while True:
                if not await self._is_silent():
                    return
                await asyncio.sleep(_LISTEN_AGAIN)
        finally:
            self._pinging = None

    async def _is_silent(self) -> bool:
        try:
            async with asyncio.timeout(_LAST_SECONDS):
                # Connections to an address that is gone stay silent: the ping gets a new one.
                await self._redis.connection_pool.disconnect(inuse_connections=False)
                await self._redis.ping()
        except (TimeoutError, RedisTimeoutError):
            return True
        except (RedisError, OSError):
            pass  # commands fail at once, and say why
        return False

    async def _listen(self, key: str, queue: "asyncio.Queue[str]", ready: asyncio.Event) -> None:
        while True:
            try:
                async with self._listening.pubsub() as pubsub:
                    await _within(pubsub.subscribe(key))
                    await _take(pubsub, queue, ready)
            except RedisError as error:
                log.warning("Redis: listening on %s is interrupted: %s", key, error)
            await asyncio.sleep(_LISTEN_AGAIN)


async def _take(pubsub: PubSub, queue: "asyncio.Queue[str]", ready: asyncio.Event) -> None:
    """Hand on messages until the connection is lost. A connection that stays silent must answer a
    ping.
    """
    asked = False
    while True:
        message = await _within(pubsub.get_message(timeout=_SILENCE), _SILENCE + _RESPONSE_SECONDS)
        if message is not None:
            asked = False
            if message["type"] == "subscribe":
                ready.set()
            elif message["type"] == "message":
                offer(queue, message["data"])
        elif asked:
            raise RedisConnectionError(f"no response for {_SILENCE:g} s")
        else:
            await _within(pubsub.ping())
            asked = True


SharedState = MemorySharedState | RedisSharedState


def open_shared_state(redis_url: str) -> SharedState:
    """The shared state in Redis; without a URL that of this process."""
    if redis_url:
        return RedisSharedState(redis_url)
    return MemorySharedState()


def _key(key: str) -> str:
    return f"vdi:{key}"


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


async def _within(response: Awaitable[T], seconds: float = _RESPONSE_SECONDS) -> T:
    """The response, within this time. Raises RedisConnectionError."""
    try:
        async with asyncio.timeout(seconds):
            return await response
    except TimeoutError:
        raise RedisConnectionError(f"no response within {seconds:g} s") from None
