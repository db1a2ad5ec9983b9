"""Memory of the desktop, as the kernel counts it for the limit (cgroup v2, or v1), and the programs
it has killed.

Without the page cache of files, which the kernel takes back before it kills a program.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from x11 import UnknownError

CGROUP = Path("/sys/fs/cgroup")
_V2 = ("memory.current", "memory.max", "memory.stat")
_V1 = ("memory/memory.usage_in_bytes", "memory/memory.limit_in_bytes", "memory/memory.stat")
_CACHE = ("inactive_file", "active_file")
_KILLS = ("memory.events", "memory/memory.oom_control")  # cgroup v2, v1
# The container sees its cgroup read-only, so it can set no trigger (memory.pressure of v2,
# cgroup.event_control of v1). A look costs 0.1 ms, and a program that takes 100 MiB a second gets
# no further than 50 MiB before the next.
LOOK_SECONDS = 0.5
SHORT_FROM, GROWING_FROM, ENOUGH_FROM = 0.9, 0.7, 0.8  # of the limit
# A desktop that would have used up its memory after this time, if it went on like in the last one,
# is short now.
FULL_SECONDS, GROWTH_SECONDS = 5.0, 2.0


def read_memory(root: Path = CGROUP) -> dict[str, int]:
    """Bytes that are used, and the limit. Raises UnknownError where there is no limit."""
    names = _V1 if (root / "memory").is_dir() else _V2
    try:
        usage, limit, statistics = ((root / name).read_text() for name in names)
        counted = dict(map(str.split, statistics.splitlines()))
        cache = sum(int(counted.get(name, 0)) for name in _CACHE)
        return {"used": max(0, int(usage) - cache), "limit": int(limit)}
    except (OSError, ValueError) as error:
        raise UnknownError(f"the limit of the desktop's memory can't be read: {error}") from error


def read_kills(root: Path = CGROUP) -> int:
    """Programs of this container that the kernel has killed because its memory was used up; 0 if it
    does not say.
    """
    for name in _KILLS:
        with contextlib.suppress(OSError):
            counted = dict(map(str.split, (root / name).read_text().splitlines()))
            return int(counted.get("oom_kill", 0))
    return 0


class MemoryWatch:
    """Whether the desktop is short of memory, and when a program was last killed. It calls when
    either changes.
    """

    def __init__(
        self,
        on_kill: Callable[[], None],
        on_short: Callable[[dict[str, int] | None], None],
        root: Path = CGROUP,
    ) -> None:
        """`on_short` gets the memory of a desktop that is short of it, and None when it is no
        longer.
        """
        self.on_kill, self.on_short, self.root = on_kill, on_short, root
        self.kills = read_kills(root)
        self.last_kill: float | None = None
        self.is_short = False
        self.seen: deque[tuple[float, int]] = deque()

    def report(self) -> dict[str, int | bool]:
        """Bytes that are used, the limit, and whether that is short. Raises UnknownError where
        there is no limit.
        """
        return {**read_memory(self.root), "isShort": self.is_short}

    def kill_seconds(self) -> float | None:
        """Since the kernel last killed a program; None: it has not, as long as this process
        runs.
        """
        return None if self.last_kill is None else time.monotonic() - self.last_kill

    def look(self, now: float) -> None:
        """Look once, at this time of the monotonic clock. Raises UnknownError where there is no
        limit.
        """
        kills = read_kills(self.root)
        if kills > self.kills:
            self.last_kill = now
            self.on_kill()
        self.kills = kills
        memory = read_memory(self.root)
        used, limit = memory["used"], memory["limit"]
        self.seen.append((now, used))
        while now - self.seen[0][0] > GROWTH_SECONDS:
            self.seen.popleft()
        began, before = self.seen[0]
        growth = (used - before) / max(now - began, LOOK_SECONDS)
        is_growing = used >= GROWING_FROM * limit and used + FULL_SECONDS * growth >= limit
        is_short = used >= (ENOUGH_FROM if self.is_short else SHORT_FROM) * limit or is_growing
        if is_short != self.is_short:
            self.is_short = is_short
            self.on_short(memory if is_short else None)

    def watch(self) -> None:
        """Look as long as the agent lives; where there is no limit, there is nothing to see."""
        with contextlib.suppress(UnknownError):
            while True:
                time.sleep(LOOK_SECONDS)
                self.look(time.monotonic())
