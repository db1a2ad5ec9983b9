"""As much of the X protocol as vdi-agent needs, over the server's own socket, so that no library
has to be there.
"""

import socket
import struct
from pathlib import Path
from typing import NamedTuple

SECONDS = 1.0
"""How long the X server may take for an answer."""


class UnknownError(Exception):
    """Raised when a question can't be answered now; says why."""


class Setup(NamedTuple):
    """What the X server says of itself when one logs in."""

    root: int
    resource_base: int
    first_keycode: int
    last_keycode: int
    screen: bytes
    """The first screen's description as the server sends it: 40 bytes, then its depths with their visuals."""


def receive(connection: socket.socket, length: int) -> bytes:
    """Exactly so many bytes."""
    data = bytearray(length)
    free = memoryview(data)
    while free:
        count = connection.recv_into(free)
        if not count:
            raise UnknownError("the X server hung up")
        free = free[count:]
    return bytes(data)


def packet(connection: socket.socket) -> bytes:
    """The next answer or event, whole. Raises UnknownError for the server's errors."""
    head = receive(connection, 32)
    if head[0] == 0:
        raise UnknownError(f"the X server answered request {head[10]} with error {head[1]}")
    longer = head[0] == 1 or head[0] & 0x7F == 35  # an answer, or an extension's event
    return head + (receive(connection, 4 * struct.unpack_from("<I", head, 4)[0]) if longer else b"")


def reply(connection: socket.socket) -> bytes:
    """The next answer; events that come between (a changed key map goes to everyone) are
    dropped.
    """
    while True:
        found = packet(connection)
        if found[0] == 1:
            return found


def connect(display: str, authority: Path) -> tuple[socket.socket, Setup]:
    """A connection that is logged in; the caller closes it. Raises UnknownError, OSError."""
    # vdi-desktop writes one entry, which ends with the cookie.
    cookie = authority.read_bytes()[-16:]
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(SECONDS)
        # The server's abstract address, which no one else can have: a program of the user could put
        # a server of its own in the place of the socket in the folder, and tell of a screen that is
        # smaller than the one that is seen.
        connection.connect(f"\0/tmp/.X11-unix/X{display.lstrip(':').partition('.')[0]}")
        return connection, _greet(connection, cookie)
    except BaseException:
        connection.close()
        raise


def _greet(connection: socket.socket, cookie: bytes) -> Setup:
    name = b"MIT-MAGIC-COOKIE-1"
    words = struct.pack("<BxHHHHxx", ord("l"), 11, 0, len(name), len(cookie))
    connection.sendall(
        words + name.ljust(20, b"\0") + cookie.ljust(-len(cookie) % 4 + len(cookie), b"\0")
    )
    status, units = struct.unpack("<B5xH", receive(connection, 8))
    setup = receive(connection, 4 * units)
    if status != 1:
        raise UnknownError("the X server let us not in")
    vendor, formats = struct.unpack_from("<H", setup, 16)[0], setup[21]
    screen = 32 + (vendor + 3) // 4 * 4 + 8 * formats
    root = struct.unpack_from("<I", setup, screen)[0]
    return Setup(root, struct.unpack_from("<I", setup, 4)[0], setup[26], setup[27], setup[screen:])


def screen_size(connection: socket.socket, root: int) -> tuple[int, int]:
    """Width and height as they are now, in pixels."""
    connection.sendall(struct.pack("<BxHI", 14, 2, root))
    width, height = struct.unpack_from("<HH", reply(connection), 16)
    return width, height


def read_pixels(
    connection: socket.socket, root: int, x: int, y: int, width: int, height: int
) -> bytes:
    """What this part of the screen shows, row by row: blue, green, red and an unused byte. Raises
    UnknownError.
    """
    connection.sendall(struct.pack("<BBHIhhHHI", 73, 2, 5, root, x, y, width, height, 0xFFFFFFFF))
    found = reply(connection)
    depth, pixels = found[1], found[32:]
    if depth != 24 or len(pixels) != 4 * width * height:
        raise UnknownError(
            f"the screen has a depth of {depth}, and {len(pixels)} bytes for {width}x{height}"
            " pixels"
        )
    return pixels


def move_pointer(display: str, authority: Path, x: int, y: int) -> None:
    """Put the pointer on this place of the screen. Raises UnknownError, OSError."""
    connection, setup = connect(display, authority)
    with connection:
        connection.sendall(struct.pack("<BxHIIhhHHhh", 41, 6, 0, setup.root, 0, 0, 0, 0, x, y))
        screen_size(connection, setup.root)  # its answer comes after the pointer was moved


def extension(connection: socket.socket, name: bytes) -> int:
    """Its opcode. Raises UnknownError where the server lacks it."""
    padded = name.ljust(-len(name) % 4 + len(name), b"\0")
    connection.sendall(struct.pack("<BxHHxx", 98, 2 + len(padded) // 4, len(name)) + padded)
    present, opcode = reply(connection)[8:10]
    if not present:
        raise UnknownError(f"the X server lacks {name.decode()}")
    return int(opcode)
