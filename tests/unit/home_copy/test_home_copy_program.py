"""The program that copies a home into another one, on real folders: what is kept, and killed at every step."""

import hashlib
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from vdi.home_copy.program import STAGING, Copy, CopyError

pytestmark = pytest.mark.timeout(120)


def fill(home: Path) -> None:
    """Files of every kind that a home has."""
    (home / "paper.txt").write_text("precious")
    (home / "paper.txt").chmod(0o640)
    deep = home / "a b" / ".c"
    deep.mkdir(parents=True)
    (deep / "link").symlink_to("../../paper.txt")
    (deep / "lost").symlink_to("nowhere")
    os.link(home / "paper.txt", deep / "same")
    os.setxattr(home / "paper.txt", "user.origin", b"scan")
    Path(os.fsdecode(bytes(home / "caf") + b"\xe9")).write_bytes(os.urandom(3000))
    with (home / "sparse").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"middle")
        file.truncate(4 << 20)
    os.mkfifo(home / "pipe")
    (home / "empty").mkdir(mode=0o2770)
    os.setxattr(home / "empty", "user.tag", b"x")
    (deep / "cache").mkdir()
    (deep / "cache" / "mod").write_text("x")
    os.utime(deep / "cache" / "mod", (1_500_000_000, 1_500_000_000))
    os.utime(deep / "cache", (1_400_000_000, 1_400_000_000))
    (deep / "cache").chmod(0o555)
    (home / "lost+found").mkdir()


def contents(home: Path) -> dict[str, tuple[object, ...]]:
    """All that must be the same after a copy."""
    found: dict[str, tuple[object, ...]] = {}
    inodes: dict[int, str] = {}
    for path in sorted(home.rglob("*")):
        seen = path.lstat()
        name = os.fsencode(path.relative_to(home)).decode("latin-1")
        if name == "lost+found":
            continue
        what: object = None
        if stat.S_ISREG(seen.st_mode):
            what = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.is_symlink():
            what = str(path.readlink())
        attributes = [] if path.is_symlink() else [(key, os.getxattr(path, key)) for key in os.listxattr(path)]
        first = inodes.setdefault(seen.st_ino, name)
        found[name] = (oct(seen.st_mode), seen.st_mtime_ns, what, first, attributes)
    return found


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are killed here, not machines: what was written is there."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def homes(tmp_path: Path) -> tuple[Path, Path]:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    fill(old)
    return old, new


def a_copy(old: Path, new: Path, into: str = "", at: Callable[[str], None] = lambda _: None) -> Copy:
    return Copy(bytes(old), bytes(new), into.encode(), at=at)


def test_a_home_is_copied_as_it_is(homes: tuple[Path, Path]) -> None:
    old, new = homes
    before = contents(old)
    done = a_copy(old, new).run()
    assert contents(new) == contents(old) == before
    assert (done["folders"], done["files"], done["leftOut"]) == (4, 8, [])
    assert (new / "sparse").stat().st_blocks < 1000
    assert not (new / STAGING.decode()).exists() and not (new / "lost+found").exists()


def test_the_old_home_goes_into_a_folder_of_the_other(homes: tuple[Path, Path]) -> None:
    old, new = homes
    (new / "paper.txt").write_text("another one")
    a_copy(old, new, "old-cad").run()
    assert contents(new / "old-cad") == contents(old)
    assert (new / "paper.txt").read_text() == "another one"


def test_files_that_differ_are_listed_and_nothing_is_changed(homes: tuple[Path, Path]) -> None:
    old, new = homes
    (new / "paper.txt").write_text("prexious")
    (new / "a b").write_text("a file")
    (new / "sparse").symlink_to("paper.txt")
    (new / "mine").write_text("of the target")
    before = contents(new)
    with pytest.raises(CopyError, match="the target has other files with these names") as refused:
        a_copy(old, new).run()
    assert sorted(refused.value.paths) == [b"a b", b"paper.txt", b"sparse"]
    assert contents(new) == before


