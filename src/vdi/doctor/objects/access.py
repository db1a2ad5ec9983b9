"""Access rules evaluated as the cluster does: NetworkPolicies between two pods, RBAC of one account. Pure.

Parts of a policy that are not known count as allowed, so a finding about it is never a guess.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from vdi.doctor.objects.components import Operator
from vdi.snapshot.model import Snapshot
from vdi.snapshot.objects import (
    LabelSelector,
    NetworkPolicy,
    NetworkPolicySpec,
    Peer,
    PolicyPort,
    PolicyRule,
    Role,
    RoleBinding,
    RoleRule,
    Subject,
)

_NAME_LABEL = "kubernetes.io/metadata.name"
_PRIVATE = {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"}


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


def blocking(
    snapshot: Snapshot, source: Party, target: Party, port: Port
) -> tuple[str, Sequence[NetworkPolicy]] | None:
    """The direction that is denied (`ingress`, `egress`) and the policies that deny it together; None: allowed."""
    for direction, at, other in (("ingress", target, source), ("egress", source, target)):
        policies = [
            policy
            for policy in snapshot.objects.networkpolicies
            if policy.metadata.namespace == at.namespace
            and direction.title() in _types(policy.spec)
            and _selects(policy.spec.pod_selector, at.labels)
        ]
        rules = [rule for policy in policies for rule in getattr(policy.spec, direction) or ()]
        if policies and not any(_policy_allows(rule, direction, at.namespace, other, port) for rule in rules):
            return direction, policies
    return None


def _types(spec: NetworkPolicySpec) -> Iterable[str]:
    return spec.policy_types or ["Ingress", *([] if spec.egress is None else ["Egress"])]


def _policy_allows(rule: PolicyRule, direction: str, own: str, other: Party, port: Port) -> bool:
    if rule.ports and not any(_is_port(one, port) for one in rule.ports):
        return False
    peers = rule.from_peers if direction == "ingress" else rule.to_peers
    return not peers or any(_is_peer(peer, own, other) for peer in peers)


def _is_port(one: PolicyPort, port: Port) -> bool:
    if one.protocol != port.protocol:
        return False
    if isinstance(one.port, int):
        return one.port <= port.number <= (one.end_port or one.port)
    return one.port is None or one.port == port.name


def _is_peer(peer: Peer, own: str, other: Party) -> bool:
    if peer.ip_block:
        # A snapshot has no addresses of pods. They are private: the internet alone does not include them.
        return not other.namespace or not set(peer.ip_block.excepted) >= _PRIVATE
    if not other.namespace:
        return False
    spaces = peer.namespace_selector
    # Of a namespace's labels only the one with its name is known.
    named = own if spaces is None else spaces.match_labels.get(_NAME_LABEL, other.namespace)
    if other.namespace != named:
        return False
    return peer.pod_selector is None or _selects(peer.pod_selector, other.labels)


def _selects(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    by_label = selector.match_labels.items() <= labels.items()
    return by_label and all(one.holds(labels.get(one.key)) for one in selector.match_expressions)


@dataclass(frozen=True, slots=True)
class Right:
    """One verb on one resource."""

    group: str
    resource: str
    verb: str

    @property
    def words(self) -> str:
        """`list pods`, as kubectl auth can-i takes it."""
        return f"{self.verb} {self.resource}{'.' + self.group if self.group else ''}"


def _rights(table: Mapping[tuple[str, str], str]) -> frozenset[Right]:
    return frozenset(
        Right(group, resource, verb)
        for (group, resources), verbs in table.items()
        for resource in resources.split()
        for verb in verbs.split()
    )


_OURS = "vdi.kasm.io"
IN_NAMESPACE = _rights(
    {
        (_OURS, "vdisessions"): "list watch patch delete",
        (_OURS, "vdisessions/status"): "patch",
        ("", "pods"): "get list watch create patch delete",
        ("", "pods/resize"): "patch",
        ("", "services secrets"): "get list watch create patch delete",
        ("", "persistentvolumeclaims"): "get list watch create patch",
        ("traefik.io", "ingressroutes"): "get list watch create patch delete",
        ("events.k8s.io", "events"): "list watch create patch",
    }
)
IN_FIRST_NAMESPACE = IN_NAMESPACE | _rights(
    {
        ("", "configmaps"): "list watch create patch",
        ("coordination.k8s.io", "leases"): "get create patch",
    }
)
IN_CLUSTER = _rights(
    {
        (_OURS, "vditemplates vdipools"): "list watch",
        (_OURS, "vditemplates/status vdipools/status"): "patch",
        ("", "nodes persistentvolumes"): "list watch",
        ("", "pods"): "list watch",
    }
)
# Part of IN_CLUSTER that is needed only where the queue counts other workloads.
OTHER_WORKLOADS = _rights({("", "pods"): "list watch"})


def missing_rights(snapshot: Snapshot, operator: Operator, namespaces: Iterable[str]) -> list[tuple[Right, str]]:
    """Permissions that an operator's account lacks, and where: these namespaces of sessions, then the cluster (empty).

    They are the table in docs/design/operator.md; a test holds the two equal.
    """
    # Evaluated from Roles and bindings, which are four requests. Asking the API server would cost one for each verb,
    # and its answers could not be replayed from a bundle.
    everywhere = list(_rules(snapshot, snapshot.objects.clusterrolebindings, "", operator))
    needed = IN_CLUSTER if operator.counts_others else IN_CLUSTER - OTHER_WORKLOADS
    lacking: list[tuple[Right, str]] = []
    for namespace in namespaces:
        rules = [*everywhere, *_rules(snapshot, snapshot.objects.rolebindings, namespace, operator)]
        # The Lease is in the first namespace that the operator watches.
        there = IN_FIRST_NAMESPACE if namespace == operator.watches[0] else IN_NAMESPACE
        lacking += [(right, namespace) for right in _lacking(there, rules)]
    return [*lacking, *((right, "") for right in _lacking(needed, everywhere))]


def _lacking(needed: Iterable[Right], rules: list[RoleRule]) -> list[Right]:
    lacking = [right for right in needed if not any(_rule_allows(rule, right) for rule in rules)]
    return sorted(lacking, key=lambda right: (right.resource, right.group, right.verb))


def _rule_allows(rule: RoleRule, right: Right) -> bool:
    if rule.resource_names:
        return False  # the operator needs all objects, not some by name
    any_parent = f"*/{right.resource.partition('/')[2]}" if "/" in right.resource else ""
    return (
        _holds(rule.api_groups, right.group)
        and _holds(rule.verbs, right.verb)
        and (_holds(rule.resources, right.resource) or any_parent in rule.resources)
    )


def _holds(values: Iterable[str], value: str) -> bool:
    return any(one in ("*", value) for one in values)


def _rules(snapshot: Snapshot, bindings: Iterable[RoleBinding], where: str, operator: Operator) -> Iterator[RoleRule]:
    """Rules of the roles that these bindings give to the operator's account. `where` empty: of cluster roles."""
    for binding in bindings:
        if binding.metadata.namespace != where:
            continue
        if any(_is_account(subject, operator.account, operator.namespace) for subject in binding.subjects):
            plural, at = ("clusterroles", "") if binding.role_ref.kind == "ClusterRole" else ("roles", where)
            role: Role | None = snapshot.find(plural, binding.role_ref.name, at)
            yield from role.rules if role else ()


def _is_account(subject: Subject, account: str, namespace: str) -> bool:
    kind, name = subject.kind, subject.name
    if kind == "ServiceAccount":
        return name == account and subject.namespace == namespace
    if kind == "User":
        return name == f"system:serviceaccount:{namespace}:{account}"
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
    return kind == "Group" and name in groups
