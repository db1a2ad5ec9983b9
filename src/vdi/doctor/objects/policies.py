"""NetworkPolicies: whether one pod may connect to another. Pure.

What a snapshot cannot tell (addresses, labels of namespaces) counts as allowed: a doctor that guesses is not used.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vdi.diagnosis.snapshot import Snapshot

Raw = Mapping[str, Any]
_NAME_LABEL = "kubernetes.io/metadata.name"


@dataclass(frozen=True)
class Party:
    """Pods that connect, or are connected to."""

    words: str
    namespace: str
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Port:
    """A TCP port, by number and by the name that the pod's container gives it."""

    number: int
    name: str = ""


def blocking(snapshot: Snapshot, source: Party, target: Party, port: Port) -> tuple[str, Sequence[Raw]] | None:
    """The direction that is denied (`ingress`, `egress`) and the policies that deny it together; None: allowed."""
    for direction, at, other in (("ingress", target, source), ("egress", source, target)):
        policies = [
            policy
            for policy in snapshot.raw("networkpolicies")
            if policy["metadata"]["namespace"] == at.namespace
            and direction.title() in _types(policy["spec"])
            and _selects(policy["spec"].get("podSelector") or {}, at.labels)
        ]
        rules = [rule for policy in policies for rule in policy["spec"].get(direction) or ()]
        if policies and not any(_allows(rule, direction, at.namespace, other, port) for rule in rules):
            return direction, policies
    return None


def _types(spec: Raw) -> Iterable[str]:
    return spec.get("policyTypes") or ["Ingress", *(["Egress"] if "egress" in spec else [])]


def _allows(rule: Raw, direction: str, own: str, other: Party, port: Port) -> bool:
    ports = rule.get("ports") or ()
    if ports and not any(_is_port(one, port) for one in ports):
        return False
    peers = rule.get("from" if direction == "ingress" else "to") or ()
    return not peers or any(_is_peer(peer, own, other) for peer in peers)


def _is_port(one: Raw, port: Port) -> bool:
    if one.get("protocol", "TCP") != "TCP":
        return False
    number = one.get("port")
    if isinstance(number, int):
        return number <= port.number <= int(one.get("endPort") or number)
    return number is None or number == port.name


def _is_peer(peer: Raw, own: str, other: Party) -> bool:
    if "ipBlock" in peer:
        return True
    spaces = peer.get("namespaceSelector")
    if spaces is None:
        if other.namespace != own:
            return False
    else:
        labels = spaces.get("matchLabels") or {}
        if labels.get(_NAME_LABEL, other.namespace) != other.namespace:
            return False
    return _selects(peer.get("podSelector") or {}, other.labels)


def _selects(selector: Raw, labels: Mapping[str, str]) -> bool:
    required = selector.get("matchLabels") or {}
    if any(labels.get(key) != value for key, value in required.items()):
        return False
    return all(
        _matches(match_expression, labels.get(match_expression["key"]))
        for match_expression in selector.get("matchExpressions") or ()
    )


def _matches(expression: Raw, value: str | None) -> bool:
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case "Exists":
            return value is not None
        case _:
            return value is None
