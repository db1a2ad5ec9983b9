"""Client of the latency probe: enters a desktop, receives its stream, presses keys and reads the
picture.

    ticket -> /.vdi/enter -> cookies -> /api/health -> wss /api/websockets
           -> SETTINGS -> pictures -> keys -> pictures that change

It takes the route of a browser: name, Traefik, TLS, the gateway's check, WebSocket. A failure names
its stage.
"""

import asyncio
import base64
import json
import random
import secrets
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vdi.http_client import HTTP_ERRORS, HttpClient, address_of, open_client, proxy_for, reason_of
from vdi.latency_probe.frames import DecodeError, Screen, missing_between, read_stripe
from vdi.latency_probe.measurements import Mark, Measurements

if TYPE_CHECKING:  # installed with the extra `probe` only
    from websockets.asyncio.client import ClientConnection


STATE_COOKIE = "__Host-vdi-state"  # vdi.gateway.edge.headers
# A key frame of a screen with 4K has up to 4 MiB.
MAX_MESSAGE_BYTES = 8 * 2**20

PICTURE_SECONDS = 15.0
# How long Traefik may take to have the route of a desktop that has just started: its own throttle
# is 2 s.
ROUTE_SECONDS = 15.0
_POLL_SECONDS = 0.2
_NO_ROUTE = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)
_ANSWER_SECONDS = 20.0
EFFECT_SECONDS = 1.0
ACK_SECONDS = 0.05
# Keys pressed before those that count: the first one makes the mark appear, whatever the colour
# below it.
WARM_UP_PRESSES = 3
# Only the mark changes the brightness by this much (of 255).
BRIGHTNESS_STEP = 80.0
# Shortest and longest pause between two keys. It is random, so that keys do not fall in step with
# the frames.
PAUSE_SECONDS = (0.06, 0.14)
# The first part of the animation, which does not count.
RAMP_SECONDS = 0.25


class StageError(Exception):
    """Raised when a stage fails: `entering`, `connecting`, `first picture`, `the mark`,
    `measuring`.
    """

    def __init__(self, stage: str, message: str) -> None:
        self.stage = stage
        super().__init__(f"{stage}: {message}")


@dataclass(frozen=True, slots=True)
class DesktopAccess:
    """Access to one desktop, as issued by the gateway for one visit."""

    url: str
    ticket: str
    state: str
    mark: Mark
    # ADDRESS:PORT to connect to, in place of the address that the host's name resolves to.
    connect: str = ""


