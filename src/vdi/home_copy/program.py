"""Copies a home into another one without loss. Runs in the pod of `vdi home migrate`, as `python3 -c`.

    scan -> conflicts? -> copy into a staging folder of the target -> verify -> journal -> rename into place -> clean up

The standard library alone, Python 3.8 or later: the image is that of a desktop. Killed at any step, the next run
begins again, or goes on from the journal; the old home is only read. A line of JSON on stdout for each step.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import stat
import sys
from typing import Any, Callable, Iterable

STAGING = b".vdi-migration"
_LEFT_OUT = (b"lost+found", STAGING)
"""In the top folder alone."""
_CHUNK_BYTES = 1 << 20
_LISTED = 100
"""Conflicts that the report names."""
FAILED, CONFLICTS = 1, 3


class CopyError(Exception):
    """Raised for what keeps the copy from being made; `paths` are the files that it is about."""

    def __init__(self, message: str, paths: Iterable[bytes] = ()) -> None:
        super().__init__(message)
        self.paths = sorted(paths)


class Entry:
    """A file, folder, link or pipe of the old home. `content` is the SHA-256 of a file or the target of a link."""

    def __init__(self, path: bytes, seen: os.stat_result) -> None:
        self.path = path
        self.kind = stat.S_IFMT(seen.st_mode)
        self.mode = stat.S_IMODE(seen.st_mode)
        self.mtime = seen.st_mtime_ns
        self.size = seen.st_size
        self.blocks = seen.st_blocks
        self.inode = (seen.st_dev, seen.st_ino)
        self.links = seen.st_nlink
        self.attributes: dict[str, bytes] = {}
        self.content = b""

    @property
    def is_folder(self) -> bool:
        """Whether it has others in it."""
        return self.kind == stat.S_IFDIR


class Copy:
    """One copy. `at` is called with the name of each step before it is done."""

    def __init__(
        self,
        old: bytes,
        new: bytes,
        into: bytes = b"",
        report: Callable[[dict[str, Any]], None] = lambda _: None,
        at: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.old, self.new = old, new
        self.root = os.path.join(new, into) if into else new
        self.staging = os.path.join(new, STAGING)
        self.files = os.path.join(self.staging, b"files")
        self.journal = os.path.join(self.staging, b"journal")
        self.report, self.at = report, at
        self.left_out: list[bytes] = []
        self.progress = 0

    def run(self) -> dict[str, Any]:
        """Copy all of it; a summary. Raises CopyError and OSError: the old home is as it was."""
        self.at("scan")
        self.report({"step": "scan"})
        entries = self._scan()
        total = sum(entry.size for entry in entries if entry.kind == stat.S_IFREG)
        signature = _signature(entries)
        journal = self._read_journal(signature)
        if journal is None:
            same = self._compare(entries)
            missing = [entry for entry in entries if entry.path not in same]
            self._stage(missing)
            self._verify(missing)
            journal = self._write_journal(signature, missing)
        self._move(journal)
        self.at("clean")
        _remove(self.journal)
        _remove_tree(self.staging)
        folders = sum(entry.is_folder for entry in entries)
        return {
            "files": len(entries) - folders,
            "folders": folders,
            "bytes": total,
            "leftOut": [_text(path) for path in self.left_out],
        }

    def _scan(self) -> list[Entry]:
        """All entries, each folder before what is in it. Raises CopyError for what cannot be read."""
        entries: list[Entry] = []
        unreadable: list[bytes] = []
        folders = [b""]
        while folders:
            folder = folders.pop()
            try:
                names = sorted(os.listdir(os.path.join(self.old, folder) if folder else self.old))
            except PermissionError:
                unreadable.append(folder)
                continue
            for name in names:
                if not folder and name in _LEFT_OUT:
                    continue
                path = os.path.join(folder, name)
                full = os.path.join(self.old, path)
                entry = Entry(path, os.lstat(full))
                if entry.is_folder:
                    folders.append(path)
                elif entry.kind == stat.S_IFLNK:
                    entry.content = os.readlink(full)
                elif entry.kind == stat.S_IFREG:
                    if not os.access(full, os.R_OK):
                        unreadable.append(path)
                        continue
                elif entry.kind != stat.S_IFIFO:  # a socket, whose program is gone, or a device
                    self.left_out.append(path)
                    continue
                entry.attributes = _attributes(full)
                entries.append(entry)
        if unreadable:
            raise CopyError("the user of the desktops cannot read", unreadable)
        return entries

    def _compare(self, entries: list[Entry]) -> set[bytes]:
        """The paths that the target has already. Raises CopyError for those that it has with other contents."""
        same: set[bytes] = set()
        conflicts: list[bytes] = []
        for entry in entries:
            self._step("compare", entry)
            if any(entry.path.startswith(path + b"/") for path in conflicts):
                continue
            full = os.path.join(self.root, entry.path)
            try:
                seen = os.lstat(full)
            except FileNotFoundError:
                continue
            except NotADirectoryError:
                continue  # the conflict is the folder above
            if stat.S_IFMT(seen.st_mode) != entry.kind or not self._has_same_content(entry, full, seen):
                conflicts.append(entry.path)
            else:
                same.add(entry.path)
        if conflicts:
            raise CopyError("the target has other files with these names", conflicts)
        return same

    def _has_same_content(self, entry: Entry, full: bytes, seen: os.stat_result) -> bool:
        if entry.kind == stat.S_IFLNK:
            return os.readlink(full) == entry.content
        if entry.kind != stat.S_IFREG:
            return True
        old = os.path.join(self.old, entry.path)
        return seen.st_size == entry.size and _hash(full) == _hash(old)

    def _stage(self, entries: list[Entry]) -> None:
        """Copy what the target does not have into the staging folder."""
        self.at("stage")
        _remove_tree(self.staging)
        disk = os.statvfs(self.new)
        needed, free = sum(512 * entry.blocks for entry in entries), disk.f_bavail * disk.f_frsize
        if needed > free:
            raise CopyError("the target has %d MiB free, and the copy needs %d MiB" % (free >> 20, 1 + (needed >> 20)))
        os.makedirs(self.files, 0o700)
        total = sum(entry.size for entry in entries if entry.kind == stat.S_IFREG)
        first: dict[tuple[int, int], Entry] = {}
        for entry in entries:
            self._step("copy", entry, total)
            old, new = os.path.join(self.old, entry.path), os.path.join(self.files, entry.path)
            os.makedirs(os.path.dirname(new), 0o700, exist_ok=True)
            if entry.is_folder:
                os.makedirs(new, 0o700, exist_ok=True)
                continue
            if entry.links > 1 and entry.inode in first:
                os.link(os.path.join(self.files, first[entry.inode].path), new, follow_symlinks=False)
                entry.content = first[entry.inode].content
                continue
            first[entry.inode] = entry
            if entry.kind == stat.S_IFREG:
                entry.content = _copy_file(old, new)
            elif entry.kind == stat.S_IFLNK:
                os.symlink(entry.content, new)
            else:
                os.mkfifo(new)
            _set_metadata(new, entry)
        for entry in entries:
            if entry.is_folder:
                _sync_folder(os.path.join(self.files, entry.path))
        _sync_folder(self.files)

    def _verify(self, entries: list[Entry]) -> None:
        """Read all of the copy again. Raises CopyError for what is not as it was."""
        wrong: list[bytes] = []
        inodes: dict[tuple[int, int], int] = {}
        for entry in entries:
            self._step("verify", entry)
            new = os.path.join(self.files, entry.path)
            try:
                seen = os.lstat(new)
                good = stat.S_IFMT(seen.st_mode) == entry.kind and (entry.is_folder or self._is_copy(entry, new, seen))
            except FileNotFoundError:
                good = False
            if good and not entry.is_folder:
                good = inodes.setdefault(entry.inode, seen.st_ino) == seen.st_ino
            if not good:
                wrong.append(entry.path)
        if wrong:
            raise CopyError("the copy differs from the old home", wrong)

    def _is_copy(self, entry: Entry, new: bytes, seen: os.stat_result) -> bool:
        if entry.kind == stat.S_IFLNK:
            return os.readlink(new) == entry.content and seen.st_mtime_ns == entry.mtime
        same = (stat.S_IMODE(seen.st_mode), seen.st_mtime_ns) == (entry.mode, entry.mtime)
        same = same and _attributes(new) == entry.attributes
        if entry.kind == stat.S_IFREG:
            same = same and seen.st_size == entry.size and _hash(new) == entry.content
        return same

    def _write_journal(self, signature: str, entries: list[Entry]) -> dict[str, Any]:
        """What is to be renamed, and the folders' metadata: from here on the next run goes on."""
        self.at("journal")
        journal = {
            "signature": signature,
            "root": _text(self.root),
            "entries": [
                {
                    "path": _text(entry.path),
                    "folder": entry.is_folder,
                    "mode": entry.mode,
                    "mtime": entry.mtime,
                    "attributes": {name: value.hex() for name, value in entry.attributes.items()},
                }
                for entry in entries
            ],
        }
        unfinished = self.journal + b".unfinished"
        with open(unfinished, "w", encoding="ascii") as file:
            json.dump(journal, file)
            file.flush()
            os.fsync(file.fileno())
        self.at("journal is written")
        os.rename(unfinished, self.journal)
        _sync_folder(self.staging)
        return journal

    def _read_journal(self, signature: str) -> dict[str, Any] | None:
        """The journal of an interrupted run, unless the old home or the folder of the target is another one by now."""
        try:
            with open(self.journal, encoding="ascii") as file:
                journal = json.load(file)
        except FileNotFoundError:
            return None
        return journal if (journal["signature"], journal["root"]) == (signature, _text(self.root)) else None

    def _move(self, journal: dict[str, Any]) -> None:
        """Folders first, then each file at once by its rename, then the folders' metadata, the innermost first."""
        self.at("move")
        self.report({"step": "move"})
        os.makedirs(self.root, 0o755, exist_ok=True)
        folders = [entry for entry in journal["entries"] if entry["folder"]]
        for folder in folders:
            self.at("make folder")
            os.makedirs(os.path.join(self.root, _bytes(folder["path"])), 0o700, exist_ok=True)
        for entry in journal["entries"]:
            if entry["folder"]:
                continue
            self.at("rename")
            staged, placed = (os.path.join(base, _bytes(entry["path"])) for base in (self.files, self.root))
            if os.path.lexists(placed):
                if os.path.lexists(staged):
                    raise CopyError(
                        "a file with this name was created in the target in the meantime", [_bytes(entry["path"])]
                    )
            else:
                os.rename(staged, placed)
        for folder in reversed(folders):
            self.at("folder metadata")
            path = os.path.join(self.root, _bytes(folder["path"]))
            for name, value in folder["attributes"].items():
                os.setxattr(path, name, bytes.fromhex(value))
            os.chmod(path, folder["mode"])
            os.utime(path, ns=(folder["mtime"], folder["mtime"]))
        for path in {os.path.dirname(os.path.join(self.root, _bytes(entry["path"]))) for entry in journal["entries"]}:
            _sync_folder(path)

    def _step(self, step: str, entry: Entry, total: int = 0) -> None:
        self.at(step)
        if step == "copy":
            before = self.progress >> 26
            self.progress += entry.size if entry.kind == stat.S_IFREG else 0
            if self.progress >> 26 != before:
                self.report({"step": step, "bytes": self.progress, "total": total})


