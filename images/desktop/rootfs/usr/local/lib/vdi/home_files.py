"""Files of the home, for the portal: the list of a folder, the content of a file, a folder as zip,
a new file or folder, another name, and deletion.

The agent has the uid of the user's programs, so the kernel refuses it what it refuses them. The one
exception is /proc/self: there the agent could read its own memory, with its tokens. A link in the
home may lead there, and may be put in place between a check and an open. So each name of a path is
opened by itself, in the folder that was opened before it, and never through a link; and what lies
in a /proc is refused. All raise OSError, or ValueError for the path.
"""

import errno
import heapq
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from socket import socket
from stat import S_ISDIR, S_ISREG
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote_from_bytes

MAX_ENTRIES = 2000
MAX_ZIP_FILES, MAX_ZIP_BYTES = 10_000, 8 << 30
MAX_DELETED = 10_000
_PROC = Path("/proc").stat().st_dev


@contextmanager
def _opened(name: Path | bytes | str, folder: int | None = None) -> Iterator[int]:
    # O_NONBLOCK: a pipe that no one writes to would hold the thread.
    opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=folder)
    try:
        found = os.fstat(opened)
        if found.st_dev == _PROC or not (S_ISREG(found.st_mode) or S_ISDIR(found.st_mode)):
            raise OSError(errno.EINVAL, "it is neither a file nor a folder of the home")
        yield opened
    finally:
        os.close(opened)


@contextmanager
def open_path(home: Path, path: bytes) -> Iterator[int]:
    """A descriptor of the file or folder at a path below the home."""
    with ExitStack() as stack:
        opened = stack.enter_context(_opened(home))
        for name in filter(None, path.split(b"/")):
            if name in (b".", b".."):
                raise ValueError(f"path: {path!r} is not allowed; it has no . and no ..")
            opened = stack.enter_context(_opened(name, opened))
        yield opened


@contextmanager
def _open_parent(home: Path, path: bytes) -> Iterator[tuple[int, bytes]]:
    """A descriptor of the folder of an entry, and the entry's name, which need not exist."""
    above, _, name = path.rpartition(b"/")
    if name in (b"", b".", b".."):
        raise ValueError("it is not the name of an entry of the home")
    with open_path(home, above) as folder:
        yield folder, name


def list_folder(home: Path, path: bytes) -> dict[str, Any]:
    """The first entries, folders before files and hidden ones last, and the space of the volume."""
    shown = []
    with open_path(home, path) as folder, os.scandir(folder) as entries:
        # Read in full, since the order of a folder is none; of a large one only the first are kept.
        keys = (
            (e.name[0] == ".", not e.is_dir(follow_symlinks=False), e.name.lower(), e.name, e)
            for e in entries
        )
        first = heapq.nsmallest(MAX_ENTRIES + 1, keys)
        for *_, entry in first[:MAX_ENTRIES]:
            with suppress(FileNotFoundError):  # deleted meanwhile
                shown.append(_describe(entry.name, entry.stat(follow_symlinks=False)))
        volume = os.fstatvfs(folder)
    used = (volume.f_blocks - volume.f_bfree) * volume.f_frsize
    size = used + volume.f_bavail * volume.f_frsize
    return {
        "entries": shown,
        "isCut": len(first) > MAX_ENTRIES,
        "usedBytes": used,
        "sizeBytes": size,
    }


def _describe(name: str, status: os.stat_result) -> dict[str, Any]:
    kind = "other"
    if S_ISDIR(status.st_mode):
        kind = "folder"
    elif S_ISREG(status.st_mode):
        kind = "file"
    return {
        "name": quote_from_bytes(os.fsencode(name), safe=""),
        "kind": kind,
        "sizeBytes": status.st_size,
        "modified": min(max(int(status.st_mtime), 0), 4_000_000_000),
    }


def find_size(opened: int) -> int | None:
    """The size of a file; None for a folder that is small enough for a zip."""
    found = os.fstat(opened)
    if S_ISREG(found.st_mode):
        return found.st_size
    sizes = [os.fstat(file).st_size for _, file in islice(_files_below(opened), MAX_ZIP_FILES + 1)]
    if len(sizes) > MAX_ZIP_FILES or sum(sizes) > MAX_ZIP_BYTES:
        raise OSError(
            errno.EFBIG,
            f"a zip has at most {MAX_ZIP_FILES} files and {MAX_ZIP_BYTES >> 30} GiB: too large",
        )
    return None


