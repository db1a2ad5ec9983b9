"""When a desktop on Wayland was last touched. Selkies' compositor has no device but the browsers, and no idle protocol:
the process that injects their input notes the time, and vdi-agent reads it.

The file holds one number: seconds of CLOCK_MONOTONIC, which all processes of a machine share.
"""

import mmap
import os
import struct
import time
from pathlib import Path
from typing import Any

_FORMAT = "=d"


class InputRecorder:
    """Stands in for pixelflux' ScreenCapture in Selkies' input handler, and notes each input that passes."""

    def __init__(self, target: Any, file: Path) -> None:
        self._target = target
        self._memory = _mapped(file)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not name.startswith(("inject_", "type_")):
            return found

        def noted(*args: Any, **kwargs: Any) -> Any:
            struct.pack_into(_FORMAT, self._memory, 0, time.monotonic())
            return found(*args, **kwargs)

        return noted


def _mapped(file: Path) -> mmap.mmap:
    """The file, made again with the time of now: a desktop that no one has touched is idle since its start."""
    part = file.with_name(file.name + ".part")
    part.write_bytes(struct.pack(_FORMAT, time.monotonic()))
    part.rename(file)
    descriptor = os.open(file, os.O_RDWR)
    try:
        return mmap.mmap(descriptor, struct.calcsize(_FORMAT))
    finally:
        os.close(descriptor)


def seconds_since_input(file: Path) -> float:
    """Seconds since the last input. Raises OSError, ValueError."""
    data = file.read_bytes()
    if len(data) != struct.calcsize(_FORMAT):
        raise ValueError(f"{file} has {len(data)} bytes")
    return max(0.0, time.monotonic() - float(struct.unpack(_FORMAT, data)[0]))
