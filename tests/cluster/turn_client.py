"""A TURN client that also asks for what it should not get: one request at a time.

RFC 8656, 6062 and 6156, over UDP, TCP and TLS. Written for attacks: libraries refuse to send most
of them.
"""

import base64
import hashlib
import hmac
import ipaddress
import itertools
import secrets
import socket
import ssl
import struct
from dataclasses import dataclass, field
from typing import Literal

ALLOCATE, SEND, CREATE_PERMISSION, CHANNEL_BIND, CONNECT = 0x003, 0x006, 0x008, 0x009, 0x00A
INDICATION, DATA = 0x0010, 0x0017
USERNAME = 0x06
INTEGRITY = 0x08
ERROR = 0x09
CHANNEL = 0x0C
PEER = 0x12
PAYLOAD = 0x13
REALM = 0x14
NONCE = 0x15
RELAYED, FAMILY, TRANSPORT = 0x16, 0x17, 0x19
COOKIE = 0x2112A442
UDP, TCP = 17, 6
REFUSED_CREDENTIALS, STALE_NONCE = 401, 438

# UDP ports for the clients, none of them twice.
#
# A server keeps an allocation for minutes after its client has gone, and answers 437 to the next
# one from the same port.
_PORTS = itertools.count(20_000 + secrets.randbelow(10_000))

Attributes = list[tuple[int, bytes]]
Over = Literal["udp", "tcp", "tls"]


def make_credentials(secret: str, user: str, expires: float) -> tuple[str, str]:
    """User name and password as the TURN REST convention has them. `expires` is in seconds since
    1970.
    """
    name = f"{int(expires)}:{user}"
    digest = hmac.new(secret.encode(), name.encode(), hashlib.sha1).digest()
    return name, base64.b64encode(digest).decode()


@dataclass(frozen=True)
class Reply:
    """An answer. `code`: 0 for success, else the error's number; None: there was no answer."""

    code: int | None
    attributes: dict[int, bytes] = field(default_factory=dict)


class TurnClient:
    """One client at one server, from an address that no other client has had."""

    def __init__(
        self,
        server: tuple[str, int],
        who: tuple[str, str] = ("", ""),
        *,
        over: Over = "udp",
        wait: float = 0.5,
    ) -> None:
        self._socket = socket.socket(
            socket.AF_INET, socket.SOCK_DGRAM if over == "udp" else socket.SOCK_STREAM
        )
        if over == "udp":
            self._socket.bind(("", next(_PORTS)))
        self._socket.settimeout(wait)
        self._socket.connect(server)
        if over == "tls":
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self._socket = context.wrap_socket(self._socket)
        self._name, self._password = who
        self._realm, self._nonce = b"", b""

    def __enter__(self) -> "TurnClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def allocate(self, *, transport: int = UDP, family: int | None = None) -> Reply:
        """Ask for a relay address; `family`: 1 for IPv4, 2 for IPv6."""
        attributes: Attributes = [(TRANSPORT, bytes((transport, 0, 0, 0)))]
        if family is not None:
            attributes.append((FAMILY, bytes((family, 0, 0, 0))))
        return self.request(ALLOCATE, attributes)

    def permit(self, peer: str, port: int = 9) -> Reply:
        """Ask to exchange packets with that peer."""
        return self.request(CREATE_PERMISSION, peer_attribute(peer, port))

    def bind(self, peer: str, port: int, channel: int = 0x4001) -> Reply:
        """Ask for a channel to that peer."""
        return self.request(
            CHANNEL_BIND, [(CHANNEL, struct.pack(">HH", channel, 0)), *peer_attribute(peer, port)]
        )

    def connect(self, peer: str, port: int) -> Reply:
        """Ask for a TCP connection to that peer (RFC 6062)."""
        return self.request(CONNECT, peer_attribute(peer, port))

    def send(self, peer: str, port: int, payload: bytes) -> None:
        """Send a packet to that peer, whether there is a permission or not."""
        attributes = [*peer_attribute(peer, port), (PAYLOAD, payload)]
        self._socket.send(message(SEND | INDICATION, secrets.token_bytes(12), attributes))

    def receive(self) -> bytes | None:
        """The next packet that a peer has sent; None when none comes in time."""
        while True:
            try:
                data = self._socket.recv(4096)
            except TimeoutError:
                return None
            if data[0] & 0xC0 == 0x40:  # from a peer with a channel: number, length, payload
                return data[4 : 4 + int.from_bytes(data[2:4], "big")]
            kind, _, attributes = parse(data)
            if kind == DATA:
                return attributes[PAYLOAD]

    def request(self, method: int, attributes: Attributes) -> Reply:
        """Ask, with what the server wants for its challenge."""
        for _ in range(3):
            reply = self._ask(method, attributes)
            challenged = reply.code == STALE_NONCE or (
                reply.code == REFUSED_CREDENTIALS and not self._nonce
            )
            if not challenged or NONCE not in reply.attributes:
                break
            self._realm = reply.attributes.get(REALM, self._realm)
            self._nonce = reply.attributes[NONCE]
        return reply

    def _ask(self, method: int, attributes: Attributes) -> Reply:
        transaction = secrets.token_bytes(12)
        key = None
        if self._nonce and self._name:
            attributes = [
                *attributes,
                (USERNAME, self._name.encode()),
                (REALM, self._realm),
                (NONCE, self._nonce),
            ]
            whole = f"{self._name}:{self._realm.decode()}:{self._password}"
            key = hashlib.md5(whole.encode(), usedforsecurity=False).digest()
        self._socket.send(message(method, transaction, attributes, key))
        while True:
            try:
                data = self._socket.recv(4096)
            except TimeoutError:
                return Reply(None)
            kind, answered, found = parse(data)
            if answered == transaction:
                break
        if kind & 0x0110 == 0x0110:
            high, low = found[ERROR][2] & 7, found[ERROR][3]
            return Reply(high * 100 + low, found)
        return Reply(0, found)


