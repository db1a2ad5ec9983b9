"""HTTP on the wire: how answers end, what is no HTTP, which connections are used again, and the way
through a proxy.
"""

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.hostile_server import HOSTILE, Answer, serve_answer, whole
from support.waiting import PATIENCE, eventually
from unit.kube.kube_fake_api import FakeApi
from unit.kube.kube_pki import server_context
from unit.kube.kube_things import THINGS, Thing
from vdi.devcluster.credentials import authority
from vdi.kube import connections
from vdi.kube.config import ClusterConfig
from vdi.kube.connections import AnswerError, HttpClient, Target, _Turns, ask_once
from vdi.kube.errors import ConfigError, ConnectionFailed, StreamSilent, UnexpectedAnswer
from vdi.kube.http import BUFFER, BUFFERED, Connection, HttpError
from vdi.kube.transport import NO_RETRY, PAGE_SIZE, Client

GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
SHORT = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"4\r\nwiki\r\n6;why=not\r\npedia\n\r\nc\r\n in\r\n\r\nchunk\r\n0\r\nTrailer: x\r\n\r\n"
)


def soon(seconds: float = 5.0) -> float:
    return asyncio.get_running_loop().time() + seconds


class Wire:
    """The event loop's side of one connection."""

    def __init__(self) -> None:
        self.paused = self.aborted = False
        self.sent = b""
        self.connection = Connection(memoryview(bytearray(BUFFER)))
        self.connection.connection_made(self)  # type: ignore[arg-type]

    def write(self, data: bytes) -> None:
        self.sent += data

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def abort(self) -> None:
        if not self.aborted:
            self.aborted = True
            self.connection.connection_lost(None)

    def ask(self, answer: bytes) -> None:
        self.connection.send(GET)
        self.come(answer)

    def come(self, data: bytes) -> None:
        for start in range(0, len(data), BUFFER):
            part = data[start : start + BUFFER]
            self.connection.get_buffer(-1)[: len(part)] = part
            self.connection.buffer_updated(len(part))


@given(cuts=st.lists(st.integers(0, len(CHUNKED)), max_size=8))
def test_an_answer_is_the_same_wherever_the_network_cuts_it(cuts: list[int]) -> None:
    async def read() -> bytes:
        wire = Wire()
        wire.connection.send(GET)
        places = [0, *sorted(cuts), len(CHUNKED)]
        for start, end in pairwise(places):
            wire.come(CHUNKED[start:end])
        response = await wire.connection.response()
        assert wire.connection.reusable
        return response.body

    assert asyncio.run(read()) == b"wikipedia\n in\r\n\r\nchunk"


async def test_two_answers_come_over_one_connection() -> None:
    wire = Wire()
    for _ in range(2):
        wire.ask(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + SHORT)
        response = await wire.connection.response()
        assert (response.status, response.body) == (200, b"ok")
    assert wire.sent == GET * 2


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 204 No Content", b"HTTP/1.1 200 OK\r\nContent-Length: 0"]
)
async def test_an_answer_without_a_body_ends_at_once(head: bytes) -> None:
    wire = Wire()
    wire.ask(head + b"\r\n\r\n")
    assert (await wire.connection.response()).body == b""
    assert wire.connection.reusable


async def test_answer_without_length_ends_with_its_connection() -> None:
    wire = Wire()
    wire.ask(b"HTTP/1.0 200 OK\r\nX-a:  b \r\n\r\nsome")
    wire.come(b"thing")
    wire.connection.connection_lost(None)
    response = await wire.connection.response()
    assert (response.body, response.header("x-A"), response.header("y")) == (
        b"something",
        "b",
        None,
    )
    assert not wire.connection.reusable


async def test_connection_close_is_honoured() -> None:
    wire = Wire()
    wire.ask(SHORT.replace(b"OK", b"OK\r\nConnection: close"))
    await wire.connection.response()
    assert not wire.connection.reusable


