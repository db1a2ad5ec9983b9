"""`podTemplate` and ephemeral storage of templates, against a real API server and scheduler."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from cluster.operator_stage import Object, Stage
from vdi.kube.resource import Resource

pytestmark = pytest.mark.timeout(90)

PRIORITY_CLASSES = Resource("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False)
NO_HOME: dict[str, Any] = {"persistence": {"enabled": False}, "resources": {"defaultGPU": 0}}


@pytest.fixture
async def priority_class(stage: Stage) -> AsyncIterator[str]:
    body = {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": stage.namespace},
        "value": 1000,
    }
    await stage.api.create(PRIORITY_CLASSES, body, into=msgspec.Raw)
    yield stage.namespace
    await stage.api.delete(PRIORITY_CLASSES, stage.namespace, into=msgspec.Raw)


def a_pod_template(**spec: str) -> Object:
    metadata = {"labels": {"team": "cad"}, "annotations": {"example.com/cost-centre": "4711"}}
    return {"podTemplate": {"metadata": metadata, "spec": spec}}


async def test_pod_template_reaches_the_pod(stage: Stage, priority_class: str) -> None:
    await stage.node("disk", has={"ephemeral-storage": "100Gi"})
    resources = {"defaultGPU": 0, "defaultEphemeralStorage": "5Gi", "maxEphemeralStorage": "20Gi"}
    pod_template = a_pod_template(priorityClassName=priority_class)
    placed = {"placement": {"nodeSelector": stage.here}}
    template = await stage.template(**(NO_HOME | pod_template | placed | {"resources": resources}))
    async with stage.operator():
        pod = await stage.pod_of(await stage.session("alice", template))
        assert pod["metadata"]["labels"]["team"] == "cad"
        assert pod["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "vdi-operator"
        assert pod["metadata"]["annotations"]["example.com/cost-centre"] == "4711"
        assert pod["spec"]["priority"] == 1000
        requirements = pod["spec"]["containers"][0]["resources"]
        assert requirements["limits"]["ephemeral-storage"] == requirements["requests"]["ephemeral-storage"] == "5Gi"
