"""A real Kubernetes cluster on this machine: up, down, status, images. For the command line, the
demo and the tests.

`control_plane_only` runs etcd, API server, controller manager and scheduler on the loopback
address, as any user. The full node needs root and lives in namespaces of its own.
"""

import contextlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from vdi.devcluster import binaries, images, privileged, probe, starting
from vdi.devcluster.binaries import packages
from vdi.devcluster.control_plane import CONTROL_PLANE_BINARIES
from vdi.devcluster.layout import ClusterError, ClusterSettings, Layout, layout_of
from vdi.devcluster.machine import TOOLS, explain_missing_tools
from vdi.devcluster.networks import MAX_NODES
from vdi.devcluster.node import NODE_BINARIES
from vdi.devcluster.processes import find_supervisor, start_supervisor, stop_supervisor
from vdi.devcluster.progress import Progress
from vdi.devcluster.starting import apply_addons
from vdi.devcluster.status import ClusterStatus, status_of


@dataclass(frozen=True)
class Cluster:
    """A running cluster, as callers see it."""

    name: str
    kubeconfig: Path
    # The API server's URL.
    server: str
    # Where Traefik takes HTTPS on 127.0.0.1; 0 without a node.
    websecure_port: int
    state_dir: Path
    control_plane_only: bool
    fake_gpus: int
    nodes: Sequence[str]
    # True when there was nothing to start.
    was_running: bool

    @property
    def web_ca(self) -> Path:
        """The authority behind the desktops' certificate: what a browser has to trust. Only with a
        node.
        """
        return self.state_dir / "pki" / "web-ca.crt"


def up(
    name: str = "demo",
    *,
    control_plane_only: bool = False,
    fake_gpus: int | None = None,
    nodes: int | None = None,
    install_packages: bool = False,
    image_archives: Sequence[Path] = (),
    timeout_factor: float = 1.0,
    progress: Progress,
) -> Cluster:
    """Bring cluster `name` up, or say that it is. Raises ClusterError, StepFailed,
    BinaryUnavailable.

    An existing cluster is started as it was made; `control_plane_only`, `fake_gpus` (of each node)
    and `nodes` may not contradict that. `image_archives` (docker-archive) are loaded into the
    nodes, into the first one while the add-ons start. `timeout_factor` (at least 1) multiplies the
    time limits, for a slow machine. An interrupted first start leaves nothing behind; one that
    failed leaves its logs.
    """
    layout = layout_of(name)
    choose_kind = partial(
        starting.choose_kind,
        name,
        control_plane_only=control_plane_only,
        fake_gpus=fake_gpus,
        nodes=nodes,
    )
    with _rights(choose_kind(layout.load()).control_plane_only, "A full node"), layout.locked():
        known = layout.load()  # again: sudo may have waited long for a password
        kind = choose_kind(known)
        was_running = known is not None and find_supervisor(layout) is not None
        try:
            if not kind.control_plane_only:
                _have_tools(install=install_packages, progress=progress)
            settings = _bring_up(layout, known, kind, image_archives, timeout_factor, progress)
        except BaseException as error:
            begun = layout.settings_file.exists()
            if known is None and (isinstance(error, KeyboardInterrupt) or not begun):
                _take_down(layout, node=begun and not kind.control_plane_only)
            elif not was_running:
                _stop(layout, node=not kind.control_plane_only)
            raise
    return Cluster(
        name=name,
        kubeconfig=layout.kubeconfig,
        server=settings.server,
        websecure_port=settings.websecure_port,
        state_dir=layout.root,
        control_plane_only=settings.control_plane_only,
        fake_gpus=settings.fake_gpus,
        nodes=[settings.name_of(number) for number in settings.node_numbers],
        was_running=was_running,
    )


def down(name: str = "demo") -> list[str]:
    """Stop cluster `name` and remove all it had, however broken it is. Says what was removed.
    Raises ClusterError.
    """
    layout = layout_of(name)
    if not layout.root.exists() and not host_remains(layout) and find_supervisor(layout) is None:
        return []
    known = layout.load()
    if known:
        control_plane_only = known.control_plane_only
    else:
        control_plane_only = not host_remains(layout)
    with _rights(control_plane_only, "Stopping a full node"), layout.locked():
        return _take_down(layout, node=not control_plane_only)


def status(name: str = "demo") -> ClusterStatus:
    """Current status of cluster `name`. Raises ClusterError for a name that is not allowed."""
    layout = layout_of(name)
    return status_of(layout, layout.load())


