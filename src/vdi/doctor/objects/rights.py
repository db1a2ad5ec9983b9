"""What the operator's account may do, reckoned from Roles and bindings as the API server does, against what it needs.

Pure. What it needs is the table in docs/design/operator.md; a test holds the two equal.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vdi.diagnosis.snapshot import Snapshot

Raw = Mapping[str, Any]


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
OTHER_WORKLOADS = _rights({("", "pods"): "list watch"})
"""Needed in the whole cluster only where the queue counts other workloads."""


def missing_rights_there(
    snapshot: Snapshot, account: str, namespace: str, watches: str, *, is_first: bool
) -> list[Right]:
    """What the ServiceAccount lacks in a namespace of sessions. `is_first`: it is the one with the Lease."""
    everywhere = _rules(snapshot, "clusterrolebindings", None, account, namespace)
    there = [*everywhere, *_rules(snapshot, "rolebindings", watches, account, namespace)]
    return _lacking(IN_FIRST_NAMESPACE if is_first else IN_NAMESPACE, there)


def missing_cluster_rights(snapshot: Snapshot, account: str, namespace: str, *, counts_others: bool) -> list[Right]:
    """What the ServiceAccount lacks in the whole cluster."""
    everywhere = list(_rules(snapshot, "clusterrolebindings", None, account, namespace))
    return _lacking(IN_CLUSTER if counts_others else IN_CLUSTER - OTHER_WORKLOADS, everywhere)


def _lacking(needed: Iterable[Right], rules: list[Raw]) -> list[Right]:
    lacking = [right for right in needed if not any(_allows(rule, right) for rule in rules)]
    return sorted(lacking, key=lambda one: (one.resource, one.group, one.verb))


def _allows(rule: Raw, right: Right) -> bool:
    if rule.get("resourceNames"):
        return False  # only some objects: too little for what has to see all of them
    return (
        _holds(rule.get("apiGroups"), right.group)
        and _holds(rule.get("verbs"), right.verb)
        and (
            _holds(rule.get("resources"), right.resource)
            or ("/" in right.resource and f"*/{right.resource.split('/')[1]}" in (rule.get("resources") or ()))
        )
    )


def _holds(values: Iterable[str] | None, value: str) -> bool:
    return any(one in ("*", value) for one in values or ())


def _rules(snapshot: Snapshot, bindings: str, where: str | None, account: str, namespace: str) -> Iterator[Raw]:
    for binding in snapshot.raw(bindings):
        if where is not None and binding["metadata"].get("namespace") != where:
            continue
        if any(_is_meant(subject, account, namespace) for subject in binding.get("subjects") or ()):
            ref = binding["roleRef"]
            role = (
                snapshot.find("clusterroles", ref["name"])
                if ref["kind"] == "ClusterRole"
                else snapshot.find("roles", ref["name"], where or "")
            )
            yield from (role or {}).get("rules") or ()


def _is_meant(subject: Raw, account: str, namespace: str) -> bool:
    kind, name = subject.get("kind"), subject.get("name")
    if kind == "ServiceAccount":
        return name == account and subject.get("namespace") == namespace
    if kind == "User":
        return bool(name == f"system:serviceaccount:{namespace}:{account}")
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
    return kind == "Group" and name in groups
