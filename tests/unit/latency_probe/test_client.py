"""The probe against a host that speaks Selkies' protocol: measurements, and the stage of each
failure.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from aiohttp import web

from support.web_server import serve_app
from unit.latency_probe.selkies_stream import Encoder
from vdi.devcluster.credentials import authority
from vdi.http_client import unverified
from vdi.latency_probe import client
from vdi.latency_probe.client import DesktopAccess, StageError, probe
from vdi.latency_probe.measurements import Mark

HOST = "alice.vdi.localhost"
MARK = Mark(x=0, y=0, size=48, width=128, height=64, flip=11, play=12, play_seconds=0.5)


@dataclass
class Desktop:
    """A desktop's host: the access in, and Selkies."""

    enter: int = 302
    # Status of a handshake that is refused.
    handshake: int = 0
    kill: str = ""
    # A message that is too large.
    large: bool = False
    # No picture.
    silent: bool = False
    # A picture that follows no key.
    still: bool = False
    # Frames that are numbered and not sent, after each flip.
    skip: int = 0
    # How often the host answers that Traefik does not lead to the desktop yet.
    unrouted: int = 0
    seen: list[str] = field(default_factory=list)

    async def health(self, request: web.Request) -> web.Response:
        self.seen.append(f"health {request.headers['Cookie']}")
        self.unrouted -= 1
        return web.Response(status=503 if self.unrouted >= 0 else 404)

    async def go_in(self, request: web.Request) -> web.Response:
        self.seen.append(f"enter {request.query['ticket']} {request.headers['Cookie']}")
        answer = web.Response(
            status=self.enter, headers={"Location": "/"} if self.enter == 302 else {}
        )
        answer.set_cookie("__Host-vdi-desktop", "token", secure=True, path="/")
        answer.set_cookie("__Host-vdi-grant", "handle", secure=True, path="/")
        return answer

    async def go_out(self, request: web.Request) -> web.Response:
        self.seen.append(f"leave {request.headers['Origin']} {request.headers['Cookie']}")
        return web.Response(status=303, headers={"Location": "/"})

    async def stream(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(f"socket {request.headers['Origin']} {request.headers.get('Cookie', '')}")
        if self.handshake:
            return web.Response(status=self.handshake)
        socket = web.WebSocketResponse(protocols=("selkies",))
        await socket.prepare(request)
        await socket.send_str("MODE websockets")
        encoder, number, grey = Encoder(), 65_530, 0
        async for message in socket:
            text = str(message.data)
            self.seen.append(text.partition(" ")[0].partition(",")[0])
            if text.startswith("SETTINGS,"):
                if self.kill:
                    await socket.send_str(f"KILL {self.kill}")
                    await socket.close()
                elif self.large:
                    await socket.send_bytes(bytes(client.MAX_MESSAGE_BYTES + 1))
                elif not self.silent:
                    await socket.send_bytes(encoder.message(grey, number))
            if text == "kd,11":
                grey = grey if self.still else 255 - grey
                number = (number + 1 + self.skip) % 65_536
                await socket.send_bytes(encoder.message(grey, number))
            if text == "kd,12":
                for _ in range(10):
                    number = (number + 1) % 65_536
                    await socket.send_bytes(encoder.message(grey, number))
        return socket


@asynccontextmanager
async def access_to(
    desktop: Desktop, certificate: tuple[Path, Path] | None = None
) -> AsyncIterator[DesktopAccess]:
    """With a certificate by TLS, at a name that only browsers know to be this machine."""
    app = web.Application()
    app.router.add_get("/.vdi/enter", desktop.go_in)
    app.router.add_post("/.vdi/leave", desktop.go_out)
    app.router.add_get("/api/health", desktop.health)
    app.router.add_get("/api/websockets", desktop.stream)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if certificate else None
    if tls and certificate:
        tls.load_cert_chain(*certificate)
    async with serve_app(app, tls=tls) as port:
        yield DesktopAccess(
            f"https://{HOST}:{port}" if tls else f"http://127.0.0.1:{port}",
            "one-use",
            "the-state",
            MARK,
        )


async def test_probe_enters_measures_and_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAUSE_SECONDS", (0.01, 0.02))
    monkeypatch.setattr(client, "RAMP_SECONDS", 0.0)
    desktop = Desktop(skip=1)
    async with access_to(desktop) as access:
        found = await probe(access, 10)
    assert len(found.input_to_photon_ms) == 10
    assert all(0 < one < 1000 for one in found.input_to_photon_ms)
    assert (found.keys_without_effect, found.frames, found.frames_dropped) == (0, 20, 9)
    assert 0 < found.frames_per_second <= 20
    assert found.first_picture_seconds > 0
    assert found.bitrate_kbps > 0
    cookies = "__Host-vdi-desktop=token; __Host-vdi-grant=handle"
    assert desktop.seen[0] == "enter one-use __Host-vdi-state=the-state"
    assert desktop.seen[1:3] == [f"health {cookies}", f"socket {access.url} {cookies}"]
    assert desktop.seen[-1] == f"leave {access.url} {cookies}"
    assert {"SETTINGS", "CLIENT_FRAME_ACK", "kd", "ku"} <= set(desktop.seen)


async def test_probe_waits_for_the_route_of_a_new_desktop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_POLL_SECONDS", 0.01)
    desktop = Desktop(unrouted=3)
    async with access_to(desktop) as access:
        assert len((await probe(access, 5)).input_to_photon_ms) == 5
    assert [line.partition(" ")[0] for line in desktop.seen[:6]] == [
        "enter",
        *["health"] * 4,
        "socket",
    ]


async def test_probe_connects_to_another_address_with_the_host_name(tmp_path: Path) -> None:
    ca = authority(tmp_path, "ca", "A test's own authority")
    desktop = Desktop()
    async with access_to(desktop, ca.issue("good", HOST, names=[HOST], server=True)) as access:
        connect = f"127.0.0.1:{access.url.rpartition(':')[2]}"
        named = replace(access, url="https://desktop.example.com", connect=connect)
        assert len((await probe(named, 5, unverified())).input_to_photon_ms) == 5
    assert [line for line in desktop.seen if line.startswith("socket https://desktop.example.com ")]


async def test_the_certificate_is_checked_against_the_name(tmp_path: Path) -> None:
    ca = authority(tmp_path, "ca", "A test's own authority")
    trust = ssl.create_default_context(cafile=ca.file)
    desktop = Desktop()
    async with access_to(desktop, ca.issue("good", HOST, names=[HOST], server=True)) as access:
        assert len((await probe(access, 5, trust)).input_to_photon_ms) == 5
        with pytest.raises(StageError, match=r"entering.*certificate verify failed"):
            await probe(access, 5)
    async with access_to(
        desktop, ca.issue("other", "x", names=["bob.vdi.localhost"], server=True)
    ) as access:
        with pytest.raises(StageError, match=r"entering.*certificate verify failed"):
            await probe(access, 5, trust)


@pytest.mark.parametrize(
    ("desktop", "stage", "words"),
    [
        (Desktop(enter=403), "entering", "responds with 403 to a ticket"),
        (Desktop(handshake=409), "connecting", "streams by WebRTC"),
        (Desktop(handshake=502), "connecting", "Traefik cannot reach the desktop"),
        (
            Desktop(kill="a new primary client connected"),
            "first picture",
            "a new primary client connected",
        ),
        (Desktop(large=True), "first picture", "it sent a message of more than 65536 bytes"),
        (Desktop(silent=True), "first picture", "'Waiting for stream'"),
        (Desktop(still=True), "the mark", "it is frozen"),
    ],
    ids=["ticket", "webrtc", "away", "killed", "large", "no picture", "still"],
)
async def test_a_failure_names_its_stage(
    desktop: Desktop, stage: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PICTURE_SECONDS", 0.5)
    monkeypatch.setattr(client, "EFFECT_SECONDS", 0.1)
    monkeypatch.setattr(client, "MAX_MESSAGE_BYTES", 2**16)
    async with access_to(desktop) as access:
        with pytest.raises(StageError, match=words) as failed:
            await probe(access, 5)
    assert failed.value.stage == stage
    assert desktop.enter != 302 or desktop.seen[-1].startswith("leave"), (
        "the grant ends in any case"
    )


async def test_unreachable_host_is_reported() -> None:
    with pytest.raises(StageError, match="cannot be reached") as failed:
        await probe(DesktopAccess("http://127.0.0.1:1", "t", "s", MARK), 5)
    assert failed.value.stage == "entering"
