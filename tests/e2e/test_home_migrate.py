"""`vdi home migrate` on a real node: a home of 1 GB becomes the home of its user, killed at every step."""

import hashlib
import logging
import os
import re
import signal
import stat
import subprocess
import sys
import time
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from e2e.desktops import home_claim_of, pod_of, reach, start
from e2e.world import NAMESPACE, World
from support.waiting import wait_until
from vdi.home_copy import program
from vdi.home_copy.pod import LABELS, pod_name
from vdi.session.homes import COPYING, MIGRATED_TO
from vdi.session.naming import user_home_claim_name

pytestmark = pytest.mark.timeout(1800)
log = logging.getLogger(__name__)

USER = "mira@example.com"
LABEL = ",".join(f"{key}={value}" for key, value in LABELS.items())

MAKE_FILES = r"""
import os, pathlib
home = pathlib.Path.home() / "work"
home.mkdir()
for number in range(3):
    (home / f"video-{number}.mkv").write_bytes(os.urandom(180 << 20))
for number in range(80):
    (home / f"scan-{number}.tif").write_bytes(os.urandom(6 << 20))
for folder in range(40):
    (home / f"project {folder}" / "src").mkdir(parents=True)
    for number in range(50):
        path = home / f"project {folder}" / "src" / f"{number}.py"
        path.write_bytes(os.urandom(number * 97))
        os.utime(path, ns=(1_500_000_000_123_456_789 + number, 1_500_000_000_987_654_321 + number))
odd = home / "odd names"
odd.mkdir()
for name in (b"caf\xe9", b"new\nline", b"-rf", b"quote'\"$(x)", "\u65e5\u672c".encode(), b"x" * 255, b" ", b".hidden"):
    with open(os.path.join(bytes(odd), name), "wb") as file:
        file.write(name)
for mode in (0o400, 0o444, 0o600, 0o640, 0o755, 0o4755, 0o2775):
    path = home / f"mode-{mode:o}"
    path.write_bytes(b"x")
    path.chmod(mode)
for name, target in {"relative": "../video-0.mkv", "absolute": "/etc/hostname", "loop": "loop", "lost": "x"}.items():
    os.symlink(target, odd / name)
os.link(home / "video-1.mkv", odd / "hard link")
os.mkfifo(home / "pipe")
with open(home / "sparse", "wb") as file:
    file.seek(256 << 20)
    file.write(b"end")
os.setxattr(home / "scan-0.tif", "user.origin", b"scanner")
(home / "empty").mkdir()
(home / "empty").chmod(0o2770)
(home / "read only").mkdir()
(home / "read only" / "file").write_bytes(b"x")
(home / "read only").chmod(0o555)
"""
GIGABYTE, FILES = 10**9, 2000
_WRITES_OF_THE_SWITCH = 3
Contents = dict[str, tuple[object, ...]]
"""By the name of each file: mode, owner, group, time, content, the first of its names, attributes."""

VDI = "import os, signal, sys\nfrom vdi.cli.main import main\n{}\nsys.exit(main())"
KILLED_AT_WRITE = """
from vdi.kube.transport import Client
left = int(sys.argv.pop(1))
def killing(method):
    async def call(*given, **named):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return await method(*given, **named)
    return call
for name in ("create", "patch", "delete"):
    setattr(Client, name, killing(getattr(Client, name)))
"""
"""The command kills itself in place of its write to the API server with this number, from 0."""
PROGRAM_IN_THE_POD = """
from vdi.home_copy import program
program.__file__ = sys.argv.pop(1)
"""
"""The command runs this file in the pod."""
KILLED_WITH_THE_POD = f"""{PROGRAM_IN_THE_POD}
from vdi.home_copy import migrate
async def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)
migrate.reason_of = killed
"""
"""It kills itself too, once that has failed."""
SIGNALS_ITSELF = """
_Copy, _seen = Copy, {{}}

def Copy(*words):
    def at(step):
        _seen[step] = _seen.get(step, 0) + 1
        if step == {step!r} and _seen[step] == {number}:
            os.kill(os.getpid(), {signal})
    return _Copy(*words, at=at)


if __name__"""
STEPS = [
    *(("scan", 1), ("compare", 1), ("compare", 1500), ("stage", 1)),
    *(("copy", 1), ("copy", 90), ("copy", 1000), ("copy", 2100)),
    *(("verify", 1), ("verify", 1500), ("journal", 1), ("journal is written", 1)),
    *(("move", 1), ("make folder", 1), ("make folder", 40), ("rename", 1), ("rename", 60), ("rename", 1500)),
    *(("folder metadata", 1), ("folder metadata", 60), ("clean", 1)),
]
"""The step in the pod and which time it is reached; from `move` on a run goes on where the one before it was killed."""


