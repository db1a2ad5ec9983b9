"""Changes to the host for a full node (cgroups, link, packet rules, forwarding), and their removal.
Root only.

Everything on the host carries the cluster's name (link, cgroup, rules' comment, /run folder), so
that it is found again even when the cluster's own files are broken. What was changed rather than
added is noted beforehand, once for all clusters of the machine: the last one to go puts it back,
for the others still need it.
"""

import contextlib
import itertools
import os
import shlex
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_network
from pathlib import Path

import msgspec

from vdi.devcluster.layout import ClusterError, ClusterSettings, Layout
from vdi.devcluster.machine import CgroupMount
from vdi.devcluster.node import host_folders
from vdi.devcluster.probe import SYSTEM_PATH, routes

_IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
_SHARED_NOTES = Path("/run/vdi-host.json")


class HostNotes(msgspec.Struct):
    """Settings that `clean` restores. Each has a copy: /run is lost when the machine restarts."""

    # Its value before.
    ip_forward: str
    # Mount points that were not there before.
    made_folders: list[str]
    # Packet filter tables that were there before.
    tables: list[str]


def link_name(name: str) -> str:
    """The host's end of the link; a cluster's name has at most 10 characters, a link's 15."""
    return f"vdi-{name}"


def node_link(number: int) -> str:
    """The end of a further node's link that is in the network namespace of the first node."""
    return f"node-{number}"


def run(*argv: str, check: bool = True) -> str:
    """Run one of the system's tools and return its output. Raises ClusterError with its words."""
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={"PATH": SYSTEM_PATH, "LC_ALL": "C"},
    )
    if check and done.returncode != 0:
        raise ClusterError(
            f"`{shlex.join(argv)}` ended with status {done.returncode}: {done.stderr.strip()}"
        )
    return done.stdout


def prepare(layout: Layout, settings: ClusterSettings, cgroups: Iterable[CgroupMount]) -> None:
    """Make folders, cgroups and packet rules. No process of the cluster may run.

    As after a machine's restart: sockets, leased addresses and cgroups of an earlier run go, its
    data stays.
    """
    _remove_tree(layout.run)
    _remove_tree(layout.node / "cni")
    _make_node_folders(layout)
    _take_notes(layout)
    for theirs in host_folders(layout):
        Path(theirs).mkdir(parents=True, exist_ok=True)
    _make_cgroups(layout, cgroups)
    remove_rules(settings.name)
    for argv in rules(settings):
        run(*argv)
    _IP_FORWARD.write_text("1")


def prepare_node(layout: Layout, cgroups: Iterable[CgroupMount]) -> None:
    """Make folders and cgroups of a further node. None of its processes may run; the first node
    runs.
    """
    _remove_tree(layout.run)
    _remove_tree(layout.node / "cni")
    _make_node_folders(layout)
    _make_cgroups(layout, cgroups)


def _make_node_folders(layout: Layout) -> None:
    # A container in a user namespace passes through the runtime's folder to its own root as an
    # ordinary user. A folder that may be passed but not listed shows others nothing, and the
    # sockets in it have modes of their own.
    layout.run.mkdir(mode=0o711, parents=True, exist_ok=True)
    for ours in (layout.node, *host_folders(layout).values()):
        ours.mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in (layout.node / "kubelet", layout.volumes):
        folder.mkdir(mode=0o755, exist_ok=True)


def _make_cgroups(layout: Layout, cgroups: Iterable[CgroupMount]) -> None:
    for mount in cgroups:
        _remove_cgroup(Path(mount.path) / layout.cgroup)
        make_cgroup(mount, layout.cgroup)


def _take_notes(layout: Layout) -> None:
    file = layout.root / "host.json"
    if _SHARED_NOTES.exists() and not file.exists():
        shutil.copyfile(_SHARED_NOTES, file)
    if file.exists():
        shutil.copyfile(file, _SHARED_NOTES)
        return
    made: list[str] = []
    for folder in host_folders(layout):
        made += map(str, _absent(Path(folder)))
    tables = []
    for line in run("iptables-save").splitlines():
        if line.startswith("*"):
            tables.append(line[1:])
    notes = HostNotes(ip_forward=_IP_FORWARD.read_text().strip(), made_folders=made, tables=tables)
    for target in (file, _SHARED_NOTES):
        target.write_bytes(msgspec.json.encode(notes))


def _absent(path: Path) -> list[Path]:
    if path.exists():
        return []
    return [*_absent(path.parent), path]


