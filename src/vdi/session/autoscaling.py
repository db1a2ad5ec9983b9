"""Placeholder pods that make the cluster's autoscaler add nodes, and the autoscaler's answers.
Pure.

A session that waits has no pod, so an autoscaler does not see it. A placeholder is a pod of the
same shape and of low priority that does nothing. While no node takes it, the autoscaler has a
reason to add one. Desktops do not wait for its place: the queue does not count placeholders, and
the scheduler preempts them.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from vdi.cluster.capacity import Demand
from vdi.cluster.objects import Event, NodeSelectorTerm, Pod
from vdi.cluster.units import PODS, parse_time
from vdi.session.children import restricted_container, restricted_pod
from vdi.session.naming import MANAGED_BY

# Label of a placeholder: the key of its shape.
PLACEHOLDER = "vdi.kasm.io/placeholder"

HOSTNAME = "kubernetes.io/hostname"
_ENDED = frozenset({"Succeeded", "Failed"})
_ADDS = frozenset({"TriggeredScaleUp", "Nominated"})
_REFUSES = frozenset({"NotTriggerScaleUp", "FailedScheduling"})
# In Karpenter's note of a nomination for an existing node; one for a new node has only
# `nodeclaim/`.
_EXISTING_NODE = " node/"
_SCHEDULER = "default-scheduler"
_PREFIX = re.compile(
    r"^\s*(\(combined from similar events\):\s*)?"
    r"(pod didn't trigger scale-up(\s*\(it wouldn't fit if a new node is added\))?:?|Failed to"
    r" schedule pod,)\s*",
    re.IGNORECASE,
)
_NEXT_REASON = re.compile(r", (?=\d+ )")
# Phrases of cluster-autoscaler about node groups, after their number.
_PHRASES = {
    "max node group size reached": "node group has reached its maximum size",
    "in backoff after failed scale-up": (
        "node group failed to grow (cloud quota, or no machines left) and is retried later"
    ),
    "not ready for scale-up": "node group is not ready",
}
_USER_ID = 1000
# Not 0: with a forced deletion the kubelet would still count the GPU, and refuse the desktop that
# takes its place.
_GRACE_SECONDS = 1
# Without this, a pod without a controller keeps the autoscaler from removing its node.
_SAFE_TO_EVICT = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "true"}


@dataclass(frozen=True, slots=True)
class AutoscalingSettings:
    """The administrator's settings of placeholders and headroom."""

    # Placeholders for waiting sessions at a time; headroom is not counted.
    max_placeholders: int = 10
    # Free slots to keep by template, each of the template's default size.
    headroom: Mapping[str, int] = field(default_factory=dict)
    # A namespace of their own, so that placeholders use no quota of the sessions. Empty: there are
    # none.
    namespace: str = ""
    image: str = ""
    priority_class: str = ""

    @property
    def enabled(self) -> bool:
        """Whether nodes are requested at all."""
        return bool(self.namespace)


class EventSource(msgspec.Struct, gc=False):
    """`deprecatedSource` of an Event: older autoscalers name themselves here."""

    component: str = ""


class AutoscalerEvent(Event, rename="camel", gc=False):
    """An Event about a placeholder, with its author."""

    reporting_controller: str = ""
    deprecated_source: EventSource = msgspec.field(default_factory=EventSource)

    @property
    def author(self) -> str:
        """The controller that reported it."""
        return self.reporting_controller or self.deprecated_source.component


@dataclass(frozen=True, slots=True)
class NodeRequest:
    """A node that was requested for one shape, and has not come yet."""

    # When the oldest open request was made, RFC 3339.
    time: str
    message: str


@dataclass(frozen=True, slots=True)
class PlaceholderPlan:
    # Names, with the shape of each.
    create: tuple[tuple[str, Demand], ...]
    delete: tuple[Pod, ...]


def shape_key(demand: Demand) -> str:
    """The same for the same shape, in every process: a create whose response was lost cannot make a
    second pod.
    """
    return hashlib.sha256(msgspec.json.encode(demand, order="deterministic")).hexdigest()[:12]


def can_use_new_node(demand: Demand) -> bool:
    """Whether a node that is not there yet could run it: not if its home lies on one machine."""
    return not demand.pin or bool(terms_for_new_node(demand))


def terms_for_new_node(demand: Demand) -> list[NodeSelectorTerm]:
    """The terms of the home's volume that do not name a machine, such as its zone."""
    return [
        term
        for term in demand.pin
        if not term.match_fields
        and not any(expression.key == HOSTNAME for expression in term.match_expressions)
    ]


def count_placeholders(
    waiting: Iterable[tuple[Demand, int]],
    *,
    limit: int,
    headroom: Iterable[tuple[Demand, int]],
) -> dict[Demand, int]:
    """The number of placeholders of each shape. `waiting`: sessions by shape, in the order of the
    queue.
    """
    counts: dict[Demand, int] = defaultdict(int)
    left = limit
    for demand, number in waiting:
        granted = min(number, left) if can_use_new_node(demand) else 0
        if granted:
            counts[demand] += granted
            left -= granted
    for demand, number in headroom:
        counts[demand] += number
    return dict(counts)


