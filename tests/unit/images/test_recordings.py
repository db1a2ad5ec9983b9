"""Recordings of the desktop image's agent: when one is made, what the gateway gets of it, and what is
reported.
"""

import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unit.images.image_scripts import load_library
from unit.images.recording_selkies import RecordedDesktop, recorded_desktop

STARTING = "it is starting"
UNSTORED = "the gateway does not store the recording (gateway.recordings in the chart's values)"


@pytest.fixture
def desktop(tmp_path: Path) -> Iterator[RecordedDesktop]:
    with recorded_desktop(tmp_path) as desktop:
        yield desktop


def store(desktop: RecordedDesktop, number: int = 0, stored: int = 0) -> tuple[int, int, bytes]:
    """What a gateway gets that has stored so much: number and place of a piece, and the piece.

    The agent has looked since the second picture.
    """
    for recording in desktop.recordings.recordings:
        recording.pictures = 2 if recording.size else recording.pictures
    piece, headers = desktop.recordings.fetch(number, stored)
    return int(headers.get("X-VDI-Recording", 0)), int(headers.get("X-VDI-Offset", 0)), piece


def test_recording_counts_once_the_gateway_has_stored_some(desktop: RecordedDesktop) -> None:
    assert desktop.look() == {"state": "Failed", "message": UNSTORED}
    desktop.recorder.write(b"begin")
    number, offset, piece = store(desktop)
    assert (offset, piece) == (0, b"begin")
    assert desktop.look()["state"] == "Failed"
    desktop.recorder.write(b", more")
    assert store(desktop, number, 5) == (number, 5, b", more")
    assert desktop.look() == {"state": "On", "message": ""}
    assert store(desktop, 0, 0) == (
        number,
        5,
        b", more",
    ), "another replica goes on where the first one was"


def test_stored_parts_take_no_space(desktop: RecordedDesktop) -> None:
    desktop.look()
    desktop.recorder.write(b"x" * (1 << 20))
    number, _, piece = store(desktop)
    store(desktop, number, len(piece))
    (recording,) = desktop.recordings.recordings
    assert Path(f"/proc/self/fd/{recording.file}").stat().st_blocks * 512 < 1 << 20


def test_another_size_of_the_screen_begins_another_recording(desktop: RecordedDesktop) -> None:
    desktop.look()
    desktop.recorder.write(b"small")
    number, _, _ = store(desktop)
    store(desktop, number, 3)
    desktop.screen = (2560, 1440)
    assert desktop.look() == {"state": "On", "message": ""}, "no one is cut off for it"
    assert desktop.recorder.began == 2
    desktop.recorder.write(b"large")
    assert store(desktop, number, 3) == (
        number,
        3,
        b"ll",
    ), "the end of the first recording comes before the second"
    later, offset, piece = store(desktop, number, 5)
    assert (later > number, offset, piece) == (True, 0, b"large")


def test_recording_of_a_corner_of_the_screen_is_replaced(desktop: RecordedDesktop) -> None:
    """The screen was small when the recorder began, and neither before nor afterwards."""
    desktop.screen, desktop.recorder.size = (1367, 769), (640, 480)
    desktop.look()
    desktop.look()
    assert desktop.recorder.began == 2
    desktop.recorder.size = (1366, 768)  # as H.264 rounds it
    desktop.look()
    desktop.look()
    assert desktop.recorder.began == 2


def test_recording_that_looks_too_seldom_or_often_is_replaced(desktop: RecordedDesktop) -> None:
    desktop.look()
    desktop.recorder.write(b"at rest")
    number, _, _ = store(desktop)
    store(desktop, number, 3)
    desktop.recorder.is_outdated = True
    assert desktop.look() == {"state": "On", "message": ""}
    desktop.look()
    assert desktop.recorder.began == 2


def test_recording_without_a_picture_is_replaced_and_not_kept(desktop: RecordedDesktop) -> None:
    """The screen became smaller as it began, which ends the recorder's pictures: sound alone
    came.
    """
    desktop.look()
    assert desktop.recorder.file
    desktop.recorder.file.write(b"sound")
    desktop.recorder.file.flush()
    desktop.look()
    assert desktop.recordings.fetch(0, 0) == (b"", {})
    desktop.recordings.recordings[0].began -= desktop.module.FIRST_PICTURE_SECONDS
    desktop.look()
    assert desktop.recorder.began == 2
    desktop.recorder.write(b"picture")
    desktop.recorder.seconds = 0.5
    desktop.look()
    assert desktop.recordings.fetch(0, 0) == (
        b"",
        {},
    ), "the recorder writes a picture when the next one is there"
    desktop.recorder.write(b", another")
    desktop.look()
    piece, _ = desktop.recordings.fetch(0, 0)
    assert piece == b"picture, another"


def test_recorder_that_ends_is_reported_and_started_again(desktop: RecordedDesktop) -> None:
    desktop.look()
    desktop.recorder.write(b"begin")
    number, _, _ = store(desktop)
    store(desktop, number, 5)
    desktop.recorder.end()
    assert desktop.look() == {"state": "Failed", "message": STARTING}
    assert desktop.look() == {"state": "On", "message": ""}
    desktop.recorder.end()
    desktop.recorder.problem = "no space left on device"
    with pytest.raises(ValueError, match="Selkies answered POST /api/recording with 409"):
        desktop.look()


def test_full_spool_ends_the_recording_until_it_is_fetched(
    desktop: RecordedDesktop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desktop.module, "MAX_WAITING", 8)
    desktop.look()
    desktop.recorder.write(b"123456789")
    assert desktop.look() == {
        "state": "Failed",
        "message": "0 MiB of recording wait for the gateway",
    }
    assert desktop.recorder.file is None
    number, _, piece = store(desktop)
    store(desktop, number, len(piece))
    desktop.look()
    assert desktop.look()["state"] == "On"


