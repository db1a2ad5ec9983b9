"""The nodes of the tests' cluster, and which desktop is on which of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from e2e.desktops import pod_of
from e2e.world import World
from vdi.devcluster import cluster


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

    @contextmanager
    def only(self, node: str) -> Iterator[None]:
        """New desktops start on this node alone while the context lasts."""
        others = [name for name in self.names if name != node]
        self.world.kubectl("cordon", *others)
        try:
            yield
        finally:
            self.world.kubectl("uncordon", *others)


def message_of(world: World, session: str) -> str:
    """What the session says of itself."""
    found = world.get("vdi", session) or {}
    return str(found.get("status", {}).get("message", ""))