class Migration:
    """The command on one home, and what is on the disk of the node."""

    def __init__(self, world: World, old: str, folder: Path) -> None:
        self.world, self.old, self.new, self.folder = world, old, user_home_claim_name(USER), folder
        home = self.volume(old)
        assert home
        self.work = home / "work"

    @cached_property
    def before(self) -> Contents:
        """All of the old home that must be the same afterwards."""
        return contents(self.work)

    def words(self) -> list[str]:
        return ["home", "migrate", "--template", "small", "--to", "User", "--user", USER, "-o", "json"]

    def begin(self, before: str = "", *words: str) -> subprocess.Popen[str]:
        """The command, with other code before it."""
        environment = {**os.environ, "KUBECONFIG": str(self.world.kubeconfig), "NO_COLOR": "1"}
        argv = [sys.executable, "-c", VDI.format(before), *words, *self.words()]
        return subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, before: str = "", *words: str) -> tuple[int, str]:
        """Its status and all that it writes."""
        process = self.begin(before, *words)
        out, err = process.communicate()
        return process.returncode, out + err

    def program_stopped_at(self, step: str, number: int, by: signal.Signals = signal.SIGKILL) -> str:
        """A file with the program that sends itself this signal there."""
        source = Path(program.__file__).read_text()
        assert source.count("\nif __name__") == 1
        path = self.folder / "program.py"
        path.write_text(
            source.replace("\nif __name__", SIGNALS_ITSELF.format(step=step, number=number, signal=int(by)))
        )
        return str(path)

    def volume(self, claim: str) -> Path | None:
        """The folder of the claim on the node's disk; None: it has none."""
        found = self.world.get("pvc", claim)
        if found is None or not found["spec"].get("volumeName"):
            return None
        volume = self.world.get("pv", found["spec"]["volumeName"])
        assert volume
        source = volume["spec"].get("hostPath") or volume["spec"]["local"]
        return Path(source["path"])

    def notes(self, claim: str) -> dict[str, str] | None:
        """Annotations of the claim; None: there is no claim."""
        found = self.world.get("pvc", claim)
        return dict(found["metadata"].get("annotations", {})) if found else None

    def pods(self) -> list[dict[str, Any]]:
        """Those that copy homes."""
        return self.world.items("pod", LABEL)

    def is_whole(self) -> bool:
        """Whether the new home has all of the files."""
        home = self.volume(self.new)
        return home is not None and (home / "work").is_dir() and not differences(self.before, contents(home / "work"))

    def check(self, where: object) -> None:
        """The old home is as it was, and the one in use until the new one is whole."""
        assert not differences(self.before, contents(self.work)), where
        notes = self.notes(self.old)
        assert notes is not None, where
        assert MIGRATED_TO not in notes or self.is_whole(), where

    def remove_pod(self) -> None:
        """As the command says after one that was killed."""
        self.world.kubectl("delete", "pod", pod_name(self.old), "--ignore-not-found", "--wait")


def contents(home: Path) -> Contents:
    """All that must be the same afterwards."""
    found: Contents = {}
    first: dict[int, str] = {}
    for path in sorted(home.rglob("*")):
        seen = path.lstat()
        name = os.fsencode(path.relative_to(home)).decode("latin-1")
        what: object = str(path.readlink()) if path.is_symlink() else None
        if stat.S_ISREG(seen.st_mode):
            with path.open("rb") as file:
                what = hashlib.file_digest(file, "sha256").hexdigest()
        attributes = [] if path.is_symlink() else [(key, os.getxattr(path, key)) for key in os.listxattr(path)]
        same = first.setdefault(seen.st_ino, name)
        found[name] = (oct(seen.st_mode), seen.st_uid, seen.st_gid, seen.st_mtime_ns, what, same, attributes)
    return found


def differences(old: Contents, new: Contents) -> dict[str, object]:
    """The first names of which one has something else."""
    different = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    return {name: (old.get(name), new.get(name)) for name in different[:5]}


