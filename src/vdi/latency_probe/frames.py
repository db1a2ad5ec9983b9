"""Decoder of Selkies' video messages, and the brightness of one place of the screen. Used by
`client`.

A message begins with 12 bytes (`0x04`: type, codec and key frame, frame id, top, width, height,
reference), or with 6 for JPEG (`0x03`: type, -, frame id, top); the encoded picture follows. A
frame may come in several stripes, each with its own `top` and its own decoder. [selkies 2.1.0,
websockets_mode.py and selkies-core.js]
"""

import struct
from dataclasses import dataclass
from typing import Any

# PyAV's name of a codec by the header's upper half-byte.
CODECS = {1: "h264", 2: "vp8", 3: "vp9", 4: "libdav1d", 5: "hevc"}

FRAME_IDS = 1 << 16
# A picture of a few bytes can name a size that takes gigabytes, and each stripe a place that takes
# a decoder.
MAX_PIXELS, MAX_DECODERS = 1 << 25, 8


class DecodeError(Exception):
    """Raised when the pictures of a stream cannot be decoded here; says why."""


@dataclass(frozen=True, slots=True)
class Stripe:
    """One encoded piece of a frame."""

    codec: str
    key: bool
    frame_id: int
    top: int
    # In pixels; 0: unknown (JPEG).
    height: int
    data: bytes


def read_stripe(message: bytes) -> Stripe | None:
    """The piece of a frame in a binary message of Selkies; None for other messages (sound,
    text).
    """
    if len(message) > 12 and message[0] == 4:
        kind, frame_id, top, _width, height = struct.unpack_from(">xBHHHH", message)
        codec = CODECS.get(kind >> 4, "h264")
        return Stripe(codec, kind & 15 == 1, frame_id, top, height, message[12:])
    if len(message) > 6 and message[0] == 3:
        frame_id, top = struct.unpack_from(">xxHH", message)
        return Stripe("mjpeg", True, frame_id, top, 0, message[6:])
    return None


def missing_between(before: int, after: int) -> int:
    """Number of frames between these two ids; 0 where the order is unclear (restart, same
    frame).
    """
    gap = (after - before) % FRAME_IDS
    return gap - 1 if 0 < gap < FRAME_IDS // 2 else 0


class Screen:
    """Decodes what is shown, and reads the brightness of a square `size` pixels wide."""

    def __init__(self, x: int, y: int, size: int) -> None:
        self._x, self._y, self._size = x, y, size
        self._decoders: dict[int, tuple[str, Any]] = {}

    def show(self, stripe: Stripe) -> float | None:
        """Brightness (0 to 255) of the square's middle; None: nothing decoded, or the stripe does
        not contain it.

        Raises DecodeError.
        """
        if stripe.top > self._y or (stripe.height and self._y >= stripe.top + stripe.height):
            return None
        codec, decoder = self._decoders.get(stripe.top, ("", None))
        if decoder is None or codec != stripe.codec:
            if not stripe.key:
                return None
            decoder = open_decoder(stripe.codec)
            if len(self._decoders) >= MAX_DECODERS:
                self._decoders.clear()
            self._decoders[stripe.top] = (stripe.codec, decoder)
        frames = decode(decoder, stripe.data)
        if frames:
            return self._brightness(frames[-1], stripe.top)
        return None

    def _brightness(self, frame: Any, top: int) -> float | None:
        plane = frame.planes[0]
        pixels, line = memoryview(plane), plane.line_size
        wide = (
            frame.format.components[0].bits + 7
        ) // 8  # bytes of a pixel; the last one has the upper bits
        shift = 1 << max(0, frame.format.components[0].bits - 8 * wide + 8)
        quarter = self._size // 4
        total = count = 0
        for y in range(self._y - top + quarter, self._y - top + 3 * quarter, 4):
            for x in range(self._x + quarter, self._x + 3 * quarter, 4):
                if y < frame.height and x < frame.width:
                    total += pixels[y * line + x * wide + wide - 1]
                    count += 1
        return total / count * (256 / shift) if count else None


def open_decoder(codec: str) -> Any:
    """A decoder that returns each picture at once. Raises DecodeError."""
    try:
        import av
        from av.codec.context import Flags, ThreadType
    except ImportError as error:
        raise DecodeError(
            f"pictures are decoded with PyAV, which is not installed ({error})"
        ) from error
    try:
        decoder = av.CodecContext.create(codec, "r")
    except av.FFmpegError as error:
        raise DecodeError(f"this PyAV has no decoder for {codec}: {error}") from error
    decoder.thread_type = ThreadType.NONE  # threads would delay pictures
    decoder.flags |= Flags.low_delay
    decoder.options = {"max_pixels": str(MAX_PIXELS)}
    return decoder


def decode(decoder: Any, data: bytes) -> list[Any]:
    """The pictures decoded from this data; none where it cannot be decoded, as before a key
    frame.
    """
    import av

    try:
        return list(decoder.decode(av.Packet(data)))
    except av.FFmpegError:
        return []
