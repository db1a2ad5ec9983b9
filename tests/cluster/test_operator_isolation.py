"""Root in a user namespace, and programs from images, in a namespace with Pod Security `restricted`."""

import msgspec
import pytest

from cluster.operator_stage import Stage
from vdi.kube.resource import NODES, Resource
from vdi.session.conditions import Reason

pytestmark = pytest.mark.timeout(90)

NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
ABLE = {
    "nodeInfo": {
        **dict.fromkeys(("machineID", "systemUUID", "bootID", "osImage", "kubeProxyVersion"), ""),
        "operatingSystem": "linux",
        "architecture": "amd64",
        "kubeletVersion": "v1.36.3",
        "kernelVersion": "6.8.0",
        "containerRuntimeVersion": "containerd://2.4.2",
    },
    "runtimeHandlers": [{"name": "", "features": {"userNamespaces": True}}],
}


async def test_root_waits_for_an_able_node_and_passes_restricted(stage: Stage) -> None:
    level = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    await stage.api.patch(NAMESPACES, stage.namespace, level, into=msgspec.Raw)
    node = await stage.node("able")
    template = await stage.template(
        isolation={"userNamespaces": "Required", "rootInDesktop": True},
        programs=[{"image": "registry.example.com/blender:4", "mountPath": "/opt/blender"}],
        placement={"nodeSelector": stage.here},
        persistence={"enabled": False},
    )
    async with stage.operator():
        session = await stage.session("root", template)
        waiting = await stage.reach("root", "Pending", f"but node {node} has kubelet of unknown version")
        assert waiting["status"]["queue"]["reason"] == Reason.NODE_FEATURE_MISSING
        await stage.api.patch(NODES, node, {"status": ABLE}, subresource="status", into=msgspec.Raw)
        pod = await stage.pod_of(session)
        assert pod["spec"]["hostUsers"] is False and pod["spec"]["securityContext"]["runAsUser"] == 0
        assert pod["spec"]["affinity"]["nodeAffinity"]
        await stage.make_ready(pod)
        running = await stage.reach("root", "Running")
        assert running["status"]["isolation"] == {"userNamespace": True}
