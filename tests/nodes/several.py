"""The nodes of the tests' cluster, and which desktop is on which of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from e2e.desktops import Object, home_claim_of, pod_of
from e2e.world import World
from support.waiting import wait_until
from vdi.devcluster import cluster

LIGHT = {"defaultGPU": 0, "defaultMemory": "1Gi"}
"""Resources of a desktop of which six fit on one node of two CPUs."""


@dataclass(frozen=True)
class Nodes:
    """A cluster of several nodes."""

    cluster: str
    world: World

    @property
    def names(self) -> list[str]:
        """All nodes; the first one runs the control plane."""
        return [node.name for node in cluster.status(self.cluster).nodes]

    def of(self, session: str) -> str:
        """The node of the session's desktop."""
        pod = pod_of(self.world, session)
        assert pod
        return str(pod["spec"]["nodeName"])

    def wait_moved(self, session: str, node: str, seconds: float = 90.0) -> None:
        """Wait until the session's desktop runs on another node than this one."""

        def moved() -> bool:
            found: Object = (self.world.get("vdi", session) or {}).get("status", {})
            return found.get("phase") == "Running" and found.get("nodeName") not in (None, "", node)

        wait_until(f"{session} runs on another node than {node}", moved, seconds)

    def volume_of(self, session: str) -> str:
        """The PersistentVolume of the session's home."""
        claim = self.world.get("pvc", home_claim_of(self.world, session))
        assert claim
        return str(claim["spec"]["volumeName"])

    @contextmanager
    def only(self, node: str) -> Iterator[None]:
        """New desktops start on this node alone while the context lasts."""
        others = [name for name in self.names if name != node]
        self.world.kubectl("cordon", *others)
        try:
            yield
        finally:
            self.world.kubectl("uncordon", *others)


def uid_of(world: World, session: str) -> str:
    """The uid of the session's pod."""
    pod = pod_of(world, session)
    assert pod
    return str(pod["metadata"]["uid"])


def message_of(world: World, session: str) -> str:
    """What the session says of itself."""
    found = world.get("vdi", session) or {}
    return str(found.get("status", {}).get("message", ""))
