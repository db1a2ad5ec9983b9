"""A moving picture over the whole screen of an X display, drawn with Python's standard library and
libX11 alone.

It runs inside the desktop (`python3 -c TEXT`), says `playing` once it does, and ends when its
standard input does. The X server tiles the screen itself, so that a frame costs the program and the
wire next to nothing: what the desktop then uses is the X server's drawing, capture and encoding.
"""

from __future__ import annotations

import ctypes
import math
import select
import sys
import time

TILE = 256
PHASES = 16
PER_SECOND = 30
# Pixels by which the picture wanders per frame.
STEP = 3

_Z_PIXMAP, _FILL_TILED, _CW_OVERRIDE_REDIRECT = 2, 1, 1 << 9


class Attributes(ctypes.Structure):
    """XSetWindowAttributes of Xlib.h."""

    _fields_ = [
        *(
            (name, ctypes.c_ulong)
            for name in ("background_pixmap", "background_pixel", "border_pixmap", "border_pixel")
        ),
        *((name, ctypes.c_int) for name in ("bit_gravity", "win_gravity", "backing_store")),
        *((name, ctypes.c_ulong) for name in ("backing_planes", "backing_pixel")),
        ("save_under", ctypes.c_int),
        *((name, ctypes.c_long) for name in ("event_mask", "do_not_propagate_mask")),
        ("override_redirect", ctypes.c_int),
        *((name, ctypes.c_ulong) for name in ("colormap", "cursor")),
    ]


def tile(phase: int) -> bytes:
    """One of PHASES pictures of TILE x TILE pixels (blue, green, red, unused) that fits beside
    itself on every side.

    Soft waves that change shape from phase to phase, as in a film, and over them an edge every 32
    pixels.
    """
    turn = 2 * math.pi / TILE
    shift = 2 * math.pi * phase / PHASES
    wave = [math.sin(turn * place + shift) for place in range(TILE)]
    other = [math.sin(2 * turn * place - shift) for place in range(TILE)]
    colours = [
        bytes((i, (i * 2) % 256 if i < 128 else 511 - 2 * i, 255 - i, 0)) for i in range(256)
    ]
    dark = [bytes(part * 3 // 4 for part in colour) for colour in colours]
    rows = []
    for y in range(TILE):
        line = [int((wave[x] + other[y] + wave[(x + y) % TILE] + 3) / 6 * 255) for x in range(TILE)]
        rows.append(
            b"".join((dark if (x ^ y) & 32 else colours)[value] for x, value in enumerate(line))
        )
    return b"".join(rows)


def play() -> None:
    """Draw PER_SECOND frames a second until standard input ends. Raises RuntimeError without a
    display.
    """
    x11 = ctypes.CDLL("libX11.so.6")
    pointer, whole, number = ctypes.c_void_p, ctypes.c_int, ctypes.c_ulong
    for name in ("XOpenDisplay", "XDefaultVisual", "XCreateGC", "XCreateImage"):
        getattr(x11, name).restype = pointer
    for name in ("XDefaultRootWindow", "XCreateSimpleWindow", "XCreatePixmap"):
        getattr(x11, name).restype = number
    display = pointer(x11.XOpenDisplay(None))
    if not display:
        raise RuntimeError("no X display: DISPLAY and XAUTHORITY say where it is")
    screen = x11.XDefaultScreen(display)
    width, height = x11.XDisplayWidth(display, screen), x11.XDisplayHeight(display, screen)
    depth, visual = x11.XDefaultDepth(display, screen), pointer(x11.XDefaultVisual(display, screen))
    root = number(x11.XDefaultRootWindow(display))
    nothing = number(0)
    window = number(
        x11.XCreateSimpleWindow(display, root, 0, 0, width, height, 0, nothing, nothing)
    )
    unmanaged = ctypes.byref(Attributes(override_redirect=1))
    x11.XChangeWindowAttributes(display, window, number(_CW_OVERRIDE_REDIRECT), unmanaged)
    x11.XMapRaised(display, window)
    context = pointer(x11.XCreateGC(display, window, nothing, None))
    pictures, kept = [], []
    for phase in range(PHASES):
        kept.append(data := ctypes.create_string_buffer(tile(phase)))
        picture = number(x11.XCreatePixmap(display, window, TILE, TILE, depth))
        image = pointer(
            x11.XCreateImage(display, visual, depth, _Z_PIXMAP, 0, data, TILE, TILE, 32, 0)
        )
        x11.XPutImage(display, picture, context, image, 0, 0, 0, 0, TILE, TILE)
        pictures.append(picture)
    x11.XSetFillStyle(display, context, whole(_FILL_TILED))
    sys.stdout.write("playing\n")
    sys.stdout.flush()
    frame, begun = 0, time.monotonic()
    while not select.select(
        [sys.stdin], [], [], max(0.0, begun + frame / PER_SECOND - time.monotonic())
    )[0]:
        x11.XSetTile(display, context, pictures[frame // 2 % PHASES])
        x11.XSetTSOrigin(display, context, frame * STEP % TILE, frame % TILE)
        x11.XFillRectangle(display, window, context, 0, 0, width, height)
        x11.XSync(display, 0)
        frame += 1


if __name__ == "__main__":
    play()