@pytest.mark.long
def test_a_home_of_a_gigabyte_moves_though_it_is_killed_at_every_step(sessions: World, tmp_path: Path) -> None:
    world = sessions
    start(world, "mira", "small")
    pod = pod_of(world, "mira")
    assert pod
    world.kubectl("exec", "-i", pod["metadata"]["name"], "--", "python3", "-", stdin=MAKE_FILES)
    migration = Migration(world, home_claim_of(world, "mira"), tmp_path)
    status, said = migration.run()
    assert (status, "the session 'mira' uses the home; suspend it first" in said) == (1, True)
    world.vdi("session", "rm", "mira", "--wait", "--yes")
    assert sum(path.lstat().st_size for path in migration.work.rglob("*") if path.is_file()) > GIGABYTE
    assert len(migration.before) > FILES

    an_error_in_the_pod_leaves_nothing_but_the_old_home(migration)
    killed_before_each_of_the_first_writes(migration)
    killed_while_its_pod_goes_on(migration)
    killed_at_each_step_in_the_pod(migration)
    killed_before_each_of_the_last_writes(migration)

    old, new = migration.old, migration.new
    assert migration.is_whole()
    reach(world, "mira", "Running")
    assert home_claim_of(world, "mira") == new != old
    home = migration.volume(new)
    assert home and not (home / ".vdi-migration").exists()
    assert (home / "work/sparse").stat().st_blocks < 1000, "holes stay holes"
    assert not migration.pods()
    assert all(COPYING not in (migration.notes(claim) or {}) for claim in (old, new))
    world.vdi("home", "rm", old, "--yes")
    wait_until("the old home is gone from the disk", lambda: not migration.work.exists())
    assert migration.is_whole()


def an_error_in_the_pod_leaves_nothing_but_the_old_home(migration: Migration) -> None:
    for step, number in (("copy", 1000), ("rename", 1000)):
        status, said = migration.run(PROGRAM_IN_THE_POD, migration.program_stopped_at(step, number))
        assert (status, "the copy in the pod failed" in said) == (1, True), said
        migration.check(step)
        assert COPYING not in (migration.notes(migration.old) or {})
        wait_until("no new home is left", lambda: migration.notes(migration.new) is None)
        wait_until("no pod is left", lambda: not migration.pods())


def killed_before_each_of_the_first_writes(migration: Migration) -> None:
    """The pod, the mark on the old home, the new home."""
    for number in range(3):
        status, said = migration.run(KILLED_AT_WRITE, str(number))
        assert status == -signal.SIGKILL, said
        migration.check(number)
        if number:
            status, said = migration.run()
            command = f"kubectl -n {NAMESPACE} delete pod {pod_name(migration.old)}"
            assert (status, command in said) == (1, True), said
        migration.remove_pod()


def killed_while_its_pod_goes_on(migration: Migration) -> None:
    """The program in the pod is stopped halfway: its speed does not decide what the next run finds."""
    process = migration.begin(PROGRAM_IN_THE_POD, migration.program_stopped_at("copy", 1000, signal.SIGSTOP))

    def is_copying() -> bool:
        home = migration.volume(migration.new)
        staged = home / ".vdi-migration/files/work" if home else None
        return staged is not None and staged.is_dir() and len(list(staged.iterdir())) > 5

    wait_until("files are copied", is_copying, 120)
    process.kill()
    process.communicate()
    migration.check("the copy")
    start(migration.world, "mira", "small", wait=False)
    reach(migration.world, "mira", "Pending", f"The home {migration.old!r} is in use by `vdi home migrate`")
    for claim in (migration.old, migration.new):
        refused = migration.world.vdi("home", "rm", claim, "--yes", check=False)
        assert f"The home {claim!r} is being moved by `vdi home migrate`" in refused
    migration.remove_pod()


def killed_at_each_step_in_the_pod(migration: Migration) -> None:
    """The command too."""
    known = re.findall(r'self\.(?:at|_step)\("([a-z ]+)"', Path(program.__file__).read_text())
    assert {step for step, _ in STEPS} == set(known)
    for step, number in STEPS:
        began = time.monotonic()
        status, said = migration.run(KILLED_WITH_THE_POD, migration.program_stopped_at(step, number))
        assert status == -signal.SIGKILL, (step, number, said)
        log.info("killed at %s %d after %.1f s", step, number, time.monotonic() - began)
        migration.check((step, number))
        assert COPYING in (migration.notes(migration.old) or {})
        migration.remove_pod()


def killed_before_each_of_the_last_writes(migration: Migration) -> None:
    """Until nothing is left to do."""
    for number in count(3):
        began = time.monotonic()
        status, said = migration.run(KILLED_AT_WRITE, str(number))
        log.info("write %d: status %d after %.1f s", number, status, time.monotonic() - began)
        migration.check(number)
        if status == 0:
            assert number > _WRITES_OF_THE_SWITCH
            return
        assert status == -signal.SIGKILL, said
        migration.remove_pod()