@dataclass(slots=True)
class Stream:
    """State of a received stream. Written by the receiving task alone."""

    screen: Screen
    mode: str = ""
    # Why the desktop closed the connection, as it reported it.
    close_reason: str = ""
    closed: bool = False
    first_picture: float | None = None
    brightness: float | None = None
    last_id: int | None = None
    # Of each stripe: time, frame id, bytes.
    arrivals: list[tuple[float, int, int]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def receive(self, message: bytes, now: float) -> None:
        """Count and decode a binary message of Selkies that arrived at `now`."""
        stripe = read_stripe(message)
        if stripe is None:
            return
        self.arrivals.append((now, stripe.frame_id, len(message)))
        self.last_id = stripe.frame_id
        found = self.screen.show(stripe)
        if found is not None:
            self.brightness = found
            if self.first_picture is None:
                self.first_picture = time.perf_counter()
        self.notify()

    def notify(self) -> None:
        """Wake all tasks that wait for a change."""
        self.changed.set()
        self.changed = asyncio.Event()

    def frames(self, begin: float, end: float) -> list[int]:
        """Ids of the frames that arrived in this time, each once."""
        return list(
            dict.fromkeys(frame_id for at, frame_id, _ in self.arrivals if begin <= at < end)
        )

    def bytes(self, begin: float, end: float) -> int:
        """Bytes of video that arrived in this time."""
        return sum(size for at, _, size in self.arrivals if begin <= at < end)


async def probe(
    access: DesktopAccess, presses: int, tls: ssl.SSLContext | None = None
) -> Measurements:
    """Enter, measure, leave. `tls`: for a certificate authority that the machine does not trust.
    Raises StageError.
    """
    begun = time.perf_counter()
    async with open_client(
        access.url, seconds=_ANSWER_SECONDS, tls=tls, connect=access.connect
    ) as http:
        cookies = await _enter(http, access)
        try:
            await _until_routed(http, access, cookies)
            return await _watch(access, cookies, presses, begun, tls)
        finally:
            await _leave(http, access, cookies)


async def _enter(http: HttpClient, access: DesktopAccess) -> str:
    headers = {"Cookie": f"{STATE_COOKIE}={access.state}"}
    query = {"ticket": access.ticket, "next": "/"}
    try:
        answer = await http.request(
            "GET", f"{access.url}/.vdi/enter", params=query, headers=headers
        )
    except HTTP_ERRORS as error:
        raise StageError(
            "entering", f"{access.url} cannot be reached: {reason_of(error)}"
        ) from error
    given = [cookie.split(";")[0] for cookie in answer.headers.get_list("Set-Cookie")]
    if answer.status != HTTPStatus.FOUND or not given:
        raise StageError(
            "entering",
            f"{access.url} responds with {answer.status} to a ticket that was just created",
        )
    return "; ".join(given)


async def _until_routed(http: HttpClient, access: DesktopAccess, cookies: str) -> None:
    """Wait until Traefik routes to the desktop, as the waiting page does. The handshake reports any
    other failure.
    """
    deadline = time.perf_counter() + ROUTE_SECONDS
    with suppress(*HTTP_ERRORS):
        while time.perf_counter() < deadline:
            answer = await http.request(
                "GET", f"{access.url}/api/health", headers={"Cookie": cookies}
            )
            if answer.status not in _NO_ROUTE:
                return
            await asyncio.sleep(_POLL_SECONDS)


async def _leave(http: HttpClient, access: DesktopAccess, cookies: str) -> None:
    """End the grant. It ends with the login anyway, so a failure is ignored."""
    with suppress(*HTTP_ERRORS):
        await http.request(
            "POST", f"{access.url}/.vdi/leave", headers={"Cookie": cookies, "Origin": access.url}
        )


async def _watch(
    access: DesktopAccess, cookies: str, presses: int, begun: float, tls: ssl.SSLContext | None
) -> Measurements:
    from websockets.asyncio.client import connect
    from websockets.exceptions import InvalidHandshake, InvalidStatus
    from websockets.typing import Origin, Subprotocol

    address = f"ws{access.url.removeprefix('http')}/api/websockets"
    # As Selkies' page offers one; the edge replaces it.
    token = base64.urlsafe_b64encode(b"edge").decode().rstrip("=")
    host, _, port = (access.connect or address_of(access.url)).partition(":")
    fixed: dict[str, Any] = ({"host": host} if host else {}) | ({"port": int(port)} if port else {})
    try:
        async with connect(
            address,
            ssl=(tls or ssl.create_default_context()) if address.startswith("wss:") else None,
            subprotocols=[Subprotocol("selkies"), Subprotocol(f"selkies.token.{token}")],
            origin=Origin(access.url),
            additional_headers={"Cookie": cookies},
            proxy=None if access.connect else proxy_for(access.url),
            open_timeout=_ANSWER_SECONDS,
            ping_interval=None,
            compression=None,
            max_size=MAX_MESSAGE_BYTES,
            **fixed,
        ) as socket:
            return await measure(socket, access.mark, presses, begun)
    except InvalidStatus as error:
        raise StageError("connecting", _handshake_error(error.response.status_code)) from error
    except (InvalidHandshake, *HTTP_ERRORS) as error:
        host = urlsplit(access.url).netloc
        raise StageError("connecting", f"no WebSocket to {host}: {reason_of(error)}") from error


def _handshake_error(status: int) -> str:
    known = {
        401: "the gateway does not recognise the cookies that it has just set (401)",
        409: "this desktop streams by WebRTC now (409); the probe measures its WebSocket",
        502: "Traefik cannot reach the desktop (502)",
        503: (
            "the gateway admits no one right now (503): the desktop is suspended, or the gateway is"
            " starting"
        ),
    }
    return known.get(status, f"the response to the handshake is {status}")


async def measure(
    socket: "ClientConnection", mark: Mark, presses: int, begun: float
) -> Measurements:
    """Measure the stream of an open connection to Selkies. `begun`: start of the probe
    (`time.perf_counter`).
    """
    stream = Stream(Screen(mark.x, mark.y, mark.size))
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_receive(socket, stream))
            acks = tasks.create_task(_acknowledge(socket, stream))
            try:
                return await _measure(socket, stream, mark, presses, begun)
            finally:
                acks.cancel()
                await socket.close()
    except* StageError as found:
        raise _first(found) from None
    except* DecodeError as found:
        raise StageError("first picture", str(_first(found))) from None


async def _first_picture(
    socket: "ClientConnection", stream: Stream, width: int, height: int, begun: float
) -> float:
    await _until(
        stream,
        lambda: bool(stream.mode),
        PICTURE_SECONDS,
        "connecting",
        "the desktop sends nothing",
    )
    settings = {
        "displayId": "primary",
        "tabId": secrets.token_hex(
            8
        ),  # not the person's: the probe joins beside them and resizes nothing
        "initialClientWidth": width,
        "initialClientHeight": height,
    }
    await socket.send(f"SETTINGS,{json.dumps(settings)}")
    message = (
        f"no picture within {PICTURE_SECONDS:.0f} s; the page shows 'Waiting for stream'. See `vdi"
        " session logs`"
    )
    await _until(
        stream, lambda: stream.first_picture is not None, PICTURE_SECONDS, "first picture", message
    )
    return (stream.first_picture or 0.0) - begun


