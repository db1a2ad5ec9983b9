"""The client of a gateway's REST API, against a server on loopback."""

import tracemalloc
from collections.abc import Awaitable, Callable

import msgspec
import pytest
from aiohttp import web

from support.hostile_server import DEEP, DRIP, HOSTILE, TYPICAL, Answer, serve_answer, whole
from support.web_server import serve_app
from vdi.cli import gateway_client as client_module
from vdi.cli.errors import CliError
from vdi.cli.gateway_client import GatewayClient
from vdi.cli.login import AuthorizationRequest, exchange_code
from vdi.cli.session.gateway_backend import GatewayBackend

MANY = b"".join(
    b'event: session\ndata: {"metadata": {"name": "s%d"}, "spec": {"user": "a@b.cd", "template":'
    b' "t"}}\n\n' % number
    for number in range(2001)
)


async def events(client: GatewayClient) -> None:
    """Read the stream of events to its end."""
    async with client.events("/events") as stream:
        async for _ in stream:
            pass


async def watch(client: GatewayClient) -> None:
    """Follow sessions until the stream cannot be read."""
    async with GatewayBackend(client, "a@b.cd").watch():
        pass


async def code(client: GatewayClient) -> None:
    """Exchange a code for a token."""
    await exchange_code(client, AuthorizationRequest(client.server), "c", "")


READERS: dict[str, Callable[[GatewayClient], Awaitable[object]]] = {
    "get": lambda client: client.get("/me"),
    "items": lambda client: client.items("/sessions"),
    "text": lambda client: client.text("/export"),
    "events": events,
    "code": code,
}
# Whoever decodes no JSON takes it as text.
HARMLESS = {("deep JSON", "text"), ("deep JSON", "events")}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_LARGEST_RESPONSE", "_LARGEST_LIST", "_LARGEST_TEXT", "_LARGEST_EVENT"):
        monkeypatch.setattr(client_module, name, 2**16)


@pytest.mark.parametrize(
    ("name", "reader", "status"),
    [
        *(
            (name, reader, 200)
            for name in TYPICAL
            for reader in READERS
            if (name, reader) not in HARMLESS
        ),
        *((name, "get", 409) for name in TYPICAL),
    ],
)
async def test_no_answer_of_a_gateway_takes_more_than_its_limit(
    name: str, reader: str, status: int
) -> None:
    answer = TYPICAL[name]
    answer = Answer(answer.first.replace(b"200 OK", f"{status} X".encode(), 1), answer.endless)
    async with serve_answer(answer) as server, GatewayClient(server.url) as client:
        tracemalloc.start()
        try:
            with pytest.raises(CliError):
                await READERS[reader](client)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 8 * 2**20


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (HOSTILE["nested"], "has Content-Encoding 'gzip, gzip, gzip'; allowed: identity"),
        (HOSTILE["endless body"], "the response is too large: more than 65536 bytes"),
        (HOSTILE["deep JSON"], "maximum recursion depth exceeded"),
        (whole(b"[]"), "Expected `object`, got `array`"),
    ],
)
async def test_a_refused_answer_is_named(answer: Answer, reason: str) -> None:
    async with serve_answer(answer) as server, GatewayClient(server.url) as client:
        with pytest.raises(CliError) as refused:
            await client.get("/me")
    assert refused.value.message.startswith(
        f"{server.url} does not respond as a gateway of VDI does: the response"
    )
    assert reason in refused.value.message


async def test_a_response_that_drips_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped = client_module.GatewayClient._open.__wrapped__  # type: ignore[attr-defined]
    monkeypatch.setitem(wrapped.__kwdefaults__, "seconds", 0.2)
    monkeypatch.setattr(client_module, "_EXPORT_SECONDS", 0.2)
    async with serve_answer(DRIP) as server, GatewayClient(server.url) as client:
        for reader in ("get", "items", "text"):
            with pytest.raises(CliError, match="no response in time"):
                await READERS[reader](client)


@pytest.mark.parametrize("page", [b'{"items":5}', b"{}", b'{"items":[],"next":5}'])
async def test_a_page_of_another_shape_is_refused(page: bytes) -> None:
    async with serve_answer(whole(page)) as server, GatewayClient(server.url) as client:
        with pytest.raises(CliError, match="does not respond as a gateway of VDI does"):
            await client.items("/sessions")


async def test_a_list_of_empty_pages_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_MOST_PAGES", 5)
    async with (
        serve_answer(whole(b'{"items":[],"next":"again"}')) as server,
        GatewayClient(server.url) as client,
    ):
        with pytest.raises(CliError, match="the list /sessions is too large: more than 5 pages"):
            await client.items("/sessions")
    assert len(server.requests) == 5


async def test_a_list_without_an_end_is_given_up() -> None:
    page = msgspec.json.encode({"items": ["x" * 1000], "next": "again"})
    async with serve_answer(whole(page)) as server, GatewayClient(server.url) as client:
        with pytest.raises(
            CliError, match="the list /sessions is too large: more than 65536 bytes"
        ):
            await client.items("/sessions")
    assert len(server.requests) == 2**16 // len(page) + 1


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (
            Answer(b"HTTP/1.1 200 OK\r\n\r\ndata: ", b"x" * 1000),
            "a line of the response is too long: more than 65536",
        ),
        (
            Answer(b"HTTP/1.1 200 OK\r\n\r\n", b"data: x\n" * 1000),
            "an event of the response is too large",
        ),
        (
            Answer(b"HTTP/1.1 200 OK\r\n\r\n", b"name: x\n" * 1000),
            "an event of the response is too large",
        ),
        (
            Answer(b"HTTP/1.1 200 OK\r\n\r\n", b"event: session\ndata: " + DEEP + b"\n\n"),
            "maximum recursion depth",
        ),
        (
            Answer(b"HTTP/1.1 200 OK\r\n\r\n", b"event: gone\ndata: 1\n\n"),
            "Expected `object`, got `int`",
        ),
        (Answer(b"HTTP/1.1 200 OK\r\n\r\n", b"event: gone\ndata: \xff\n\n"), "invalid start byte"),
        (Answer(b"HTTP/1.1 200 OK\r\n\r\n", MANY), "more than 2000 sessions"),
    ],
    ids=["line", "data", "fields", "deep", "type", "bytes", "sessions"],
)
async def test_events_have_a_largest_size(stream: Answer, reason: str) -> None:
    async with serve_answer(stream) as server, GatewayClient(server.url) as client:
        with pytest.raises(CliError, match=reason):
            await watch(client)


async def test_an_event_may_contain_every_character_of_json() -> None:
    async def events(_: web.Request) -> web.Response:
        return web.Response(
            text=(
                'event: session\ndata: {"a": "x\u2028y\x85z"}\r\n\r\n: comment\n\nevent:'
                " ready\ndata: {}\n\n"
            )
        )

    app = web.Application()
    app.router.add_get("/api/v1/events", events)
    async with (
        serve_app(app) as port,
        GatewayClient(f"http://127.0.0.1:{port}") as client,
        client.events("/events") as stream,
    ):
        assert [event async for event in stream] == [
            ("session", '{"a": "x\u2028y\x85z"}'),
            ("ready", "{}"),
        ]
