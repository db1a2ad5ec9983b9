"""Input of a preflight and a validation: the cluster at one moment, as frozen data; and their
items. Pure.

`collect` fills it. Objects are as the API server sent them. What lies outside the API (names,
ports, programs) is measured where the command runs.
"""

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import msgspec

from vdi.cluster.capacity import NodeCapacity, read_capacity
from vdi.cluster.objects import Node, PodResources
from vdi.findings.model import Finding, Remedy, Severity
from vdi.snapshot.model import Unreadable

Raw = Mapping[str, Any]
_ENDED = frozenset({"Succeeded", "Failed"})


def item(
    check: str,
    expected: str,
    observed: str,
    severity: Severity = Severity.OK,
    message: str = "",
    remedy: Remedy = Remedy(),
    evidence: Iterable[str] = (),
) -> Finding:
    """An item of a checklist."""
    return Finding(
        code=check,
        severity=severity,
        observed=observed,
        expected=expected,
        message=message,
        remedy=remedy,
        evidence=tuple(evidence),
    )


def unreadable_finding(check: str, expected: str, unread: Unreadable) -> Finding:
    """An item of a checklist that could not be looked at."""
    return item(check, expected, "not read", Severity.UNKNOWN, unread.words, unread.remedy)


def listed(words: Iterable[str]) -> str:
    """Names in a row; `none` for none."""
    return ", ".join(words) or "none"


def label_of(raw: Raw, key: str) -> str:
    """A label of an object; empty when it is not there."""
    return str((raw["metadata"].get("labels") or {}).get(key, ""))


def name_of(raw: Raw) -> str:
    """`namespace/name`, or the name of what is in no namespace."""
    meta = raw["metadata"]
    return f"{meta['namespace']}/{meta['name']}" if meta.get("namespace") else str(meta["name"])


def condition_of(raw: Raw, kind: str) -> Raw:
    """The condition of this type; empty where there is none."""
    conditions = (raw.get("status") or {}).get("conditions") or ()
    return next((condition for condition in conditions if condition["type"] == kind), {})


def is_ready(pod: Raw) -> bool:
    return bool(condition_of(pod, "Ready").get("status") == "True")


def addresses_of(raw: Raw) -> list[str]:
    """Addresses of a Service or an Ingress for requests from outside."""
    given = ((raw.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    return [str(each.get("ip") or each.get("hostname")) for each in given]


class Resolution(msgspec.Struct, frozen=True):
    """Addresses of a host name where the command runs."""

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
    """Response of an HTTP server; status 0 for none, and then `problem` says why."""

    url: str
    status: int = 0
    body: str = ""
    problem: str = ""
    trusted: bool = True  # whether its certificate is one that this machine trusts


class Facts(msgspec.Struct, frozen=True, kw_only=True, dict=True, eq=False):
    """The cluster and its surroundings."""

    # By plural.
    objects: dict[str, list[dict[str, Any]]] = {}
    # By plural: what could not be read.
    unread: dict[str, Unreadable] = {}
    resolution: Resolution | None = None
    probes: tuple[Probe, ...] = ()
    tools: dict[str, Tool] = {}

    def all(self, plural: str) -> list[dict[str, Any]]:
        """Objects of a kind; none where it could not be read, which callers ask `missing` for
        first.
        """
        return self.objects.get(plural, [])

    def missing(self, *plurals: str) -> Unreadable | None:
        """The first of these kinds that could not be read."""
        return next((self.unread[plural] for plural in plurals if plural in self.unread), None)

    @cached_property
    def nodes(self) -> list[Node]:
        found = [msgspec.convert(node, Node, strict=False) for node in self.all("nodes")]
        return sorted(found, key=lambda node: node.metadata.name)

    @cached_property
    def running(self) -> list[dict[str, Any]]:
        """Pods that are on a node and have not ended."""
        return [
            pod
            for pod in self.all("pods")
            if (pod.get("spec") or {}).get("nodeName")
            and (pod.get("status") or {}).get("phase") not in _ENDED
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
    """Resources that a pod of this spec takes of a node, as the scheduler counts them."""
    return msgspec.convert(spec, PodResources, strict=False).takes


def node_addresses(node: Raw) -> dict[str, str]:
    """Address -> type (`InternalIP`, `ExternalIP`, ...), without host names."""
    found = (node.get("status") or {}).get("addresses") or ()
    return {str(one["address"]): str(one["type"]) for one in found if one["type"].endswith("IP")}