async def _measure(
    socket: "ClientConnection", stream: Stream, mark: Mark, presses: int, begun: float
) -> Measurements:
    first_picture = await _first_picture(socket, stream, mark.width, mark.height, begun)
    seen = [await _press(socket, stream, mark.flip) for _ in range(WARM_UP_PRESSES)]
    if not any(seen):
        raise StageError(
            "the mark",
            "keys are sent, but the picture does not respond: it is frozen, or the desktop receives"
            " no keys",
        )
    start = time.perf_counter()
    latencies = [await _press(socket, stream, mark.flip) for _ in range(presses)]
    played = time.perf_counter()
    await _key(socket, mark.play)
    await asyncio.sleep(mark.play_seconds)
    end = time.perf_counter()
    if stream.closed:
        raise _closed("measuring", stream)
    ids = stream.frames(start, end)
    playing = stream.frames(played + RAMP_SECONDS, end)
    return Measurements(
        first_picture_seconds=round(first_picture, 3),
        frames_per_second=round(len(playing) / (end - played - RAMP_SECONDS), 1),
        input_to_photon_ms=[
            round(latency * 1000, 2) for latency in latencies if latency is not None
        ],
        keys_without_effect=sum(latency is None for latency in latencies),
        bitrate_kbps=round(stream.bytes(start, end) * 8 / 1000 / (end - start), 1),
        frames=len(ids),
        frames_dropped=sum(missing_between(before, after) for before, after in pairwise(ids)),
    )


async def _press(socket: "ClientConnection", stream: Stream, key: int) -> float | None:
    """Press one key, then pause. Returns the seconds until the picture shows it; None when it does
    not in time.
    """
    before, sent = stream.brightness or 0.0, time.perf_counter()
    await _key(socket, key)
    latency: float | None = None
    try:
        async with asyncio.timeout(EFFECT_SECONDS):
            while abs((stream.brightness or 0.0) - before) < BRIGHTNESS_STEP:
                if stream.closed:
                    raise _closed("measuring", stream)
                await stream.changed.wait()
            latency = time.perf_counter() - sent
    except TimeoutError:
        pass
    await asyncio.sleep(random.uniform(*PAUSE_SECONDS))  # noqa: S311 - nothing secret
    return latency


async def _key(socket: "ClientConnection", key: int) -> None:
    from websockets.exceptions import ConnectionClosed

    with suppress(ConnectionClosed):  # `_receive` reports why
        await socket.send(f"kd,{key}")
        await socket.send(f"ku,{key}")


async def _until(
    stream: Stream, there: Callable[[], bool], seconds: float, stage: str, message: str
) -> None:
    try:
        async with asyncio.timeout(seconds):
            while not there():
                if stream.closed:
                    raise _closed(stage, stream)
                await stream.changed.wait()
    except TimeoutError:
        raise StageError(stage, message) from None


def _closed(stage: str, stream: Stream) -> StageError:
    return StageError(
        stage, f"the desktop closed the connection: {stream.close_reason or 'without a reason'}"
    )


async def _receive(socket: "ClientConnection", stream: Stream) -> None:
    from websockets.exceptions import ConnectionClosed
    from websockets.frames import CloseCode

    with suppress(ConnectionClosed):
        async for message in socket:
            if isinstance(message, bytes):
                stream.receive(message, time.perf_counter())
                continue
            kind, _, rest = message.partition(" ")
            if kind == "MODE":
                stream.mode = rest
            elif kind == "KILL":
                stream.close_reason = rest
            stream.notify()
    stream.closed = True
    if (sent := socket.protocol.close_sent) is not None and sent.code == CloseCode.MESSAGE_TOO_BIG:
        stream.close_reason = f"it sent a message of more than {MAX_MESSAGE_BYTES} bytes"
    stream.close_reason = stream.close_reason or (
        f"close code {socket.close_code}" if socket.close_code else ""
    )
    stream.notify()


async def _acknowledge(socket: "ClientConnection", stream: Stream) -> None:
    """Acknowledge frames as Selkies' page does: without it the desktop holds frames back."""
    from websockets.exceptions import ConnectionClosed

    with suppress(ConnectionClosed):
        while not stream.closed:
            if stream.last_id is not None:
                await socket.send(f"CLIENT_FRAME_ACK {stream.last_id} 0")
            await asyncio.sleep(ACK_SECONDS)


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    error = group.exceptions[0]
    if isinstance(error, BaseExceptionGroup):
        return _first(error)
    return error
