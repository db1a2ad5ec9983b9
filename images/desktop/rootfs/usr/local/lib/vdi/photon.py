"""The mark that `vdi session probe` measures by: armed for some seconds, a small window in the
screen's corner follows two keys that no keyboard has and no application gets.

    XF86Launch9   black becomes white, white becomes black: how long until the picture shows it?
    XF86Launch8   it changes as fast as it can for a while: how many frames a second arrive?

The keys are grabbed while it is armed. What a probe presses is no input of a person's
(last_input.py).
"""

import contextlib
import select
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any

import x11
from last_input import FLIP, PLAY
from x11 import UnknownError

SIZE = 48
SHOWN_SECONDS, PLAY_SECONDS, PLAY_EVERY = 1.5, 2.0, 1 / 120
LONGEST_SECONDS = 60
BLACK, WHITE = 0x000000, 0xFFFFFF
_ANY_MODIFIER = 0x8000


class Photon:
    """Arms the mark."""

    def __init__(self, display: str, authority: Path) -> None:
        self.display, self.authority = display, authority
        self.lock = threading.Lock()
        self.thread: threading.Thread | None = None
        self.until = 0.0  # in time.monotonic()
        self.screen = (0, 0)
        self.since = 0.0  # in time.time(): connections have that

    def arm(self, seconds: float) -> dict[str, Any]:
        """From now on, for so long. Armed already: so much longer. Raises UnknownError."""
        with self.lock:
            self.until = time.monotonic() + seconds
            if not (self.thread and self.thread.is_alive()):
                self._begin()
        width, height = self.screen
        place = {"x": 0, "y": 0, "size": SIZE, "width": width, "height": height}
        return {**place, "flip": FLIP, "play": PLAY, "playSeconds": PLAY_SECONDS}

    def covers(self, came: float) -> bool:
        """Whether a browser that came then may be the probe that is under way."""
        return bool(self.thread and self.thread.is_alive()) and came >= self.since

    def _begin(self) -> None:
        try:
            connection, setup = x11.connect(self.display, self.authority)
            try:
                self.screen = x11.screen_size(connection, setup.root)
                mark = Mark(connection, setup)
            except BaseException:
                connection.close()
                raise
        except OSError as error:
            raise UnknownError(f"the X server can't be asked: {error}") from error
        self.since = time.time()
        self.thread = threading.Thread(target=self._run, args=(mark,), name="photon", daemon=True)
        self.thread.start()

    def _run(self, mark: "Mark") -> None:
        with mark.connection, contextlib.suppress(OSError, UnknownError):
            while (left := self.until - time.monotonic()) > 0:
                mark.step(left)


class Mark:
    """The window and its two keys, on a connection of its own: the X server takes away both with
    it.
    """

    def __init__(self, connection: socket.socket, setup: x11.Setup) -> None:
        self.connection, self.root, self.window = connection, setup.root, setup.resource_base | 1
        self.colour = BLACK
        self.shown = False
        self.hide_at = self.play_until = 0.0
        codes = self._keycodes(setup)
        missing = [
            name for name, key in (("XF86Launch9", FLIP), ("XF86Launch8", PLAY)) if key not in codes
        ]
        if missing:
            raise UnknownError(f"the keyboard's map has no {' and no '.join(missing)}")
        self.flip, self.play = codes[FLIP], codes[PLAY]
        for code in (self.flip, self.play):
            self._send(struct.pack("<BBHIHBBBxxx", 33, 0, 4, self.root, _ANY_MODIFIER, code, 1, 1))
        head = struct.pack("<BBHII", 1, 0, 10, self.window, self.root)
        self._send(head + struct.pack("<hhHHHHIIII", 0, 0, SIZE, SIZE, 0, 0, 0, 0x202, BLACK, 1))
        # Asks for the focus: errors of earlier requests come before its reply.
        self._send(struct.pack("<BxH", 43, 1))
        x11.reply(connection)

    def step(self, left: float) -> None:
        """Wait for what happens next, not longer than this."""
        now = time.monotonic()
        playing = now < self.play_until
        if playing:
            self._paint(WHITE if self.colour == BLACK else BLACK)
        elif self.shown and now >= self.hide_at:
            self._send(struct.pack("<BxHI", 10, 2, self.window))
            self.shown = False
        pause = left
        if playing:
            pause = PLAY_EVERY
        elif self.shown:
            pause = max(0.0, self.hide_at - now)
        if not select.select([self.connection], [], [], min(pause, left))[0]:
            return
        event = x11.packet(self.connection)
        if event[0] & 0x7F == 2:
            self._pressed(event[1])

    def _pressed(self, code: int) -> None:
        now = time.monotonic()
        if code == self.play:
            self.play_until = now + PLAY_SECONDS
        self.hide_at = max(now, self.play_until) + SHOWN_SECONDS
        if code == self.flip:
            self._paint(WHITE if self.colour == BLACK else BLACK)

    def _paint(self, colour: int) -> None:
        self.colour = colour
        paint = struct.pack("<BxHIII", 2, 4, self.window, 2, colour)
        above = struct.pack("<BxHIHxxI", 12, 4, self.window, 0x40, 0)
        show = b"" if self.shown else struct.pack("<BxHI", 8, 2, self.window)
        clear = struct.pack("<BBHIhhHH", 61, 0, 4, self.window, 0, 0, 0, 0)
        self._send(paint + above + show + clear)
        self.shown = True

    def _keycodes(self, setup: x11.Setup) -> dict[int, int]:
        """Keycodes by keysym, as they are without a modifier."""
        count = setup.last_keycode - setup.first_keycode + 1
        self._send(struct.pack("<BxHBBxx", 101, 2, setup.first_keycode, count))
        answer = x11.reply(self.connection)
        per, found = answer[1], {}
        for place in range(count):
            found[struct.unpack_from("<I", answer, 32 + 4 * per * place)[0]] = (
                setup.first_keycode + place
            )
        return found

    def _send(self, request: bytes) -> None:
        self.connection.sendall(request)
