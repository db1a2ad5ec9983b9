"""How much of its memory the desktop uses, as the kernel counts it for the limit (cgroup v2, or v1).

Without the page cache of files, which the kernel takes back before it kills a program.
"""

from pathlib import Path
from typing import Any

from x11 import UnknownError

# Usage, limit, statistics, and what is page cache in these.
_V2 = ("memory.current", "memory.max", "memory.stat", ("inactive_file", "active_file"))
_V1 = ("memory.usage_in_bytes", "memory.limit_in_bytes", "memory.stat", ("total_inactive_file", "total_active_file"))
_SHORT, _ENOUGH = 0.9, 0.8
"""Of the limit. In between it stays as it was, so that a warning does not come and go."""


class Memory:
    """Use and limit, and whether the memory is nearly used up."""

    def __init__(self, root: Path = Path("/sys/fs/cgroup")) -> None:
        self.root = root
        self.is_short = False

    def look(self) -> dict[str, Any]:
        """As it is now. Raises UnknownError where there is no limit."""
        v1 = self.root / "memory"
        folder, names = (v1, _V1) if v1.is_dir() else (self.root, _V2)
        try:
            usage, limit, statistics = ((folder / name).read_text() for name in names[:3])
            lines = (line.split() for line in statistics.splitlines())
            used = int(usage) - sum(int(number) for name, number in lines if name in names[3])
            share = used / int(limit)
        except (OSError, ValueError) as error:
            raise UnknownError(f"the limit of the desktop's memory can't be read: {error}") from error
        self.is_short = share >= _SHORT or (self.is_short and share >= _ENOUGH)
        return {"used": max(0, used), "limit": int(limit), "isShort": self.is_short}
