"""NetworkPolicies between two pods, evaluated as the cluster does. Pure.

Parts of a policy that are not known count as allowed, so a finding about it is never a guess.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from vdi.snapshot.model import Snapshot
from vdi.snapshot.objects.meta import LabelSelector
from vdi.snapshot.objects.network import (
    NetworkPolicy,
    NetworkPolicySpec,
    Peer,
    PolicyPort,
    PolicyRule,
)

_NAME_LABEL = "kubernetes.io/metadata.name"
# Private addresses by family (IPv6 or not): pods have no others.
_PRIVATE = {False: {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"}, True: {"fc00::/7"}}


@dataclass(frozen=True)
class Party:
    """Pods at one end of a connection, or a server outside the cluster (no namespace). `words`:
    name in messages.
    """

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


def blocking(
    snapshot: Snapshot, source: Party, target: Party, port: Port
) -> tuple[str, Sequence[NetworkPolicy]] | None:
    """The direction that is denied (`ingress`, `egress`) and the policies that deny it together;
    None: allowed.
    """
    families = _families(snapshot)
    for direction, at, other in (("ingress", target, source), ("egress", source, target)):
        policies = []
        for policy in snapshot.objects.networkpolicies:
            if (
                policy.metadata.namespace == at.namespace
                and direction.title() in _types(policy.spec)
                and _selects(policy.spec.pod_selector, at.labels)
            ):
                policies.append(policy)
        rules = [rule for policy in policies for rule in getattr(policy.spec, direction) or ()]
        if policies and not any(
            _policy_allows(rule, direction, at.namespace, other, port, families) for rule in rules
        ):
            return direction, policies
    return None


def _types(spec: NetworkPolicySpec) -> Iterable[str]:
    return spec.policy_types or ["Ingress", *([] if spec.egress is None else ["Egress"])]


def _families(snapshot: Snapshot) -> set[bool]:
    """Whether pods have addresses of IPv6, and others: those of Services. Without a Service both
    are possible.
    """
    addresses = [service.spec.cluster_ip for service in snapshot.objects.services]
    return {":" in address for address in addresses if re.search(r"[.:]", address)} or {False, True}


def _policy_allows(
    rule: PolicyRule, direction: str, own: str, other: Party, port: Port, families: Collection[bool]
) -> bool:
    if rule.ports and not any(_is_port(one, port) for one in rule.ports):
        return False
    peers = rule.from_peers if direction == "ingress" else rule.to_peers
    return not peers or any(_is_peer(peer, own, other, families) for peer in peers)


def _is_port(one: PolicyPort, port: Port) -> bool:
    if one.protocol != port.protocol:
        return False
    if isinstance(one.port, int):
        return one.port <= port.number <= (one.end_port or one.port)
    return one.port is None or one.port == port.name


def _is_peer(peer: Peer, own: str, other: Party, families: Collection[bool]) -> bool:
    if block := peer.ip_block:
        # A snapshot has no addresses of pods. They are private: the internet alone does not include
        # them.
        family = ":" in block.cidr
        return not other.namespace or (
            family in families and not set(block.excepted) >= _PRIVATE[family]
        )
    if not other.namespace:
        return False
    spaces = peer.namespace_selector
    # Of a namespace's labels only the one with its name is known.
    if spaces is None:
        named = own
    else:
        named = spaces.match_labels.get(_NAME_LABEL, other.namespace)
    if other.namespace != named:
        return False
    return peer.pod_selector is None or _selects(peer.pod_selector, other.labels)


def _selects(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    by_label = selector.match_labels.items() <= labels.items()
    return by_label and all(one.holds(labels.get(one.key)) for one in selector.match_expressions)
