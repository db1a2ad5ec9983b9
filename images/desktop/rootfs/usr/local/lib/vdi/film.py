"""The films of a desktop: Selkies makes them, the gateway fetches them while they grow. For
vdi-agent.

A film is a fragmented MP4 in a file without a name (handed_files.py). It is in /tmp, and what the
gateway has stored is taken out of it. Whether it has the pictures that viewers get is checked in
Selkies (film_pace.py).
"""

import contextlib
import ctypes
import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from handed_files import hand_over_film
from x11 import connect, screen_size

LOOK_SECONDS, SELKIES_SECONDS = 1.0, 5.0
MAX_PIECE, MAX_WAITING, MAX_FILM = 4 << 20, 256 << 20, 4 << 30
"""Bytes of one answer; those that may wait for the gateway in all films together; and after which a new film begins."""
STORED_SECONDS = 300.0
"""A desktop of whose film the gateway has stored nothing for so long counts as not recorded."""
FIRST_PICTURE_SECONDS = 2.0
"""A recorder without a picture for so long has ended: the screen became smaller as it began."""
ROUNDED_PIXELS = 16
"""An encoder's pictures may be smaller than the screen by less."""
_PUNCH_HOLE = 0x03  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def ask_selkies(
    port: int,
    headers: dict[str, str],
    seconds: float,
    path: str,
    method: str = "GET",
    body: object = None,
) -> dict[str, Any]:
    """Selkies' answer to one request. Raises OSError, ValueError, HTTPException."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        content = json.dumps(body) if body else None
        connection.request(method, path, content, {**headers, "Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        if answer.status != 200:
            raise ValueError(f"Selkies answered {method} {path} with {answer.status}: {text[:150]}")
        return dict(json.loads(text))
    finally:
        connection.close()


class Film:
    """One film. `number`: milliseconds since 1970 at its start; `stored`: bytes that the gateway
    has.

    `screen`: its size at the start, which the film keeps: of a larger one it would show a corner.
    """

    def __init__(self, number: int, file: int, screen: tuple[int, int]) -> None:
        self.number, self.file, self.screen = number, file, screen
        self.stored, self.seconds, self.ended = 0, 0.0, False
        self.began, self.pictures = time.monotonic(), 0

    @property
    def is_visible(self) -> bool:
        """Whether the file has a picture: the recorder writes one when the next is there, at rest
        after 10 s.
        """
        return self.pictures > 1

    @property
    def size(self) -> int:
        return os.fstat(self.file).st_size


class Films:
    """Starts, replaces and ends films."""

    def __init__(
        self, env: Mapping[str, str], headers: dict[str, str], recorder: socket.socket
    ) -> None:
        self.recorder = recorder  # gets the files
        self.mode, self.env = env.get("VDI_RECORDING", ""), env
        self.wanted = self.mode not in ("", "OnDemand")
        self.ask = partial(
            ask_selkies,
            int(env.get("SELKIES_PORT", "8080")),
            headers,
            SELKIES_SECONDS,
            "/api/recording",
        )
        self.films: list[Film] = []
        self.problem = "it is starting"
        self.stored_at = 0.0  # monotonic: when the gateway last had stored more; 0: never
        self.lock = threading.Lock()

    def report(self) -> dict[str, str]:
        """For the operator."""
        with self.lock:
            problem = self.problem[:256] if self.wanted else ""
            return {
                "state": "Failed" if problem else "On" if self.wanted else "Off",
                "message": problem,
            }

    def watch(self) -> None:
        """Look after the films as long as the agent lives."""
        while True:
            with self.lock:
                try:
                    self.problem = self.look()
                except Exception as error:  # whatever it is, the desktop is not recorded
                    self.problem = f"{error or type(error).__name__}"
            time.sleep(LOOK_SECONDS)

    def look(self) -> str:
        """One step towards what is wanted. Returns why no film is being made and kept; empty: one
        is.
        """
        status = self.ask("GET")
        is_active, film = bool(status.get("active")), self.films[-1] if self.films else None
        if film and not film.ended:
            film.seconds, film.ended = float(status.get("duration_s") or 0), not is_active
            film.pictures = max(film.pictures, int(status.get("frames") or 0))
        waiting = sum(film.size - film.stored for film in self.films)
        closed, screen = str(status.get("closed") or ""), self._screen_size()
        if waiting > MAX_WAITING:
            closed = f"{waiting >> 20} MiB of film wait for the gateway"
        # Without a film here, the recorder runs for an agent before this one.
        is_current = (
            film is not None and not film.ended and film.screen == screen and film.size < MAX_FILM
        )
        is_current = is_current and not status.get("isOutdated")
        if is_current and not film.pictures:
            is_current = time.monotonic() - film.began < FIRST_PICTURE_SECONDS
        is_current = is_current and self._has_whole_screen(status, screen)
        if closed:
            # A recorder without CPU does not end in time: this is then asked again, and again.
            with contextlib.suppress(OSError):
                if is_active:
                    self._end(film)
            return closed
        if is_active and not (self.wanted and is_current):
            self._end(film)
        if self.wanted and not (is_active and is_current):
            self._start(screen)
        if not self.stored_at or time.monotonic() - self.stored_at > STORED_SECONDS:
            return "the gateway does not store the film (gateway.recordings in the chart's values)"
        return "" if is_active else str(status.get("error") or "it is starting")

    def _has_whole_screen(self, status: Mapping[str, Any], screen: tuple[int, int]) -> bool:
        """Whether the recorder's pictures are as large as the screen; 0: it has made none yet.

        A program that makes the screen small in the moment in which the recorder begins would get a
        film of a corner. On Wayland no program can, and the X server does not know the size.
        """
        size = int(status.get("width") or 0), int(status.get("height") or 0)
        if not all(size) or self.env.get("WAYLAND_DISPLAY"):
            return True
        return all(made > side - ROUNDED_PIXELS for made, side in zip(size, screen, strict=True))

    def _end(self, film: Film | None) -> None:
        # Selkies answers the end of a film that has failed with an error, and has ended it.
        with contextlib.suppress(ValueError):
            self.ask("DELETE")
        if film:
            film.ended = True

    def _start(self, screen: tuple[int, int]) -> None:
        file = hand_over_film(self.recorder)
        try:
            self.ask("POST", {"path": "film"})
        except BaseException:
            os.close(file)
            raise
        self.films.append(Film(int(time.time() * 1000), file, screen))

    def fetch(self, number: int, stored: int) -> tuple[bytes, dict[str, str]]:
        """The next piece, and its headers, for a gateway that has stored so much of this film; or
        neither.
        """
        with self.lock:
            for film in list(self.films):
                if film.number == number and film.stored < stored <= film.size:
                    _fallocate(film.file, _PUNCH_HOLE, 0, stored)
                    film.stored, self.stored_at = stored, time.monotonic()
                if film.ended and (film.stored == film.size or not film.is_visible):
                    self.films.remove(film)
                    os.close(film.file)
            film = self.films[0] if self.films else None
            if film is None or not film.is_visible:  # of sound alone no player shows anything
                return b"", {}
            headers = {
                "X-VDI-Recording": film.number,
                "X-VDI-Offset": film.stored,
                "X-VDI-Seconds": round(film.seconds, 1),
            }
            return os.pread(film.file, MAX_PIECE, film.stored), {
                name: str(value) for name, value in headers.items()
            }

    def switch(self, *, wanted: bool) -> None:
        """Start or end the film of a desktop that is recorded on demand. Raises ValueError for any
        other.
        """
        if self.mode != "OnDemand":
            raise ValueError(
                f"VDI_RECORDING is {self.mode!r}; a film starts and ends on demand with OnDemand"
            )
        with self.lock:
            self.wanted, self.problem = wanted, "it is starting"

    def _screen_size(self) -> tuple[int, int]:
        connection, setup = connect(self.env["DISPLAY"], Path(self.env["XAUTHORITY"]))
        with connection:
            return screen_size(connection, setup.root)