@pytest.mark.parametrize(
    "nonsense",
    [
        b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabcd",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-8\r\nabcd",
        b"HTTP/1.1 200 OK\r\nContent-Length: -6\r\n\r\nabcd",
        b"HTTP/1.1  +9 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * (BUFFER + 10),
        SHORT + b"more",
    ],
)
async def test_malformed_http_ends_the_connection(nonsense: bytes) -> None:
    wire = Wire()
    wire.ask(nonsense)
    assert wire.aborted
    if not nonsense.startswith(SHORT):
        with pytest.raises(HttpError, match="not HTTP"):
            await wire.connection.response()


@pytest.mark.parametrize(
    ("first", "repeated", "part"),
    [
        (b"", b"HTTP/1.1 103 E\r\n\r\n", "informational responses"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n", "trailer"),
    ],
)
async def test_ignored_parts_of_an_answer_have_a_limit(
    first: bytes, repeated: bytes, part: str
) -> None:
    wire = Wire()
    for _ in range(2):  # of each answer
        wire.ask(first + repeated * (2**16 // len(repeated)))
        wire.come(b"\r\n" if first else SHORT)
        assert (await wire.connection.response()).status == 200
    wire.ask(first + repeated * (2**16 // len(repeated) + 1))
    assert wire.aborted
    with pytest.raises(HttpError, match=f"more than 65536 bytes of {part}"):
        await wire.connection.response()


async def test_an_answer_cut_short_is_no_answer() -> None:
    wire = Wire()
    wire.ask(SHORT[:-1])
    wire.connection.connection_lost(None)
    with pytest.raises(HttpError, match="closed"):
        await wire.connection.response()


async def test_unread_stream_makes_the_server_wait() -> None:
    wire = Wire()
    wire.ask(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\nx" % (2 * BUFFERED))
    chunks = wire.connection.chunks()
    assert len(await anext(chunks)) == 1
    wire.come(b"x" * BUFFERED)
    assert not wire.paused
    wire.come(b"x")
    assert wire.paused
    assert len(await anext(chunks)) == BUFFERED + 1
    wire.come(b"y" * (BUFFERED - 3))
    assert len(await anext(chunks)) == BUFFERED - 3
    assert not wire.paused
    wire.come(b"z")
    assert await anext(chunks) == b"z"
    with pytest.raises(StopAsyncIteration):
        await anext(chunks)


@pytest.mark.parametrize("before", [0, BUFFERED + 1])
async def test_a_large_answer_is_read_to_its_end(before: int) -> None:
    wire = Wire()
    wire.ask(b"HTTP/1.1 500 Oh\r\nContent-Length: %d\r\n\r\n" % (3 * BUFFERED) + b"x" * before)
    response = asyncio.ensure_future(wire.connection.response())
    await asyncio.sleep(0)
    wire.come(b"x" * (3 * BUFFERED - before))
    assert not wire.paused
    assert len((await response).body) == 3 * BUFFERED


async def test_parallel_requests_are_limited_and_connections_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened, connect = 0, Target.connect

    async def counted(target: Target, buffer: memoryview) -> Connection:
        nonlocal opened
        opened += 1
        return await connect(target, buffer)

    monkeypatch.setattr(Target, "connect", counted)
    async with serve_answer(Answer(SHORT)) as server:
        client = HttpClient(Target(server.url), limit=3)
        answers = await asyncio.gather(*(client.request(GET, soon()) for _ in range(30)))
        assert all(response.body == b"ok" for response in answers)
        await client.close()
    assert opened == 3


async def test_connection_closed_by_the_server_is_not_used() -> None:
    async with serve_answer(Answer(SHORT)) as server:
        client = HttpClient(Target(server.url), limit=1)
        await client.request(GET, soon())
        [kept], [writer] = client._idle, server.connections.values()
        writer.close()
        await eventually(lambda: kept.lost)
        assert (await client.request(GET, soon())).body == b"ok"
        await client.close()


async def test_a_connection_that_is_not_used_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.05)
    async with serve_answer(Answer(SHORT)) as server:
        client = HttpClient(Target(server.url), limit=1)
        await client.request(GET, soon())
        [kept] = client._idle
        await eventually(lambda: not server.connections, seconds=5)
        assert not client._idle
        assert kept._response is None, "an answer may be large"
        await client.close()


async def test_timeout_leaves_no_half_read_connection() -> None:
    async with serve_answer(Answer(b"")) as server:
        client = HttpClient(Target(server.url), limit=1)
        with pytest.raises(TimeoutError):
            await client.request(GET, soon(0.02))
        assert not client._idle
        assert not client._busy
        await client.close()


async def test_endless_answer_is_read_to_the_limit_only() -> None:
    async with serve_answer(Answer(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 1000)) as server:
        assert (
            await ask_once("it", "GET", server.url, bearer="t", most=2500, seconds=PATIENCE)
            == b"x" * 2500
        )


@pytest.mark.parametrize("name", HOSTILE)
async def test_no_answer_takes_more_memory_than_is_asked_for(name: str) -> None:
    """Of an agent in a desktop, which the operator asks; it decompresses nothing."""
    tracemalloc.start()
    try:
        with suppress(AnswerError, OSError):
            async with serve_answer(HOSTILE[name]) as hostile:
                body = await ask_once("it", "GET", hostile.url, bearer="t", most=4096, seconds=1)
                assert len(body) <= 4096
                if name in ("gzip", "nested"):
                    assert body == hostile.answer.first.partition(b"\r\n\r\n")[2][:4096]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * 2**20


@pytest.mark.parametrize("name", [name for name in HOSTILE if name != "two lengths"])
async def test_whole_answer_has_a_largest_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vdi.kube.http._LARGEST_BODY", 2**21)
    async with (
        serve_answer(HOSTILE[name]) as hostile,
        Client(
            ClusterConfig(hostile.url), field_manager="t", retry=NO_RETRY, request_timeout=1
        ) as client,
    ):
        tracemalloc.start()
        try:
            with pytest.raises((ConnectionFailed, UnexpectedAnswer)) as refused:
                await client.get(THINGS, "a", namespace="ns", into=dict)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 32 * 2**20
    if name == "endless chunks":
        assert "the response is larger than 2097152 bytes" in str(refused.value)


async def test_ended_connection_needs_no_garbage_collector() -> None:
    """The operator polls hundreds of desktops every minute, and its collector rarely runs."""

    def connections() -> int:
        return sum(isinstance(thing, Connection) for thing in gc.get_objects())

    async with serve_answer(Answer(SHORT)) as server:
        before = connections()
        gc.disable()
        try:
            assert (
                await ask_once("it", "GET", server.url, bearer="t", most=2500, seconds=PATIENCE)
                == b"ok"
            )
            await eventually(lambda: connections() <= before, "the connection has gone", seconds=5)
        finally:
            gc.enable()


async def test_a_silent_stream_is_given_up_after_its_deadline() -> None:
    begun = Answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    async with (
        serve_answer(begun) as server,
        Client(ClusterConfig(server.url), field_manager="tester") as client,
    ):
        with pytest.raises(StreamSilent, match="silent for 0"):
            async for _ in client.watch(
                THINGS, resource_version="1", timeout_seconds=9, read_deadline=0.2
            ):
                pass


async def test_server_of_another_protocol_is_named() -> None:
    async with (
        serve_answer(Answer(b"220 mail.example.org ESMTP\r\n\r\n")) as server,
        Client(ClusterConfig(server.url), field_manager="t", retry=NO_RETRY) as client,
    ):
        with pytest.raises(ConnectionFailed, match="not HTTP"):
            await client.list(THINGS, into=Thing)


async def test_a_path_in_the_servers_url_stands_before_every_path() -> None:
    async with (
        serve_answer(whole(b'{"metadata":{},"items":[]}')) as server,
        Client(ClusterConfig(f"{server.url}/k8s/clusters/c-1/"), field_manager="tester") as client,
    ):
        assert await client.list(THINGS, into=Thing) == []
    (request,) = server.requests
    assert (
        request.split()[1]
        == f"/k8s/clusters/c-1/apis/example.org/v1/things?limit={PAGE_SIZE}".encode()
    )


@asynccontextmanager
async def proxy(
    heads: list[bytes], response: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n"
) -> AsyncIterator[str]:
    """A proxy that remembers what it was asked, and knows CONNECT alone."""
    tasks: set[asyncio.Future[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**16):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(response)
        if b" 200 " not in response:
            writer.close()
            return
        host, _, port = heads[-1].split()[1].decode().rpartition(":")
        there, back = await asyncio.open_connection(host, int(port))
        tasks.update(
            (asyncio.ensure_future(pump(reader, back)), asyncio.ensure_future(pump(there, writer)))
        )
        await asyncio.gather(*tasks, return_exceptions=True)

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        yield f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"


async def test_tunnel_through_a_proxy_checks_the_servers_certificate(tmp_path: Path) -> None:
    ours = authority(tmp_path, "ca", "test authority")
    api = FakeApi()
    await api.start(server_context(ours))
    heads: list[bytes] = []
    try:
        async with proxy(heads) as address:
            config = api.config(ca=ours.file.read_bytes(), proxy_url=f"http://me:p%40ss@{address}")
            async with Client(config, field_manager="tester") as client:
                api.put("things", "a", size=7)
                assert [thing.size for thing in await client.list(THINGS, into=Thing)] == [7]
                assert [thing.size for thing in await client.list(THINGS, into=Thing)] == [7]
            stranger = api.config(
                ca=authority(tmp_path, "other", "another authority").file.read_bytes(),
                proxy_url=f"http://{address}",
            )
            async with Client(stranger, field_manager="tester", retry=NO_RETRY) as client:
                with pytest.raises(ConnectionFailed, match="certificate verify failed"):
                    await client.list(THINGS, into=Thing)
    finally:
        await api.stop()
    assert heads[0].startswith(b"CONNECT 127.0.0.1:")
    assert b"Proxy-Authorization: Basic bWU6cEBzcw==\r\n" in heads[0]
    assert len(heads) == 2, "one connection for each client"


async def test_a_proxy_that_refuses_is_named() -> None:
    heads: list[bytes] = []
    async with proxy(
        heads, b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    ) as address:
        config = ClusterConfig("https://10.0.0.1:6443", proxy_url=f"http://{address}")
        async with Client(config, field_manager="tester", retry=NO_RETRY) as client:
            with pytest.raises(ConnectionFailed, match="responds with 407 to CONNECT"):
                await client.list(THINGS, into=Thing)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            ClusterConfig("https://x", source="/home/me/config", proxy_url="socks5://p:1080"),
            "only http://HOST:PORT",
        ),
        (ClusterConfig("ftp://x", source="/home/me/config"), "must be http://HOST or https://HOST"),
    ],
)
async def test_an_unusable_way_names_its_source(config: ClusterConfig, words: str) -> None:
    with pytest.raises(ConfigError, match=f"/home/me/config.*{words}"):
        async with Client(config, field_manager="tester"):
            pass


async def test_turns_go_in_order_and_skip_abandoned_requests() -> None:
    turns, got = _Turns(1), []
    await turns.take(soon())

    async def one(name: str, deadline: float) -> None:
        await turns.take(deadline)
        got.append(name)

    late = asyncio.create_task(one("late", soon(0.01)))
    first, cancelled, second = (
        asyncio.create_task(one(name, soon())) for name in ("first", "cancelled", "second")
    )
    with pytest.raises(TimeoutError):
        await late
    turns.give_back()
    await first
    turns.give_back()  # it is the turn of one that is cancelled before it can take it
    cancelled.cancel()
    await second
    assert got == ["first", "second"]
    turns.give_back()
    await turns.take(soon())
