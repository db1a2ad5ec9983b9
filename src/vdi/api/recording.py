"""Recordings of a template's desktops, and the mark in their picture: `spec.recording` and
`spec.watermark`.
"""

from enum import StrEnum
from typing import Annotated

import msgspec

from vdi.api.constraints import PRINTABLE, doc, duration

# Values of `watermark.position`, as Selkies counts them from 1.
POSITIONS = ("TopLeft", "TopRight", "BottomLeft", "BottomRight", "Middle", "Moving")


class RecordingMode(StrEnum):
    """Values of `recording.mode`."""

    OFF = "Off"
    ON_DEMAND = "OnDemand"
    ALWAYS = "Always"

    @classmethod
    def _missing_(cls, _value: object) -> "RecordingMode":
        # A value of a later version: the one that shows nothing without a recording.
        return cls.ALWAYS


class TemplateRecording(msgspec.Struct, rename="camel", omit_defaults=True):
    """A recording of each desktop: its picture and sound. The gateway keeps it (gateway.recordings
    of the chart).
    """

    mode: Annotated[
        RecordingMode,
        doc(
            "OnDemand: the owner starts and stops the recording. Always: no one sees the desktop without"
            " one."
        ),
    ] = RecordingMode.OFF
    retention: Annotated[str, duration("How long a recording is kept after its end.")] = "720h"
    owner_may_watch: Annotated[
        bool, doc("true: owners may watch the recordings of their own desktops.")
    ] = False


class TemplateWatermark(msgspec.Struct, rename="camel", omit_defaults=True):
    """A text in the picture of each desktop, in the stream and in recordings."""

    text: Annotated[
        str,
        doc(
            "The text. {user}: the owner's e-mail address, which a pool's desktops do not have yet."
            " {time}: the time, renewed each hour; a stream has the time of its beginning.",
            PRINTABLE,
            minLength=1,
            maxLength=128,
        ),
    ]
    position: Annotated[str, doc("Where it is; Moving: it wanders.", enum=list(POSITIONS))] = (
        "Moving"
    )