def _signature(entries: list[Entry]) -> str:
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(repr((entry.path, entry.kind, entry.mode, entry.mtime, entry.size, entry.inode)).encode())
    return digest.hexdigest()


def _copy_file(old: bytes, new: bytes) -> bytes:
    """Copy the data, and leave holes where there are holes; the SHA-256 of what was read."""
    with open(old, "rb", buffering=0) as source, open(new, "xb", buffering=0) as target:
        size = os.fstat(source.fileno()).st_size
        digest, end = hashlib.sha256(), 0
        while end < size:
            try:
                begin = os.lseek(source.fileno(), end, os.SEEK_DATA)
            except OSError:  # only a hole is left
                begin = size
            _hash_zeros(digest, begin - end)
            end = os.lseek(source.fileno(), begin, os.SEEK_HOLE) if begin < size else size
            os.lseek(source.fileno(), begin, os.SEEK_SET)
            os.lseek(target.fileno(), begin, os.SEEK_SET)
            while begin < end:
                chunk = source.read(min(_CHUNK_BYTES, end - begin))
                if not chunk:
                    raise CopyError("a file became shorter while it was being read", [old])
                digest.update(chunk)
                rest = memoryview(chunk)
                while rest:
                    rest = rest[target.write(rest) :]
                begin += len(chunk)
        target.truncate(size)
        os.fsync(target.fileno())
    return digest.digest()


