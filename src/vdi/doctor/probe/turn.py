"""A TURN client that makes one allocation over UDP (RFC 8656) and releases it. Only `vdi doctor
--probe` uses it.
"""

import asyncio
import hashlib
import hmac
import secrets
import struct
from dataclasses import dataclass

_ALLOCATE, _REFRESH = 0x0003, 0x0004
_USERNAME = 0x06
_INTEGRITY = 0x08
_ERROR = 0x09
_LIFETIME = 0x0D
_REALM = 0x14
_NONCE = 0x15
_TRANSPORT = 0x19
_RELAYED = 0x16
_COOKIE = 0x2112A442
_UDP = struct.pack("!B3x", 17)
_UNAUTHORIZED = 401
_SECONDS = 2.0
_TRIES = 3


class TurnError(Exception):
    """Raised when the server allocates no relay address; the message says why."""


@dataclass(frozen=True, slots=True)
class _Answer:
    # 0: it is a success.
    error: int

    attributes: dict[int, bytes]


async def allocate(host: str, port: int, username: str, password: str) -> None:
    """Allocate a relay address with time-limited credentials, then release it. Raises TurnError."""
    loop = asyncio.get_running_loop()
    try:
        transport, protocol = await loop.create_datagram_endpoint(
            _Mailbox, remote_addr=(host, port)
        )
    except OSError as error:
        raise TurnError(f"{host}:{port}: {error}") from error
    try:
        first = await _ask(transport, protocol, _ALLOCATE, [(_TRANSPORT, _UDP)])
        realm, nonce = first.attributes.get(_REALM, b""), first.attributes.get(_NONCE, b"")
        if first.error != _UNAUTHORIZED or not nonce:
            raise TurnError(
                f"{host}:{port} relays for anyone" if not first.error else _refusal(first)
            )
        who = [(_USERNAME, username.encode()), (_REALM, realm), (_NONCE, nonce)]
        key = hashlib.md5(
            b":".join((username.encode(), realm, password.encode())), usedforsecurity=False
        ).digest()
        answer = await _ask(transport, protocol, _ALLOCATE, [(_TRANSPORT, _UDP), *who], key)
        if answer.error or _RELAYED not in answer.attributes:
            raise TurnError(_refusal(answer))
        await _ask(transport, protocol, _REFRESH, [(_LIFETIME, struct.pack("!I", 0)), *who], key)
    finally:
        transport.close()


def _refusal(answer: _Answer) -> str:
    reason = answer.attributes.get(_ERROR, b"")[4:].decode("utf-8", "replace")
    return f"it responds with {answer.error} {reason}".rstrip()


class _Mailbox(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.came: asyncio.Queue[bytes | Exception] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002 -- asyncio's own signature
        self.came.put_nowait(data)

    def error_received(self, error: Exception) -> None:
        self.came.put_nowait(error)


async def _ask(
    transport: asyncio.DatagramTransport,
    mailbox: _Mailbox,
    method: int,
    attributes: list[tuple[int, bytes]],
    key: bytes = b"",
) -> _Answer:
    # UDP loses datagrams, and anyone may send some: a response has the request's transaction id.
    identity = secrets.token_bytes(12)
    message = _message(method, identity, attributes, key)
    for _ in range(_TRIES):
        transport.sendto(message)
        try:
            async with asyncio.timeout(_SECONDS):
                while True:
                    came = await mailbox.came.get()
                    if isinstance(came, Exception):
                        raise TurnError(f"nothing listens there: {came}")
                    if came[8:20] == identity and (answer := _read(came)):
                        return answer
        except TimeoutError:
            continue
    raise TurnError(f"no response over UDP within {_TRIES * _SECONDS:g} s")


def _message(
    method: int, identity: bytes, attributes: list[tuple[int, bytes]], key: bytes
) -> bytes:
    body = b"".join(_attribute(kind, value) for kind, value in attributes)
    if not key:
        return struct.pack("!HHI", method, len(body), _COOKIE) + identity + body
    signed = struct.pack("!HHI", method, len(body) + 24, _COOKIE) + identity + body
    return signed + _attribute(_INTEGRITY, hmac.digest(key, signed, hashlib.sha1))


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("!HH", kind, len(value)) + value + b"\0" * (-len(value) % 4)


def _read(data: bytes) -> _Answer | None:
    """A response; None: not a STUN message."""
    if len(data) < 20:
        return None
    kind, length, cookie = struct.unpack("!HHI", data[:8])
    if cookie != _COOKIE or len(data) < 20 + length:
        return None
    attributes: dict[int, bytes] = {}
    at = 20
    while at + 4 <= 20 + length:
        name, size = struct.unpack("!HH", data[at : at + 4])
        attributes[name] = data[at + 4 : at + 4 + size]
        at += 4 + size + (-size % 4)
    error = attributes.get(_ERROR, b"")
    code = error[2] * 100 + error[3] if len(error) >= 4 else 0
    return _Answer(code if kind & 0x0110 == 0x0110 else 0, attributes)
