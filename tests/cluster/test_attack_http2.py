"""HTTP/2 through a real Traefik, which speaks HTTP/1.1 to gateway and desktop: what may be read in
two ways.
"""

from contextlib import AbstractAsyncContextManager

import aiohttp
import pytest

from cluster.edge_traefik import TraefikStage
from cluster.http2_client import Fields, Http2, open_http2
from cluster.test_gateway_edge import alice, edge, stolen
from unit.gateway.edge_stage import STRANGER
from vdi.gateway.edge.headers import GRANT_COOKIE

__all__ = ["alice", "edge"]

ENABLE_CONNECT_PROTOCOL = 0x8
PSEUDO_HEADERS: list[dict[str, str]] = [
    {"path": "https://{alice}/x"},
    {"path": "//{alice}/x"},
    {"path": "/x HTTP/1.1\r\nHost: {alice}\r\nX: "},
    {"path": "/x\r\nHost: {alice}"},
    {"path": "/x\nHost: {alice}"},
    {"path": ""},
    {"path": "_"},
    {"path": "*"},
    {"path": "{alice}:443"},
    {"authority": "_"},
    {"authority": ""},
    {"authority": "{alice}@{mallory}"},
    {"authority": "{mallory}@{alice}"},
    {"authority": "{mallory}\r\nHost: {alice}"},
    {"authority": "{mallory} {alice}"},
    {"authority": "{mallory},{alice}"},
    {"authority": "{alice}#{mallory}"},
    {"method": "GET /x HTTP/1.1\r\nHost: {alice}\r\n\r\nGET"},
    {"method": "GET\r\nX: y"},
    {"method": "get"},
    {"method": "CONNECT"},
    {"method": "CONNECT", "authority": "{alice}:443", "path": "_", "scheme": "_"},
    {"method": "PRI", "path": "*"},
    {"scheme": "http"},
    {"scheme": "https://{alice}/x?"},
    {"scheme": "_"},
]
HEADER_FIELDS: list[list[tuple[str, str]]] = [
    [("host", "{alice}")],
    [("Host", "{alice}")],
    [("host", "{alice}"), ("host", "{mallory}")],
    [(":authority", "{alice}")],
    [("x-forwarded-host", "{alice}")],
    [("x-a", "b\r\nHost: {alice}")],
    [("x-a", "b\nhost: {alice}")],
    [("x-a", "b\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: {alice}\r\n\r\n")],
    [("x-a\r\nhost", "{alice}")],
    [("x-a: b\r\nhost", "{alice}")],
    [("x-a\0", "b")],
    [("x-a", "b\0c")],
    [("connection", "close")],
    [("connection", "cookie, x-forwarded-host")],
    [("upgrade", "websocket"), ("connection", "upgrade")],
    [("upgrade", "h2c"), ("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA")],
    [("keep-alive", "timeout=1"), ("proxy-connection", "close")],
    [("te", "chunked")],
    [("transfer-encoding", "chunked")],
    [("transfer-encoding", "chunked"), ("content-length", "4")],
    [("Transfer-Encoding", "chunked")],
    [("transfer-encoding ", "chunked")],
    [("content-length", "0"), ("content-length", "50")],
    [("content-length", "+5")],
    [("content-length", "5, 5")],
    [("content-length", "-1")],
    [("content-length", "99999999999999999999")],
]


def asking(edge: TraefikStage) -> AbstractAsyncContextManager[Http2]:
    """A new connection to Traefik."""
    return open_http2(edge.port, edge.host())


def spelled(edge: TraefikStage, text: str) -> str:
    """The text with the two hosts in it."""
    return text.format(alice=edge.host(), mallory=edge.host("mallory-desktop"))


def smuggled(edge: TraefikStage) -> bytes:
    """A body that is a request."""
    return f"GET /smuggled HTTP/1.1\r\nHost: {edge.host()}\r\n\r\n".encode()


@pytest.fixture
async def mallorys(edge: TraefikStage) -> str:
    """The Cookie header of somebody who is in a desktop of her own, which has a live route."""
    await edge.add_desktop("mallory-desktop", STRANGER)
    async with await edge.browser(STRANGER) as mallory:
        async with mallory.get(edge.url("mallory-desktop", "/.vdi/start")) as answer:
            assert answer.status == 200
        cookie = stolen(mallory, edge.host("mallory-desktop"))
    assert GRANT_COOKIE in cookie
    return cookie


def request(
    edge: TraefikStage, label: str, cookie: str, *more: tuple[str, str], **pseudo: str
) -> Fields:
    """A request for a desktop's host, with these pseudo-headers replaced; `_` leaves one out."""
    first = {
        "method": "GET",
        "scheme": "https",
        "authority": f"{edge.host(label)}:{edge.port}",
        "path": "/x",
    }
    chosen = [(f":{name}", value) for name, value in (first | pseudo).items() if value != "_"]
    return [*chosen, ("cookie", cookie), *more]


