"""The edge behind a real Traefik: what reaches the browser, what reaches the desktop, and what gets
past no one.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from cluster.edge_traefik import TraefikStage, open_edge
from support.waiting import PATIENCE, eventually
from unit.gateway.edge_stage import GUEST, OWNER, STRANGER, a_session, shared_with
from vdi.api.session import Phase, QueueStatus
from vdi.gateway.edge.headers import DESKTOP_COOKIE, GRANT_COOKIE
from vdi.gateway.store.logins import GrantStore
from vdi.gateway.web.streams import MOST_PER_USER
from vdi.http_client import unverified
from vdi.session.credentials import grant_token, subprotocols

STREAMS = 3 * MOST_PER_USER
PROGRAM = {"Accept": "*/*", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}
SOCKET = "/api/websockets"
FORGED = (
    "X-Forwarded-Host: {mine}\n",
    "X-Forwarded-Host: {mine}\nX-Forwarded-Host: {mine}\n",
    "x-forwarded-host: {mine}\n",
    "X_Forwarded_Host: {mine}\n",
    "X-Forwarded_Host: {mine}\n",
    (
        "X-Forwarded-Uri: /.vdi/x\nX-Forwarded-Method: POST\nX-Forwarded-Proto:"
        " http\nX-Forwarded-For: 127.0.0.1\n"
    ),
    "Forwarded: host={mine}\nX-Original-Url: /.vdi/x\nX-Host: {mine}\n",
    "X-Forwarded-Host : {mine}\n",
    "X-Forwarded-Host\n: {mine}\n",
)
# What is sent, and the statuses of which the answer has one.
SMUGGLED: tuple[tuple[str, set[str]], ...] = (
    ("GET /x HTTP/1.1\nHost: {host}\nHost: {other}\nCookie: {cookie}\n\n", {"400"}),
    ("GET /x HTTP/1.1\nHost: {other}\nHost: {host}\nCookie: {cookie}\n\n", {"400"}),
    ("GET https://{other}/x HTTP/1.1\nHost: {host}\nCookie: {cookie}\n\n", {"401"}),
    ("GET /x HTTP/1.1\nHost: {host}@{other}\nCookie: {cookie}\n\n", {"400", "404"}),
    ("GET /x HTTP/1.1\nHost: {host},{other}\nCookie: {cookie}\n\n", {"400", "404", "421"}),
    ("GET /x HTTP/1.1\nCookie: {cookie}\n\n", {"400"}),
    ("GET {host}/x HTTP/1.1\nHost: {host}\nCookie: {cookie}\n\n", {"400"}),
    (
        "CONNECT {host}:443 HTTP/1.1\nHost: {host}\nCookie: {cookie}\n\n",
        {"400", "404", "405", "501"},
    ),
    (
        (
            "POST /x HTTP/1.1\nHost: {other}\nCookie: {cookie}\nContent-Length:"
            " 4\nTransfer-Encoding: chunked\n\n0\n\nGET /x HTTP/1.1\nHost: {host}\nConnection:"
            " close\n\n"
        ),
        {"400", "401"},
    ),
    ("POST /x HTTP/1.1\nHost: {host}\nContent-Length: 0\nContent-Length: 9\n\n", {"400"}),
    (
        "GET /x HTTP/1.1\nHost: {host}\nTransfer-Encoding: identity, chunked\n\n",
        {"400", "401", "501"},
    ),
)
# A path, and the one that the desktop gets.
ODD_PATHS = (
    ("//evil.example/x", "/evil.example/x"),
    ("/..;/x", "/..;/x"),
    ("/a/../b", "/b"),
    ("/a/%2e%2e/b", "/b"),
    ("/%2f%2fevil.example", "/%2F%2Fevil.example"),
    ("/a%2Fb", "/a%2Fb"),
    ("/x%00y", "/x%00y"),
    ("/x\\y", "/x%5Cy"),
)


@pytest.fixture
async def edge(traefik: Path, tmp_path: Path) -> AsyncIterator[TraefikStage]:
    async with open_edge(traefik, tmp_path) as edge:
        yield edge


@pytest.fixture
async def alice(edge: TraefikStage) -> AsyncIterator[aiohttp.ClientSession]:
    async with await edge.browser(OWNER) as browser:
        await enter(edge, browser)
        yield browser


@pytest.fixture
async def guest(edge: TraefikStage) -> AsyncIterator[aiohttp.ClientSession]:
    edge.stage.change(spec=shared_with(GUEST, "viewer"))
    async with await edge.browser(GUEST) as browser:
        await enter(edge, browser)
        yield browser


async def enter(edge: TraefikStage, browser: aiohttp.ClientSession) -> None:
    """Open the address and follow, as a browser does."""
    async with browser.get(edge.url()) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.url.query_string == "v=1"
        assert answer.url.host == edge.host()


async def connect(
    edge: TraefikStage, browser: aiohttp.ClientSession
) -> aiohttp.ClientWebSocketResponse:
    """The page's WebSocket, with what Selkies' page offers when its fragment says `token=edge`."""
    offered = ("selkies", "selkies.token.ZWRnZQ")
    return await browser.ws_connect(
        edge.url(path=SOCKET), protocols=offered, headers={**PROGRAM, "Origin": edge.url(path="")}
    )


def stolen(browser: aiohttp.ClientSession, host: str) -> str:
    """A Cookie header with what a browser has for a host."""
    return "; ".join(
        f"{one.key}={one.value}" for one in browser.cookie_jar if one["domain"] == host
    )


def head(answer: str) -> str:
    return answer.partition("\n")[0]


# ---- in


async def test_gateway_cookies_and_headers_do_not_reach_the_desktop(
    edge: TraefikStage, alice: aiohttp.ClientSession
) -> None:
    (grant,) = await GrantStore(edge.stage.database).open()
    async with alice.get(
        edge.url(path="/assets/x.js"), headers={**PROGRAM, "Selkies-Authorization": "Bearer m"}
    ):
        pass
    seen = edge.desktop.seen[-1].headers
    assert seen["Authorization"] == f"Bearer {grant_token(edge.desktop.master, grant.id)}"
    assert "__Host-vdi" not in str(seen)
    assert "Selkies-Authorization" not in seen


async def test_a_redirect_names_the_host_of_the_request(edge: TraefikStage) -> None:
    async with await edge.browser() as browser:
        async with browser.get(edge.url(path="/files"), allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (
                302,
                edge.url(path="/.vdi/start?next=/files"),
            )
            assert answer.headers["X-VDI-Gateway"] == "1"
        async with browser.get(
            edge.url(path="/api/health"), headers=PROGRAM, allow_redirects=False
        ) as answer:
            assert (answer.status, answer.headers["X-VDI-Gateway"]) == (401, "1")
        assert edge.desktop.seen == []


async def test_a_new_token_reaches_the_browser(
    edge: TraefikStage, alice: aiohttp.ClientSession
) -> None:
    edge.stage.clock.forward(seconds=200)
    async with alice.get(edge.url(path="/x"), headers=PROGRAM) as answer:
        assert answer.status == 200
        lines = answer.headers.getall("Set-Cookie")
    assert len(lines) == 1, "the desktop's own cookie of this name is replaced"
    assert lines[0].startswith(f"{DESKTOP_COOKIE}=ey")
    async with alice.get(edge.url(path="/x"), headers=PROGRAM) as answer:
        # Traefik replaces a desktop's cookie only where the gateway sends one; the grant helps over
        # it.
        assert answer.headers["Set-Cookie"].startswith(f"{DESKTOP_COOKIE}=evil")
    async with alice.get(edge.url(path="/x"), headers=PROGRAM) as answer:
        assert answer.status == 200


async def test_websocket_handshake_sets_and_needs_no_cookie(
    edge: TraefikStage, alice: aiohttp.ClientSession
) -> None:
    edge.stage.clock.forward(seconds=200)
    socket = await connect(edge, alice)
    assert "Set-Cookie" not in socket._response.headers
    assert socket.protocol == "selkies"
    assert await socket.receive_str() == "AUTH_SUCCESS,controller"
    await socket.close()


# ---- live connections


async def test_the_owner_types_and_a_viewer_does_not(
    edge: TraefikStage, guest: aiohttp.ClientSession, alice: aiohttp.ClientSession
) -> None:
    mine, theirs = await connect(edge, alice), await connect(edge, guest)
    assert [await one.receive_str() for one in (mine, theirs)] == [
        "AUTH_SUCCESS,controller",
        "AUTH_SUCCESS,viewer",
    ]
    await mine.send_str("kd,65")
    await theirs.send_str("kd,66")
    assert [await one.receive_str() for one in (mine, theirs)] == ["kd,65", "MK_ACCESS,0"]
    await mine.close()
    await theirs.close()


async def test_a_viewer_with_the_owners_token_is_a_viewer(
    edge: TraefikStage, guest: aiohttp.ClientSession, alice: aiohttp.ClientSession
) -> None:
    grants = {one.user: one for one in await GrantStore(edge.stage.database).open()}
    owners = grant_token(edge.desktop.master, grants[OWNER].id)
    protocols = tuple(subprotocols(owners).split(", "))
    for path in (SOCKET, f"{SOCKET}?token={owners}&role=controller"):
        socket = await guest.ws_connect(
            edge.url(path=path),
            protocols=protocols,
            headers={**PROGRAM, "Authorization": f"Bearer {owners}"},
        )
        assert await socket.receive_str() == "AUTH_SUCCESS,viewer"
        await socket.close()


async def test_revoked_share_cuts_the_open_connection(
    edge: TraefikStage, guest: aiohttp.ClientSession
) -> None:
    socket = await connect(edge, guest)
    assert await socket.receive_str() == "AUTH_SUCCESS,viewer"
    edge.stage.change(spec={"access": ()})
    message = await socket.receive(timeout=PATIENCE)
    assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 4002)
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await connect(edge, guest)
    assert refused.value.status == 401


async def test_open_desktops_survive_a_dead_gateway(
    edge: TraefikStage, alice: aiohttp.ClientSession
) -> None:
    socket = await connect(edge, alice)
    assert await socket.receive_str() == "AUTH_SUCCESS,controller"
    await edge.stop_gateway()
    for number in range(20):
        await socket.send_str(f"kd,{number}")
        assert await socket.receive_str() == f"kd,{number}"
    async with alice.get(edge.url(path="/x"), headers=PROGRAM) as answer:
        assert answer.status == 500, "nobody is let in by a gateway that is not there"
        # `errors` of Traefik cannot tell this from a desktop's own answer (docs/design/edge.md).
        assert (await answer.read(), answer.headers["Referrer-Policy"]) == (b"", "same-origin")
    await socket.close()


async def test_only_the_owner_disconnects_others(
    edge: TraefikStage, alice: aiohttp.ClientSession
) -> None:
    edge.stage.change(spec=shared_with(GUEST, "collaborator"))
    async with await edge.browser(GUEST) as guest:
        await enter(edge, guest)
        cookie = stolen(guest, edge.host())
    odd = ("//api/./sessions/1", "/x/../api/sessions/1", "/%61pi/SESSIONS/1", "/api%2fsessions/1")
    for path in ("/api/sessions/1", *odd):
        request = f"DELETE {path} HTTP/1.1\nHost: {edge.host()}\nConnection: close\nCookie: "
        count = len(edge.desktop.seen)
        assert head(await edge.raw(f"{request}{cookie}\n\n")) == "HTTP/1.1 403 Forbidden", path
        assert len(edge.desktop.seen) == count, path
        assert (
            head(await edge.raw(f"{request}{stolen(alice, edge.host())}\n\n")) == "HTTP/1.1 200 OK"
        ), path


# ---- headers


async def test_every_response_has_the_headers_and_no_server(
    edge: TraefikStage, alice: aiohttp.ClientSession
) -> None:
    hostile = {
        "Strict-Transport-Security": "max-age=0",
        "Clear-Site-Data": '"cookies"',
        "Server": "Desktop/1.0",
    }
    edge.desktop.pages["/hostile"] = ("hostile", {**hostile, "Referrer-Policy": "unsafe-url"})
    async with await edge.browser() as stranger:
        for browser, path, headers, status in (
            (alice, "/x", PROGRAM, 200),
            (alice, "/hostile", PROGRAM, 200),
            (alice, "/sw.js", {**PROGRAM, "Service-Worker": "script"}, 403),
            (alice, "/.vdi/wait", {}, 200),
            (stranger, "/", {}, 302),
            (stranger, "/.vdi/start", {}, 302),
            (stranger, "/x", PROGRAM, 401),
        ):
            async with browser.get(
                edge.url(path=path), headers=headers, allow_redirects=False
            ) as answer:
                assert answer.status == status, path
                assert answer.headers.getall("Strict-Transport-Security") == [
                    "max-age=31536000; includeSubDomains"
                ]
                assert answer.headers.getall("X-Content-Type-Options") == ["nosniff"]
                assert answer.headers.getall("Referrer-Policy") == ["same-origin"]
                assert {"Server", "Clear-Site-Data"}.isdisjoint(answer.headers), path


# ---- where there is no desktop


async def test_host_without_a_live_route_gets_the_waiting_page(edge: TraefikStage) -> None:
    edge.write_routes()
    edge.stage.change(
        spec={"suspended": True}, status={"phase": "Suspended", "message": "At rest."}
    )
    async with await edge.browser(OWNER) as browser:
        async with asyncio.timeout(PATIENCE):
            page = ""
            while "At rest." not in page:
                async with browser.get(edge.url()) as answer:
                    page = await answer.text()
        async with browser.get(edge.url(path="/api/health"), headers=PROGRAM) as answer:
            assert (answer.status, answer.headers["X-VDI-Gateway"]) == (503, "1")
        headers = {"Origin": edge.url(path="")}
        async with browser.post(
            edge.url(path="/.vdi/resume"), headers=headers, allow_redirects=False
        ) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/.vdi/wait?next=/")
    assert len(edge.stage.resumed) == 1


async def test_events_of_the_waiting_page_pass_traefik_unbuffered(
    edge: TraefikStage, alice: aiohttp.ClientSession
) -> None:
    edge.stage.change(status={"phase": "Creating", "message": "Pulling."})
    async with (
        alice.get(edge.url(path="/.vdi/events"), headers=PROGRAM) as answer,
        asyncio.timeout(PATIENCE),
    ):
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        text = ""
        while "Pulling." not in text:
            text += (await answer.content.readany()).decode()
        edge.stage.change(status={"phase": "Running", "message": ""})
        while '"stage":"opening"' not in text:
            text += (await answer.content.readany()).decode()


async def test_verification_and_reserved_paths_are_unreachable(
    edge: TraefikStage, alice: aiohttp.ClientSession
) -> None:
    """The verification is for Traefik alone, and a desktop gets nothing that begins with /.vdi/."""
    async with alice.get(edge.url("portal", "/edge/verify"), headers=PROGRAM) as answer:
        assert answer.status == 404
    for path in (
        "/.vdi/anything",
        "/%2evdi/anything",
        "/x/../.vdi/anything",
        "/./.vdi/anything",
        "//.vdi/anything",
    ):
        count = len(edge.desktop.seen)
        cookie = stolen(alice, edge.host())
        refused = await edge.raw(
            f"GET {path} HTTP/1.1\nHost: {edge.host()}\nCookie: {cookie}\nConnection: close\n\n"
        )
        assert (head(refused), len(edge.desktop.seen)) == ("HTTP/1.1 404 Not Found", count), path


# ---- cheating


async def test_stolen_cookie_is_refused_on_another_host(
    edge: TraefikStage, alice: aiohttp.ClientSession
) -> None:
    await edge.add_desktop("mallory-desktop", STRANGER)
    cookie = stolen(alice, edge.host())
    assert DESKTOP_COOKIE in cookie
    assert GRANT_COOKIE in cookie
    there = (
        f"GET /x HTTP/1.1\nHost: {edge.host('mallory-desktop')}\nCookie: {cookie}\nConnection:"
        " close\n\n"
    )
    answer = await edge.raw(there)
    assert "X-Vdi-Gateway: 1" in answer
    assert head(answer) == "HTTP/1.1 401 Unauthorized"


async def test_forged_headers_change_nothing(
    edge: TraefikStage, alice: aiohttp.ClientSession
) -> None:
    """Mallory has a desktop of her own, and its cookies; with them she asks for alice's."""
    edge.stage.add(a_session("mallory-desktop", STRANGER))
    async with await edge.browser(STRANGER) as mallory:
        async with mallory.get(edge.url("mallory-desktop", "/.vdi/start")):
            pass  # entered: the way in needs no live route
        mine = stolen(mallory, edge.host("mallory-desktop"))
        assert GRANT_COOKIE in mine
    count = len(edge.desktop.seen)
    for lines in FORGED:
        forged = lines.format(mine=edge.host("mallory-desktop"))
        answer = await edge.raw(
            f"GET /x HTTP/1.1\nHost: {edge.host()}\n{forged}Cookie: {mine}\nConnection: close\n\n"
        )
        assert head(answer).split()[1] in ("400", "401"), forged
        assert len(edge.desktop.seen) == count, forged