def _hash_zeros(digest: hashlib._Hash, count: int) -> None:
    zeros = bytes(min(count, _CHUNK_BYTES))
    while count > 0:
        digest.update(zeros[:count])
        count -= len(zeros)


def _hash(path: bytes) -> bytes:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # from the disk, where it can be
        while True:
            chunk = file.read(_CHUNK_BYTES)
            if not chunk:
                return digest.digest()
            digest.update(chunk)


def _attributes(path: bytes) -> dict[str, bytes]:
    """What a user may read and set: those of the namespace `user`, which links and pipes cannot have."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
        return {name: os.getxattr(path, name, follow_symlinks=False) for name in names if name.startswith("user.")}
    except OSError:
        return {}


def _set_metadata(path: bytes, entry: Entry) -> None:
    for name, value in entry.attributes.items():
        os.setxattr(path, name, value)
    if entry.kind != stat.S_IFLNK:
        os.chmod(path, entry.mode)
    os.utime(path, ns=(entry.mtime, entry.mtime), follow_symlinks=False)


def _remove(path: bytes) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _remove_tree(path: bytes) -> None:
    if os.path.lexists(path):
        shutil.rmtree(path)


def _sync_folder(path: bytes) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _text(path: bytes) -> str:
    """Any file name as text that JSON carries and `_bytes` reads back."""
    return path.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def main(words: list[str] | None = None) -> int:
    """Run the copy that the words name; the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("old", type=os.fsencode)
    parser.add_argument("new", type=os.fsencode)
    parser.add_argument("--into", type=os.fsencode, default=b"")
    given = parser.parse_args(words)

    def report(line: dict[str, Any]) -> None:
        print(json.dumps(line), flush=True)

    try:
        done = Copy(given.old, given.new, given.into, report).run()
    except CopyError as error:
        paths = [_text(path) for path in error.paths]
        report({"error": str(error), "paths": paths[:_LISTED], "count": len(paths)})
        return CONFLICTS if paths else FAILED
    except OSError as error:
        report(
            {"error": "%s: %s" % (_text(os.fsencode(error.filename or b"")), error.strerror), "paths": [], "count": 0}
        )
        return FAILED
    report({"done": done})
    return 0


if __name__ == "__main__":
    sys.exit(main())
