"""A person's browser without the browser: enters a desktop, watches its stream, presses keys, and looks at the picture.

    ticket -> /.vdi/enter -> cookies -> wss /api/websockets -> SETTINGS -> pictures -> keys -> pictures that change

Everything goes the way that a browser goes: name, Traefik, TLS, the gateway's check, WebSocket. A failure names the
stage in which it happened.
"""

import asyncio
import base64
import json
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from urllib.parse import urlsplit

import aiohttp

from vdi.photon.figures import Figures
from vdi.photon.frames import CannotDecodeError, Screen, missing_between, read_stripe
from vdi.photon.mark import Mark

STATE_COOKIE = "__Host-vdi-state"  # vdi.gateway.edge.headers
PICTURE_SECONDS = 15.0
EFFECT_SECONDS = 1.0
ACK_SECONDS = 0.05
WARMING = 3
"""Presses before those that count: the first one makes the mark appear, on whatever colour there is."""
STEP = 80.0
"""A change of brightness that only the mark makes."""
PAUSES = (0.06, 0.14)
"""Seconds between two keys, by chance: the keys must not fall in step with the frames."""
RAMP = 0.25
"""Seconds at the beginning of the play that do not count."""


class StageError(Exception):
    """Raised when a stage of the way fails: `entering`, `connecting`, `first picture`, `the mark`."""

    def __init__(self, stage: str, words: str) -> None:
        self.stage = stage
        super().__init__(f"{stage}: {words}")


@dataclass(frozen=True, slots=True)
class Way:
    """What the gateway gave for one entrance."""

    url: str
    ticket: str
    state: str
    mark: Mark
    proxy: str | None = None


@dataclass(slots=True)
class Stream:
    """What has arrived. Written by the receiving task alone."""

    screen: Screen
    mode: str = ""
    told: str = ""
    """Why the desktop ended the connection, in its words."""
    over: bool = False
    first: float | None = None
    brightness: float | None = None
    last_id: int | None = None
    arrivals: list[tuple[float, int, int]] = field(default_factory=list)
    """Of each stripe: when, frame id, bytes."""
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, message: bytes, now: float) -> None:
        """One binary message."""
        stripe = read_stripe(message)
        if stripe is None:
            return
        self.arrivals.append((now, stripe.frame_id, len(message)))
        self.last_id = stripe.frame_id
        found = self.screen.show(stripe)
        if found is not None:
            self.brightness = found
            if self.first is None:
                self.first = time.perf_counter()
        self.tell()

    def tell(self) -> None:
        """Wake who waits."""
        self.news.set()
        self.news = asyncio.Event()

    def frames(self, begin: float, end: float) -> list[int]:
        """Ids of the frames that arrived then, each once."""
        return list(dict.fromkeys(frame_id for at, frame_id, _ in self.arrivals if begin <= at < end))

    def bytes(self, begin: float, end: float) -> int:
        """Of video, that arrived then."""
        return sum(size for at, _, size in self.arrivals if begin <= at < end)


async def probe(http: aiohttp.ClientSession, way: Way, presses: int) -> Figures:
    """Enter, measure, leave. `http` keeps no cookies and has no headers of its own. Raises StageError."""
    begun = time.perf_counter()
    cookies = await _enter(http, way)
    try:
        return await _watch(http, way, cookies, presses, begun)
    finally:
        await _leave(http, way, cookies)


async def _enter(http: aiohttp.ClientSession, way: Way) -> str:
    headers = {"Cookie": f"{STATE_COOKIE}={way.state}"}
    query = {"ticket": way.ticket, "next": "/"}
    try:
        async with http.get(
            f"{way.url}/.vdi/enter", params=query, headers=headers, proxy=way.proxy, allow_redirects=False
        ) as answer:
            given = [each.split(";")[0] for each in answer.headers.getall("Set-Cookie", [])]
            if answer.status != 302 or not given:
                raise StageError("entering", f"{way.url} answers {answer.status} to a ticket that was just made")
            return "; ".join(given)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise StageError("entering", f"{way.url} cannot be reached: {str(error) or type(error).__name__}") from error


async def _leave(http: aiohttp.ClientSession, way: Way, cookies: str) -> None:
    """End the grant. It would end with the login anyway, so a failure is no matter."""
    headers = {"Cookie": cookies, "Origin": way.url}
    try:
        async with http.post(f"{way.url}/.vdi/leave", headers=headers, proxy=way.proxy, allow_redirects=False):
            pass
    except (aiohttp.ClientError, TimeoutError, OSError):
        return


async def _watch(http: aiohttp.ClientSession, way: Way, cookies: str, presses: int, begun: float) -> Figures:
    address = f"ws{way.url.removeprefix('http')}/api/websockets"
    token = base64.urlsafe_b64encode(b"edge").decode().rstrip("=")  # as Selkies' page offers one; the edge replaces it
    try:
        async with http.ws_connect(
            address,
            protocols=("selkies", f"selkies.token.{token}"),
            origin=way.url,
            headers={"Cookie": cookies},
            proxy=way.proxy,
            max_msg_size=0,
        ) as socket:
            return await measure(socket, way.mark, presses, begun)
    except aiohttp.WSServerHandshakeError as error:
        raise StageError("connecting", _refused(error.status)) from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        host = urlsplit(way.url).netloc
        raise StageError("connecting", f"no WebSocket to {host}: {str(error) or type(error).__name__}") from error


