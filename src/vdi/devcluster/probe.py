"""Reads the properties of this machine. `machine` decides on them and reads nothing itself."""

import re
import shutil
import subprocess
from pathlib import Path

from vdi.devcluster.layout import ClusterError
from vdi.devcluster.machine import TOOLS, CgroupMount, Machine

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CAP_SYS_RESOURCE = 24


def read_machine(*, containerd: Path, state: Path) -> Machine:
    """See what the node's configuration depends on. `containerd` is the binary, `state` an existing
    folder.
    """
    return Machine(
        containerd=_containerd_version(containerd),
        may_lower_oom_score=bool(_bounding_capabilities() >> _CAP_SYS_RESOURCE & 1),
        state_filesystem=_filesystem(state),
        nameservers=_nameservers(),
        mtu=_mtu(),
    )


def missing_tools() -> list[str]:
    """Programs that a node needs and this machine lacks."""
    return [tool for tool in TOOLS if shutil.which(tool, path=SYSTEM_PATH) is None]


def routes() -> list[str]:
    """Every IPv4 range that some route of this host already uses, in all its tables."""
    done = subprocess.run(
        ["ip", "-4", "route", "show", "table", "all"], capture_output=True, text=True, check=True
    )
    destinations = []
    for line in done.stdout.splitlines():
        fields = []
        for word in line.split():
            if word not in ("local", "broadcast", "unreachable", "blackhole", "nat"):
                fields.append(word)
        if fields and re.fullmatch(r"[0-9.]+(/[0-9]+)?", fields[0]):
            destinations.append(fields[0])
    return destinations


def cgroup_mounts() -> list[CgroupMount]:
    """Every cgroup hierarchy that is mounted here."""
    mounts = []
    for _, path, kind, options, *_ in _mounts():
        if kind == "cgroup2":
            mounts.append(CgroupMount(path, v2=True))
        elif kind == "cgroup":
            names = (
                "cpu",
                "cpuacct",
                "cpuset",
                "memory",
                "devices",
                "freezer",
                "blkio",
                "pids",
                "hugetlb",
                "net_cls",
            )
            mounts.append(
                CgroupMount(
                    path, v2=False, controllers=tuple(n for n in names if n in options.split(","))
                )
            )
    return mounts


def _mounts() -> list[list[str]]:
    return [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]


def _containerd_version(binary: Path) -> tuple[int, int]:
    done = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
    match = re.search(r"\bv?([0-9]+)\.([0-9]+)\.[0-9]+", done.stdout)
    if match is None:
        raise ClusterError(
            f"{binary} --version printed {done.stdout.strip()!r}, which contains no version"
        )
    return int(match[1]), int(match[2])


def _bounding_capabilities() -> int:
    """Capabilities that root can have here: the bounding set, since this process may not be root
    yet.
    """
    text = Path("/proc/self/status").read_text()
    match = re.search(r"^CapBnd:\s*([0-9a-f]+)$", text, re.MULTILINE)
    return int(match[1], 16) if match else 0


def _filesystem(path: Path) -> str:
    path = path.resolve()
    best, kind = "", ""
    for _, mount, this, *_ in _mounts():
        if path.is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, this
    return kind


def _nameservers() -> dict[str, tuple[str, ...]]:
    servers: dict[str, tuple[str, ...]] = {}
    for path in (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf")):
        if path.exists():
            servers[str(path)] = tuple(
                re.findall(r"^\s*nameserver\s+(\S+)", path.read_text(), re.MULTILINE)
            )
    return servers


def _mtu() -> int:
    """Of the device behind the default route; 1500 without one."""
    done = subprocess.run(
        ["ip", "-4", "route", "show", "default"], capture_output=True, text=True, check=False
    )
    match = re.search(r"\bdev (\S+)", done.stdout)
    if match:
        return int(Path(f"/sys/class/net/{match[1]}/mtu").read_text())
    return 1500
