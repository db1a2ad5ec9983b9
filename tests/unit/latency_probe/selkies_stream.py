"""Selkies' video messages with real encoded pictures: one grey everywhere, or in stripes."""

import struct
from fractions import Fraction
from typing import Any, cast

import av

WIDTH, HEIGHT = 128, 64


class Encoder:
    """One stream of pictures, such as a stripe has."""

    def __init__(self, codec: str = "libx264", *, height: int = HEIGHT, top: int = 0) -> None:
        self.jpeg, self.height, self.top = codec == "mjpeg", height, top
        self.context = cast(Any, av.CodecContext.create(codec, "w"))
        self.context.width, self.context.height = WIDTH, height
        self.context.pix_fmt = "yuvj420p" if self.jpeg else "yuv420p"
        self.context.time_base = Fraction(1, 60)
        self.context.options = {} if self.jpeg else {"preset": "ultrafast", "tune": "zerolatency"}
        self.count = 0

    def message(self, grey: int, frame_id: int) -> bytes:
        """The message with a picture of this grey."""
        plain: Any = av.VideoFrame(WIDTH, self.height, "gray")
        plain.planes[0].update(bytes([grey]) * plain.planes[0].buffer_size)
        frame = plain.reformat(format=self.context.pix_fmt)
        frame.pts, self.count = self.count, self.count + 1
        (packet,) = self.context.encode(frame)
        if self.jpeg:
            return struct.pack(">BBHH", 3, 0, frame_id, self.top) + bytes(packet)
        kind = 0x10 | (1 if packet.is_keyframe else 0)
        return struct.pack(">BBHHHHH", 4, kind, frame_id, self.top, WIDTH, self.height, 0) + bytes(
            packet
        )