async def test_a_forged_address_does_not_pass_traefik(
    edge: TraefikStage, alice: aiohttp.ClientSession
) -> None:
    """The login's throttle counts by the last entry, which is the one that Traefik has written."""
    cookie = stolen(alice, edge.host())
    lines = "X-Forwarded-For: 203.0.113.7\nX-Real-Ip: 203.0.113.7\nForwarded: for=203.0.113.7\n"
    await edge.raw(
        f"GET /x HTTP/1.1\nHost: {edge.host()}\n{lines}Cookie: {cookie}\nConnection: close\n\n"
    )
    seen = edge.desktop.seen[-1].headers
    assert (seen.getall("X-Forwarded-For"), seen["X-Real-Ip"]) == (["127.0.0.1"], "127.0.0.1")


async def test_smuggled_requests_do_not_reach_the_desktop(
    edge: TraefikStage, alice: aiohttp.ClientSession
) -> None:
    await edge.add_desktop("mallory-desktop", STRANGER)
    count = len(edge.desktop.seen)
    for request_text, statuses in SMUGGLED:
        text = request_text.format(
            host=edge.host(), other=edge.host("mallory-desktop"), cookie=stolen(alice, edge.host())
        ).replace("Cookie:", "Connection: close\nCookie:")
        assert head(await edge.raw(text)).split()[1] in statuses, text
        assert len(edge.desktop.seen) == count, text


