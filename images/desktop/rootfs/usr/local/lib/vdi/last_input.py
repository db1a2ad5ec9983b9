"""Time of the last input by a person. A pod has no keyboard and no mouse: what people do comes from
browsers, through Selkies, which notes the time here, for vdi-agent. Input that programs of the
desktop make, and that of software agents, passes Selkies by.

The launcher makes the memory, and both inherit it (handed_files.py). It holds seconds of
CLOCK_MONOTONIC, which all processes of a machine share, and whether there was an input.
"""

import mmap
import os
import struct
import time
from typing import Any

from x11 import UnknownError

FLIP, PLAY = 0x1008FF49, 0x1008FF48
"""XF86Launch9 and XF86Launch8, the keys of a probe (photon.py): in every layout's map, on no keyboard that is sold."""
INPUT = ("kd,", "kh,", "m,", "m2,", "sf,", "co,")
"""What a page sends for keys, pointer, touchpad and composed text; not for gamepads, which are never quite still."""
_PROBE = {f"kd,{key}" for key in (FLIP, PLAY)}
_FORMAT = "=d?"


def create_input_memory() -> int:
    """Memory that holds the time of now: a desktop that no one has touched is idle since its
    start.
    """
    memory = os.memfd_create("input")
    os.write(memory, struct.pack(_FORMAT, time.monotonic(), False))
    return memory


def note_input(handler: Any, memory: int) -> None:
    """Have Selkies' class that takes what browsers send note the time of each input in this
    memory.
    """
    take, noted = handler.on_message, mmap.mmap(memory, struct.calcsize(_FORMAT))

    async def taken(self: Any, message: str, *args: Any, **kwargs: Any) -> None:
        if message.startswith(INPUT) and message not in _PROBE:
            struct.pack_into(_FORMAT, noted, 0, time.monotonic(), True)
        await take(self, message, *args, **kwargs)

    handler.on_message = taken


def read_input(memory: int) -> tuple[float, bool]:
    """Seconds since the last input, and whether there was one; else since the start. Raises
    UnknownError.
    """
    try:
        last, is_human = struct.unpack(_FORMAT, os.pread(memory, struct.calcsize(_FORMAT), 0))
    except (OSError, struct.error) as error:
        raise UnknownError(f"the time of the last input can't be read: {error}") from error
    return max(0.0, time.monotonic() - float(last)), bool(is_human)
