"""Features that a pod needs of its node, and what a node lacks for them, from what its kubelet reports. Pure.

Fails closed: what a node does not report, it does not have. containerd before 2.0 runs a pod with `hostUsers: false` as
any other and reports no error, so its version alone is no proof: the runtime's own report decides.
"""

import re
from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from vdi.cluster.objects import NodeInfo, RuntimeHandler

_NUMBERS = re.compile(r"(\d+)\.(\d+)")
_CONTAINERD = "containerd://"


class Feature(StrEnum):
    """Features of nodes, each by its name in sentences."""

    USER_NAMESPACES = "user namespaces"
    IMAGE_VOLUMES = "image volumes"


class Need(NamedTuple):
    """A feature, of one handler of the container runtime (a RuntimeClass; empty: the default)."""

    feature: Feature
    handler: str = ""


# The oldest version whose default has the feature. Kernel: idmapped tmpfs, for /dev/shm and Secrets.
_VERSIONS = {
    Feature.USER_NAMESPACES: {"kubelet": (1, 33), "kernel": (6, 3), "containerd": (2, 0)},
    Feature.IMAGE_VOLUMES: {"kubelet": (1, 35), "containerd": (2, 1)},
}


def find_missing(need: Need, info: NodeInfo, handlers: Sequence[RuntimeHandler]) -> str:
    """What a node has too old, as a clause such as "kernel 5.15.0 (6.3 or newer is needed)"; empty: the feature works.

    `handlers`: as the node reports them.
    """
    runtime = info.container_runtime_version or "a container runtime of unknown version"
    found = {"kubelet": info.kubelet_version, "kernel": info.kernel_version}
    if runtime.startswith(_CONTAINERD):
        found["containerd"] = runtime.removeprefix(_CONTAINERD)
    old = [
        f"{program} {found[program] or 'of unknown version'} ({'.'.join(map(str, oldest))} or newer is needed)"
        for program, oldest in _VERSIONS[need.feature].items()
        if program in found and _numbers(found[program]) < oldest
    ]
    reports = any(one.name == need.handler and one.features.get("userNamespaces") for one in handlers)
    if need.feature is Feature.USER_NAMESPACES and not old and not reports:
        of_handler = f" for the runtime class {need.handler}" if need.handler else ""
        return f"{runtime}, which reports no user namespaces{of_handler}"
    return " and ".join(old)


@lru_cache(maxsize=1024)  # for each node, at each start
def _numbers(version: str) -> tuple[int, int]:
    found = _NUMBERS.search(version)
    return (int(found[1]), int(found[2])) if found else (0, 0)