def test_gateway_that_stops_storing_is_reported(desktop: RecordedDesktop) -> None:
    desktop.look()
    desktop.recorder.write(b"begin")
    number, _, _ = store(desktop)
    store(desktop, number, 5)
    desktop.recordings.stored_at -= desktop.module.STORED_SECONDS + 1
    store(desktop, number, 5)
    assert desktop.look() == {"state": "Failed", "message": UNSTORED}


def test_recording_never_has_a_name(desktop: RecordedDesktop, tmp_path: Path) -> None:
    """A program of the user that sees a name keeps what it names: nothing of that gets into a
    recording.
    """
    kept, start = tmp_path / "kept", desktop.recorder.start

    def seen(path: str, *args: Any) -> None:
        start(path, *args)
        kept.hardlink_to(path)

    desktop.recorder.handed._start = seen
    desktop.look()
    kept.write_bytes(bytes(9))
    desktop.recorder.write(b"begin")
    assert store(desktop)[2] == b"begin"
    assert list(tmp_path.iterdir()) == [kept]
    (recording,) = desktop.recordings.recordings
    assert os.fstat(recording.file).st_nlink == 0
    # AT_FDCWD, AT_SYMLINK_FOLLOW.
    libc = ctypes.CDLL(None, use_errno=True)
    here = -100
    follow = 0x400
    path = f"/proc/self/fd/{recording.file}".encode()
    # On the volume of the recording, or the kernel refuses for another reason.
    folder = load_library("handed_files").RECORDING_FOLDER
    name = f"{folder}/{tmp_path.name}-{os.getpid()}".encode()
    assert libc.linkat(here, path, here, name, follow) == -1
    assert ctypes.get_errno() == errno.ENOENT


def test_recording_that_went_into_another_file_is_refused(
    desktop: RecordedDesktop, tmp_path: Path
) -> None:
    refused = pytest.raises(ValueError, match="Selkies answered POST /api/recording with 409")
    desktop.recorder.first = b"begin"
    with refused:
        desktop.look()
    desktop.recorder.first, desktop.recorder.path = b"", str(tmp_path / "other")
    with refused:
        desktop.look()
    assert desktop.recorder.file is None
    desktop.recorder.path = ""
    desktop.look()
    desktop.recorder.write(b"begin")
    assert store(desktop)[2] == b"begin"


def test_recording_without_its_beginning_is_refused(desktop: RecordedDesktop) -> None:
    """A program of the user has opened the empty file by its name, and cuts off what the recorder
    wrote too early.
    """
    start = desktop.recorder.start

    def cut(path: str, *args: Any) -> None:
        start(path, *args)
        desktop.recorder.write(b"begin")
        os.truncate(path, 0)

    desktop.recorder.handed._start = cut
    with pytest.raises(ValueError, match="Selkies answered POST /api/recording with 409"):
        desktop.look()
    assert desktop.recorder.file is None


def test_file_of_a_recording_that_did_not_begin_is_not_the_next_ones(
    desktop: RecordedDesktop,
) -> None:
    desktop.recorder.answer("POST")  # without a new file no recording begins
    assert desktop.recorder.began == 0
    desktop.module.hand_over_recording(desktop.recordings.recorder)
    desktop.look()
    desktop.recorder.write(b"begin")
    assert store(desktop)[2] == b"begin"


def test_desktop_is_closed_while_the_recording_lacks_pictures(desktop: RecordedDesktop) -> None:
    desktop.look()
    desktop.recorder.write(b"begin")
    number, _, _ = store(desktop)
    store(desktop, number, 5)
    assert desktop.look()["state"] == "On"
    desktop.recorder.closed = "the recording has 20 of 300 pictures of the last 21 s"
    for _ in range(2):
        assert desktop.look() == {"state": "Failed", "message": desktop.recorder.closed}
        assert desktop.recorder.file is None and desktop.recorder.began == 1
    desktop.recorder.closed = ""
    desktop.look()
    assert desktop.look() == {"state": "On", "message": ""}


def test_reason_is_reported_while_the_recorder_does_not_end(
    desktop: RecordedDesktop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One without CPU takes longer than Selkies may take for an answer."""
    message = "the recording has 2 of 100 pictures of the last 21 s"

    def request(method: str, *_: object, **__: object) -> dict[str, object]:
        if method == "DELETE":
            raise TimeoutError("timed out")
        return {"active": True, "closed": message}

    desktop.look()
    monkeypatch.setattr(desktop.recordings._selkies, "request", request)
    assert desktop.look() == {"state": "Failed", "message": message}


def test_recording_of_an_agent_before_this_one_is_replaced(desktop: RecordedDesktop) -> None:
    desktop.module.hand_over_recording(desktop.recordings.recorder)
    desktop.recorder.answer("POST")
    desktop.look()
    assert desktop.recorder.began == 2


def test_recording_on_demand_begins_and_ends(tmp_path: Path) -> None:
    with recorded_desktop(tmp_path, "OnDemand") as desktop:
        assert desktop.look() == {"state": "Off", "message": ""}
        assert desktop.recorder.began == 0
        desktop.recordings.switch(wanted=True)
        desktop.look()
        assert desktop.recorder.file is not None
        desktop.recordings.switch(wanted=False)
        assert desktop.look() == {"state": "Off", "message": ""}
        assert desktop.recorder.file is None


def test_recording_that_must_be_made_cannot_be_switched_off(desktop: RecordedDesktop) -> None:
    with pytest.raises(ValueError, match="VDI_RECORDING is 'Always'"):
        desktop.recordings.switch(wanted=False)
