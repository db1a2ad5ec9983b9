"""The mark in the corner of a desktop's screen that the probe watches: the agent's response to `POST /photon`."""

from typing import Annotated

import msgspec


class Mark(msgspec.Struct, frozen=True, rename="camel"):
    """Position of the mark in the picture, and the keys that change it."""

    x: Annotated[int, msgspec.Meta(ge=0, le=20_000, description="Left edge, in pixels of the desktop.")]
    y: Annotated[int, msgspec.Meta(ge=0, le=20_000, description="Upper edge.")]
    size: Annotated[int, msgspec.Meta(ge=8, le=512, description="Width and height.")]
    width: Annotated[int, msgspec.Meta(ge=1, le=20_000, description="Width of the desktop's screen.")]
    height: Annotated[int, msgspec.Meta(ge=1, le=20_000, description="Its height.")]
    flip: Annotated[
        int, msgspec.Meta(ge=1, le=2**31, description=("Keysym that toggles the mark between black and white."))
    ]
    play: Annotated[int, msgspec.Meta(ge=1, le=2**31, description="Keysym that makes the mark change all the time.")]
    play_seconds: Annotated[float, msgspec.Meta(ge=0.5, le=30, description="Duration.")]
