"""NetworkPolicies between two pods, evaluated as the cluster does. Pure.

Parts of a policy that are not known count as allowed, so a finding about it is never a guess.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from vdi.diagnosis.snapshot import Raw, Snapshot

_NAME_LABEL = "kubernetes.io/metadata.name"
# Private addresses by family (IPv6 or not): pods have no others.
_PRIVATE = {False: {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"}, True: {"fc00::/7"}}


@dataclass(frozen=True)
class Party:
    """Pods at one end of a connection, or a server outside the cluster (no namespace). `words`: name in messages."""

    words: str
    namespace: str
    labels: Mapping[str, str]
    # Numbers of named ports that differ from the usual ones.
    ports: Mapping[str, int] = field(default_factory=dict)
    # Namespaces of the sessions that it serves; empty: all.
    watches: tuple[str, ...] = ()


@dataclass(frozen=True)
class Port:
    """A port of a pod, by number and by the name in its container."""

    number: int
    name: str = ""
    protocol: str = "TCP"


def blocking(snapshot: Snapshot, source: Party, target: Party, port: Port) -> tuple[str, Sequence[Raw]] | None:
    """The direction that is denied (`ingress`, `egress`) and the policies that deny it together; None: allowed."""
    families = _families(snapshot)
    for direction, at, other in (("ingress", target, source), ("egress", source, target)):
        policies = [
            policy
            for policy in snapshot.raw("networkpolicies")
            if policy["metadata"]["namespace"] == at.namespace
            and direction.title() in _types(policy["spec"])
            and _selects(policy["spec"].get("podSelector") or {}, at.labels)
        ]
        rules = [rule for policy in policies for rule in policy["spec"].get(direction) or ()]
        if policies and not any(_policy_allows(rule, direction, at.namespace, other, port, families) for rule in rules):
            return direction, policies
    return None


def _types(spec: Raw) -> Iterable[str]:
    return spec.get("policyTypes") or ["Ingress", *(["Egress"] if "egress" in spec else [])]


def _families(snapshot: Snapshot) -> set[bool]:
    """Whether pods have addresses of IPv6, and others: those of Services. Without a Service both are possible."""
    addresses = [str((service.get("spec") or {}).get("clusterIP") or "") for service in snapshot.raw("services")]
    return {":" in address for address in addresses if re.search(r"[.:]", address)} or {False, True}


def _policy_allows(rule: Raw, direction: str, own: str, other: Party, port: Port, families: Collection[bool]) -> bool:
    ports = rule.get("ports") or ()
    if ports and not any(_is_port(one, port) for one in ports):
        return False
    peers = rule.get("from" if direction == "ingress" else "to") or ()
    return not peers or any(_is_peer(peer, own, other, families) for peer in peers)


def _is_port(one: Raw, port: Port) -> bool:
    if one.get("protocol", "TCP") != port.protocol:
        return False
    number = one.get("port")
    if isinstance(number, int):
        return number <= port.number <= int(one.get("endPort") or number)
    return number is None or number == port.name


def _is_peer(peer: Raw, own: str, other: Party, families: Collection[bool]) -> bool:
    if block := peer.get("ipBlock"):
        # A snapshot has no addresses of pods. They are private: the internet alone does not include them.
        family = ":" in str(block.get("cidr", ""))
        return not other.namespace or (family in families and not set(block.get("except") or ()) >= _PRIVATE[family])
    if not other.namespace:
        return False
    spaces = peer.get("namespaceSelector")
    # Of a namespace's labels only the one with its name is known.
    named = own if spaces is None else (spaces.get("matchLabels") or {}).get(_NAME_LABEL, other.namespace)
    if other.namespace != named:
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