async def test_hop_by_hop_headers_strip_no_required_header(edge: TraefikStage) -> None:
    named = (
        "close, X-Forwarded-Host, X-Forwarded-Uri, X-Forwarded-Method, Cookie, Origin,"
        " Sec-Fetch-Site"
    )
    answer = await edge.raw(
        f"GET /x HTTP/1.1\nHost: {edge.host()}\nConnection: {named}\nCookie: a=b\n\n"
    )
    assert (head(answer), edge.desktop.seen) == ("HTTP/1.1 401 Unauthorized", [])


async def test_verified_path_is_the_served_path(
    edge: TraefikStage, alice: aiohttp.ClientSession
) -> None:
    """A person who is sent to log in comes back to this host, whatever the path."""
    cookie = stolen(alice, edge.host())
    page = (
        "Accept: text/html\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: document\nConnection: close\n"
    )
    for path, seen in ODD_PATHS:
        await edge.raw(
            f"GET {path} HTTP/1.1\nHost: {edge.host()}\nCookie: {cookie}\nConnection: close\n\n"
        )
        assert edge.desktop.seen[-1].raw_path == seen
        answer = await edge.raw(f"GET {path} HTTP/1.1\nHost: {edge.host()}\n{page}\n")
        location = next(line for line in answer.splitlines() if line.startswith("Location: "))
        assert location.startswith(f"Location: {edge.url(path='/.vdi/start?next=/')}"), path


