"""Resources and placement of pods, as Kubernetes computes them, and what is kept of objects for
it.
"""

from typing import Any

import msgspec
import pytest

from support.builders import GPU, a_node
from unit.session.queueing_world import a_demand, pinned_to
from vdi.api.template import Toleration
from vdi.cluster.capacity import Tolerance, allows_placement, reaches_home, read_capacity
from vdi.cluster.objects import (
    ForeignPod,
    Node,
    NodeSelectorRequirement,
    NodeSelectorTerm,
    PersistentVolume,
    Pod,
    PodResources,
    Taint,
)

CPU_250 = {"requests": {"cpu": "250m"}}


def takes(**spec: Any) -> dict[str, int]:
    return msgspec.convert(spec, PodResources).takes


def test_container_requests_are_summed_with_one_pod_slot() -> None:
    one = {"resources": {"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {GPU: "1"}}}
    assert takes(containers=[one, one]) == {"cpu": 500, "memory": 2**31, GPU: 2, "pods": 1}
    assert takes() == {"pods": 1}


def test_limits_stand_for_requests_that_are_missing() -> None:
    both = {"resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "2", "memory": "1Gi"}}}
    assert takes(containers=[both]) == {"cpu": 100, "memory": 2**30, "pods": 1}


def test_init_containers_run_before_and_sidecars_beside() -> None:
    large = {"resources": {"requests": {"cpu": "2"}}}
    side = {"resources": CPU_250, "restartPolicy": "Always"}
    assert takes(containers=[{"resources": CPU_250}], initContainers=[large])["cpu"] == 2000
    assert takes(containers=[{"resources": CPU_250}], initContainers=[side, large])["cpu"] == 2250
    assert takes(containers=[{"resources": CPU_250}], initContainers=[side, side])["cpu"] == 750


def test_requests_of_the_whole_pod_and_overhead() -> None:
    spec = {
        "containers": [{"resources": CPU_250}],
        "resources": {"requests": {"cpu": "1"}},
        "overhead": {"cpu": "10m"},
    }
    assert takes(**spec)["cpu"] == 1010


def test_fractions_are_rounded_up() -> None:
    assert takes(containers=[{"resources": {"requests": {"cpu": "0.0001", "memory": "1.5"}}}]) == {
        "cpu": 1,
        "memory": 2,
        "pods": 1,
    }


def test_equal_pods_share_their_sums() -> None:
    container = b'{"resources": {"requests": {"cpu": "1"}}}'
    text = (
        b'{"metadata": {"name": "x"}, "spec": {"nodeName": "n", "containers": ['
        + container
        + b"]}}"
    )
    one, two = (msgspec.json.decode(text, type=ForeignPod) for _ in range(2))
    assert one.spec.takes is two.spec.takes
    assert one.spec.containers == ()
    assert one.spec.takes == {"cpu": 1000, "pods": 1}


def test_bound_pod_drops_its_scheduling_fields() -> None:
    spec = {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "k"}]}
    unbound = msgspec.convert({"metadata": {"name": "x"}, "spec": spec}, Pod)
    assert unbound.spec.node_selector == {"a": "b"} and unbound.spec.tolerations[0].key == "k"
    bound = msgspec.convert({"metadata": {"name": "x"}, "spec": {**spec, "nodeName": "n"}}, Pod)
    assert bound.spec.node_selector == {} and bound.spec.tolerations == ()


@pytest.mark.parametrize(
    ("toleration", "covered"),
    [
        ({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}, True),
        ({"key": "k", "value": "v"}, True),
        ({"key": "k", "operator": "Exists"}, True),
        ({"operator": "Exists"}, True),
        ({"key": "k", "value": "other"}, False),
        ({"key": "other", "operator": "Exists"}, False),
        ({"key": "k", "operator": "Exists", "effect": "NoExecute"}, False),
        ({}, False),
    ],
)
def test_tolerations(toleration: dict[str, str], covered: bool) -> None:
    taint = Taint("k", "v", "NoSchedule")
    assert Tolerance.of(msgspec.convert(toleration, Toleration)).covers(taint) is covered


@pytest.mark.parametrize(
    ("operator", "values", "found", "holds"),
    [
        ("In", ["a", "b"], "b", True),
        ("In", ["a"], None, False),
        ("NotIn", ["a"], None, True),
        ("NotIn", ["a"], "a", False),
        ("Exists", [], "x", True),
        ("Exists", [], None, False),
        ("DoesNotExist", [], None, True),
        ("Gt", ["5"], "6", True),
        ("Gt", ["5"], "5", False),
        ("Lt", ["5"], "4", True),
        ("Lt", ["5"], "many", False),
        ("Unheard", ["5"], "5", False),
    ],
)
def test_expressions(operator: str, values: list[str], found: str | None, holds: bool) -> None:
    assert NodeSelectorRequirement("k", operator, tuple(values)).holds(found) is holds


def test_a_volume_names_its_nodes_by_label_or_by_name() -> None:
    field = {"key": "metadata.name", "operator": "In", "values": ["n2"]}
    terms = [{"matchFields": [field]}]
    spec = {"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}
    volume = msgspec.convert({"metadata": {"name": "v"}, "spec": spec}, PersistentVolume)
    assert [term.means(name, {}) for name in ("n1", "n2") for term in volume.pin] == [False, True]
    assert msgspec.convert({"metadata": {"name": "v"}}, PersistentVolume).pin == ()
    assert not NodeSelectorTerm().means("n1", {}), "a term without expressions means no node"


def test_homes_and_labels_and_taints_of_state() -> None:
    room = read_capacity(a_node("n1", labels={"kind": "gpu"}))
    assert reaches_home(a_demand(pin=pinned_to("n1")), room) and not reaches_home(
        a_demand(pin=pinned_to("n2")), room
    )
    assert allows_placement(a_demand(selector=[("kind", "gpu")]), room)
    assert not allows_placement(a_demand(selector=[("kind", "cpu")]), room)
    pressed = read_capacity(
        a_node("n1", taints=[{"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"}])
    )
    assert pressed.closed == "short of disk" and allows_placement(a_demand(), pressed)
    rather_not = read_capacity(a_node("n1", taints=[{"key": "k", "effect": "PreferNoSchedule"}]))
    assert not rather_not.closed and allows_placement(a_demand(), rather_not)


def test_node_with_an_unnamed_image_is_decoded() -> None:
    """Seen with containerd: `names: null`, after a tag had moved to a newer image."""
    images = b'[{"names":null,"sizeBytes":5},{"names":["a:1"],"sizeBytes":7}]'
    node = msgspec.json.decode(
        b'{"metadata":{"name":"n"},"status":{"images":' + images + b"}}", type=Node
    )
    assert [image.names for image in node.status.images] == [None, ("a:1",)]


def test_decoded_pod_keeps_only_used_fields() -> None:
    pod = msgspec.json.decode(
        b"""{"metadata": {"name": "p"},
        "spec": {"volumes": [{"name": "tmp", "emptyDir": {}},
                             {"name": "home", "persistentVolumeClaim": {"claimName": "home-a"}}]},
        "status": {"conditions": [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "True"},
                                  {"type": "PodScheduled", "status": "True"},
                                  {"type": "DisruptionTarget", "status": "True"}]}}""",
        type=Pod,
    )
    assert [condition.type for condition in pod.status.conditions] == [
        "Ready",
        "PodScheduled",
        "DisruptionTarget",
    ]
    assert [volume.name for volume in pod.spec.volumes] == ["home"]
    assert pod.home_claim == "home-a"
