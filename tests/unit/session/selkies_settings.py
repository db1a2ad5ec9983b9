"""What Selkies 2.1.0 makes of a variable, as far as templates set it: its `settings.py`, read and
written down.

Only for tests: `meaning("SELKIES_FRAMERATE", "60-60")` is `Meaning(60, locked=True)`; ValueError
for what Selkies would log as invalid and pass over, or clamp.
"""

import re
from typing import NamedTuple

SWITCHES = (
    "AUDIO_ENABLED COMMAND_ENABLED ENABLE_DUAL_MODE ENABLE_RESIZE GAMEPAD_ENABLED"
    " MICROPHONE_ENABLED PRINTING_ENABLED SECOND_SCREEN WEBRTC_ICE_LITE"
)
BOOLS = frozenset(f"SELKIES_{name}" for name in SWITCHES.split())
RANGES = {"SELKIES_FRAMERATE": (8, 240), "SELKIES_VIDEO_BITRATE": (100, 1_000_000)}
ENUMS = {
    "SELKIES_ENCODER": (
        "h264enc",
        "h265enc",
        "vp8enc",
        "vp9enc",
        "av1enc",
        "h264enc-striped",
        "jpeg",
    ),
    "SELKIES_RATE_CONTROL_MODE": ("cbr", "crf"),
}
LISTS = {"SELKIES_FILE_TRANSFERS": ("upload", "download")}
# `auto` is read by the image's own start-up; Selkies takes every other word for false.
WORDS = {
    "SELKIES_MODE": ("websockets", "webrtc"),
    "SELKIES_ENABLE_CLIPBOARD": ("true", "in", "out", "false"),
    "SELKIES_WAYLAND": ("true", "false", "auto"),
}
TEXTS = frozenset({"SELKIES_TURN_HOST", "SELKIES_STUN_HOST"})
PORTS = frozenset({"SELKIES_WEBRTC_UDP_MUX_PORT"})


class Meaning(NamedTuple):
    """The value that a desktop starts with, and whether its page may have another."""

    value: object
    locked: bool = False


def meaning(name: str, value: str) -> Meaning:
    """What Selkies 2.1.0 takes this value of this variable for; ValueError where it does not take
    it as it stands.
    """
    if name in BOOLS:
        word, *suffixes = value.split("|")
        if word not in ("true", "false") or suffixes not in ([], ["locked"]):
            raise ValueError(f"{name}={value}")
        return Meaning(word == "true", bool(suffixes))
    if name in RANGES:
        least, most = RANGES[name]
        span = re.fullmatch(r"(\d+)-(\d+)", value)
        low, high = (int(span[1]), int(span[2])) if span else (least, most)
        start = low if span else int(value)
        if not least <= low <= start <= high <= most or (span and low != high):
            raise ValueError(f"{name}={value}")
        return Meaning(start, locked=low == high)
    if name in ENUMS:
        named = value.split(",")
        if (
            not named
            or any(one not in ENUMS[name] for one in named)
            or len(set(named)) != len(named)
        ):
            raise ValueError(f"{name}={value}")
        return Meaning(named[0], locked=len(named) == 1)
    if name in LISTS:
        chosen = () if value == "none" else tuple(value.split(","))
        if any(one not in LISTS[name] for one in chosen):
            raise ValueError(f"{name}={value}")
        return Meaning(chosen, locked=True)
    if name in WORDS and value in WORDS[name]:
        return Meaning(value, locked=True)
    if name in TEXTS and value:
        return Meaning(value, locked=True)
    if name in PORTS and 1 <= int(value) <= 65535:
        return Meaning(int(value), locked=True)
    raise ValueError(f"{name}={value}")
