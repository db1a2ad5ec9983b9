"""Memory of the part of Xvfb's screen that no screen has: given back, and nothing of what is
shown.
"""

import ctypes
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unit.images.image_scripts import load_library

LARGEST, SCREEN, HEADER = (4096, 2304), (1920, 1080), 3232
ROW = LARGEST[0] * 4
_CREATE, _OWN = 0o1000, 0o600


class Segment:
    """Shared memory of this process, as Xvfb makes it, all painted."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None)
        libc.shmat.restype = ctypes.c_void_p
        self.size = HEADER + ROW * LARGEST[1]
        self.number = libc.shmget(0, ctypes.c_size_t(self.size), _CREATE | _OWN)
        self.address = libc.shmat(self.number, None, 0)
        ctypes.memset(self.address, 0x55, self.size)

    def pixel(self, x: int, y: int) -> bytes:
        return ctypes.string_at(self.address + HEADER + y * ROW + x * 4, 4)

    def resident(self) -> int:
        lines = Path("/proc/sysvipc/shm").read_text()
        [size] = re.findall(rf"^ *-?\d+ +{self.number} .* (\d+) +\d+$", lines, re.MULTILINE)
        return int(size)


@pytest.fixture
def segment() -> Iterator[Segment]:
    segment = Segment()
    yield segment
    libc = ctypes.CDLL(None)
    libc.shmctl(segment.number, 0, None)
    libc.shmdt(ctypes.c_void_p(segment.address))


@pytest.mark.timeout(30)
def test_only_what_is_shown_stays_in_memory(segment: Segment) -> None:
    memory: Any = load_library("screen_memory")
    before = segment.resident()
    memory.free_unused_screen(os.getpid(), LARGEST, SCREEN)
    assert before - segment.resident() > 23 << 20
    for x in range(0, SCREEN[0], 97):
        for y in (0, 1, 500, SCREEN[1] - 1):
            assert segment.pixel(x, y) == b"UUUU"
    assert segment.pixel(SCREEN[0] - 1, SCREEN[1] - 1) == b"UUUU"
    assert segment.pixel(0, LARGEST[1] - 2) == bytes(4)
    ends_with_its_processes = re.search(
        rf" {segment.number} +1600 ", Path("/proc/sysvipc/shm").read_text()
    )
    assert ends_with_its_processes


def test_largest_screen_keeps_all_of_its_memory() -> None:
    memory: Any = load_library("screen_memory")
    assert memory.unused_ranges(HEADER + ROW * LARGEST[1], LARGEST, LARGEST) == []


def test_server_without_shared_memory_is_an_error() -> None:
    memory: Any = load_library("screen_memory")
    with pytest.raises(OSError, match="not in shared memory"):
        memory.free_unused_screen(1, LARGEST, SCREEN)
