"""Data of a latency probe: the mark on the screen that it watches, the measurements, and whether
they meet the goal. Pure.
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec

from vdi.api.constraints import doc


class Mark(msgspec.Struct, frozen=True, rename="camel"):
    """Position of the mark in the picture, and the keys that change it."""

    x: Annotated[
        int, msgspec.Meta(ge=0, le=20_000, description="Left edge, in pixels of the desktop.")
    ]
    y: Annotated[int, msgspec.Meta(ge=0, le=20_000, description="Upper edge.")]
    size: Annotated[int, msgspec.Meta(ge=8, le=512, description="Width and height.")]
    width: Annotated[
        int, msgspec.Meta(ge=1, le=20_000, description="Width of the desktop's screen.")
    ]
    height: Annotated[int, msgspec.Meta(ge=1, le=20_000, description="Its height.")]
    flip: Annotated[
        int,
        msgspec.Meta(
            ge=1, le=2**31, description="Keysym that toggles the mark between black and white."
        ),
    ]
    play: Annotated[
        int,
        msgspec.Meta(ge=1, le=2**31, description="Keysym that makes the mark change all the time."),
    ]
    play_seconds: Annotated[float, msgspec.Meta(ge=0.5, le=30, description="Duration.")]


# Input to picture, at the 95th percentile: the third service level objective (docs/monitoring.md).
GOAL_MS = 50.0

MAX_SAMPLES = 200
MAX_LATENCY_MS = 10_000.0


class Measurements(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """Latency and frame rate, as a user of this desktop experiences them."""

    first_picture_seconds: Annotated[
        float,
        msgspec.Meta(
            ge=0, le=600, description="From the first request to the first decoded picture."
        ),
    ]
    frames_per_second: Annotated[
        float,
        msgspec.Meta(ge=0, le=1000, description="Frames per second while the mark kept changing."),
    ]
    input_to_photon_ms: Annotated[
        list[Annotated[float, msgspec.Meta(ge=0, le=MAX_LATENCY_MS)]],
        msgspec.Meta(
            max_length=MAX_SAMPLES,
            description=(
                "Milliseconds from sending a key to the decoded picture with its effect, one value"
                " per key."
            ),
        ),
    ]
    keys_without_effect: Annotated[
        int,
        msgspec.Meta(ge=0, le=MAX_SAMPLES, description="Keys without a visible effect in time."),
    ]
    bitrate_kbps: Annotated[
        float,
        msgspec.Meta(
            ge=0, le=1e7, description="Bit rate of the video during the measurement, in kbit/s."
        ),
    ]
    frames: Annotated[
        int, msgspec.Meta(ge=0, le=10**6, description="Frames received during the measurement.")
    ]
    frames_dropped: Annotated[
        int,
        msgspec.Meta(
            ge=0, le=10**6, description="Frames that the desktop numbered and that did not arrive."
        ),
    ]


class ProbeReport(msgspec.Struct, rename="camel"):
    """Measurements and their evaluation, for `-o json`."""

    session: Annotated[str, doc("The session's name.")]
    through: Annotated[str, doc("The measured connection.")]
    measurements: Annotated[Measurements, doc("The measured values.")] = msgspec.field(
        name="figures"
    )
    p50_ms: Annotated[float | None, doc("Median of `inputToPhotonMs`.")]
    p95_ms: Annotated[float | None, doc("Its 95th percentile.")]
    goal_ms: Annotated[float, doc("The goal for the 95th percentile.")]
    within_goal: Annotated[bool, doc("Whether the goal is met and every key had its effect.")]


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least this share of the values does not exceed; None without
    values.
    """
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def evaluate(session: str, through: str, measurements: Measurements) -> ProbeReport:
    p50, p95 = (percentile(measurements.input_to_photon_ms, share) for share in (0.5, 0.95))
    kept = p95 is not None and p95 <= GOAL_MS and not measurements.keys_without_effect
    return ProbeReport(session, through, measurements, p50, p95, GOAL_MS, kept)
