"""CPU time and memory of a pod, from its cgroup on this machine."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from vdi.devcluster.machine import CgroupMount

MIB = 1 << 20


class Load(NamedTuple):
    """What a pod has used and uses. The working set is what the kubelet evicts by: not the files it
    could forget.
    """

    cpu_seconds: float
    working_set_mib: float


def find(mounts: Iterable[CgroupMount], cluster: str, uid: str, file: str) -> Path | None:
    """The file of that name among the pod's in whichever hierarchy has it."""
    for mount in mounts:
        for folder in (Path(mount.path) / f"vdi-{cluster}").glob(f"**/pod{uid}"):
            if (folder / file).exists():
                return folder / file
    return None


def read(mounts: Iterable[CgroupMount], cluster: str, uid: str) -> Load:
    """Now. Version 1 of cgroups where the controllers are its own, else 2. Raises RuntimeError
    without one.
    """
    ordered = sorted(mounts, key=lambda mount: mount.v2)

    def words(file: str) -> list[str]:
        path = find(ordered, cluster, uid, file)
        return path.read_text().split() if path else []

    def number(file: str, key: str) -> int | None:
        fields = words(file)
        return int(fields[fields.index(key) + 1]) if key in fields else None

    if nanoseconds := words("cpuacct.usage"):
        cpu: float | None = int(nanoseconds[0]) / 1e9
    else:
        microseconds = number("cpu.stat", "usage_usec")
        cpu = None if microseconds is None else microseconds / 1e6
    used = words("memory.usage_in_bytes")
    forgettable = number("memory.stat", "total_inactive_file" if used else "inactive_file")
    used = used or words("memory.current")
    if cpu is None or not used or forgettable is None:
        raise RuntimeError(f"pod {uid} has no cgroup with cpu and memory under vdi-{cluster}")
    return Load(cpu, (int(used[0]) - forgettable) / MIB)
