"""Memory of the desktop, as the kernel counts it for the limit (cgroup v2, or v1).

Without the page cache of files, which the kernel takes back before it kills a program.
"""

from pathlib import Path

from x11 import UnknownError

_V2 = ("memory.current", "memory.max", "memory.stat")
_V1 = ("memory/memory.usage_in_bytes", "memory/memory.limit_in_bytes", "memory/memory.stat")
_CACHE = ("inactive_file", "active_file")


def read_memory(root: Path = Path("/sys/fs/cgroup")) -> dict[str, int]:
    """Bytes that are used, and the limit. Raises UnknownError where there is no limit."""
    names = _V1 if (root / "memory").is_dir() else _V2
    try:
        usage, limit, statistics = ((root / name).read_text() for name in names)
        cache = sum(int(number) for name, number in map(str.split, statistics.splitlines()) if name in _CACHE)
        return {"used": max(0, int(usage) - cache), "limit": int(limit)}
    except (OSError, ValueError) as error:
        raise UnknownError(f"the limit of the desktop's memory can't be read: {error}") from error
