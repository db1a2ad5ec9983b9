"""The parts of a full node that need root: done directly by root, through sudo for everyone else.

`python -m vdi.devcluster.privileged FUNCTION STATE_DIR WORD...` is what sudo runs; it prints its
result as JSON.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import wraps
from pathlib import Path
from urllib.parse import quote, unquote

import vdi
from vdi.devcluster import host, probe
from vdi.devcluster.images.archive import image_names
from vdi.devcluster.layout import ClusterError, Layout
from vdi.devcluster.machine import GIB, KEPT_FREE_BYTES
from vdi.devcluster.processes import find_supervisor, start_supervisor, stop_supervisor

_NAMESPACES = [
    "unshare", "--pid", "--mount", "--net", "--fork", "--kill-child=SIGKILL", "--mount-proc", "--propagation", "slave",
]  # fmt: skip

_KEEP_ALIVE_SECONDS = 60.0
_held = threading.Event()  # set while `rights` lasts, in this process
_FUNCTIONS: dict[str, Callable[..., list[str]]] = {}


@contextlib.contextmanager
def rights(what: str) -> Iterator[None]:
    """Make sure of root, asking for the password at most once, and keep it while the work lasts.

    Inside itself it asks nothing: whoever does several such pieces of work puts one around them
    all. Raises ClusterError when there is no way to become root; `what` says what it is wanted for.
    """
    if os.geteuid() == 0 or _held.is_set():
        yield
        return
    if shutil.which("sudo") is None:
        raise ClusterError(
            f"{what} needs root, but sudo is not installed: run it as root, or use"
            " --control-plane-only"
        )
    print(f"{what} needs root for its last steps; sudo may ask for your password.", file=sys.stderr)  # noqa: T201
    if subprocess.run(["sudo", "-v"]).returncode != 0:
        raise ClusterError(
            f"{what} needs root, but sudo refused: run it as root, or use --control-plane-only"
        )
    done = threading.Event()

    def keep() -> None:
        while not done.wait(_KEEP_ALIVE_SECONDS):
            subprocess.run(
                ["sudo", "-n", "-v"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )

    keeper = threading.Thread(target=keep, daemon=True)
    keeper.start()
    _held.set()
    try:
        yield
    finally:
        _held.clear()
        done.set()
        keeper.join()


def _as_root(function: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """A function that only root may run: for everyone else sudo runs this module with the
    function's name.

    Its words are texts. Raises ClusterError.
    """
    _FUNCTIONS[function.__name__] = function

    @wraps(function)
    def run(layout: Layout, *arguments: object) -> list[str]:
        if os.geteuid() == 0:
            return function(layout, *map(str, arguments))
        source, name = str(Path(vdi.__file__).parents[1]), function.__name__
        python = ["env", f"PYTHONPATH={source}", sys.executable, "-m", "vdi.devcluster.privileged"]
        command = ["sudo", "-n", *python, name, str(layout.root), *map(str, arguments)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        if done.returncode != 0:
            raise ClusterError(f"`{name}` as root failed, see above")
        answer: list[str] = json.loads(done.stdout)
        return answer

    return run


@_as_root
def start(layout: Layout) -> list[str]:
    """Start the node's supervisor in namespaces of its own, with everything it needs of the
    host.
    """
    settings = layout.load()
    if settings is None or settings.networks is None:
        raise ClusterError(f"{layout.root} contains no full node to start")
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


@_as_root
def start_node(layout: Layout, word: str) -> list[str]:
    """Start a further node of a running cluster, and join it to the network, if its supervisor runs
    or not.
    """
    number, settings, first = int(word), layout.load(), find_supervisor(layout)
    if settings is None or first is None:
        raise ClusterError(
            f"cluster {layout.name!r} is not running, and node {word} cannot start without it"
        )
    node = layout.of_node(number)
    if find_supervisor(node) is None:
        host.prepare_node(node, probe.cgroup_mounts())
        start_supervisor(
            node,
            # In the process namespace of the first node: when that ends, however it ends, this one
            # ends with it.
            namespaces=["nsenter", "--target", str(first.main.pid), "--pid", *_NAMESPACES],
            prepare=lambda pid: host.connect_node(settings, number, first.main.pid, pid),
        )
    else:
        host.join_network(settings, number, first.main.pid)
    node.network_cut.unlink(missing_ok=True)
    return []


@_as_root
def stop_node(layout: Layout, word: str) -> list[str]:
    """End all processes of a further node at once, as a power cut does; its data stays."""
    stop_supervisor(layout.of_node(int(word)), at_once=True)
    return []


@_as_root
def cut_node(layout: Layout, word: str) -> list[str]:
    """Cut the network of a further node; its processes go on."""
    first = find_supervisor(layout)
    if first is None:
        raise ClusterError(f"cluster {layout.name!r} is not running, so there is no network to cut")
    host.cut_network(int(word), first.main.pid)
    layout.of_node(int(word)).network_cut.touch()
    return []


@_as_root
def stop(layout: Layout) -> list[str]:
    """Stop the node's processes; its data stays."""
    if stop_supervisor(layout):
        return ["the processes and their namespaces"]
    return []


