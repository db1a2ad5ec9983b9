"""Which placeholders are made and deleted, what they look like, and what the autoscaler's Events
mean.
"""

from functools import partial
from typing import Any

import msgspec
import pytest

from support.builders import CREATED, GPU
from unit.session.queueing_world import a_demand, pinned_to
from vdi.api.template import Toleration
from vdi.cluster.capacity import Demand, demand_of
from vdi.cluster.objects import NodeSelectorTerm, Pod
from vdi.session.autoscaling import (
    PLACEHOLDER,
    AutoscalerEvent,
    NodeRequest,
    build_placeholder,
    can_use_new_node,
    count_placeholders,
    find_node_requests,
    plan_placeholders,
    shape_key,
)

CPU = a_demand(gpu=0)
ONE_GPU = a_demand(gpu=1)


def a_placeholder(
    demand: Demand, number: int, *, node: str = "", made: str = CREATED, **fields: Any
) -> Pod:
    key = shape_key(demand)
    name = f"placeholder-{key}-{number}"
    metadata = {
        "name": name,
        "uid": f"uid-{name}",
        "labels": {PLACEHOLDER: key},
        "creationTimestamp": made,
    }
    metadata |= fields.pop("metadata", {})
    return msgspec.convert({"metadata": metadata, "spec": {"nodeName": node}, **fields}, Pod)


def an_event(
    pod: Pod, reason: str, note: str = "", *, by: str = "cluster-autoscaler", at: str = ""
) -> AutoscalerEvent:
    body = {
        "metadata": {"name": f"{reason}-{pod.metadata.name}", "creationTimestamp": at or CREATED},
        "regarding": {"kind": "Pod", "name": pod.metadata.name, "uid": pod.metadata.uid},
        "reason": reason,
        "note": note,
        "reportingController": by,
    }
    return msgspec.convert(body, AutoscalerEvent)


def numbers(demand: Demand, *of: int) -> list[str]:
    return [f"placeholder-{shape_key(demand)}-{number}" for number in of]


@pytest.mark.parametrize(
    ("waiting", "limit", "headroom", "counts"),
    [
        ([(ONE_GPU, 3), (CPU, 4)], 5, [], {ONE_GPU: 3, CPU: 2}),
        ([(ONE_GPU, 3)], 0, [], {}),
        ([(ONE_GPU, 3)], 2, [(ONE_GPU, 2), (CPU, 1)], {ONE_GPU: 4, CPU: 1}),
        ([], 2, [(CPU, 1), (CPU, 2)], {CPU: 3}),
        ([(a_demand(pin=pinned_to("n1")), 1)], 5, [], {}),
    ],
    ids=[
        "up to the limit",
        "none",
        "headroom is not limited",
        "two templates of one shape",
        "a home on one machine",
    ],
)
def test_placeholders_are_counted_by_shape(
    waiting: list[tuple[Demand, int]],
    limit: int,
    headroom: list[tuple[Demand, int]],
    counts: dict[Demand, int],
) -> None:
    assert count_placeholders(waiting, limit=limit, headroom=headroom) == counts


def test_missing_placeholders_get_the_lowest_free_numbers() -> None:
    plan = plan_placeholders(
        {ONE_GPU: 3}, [a_placeholder(ONE_GPU, 1), unused := a_placeholder(CPU, 0)]
    )
    assert [name for name, _ in plan.create] == numbers(ONE_GPU, 0, 2)
    assert plan.delete == (unused,)


def test_placeholder_on_a_node_is_deleted_first() -> None:
    waits = a_placeholder(ONE_GPU, 0)
    bound = a_placeholder(ONE_GPU, 1, node="n1")
    younger = a_placeholder(ONE_GPU, 2, made="2026-11-20T08:05:00Z")
    assert plan_placeholders({ONE_GPU: 2}, [waits, bound, younger]).delete == (bound,)
    assert plan_placeholders({ONE_GPU: 1}, [waits, bound, younger]).delete == (bound, younger)


@pytest.mark.parametrize(
    ("fields", "is_deleted"),
    [
        ({"status": {"phase": "Failed"}}, True),
        ({"metadata": {"deletionTimestamp": CREATED}}, False),
    ],
    ids=["ended", "terminating"],
)
def test_name_of_a_placeholder_is_not_reused_at_once(
    fields: dict[str, Any], is_deleted: bool
) -> None:
    gone = a_placeholder(CPU, 0, node="n1", **fields)
    plan = plan_placeholders({CPU: 1}, [gone])
    assert plan.delete == ((gone,) if is_deleted else ())
    assert [name for name, _ in plan.create] == numbers(CPU, 1)


def zone(name: str) -> tuple[NodeSelectorTerm, ...]:
    expression = {"key": "topology.kubernetes.io/zone", "operator": "In", "values": [name]}
    return msgspec.convert([{"matchExpressions": [expression]}], tuple[NodeSelectorTerm, ...])


