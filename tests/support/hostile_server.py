"""A server that answers each request with bytes of the test's choice, and answers that take the
memory of a reader.
"""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

_BOMB = gzip.compress(gzip.compress(gzip.compress(bytes(64 * 2**20), 1)))
_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
_CHUNKED = _OK + b"Transfer-Encoding: chunked\r\n\r\n"
_CHUNK = b"10000\r\n" + bytes(2**16) + b"\r\n"
DEEP = b'{"a":' + b"[" * 20_000


@dataclass(frozen=True)
class Answer:
    """`first`, then `endless` again and again until the client has gone."""

    first: bytes
    endless: bytes = b""
    # Seconds between two of `endless`.
    pause: float = 0.0


def whole(body: bytes, *fields: str, status: str = "200 OK") -> Answer:
    """An answer with a length."""
    lines = [f"HTTP/1.1 {status}", *fields, f"Content-Length: {len(body)}", "", ""]
    return Answer("\r\n".join(lines).encode() + body)


# By name; each is refused by whoever reads JSON of up to 64 KiB.
HOSTILE = {
    "gzip": whole(_BOMB, "Content-Encoding: gzip"),
    "nested": whole(_BOMB, "Content-Encoding: gzip, gzip, gzip"),
    "nested in lines": whole(_BOMB, "Content-Encoding: gzip", "content-encoding: X-GZIP"),
    "below identity": whole(_BOMB, "Content-Encoding: identity, gzip"),
    "brotli": whole(_BOMB, "Content-Encoding: br"),
    "transfer encoding": whole(_BOMB, "Transfer-Encoding: gzip, chunked"),
    "endless body": Answer(_OK + b"\r\n", bytes(2**16)),
    "endless chunks": Answer(_CHUNKED, _CHUNK),
    "endless small chunks": Answer(_CHUNKED, b"100\r\n" + bytes(256) + b"\r\n"),
    "chunks of one byte": Answer(_CHUNKED + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n"),
    "endless size of a chunk": Answer(_CHUNKED, b"0" * 2**16),
    "endless trailer": Answer(_CHUNKED + b"0\r\n", b"X: y\r\n" * 10_000),
    "long length": Answer(_OK + b"Content-Length: 999999999999\r\n\r\n", bytes(2**16)),
    "length above what comes": Answer(_OK + b"Content-Length: 100\r\nConnection: close\r\n\r\n{}"),
    "two lengths": Answer(_OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} "),
    "endless header line": Answer(_OK + b"X: ", b"y" * 2**16),
    "endless header lines": Answer(_OK, b"X: y\r\n" * 10_000),
    "endless informational responses": Answer(b"", b"HTTP/1.1 103 E\r\n\r\n" * 3500),
    "endless status line": Answer(b"HTTP/1.1 200 ", b"O" * 2**16),
    "deep JSON": whole(DEEP),
}

# One of each kind of limit. For clients that leave the reading to `vdi.http_client`, whose own tests
# try all.
TYPICAL = {
    name: HOSTILE[name]
    for name in ("nested", "endless chunks", "long length", "endless header lines", "deep JSON")
}

# A header that comes for ever, but never later than a reader waits for its next bytes.
DRIP = Answer(_OK + b"X: ", b"y", pause=0.01)


@dataclass
class HostileServer:
    """Its address, and the heads of the requests so far."""

    answer: Answer
    url: str = ""
    requests: list[bytes] = field(default_factory=list)
    connections: dict[asyncio.Task[None], asyncio.StreamWriter] = field(default_factory=dict)

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        task = asyncio.current_task()
        assert task is not None
        self.connections[task] = writer
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while not writer.is_closing():
                self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(self.answer.first)
                await writer.drain()
                while self.answer.endless:
                    writer.write(self.answer.endless)
                    await writer.drain()
                    await asyncio.sleep(self.answer.pause)
                if b"Connection: close" in self.answer.first:
                    writer.close()
        writer.close()
        del self.connections[task]

    async def end(self) -> None:
        """Close what is open."""
        for writer in self.connections.values():
            writer.transport.abort()
        await asyncio.gather(*self.connections)


@asynccontextmanager
async def serve_answer(answer: Answer) -> AsyncIterator[HostileServer]:
    """Serve on a free port while the context lasts."""
    hostile = HostileServer(answer)
    server = await asyncio.start_server(hostile.take, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    hostile.url = f"http://{host}:{port}"
    try:
        yield hostile
    finally:
        # A client that timed out may have left before its connection reached `take`, and nothing
        # would close that. The server accepts in order: when a connection of our own has ended,
        # `take` has all before it.
        reader, writer = await asyncio.open_connection(host, port)
        writer.write_eof()
        await reader.read()
        writer.close()
        server.close()
        await hostile.end()
