"""Nodes that an autoscaler could remove, and what on them lasts for ever."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vdi.api.session import VDISession
from vdi.diagnosis.check import check
from vdi.diagnosis.snapshot import Raw, Snapshot
from vdi.doctor.checks.registry import found
from vdi.doctor.objects.operators import find_operators
from vdi.doctor.objects.sessions import pinned_nodes
from vdi.findings.model import Finding, Remedy
from vdi.session.activity import idle_timeout
from vdi.session.autoscaling import PLACEHOLDER
from vdi.session.observed import HOLD, Node, Pod
from vdi.session.units import format_duration

_OLD_SECONDS = 3600.0
"""How long a desktop without an end has run before it is reported."""
_CONTROL_PLANE = "node-role.kubernetes.io/control-plane"
_KARPENTER = "karpenter.sh/nodepool"
_SAFE = "cluster-autoscaler.kubernetes.io/safe-to-evict"
_KEEPS_NODE = {"cluster-autoscaler.kubernetes.io/scale-down-disabled": "true", "karpenter.sh/do-not-disrupt": "true"}
"""Annotations of a node with which an autoscaler never removes it."""
_KEEPS_POD = {_SAFE: "false", "karpenter.sh/do-not-disrupt": "true"}
"""Annotations of a pod with which an autoscaler never evicts it."""
_OF_NODE = frozenset({"DaemonSet", "Node"})
"""Kinds whose pods come and go with their node."""
_MOST_COMMANDS = 6


@dataclass(frozen=True)
class _Keeper:
    """One thing that keeps a node for ever."""

    one: str
    """What it is, for the message."""
    several: str
    evidence: str
    commands: tuple[str, ...]


@check("nodes", "pods@all", "deployments", "vdisessions", "vditemplates", "persistentvolumes")
def nodes_kept(snapshot: Snapshot) -> Iterator[Finding]:
    """Nodes for desktops on a cluster with an autoscaler, that stay although no one may need them."""
    if not any(operator.requests_nodes for operator in find_operators(snapshot)):
        return
    sessions, pods = _sessions_by_node(snapshot), _pods_by_node(snapshot)
    for name, node in sorted(snapshot.nodes.items()):
        here = sessions.get(name, [])
        if not _is_for_desktops(snapshot, node, bool(here)):
            continue
        raw = snapshot.find("nodes", name) or {}
        keepers = [
            *_annotations(name, raw),
            *(keeper for session, _ in here if (keeper := _endless(snapshot, session))),
            *(keeper for pod in pods.get(name, []) if (keeper := _unmovable(pod))),
        ]
        if not keepers:
            continue
        yield found(
            "node_kept",
            f"node/{name}",
            f"An autoscaler cannot remove the node {name}: {_count(keepers)}.",
            evidence=[
                *(keeper.evidence for keeper in keepers),
                *(_describe_desktop(snapshot, session, pod, name) for session, pod in here),
            ],
            remedy=Remedy(
                commands=tuple(command for keeper in keepers for command in keeper.commands)[:_MOST_COMMANDS]
            ),
            related_objects=[f"vdisession/{s.metadata.namespace}/{s.metadata.name}" for s, _ in here],
        )


def _sessions_by_node(snapshot: Snapshot) -> dict[str, list[tuple[VDISession, Pod]]]:
    by_node: dict[str, list[tuple[VDISession, Pod]]] = defaultdict(list)
    for session in snapshot.all_sessions:
        for pod in snapshot.pods_by_owner.get(session.metadata.uid, []):
            if pod.spec.node_name and not pod.terminating:
                by_node[pod.spec.node_name].append((session, pod))
    return by_node


def _pods_by_node(snapshot: Snapshot) -> dict[str, list[Raw]]:
    by_node: dict[str, list[Raw]] = defaultdict(list)
    ours = {session.metadata.uid for session in snapshot.all_sessions}
    for pod in snapshot.raw("pods"):
        owners = pod["metadata"].get("ownerReferences") or ()
        ended = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
        if not ended and not any(owner.get("uid") in ours for owner in owners):
            by_node[pod["spec"].get("nodeName", "")].append(pod)
    return by_node


def _is_for_desktops(snapshot: Snapshot, node: Node, has_desktops: bool) -> bool:
    """Whether it is a node that comes and goes with desktops, as far as that can be seen."""
    labels = node.metadata.labels
    if _CONTROL_PLANE in labels:
        return False
    selectors = (template.spec.placement.node_selector for template in snapshot.templates.values())
    chosen = any(selector and selector.items() <= labels.items() for selector in selectors)
    return has_desktops or chosen or _KARPENTER in labels


def _annotations(name: str, raw: Raw) -> Iterator[_Keeper]:
    for key in _matching(raw, _KEEPS_NODE):
        yield _Keeper(
            "an annotation of the node",
            "annotations of the node",
            f"node/{name}: annotation {key}={_KEEPS_NODE[key]}",
            (f"kubectl annotate node {name} {key}-",),
        )


def _endless(snapshot: Snapshot, session: VDISession) -> _Keeper | None:
    """A desktop that nothing but a person ends."""
    template = snapshot.templates.get(session.spec.template)
    if template is None or template.spec.schedule or session.status.expires_at:
        return None
    if idle_timeout(session, template) is not None or snapshot.age(session.status.start_time) < _OLD_SECONDS:
        return None
    name, namespace = session.metadata.name, session.metadata.namespace
    return _Keeper(
        "a desktop without an end",
        "desktops without an end",
        f"vdisession/{namespace}/{name}: runs for {_hours(snapshot.age(session.status.start_time))}, without "
        f"idleTimeout, timeout and schedule (template {session.spec.template})",
        (f"vdi session suspend {name} --namespace {namespace}",),
    )


def _unmovable(pod: Raw) -> _Keeper | None:
    """A pod that autoscalers leave where it is. Pods of DaemonSets and of the node itself do not count."""
    metadata = pod["metadata"]
    owners = [owner for owner in metadata.get("ownerReferences") or () if owner.get("controller")]
    if PLACEHOLDER in (metadata.get("labels") or {}) or any(owner.get("kind") in _OF_NODE for owner in owners):
        return None
    where, name = metadata.get("namespace", ""), metadata["name"]
    keys = _matching(pod, _KEEPS_POD)
    if keys:
        why = f"annotation {keys[0]}={_KEEPS_POD[keys[0]]}"
        command = f"kubectl annotate pod {name} --namespace {where} {keys[0]}-"
    elif not owners and (metadata.get("annotations") or {}).get(_SAFE) != "true":
        why = "no controller creates it again"
        command = f"kubectl annotate pod {name} --namespace {where} {_SAFE}=true"
    else:
        return None
    return _Keeper("a pod that is not evicted", "pods that are not evicted", f"pod/{where}/{name}: {why}", (command,))


def _matching(raw: Raw, expected: Mapping[str, str]) -> list[str]:
    annotations = (raw.get("metadata") or {}).get("annotations") or {}
    return [key for key, value in expected.items() if annotations.get(key) == value]


def _describe_desktop(snapshot: Snapshot, session: VDISession, pod: Pod, node: str) -> str:
    """When this desktop leaves the node by itself, and what refuses to let it be evicted."""
    template = snapshot.templates.get(session.spec.template)
    timeout, facts = idle_timeout(session, template), []
    if timeout is not None:
        facts.append(f"ends after {format_duration(timeout)} without activity")
    if session.status.expires_at:
        facts.append(f"ends at {session.status.expires_at}")
    if template and template.spec.schedule:
        facts.append("ends with its template's working hours")
    if pod.metadata.labels.get(HOLD) == "true":
        facts.append("its PodDisruptionBudget refuses evictions until drainNotice is over")
    claim = snapshot.claims.get((session.metadata.namespace, session.status.home_claim))
    if claim and node in pinned_nodes(snapshot, claim):
        facts.append(f"its home {claim.metadata.name} is on this node's disk, and is lost with the node")
    name = f"vdisession/{session.metadata.namespace}/{session.metadata.name}"
    return f"{name}: {'; '.join(facts) or 'nothing ends it'}"


def _count(keepers: list[_Keeper]) -> str:
    counts = Counter((keeper.one, keeper.several) for keeper in keepers)
    parts = [one if count == 1 else f"{count} {several}" for (one, several), count in counts.items()]
    return f"{', '.join(parts)} {'keeps' if len(keepers) == 1 else 'keep'} it"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.0f} h"


CHECKS = (nodes_kept,)