def add_node(name: str, *, progress: Progress) -> str:
    """Add a node to the running cluster `name`; returns the node's name. Raises ClusterError,
    StepFailed.
    """
    layout = layout_of(name)
    _running(layout)
    with _rights(False, "Another node"), layout.locked():
        settings = _running(layout)
        if settings.nodes == MAX_NODES:
            raise ClusterError(f"cluster {name!r} has {MAX_NODES} nodes, the maximum")
        settings = msgspec.structs.replace(settings, nodes=settings.nodes + 1)
        programs = binaries.ensure([*CONTROL_PLANE_BINARIES, *NODE_BINARIES], progress=progress)
        layout.save(settings)
        _bring_up_node(layout, settings, settings.nodes, programs, 1.0, progress)
    return settings.name_of(settings.nodes)


def start_node(name: str, node: str, *, progress: Progress) -> None:
    """Start a node that was stopped, and join one whose network was cut. Raises ClusterError,
    StepFailed.
    """
    layout = layout_of(name)
    number = _further_node(_running(layout), node)
    with _rights(False, "Starting a node"), layout.locked():
        programs = binaries.ensure([*CONTROL_PLANE_BINARIES, *NODE_BINARIES], progress=progress)
        _bring_up_node(layout, _running(layout), number, programs, 1.0, progress)


def stop_node(name: str, node: str) -> None:
    """End all processes of a node, its pods too, at once, as a power cut does. Raises
    ClusterError.
    """
    layout = layout_of(name)
    number = _further_node(_running(layout), node)
    with _rights(False, "Stopping a node"), layout.locked():
        privileged.stop_node(layout, number)


def cut_node(name: str, node: str) -> None:
    """Cut the network of a node; its pods go on. Raises ClusterError, also for a node that is
    stopped.
    """
    layout = layout_of(name)
    number = _further_node(_running(layout), node)
    if find_supervisor(layout.of_node(number)) is None:
        raise ClusterError(
            f"node {node!r} is stopped: `vdi cluster nodes --name {name} --start-node {node}`"
            " starts it"
        )
    with _rights(False, "Cutting a node's network"), layout.locked():
        privileged.cut_node(layout, number)


def _running(layout: Layout) -> ClusterSettings:
    settings = layout.load()
    if settings is None or find_supervisor(layout) is None:
        raise ClusterError(
            f"cluster {layout.name!r} is not running: `vdi cluster up --name {layout.name}`"
            " starts it"
        )
    if settings.control_plane_only:
        raise ClusterError(
            f"cluster {layout.name!r} was made with --control-plane-only: it has no nodes"
        )
    return settings


def _further_node(settings: ClusterSettings, node: str) -> int:
    names = {settings.name_of(number): number for number in settings.node_numbers[1:]}
    if node in names:
        return names[node]
    allowed = "`vdi cluster nodes --add-node` adds a node"
    if names:
        allowed = f"allowed: {', '.join(names)}"
    if node == settings.node_name:
        raise ClusterError(
            f"node {node!r} runs the control plane, without which nothing can be seen; {allowed}"
        )
    raise ClusterError(f"cluster {settings.name!r} has no node {node!r}; {allowed}")


def host_remains(layout: Layout) -> bool:
    """Whether the host still has something of a full node of this name."""
    cgroups = [Path(mount.path) / f"vdi-{layout.name}" for mount in probe.cgroup_mounts()]
    return any(
        path.exists() for path in (layout.run, Path(f"/sys/class/net/vdi-{layout.name}"), *cgroups)
    )