def test_new_node_helps_a_home_in_a_zone_only() -> None:
    assert not can_use_new_node(a_demand(pin=pinned_to("n1")))
    assert can_use_new_node(a_demand(pin=zone("a")))


def test_placeholder_has_the_shape_of_the_desktop() -> None:
    demand = demand_of(
        {GPU: 1, "cpu": 250, "memory": 2**30, "pods": 1},
        [("pool", "gpu")],
        [Toleration(key="gpu", operator="Exists", effect="NoSchedule")],
        zone("a"),
    )
    pod = build_placeholder(
        demand, "placeholder-x-0", "vdi-placeholders", image="i:1", priority_class="low"
    )
    spec = pod["spec"]
    assert spec["containers"][0]["resources"] == {
        "requests": {GPU: "1", "cpu": "250m", "memory": str(2**30)},
        "limits": {GPU: "1"},
    }
    assert spec["nodeSelector"] == {"pool": "gpu"}
    assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]
    required = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert list(required["nodeSelectorTerms"][0]["matchExpressions"][0]["values"]) == ["a"]
    assert spec["priorityClassName"] == "low"
    assert spec["automountServiceAccountToken"] is False
    assert pod["metadata"]["annotations"] == {
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "true"
    }
    assert pod["metadata"]["labels"][PLACEHOLDER] == shape_key(demand)


FIRST, SECOND = a_placeholder(ONE_GPU, 0), a_placeholder(ONE_GPU, 1, made="2026-11-20T08:05:00Z")
REQUESTED = "A node was requested at 08:00:00 UTC."
ADDING = "A node is being added (requested at 08:00:00 UTC)."
CANNOT = "The autoscaler cannot add a node: {} (requested at 08:00:00 UTC)."
FULL = CANNOT.format(
    "1 node group has reached its maximum size, 2 node(s) had untolerated taint(s)"
)
BACKOFF = CANNOT.format(
    "1 node group failed to grow (cloud quota, or no machines left) and is retried later"
)
LIMITS = "all available instance types exceed limits for nodepool (NodePool=gpu)"
EXCEEDED, NODE_POOL = f"Failed to schedule pod, {LIMITS}", CANNOT.format(LIMITS)


def of_autoscaler(
    reason: str, note: str = "", minute: int = 0, by: str = "cluster-autoscaler"
) -> AutoscalerEvent:
    return an_event(FIRST, reason, note, by=by, at=f"2026-11-20T08:{minute:02}:00Z")


of_karpenter = partial(of_autoscaler, by="karpenter")
NO_SCALE_UP, PENDING = "pod didn't trigger scale-up:", "Pod should schedule on: "
TWO_REASONS = f"{NO_SCALE_UP} 1 max node group size reached, 2 node(s) had untolerated taint(s)"
NO_REASON = "The autoscaler has not added a node and reports no reason (requested at 08:00:00 UTC)."


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([], REQUESTED),
        (
            [
                an_event(
                    FIRST, "FailedScheduling", "0/1 nodes are available", by="default-scheduler"
                )
            ],
            REQUESTED,
        ),
        (
            [of_autoscaler("TriggeredScaleUp", "pod triggered scale-up: [{g 0->1 (max: 3)}]")],
            ADDING,
        ),
        ([of_karpenter("Nominated", PENDING + "nodeclaim/gpu-x")], ADDING),
        ([of_karpenter("Nominated", PENDING + "node/gpu-1")], REQUESTED),
        ([of_autoscaler("NotTriggerScaleUp", TWO_REASONS)], FULL),
        (
            [
                of_autoscaler(
                    "NotTriggerScaleUp", f"{NO_SCALE_UP} 1 in backoff after failed scale-up"
                )
            ],
            BACKOFF,
        ),
        ([of_karpenter("FailedScheduling", EXCEEDED)], NODE_POOL),
        (
            [
                of_autoscaler("TriggeredScaleUp", "", 1),
                of_autoscaler("NotTriggerScaleUp", NO_SCALE_UP, 2),
            ],
            NO_REASON,
        ),
        (
            [
                of_karpenter("FailedScheduling", EXCEEDED, 1),
                of_karpenter("Nominated", PENDING + "nodeclaim/gpu-x, node/gpu-1", 2),
            ],
            NODE_POOL,
        ),
        ([of_autoscaler("NotTriggerScaleUp"), an_event(SECOND, "TriggeredScaleUp")], ADDING),
        ([an_event(a_placeholder(ONE_GPU, 7), "NotTriggerScaleUp")], REQUESTED),
    ],
)
def test_what_the_autoscaler_says_in_words(events: list[AutoscalerEvent], message: str) -> None:
    found = find_node_requests([ONE_GPU, CPU], [FIRST, SECOND], events)
    assert found == {ONE_GPU: NodeRequest(CREATED, message)}