def plan_placeholders(counts: Mapping[Demand, int], pods: Iterable[Pod]) -> PlaceholderPlan:
    """The placeholders that are missing, and those that are too many.

    Of too many, those on a node go first: a session takes their place. Then the youngest.
    """
    by_key: dict[str, list[Pod]] = defaultdict(list)
    for pod in pods:
        by_key[pod.metadata.labels.get(PLACEHOLDER, "")].append(pod)
    create: list[tuple[str, Demand]] = []
    delete: list[Pod] = []
    for demand, count in counts.items():
        key = shape_key(demand)
        present = by_key.pop(key, [])
        live = [pod for pod in present if not pod.terminating and pod.status.phase not in _ENDED]
        delete += [pod for pod in present if not pod.terminating and pod.status.phase in _ENDED]
        if len(live) > count:
            live.sort(
                key=lambda pod: (pod.metadata.creation_timestamp, pod.metadata.name), reverse=True
            )
            live.sort(key=lambda pod: not pod.spec.node_name)
            delete += live[: len(live) - count]
        taken = {pod.metadata.name for pod in present}
        free = (
            name
            for number in range(count + len(present))
            if (name := _name(key, number)) not in taken
        )
        create += [(name, demand) for name, _ in zip(free, range(count - len(live)), strict=False)]
    for present in by_key.values():
        delete += [pod for pod in present if not pod.terminating]
    return PlaceholderPlan(tuple(create), tuple(delete))


def find_node_requests(
    demands: Iterable[Demand], pods: Iterable[Pod], events: Iterable[AutoscalerEvent]
) -> dict[Demand, NodeRequest]:
    """The open request of each shape, with the autoscaler's answer in words."""
    newest: dict[str, AutoscalerEvent] = {}
    for event in events:
        uid, known = event.regarding.uid, newest.get(event.regarding.uid)
        if _is_answer(event) and (known is None or known.seen <= event.seen):
            newest[uid] = event
    waiting: dict[str, list[Pod]] = defaultdict(list)
    for pod in pods:
        if not pod.spec.node_name and not pod.terminating:
            waiting[pod.metadata.labels.get(PLACEHOLDER, "")].append(pod)
    requests = {}
    for demand in demands:
        if of_shape := waiting.get(shape_key(demand)):
            answers = [newest[pod.metadata.uid] for pod in of_shape if pod.metadata.uid in newest]
            time = min(pod.metadata.creation_timestamp for pod in of_shape)
            requests[demand] = NodeRequest(time, _describe(answers, time))
    return requests


def _name(key: str, number: int) -> str:
    return f"placeholder-{key}-{number}"


def _is_answer(event: AutoscalerEvent) -> bool:
    """Whether it says something about a node to come.

    Karpenter nominates pods also for nodes that are there, whose place a desktop may take first.
    Its refusal after that is one that it has given before, and does not come again for five
    minutes.
    """
    if event.reason in _ADDS:
        return _EXISTING_NODE not in event.note
    return event.reason in _REFUSES and event.author != _SCHEDULER


def _describe(answers: Collection[AutoscalerEvent], time: str) -> str:
    at = f"{parse_time(time):%H:%M:%S} UTC"
    if any(answer.reason in _ADDS for answer in answers):
        return f"A node is being added (requested at {at})."
    refusal = max(answers, key=lambda answer: answer.seen, default=None)
    if refusal is None:
        return f"A node was requested at {at}."
    reason = _PREFIX.sub("", refusal.note).strip().rstrip(".")
    # cluster-autoscaler lists its reasons in random order. Sorted, the same answer causes no new
    # status.
    reason = ", ".join(sorted(_NEXT_REASON.split(reason)))
    for phrase, replacement in _PHRASES.items():
        reason = reason.replace(phrase, replacement)
    if not reason:
        return f"The autoscaler has not added a node and reports no reason (requested at {at})."
    return f"The autoscaler cannot add a node: {reason} (requested at {at})."


def build_placeholder(
    demand: Demand, name: str, namespace: str, *, image: str, priority_class: str
) -> dict[str, Any]:
    metadata = {
        "name": name,
        "namespace": namespace,
        "labels": {**MANAGED_BY, PLACEHOLDER: shape_key(demand)},
        "annotations": _SAFE_TO_EVICT,
    }
    spec: dict[str, Any] = {
        "priorityClassName": priority_class,
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        **restricted_pod(_USER_ID),
        "containers": [_build_container(demand, image)],
    }
    if demand.selector:
        spec["nodeSelector"] = dict(demand.selector)
    if demand.tolerances:
        spec["tolerations"] = [
            {
                field: value
                for field, value in (
                    ("key", tolerance.key),
                    ("operator", tolerance.operator),
                    ("value", tolerance.value),
                    ("effect", tolerance.effect),
                )
                if value
            }
            for tolerance in demand.tolerances
        ]
    if terms := terms_for_new_node(demand):
        required = {"nodeSelectorTerms": msgspec.to_builtins(terms)}
        spec["affinity"] = {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}
        }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _build_container(demand: Demand, image: str) -> dict[str, Any]:
    requests = {}
    for name, number in demand.takes:
        if name != PODS:
            requests[name] = f"{number}m" if name == "cpu" else str(number)
    extended = {name: quantity for name, quantity in requests.items() if "/" in name}
    return {
        "name": "placeholder",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "infinity"],
        # Images built for GPUs would request all of them.
        "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}],
        "resources": {"requests": requests, **({"limits": extended} if extended else {})},
        "securityContext": restricted_container(is_read_only=True),
    }