async def test_regular_http2_request_passes(
    edge: TraefikStage, alice: aiohttp.ClientSession
) -> None:
    """Control: the requests of the tests below are refused for their content."""
    cookie = stolen(alice, edge.host())
    async with asking(edge) as h2:
        answer = await h2.ask(request(edge, "alice-desktop", cookie, method="POST"), b"a", b"b")
    assert answer.status == 200
    assert answer.body == b"desktop /x"


async def test_pseudo_headers_reach_no_other_host(edge: TraefikStage, mallorys: str) -> None:
    """With the cookies of her own desktop she asks for alice's, in one spelling for who routes and
    who verifies.
    """
    for pseudo in PSEUDO_HEADERS:
        replaced = {name: spelled(edge, value) for name, value in pseudo.items()}
        async with asking(edge) as h2:
            await h2.ask(request(edge, "mallory-desktop", mallorys, **replaced))
        assert_only_mallorys(edge, pseudo)


async def test_header_fields_reach_no_other_host(edge: TraefikStage, mallorys: str) -> None:
    for more in HEADER_FIELDS:
        fields = [(name, spelled(edge, value)) for name, value in more]
        for method, pieces in (("GET", []), ("POST", [smuggled(edge)])):
            async with asking(edge) as h2:
                await h2.ask(
                    request(edge, "mallory-desktop", mallorys, *fields, method=method), *pieces
                )
            assert_only_mallorys(edge, more)


async def test_wrong_body_length_smuggles_no_request(
    edge: TraefikStage, alice: aiohttp.ClientSession
) -> None:
    """HTTP/2 frames have their own lengths: the length that HTTP/1.1 behind Traefik gets must be
    true.
    """
    cookie = stolen(alice, edge.host())
    for label in ("alice-desktop", "portal"):
        for said in ("0", "1", "4", "1000"):
            async with asking(edge) as h2:
                fields = request(edge, label, cookie, ("content-length", said), method="POST")
                answer = await h2.ask(fields, smuggled(edge))
            # A desktop may answer before it has the whole body.
            early = (200,) if said == "1000" else ()
            assert answer.status in (0, 400, 404, 405, 499, 500, 502, *early), (label, said, answer)
            # A connection to the desktop that was left half full would give its next user the rest
            # of this body.
            async with alice.get(edge.url(path="/after")) as after:
                assert after.status == 200
                assert await after.text() == "desktop /after"
            assert "/smuggled" not in [one.path for one in edge.desktop.seen]


async def test_hosts_on_one_connection_stay_separate(edge: TraefikStage, mallorys: str) -> None:
    """Browsers reuse a connection for other hosts of its certificate: each request says whom it is
    for.
    """
    async with asking(edge) as h2:
        mine = await h2.ask(request(edge, "mallory-desktop", mallorys))
        hers = await h2.ask(request(edge, "alice-desktop", mallorys))
        trailers = [
            ("authorization", "Bearer x"),
            ("x-forwarded-host", edge.host("mallory-desktop")),
        ]
        late = await h2.ask(
            request(edge, "alice-desktop", "", method="POST"),
            b"x",
            trailers=[*trailers, ("cookie", mallorys)],
        )
    assert (mine.status, hers.status, late.status) == (200, 401, 401)
    assert_only_mallorys(edge, "one connection")


async def test_http2_tunnels_are_refused(edge: TraefikStage, alice: aiohttp.ClientSession) -> None:
    """RFC 8441 is not offered, so WebSockets come over HTTP/1.1, where the edge knows a handshake
    when it sees one.
    """
    count = len(edge.desktop.seen)
    fields = request(
        edge,
        "alice-desktop",
        stolen(alice, edge.host()),
        ("sec-websocket-version", "13"),
        method="CONNECT",
        protocol="websocket",
        path="/api/websockets",
    )
    async with asking(edge) as h2:
        await h2.wait_for_settings()
        assert not h2.settings.get(ENABLE_CONNECT_PROTOCOL)
        answer = await h2.ask(fields)
    assert answer.status in (0, 400, 404, 405, 501), answer
    assert len(edge.desktop.seen) == count


def assert_only_mallorys(edge: TraefikStage, case: object) -> None:
    """Both hosts lead to the same program here: whose desktop was asked tells the Host that it has
    seen.
    """
    seen, edge.desktop.seen[:] = list(edge.desktop.seen), []
    assert {one.host.partition(":")[0] for one in seen} <= {edge.host("mallory-desktop")}, case
    assert "/smuggled" not in {one.path for one in seen}, case