def rules(settings: ClusterSettings) -> list[list[str]]:
    """The node's way out: its one address is masqueraded, and what it began may come back."""
    link, tag = link_name(settings.name), ["-m", "comment", "--comment", f"vdi-{settings.name}"]
    source = f"{settings.node_networks.node_address}/32"
    back = ["-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED"]
    iptables = ["iptables", "-w", "10"]
    return [
        [
            *iptables,
            "-t",
            "nat",
            "-A",
            "POSTROUTING",
            "-s",
            source,
            "!",
            "-o",
            link,
            *tag,
            "-j",
            "MASQUERADE",
        ],
        [*iptables, "-t", "filter", "-I", "FORWARD", "-i", link, *tag, "-j", "ACCEPT"],
        [*iptables, "-t", "filter", "-I", "FORWARD", "-o", link, *back, *tag, "-j", "ACCEPT"],
    ]


def rules_of(saved: str, name: str) -> list[tuple[str, list[str]]]:
    """From `iptables-save`: (table, rule without its -A) of every rule with the cluster's
    comment.
    """
    table, rules_found = "", []
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith("-A "):
            options = shlex.split(line)
            if ("--comment", f"vdi-{name}") in itertools.pairwise(options):
                rules_found.append((table, options[1:]))
    return rules_found


def remove_rules(name: str) -> int:
    """Take the cluster's packet rules away; how many there were."""
    if shutil.which("iptables-save", path=SYSTEM_PATH) is None:
        return 0
    cluster_rules = rules_of(run("iptables-save"), name)
    for table, rule in cluster_rules:
        run("iptables", "-w", "10", "-t", table, "-D", *rule)
    return len(cluster_rules)


def make_cgroup(mount: CgroupMount, cgroup: str) -> None:
    """A node's cgroup root in one hierarchy; of a further node, in that of the cluster."""
    root = Path(mount.path)
    ours = root / cgroup
    ours.mkdir(exist_ok=True)
    if mount.v2 and (root / "cgroup.controllers").read_text().strip():
        requested = " ".join(
            f"+{controller}" for controller in (root / "cgroup.controllers").read_text().split()
        )
        for folder in (root, ours):
            try:
                (folder / "cgroup.subtree_control").write_text(requested)
            except OSError as error:
                raise ClusterError(
                    f"{folder}/cgroup.subtree_control: {requested}: {error.strerror}"
                ) from error
    # cgroup v1: what the kubelet gives its pods, or those of further nodes get a part of it.
    if "cpu" in mount.controllers:
        (ours / "cpu.shares").write_text(str(1024 * (os.cpu_count() or 1)))
    if "cpuset" in mount.controllers:  # v1: a new set is empty, and nothing can run in it
        for setting in ("cpuset.cpus", "cpuset.mems"):
            (ours / setting).write_text((root / setting).read_text())


def connect(settings: ClusterSettings, pid: int) -> None:
    """Join the host and the network namespace of process `pid` by a pair of links."""
    networks, link = settings.node_networks, link_name(settings.name)
    if (Path("/sys/class/net") / link).exists():
        run("ip", "link", "delete", link)
    ours = ip_network(networks.link)
    taken = []
    for route in routes():
        other = ip_network(route, strict=False)
        if other.prefixlen > 1 and other.overlaps(ours):
            taken.append(str(other))
    if taken:
        raise ClusterError(
            f"the cluster's addresses {networks.link} are now routed elsewhere"
            f" ({', '.join(taken)}); `vdi cluster down --name {settings.name}` removes it with all"
            " data in it, and a new one chooses others"
        )
    prefix = ip_network(networks.link).prefixlen
    run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
    run("ip", "address", "add", f"{networks.host_address}/{prefix}", "dev", link)
    run("ip", "link", "set", link, "up")


def connect_node(settings: ClusterSettings, number: int, first_pid: int, pid: int) -> None:
    """Join a further node to the first one, which runs as `first_pid`: process `pid` is in its
    network namespace.
    """
    networks = settings.node_networks
    link = node_link(number)
    prefix = ip_network(networks.link).prefixlen
    in_first = _inside(first_pid)
    if (
        link
        in run(*in_first, "ip", "-brief", "link", "show", "type", "veth").replace("@", " ").split()
    ):
        run(*in_first, "ip", "link", "delete", link)
    run(
        *in_first,
        "ip",
        "link",
        "add",
        link,
        "type",
        "veth",
        "peer",
        "name",
        "eth0",
        "netns",
        str(pid),
    )
    run(*in_first, "ip", "address", "add", f"{networks.gateway_of(number)}/{prefix}", "dev", link)
    # Packets to a node that is not there must not take the host's way out.
    for own in (networks.all_pods, networks.all_links):
        run(*in_first, "ip", "route", "replace", "unreachable", own, "metric", "4096")
    rule = ["POSTROUTING", "-s", networks.all_links, "-o", "eth0", "-j", "MASQUERADE"]
    run(*in_first, "iptables", "-w", "10", "-t", "nat", "-D", *rule, check=False)
    run(*in_first, "iptables", "-w", "10", "-t", "nat", "-A", *rule)
    join_network(settings, number, first_pid)


