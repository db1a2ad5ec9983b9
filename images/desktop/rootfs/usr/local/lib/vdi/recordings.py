"""The recordings of a desktop: Selkies makes them, the gateway fetches them while they grow. For
vdi-agent.

A recording is a fragmented MP4 in a file without a name (handed_files.py). It is in /tmp, and what
the gateway has stored is taken out of it. Whether it has the pictures that viewers get is checked
in Selkies (recording_pace.py).
"""

import contextlib
import ctypes
import os
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.selkies_api import SelkiesApi
from handed_files import hand_over_recording
from x11 import connect, screen_size

LOOK_SECONDS, SELKIES_SECONDS = 1.0, 5.0
# Bytes of one answer; those that may wait for the gateway in all recordings together; and after
# which a new recording begins.
MAX_PIECE, MAX_WAITING, MAX_RECORDING = 4 << 20, 256 << 20, 4 << 30
# A desktop of whose recording the gateway has stored nothing for so long counts as not recorded.
STORED_SECONDS = 300.0
# A recorder without a picture for so long has ended: the screen became smaller as it began.
FIRST_PICTURE_SECONDS = 2.0
ROUNDED_PIXELS = 16  # an encoder's pictures may be smaller than the screen by less
_STARTING = "it is starting"
_PUNCH_HOLE = 0x03  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class Recording:
    """One recording. `number`: milliseconds since 1970 at its start; `stored`: bytes that the
    gateway has.

    `screen`: its size at the start, which the recording keeps: of a larger one it would show a
    corner.
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

    def note(self, status: Mapping[str, Any]) -> None:
        """Selkies' status of the recorder, which was this one's until it ended."""
        if not self.ended:
            self.seconds = float(status.get("duration_s") or 0)
            self.ended = not status.get("active")
            self.pictures = max(self.pictures, int(status.get("frames") or 0))

    def is_for(self, screen: tuple[int, int]) -> bool:
        """Whether it can go on, of a screen of this size."""
        if self.ended or self.screen != screen or self.size >= MAX_RECORDING:
            return False
        return bool(self.pictures) or time.monotonic() - self.began < FIRST_PICTURE_SECONDS


class Recordings:
    """Starts, replaces and ends recordings.

    Args:
        recorder: gets the files.
    """

    def __init__(
        self, env: Mapping[str, str], selkies: SelkiesApi, recorder: socket.socket
    ) -> None:
        self.recorder = recorder
        self.mode, self._env = env.get("VDI_RECORDING", ""), env
        self._selkies = selkies
        self.is_wanted = self.mode not in ("", "OnDemand")
        self.recordings: list[Recording] = []
        self.problem = _STARTING
        self.stored_at = 0.0  # monotonic: when the gateway last had stored more; 0: never
        self._lock = threading.Lock()

    def report(self) -> dict[str, str]:
        """For the operator."""
        with self._lock:
            if not self.is_wanted:
                return {"state": "Off", "message": ""}
            if self.problem:
                return {"state": "Failed", "message": self.problem[:256]}
            return {"state": "On", "message": ""}

    def watch(self) -> None:
        """Look after the recordings as long as the agent lives."""
        while True:
            with self._lock:
                try:
                    self.problem = self.look()
                except Exception as error:  # whatever it is, the desktop is not recorded
                    self.problem = f"{error or type(error).__name__}"
            time.sleep(LOOK_SECONDS)

    def look(self) -> str:
        """One step towards what is wanted. Returns why no recording is being made and kept; empty:
        one is.
        """
        status = self._ask("GET")
        is_active = bool(status.get("active"))
        current = self.recordings[-1] if self.recordings else None
        if current:
            current.note(status)
        screen = self._screen_size()
        closed = self._reason_to_close(status)
        # Without a recording here, the recorder runs for an agent before this one.
        goes_on = current is not None and current.is_for(screen) and self._is_good(status, screen)
        if closed:
            # A recorder without CPU does not end in time: this is then asked again, and again.
            with contextlib.suppress(OSError):
                if is_active:
                    self._end(current)
            return closed
        if is_active and not (self.is_wanted and goes_on):
            self._end(current)
        if self.is_wanted and not (is_active and goes_on):
            self._start(screen)
        if not self.stored_at or time.monotonic() - self.stored_at > STORED_SECONDS:
            return "the gateway does not store the recording (gateway.recordings in the chart's values)"
        return "" if is_active else str(status.get("error") or _STARTING)

    def _reason_to_close(self, status: Mapping[str, Any]) -> str:
        """Why no recording may be made now; empty: one may."""
        waiting = sum(recording.size - recording.stored for recording in self.recordings)
        if waiting > MAX_WAITING:
            return f"{waiting >> 20} MiB of recording wait for the gateway"
        return str(status.get("closed") or "")

    def _is_good(self, status: Mapping[str, Any], screen: tuple[int, int]) -> bool:
        return not status.get("isOutdated") and self._has_whole_screen(status, screen)

    def _has_whole_screen(self, status: Mapping[str, Any], screen: tuple[int, int]) -> bool:
        """Whether the recorder's pictures are as large as the screen; 0: it has made none yet.

        A program that makes the screen small in the moment in which the recorder begins would get a
        recording of a corner. On Wayland no program can, and the X server does not know the size.
        """
        size = int(status.get("width") or 0), int(status.get("height") or 0)
        if not all(size) or self._env.get("WAYLAND_DISPLAY"):
            return True
        return all(made > side - ROUNDED_PIXELS for made, side in zip(size, screen, strict=True))

    def _ask(self, method: str, body: object = None) -> dict[str, Any]:
        return self._selkies.request(method, "/api/recording", body, seconds=SELKIES_SECONDS)

    def _end(self, current: Recording | None) -> None:
        # Selkies answers the end of a recording that has failed with an error, and has ended it.
        with contextlib.suppress(ValueError):
            self._ask("DELETE")
        if current:
            current.ended = True

    def _start(self, screen: tuple[int, int]) -> None:
        file = hand_over_recording(self.recorder)
        try:
            self._ask("POST", {"path": "recording"})
        except BaseException:
            os.close(file)
            raise
        self.recordings.append(Recording(int(time.time() * 1000), file, screen))

    def fetch(self, number: int, stored: int) -> tuple[bytes, dict[str, str]]:
        """The next piece, and its headers, for a gateway that has stored so much of this recording;
        or neither.
        """
        with self._lock:
            for recording in list(self.recordings):
                self._free(recording, stored if recording.number == number else 0)
            first = self.recordings[0] if self.recordings else None
            if first is None or not first.is_visible:  # of sound alone no player shows anything
                return b"", {}
            headers = {
                "X-VDI-Recording": str(first.number),
                "X-VDI-Offset": str(first.stored),
                "X-VDI-Seconds": str(round(first.seconds, 1)),
            }
            return os.pread(first.file, MAX_PIECE, first.stored), headers

    def _free(self, recording: Recording, stored: int) -> None:
        """Take out of the file what the gateway has stored; drop a recording that it has whole."""
        if recording.stored < stored <= recording.size:
            _fallocate(recording.file, _PUNCH_HOLE, 0, stored)
            recording.stored, self.stored_at = stored, time.monotonic()
        is_done = recording.stored == recording.size or not recording.is_visible
        if recording.ended and is_done:
            self.recordings.remove(recording)
            os.close(recording.file)

    def switch(self, *, wanted: bool) -> None:
        """Start or end the recording of a desktop that is recorded on demand. Raises ValueError for
        any other.
        """
        if self.mode != "OnDemand":
            raise ValueError(
                f"VDI_RECORDING is {self.mode!r}; a recording starts and ends on demand with OnDemand"
            )
        with self._lock:
            self.is_wanted, self.problem = wanted, _STARTING

    def _screen_size(self) -> tuple[int, int]:
        connection, setup = connect(self._env["DISPLAY"], Path(self._env["XAUTHORITY"]))
        with connection:
            return screen_size(connection, setup.root)
