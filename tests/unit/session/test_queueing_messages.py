"""Why somebody waits, in words; and when there is room at the latest."""

import pytest

from support.builders import GPU, a_node
from unit.session.queueing_world import MINUTE, a_demand, pinned_to
from vdi.cluster.capacity import IMAGE_VOLUMES, Demand, Need, read_capacity
from vdi.cluster.objects import Node
from vdi.session.conditions import QUEUE_REASONS
from vdi.session.queueing.messages import (
    ExpectedEnd,
    Shortage,
    expect_slots,
    explain_shortage,
    find_fitting,
)
from vdi.session.queueing.queue import Queue


def explain(
    demand: Demand, *nodes: Node, taken: dict[str, dict[str, int]] | None = None
) -> Shortage:
    queue = Queue()
    for node in nodes:
        queue.set_node(read_capacity(node))
    for name, takes in (taken or {}).items():
        queue.bind(f"on {name}", name, takes, now=0)
    shortage = explain_shortage(
        queue.group_of(demand),
        queue.capacities,
        lambda one: find_fitting(one, queue.capacities.values()),
    )
    assert shortage.reason in QUEUE_REASONS
    return shortage


def full(*names: str) -> dict[str, dict[str, int]]:
    return {name: {GPU: 8} for name in names}


ONE, TWO = [a_node("n1")], [a_node("n1"), a_node("n2")]
WITHOUT_GPUS = [a_node("n1", allocatable={GPU: "0"})]
FEW_GPUS = [a_node("n1", allocatable={GPU: "4"}), a_node("n2", allocatable={"cpu": "4"})]
TAINTED = [a_node("n1", taints=[{"key": "owner", "value": "lab", "effect": "NoSchedule"}])]
CLOSED = [a_node("n1", unschedulable=True), a_node("n2", ready=False)]
LABELLED = [a_node("n1"), a_node("n2", labels={"kind": "gpu"})]
USED = {"n1": {"memory": 10 * 2**30}, "n2": {"memory": 20 * 2**30}}
MIXED = {**full("n1", "n2"), "n3": {"cpu": 16000}}
WITH_PROGRAMS = a_demand(needs=(Need(IMAGE_VOLUMES),))
ON_N1, ON_N9, OF_GPU = pinned_to("n1"), pinned_to("n9"), [("kind", "gpu")]


@pytest.mark.parametrize(
    ("demand", "nodes", "taken", "reason", "words"),
    [
        (a_demand(), [], {}, "NodesUnavailable", "the cluster has no node"),
        (
            a_demand(),
            ONE,
            {},
            "Reserved",
            "node n1 is reserved for a session that has waited longer",
        ),
        (a_demand(), ONE, full("n1"), "GPUsBusy", f"all 8 {GPU} on node n1 are in use"),
        (
            a_demand(),
            TWO,
            full("n1", "n2"),
            "GPUsBusy",
            f"all 16 {GPU} on nodes n1 and n2 are in use",
        ),
        (
            a_demand(gpu=4),
            ONE,
            {"n1": {GPU: 6}},
            "GPUsBusy",
            "needed on one node, but the most that is free is 2",
        ),
        (a_demand(), WITHOUT_GPUS, {}, "NoGPUs", f"no node (there is only n1) offers {GPU}"),
        (a_demand(gpu=9), TWO, {}, "TooLarge", f"it needs 9 of {GPU}, but the largest node has 8"),
        (
            a_demand(gpu=8, cpu=16000),
            FEW_GPUS,
            {},
            "TooLarge",
            "no single node has everything that is needed (16",
        ),
        (
            a_demand(selector=OF_GPU),
            TWO,
            {},
            "NoMatchingNode",
            "none of 2 nodes has the label kind=gpu",
        ),
        (
            a_demand(),
            TAINTED,
            {},
            "NoMatchingNode",
            "a taint that the template does not tolerate (owner=lab:",
        ),
        (
            a_demand(),
            CLOSED,
            {},
            "NodesUnavailable",
            "node n1 is cordoned and node n2 is not ready",
        ),
        (
            a_demand(pin=ON_N1),
            CLOSED,
            {},
            "NodesUnavailable",
            "the home is on node n1, and node n1 is cordoned",
        ),
        (
            a_demand(pin=ON_N1),
            TWO,
            full("n1"),
            "HomeNodeFull",
            "the home is on node n1, where all 8",
        ),
        (
            a_demand(pin=ON_N1),
            TWO,
            full("n1", "n2"),
            "GPUsBusy",
            f"all 8 {GPU} on node n1 are in use",
        ),
        (
            a_demand(pin=ON_N9),
            ONE,
            {},
            "HomeNodeGone",
            "the home is on node n9, which is not in the",
        ),
        (
            a_demand(pin=ON_N1, selector=OF_GPU),
            LABELLED,
            {},
            "NoMatchingNode",
            "placement does not allow this desktop",
        ),
        (
            WITH_PROGRAMS,
            ONE,
            {},
            "NodeFeatureMissing",
            "the template needs image volumes, but node n1 has kubelet of unknown version",
        ),
        (
            a_demand(memory=60 * 2**30),
            TWO,
            USED,
            "MemoryBusy",
            "but the most that is free is 54Gi, on node n1",
        ),
        (
            a_demand(gpu=0, cpu=2000),
            ONE,
            {"n1": {"cpu": 15500}},
            "CPUBusy",
            "but node n1 has 500m of 16 free",
        ),
        (
            a_demand(gpu=0),
            ONE,
            {"n1": {"pods": 110}},
            "PodsBusy",
            "node n1: the maximum number of pods (110)",
        ),
        (a_demand(), [*TWO, a_node("n3")], MIXED, "GPUsBusy", "; other nodes have too little CPU"),
    ],
)
def test_reasons(
    demand: Demand, nodes: list[Node], taken: dict[str, dict[str, int]], reason: str, words: str
) -> None:
    shortage = explain(demand, *nodes, taken=taken)
    assert shortage.reason == reason
    assert words in shortage.words


def test_other_workloads_are_reported_apart() -> None:
    queue = Queue()
    queue.set_node(read_capacity(a_node("n1")))
    queue.bind("training", "n1", {GPU: 6}, foreign=True, now=0)
    queue.bind("desktops", "n1", {GPU: 2}, now=0)
    assert explain_shortage(
        queue.group_of(a_demand()), queue.capacities, lambda _: []
    ).words.endswith("are in use (6 by other workloads)")


def test_slots_are_counted_from_the_ends_of_those_who_run() -> None:
    queue = Queue()
    for name in ("n1", "n2"):
        queue.set_node(read_capacity(a_node(name, allocatable={GPU: "2"})))
    for number in range(4):
        queue.bind(f"r{number}", f"n{number % 2 + 1}", {GPU: 1}, now=0)
    ends = [
        ExpectedEnd((number + 1) * MINUTE, f"n{number % 2 + 1}", {GPU: 1}) for number in range(4)
    ]
    one, two = queue.group_of(a_demand()), queue.group_of(a_demand(gpu=2))
    assert expect_slots(one, ends, 3) == [MINUTE, 2 * MINUTE, 3 * MINUTE]
    assert expect_slots(two, ends, 3) == [
        3 * MINUTE,
        4 * MINUTE,
    ], "two on one node: the third and the fourth end"
    assert expect_slots(queue.group_of(a_demand(pin=pinned_to("n2"))), ends, 3) == [
        2 * MINUTE,
        4 * MINUTE,
    ]
    assert expect_slots(queue.group_of(a_demand(gpu=3)), ends, 3) == []
