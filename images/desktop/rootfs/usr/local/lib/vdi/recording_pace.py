"""Whether the recording has the pictures that viewers get. In Selkies' process: a user can end
vdi-agent, not this.

Programs of the desktop's user have the uid of Selkies. They can slow its recorder's threads down,
limit the size of its files, or close its connection to the X server. So the recorder has to prove
its pace. It makes a whole picture after a fixed number of looks at the screen, also of one at rest:
fewer of these come only when it looks less often. It makes one more when the screen becomes
smaller, which ends its capture: a whole picture that comes too early proves nothing. A desktop that
is short of CPU looks less often too, but then the stream has fewer pictures as well.

A desktop that no one sees is recorded with REST_FPS: each look copies the screen. The recorder cannot
change its rate, so another recording begins. A screen at rest has few pictures; a recorder that has
ended has no whole ones.
"""

import math
import time
from collections.abc import Callable, MutableMapping
from typing import Any

PROOF_SECONDS = 20.0
"""Longest time without a whole picture; one is due every 10 s (PIXELFLUX_RECORD_KEYFRAME_S)."""
EARLIEST_PROOF = 0.8
"""Part of the time between two whole pictures that has to pass before one is a proof."""
NEW_RECORDING_SECONDS = 2.0
"""Largest age of a recording when it is seen first."""
FEWEST_STREAMED = 10
"""Pictures that a change of the screen makes; fewer are those that a page gets when it comes."""
REST_FPS, REST_SECONDS = 2.0, 60.0
"""Looks a second at a screen that no one has seen for so long; more for the next one who comes."""
LONGEST_REST = 1.5
"""A recorder that makes neither whole pictures nor others for so many times that time has ended."""
LONGEST_CHECK = 5.0
"""Time that counts for a recorder, of that since the last check: vdi-agent, or the whole pod, can have been stopped."""
LEAST_SHARE = 3
"""A recording that has less than this part of the stream's pictures misses what viewers see."""
CLOSED_SECONDS, LONGEST_CLOSED, FORGIVEN_SECONDS = 60.0, 3600.0, 3600.0
"""The desktop is closed for so long, each time twice as long, until it has been recorded well for an hour."""


def pop_number(env: MutableMapping[str, str], name: str, default: float) -> float:
    """Take a variable out; without a positive number in it, the default: a recorder with other
    settings is better than no desktop.
    """
    try:
        number = float(env.pop(name, ""))
    except ValueError:
        return default
    return number if math.isfinite(number) and number > 0 else default


