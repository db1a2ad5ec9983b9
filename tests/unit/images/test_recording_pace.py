"""Whether a recording has the pictures that viewers get: what closes a desktop that must be recorded,
and what does not.
"""

import itertools
from typing import Any

import pytest

from unit.images.image_scripts import load_library

FPS, KEYFRAME_SECONDS = 15, 10


class Recording:
    """A recorder and a stream, second by second; vdi-agent asks each second, and ends the recording of a
    closed desktop.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.streamed = 1000.0, 0
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        self.module: Any = load_library("recording_pace")
        self.pace = self.module.RecordingPace(FPS, KEYFRAME_SECONDS, self._take_streamed)
        self.looks = self.frames = 0.0
        self.error: str | None = None

    def _take_streamed(self) -> int:
        streamed, self.streamed = self.streamed, 0
        return streamed

    def restart(self) -> None:
        self.looks = self.frames = 0.0

    def run(
        self,
        seconds: int,
        *,
        looks: float = FPS,
        recorded: float = 0.0,
        stream: int = 0,
        fps: float = FPS,
    ) -> int:
        """Seconds until the desktop was closed; `seconds` if it was not.

        The recorder looks at the screen so often a second, and so many of its pictures show
        something new. `fps`: how often it was to look.
        """
        for second in range(seconds):
            self.now += 1
            self.streamed += stream
            self.looks += looks
            whole = int(self.looks // (fps * KEYFRAME_SECONDS)) + 1
            self.frames += recorded
            frames = int(self.frames) + whole
            active = {"active": True, "frames": frames, "sync_frames": whole}
            if self.pace.check(active | {"error": self.error}).get("closed"):
                self.restart()
                return second + 1
        return seconds

    def closed_for(self) -> int:
        """Seconds until the agent may record again."""
        for second in itertools.count():
            if not self.pace.check({"active": False, "error": self.error}).get("closed"):
                return second
            self.now += 1
        raise AssertionError


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Recording:
    return Recording(monkeypatch)


@pytest.mark.parametrize(
    ("looks", "recorded", "stream"),
    [
        (15, 0, 0),  # a screen at rest, seen by no one
        (15, 0, 5),  # a page that gets pictures of a screen at rest
        (15, 15, 60),  # a video
        (6, 6, 15),  # a video on a desktop that is short of CPU
        (2, 2, 3),  # a prompt that blinks on a desktop that is very short of CPU
    ],
)
def test_recording_that_keeps_its_pace_is_on(
    recording: Recording, looks: float, recorded: float, stream: int
) -> None:
    assert recording.run(900, looks=looks, recorded=recorded, stream=stream) == 900


@pytest.mark.parametrize(
    ("looks", "recorded", "stream", "closed_after"),
    [
        (1, 1, 15, 25),  # the recorder's threads have CPU only when no one else wants it
        (
            0,
            0,
            15,
            25,
        ),  # the X server has closed the recorder's connection, or its file takes no more
        (0, 0, 1, 25),
        (1.5, 1.5, 8, 25),  # the same on a machine that is short of CPU
    ],
)
def test_recording_without_the_streams_pictures_closes(
    recording: Recording, looks: float, recorded: float, stream: int, closed_after: int
) -> None:
    assert recording.run(100, recorded=10, stream=20) == 100
    assert recording.run(100, looks=looks, recorded=recorded, stream=stream) <= closed_after


@pytest.mark.parametrize(
    ("looks", "recorded", "closed_after"),
    [
        (2, 0, 900),
        (2, 2, 900),
        (1, 1, 900),  # short of CPU, and in motion
        (0, 0, 33),
        (0.5, 0.5, 33),
    ],
)
def test_recorder_that_ends_unseen_is_no_screen_at_rest(
    recording: Recording, looks: float, recorded: float, closed_after: int
) -> None:
    assert recording.run(60, looks=2, fps=2) == 60
    assert recording.run(900, looks=looks, recorded=recorded, fps=2) <= closed_after
    if closed_after == 900:
        assert recording.run(1, looks=looks, recorded=recorded, fps=2) == 1


def test_unseen_recording_that_begins_again_and_again_closes(recording: Recording) -> None:
    for _ in range(3):
        if recording.run(15, looks=0, fps=2) < 15:
            return
        recording.restart()
    pytest.fail("the first picture of each recording was taken for a recorder that works")


def test_pod_that_was_stopped_for_a_minute_is_not_closed(recording: Recording) -> None:
    recording.run(15, looks=2, fps=2)
    recording.now += 60
    assert recording.run(60, looks=2, fps=2) == 60


def test_recording_is_slow_once_no_one_has_watched_for_a_minute(recording: Recording) -> None:
    watched = False
    rate = recording.module.RecordingRate(FPS, lambda: watched)

    def is_outdated() -> bool:
        return bool(rate.note({"active": True})["isOutdated"])

    assert (rate.begin_recording(), is_outdated()) == (FPS, False)
    recording.now += 61
    assert is_outdated()
    assert (rate.begin_recording(), is_outdated()) == (2, False)
    watched = True
    assert is_outdated(), "the next one who comes gets a recording of their own"
    assert rate.begin_recording() == FPS
    watched = False
    recording.now += 59
    assert not is_outdated(), "a page that is loaded again goes on in the same recording"
    assert recording.module.RecordingRate(1.0, lambda: False).begin_recording() == 1.0


@pytest.mark.parametrize("watched", [True, False])
def test_recording_of_a_stream_ends_with_it(recording: Recording, *, watched: bool) -> None:
    rate = recording.module.RecordingRate(FPS, lambda: watched)
    rate.begin_recording()
    assert rate.note({"active": True, "mode": "attached"})["isOutdated"] is not watched


def test_slow_recording_that_begins_again_and_again_closes(recording: Recording) -> None:
    """As after the end of vdi-agent, or another size of the screen."""
    for _ in range(6):
        if recording.run(15, looks=1, recorded=1, stream=15) < 15:
            return
        recording.restart()
    pytest.fail("a recording with one picture a second was taken for a whole one")


def test_whole_pictures_of_smaller_screens_are_no_proof(recording: Recording) -> None:
    """A screen that is small for a moment gets a whole picture and ends the capture; another size
    begins a new recording.
    """
    for _ in range(4):
        recording.run(1, recorded=7, stream=15)
        recording.looks += FPS * KEYFRAME_SECONDS
        if recording.run(18, looks=0, recorded=0, stream=15) < 18:
            return
        recording.restart()
    pytest.fail("a recording of one second in 19 was taken for a whole one")


def test_screen_that_changes_its_size_all_the_time_stays_open(recording: Recording) -> None:
    for _ in range(20):
        assert recording.run(12, recorded=14, stream=60) == 12
        recording.restart()


def test_failed_recorder_closes_at_once_and_longer_each_time(recording: Recording) -> None:
    closed = []
    for _ in range(8):
        recording.error = "MP4 write failed: File too large"
        assert recording.run(10, recorded=10, stream=15) == 1
        closed.append(recording.closed_for())
        recording.error = None
        assert recording.run(30, recorded=10, stream=15) == 30
    assert closed == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert recording.run(3600, recorded=10, stream=15) == 3600
    recording.error = "MP4 write failed: File too large"
    recording.run(10, recorded=10, stream=15)
    assert recording.closed_for() == 60, "an hour of recording is trusted again"


def test_pictures_of_all_displays_are_counted(recording: Recording) -> None:
    class Watch:
        """Selkies' StreamWatch."""

        def __init__(self) -> None:
            self._module: Any = None
            self.peaks: list[Any] = []

        def follow(self, module: Any, _encoder: str) -> None:
            self._module = module

        def _merge_peaks(self, totals: Any) -> None:
            self.peaks.append(totals)

    class Capture:
        frames = 0

        def stream_stats(self) -> dict[str, int]:
            return {"frames": self.frames}

    streamed = recording.module.StreamPictures(Watch)
    assert streamed() == 0
    assert not streamed.is_watched
    first, second = Watch(), Watch()
    captures = [Capture(), Capture()]
    first.follow(captures[0], "h264enc")
    second.follow(captures[1], "h264enc")
    captures[0].frames, captures[1].frames = 20, 3
    assert (streamed(), streamed()) == (23, 0)
    assert first.peaks == [{"frames": 20}] * 2, "each read begins the page's statistics again"
    captures[0].frames = 4
    assert streamed() == 4, "a capture that begins again counts from zero"
    first._module = None
    captures[1].frames = 5
    assert streamed() == 2
    assert streamed.is_watched
    second._module = None
    assert not streamed.is_watched


@pytest.mark.parametrize(
    ("given", "number"),
    [("2.5", 2.5), ("", 5.0), ("many", 5.0), ("nan", 5.0), ("inf", 5.0), ("0", 5.0), ("-1", 5.0)],
)
def test_settings_that_are_no_numbers_end_no_desktop(given: str, number: float) -> None:
    env = {"PIXELFLUX_RECORD_FPS": given}
    assert load_library("recording_pace").pop_number(env, "PIXELFLUX_RECORD_FPS", 5.0) == number
    assert env == {}
    assert load_library("recording_pace").pop_number({}, "PIXELFLUX_RECORD_FPS", 5.0) == 5.0
