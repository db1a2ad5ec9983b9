"""capture-thumbnail: the screen comes in bands, and leaves as a small JPEG."""

import io
import random
import socket
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from unit.images.image_scripts import load_script


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", [*sys.path])
    return load_script("capture-thumbnail")


def show(
    program: Any, monkeypatch: pytest.MonkeyPatch, screen: Image.Image
) -> list[tuple[int, ...]]:
    """Let the program find this screen; gives the parts that it reads."""
    parts: list[tuple[int, ...]] = []

    def read_pixels(_: Any, root: int, x: int, y: int, width: int, height: int) -> bytes:
        parts.append((x, y, width, height))
        return screen.crop((x, y, x + width, y + height)).tobytes("raw", "BGRX")

    setup = type("Setup", (), {"root": 1})
    monkeypatch.setattr(program, "connect", lambda display, authority: (socket.socket(), setup))
    monkeypatch.setattr(program, "screen_size", lambda connection, root: screen.size)
    monkeypatch.setattr(program, "read_pixels", read_pixels)
    return parts


@pytest.mark.parametrize(
    ("screen", "size"),
    [
        ((1920, 1080), (320, 180)),
        ((4096, 2304), (320, 180)),
        ((1366, 768), (320, 180)),
        ((3840, 1080), (320, 90)),
        ((390, 844), (148, 320)),
        ((200, 100), (200, 100)),
    ],
)
def test_the_whole_screen_is_scaled_down(
    program: Any, monkeypatch: pytest.MonkeyPatch, screen: tuple[int, int], size: tuple[int, int]
) -> None:
    shown = Image.new("RGB", screen, "red")
    shown.paste("blue", (0, screen[1] // 2, *screen))
    parts = show(program, monkeypatch, shown)
    picture = program.capture(":1", Path("/nowhere"))
    assert picture.size == size
    assert picture.getpixel((size[0] // 2, 2)) == (255, 0, 0)
    assert picture.getpixel((size[0] // 2, size[1] - 3)) == (0, 0, 255)
    assert sum(height for _, _, _, height in parts) == screen[1]
    assert max(4 * width * height for _, _, width, height in parts) <= program.BAND_BYTES


def test_a_jpeg_has_its_largest_size_whatever_is_shown(program: Any) -> None:
    noise = Image.frombytes("RGB", (320, 320), random.Random(1).randbytes(3 * 320 * 320))
    data = program.encode(noise)
    assert len(data) <= program.MAX_BYTES
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (320, 320))
    assert not picture.getexif()


def test_what_cannot_be_made_small_is_refused(
    program: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "MAX_BYTES", 10)
    with pytest.raises(program.UnknownError, match="as small as 10 bytes"):
        program.encode(Image.new("RGB", (32, 32)))


@pytest.mark.parametrize(("depth", "length", "ok"), [(24, 8, True), (16, 8, False), (24, 4, False)])
def test_pixels_are_read_as_the_x_server_sends_them(
    program: Any, depth: int, length: int, ok: bool
) -> None:
    ours, server = socket.socketpair()
    with ours, server:
        server.sendall(struct.pack("<BBHI24x", 1, depth, 1, length // 4) + bytes(range(length)))
        if ok:
            assert program.read_pixels(ours, 7, 0, 6, 2, 1) == bytes(range(8))
        else:
            with pytest.raises(program.UnknownError, match=f"depth of {depth}"):
                program.read_pixels(ours, 7, 0, 6, 2, 1)
        assert struct.unpack("<BBHIhhHHI", server.recv(64)) == (73, 2, 5, 7, 0, 6, 2, 1, 0xFFFFFFFF)


def test_a_screen_that_does_not_answer_is_named(
    program: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("os.nice", lambda more: None)
    monkeypatch.setenv("DISPLAY", ":77777")
    monkeypatch.setenv("XAUTHORITY", str(tmp_path / "Xauthority"))
    assert program.main() == 1
    assert "Xauthority" in capsys.readouterr().err
