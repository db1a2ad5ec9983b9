"""The files of a cluster: one folder per cluster, with the settings chosen when it was created.

The settings stay the same over every `up` of a cluster, so that kubeconfigs, addresses and URLs
stay good.
"""

import contextlib
import errno
import fcntl
import os
import pwd
import random
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vdi.devcluster.networks import Networks

_NAME = re.compile(r"[a-z][a-z0-9-]{0,9}(?<!-)")
# Ports that `free_ports` chooses.
_LISTENING = (20_000, 32_000)


class ClusterError(Exception):
    """Raised when a cluster cannot be brought up, found or taken down; says what to do about it."""


class ClusterSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a cluster, chosen when it was created. Ports are of the host, 0 for none."""

    name: str
    control_plane_only: bool
    fake_gpus: int
    api_host: str
    api_port: int
    etcd_port: int
    etcd_peer_port: int
    websecure_port: int = 0
    networks: Networks | None = None
    # How many nodes a full cluster has; the first one runs the control plane.
    nodes: int = 1

    @property
    def server(self) -> str:
        return f"https://{self.api_host}:{self.api_port}"

    @property
    def node_networks(self) -> Networks:
        """The networks of a cluster that has nodes. Raises ClusterError where there is only a
        control plane.
        """
        if self.networks is None:
            raise ClusterError(f"cluster {self.name} is a control plane without nodes")
        return self.networks

    @property
    def node_name(self) -> str:
        """The first node's name in the cluster."""
        return self.name_of(1)

    @property
    def node_numbers(self) -> range:
        """The numbers of all nodes, from 1; none where there is only a control plane."""
        return range(1, 1 if self.control_plane_only else self.nodes + 1)

    def name_of(self, number: int) -> str:
        if number == 1:
            return f"vdi-{self.name}"
        return f"vdi-{self.name}-{number}"


@dataclass(frozen=True)
class _File:
    """A file or folder of a cluster or node, by its path below the root."""

    path: str

    def __get__(self, layout: "Layout", _: type) -> Path:
        return layout.root / self.path


