"""Files of the home, for the portal: the list of a folder, the content of a file, a folder as zip, and a new file.

The agent has the uid of the user's programs, so the kernel refuses it what it refuses them. The one exception is
/proc/self: there the agent could read its own memory, with its tokens. A link in the home may lead there, and may be
put in place between a check and an open. So each name of a path is opened by itself, in the folder that was opened
before it, and never through a link; and what lies in a /proc is refused. All raise OSError, ValueError for the path.
"""

import errno
import heapq
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any, BinaryIO
from urllib.parse import quote_from_bytes
from zipfile import ZipFile, ZipInfo

MAX_ENTRIES, MAX_READ = 2000, 100_000
"""Entries of a folder that are listed, and that are read for it."""
MAX_ZIP_FILES, MAX_ZIP_BYTES = 10_000, 8 << 30
_LATEST = 4_000_000_000
CHUNK_BYTES = 1 << 18
# O_NONBLOCK: a pipe that no one writes to would hold the thread.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


def _open(name: Path | bytes | str, folder: int | None = None) -> int:
    opened = os.open(name, _READ, dir_fd=folder)
    found = os.fstat(opened)
    if found.st_dev == Path("/proc").stat().st_dev or not (S_ISREG(found.st_mode) or S_ISDIR(found.st_mode)):
        os.close(opened)
        raise OSError(errno.EINVAL, "it is neither a file nor a folder of the home")
    return opened


@contextmanager
def open_path(home: Path, path: bytes) -> Iterator[int]:
    """A descriptor of the file or folder at a path below the home."""
    opened = _open(home)
    try:
        for name in filter(None, path.split(b"/")):
            if name in (b".", b".."):
                raise ValueError(f"path: {path!r} is not allowed; it has no . and no ..")
            inner = _open(name, opened)
            os.close(opened)
            opened = inner
        yield opened
    finally:
        os.close(opened)


def list_folder(home: Path, path: bytes) -> dict[str, Any]:
    """The first entries, folders before files and hidden ones last, and the space of the volume."""
    with open_path(home, path) as folder, os.scandir(folder) as entries:
        first = heapq.nsmallest(MAX_ENTRIES + 1, islice(entries, MAX_READ), key=_order)
        volume = os.fstatvfs(folder)
        used = (volume.f_blocks - volume.f_bfree) * volume.f_frsize
        return {
            "entries": [_describe(entry) for entry in first[:MAX_ENTRIES]],
            "isCut": len(first) > MAX_ENTRIES,
            "usedBytes": used,
            "sizeBytes": used + volume.f_bavail * volume.f_frsize,
        }


def _order(entry: os.DirEntry[str]) -> tuple[bool, bool, str]:
    return entry.name[0] == ".", not entry.is_dir(follow_symlinks=False), entry.name.lower()


def _describe(entry: os.DirEntry[str]) -> dict[str, Any]:
    found = entry.stat(follow_symlinks=False)
    kind = "folder" if S_ISDIR(found.st_mode) else "file" if S_ISREG(found.st_mode) else "other"
    modified = min(max(int(found.st_mtime), 0), _LATEST)
    name = quote_from_bytes(os.fsencode(entry.name), safe="")
    return {"name": name, "kind": kind, "sizeBytes": found.st_size, "modified": modified}


def find_size(opened: int) -> int | None:
    """The size of a file; None for a folder that is small enough for a zip."""
    found = os.fstat(opened)
    if S_ISREG(found.st_mode):
        return found.st_size
    sizes = [os.fstat(file).st_size for _, file in islice(_files_below(opened), MAX_ZIP_FILES + 1)]
    if len(sizes) > MAX_ZIP_FILES or sum(sizes) > MAX_ZIP_BYTES:
        raise OSError(errno.EFBIG, f"a zip has at most {MAX_ZIP_FILES} files and {MAX_ZIP_BYTES >> 30} GiB: too large")
    return None


def _files_below(folder: int, above: str = "") -> Iterator[tuple[str, int]]:
    """Files that can be read, by their path, each open until the next; links and all else are left out."""
    for name in sorted(os.listdir(folder)):
        try:
            opened = _open(name, folder)
        except OSError:
            continue
        try:
            if S_ISDIR(os.fstat(opened).st_mode):
                yield from _files_below(opened, f"{above}{name}/")
            else:
                yield above + name, opened
        finally:
            os.close(opened)


def write_content(opened: int, size: int | None, target: Any) -> None:
    """A file of this size, or a zip. It is not compressed, which would take the time of the user's programs."""
    if size is not None:
        copy(partial(os.read, opened), size, target)
        return
    with ZipFile(target, "w") as archive:
        for path, file in islice(_files_below(opened), MAX_ZIP_FILES):
            found = os.fstat(file)
            # Windows takes a backslash for a separator.
            info = ZipInfo(os.fsencode(path).decode(errors="replace").replace("\\", "_"))
            info.date_time = max(time.localtime(min(found.st_mtime, _LATEST))[:6], info.date_time)
            info.file_size = found.st_size
            with archive.open(info, "w") as part:
                copy(partial(os.read, file), found.st_size, part)


def store(home: Path, path: bytes, size: int, source: BinaryIO) -> None:
    """Write a new file, never over another one."""
    above, _, name = path.rpartition(b"/")
    with open_path(home, above) as folder:
        volume = os.fstatvfs(folder)
        if size > volume.f_bavail * volume.f_frsize:
            raise OSError(errno.ENOSPC, "the file is larger than the free space")
        opened = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
        try:
            with os.fdopen(opened, "wb") as target:
                copy(source.read, size, target)
        except BaseException:
            os.unlink(name, dir_fd=folder)
            raise


def copy(read: Callable[[int], bytes], size: int, target: Any) -> None:
    """Exactly so many bytes: a file may grow meanwhile."""
    while size > 0:
        data = read(min(size, CHUNK_BYTES))
        if not data:
            raise OSError(errno.EIO, "the content ended before its size was reached")
        target.write(data)
        size -= len(data)
