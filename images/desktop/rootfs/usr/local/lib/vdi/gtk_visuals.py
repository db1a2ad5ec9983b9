"""Tells GTK 3 which visuals OpenGL can draw on, as the first GTK program on a screen would find out
for all others.

That program would load Mesa and LLVM for the question, and keep them in its memory: here one that
never draws.
"""

import socket
import struct
from pathlib import Path

import x11

TRUE_COLOR = 4
INTEGER = 19  # the atom of that type
ALPHA_BITS = {24: 0, 32: 8}  # by the depth of a visual: without and with transparency


def note_visuals_for_gtk(display: str, authority: Path) -> None:
    """Set GDK_VISUALS on the root window, if GLX has visuals of both kinds. Raises UnknownError,
    OSError.
    """
    connection, setup = x11.connect(display, authority)
    with connection:
        plain = plain_visuals(connection, setup)
        if len(plain) < len(ALPHA_BITS):
            return
        name = b"GDK_VISUALS"
        connection.sendall(struct.pack("<BBHHxx", 16, 0, 5, len(name)) + name.ljust(12, b"\0"))
        atom = struct.unpack_from("<I", x11.reply(connection), 8)[0]
        value = struct.pack("<II", *(plain[depth] for depth in ALPHA_BITS))
        connection.sendall(
            struct.pack("<BBHIIIBxxxI", 18, 0, 8, setup.root, atom, INTEGER, 32, 2) + value
        )
        x11.screen_size(connection, setup.root)  # its answer comes after the property was set


def plain_visuals(connection: socket.socket, setup: x11.Setup) -> dict[int, int]:
    """By depth, the first visual with two buffers and nothing besides: what GTK asks GLX for.
    Raises UnknownError.
    """
    connection.sendall(struct.pack("<BBHI", x11.extension(connection, b"GLX"), 14, 2, 0))
    found = x11.reply(connection)
    count, properties = struct.unpack_from("<II", found, 8)
    depths = visual_depths(setup.screen)
    plain: dict[int, int] = {}
    for i in range(count):
        config = struct.unpack_from("<16I", found, 32 + 4 * properties * i)
        visual, kind, alpha = config[0], config[1], config[6]
        two_buffers, stereo, depth_buffer, stencil = config[11], config[12], config[14], config[15]
        depth = depths.get(visual, 0)
        is_plain = kind == TRUE_COLOR and two_buffers and not (stereo or depth_buffer or stencil)
        if is_plain and ALPHA_BITS.get(depth) == alpha:
            plain.setdefault(depth, visual)
    return plain


def visual_depths(screen: bytes) -> dict[int, int]:
    """By visual, the bits of a pixel's colour, transparency included."""
    found, at = {}, 40
    for _ in range(screen[39]):
        depth, visuals = struct.unpack_from("<BxH", screen, at)
        found |= {
            struct.unpack_from("<I", screen, at + 8 + 24 * i)[0]: depth for i in range(visuals)
        }
        at += 8 + 24 * visuals
    return found