@dataclass(frozen=True)
class Layout:
    """The files of one cluster and of its first node; those of a further node are in a folder of
    its own.
    """

    root: Path
    # Of a further node: the files of its cluster.
    cluster: "Layout | None" = None
    # Which node's files these are.
    number: int = 1

    settings_file = _File("cluster.json")
    # Components that the supervisor runs.
    spec = _File("spec.json")
    # State of each component, written by the supervisor.
    status = _File("status.json")
    # Process id of the supervisor.
    supervisor = _File("supervisor.json")
    logs = _File("logs")
    kubeconfig = _File("kubeconfig")
    etcd = _File("etcd")
    # Generated configuration of the components, their kubeconfigs too.
    config = _File("config")
    # There once the add-ons' kinds and rights are: Traefik is started then, not to stumble over
    # their absence.
    addons_applied = _File("addons-applied")
    # Data of containerd, kubelet and pods (root's); paths of at most a few characters below it.
    node = _File("node")
    # There once nothing has to wait for the node's images: what does is started then. That is a
    # further node's kubelet and, on a slow machine, the control plane.
    images_loaded = _File("images-loaded")
    # There while the node's network is cut.
    network_cut = _File("network-cut")
    # Folder of the volumes of class `local-path` on this node's disk.
    volumes = _File("node/volumes")

    @property
    def name(self) -> str:
        """The cluster's name is its folder's."""
        if self.cluster:
            return self.cluster.name
        return self.root.name

    @property
    def pki(self) -> Path:
        """Keys and certificates of the whole cluster."""
        if self.cluster:
            return self.cluster.pki
        return self.root / "pki"

    @property
    def run(self) -> Path:
        """Sockets of a full node: short, because a socket's path has at most 107 characters."""
        if self.cluster:
            return self.cluster.run / f"node-{self.number}"
        return Path("/run") / f"vdi-{self.name}"

    @property
    def cgroup(self) -> str:
        """The node's cgroup, in each hierarchy; those of the further nodes are in that of the
        cluster.
        """
        if self.cluster:
            return f"{self.cluster.cgroup}/node-{self.number}"
        return f"vdi-{self.name}"

    def of_node(self, number: int) -> "Layout":
        if number == 1:
            return self
        return Layout(self.root / "nodes" / str(number), self, number)

    def certificate(self, component: str) -> str:
        """The name that this node's certificate for a component has among the cluster's."""
        if self.number == 1:
            return component
        return f"{component}-{self.number}"

    def component_kubeconfig(self, component: str) -> Path:
        return self.config / f"{component}.kubeconfig"

    def load(self) -> ClusterSettings | None:
        """The cluster's settings, or None when there is no such cluster (or only remains of
        one).
        """
        try:
            return msgspec.json.decode(self.settings_file.read_bytes(), type=ClusterSettings)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def save(self, settings: ClusterSettings) -> None:
        write_private(
            self.settings_file,
            msgspec.json.format(msgspec.json.encode(settings), indent=1),
            mode=0o644,
        )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the cluster against a second `up` or `down`. Raises ClusterError when another one is
        at work.
        """
        new = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in new:
            give_to_invoker(folder)
        handle = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ClusterError(
                    f"another `vdi cluster` command is running for cluster {self.name!r}; try again"
                    " when it has ended"
                ) from error
            yield
        finally:
            os.close(handle)


def invoking_user() -> pwd.struct_passwd:
    """Owner of the cluster: under sudo, the person who typed the command."""
    uid = os.getuid()
    return pwd.getpwuid(
        int(os.environ["SUDO_UID"]) if uid == 0 and "SUDO_UID" in os.environ else uid
    )


def give_to_invoker(path: Path) -> None:
    """Under sudo, what a person is to read is theirs and not root's."""
    if os.geteuid() == 0:
        user = invoking_user()
        os.chown(path, user.pw_uid, user.pw_gid)


def state_root() -> Path:
    """The folder of all clusters: VDI_STATE, else XDG_STATE_HOME/vdi, else ~/.local/state/vdi of
    the invoking user.
    """
    if chosen := os.environ.get("VDI_STATE"):
        return Path(chosen).absolute()
    if base := os.environ.get("XDG_STATE_HOME"):
        return Path(base) / "vdi"
    return Path(invoking_user().pw_dir) / ".local" / "state" / "vdi"


def layout_of(name: str) -> Layout:
    """Folder of cluster `name`. Raises ClusterError for a name that is not allowed."""
    if not _NAME.fullmatch(name):
        raise ClusterError(
            f"name {name!r}: allowed: 1 to 10 of a-z, 0-9 and -, beginning with a letter, not"
            " ending with - (links and cgroups are named after it)"
        )
    return Layout(state_root() / name)


def write_private(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file in one step, readable as `mode` says from its first moment."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:  # noqa: PTH123 - mode at creation
        file.write(content)
    partial.replace(path)


def free_ports(count: int, requested: int = 0) -> list[int]:
    """Different free TCP ports of the loopback address; the first is `requested` if that is
    free.

    Below 32768, where Linux begins to give ports to connections: one of those could have the port
    before the program begins to listen there.
    """
    ports: list[int] = []
    with contextlib.ExitStack() as held:
        if requested:
            with contextlib.suppress(OSError):
                _bind(held, requested)
                ports.append(requested)
        while len(ports) < count:
            port = random.randrange(*_LISTENING)  # noqa: S311 - no secret
            if port in ports:  # two sockets that do not listen may be bound to one
                continue
            try:
                _bind(held, port)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                ports.append(port)
    return ports


def _bind(held: contextlib.ExitStack, port: int) -> None:
    probe = held.enter_context(socket.socket())
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    probe.bind(("127.0.0.1", port))
