"""Slow clients on a real socket, with patience cut to tens of milliseconds."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from support.waiting import PATIENCE, eventually
from vdi.gateway.app import _Server, _uvicorn_config, listen
from vdi.gateway.web import connection

Dialogue = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Dial = Callable[[], Awaitable[Dialogue]]


async def hello(_request: Request) -> Response:
    return PlainTextResponse("hello")


async def flood(_request: Request) -> Response:
    async def much() -> AsyncIterator[bytes]:
        for _ in range(500):
            yield b"x" * 65536

    return StreamingResponse(much())


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Dial, _Server]]:
    app = Starlette(routes=[Route("/", hello, methods=["GET", "POST"]), Route("/flood", flood)])
    server = _Server(_uvicorn_config(app))
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


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nA: b", b"\r\n\r\n"])
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
async def test_cookies_are_cleared_where_they_are_what_is_too_large(head: bytes, clears: bool) -> None:
    """Not for a long address, to which any page on the internet can send a browser: it would end the login."""
    answer = await refused(head, b"431")
    assert (b'clear-site-data: "cookies"' in answer) == clears
    length = int(answer.partition(b"content-length: ")[2].partition(b"\r\n")[0])
    assert len(answer.partition(b"\r\n\r\n")[2]) == length


async def test_the_refusal_of_a_large_head_reaches_a_sending_client() -> None:
    """Traefik sends up to 1 MiB before it reads; a reset in between would make a 502 of the answer."""
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
        await eventually(lambda: server.server_state.total_requests == 0 and bool(server.server_state.connections))
        await eventually(lambda: not server.server_state.connections, "the connection is cut")
