"""The question to a TURN server, against a stand-in that gives chosen answers (RFC 8656); coturn:
tests/cluster.
"""

import asyncio
import hashlib
import hmac
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from vdi.doctor.probe.turn import TurnError, allocate

COOKIE = 0x2112A442
ALLOCATE, REFRESH, SUCCESS, ERROR = 0x0003, 0x0004, 0x0100, 0x0110
Reply = Callable[[bytes], list[bytes]]
REALM, NONCE = (0x14, b"example.com"), (0x15, b"once")
RELAYED = (0x16, b"\0\x01\xc0\x00\x7f\0\0\x01")


def reply(kind: int, *attributes: tuple[int, bytes]) -> Reply:
    """To each request the answer of this kind."""

    def make(request: bytes) -> list[bytes]:
        body = b"".join(
            struct.pack("!HH", n, len(v)) + v + b"\0" * (-len(v) % 4) for n, v in attributes
        )
        (method,) = struct.unpack("!H", request[:2])
        return [struct.pack("!HHI", method | kind, len(body), COOKIE) + request[8:20] + body]

    return make


def refuse(code: int, words: str, *more: tuple[int, bytes]) -> Reply:
    return reply(ERROR, (0x09, struct.pack("!HBB", 0, *divmod(code, 100)) + words.encode()), *more)


UNAUTHORIZED = refuse(401, "Unauthorized", REALM, NONCE)
GRANTED = reply(SUCCESS, RELAYED)
RELEASED = reply(SUCCESS)


class Server(asyncio.DatagramProtocol):
    def __init__(self, replies: Sequence[Reply]) -> None:
        self.replies, self.requests = list(replies), list[bytes]()

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.requests.append(data)
        for answer in self.replies.pop(0)(data):
            self.transport.sendto(answer, addr)


@asynccontextmanager
async def serving(*replies: Reply) -> AsyncIterator[tuple[Server, int]]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        lambda: Server(replies), local_addr=("127.0.0.1", 0)
    )
    try:
        yield server, transport.get_extra_info("sockname")[1]
    finally:
        transport.close()
        await asyncio.sleep(0)


async def test_an_allocation_is_signed_and_given_back() -> None:
    async with serving(UNAUTHORIZED, GRANTED, RELEASED) as (server, port):
        await allocate("127.0.0.1", port, "1900000000:vdi", "secret")
    first, second, last = server.requests
    assert [struct.unpack("!H", one[:2])[0] for one in server.requests] == [
        ALLOCATE,
        ALLOCATE,
        REFRESH,
    ]
    assert b"1900000000:vdi" not in first
    assert struct.pack("!HHI", 0x0D, 4, 0) in last, "a lifetime of 0 s"
    key = hashlib.md5(b"1900000000:vdi:example.com:secret", usedforsecurity=False).digest()
    for signed in (second, last):
        assert signed[-24:-20] == struct.pack("!HH", 0x08, 20)
        assert signed[-20:] == hmac.digest(key, signed[:-24], hashlib.sha1)


@pytest.mark.parametrize(
    ("replies", "words"),
    [
        ([reply(SUCCESS, RELAYED)], "relays for anyone"),
        ([refuse(403, "Forbidden")], "it responds with 403 Forbidden"),
        ([UNAUTHORIZED, refuse(401, "Unauthorized")], "it responds with 401 Unauthorized"),
        (
            [UNAUTHORIZED, refuse(486, "Allocation Quota Reached")],
            "it responds with 486 Allocation Quota Reached",
        ),
    ],
)
async def test_a_refusal_is_quoted(replies: list[Reply], words: str) -> None:
    async with serving(*replies) as (_, port):
        with pytest.raises(TurnError, match=words):
            await allocate("127.0.0.1", port, "1900000000:vdi", "secret")


async def test_what_is_no_answer_is_passed_over() -> None:
    def noise(request: bytes) -> list[bytes]:
        (right,) = UNAUTHORIZED(request)
        foreign = right[:8] + bytes(12) + right[20:]
        too_long = right[:2] + struct.pack("!H", 9999) + right[4:]
        return [b"", b"?", foreign, right[:4] + b"HTTP" + right[8:], too_long, right]

    async with serving(noise, GRANTED, RELEASED) as (server, port):
        await allocate("127.0.0.1", port, "1900000000:vdi", "secret")
    assert len(server.requests) == 3


async def test_silence_is_asked_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vdi.doctor.probe.turn._SECONDS", 0.02)
    async with serving(*[lambda _: []] * 3) as (server, port):
        with pytest.raises(TurnError, match=r"no response over UDP within 0\.06 s"):
            await allocate("127.0.0.1", port, "1900000000:vdi", "secret")
    assert len(server.requests) == 3