async def test_websocket_from_another_desktop_is_refused(
    edge: TraefikStage, alice: aiohttp.ClientSession
) -> None:
    for origin in (edge.url("mallory-desktop", ""), "https://evil.example", "null"):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await alice.ws_connect(edge.url(path=SOCKET), headers={**PROGRAM, "Origin": origin})
        assert refused.value.status == 403


# ---- many streams


async def test_unread_streams_of_one_user_do_not_block_others(edge: TraefikStage) -> None:
    """Slow browsers behind Traefik: each holds a connection there, and one of the gateway's until
    it is refused.
    """
    status = {"phase": Phase.PENDING, "queue": QueueStatus(position=2)}
    edge.stage.change(spec=shared_with(GUEST, "collaborator"), status=status)
    async with await edge.browser(OWNER) as owner, await edge.browser(GUEST) as guest:
        for browser in (owner, guest):
            async with browser.get(edge.url()) as answer:
                assert answer.status == 200
        head = (
            "GET /.vdi/events HTTP/1.1",
            f"Host: {edge.host()}:{edge.port}",
            f"Cookie: {stolen(guest, edge.host())}",
        )
        request = "\r\n".join((*head, "", "")).encode()

        async def open_stream() -> tuple[bytes, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", edge.port, ssl=unverified(), server_hostname=edge.host(), limit=1024
            )
            writer.write(request)
            return (await reader.readline()).split()[1], writer

        opened = await asyncio.gather(*(open_stream() for _ in range(STREAMS)))
        try:
            statuses = Counter(status for status, _ in opened)
            assert statuses == {b"200": MOST_PER_USER, b"429": STREAMS - MOST_PER_USER}
            async with owner.get(edge.url(path="/.vdi/events")) as answer:
                assert answer.status == 200
                assert b"queued" in await answer.content.readuntil(b"queued")
        finally:
            for _, writer in opened:
                writer.close()
        await eventually(
            lambda: len(edge.stage.edge._waiting._streams) == 0,
            "streams that are left no longer count",
        )