def join_network(settings: ClusterSettings, number: int, first_pid: int) -> None:
    """Take the link of a further node up and set the route to its pods: a link that goes down loses
    its routes.
    """
    networks = settings.node_networks
    run(*_inside(first_pid), "ip", "link", "set", node_link(number), "up")
    way = ["via", networks.address_of(number), "dev", node_link(number)]
    run(*_inside(first_pid), "ip", "route", "replace", networks.pods_of(number), *way)


def cut_network(number: int, first_pid: int) -> None:
    """Take the link of a further node down, as if its cable were pulled out. Its processes go
    on.
    """
    run(*_inside(first_pid), "ip", "link", "set", node_link(number), "down")


def _inside(pid: int) -> list[str]:
    return ["nsenter", "--target", str(pid), "--net"]


def listen(settings: ClusterSettings) -> socket.socket:
    """The entry point for HTTPS on the host's loopback address. Raises ClusterError when somebody
    took the port.
    """
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", settings.websecure_port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise ClusterError(
            f"port {settings.websecure_port} of 127.0.0.1, which this cluster's desktops use, is in"
            f" use ({error.strerror}); free it, or remove the cluster with `vdi cluster down --name"
            f" {settings.name}`: a new one chooses another"
        ) from error
    return listener


def clean(layout: Layout, cgroups: Iterable[CgroupMount]) -> list[str]:
    """Remove all of the cluster from the host, however little is left to know it by. Says what it
    removed.

    Goes on after a failure and raises ClusterError at the end with everything that could not be
    removed.
    """
    name = layout.name
    removed: list[str] = []
    failures: list[str] = []

    def attempt(what: str, action: Callable[[], object]) -> None:
        try:
            if action():
                removed.append(what)
        except (OSError, ClusterError) as error:
            failures.append(f"{what}: {error}")

    notes = _read_notes(layout)
    attempt(f"the packet rules with the comment vdi-{name}", lambda: remove_rules(name))
    attempt(f"the link {link_name(name)}", lambda: _remove_link(name))
    attempt(
        f"the cgroups vdi-{name}",
        lambda: sum(_remove_cgroup(Path(mount.path) / f"vdi-{name}") for mount in cgroups),
    )
    attempt(f"the sockets in {layout.run}", lambda: _remove_tree(layout.run))
    others = [path for path in layout.run.parent.glob("vdi-*") if path.is_dir()]
    if notes is not None and not others:
        attempt("empty packet tables", lambda: _remove_empty_tables(notes.tables))
        if notes.ip_forward != "1":
            attempt("IPv4 forwarding", lambda: _IP_FORWARD.write_text(notes.ip_forward))
        for folder in reversed(notes.made_folders):
            with contextlib.suppress(OSError):  # somebody else's by now, if not empty
                Path(folder).rmdir()
        _SHARED_NOTES.unlink(missing_ok=True)
    attempt(f"the folder {layout.root}", lambda: _remove_tree(layout.root))
    if failures:
        raise ClusterError("could not be removed: " + "; ".join(failures))
    return removed


def _read_notes(layout: Layout) -> HostNotes | None:
    try:
        return msgspec.json.decode((layout.root / "host.json").read_bytes(), type=HostNotes)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _remove_link(name: str) -> bool:
    if not (Path("/sys/class/net") / link_name(name)).exists():
        return False
    # It may just be going with its other end.
    run("ip", "link", "delete", link_name(name), check=False)
    return True


def _remove_cgroup(path: Path) -> bool:
    if not path.exists():
        return False
    for folder, _, _ in os.walk(path, topdown=False):
        Path(folder).rmdir()
    return True


def _remove_tree(path: Path) -> bool:
    if not path.exists():
        return False
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    if inside := [mount for mount in mounts if Path(mount).is_relative_to(path)]:
        raise ClusterError(
            f"{path} is not removed: {', '.join(inside)} is mounted there; unmount that first"
        )
    shutil.rmtree(path)
    return True


def _remove_empty_tables(before: Sequence[str]) -> bool:
    """With the nft backend the first rule makes a table that outlives it: take away what we were
    the first to use.
    """
    if shutil.which("nft", path=SYSTEM_PATH) is None:
        return False
    content: dict[str, bool] = {}
    table = ""
    for line in run("iptables-save").splitlines():
        if line.startswith("*"):
            table = line[1:]
            content[table] = False
        elif line.startswith("-A ") or (
            line.startswith(":") and not line.split()[1].startswith("ACCEPT")
        ):
            content[table] = True
    for table, used in content.items():
        if not used and table not in before:
            run("nft", "delete", "table", "ip", table, check=False)
    return False
