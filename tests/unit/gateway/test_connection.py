"""Slow, greedy and unread clients on a real socket, with patience cut to tens of milliseconds."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from support.waiting import PATIENCE, eventually
from vdi.gateway.app import _Server, _uvicorn_config, listen
from vdi.gateway.web import connection
from vdi.gateway.web.connection import FREE_BYTES, HEADERS, ByteBudget
from vdi.gateway.web.middleware import STREAMED

Dialogue = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Dial = Callable[[], Awaitable[Dialogue]]


async def hello(_request: Request) -> Response:
    return PlainTextResponse("hello")


async def flood(_request: Request) -> Response:
    async def much() -> AsyncIterator[bytes]:
        for _ in range(500):
            yield b"x" * 65536

    return StreamingResponse(much())


async def wait(request: Request) -> Response:
    """Takes the body, then waits."""
    await request.body()
    await asyncio.Event().wait()
    raise AssertionError


async def pass_on(request: Request) -> Response:
    request.scope[STREAMED] = True
    sizes = [len(piece) async for piece in request.stream()]
    return PlainTextResponse(f"{sum(sizes)} bytes")


@asynccontextmanager
async def serving(**limits: Any) -> AsyncIterator[tuple[Dial, _Server]]:
    routes = [
        Route("/", hello, methods=["GET", "POST"]),
        Route("/flood", flood),
        Route("/wait", wait, methods=["GET", "POST"]),
        Route("/pass-on", pass_on, methods=["POST"]),
    ]
    server = _Server(_uvicorn_config(Starlette(routes=routes), **limits))
    writers: list[asyncio.StreamWriter] = []
    with listen(("127.0.0.1", 0), "VDI_PUBLIC_ADDR") as where:
        port = where.getsockname()[1]
        task = asyncio.create_task(server.serve([where]))

        async def dial() -> Dialogue:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            writers.append(writer)
            return reader, writer

        try:
            yield dial, server
        finally:
            for writer in writers:
                writer.close()
            server.should_exit = True
            await asyncio.wait_for(task, PATIENCE)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.1)
    monkeypatch.setattr(connection, "WRITE_SECONDS", 0.1)
    monkeypatch.setattr(connection, "LINGER_SECONDS", 0.1)


async def ends_with(reader: asyncio.StreamReader, status: bytes) -> bytes:
    async with asyncio.timeout(PATIENCE):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 " + status), answer
    return answer


async def refused(sent: bytes, status: bytes) -> bytes:
    """The answer to these bytes on a connection of their own."""
    async with serving() as (dial, _):
        reader, writer = await dial()
        writer.write(sent)
        return await ends_with(reader, status)


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nA: b", b"\r\n\r\n"]
)
async def test_a_head_that_does_not_come_is_not_waited_for(sent: bytes) -> None:
    await refused(sent, b"408")


async def test_a_head_that_drips_has_no_more_time_than_one_that_stops() -> None:
    async with serving() as (dial, _):
        reader, writer = await dial()
        writer.write(b"GET / HTTP/1.1\r\n")
        answer = asyncio.create_task(reader.read())
        number = 0
        while not answer.done():
            writer.write(b"X-%d: y\r\n" % number)
            number += 1
            await asyncio.wait([answer], timeout=0.01)
            assert number < 200
        # A close with something unread is a reset, which may overtake the answer.
        cut = isinstance(answer.exception(), ConnectionResetError)
        assert cut or answer.result().startswith(b"HTTP/1.1 408")


async def test_the_second_head_of_a_connection_has_the_same_time() -> None:
    async with serving() as (dial, _):
        reader, writer = await dial()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200")
        writer.write(b"GET / HTTP")
        await ends_with(reader, b"408")


async def test_between_two_requests_nothing_is_hurried() -> None:
    """Traefik keeps connections; a cut one would be an error to somebody."""
    async with serving() as (dial, _):
        reader, writer = await dial()
        for _ in range(2):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await reader.read(1)


@pytest.mark.parametrize(
    "line", [b"X: " + b"a" * 40000, b"\r\n".join(b"X-%d: %s" % (n, b"a" * 90) for n in range(400))]
)
async def test_a_head_that_is_too_large_is_refused(line: bytes) -> None:
    await refused(b"GET / HTTP/1.1\r\nHost: x\r\n" + line, b"431")


@pytest.mark.parametrize(
    ("head", "clears"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\nCookie: " + b"a=b; " * 8000, True),
        (b"GET / HTTP/1.1\r\nHost: x\r\ncookie: " + b"a=b; " * 8000 + b"\r\nX: y", True),
        (b"GET /" + b"x" * 40000 + b" HTTP/1.1\r\nHost: x\r\nCookie: a=b", False),
        (b"GET / HTTP/1.1\r\nHost: x\r\nCookie: a=b\r\nX: Cookie:" + b"a" * 40000, False),
    ],
)
async def test_cookies_are_cleared_where_they_are_what_is_too_large(
    head: bytes, clears: bool
) -> None:
    """Not for a long address, to which any page on the internet can send a browser: it would end
    the login.
    """
    answer = await refused(head, b"431")
    assert (b'clear-site-data: "cookies"' in answer) == clears
    length = int(answer.partition(b"content-length: ")[2].partition(b"\r\n")[0])
    assert len(answer.partition(b"\r\n\r\n")[2]) == length


async def test_the_refusal_of_a_large_head_reaches_a_sending_client() -> None:
    """Traefik sends up to 1 MiB before it reads; a reset in between would make a 502 of the
    answer.
    """
    async with serving() as (dial, _):
        reader, writer = await dial()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nCookie: " + b"a=b; " * 10000)
        async with asyncio.timeout(PATIENCE):
            answer = await reader.readuntil(b"\r\n\r\n")
            for _ in range(20):  # while it says that it is closing
                writer.write(b"a=b; " * 1000)
                await writer.drain()
            assert (await reader.read()).endswith(b"sign in again.\n")
        assert answer.startswith(b"HTTP/1.1 431")


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Content-Length: +5\r\n",
    ],
)
async def test_heads_that_two_servers_may_read_in_two_ways_are_refused(head: bytes) -> None:
    await refused(b"POST / HTTP/1.1\r\nHost: x\r\n" + head + b"\r\nhello", b"400")


async def test_what_is_no_http_is_refused() -> None:
    await refused(b"\x16\x03\x01 hello\r\n\r\n", b"400")


async def test_a_connection_answered_before_its_body_ends_is_closed() -> None:
    async with serving() as (dial, server):
        reader, writer = await dial()
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\nbeginning")
        await ends_with(reader, b"200")
        await eventually(lambda: not server.server_state.connections)


async def test_who_reads_nothing_is_given_up() -> None:
    async with serving() as (dial, server):
        _, writer = await dial()
        writer.write(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
        await eventually(
            lambda: (
                server.server_state.total_requests == 0 and bool(server.server_state.connections)
            )
        )
        await eventually(lambda: not server.server_state.connections, "the connection is cut")


GET = b"GET / HTTP/1.1\r\nHost: x\r\n"


async def test_a_head_of_many_short_lines_is_refused() -> None:
    """Each line is three objects: in 32 KiB they would be 400 KiB of memory, for as long as the
    connection is kept.
    """
    async with serving() as (dial, _):
        reader, writer = await dial()
        writer.write(GET + b"a:b\r\n" * (HEADERS - 1) + b"\r\n")
        assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200")
        writer.write(GET + b"a:b\r\n" * HEADERS + b"\r\n")
        await ends_with(reader, b"431")


@pytest.mark.parametrize("end", [b"\r\n\r\n", b""])
async def test_a_large_head_in_one_piece_is_refused_too(end: bytes) -> None:
    await refused(GET + b"X: " + b"a" * 120_000 + end, b"431")


async def test_a_request_before_the_last_answer_is_not_served() -> None:
    """Traefik sends none. Thousands of them fit into one piece, and each would be held until its
    turn.
    """
    async with serving() as (dial, server):
        reader, writer = await dial()
        writer.write(50 * (GET + b"\r\n"))
        answer = await ends_with(reader, b"200")
        assert (answer.count(b"HTTP/1.1"), server.server_state.total_requests) == (1, 1)


def post(path: bytes, length: int, sent: int) -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (
        path,
        length,
        b"x" * sent,
    )


async def test_bodies_beyond_the_budget_are_refused() -> None:
    """A small request goes through at any time: somebody who signs in sends one."""
    async with serving(most=3 * FREE_BYTES) as (dial, server):
        first, writer = await dial()
        writer.write(post(b"/wait", 9 * FREE_BYTES, 3 * FREE_BYTES))
        await eventually(lambda: budget_of(server).left < FREE_BYTES)
        reader, other = await dial()
        other.write(post(b"/wait", 9 * FREE_BYTES, 3 * FREE_BYTES))
        assert b"\r\nretry-after: 5\r\n" in await ends_with(reader, b"503")
        reader, other = await dial()
        other.write(post(b"/", FREE_BYTES // 2, FREE_BYTES // 2))
        assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200")
        writer.write(b"x" * 2 * FREE_BYTES)  # more of the first one
        await ends_with(first, b"503")
        await eventually(
            lambda: budget_of(server).left == 3 * FREE_BYTES, "all bytes are given back"
        )


async def test_a_body_counts_until_its_response() -> None:
    """The route has it then."""
    async with serving(most=3 * FREE_BYTES) as (dial, server):
        _, writer = await dial()
        writer.write(post(b"/wait", 3 * FREE_BYTES, 3 * FREE_BYTES))
        await eventually(lambda: budget_of(server).left < FREE_BYTES)
        reader, other = await dial()
        other.write(post(b"/wait", 3 * FREE_BYTES, 3 * FREE_BYTES))
        await ends_with(reader, b"503")
        writer.close()
        await eventually(lambda: budget_of(server).left == 3 * FREE_BYTES)


async def test_heads_beyond_the_budget_are_refused() -> None:
    async with serving(most=FREE_BYTES) as (dial, server):
        _, writer = await dial()
        writer.write(GET.replace(b"/ ", b"/wait ") + b"X: " + b"a" * FREE_BYTES + b"\r\n\r\n")
        await eventually(lambda: budget_of(server).left < FREE_BYTES)
        reader, other = await dial()
        other.write(GET + b"X: " + b"a" * 2 * FREE_BYTES)
        await ends_with(reader, b"503")


async def test_a_body_that_is_passed_on_does_not_count() -> None:
    async with serving(most=64 * FREE_BYTES) as (dial, server):
        reader, writer = await dial()
        length = 640 * FREE_BYTES
        writer.write(post(b"/pass-on", length, 0))
        for _ in range(640):
            writer.write(b"x" * FREE_BYTES)
            await writer.drain()
        answer = await reader.readuntil(b" bytes")
        assert answer.endswith(b"%d bytes" % length)
        await eventually(lambda: budget_of(server).left == 64 * FREE_BYTES)


async def test_an_idle_connection_keeps_nothing_of_its_last_request() -> None:
    async with serving() as (dial, server):
        reader, writer = await dial()
        before = budget_of(server).left
        writer.write(GET + b"X: " + b"a" * 30_000 + b"\r\n\r\n")
        assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200")
        kept: Any = next(iter(server.server_state.connections))
        assert (kept.cycle, kept.scope, kept.headers, budget_of(server).left) == (
            None,
            None,
            None,
            before,
        )


async def test_unread_responses_beyond_the_budget_are_given_up_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "WRITE_SECONDS", 10 * PATIENCE)
    async with serving(most=1) as (dial, server):
        reader, writer = await dial()
        writer.write(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await reader.readexactly(1) == b"H"
        await eventually(lambda: not server.server_state.connections, "the connection is cut")


async def test_connections_are_not_kept_once_half_of_them_are_taken() -> None:
    async with serving(connections=8) as (dial, server):
        dialogues = [await dial() for _ in range(5)]
        await eventually(lambda: len(server.server_state.connections) == 5)
        reader, writer = dialogues[0]
        writer.write(GET + b"\r\n")
        assert b"\r\nconnection: close\r\n" in await ends_with(reader, b"200")
        reader, writer = dialogues[1]
        writer.write(GET + b"\r\n")
        assert b"connection: close" not in await reader.readuntil(b"hello")


async def test_connections_without_a_request_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 10 * PATIENCE)
    async with serving(connections=3) as (dial, server):
        dialogues = [await dial() for _ in range(3)]
        await eventually(lambda: len(server.server_state.connections) == 3)
        reader, _ = await dial()
        async with asyncio.timeout(PATIENCE):
            with suppress(ConnectionError):
                assert await reader.read() == b""
        assert len(server.server_state.connections) == 3
        dialogues[0][1].close()
        await eventually(lambda: len(server.server_state.connections) == 2)
        reader, writer = await dial()
        await eventually(lambda: len(server.server_state.connections) == 3)
        writer.write(GET + b"\r\n")
        await ends_with(reader, b"503")  # uvicorn's own limit


async def test_a_desktop_s_programs_are_turned_away() -> None:
    async with serving(is_refused=lambda address: address == "127.0.0.1") as (dial, _):
        reader, writer = await dial()
        writer.write(GET + b"\r\n")
        async with asyncio.timeout(PATIENCE):
            with suppress(ConnectionError):
                assert await reader.read() == b""


async def test_a_malformed_piece_of_a_body_is_refused() -> None:
    head = b"POST /wait HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    await refused(head + b"2\r\nxx\r\nnonsense\r\n", b"400")


def budget_of(server: _Server) -> ByteBudget:
    """What the listener's requests have left."""
    protocol: Any = server.config.http
    budget: ByteBudget = protocol.keywords["received"]
    return budget
