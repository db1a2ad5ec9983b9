"""Nodes on which the volume of an imported home may be created."""

from collections.abc import Sequence
from typing import Any, cast

import pytest

from support.builders import GPU, a_node, a_template
from support.clock import FakeClock
from vdi.cluster.objects import Node
from vdi.home_copy.archive import find_nodes
from vdi.home_copy.pod import CopyRefusedError, CopyRun, build_copy_pod
from vdi.kube.resource import DEPLOYMENTS, NODES, Resource
from vdi.kube.transport import Client
from vdi.snapshot.objects import convert_object

CAD = a_template("cad", resources={"defaultGPU": 1})
SHARED = "nvidia.com/gpu.shared"


class Lists:
    """A client that lists what the test has put there."""

    def __init__(self, nodes: Sequence[Node], *deployments: dict[str, Any]) -> None:
        operators = [convert_object(DEPLOYMENTS.plural, deployment) for deployment in deployments]
        self.found: dict[Resource, Sequence[Any]] = {NODES: nodes, DEPLOYMENTS: operators}
        self.listed: list[Resource] = []

    async def list(self, resource: Resource, **_: Any) -> Sequence[Any]:
        self.listed.append(resource)
        return self.found[resource]


def a_run(cluster: Lists) -> CopyRun:
    return CopyRun(
        cast(Client, cluster), FakeClock(), ["kubectl"], "desks", lambda _: None, lambda _: None
    )


def an_operator(namespaces: str, **variables: str) -> dict[str, Any]:
    settings = {"VDI_NAMESPACE": namespaces, **variables}
    env: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in settings.items()]
    env.append({"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}})
    containers = [{"name": "proxy"}, {"name": "operator", "env": env}]
    return {
        "metadata": {"name": "vdi-operator"},
        "spec": {"template": {"spec": {"containers": containers}}},
    }


def without_gpu(name: str) -> Node:
    return a_node(name, allocatable={GPU: "0"})


async def test_a_volume_is_created_only_where_its_desktops_have_a_gpu() -> None:
    cluster = Lists([without_gpu("cpu"), a_node("two"), a_node("one"), a_node("off", ready=False)])
    nodes = await find_nodes(a_run(cluster), CAD)
    assert nodes == ("one", "two")
    affinity = build_copy_pod("home", CAD, nodes=nodes)["spec"]["affinity"]["nodeAffinity"]
    terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert [term["matchFields"][0]["values"] for term in terms] == [
        ["one"],
        ["two"],
    ], "one of them must hold"


async def test_a_template_without_gpus_needs_only_its_placement() -> None:
    cluster = Lists([without_gpu("cpu")])
    assert await find_nodes(a_run(cluster), a_template(resources={"defaultGPU": 0})) == ()
    assert cluster.listed == [], "an account that may not list nodes can import it"


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        (an_operator("lab,desks", VDI_GPU_RESOURCE=SHARED), ("shared",)),
        (an_operator("lab", VDI_GPU_RESOURCE=SHARED), ("whole",)),
        (an_operator("desks", VDI_GPU_RESOURCE="no resource"), ("whole",)),
    ],
)
async def test_the_gpu_resource_is_that_of_the_namespace_operator(
    operator: dict[str, Any], expected: tuple[str, ...]
) -> None:
    nodes = [a_node("whole"), a_node("shared", allocatable={GPU: "0", SHARED: "4"})]
    assert await find_nodes(a_run(Lists(nodes, operator)), CAD) == expected


async def test_import_without_a_suitable_node_is_refused() -> None:
    with pytest.raises(
        CopyRefusedError, match="no node can run desktops of the template 'cad' now"
    ):
        await find_nodes(a_run(Lists([without_gpu("cpu")])), CAD)