def test_files_that_are_the_same_are_no_conflict(homes: tuple[Path, Path]) -> None:
    old, new = homes
    (new / "a b").mkdir(mode=0o700)
    (new / "a b" / "mine").write_text("of the target")
    (new / "paper.txt").write_text("precious")
    a_copy(old, new).run()
    copied = contents(new)
    assert (new / "a b" / "mine").read_text() == "of the target"
    assert copied.keys() == contents(old).keys() | {"a b/mine"}
    assert stat.S_IMODE((new / "a b").stat().st_mode) == 0o700, "a folder of the target keeps its mode"


def test_a_copy_that_is_not_the_same_is_found(homes: tuple[Path, Path]) -> None:
    """The disk gives back other data than were written: nothing reaches the target."""
    old, new = homes

    def at(step: str) -> None:
        staged = new / STAGING.decode() / "files" / "a b" / ".c" / "cache" / "mod"
        if step == "verify" and staged.exists():
            seen = staged.stat()
            staged.write_text("y")
            os.utime(staged, ns=(seen.st_mtime_ns, seen.st_mtime_ns))

    with pytest.raises(CopyError, match="the copy differs") as refused:
        a_copy(old, new, at=at).run()
    assert refused.value.paths == [b"a b/.c/cache/mod"]
    assert [path.name for path in new.iterdir()] == [STAGING.decode()]
    a_copy(old, new).run()
    assert contents(new) == contents(old)


def test_a_target_without_space_is_refused_before_anything_is_written(
    homes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = homes

    class Full:
        f_bavail, f_frsize = 1, 512

    monkeypatch.setattr(os, "statvfs", lambda _: Full)
    with pytest.raises(CopyError, match="the target has 0 MiB free, and the copy needs 1 MiB"):
        a_copy(old, new).run()
    assert list(new.iterdir()) == []


def killed_at(old: Path, new: Path, number: int) -> str | None:
    """Run the copy in a process that kills itself at that step; the step's name, None when it came to its end."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        count = 0

        def at(step: str) -> None:
            nonlocal count
            if count == number:
                os.write(writer, step.encode())
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

        try:
            a_copy(old, new, at=at).run()
        except BaseException:  # a forked test must not go on
            os._exit(3)
        os._exit(0)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as stream:
        step = stream.read().decode()
    if os.WIFSIGNALED(status):
        return step
    assert os.WEXITSTATUS(status) == 0
    return None


def steps_of(old: Path, new: Path) -> list[str]:
    """The steps of a copy that no one interrupts."""
    steps: list[str] = []
    new.mkdir()
    (new / "mine").write_text("of the target")
    a_copy(old, new, at=steps.append).run()
    return steps


@pytest.mark.parametrize("which", ["the first of its kind", pytest.param("each", marks=pytest.mark.long)])
def test_killed_at_every_step_the_next_run_completes_it(tmp_path: Path, which: str) -> None:
    old = tmp_path / "old"
    old.mkdir()
    fill(old)
    before, done = contents(old), steps_of(old, tmp_path / "new")
    assert set(done) == {
        *("scan", "compare", "stage", "copy", "verify", "journal", "journal is written"),
        *("move", "make folder", "rename", "folder metadata", "clean"),
    }
    for number in range(len(done)) if which == "each" else map(done.index, sorted(set(done))):
        new = tmp_path / f"new-{number}"
        new.mkdir()
        (new / "mine").write_text("of the target")
        assert killed_at(old, new, number) == done[number]
        assert contents(old) == before and (new / "mine").read_text() == "of the target"
        a_copy(old, new).run()
        (new / "mine").unlink()
        assert contents(new) == before, (number, done[number])
        assert contents(old) == before


def test_a_home_that_changed_after_an_interrupted_copy_is_copied_again(tmp_path: Path) -> None:
    """The journal is of another state of the old home: it is not gone on with."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    fill(old)
    number = 0
    while killed_at(old, new, number) != "move":
        number += 1
        for path in new.iterdir():
            os.system(f"chmod -R u+w '{path}' && rm -rf '{path}'")
    (old / "new.txt").write_text("later")
    a_copy(old, new).run()
    assert contents(new) == contents(old)
