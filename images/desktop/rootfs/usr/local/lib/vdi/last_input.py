"""Time of the last input by a person. A pod has no keyboard and no mouse: what people do comes from browsers, through
Selkies, which notes the time here, for vdi-agent. Input that programs of the desktop make, and that of software agents,
passes Selkies by.

The file holds seconds of CLOCK_MONOTONIC, which all processes of a machine share, and whether there was an input.
"""

import mmap
import os
import struct
import time
from pathlib import Path
from typing import Any

from x11 import UnknownError

FILE = "input"
"""Its name in XDG_RUNTIME_DIR."""
FLIP, PLAY = 0x1008FF49, 0x1008FF48
"""XF86Launch9 and XF86Launch8, the keys of a probe (photon.py): in every layout's map, on no keyboard that is sold."""
INPUT = ("kd,", "kh,", "m,", "m2,", "sf,", "co,")
"""What a page sends for keys, pointer, touchpad and composed text; not for gamepads, which are never quite still."""
_PROBE = {f"kd,{key}" for key in (FLIP, PLAY)}
_FORMAT = "=d?"


def note_input(handler: Any, file: Path) -> None:
    """Have Selkies' class that takes what browsers send note the time of each input in this file."""
    take, memory = handler.on_message, _mapped(file)

    async def taken(self: Any, message: str, *args: Any, **kwargs: Any) -> None:
        if message.startswith(INPUT) and message not in _PROBE:
            struct.pack_into(_FORMAT, memory, 0, time.monotonic(), True)
        await take(self, message, *args, **kwargs)

    handler.on_message = taken


def _mapped(file: Path) -> mmap.mmap:
    """The file, made again with the time of now: a desktop that no one has touched is idle since its start."""
    part = file.with_name(file.name + ".part")
    part.write_bytes(struct.pack(_FORMAT, time.monotonic(), False))
    part.rename(file)
    descriptor = os.open(file, os.O_RDWR)
    try:
        return mmap.mmap(descriptor, struct.calcsize(_FORMAT))
    finally:
        os.close(descriptor)


def read_input(file: Path) -> tuple[float, bool]:
    """Seconds since the last input, and whether there was one; else since the start. Raises UnknownError."""
    try:
        last, is_human = struct.unpack(_FORMAT, file.read_bytes())
    except (OSError, struct.error) as error:
        raise UnknownError(f"the time of the last input can't be read: {error}") from error
    return max(0.0, time.monotonic() - float(last)), bool(is_human)