def _files_below(folder: int) -> Iterator[tuple[str, int]]:
    """Files that can be read, by their path, each open until the next; links and all else are left
    out.
    """
    # fwalk opens as `_opened` does, but compares what it has opened with lstat instead of
    # O_NOFOLLOW.
    for above, folders, names, parent in os.fwalk(".", dir_fd=folder):
        folders.sort()
        for name in sorted(names):
            with suppress(OSError), _opened(name, parent) as file:
                if S_ISREG(os.fstat(file).st_mode):
                    yield f"{above}/{name}"[2:], file


def write_content(opened: int, size: int | None, target: socket) -> None:
    """A file of this size, or a zip in chunks of HTTP. It is not compressed: that takes time of the
    user's programs.
    """

    def write(data: bytes) -> int:
        if data:  # an empty chunk is the end
            target.sendall(b"%x\r\n%b\r\n" % (len(data), data))
        return len(data)

    if size is None:
        stream: Any = SimpleNamespace(write=write, flush=lambda: None)
        from zipfile import ZipFile  # 0.4 MiB in an agent from which no one gets a folder

        with ZipFile(stream, "w", strict_timestamps=False) as archive:
            for path, file in islice(_files_below(opened), MAX_ZIP_FILES):
                # Windows takes a backslash for a separator.
                name = os.fsencode(path).decode(errors="replace").replace("\\", "_")
                # The open file, wherever its path leads by now.
                archive.write(f"/proc/self/fd/{file}", name)
        target.sendall(b"0\r\n\r\n")
    elif size:
        with open(opened, "rb", closefd=False) as content:
            target.sendfile(content, count=size)


def store(home: Path, path: bytes, size: int, read: Callable[[int], bytes]) -> None:
    """Write a new file, never over another one."""
    with _open_parent(home, path) as (folder, name):
        volume = os.fstatvfs(folder)
        if not 0 <= size <= volume.f_bavail * volume.f_frsize:
            raise OSError(errno.ENOSPC, "the file is larger than the free space")
        opened = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
        try:
            with os.fdopen(opened, "wb") as target:
                while size and (data := read(min(size, 1 << 18))):
                    size -= target.write(data)
            if size:
                raise OSError(errno.EIO, "the content ended before its size was reached")
        except BaseException:
            os.unlink(name, dir_fd=folder)
            raise


def make_folder(home: Path, path: bytes) -> None:
    """Create one folder; its own folder exists."""
    with _open_parent(home, path) as (folder, name):
        os.mkdir(name, dir_fd=folder)


def move(home: Path, path: bytes, to: bytes) -> None:
    """Give an entry another path below the home, never over another entry."""
    with _open_parent(home, path) as (old, name), _open_parent(home, to) as (new, new_name):
        is_folder = S_ISDIR(os.lstat(name, dir_fd=old).st_mode)
        # A rename replaces a file, and Python has no RENAME_NOREPLACE. So the name is first taken by
        # an empty entry, which fails where there is one.
        if is_folder:
            os.mkdir(new_name, dir_fd=new)
        else:
            os.close(os.open(new_name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, dir_fd=new))
        try:
            os.rename(name, new_name, src_dir_fd=old, dst_dir_fd=new)
        except OSError:
            _remove_entry(new_name, new, is_folder=is_folder)
            raise


def _remove_entry(name: bytes, folder: int, *, is_folder: bool) -> None:
    if is_folder:
        os.rmdir(name, dir_fd=folder)
    else:
        os.unlink(name, dir_fd=folder)


def remove(home: Path, path: bytes) -> None:
    """Delete a file, a link, or a folder with all that is in it."""
    with _open_parent(home, path) as (folder, name):
        if not S_ISDIR(os.lstat(name, dir_fd=folder).st_mode):
            os.unlink(name, dir_fd=folder)
            return
        _check_removable(name, folder)
        # `rmtree` opens each folder in the one before it, never through a link.
        shutil.rmtree(name, dir_fd=folder)


def _check_removable(name: bytes, folder: int) -> None:
    """Raises OSError for a folder with too many entries, or with another volume in it, such as a
    team's.
    """
    volume, found = os.fstat(folder).st_dev, 0
    for _, folders, files, opened in os.fwalk(name, dir_fd=folder):
        if os.fstat(opened).st_dev != volume:
            raise OSError(errno.EXDEV, "another volume is mounted in it")
        found += len(folders) + len(files)
        if found > MAX_DELETED:
            raise OSError(
                errno.EFBIG, f"it has more than {MAX_DELETED} entries: delete it in the desktop"
            )