class RecordingPace:
    """Compares recording and stream each time that vdi-agent asks Selkies for the recording's status.

    Args:
        fps, keyframe_seconds: the recorder's settings.
        streamed: pictures that all streams got since the last call.
    """

    def __init__(self, fps: float, keyframe_seconds: float, streamed: Callable[[], int]) -> None:
        self._fps, self._streamed = fps, streamed
        self._proof_seconds = max(PROOF_SECONDS, 2 * keyframe_seconds)
        self._earliest_proof = EARLIEST_PROOF * keyframe_seconds
        self._seen_at = time.monotonic()
        self._frames = self._whole = 0
        self._recording_seconds = 0.0  # of this recording, since its last proof
        # Since the last proof, also of earlier recordings: time, and pictures of the stream and the recording
        # in it.
        self._unproved, self._expected, self._recorded = 0.0, 0.0, 0
        self._rested = 0.0  # the time without what vdi-agent may have missed
        self._closed_until, self._closed_for, self._reason = 0.0, 0.0, ""

    def check(self, status: dict[str, Any] | None) -> dict[str, Any]:
        """Selkies' status of the recording, with the reason why the desktop is closed, if it is."""
        status, now = dict(status or {"active": False}), time.monotonic()
        seconds, self._seen_at = now - self._seen_at, now
        expected = min(self._streamed(), self._fps * seconds)
        if now < self._closed_until:
            self._forget()
        elif status.get("active"):
            self._look(status, now, seconds, expected)
        else:
            self._frames = self._whole = 0
            self._recording_seconds = 0.0
        if now < self._closed_until:
            status["closed"] = self._reason
        return status

    def _look(self, status: dict[str, Any], now: float, seconds: float, expected: float) -> None:
        frames, whole = status.get("frames") or 0, status.get("sync_frames") or 0
        is_new = frames < self._frames or whole < self._whole
        recorded = frames if is_new else frames - self._frames
        if is_new:  # it has begun since the last call; these come each second
            self._recording_seconds = min(seconds, NEW_RECORDING_SECONDS)
        else:
            self._recording_seconds += seconds
        # The first whole picture proves nothing: each recording begins with one.
        is_due = self._recording_seconds >= self._earliest_proof
        is_proved = is_due and not is_new and whole > max(self._whole, 1)
        self._frames, self._whole = frames, whole
        if is_proved:
            self._unproved, self._expected, self._recorded = 0.0, 0.0, 0
            self._recording_seconds = self._rested = 0.0
        else:
            self._unproved += seconds
            self._rested += min(seconds, LONGEST_CHECK)
            self._expected += expected
            self._recorded += recorded
        is_ended = self._recorded < REST_FPS * self._rested / LEAST_SHARE
        is_slow = (
            self._expected >= FEWEST_STREAMED and self._recorded < self._expected / LEAST_SHARE
        )
        if status.get("error"):
            self._close(now, f"the recorder failed: {status['error']}")
        elif self._unproved > self._proof_seconds and is_slow:
            count = f"{self._recorded} of {self._expected:.0f} pictures"
            self._close(now, f"the recording has {count} of the last {self._unproved:.0f} s")
        elif self._rested > LONGEST_REST * self._proof_seconds and is_ended:
            count = f"{self._recorded} pictures in {self._rested:.0f} s"
            self._close(now, f"the recorder has made {count}")

    def _close(self, now: float, reason: str) -> None:
        is_forgiven = now - self._closed_until > FORGIVEN_SECONDS
        longer = min(2 * self._closed_for, LONGEST_CLOSED)
        self._closed_for = CLOSED_SECONDS if is_forgiven else max(CLOSED_SECONDS, longer)
        self._closed_until = now + self._closed_for
        again = time.strftime("%H:%M:%S", time.gmtime(time.time() + self._closed_for))
        self._reason = f"{reason}; the next try is at {again} UTC"
        self._forget()

    def _forget(self) -> None:
        self._frames = self._whole = self._recorded = 0
        self._unproved = self._expected = self._recording_seconds = self._rested = 0.0


class RecordingRate:
    """Looks a second: those of a recording that begins now, and whether the recording that is made needs
    others.
    """

    def __init__(self, fps: float, is_watched: Callable[[], bool]) -> None:
        self._fps, self._is_watched = fps, is_watched
        self._seen_at = time.monotonic()
        self._rate = fps

    def begin_recording(self) -> float:
        """Looks a second of the recording that begins."""
        self._rate = self._due()
        return self._rate

    def note(self, status: dict[str, Any]) -> dict[str, Any]:
        """Selkies' status of the recording, from which vdi-agent reads whether another has to begin.

        On Wayland a recording can be of the stream itself, and has no pictures when the last page is
        gone.
        """
        is_detached = status.get("mode") == "attached" and not self._is_watched()
        return status | {"isOutdated": is_detached or self._rate != self._due()}

    def _due(self) -> float:
        now = time.monotonic()
        if self._is_watched():
            self._seen_at = now
        return self._fps if now - self._seen_at < REST_SECONDS else min(self._fps, REST_FPS)


class StreamPictures:
    """Pictures that pixelflux made for pages, counted over all displays, of WebSockets and WebRTC.

    Args:
        watch: Selkies' class that follows a display's capture; its pages' statistics stay as they are.
    """

    def __init__(self, watch: Any) -> None:
        self._counted: dict[Any, int] = {}
        follow = watch.follow

        def followed(one: Any, module: Any, *args: Any) -> None:
            follow(one, module, *args)
            self._counted[one] = 0

        watch.follow = followed

    @property
    def is_watched(self) -> bool:
        """Whether a page has a stream now."""
        return any(watch._module is not None for watch in self._counted)

    def __call__(self) -> int:
        """Pictures since the last call."""
        made = 0
        for watch, before in list(self._counted.items()):
            if watch._module is None:  # the capture has ended; another begins with `follow`
                del self._counted[watch]
                continue
            totals = watch._module.stream_stats()
            if not totals:
                continue
            watch._merge_peaks(totals)
            frames = totals["frames"]
            made += frames - before if frames >= before else frames
            self._counted[watch] = frames
        return made
