"""Messages of the stream, and the brightness at the mark's place, with real encoders."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unit.latency_probe.selkies_stream import HEIGHT, WIDTH, Encoder
from vdi.latency_probe import frames
from vdi.latency_probe.frames import FRAME_IDS, Screen, Stripe, missing_between, read_stripe


def look(screen: Screen, message: bytes) -> float | None:
    stripe = read_stripe(message)
    assert stripe is not None
    return screen.show(stripe)


@pytest.mark.parametrize("codec", ["libx264", "mjpeg"])
def test_each_picture_is_seen_at_once(codec: str) -> None:
    screen, encoder = Screen(0, 0, 48), Encoder(codec)
    for number, grey in enumerate((0, 255, 0, 255)):
        seen = look(screen, encoder.message(grey, number))
        assert seen is not None and abs(seen - grey) <= 20  # black is 16 and white 235 in video


def test_stripe_with_the_mark_counts() -> None:
    upper, lower = Encoder(height=32), Encoder(height=32, top=32)
    screen = Screen(0, 32, 16)
    assert look(screen, upper.message(255, 1)) is None
    seen = look(screen, lower.message(200, 1))
    assert seen is not None and abs(seen - 200) <= 20
    assert look(screen, upper.message(0, 2)) is None


def test_nothing_is_shown_before_a_key_frame() -> None:
    screen, encoder = Screen(0, 0, 48), Encoder()
    key, delta = encoder.message(0, 1), encoder.message(255, 2)
    assert look(screen, delta) is None
    assert look(screen, key) is not None
    assert look(screen, delta[:12] + b"no picture") is None


@pytest.mark.parametrize("codec", ["libx264", "mjpeg"])
def test_a_picture_that_is_too_large_is_not_decoded(
    codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = Encoder(codec).message(200, 1)
    assert look(Screen(0, 0, 48), message) is not None
    monkeypatch.setattr(frames, "MAX_PIXELS", WIDTH * HEIGHT // 2)
    assert look(Screen(0, 0, 48), message) is None


def test_stripes_at_many_places_take_a_few_decoders() -> None:
    screen = Screen(0, 1000, 48)
    for top in range(100):
        screen.show(Stripe("mjpeg", True, 1, top, 0, b"\xff\xd8"))
    assert len(screen._decoders) <= frames.MAX_DECODERS


def test_the_header() -> None:
    message = struct.pack(">BBHHHHH", 4, 0x11, 513, 32, 1280, 64, 512) + b"data"
    assert read_stripe(message) == Stripe("h264", True, 513, 32, 64, b"data")
    assert read_stripe(b"\x04\x50" + message[2:]) == Stripe("hevc", False, 513, 32, 64, b"data")
    for other in (b"", b"\x01\x00opus", b"\x05gzip", message[:12], b"\x03\x00\x00\x00\x00\x00"):
        assert read_stripe(other) is None


@given(st.binary(max_size=64))
def test_arbitrary_frames_never_break_the_decoder(message: bytes) -> None:
    stripe = read_stripe(message)
    if stripe is not None and stripe.codec in ("h264", "mjpeg"):
        Screen(0, 0, 48).show(stripe)


def test_missing_frames() -> None:
    assert missing_between(7, 8) == 0
    assert missing_between(7, 10) == 2
    assert missing_between(FRAME_IDS - 1, 1) == 1
    assert missing_between(9, 9) == 0
    assert missing_between(10, 7) == 0, "a restart is no loss"
