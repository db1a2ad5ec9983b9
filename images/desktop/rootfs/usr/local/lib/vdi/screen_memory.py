"""Memory of Xvfb's screen: it has the pixels of the largest one, of which a browser may ask for a
part only.

Xvfb paints them all when it starts. Those outside of the first screen, 24 of 36 MiB, are given back
to the kernel here; it gives Xvfb new ones, which are black, when a screen needs them.
"""

import ctypes
from pathlib import Path

SEGMENTS = Path("/proc/sysvipc/shm")
_IPC_RMID, _MADV_REMOVE, _PIXEL_BYTES = 0, 9, 4
_PAGE = 4096


def free_unused_screen(server: int, largest: tuple[int, int], screen: tuple[int, int]) -> None:
    """Give back what a screen of this size does not need, of the server's process (Xvfb -shmem).
    Raises OSError.

    The segment then ends with the last process that uses it, also when Xvfb is killed.
    """
    segment, size = _find_segment(server)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    libc.shmdt.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    address = libc.shmat(segment, None, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "shmat failed")
    try:
        for begin, end in unused_ranges(size, largest, screen):
            if libc.madvise(address + begin, end - begin, _MADV_REMOVE):
                raise OSError(ctypes.get_errno(), "madvise(MADV_REMOVE) failed")
    finally:
        libc.shmdt(address)
        libc.shmctl(segment, _IPC_RMID, None)


def unused_ranges(
    size: int, largest: tuple[int, int], screen: tuple[int, int]
) -> list[tuple[int, int]]:
    """Whole pages right of and below the screen, as beginning and end in a segment of this size.

    The rows of the largest screen are the segment's end; a header is before them.
    """
    row = largest[0] * _PIXEL_BYTES
    first = size - row * largest[1]
    ranges = []
    for number in range(screen[1]):
        begin = first + number * row
        ranges.append((begin + screen[0] * _PIXEL_BYTES, begin + row))
    ranges.append((first + screen[1] * row, size))
    whole = [(-(-begin // _PAGE) * _PAGE, end // _PAGE * _PAGE) for begin, end in ranges]
    return [(begin, end) for begin, end in whole if begin < end]


def _find_segment(server: int) -> tuple[int, int]:
    """Number and size of the largest segment of shared memory that this process has made. Raises
    OSError.
    """
    lines = [line.split() for line in SEGMENTS.read_text().splitlines()]
    sizes: dict[int, int] = {}
    for line in lines[1:]:
        segment = dict(zip(lines[0], line, strict=True))
        if int(segment["cpid"]) == server:
            sizes[int(segment["shmid"])] = int(segment["size"])
    if not sizes:
        raise OSError("the X server's screen is not in shared memory")
    largest = max(sizes, key=lambda number: sizes[number])
    return largest, sizes[largest]
