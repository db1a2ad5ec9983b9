"""The parts of a full node that need root: done directly by root, through sudo for everyone else.

`python -m vdi.devcluster.privileged VERB STATE_DIR WORD...` is what sudo runs; it prints its result as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import vdi
from vdi.devcluster import host, probe
from vdi.devcluster.layout import ClusterError, Layout
from vdi.devcluster.processes import start_supervisor, stop_supervisor

_NAMESPACES = [
    "unshare", "--pid", "--mount", "--net", "--fork", "--kill-child=SIGKILL", "--mount-proc", "--propagation", "slave",
]  # fmt: skip

_KEEP_ALIVE_SECONDS = 60.0
_held = threading.Event()  # set while `rights` lasts, in this process


@contextlib.contextmanager
def rights(what: str) -> Iterator[None]:
    """Make sure of root, asking for the password at most once, and keep it while the work lasts.

    Inside itself it asks nothing: whoever does several such pieces of work puts one around them all. Raises
    ClusterError when there is no way to become root; `what` says what it is wanted for.
    """
    if os.geteuid() == 0 or _held.is_set():
        yield
        return
    if shutil.which("sudo") is None:
        raise ClusterError(f"{what} needs root, and there is no sudo here: run it as root, or use --control-plane-only")
    print(f"{what} needs root for its last steps; sudo may ask for your password.", file=sys.stderr)  # noqa: T201
    if subprocess.run(["sudo", "-v"]).returncode != 0:
        raise ClusterError(f"{what} needs root, and sudo refused: run it as root, or use --control-plane-only")
    done = threading.Event()

    def keep() -> None:
        while not done.wait(_KEEP_ALIVE_SECONDS):
            subprocess.run(["sudo", "-n", "-v"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    keeper = threading.Thread(target=keep, daemon=True)
    keeper.start()
    _held.set()
    try:
        yield
    finally:
        _held.clear()
        done.set()
        keeper.join()


def start(layout: Layout) -> None:
    """Start the node's supervisor in namespaces of its own, with everything it needs of the host."""
    _call("start", layout)


def stop(layout: Layout) -> None:
    """Stop the node's processes; its data stays."""
    _call("stop", layout)


def remove(layout: Layout) -> list[str]:
    """Stop the node and remove it from the host, its folder included; says what was removed."""
    return _call("remove", layout)


def import_images(layout: Layout, ctr: Path, tars: Sequence[Path]) -> list[str]:
    """Import image archives into the node's containerd; says which were new."""
    return _call("import", layout, str(ctr), *map(str, tars))


def _call(verb: str, layout: Layout, *words: str) -> list[str]:
    if os.geteuid() == 0:
        return _VERBS[verb](layout, *words)
    source = str(Path(vdi.__file__).parents[1])
    command = ["env", f"PYTHONPATH={source}", sys.executable, "-m", "vdi.devcluster.privileged", verb, str(layout.root)]
    done = subprocess.run(["sudo", "-n", *command, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    if done.returncode != 0:
        raise ClusterError(f"`{verb}` as root failed, see above")
    answer: list[str] = json.loads(done.stdout)
    return answer


def _start(layout: Layout) -> list[str]:
    settings = layout.load()
    if settings is None or settings.networks is None:
        raise ClusterError(f"{layout.root} holds no full node to start")
    listener = host.listen(settings)
    with listener:
        host.prepare(layout, settings, probe.cgroup_mounts())
        start_supervisor(
            layout,
            namespaces=_NAMESPACES,
            listener=listener,
            prepare=lambda pid: host.connect(settings, pid),
        )
    return []


def _stop(layout: Layout) -> list[str]:
    return ["the processes and their namespaces"] if stop_supervisor(layout) else []


def _remove(layout: Layout) -> list[str]:
    return _stop(layout) + host.clean(layout, probe.cgroup_mounts())


def _import(layout: Layout, ctr: str, *tars: str) -> list[str]:
    """Remembers each archive that was imported, by size and time, so that coming again costs nothing."""
    memory = layout.node / "images"
    memory.mkdir(exist_ok=True)
    new = []
    for tar in tars:
        seen = Path(tar).stat()
        mark, note = f"{seen.st_size} {seen.st_mtime_ns}", memory / quote(tar, safe="")
        if not note.exists() or note.read_text() != mark:
            host.run(
                ctr, "--address", f"{layout.run}/containerd.sock", "--namespace", "k8s.io", "images", "import", tar
            )
            note.write_text(mark)
            new.append(tar)
    return new


_VERBS: dict[str, Callable[..., list[str]]] = {
    "start": _start,
    "stop": _stop,
    "remove": _remove,
    "import": _import,
}


if __name__ == "__main__":
    try:
        print(json.dumps(_VERBS[sys.argv[1]](Layout(Path(sys.argv[2])), *sys.argv[3:])))  # noqa: T201 - for the caller
    except ClusterError as error:
        sys.exit(f"vdi cluster: {error}")
