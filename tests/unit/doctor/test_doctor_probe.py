"""The way in, tried for real on loopback: servers with certificates of all sorts, and what is said of each."""

import asyncio
import base64
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from vdi.api.template import VDITemplate
from vdi.doctor.gateways import Gateway
from vdi.doctor.probe.here import Seen, Target, judge, probe_here, try_way
from vdi.doctor.probe.inside import build_probe
from vdi.doctor.probe.run import _turn, turn_settings
from vdi.doctor.probe.turn import TurnError, allocate
from vdi.kube.resource import PODS
from vdi.kube.transport import Client
from vdi.session.turn import make_credentials

REFUSED = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of nobody that this machine trusts."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    words = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost")
    files = ("-keyout", str(key), "-out", str(cert), "-addext", "subjectAltName=DNS:localhost")
    subprocess.run(["openssl", "req", "-x509", *words, *files], check=True, capture_output=True)
    return cert, key


@asynccontextmanager
async def server(certificate: tuple[Path, Path], page: bytes, upgrade: bytes = REFUSED) -> AsyncIterator[str]:
    """Answers pages with one thing and upgrades with another; gives its URL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                writer.write(upgrade if b"upgrade: websocket" in head.lower() else page)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with listening:
        yield f"https://localhost:{listening.sockets[0].getsockname()[1]}"


def http(status: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()


@pytest.fixture
def trusted(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))


async def found_at(url: str) -> set[str]:
    return {one.code for one in await probe_here([Target("vdisession/vdi-sessions/alice", url)])}


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize(
    ("page", "upgrade", "code"),
    [
        ("302 Found", REFUSED, set()),
        ("401 Unauthorized", http("403 Forbidden"), set()),
        ("404 Not Found", http("404 Not Found"), {"probe_not_routed"}),
        ("502 Bad Gateway", http("502 Bad Gateway"), {"probe_bad_answer"}),
        ("200 OK", http("400 Bad Request"), {"probe_websocket_refused"}),
        ("200 OK", http("200 OK"), {"probe_websocket_refused"}),
    ],
)
async def test_what_is_answered_is_said(
    certificate: tuple[Path, Path], page: str, upgrade: bytes, code: set[str]
) -> None:
    async with server(certificate, http(page), upgrade) as url:
        assert await found_at(url) == code


async def test_a_certificate_of_nobody_is_named_and_the_rest_of_the_way_is_tried(
    certificate: tuple[Path, Path],
) -> None:
    async with server(certificate, http("404 Not Found"), http("404 Not Found")) as url:
        assert await found_at(url) == {"probe_certificate_refused", "probe_not_routed"}


async def test_a_name_that_is_not_there_and_a_port_where_nobody_listens() -> None:
    assert await found_at("https://nobody.invalid") == {"probe_name_not_found"}
    seen = await try_way("https://127.0.0.1:9")
    assert (seen.problem, seen.status) == ("connection", 0)


def test_a_finding_names_the_address_and_the_command_that_shows_more() -> None:
    target = Target("vdisession/vdi-sessions/alice", "https://alice.vdi.example.com:8443", ("node/one",))
    (finding,) = judge(target, Seen(certificate="certificate has expired.", status=200, websocket=101))
    assert finding.remedy == "openssl s_client -connect alice.vdi.example.com:8443"
    assert finding.evidence == ("tried: https://alice.vdi.example.com:8443",)
    assert finding.touches == ("node/one",)


async def test_a_turn_server_that_is_not_there_is_said_at_once() -> None:
    with pytest.raises(TurnError, match="nothing listens there"):
        await allocate("127.0.0.1", 9, "user", "word")


def a_template(*, enabled: bool) -> VDITemplate:
    persistence = {"enabled": enabled, "storageClass": "fast"}
    spec = {"image": "localhost/desktop:1", "resources": {}, "persistence": persistence}
    return msgspec.convert({"metadata": {"name": "small"}, "spec": spec}, VDITemplate)


def test_a_template_without_homes_is_tried_without_a_volume() -> None:
    """Its storage class may not be there at all."""
    (claim, pod) = build_probe("vdi-sessions", "vdi-probe-1", a_template(enabled=True))
    assert claim[1]["spec"]["storageClassName"] == "fast"
    assert pod[1]["spec"]["volumes"] == [{"name": "probe", "persistentVolumeClaim": {"claimName": "vdi-probe-1"}}]
    ((kind, alone),) = build_probe("vdi-sessions", "vdi-probe-1", a_template(enabled=False))
    assert (kind, alone["spec"]["volumes"]) == (PODS, [{"name": "probe", "emptyDir": {}}])


@pytest.mark.parametrize(
    ("volumes", "secret"),
    [
        ([{"name": "tmp", "emptyDir": {}}, {"name": "turn", "secret": {"secretName": "vdi-coturn"}}], "vdi-coturn"),
        ([{"name": "turn", "projected": {}}], ""),
        ([], ""),
    ],
)
def test_the_turn_server_is_the_one_that_the_gateway_names(volumes: list[dict[str, object]], secret: str) -> None:
    url = "turn:turn.example.com:3478?transport=udp"
    gateway = {"name": "gateway", "env": [{"name": "VDI_TURN_URLS", "value": url}]}
    pod = {"containers": [{"name": "mesh"}, gateway], "volumes": volumes}
    assert turn_settings(Gateway("deployment", {"spec": {"template": {"spec": pod}}}, "vdi-sessions")) == (url, secret)


async def test_the_turn_server_is_asked_with_what_the_gateway_would_give(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Secret made from a file may end with a line feed: gateway and server leave it out."""
    asked: list[tuple[Any, ...]] = []

    async def ask(*words: Any) -> None:
        asked.append(words)

    class Api:
        async def get(self, *_: object, **__: object) -> dict[str, Any]:
            return {"data": {"secret": base64.b64encode(f"{'s' * 40}\n".encode()).decode()}}

    monkeypatch.setattr("vdi.doctor.probe.run.allocate", ask)
    env = [{"name": "VDI_TURN_URLS", "value": "turn:turn.example.com:3478?transport=udp"}]
    pod = {
        "containers": [{"name": "gateway", "env": env}],
        "volumes": [{"name": "turn", "secret": {"secretName": "t"}}],
    }
    gateway = Gateway(
        "deployment", {"metadata": {"namespace": "kasm"}, "spec": {"template": {"spec": pod}}}, "vdi-sessions"
    )
    now = datetime(2026, 11, 20, tzinfo=UTC)
    assert await _turn(cast(Client, Api()), gateway, now) == []
    good = make_credentials("s" * 40, "vdi-doctor", now + timedelta(minutes=2))
    assert asked == [("turn.example.com", 3478, *good)]