def _bring_up(
    layout: Layout,
    known: ClusterSettings | None,
    kind: starting.Kind,
    more_images: Sequence[Path],
    timeout_factor: float,
    progress: Progress,
) -> ClusterSettings:
    names = [*CONTROL_PLANE_BINARIES, "traefik-crds.yaml"]
    if not kind.control_plane_only:
        names += NODE_BINARIES
    programs = binaries.ensure(names, progress=progress)
    addons: list[Path] = []
    if not kind.control_plane_only:
        addons = [
            *images.ensure_addons(programs, progress=progress),
            images.ensure_base(progress=progress),
        ]
    if known and find_supervisor(layout):
        settings = known
    else:
        settings = starting.choose_settings(layout.name, known, kind)
    # A control plane leaves a slow machine too little: beside it, images took five times as long in
    # an emulated one.
    is_slow = timeout_factor > 1
    images_first = is_slow and not settings.control_plane_only
    if find_supervisor(layout) is None:
        with progress.step("Start the cluster's processes"):
            starting.write_files(layout, settings, programs, is_slow=is_slow)
            start_supervisor(layout) if settings.control_plane_only else privileged.start(layout)

    def load(title: str, archives: Sequence[Path]) -> None:
        if archives:
            with progress.step(title):
                privileged.import_images(layout, programs["ctr"], *archives)

    load_addons: Callable[[], None] = partial(load, "Load the add-ons' images", addons)
    # One job each: an import keeps one core busy.
    load_others: list[Callable[[], None]] = [
        partial(load, f"Load {archive.parent.name}", [archive]) for archive in more_images
    ]

    def wait_running(title: str, *only: str) -> None:
        with progress.step(title) as step:
            starting.wait_running(layout, step, only=only, timeout_factor=timeout_factor)

    def settle() -> None:
        if not images_first:
            load_addons()
        _settle(layout, settings, programs, timeout_factor, progress)

    if images_first:
        wait_running("Wait for containerd", "containerd")
        progress.side_by_side([load_addons, *load_others])
    layout.images_loaded.touch()  # without a node, or where an `up` was killed, the control plane waits for it too
    wait_running("Wait for the processes")
    progress.side_by_side([settle] if images_first else [settle, *load_others])
    for number in settings.node_numbers[1:]:
        _bring_up_node(layout, settings, number, programs, timeout_factor, progress)
    return settings


def _bring_up_node(
    layout: Layout,
    settings: ClusterSettings,
    number: int,
    programs: Mapping[str, Path],
    timeout_factor: float,
    progress: Progress,
) -> None:
    """Start a further node, or repair it: its processes, its network, its images."""
    node, name = layout.of_node(number), settings.name_of(number)
    with progress.step(f"Start node {name}") as step:
        if find_supervisor(node) is None:
            starting.write_node_files(node, settings, programs, is_slow=timeout_factor > 1)
        privileged.start_node(layout, number)
        starting.wait_running(node, step, timeout_factor=timeout_factor)
    with progress.step(f"Load the images into node {name}"):
        privileged.copy_images(layout, number, programs["ctr"])
    with progress.step(f"Wait for node {name}") as step:
        starting.wait_running(node, step, timeout_factor=timeout_factor)
        starting.wait_node(node, settings, step, timeout_factor=timeout_factor)


def _settle(
    layout: Layout,
    settings: ClusterSettings,
    programs: Mapping[str, Path],
    timeout_factor: float,
    progress: Progress,
) -> None:
    with progress.step(
        "Apply the add-ons" if settings.networks else "Apply Traefik's CRDs"
    ) as step:
        starting.wait_pods_allowed(layout, settings, step, timeout_factor=timeout_factor)
        apply_addons(step, layout, settings, programs)
    if settings.networks:
        with progress.step("Wait for the node and the add-ons") as step:
            starting.wait_running(layout, step, timeout_factor=timeout_factor)
            starting.wait_node(layout, settings, step, timeout_factor=timeout_factor)


def _rights(control_plane_only: bool, what: str) -> contextlib.AbstractContextManager[None]:
    if control_plane_only:
        return contextlib.nullcontext()
    return privileged.rights(what)


def _have_tools(*, install: bool, progress: Progress) -> None:
    missing = probe.missing_tools()
    if missing and install:
        with progress.step(f"Install what the node needs: {', '.join(missing)}") as step:
            packages.install(step, sorted({TOOLS[tool] for tool in missing}))
        missing = probe.missing_tools()
    if missing:
        raise ClusterError(explain_missing_tools(missing))


def _stop(layout: Layout, *, node: bool) -> None:
    if node:
        privileged.stop(layout)
    else:
        stop_supervisor(layout)


def _take_down(layout: Layout, *, node: bool) -> list[str]:
    if node:
        return privileged.remove(layout)
    try:
        removed = ["the processes"] if stop_supervisor(layout) else []
        if layout.root.exists():
            shutil.rmtree(layout.root)
            removed.append(f"the folder {layout.root}")
    except PermissionError as error:
        raise ClusterError(
            f"cluster {layout.name!r} was started by root: `sudo vdi cluster down --name"
            f" {layout.name}`"
        ) from error
    return removed