def peer_attribute(peer: str, port: int) -> Attributes:
    """XOR-PEER-ADDRESS. An IPv6 address is masked with the cookie and the transaction, which
    `message` does.
    """
    address = ipaddress.ip_address(peer)
    return [(PEER, struct.pack(">BBH", 0, 1 if address.version == 4 else 2, port) + address.packed)]


def message(
    kind: int, transaction: bytes, attributes: Attributes, key: bytes | None = None
) -> bytes:
    """A message, signed if there is a key."""
    body = b""
    for name, value in attributes:
        masked = mask(value, transaction) if name == PEER else value
        body += struct.pack(">HH", name, len(masked)) + masked + bytes(-len(masked) % 4)
    if key is not None:
        head = struct.pack(">HHI", kind, len(body) + 24, COOKIE) + transaction
        body += (
            struct.pack(">HH", INTEGRITY, 20) + hmac.new(key, head + body, hashlib.sha1).digest()
        )
    return struct.pack(">HHI", kind, len(body), COOKIE) + transaction + body


def mask(value: bytes, transaction: bytes) -> bytes:
    """Mask (or unmask) the port and the address of an address attribute."""
    pattern = struct.pack(">I", COOKIE)
    port = bytes(one ^ two for one, two in zip(value[2:4], pattern, strict=False))
    address = bytes(one ^ two for one, two in zip(value[4:], pattern + transaction, strict=False))
    return value[:2] + port + address


def parse(data: bytes) -> tuple[int, bytes, dict[int, bytes]]:
    """Kind, transaction and attributes of a message; address attributes unmasked."""
    kind, length, _ = struct.unpack(">HHI", data[:8])
    transaction, rest = data[8:20], data[20 : 20 + length]
    found: dict[int, bytes] = {}
    while len(rest) >= 4:
        name, size = struct.unpack(">HH", rest[:4])
        value = rest[4 : 4 + size]
        found.setdefault(name, mask(value, transaction) if name in (PEER, RELAYED) else value)
        rest = rest[4 + size + (-size % 4) :]
    return kind, transaction, found
