"""What a preflight and a validation look at, at one moment, as frozen data. `collect` fills it. Pure.

Objects are as the API server sent them, less what no check reads. What lies outside the API (names, ports, programs,
the registry, clocks) is measured where the command runs.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import msgspec

from vdi.kasm.preflight.checklist import Unreadable
from vdi.session.capacity import PodResources
from vdi.session.capacity_matching import NodeCapacity, read_capacity
from vdi.session.observed import Node

Raw = Mapping[str, Any]
_ENDED = frozenset({"Succeeded", "Failed"})


class Disk(msgspec.Struct, frozen=True):
    """The file system of a node's kubelet, in bytes."""

    capacity: int
    available: int


class Resolution(msgspec.Struct, frozen=True):
    """What a host name resolves to where the command runs."""

    host: str
    addresses: tuple[str, ...] = ()
    problem: str = ""


class Probe(msgspec.Struct, frozen=True):
    """The result of a TCP connection to a node: `open`, `refused`, or `silent` (no answer)."""

    address: str
    port: int
    outcome: str


class Tool(msgspec.Struct, frozen=True):
    """A program on this machine: its version, or why it was not found."""

    name: str
    version: str = ""
    problem: str = ""


class Answer(msgspec.Struct, frozen=True):
    """What an HTTP server answered; status 0: nothing, and `problem` says why."""

    url: str
    status: int = 0
    body: str = ""
    problem: str = ""
    trusted: bool = True
    """Whether its certificate is one that this machine trusts."""


class Clocks(msgspec.Struct, frozen=True):
    """Seconds by which clocks are ahead (below zero: behind) of the API server's."""

    here: float | None = None
    problem: str = ""
    nodes: dict[str, float] = {}
    """By node: the age of its last heartbeat with the sign turned, so above zero its clock is ahead."""


class Facts(msgspec.Struct, frozen=True, kw_only=True, dict=True, eq=False):
    """The cluster and its surroundings."""

    objects: dict[str, list[dict[str, Any]]] = {}
    """By plural."""
    absent: frozenset[str] = frozenset()
    """Plurals of kinds that the API server does not know."""
    unread: dict[str, Unreadable] = {}
    """By plural: what could not be read."""
    disks: dict[str, Disk] = {}
    """By node."""
    resolution: Resolution | None = None
    probes: tuple[Probe, ...] = ()
    tools: dict[str, Tool] = {}
    registry: Answer | None = None
    clocks: Clocks = Clocks()

    def all(self, plural: str) -> list[dict[str, Any]]:
        """Objects of a kind; none where it could not be read, which callers ask `missing` for first."""
        return self.objects.get(plural, [])

    def missing(self, *plurals: str) -> Unreadable | None:
        """The first of these kinds that could not be read."""
        return next((self.unread[plural] for plural in plurals if plural in self.unread), None)

    @cached_property
    def nodes(self) -> list[Node]:
        """Decoded, by name."""
        found = [msgspec.convert(node, Node, strict=False) for node in self.all("nodes")]
        return sorted(found, key=lambda node: node.metadata.name)

    @cached_property
    def running(self) -> list[dict[str, Any]]:
        """Pods that are on a node and have not ended."""
        return [
            pod
            for pod in self.all("pods")
            if (pod.get("spec") or {}).get("nodeName") and (pod.get("status") or {}).get("phase") not in _ENDED
        ]

    def rooms(self, *, without: frozenset[str] = frozenset()) -> list[NodeCapacity]:
        """Nodes with what is left of them; pods whose uid is in `without` count as gone."""
        rooms = {node.metadata.name: read_capacity(node) for node in self.nodes}
        for pod in self.running:
            room = rooms.get(pod["spec"]["nodeName"])
            if room is not None and pod["metadata"].get("uid") not in without:
                room.take(takes_of(pod["spec"]), 1)
        return list(rooms.values())


def takes_of(spec: Raw) -> dict[str, int]:
    """What a pod of this spec takes of a node, as the scheduler reckons."""
    return msgspec.convert(spec, PodResources, strict=False).takes


def node_addresses(node: Raw) -> dict[str, str]:
    """Address -> type (`InternalIP`, `ExternalIP`, ...), without host names."""
    found = (node.get("status") or {}).get("addresses") or ()
    return {str(one["address"]): str(one["type"]) for one in found if one["type"].endswith("IP")}