def _refused(status: int) -> str:
    known = {
        401: "the gateway does not know the cookies that it has just given (401)",
        409: "this desktop streams by WebRTC now (409); the probe measures its WebSocket",
        502: "Traefik does not reach the desktop (502)",
        503: "the gateway lets nobody in just now (503): suspended, or a gateway that is starting",
    }
    return known.get(status, f"the handshake is answered with {status}")


async def measure(socket: aiohttp.ClientWebSocketResponse, mark: Mark, presses: int, begun: float) -> Figures:
    """With an open connection to Selkies: its stream's figures. `begun`: when the way began (`time.perf_counter`)."""
    stream = Stream(Screen(mark.x, mark.y, mark.size))
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_receive(socket, stream))
            acks = tasks.create_task(_acknowledge(socket, stream))
            try:
                figures = await _measure(socket, stream, mark, presses, begun)
            finally:
                acks.cancel()
                await socket.close()
            return figures
    except* StageError as found:
        raise _first(found) from None
    except* CannotDecodeError as found:
        raise StageError("first picture", str(_first(found))) from None


async def _measure(
    socket: aiohttp.ClientWebSocketResponse, stream: Stream, mark: Mark, presses: int, begun: float
) -> Figures:
    await _until(stream, lambda: bool(stream.mode), PICTURE_SECONDS, "connecting", "the desktop says nothing")
    settings = {
        "displayId": "primary",
        "tabId": secrets.token_hex(
            8
        ),  # another one than the person's: the probe joins beside them, and resizes nothing
        "initialClientWidth": mark.width,
        "initialClientHeight": mark.height,
    }
    await socket.send_str(f"SETTINGS,{json.dumps(settings)}")
    words = f"no picture within {PICTURE_SECONDS:.0f} s; a person sees 'Waiting for stream'. See `vdi session logs`"
    await _until(stream, lambda: stream.first is not None, PICTURE_SECONDS, "first picture", words)
    first = (stream.first or 0.0) - begun
    seen = [await _press(socket, stream, mark.flip) for _ in range(WARMING)]
    if not any(seen):
        raise StageError("the mark", "keys are sent, and the picture does not follow: it stands still, or gets no keys")
    start = time.perf_counter()
    taken = [await _press(socket, stream, mark.flip) for _ in range(presses)]
    played = time.perf_counter()
    await _key(socket, mark.play)
    await asyncio.sleep(mark.play_seconds)
    end = time.perf_counter()
    if stream.over:
        raise StageError("measuring", f"the desktop ended the connection: {stream.told or 'without a word'}")
    ids = stream.frames(start, end)
    playing = stream.frames(played + RAMP, end)
    return Figures(
        first_picture_seconds=round(first, 3),
        frames_per_second=round(len(playing) / (end - played - RAMP), 1),
        input_to_photon_ms=[round(one * 1000, 2) for one in taken if one is not None],
        keys_without_effect=sum(one is None for one in taken),
        bitrate_kbps=round(stream.bytes(start, end) * 8 / 1000 / (end - start), 1),
        frames=len(ids),
        frames_dropped=sum(missing_between(one, two) for one, two in pairwise(ids)),
    )


async def _press(socket: aiohttp.ClientWebSocketResponse, stream: Stream, key: int) -> float | None:
    """Seconds until the picture shows it; None: not in time. Then a pause."""
    before, sent = stream.brightness or 0.0, time.perf_counter()
    await _key(socket, key)
    took: float | None = None
    try:
        async with asyncio.timeout(EFFECT_SECONDS):
            while abs((stream.brightness or 0.0) - before) < STEP:
                if stream.over:
                    raise StageError(
                        "measuring", f"the desktop ended the connection: {stream.told or 'without a word'}"
                    )
                await stream.news.wait()
            took = time.perf_counter() - sent
    except TimeoutError:
        pass
    await asyncio.sleep(random.uniform(*PAUSES))  # noqa: S311 - nothing secret
    return took


async def _key(socket: aiohttp.ClientWebSocketResponse, key: int) -> None:
    await socket.send_str(f"kd,{key}")
    await socket.send_str(f"ku,{key}")


async def _until(stream: Stream, there: Callable[[], bool], seconds: float, stage: str, words: str) -> None:
    try:
        async with asyncio.timeout(seconds):
            while not there():
                if stream.over:
                    raise StageError(stage, f"the desktop ended the connection: {stream.told or 'without a word'}")
                await stream.news.wait()
    except TimeoutError:
        raise StageError(stage, words) from None


async def _receive(socket: aiohttp.ClientWebSocketResponse, stream: Stream) -> None:
    async for message in socket:
        if message.type is aiohttp.WSMsgType.BINARY:
            stream.take(message.data, time.perf_counter())
        elif message.type is aiohttp.WSMsgType.TEXT:
            kind, _, rest = message.data.partition(" ")
            if kind == "MODE":
                stream.mode = rest
            elif kind == "KILL":
                stream.told = rest
            stream.tell()
    stream.over = True
    stream.told = stream.told or (f"close code {socket.close_code}" if socket.close_code else "")
    stream.tell()


async def _acknowledge(socket: aiohttp.ClientWebSocketResponse, stream: Stream) -> None:
    """As Selkies' page does: without it the desktop holds frames back."""
    while not socket.closed:
        if stream.last_id is not None:
            await socket.send_str(f"CLIENT_FRAME_ACK {stream.last_id} 0")
        await asyncio.sleep(ACK_SECONDS)


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found
