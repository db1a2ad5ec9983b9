"""prove-picture, run as vdi-desktop runs it, with encoders that work, break, and hang."""

import json
import os
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from unit.images.image_scripts import LIBRARY

ENCODER = """
class CaptureSettings:
    pass

class ScreenCapture:
    def start_capture(self, take, settings):
        assert (settings.codec, settings.capture_width) == ("h264", 640)
        {start}
    def capture_state(self):
        return ("failed", {error})
    def stream_info(self):
        return {{"codec": "h264", "encoder": "x264", "hardware": False, "encoder_reason": "no GPU", "capture": "XShm"}}
"""


def prove(tmp_path: Path, encoder: str, seconds: str = "20", **env: str) -> tuple[int, str, bool]:
    """Run it with that pixelflux: status, last line, and whether there is the file that Selkies
    waits for.
    """
    (tmp_path / "pixelflux.py").write_text(encoder)
    ready = tmp_path / "picture"
    done = subprocess.run(
        [sys.executable, str(LIBRARY / "prove-picture"), str(ready), seconds],
        env={**os.environ, "PYTHONPATH": str(tmp_path), **env},
        input="", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, (done.stdout.splitlines() or [""])[-1], ready.exists()


def test_a_picture_is_described_with_encoder_and_reason(tmp_path: Path) -> None:
    status, said, ready = prove(tmp_path, ENCODER.format(start="take(b'x' * 99)", error=None))

    assert (status, ready) == (0, True)
    assert said == "h264 by x264 in software (no GPU), captured by XShm, 99 bytes"
    assert json.loads((tmp_path / "picture").read_text()) == {
        "codec": "h264",
        "encoder": "x264",
        "hardware": False,
        "message": "no GPU",
    }


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        (
            "import no_such_library",
            "the encoder's library can't be loaded: No module named 'no_such_library'",
        ),
        (
            ENCODER.format(start="raise RuntimeError('no X')", error=None),
            "can't be captured or encoded: no X",
        ),
        (ENCODER.format(start="take(b'')", error=None), "the encoder made an empty picture"),
    ],
)
def test_what_is_broken_is_said_and_selkies_goes_on_waiting(
    tmp_path: Path, encoder: str, said: str
) -> None:
    status, words, ready = prove(tmp_path, encoder)

    assert (status, ready) == (1, False) and said in words


def test_a_library_that_is_no_library_is_said(tmp_path: Path) -> None:
    """What a truncated layer or a missing dependency looks like: a real extension module that can't
    be loaded.
    """
    (tmp_path / f"pixelflux{EXTENSION_SUFFIXES[0]}").write_bytes(b"garbage")
    status, words, ready = prove(tmp_path, "")

    assert (status, ready) == (1, False) and "the encoder's library can't be loaded" in words


@pytest.mark.parametrize(("error", "status"), [("None", 3), ("'GPU lost'", 1)])
def test_a_missing_picture_is_late_unless_the_encoder_broke(
    tmp_path: Path, error: str, status: int
) -> None:
    code, said, ready = prove(tmp_path, ENCODER.format(start="pass", error=error), "0.01")

    assert (code, ready) == (status, False) and "the encoder made nothing in" in said