@_as_root
def remove(layout: Layout) -> list[str]:
    """Stop the node and remove it from the host, its folder included; says what was removed."""
    return stop(layout) + host.clean(layout, probe.cgroup_mounts())


@_as_root
def import_images(layout: Layout, ctr: str, *tars: str) -> list[str]:
    """Import image archives into the first node's containerd; says which were new.

    Each archive that was imported is remembered by size and time, so that coming again costs
    nothing.

    Imported again is also one whose image is gone: the kubelet deletes images of a disk that is
    nearly full.
    """
    memory = _imported(layout)
    memory.mkdir(exist_ok=True)
    images = _images(layout, ctr)
    present = host.run(*images, "list", "--quiet").split()
    new = []
    for tar in tars:
        note = memory / quote(tar, safe="")
        names, mark = image_names(Path(tar)), _mark(Path(tar))
        is_known = note.exists() and note.read_text().splitlines()[:1] == [mark]
        if is_known and all(_find(name, present) for name in names):
            continue
        require_room(Path(tar), shutil.disk_usage(layout.node).free)
        host.run(*images, "import", tar)
        note.write_text("\n".join([mark, *names]))
        new.append(tar)
    return new


def _images(layout: Layout, ctr: str) -> tuple[str, ...]:
    return ctr, "--address", f"{layout.run}/containerd.sock", "--namespace", "k8s.io", "images"


def _find(name: str, present: Iterable[str]) -> str | None:
    """containerd completes a name in an archive with the registry: `redis:7` is
    `docker.io/library/redis:7`.
    """
    return next((known for known in present if known == name or known.endswith(f"/{name}")), None)


def require_room(tar: Path, free: int) -> None:
    """Raises ClusterError when an archive, which lies there packed and unpacked, leaves the kubelet
    too little disk.
    """
    size = tar.stat().st_size
    if free < 2 * size + KEPT_FREE_BYTES:
        raise ClusterError(
            f"the image in {tar} needs {2 * size / GIB:.1f} GiB of disk, and {free / GIB:.1f} GiB"
            f" are free, of which {KEPT_FREE_BYTES / GIB:.0f} must stay free: with less the kubelet"
            " deletes images. Free some space: `vdi cluster down` removes a cluster with its"
            " images, and ~/.cache/vdi can be deleted and is made again"
        )


@_as_root
def copy_images(layout: Layout, word: str, ctr: str) -> list[str]:
    """Import the first node's images into a further one; says which were new.

    From the archives, or, where the cache has another one by now, from the first node itself.
    """
    node = layout.of_node(int(word))
    unchanged: list[str] = []
    all_names: list[str] = []
    for note in _imported(layout).iterdir():
        # Empty, if the machine went off while it was written.
        mark, *names = note.read_text().splitlines() or [""]
        all_names += names
        tar = Path(unquote(note.name))
        if tar.exists() and _mark(tar) == mark:
            unchanged.append(str(tar))
    new = import_images(node, ctr, *unchanged)
    new += _copy_from_first(layout, node, ctr, all_names)
    node.images_loaded.touch()
    return new


def _copy_from_first(layout: Layout, node: Layout, ctr: str, names: Sequence[str]) -> list[str]:
    """Of these images those that the first node has and the other one lacks; says which."""
    first, other = (host.run(*_images(at, ctr), "list", "--quiet").split() for at in (layout, node))
    copied: list[str] = []
    for name in names:
        known = _find(name, first)
        if known and not _find(name, (*other, *copied)):
            with tempfile.TemporaryDirectory(dir=node.node) as folder:
                host.run(*_images(layout, ctr), "export", f"{folder}/exported.tar", known)
                require_room(Path(folder, "exported.tar"), shutil.disk_usage(node.node).free)
                host.run(*_images(node, ctr), "import", f"{folder}/exported.tar")
            copied.append(known)
    return copied


def _imported(layout: Layout) -> Path:
    return layout.node / "images"


def _mark(tar: Path) -> str:
    seen = tar.stat()
    return f"{seen.st_size} {seen.st_mtime_ns}"


if __name__ == "__main__":
    try:
        print(json.dumps(_FUNCTIONS[sys.argv[1]](Layout(Path(sys.argv[2])), *sys.argv[3:])))  # noqa: T201 - for the caller
    except ClusterError as error:
        sys.exit(f"vdi cluster: {error}")
