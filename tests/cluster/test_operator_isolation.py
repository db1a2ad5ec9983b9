"""Root in a user namespace, and programs from images, in a namespace with Pod Security
`restricted`.
"""

from contextlib import suppress

import pytest

from cluster.operator_stage import Stage
from vdi.kube.errors import Conflict
from vdi.kube.resource import NODES, PODS
from vdi.session.conditions import Reason

pytestmark = pytest.mark.timeout(90)

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
    await stage.restrict()
    node = await stage.node("able")
    template = await stage.template(
        isolation={"userNamespaces": "Required", "rootInDesktop": True},
        programs=[{"image": "registry.example.com/blender:4", "mountPath": "/opt/blender"}],
        placement={"nodeSelector": stage.here},
        persistence={"enabled": False},
    )
    async with stage.operator():
        session = await stage.session("root", template)
        waiting = await stage.reach(
            "root", "Pending", f"but node {node} has kubelet of unknown version"
        )
        assert waiting["status"]["queue"]["reason"] == Reason.NODE_FEATURE_MISSING
        await stage.patch(NODES, node, {"status": ABLE}, subresource="status")
        pod = await stage.pod_of(session)
        assert (
            pod["spec"]["hostUsers"] is False and pod["spec"]["securityContext"]["runAsUser"] == 0
        )
        assert pod["spec"]["affinity"]["nodeAffinity"]
        await stage.make_ready(pod)
        running = await stage.reach("root", "Running")
        assert running["status"]["isolation"] == {"userNamespace": True}


async def test_pod_leaves_a_node_that_refuses_its_namespace(stage: Stage) -> None:
    """For the operator's decision it makes no difference whether such a node joins, or an able one
    is set back.
    """
    node = await stage.node("able")
    await stage.patch(NODES, node, {"status": ABLE}, subresource="status")
    template = await stage.template(
        placement={"nodeSelector": stage.here}, persistence={"enabled": False}
    )
    async with stage.operator():
        session = await stage.session("early", template)
        first = await stage.pod_of(session)
        assert first["spec"]["hostUsers"] is False
        await stage.patch(NODES, node, {"status": {"runtimeHandlers": None}}, subresource="status")
        # Tests of another file on this API server may have started a scheduler.
        with suppress(Conflict):
            await stage.bind(first, node)
        waits = [{"type": "PodReadyToStartContainers", "status": "False"}]
        await stage.patch(
            PODS, first["metadata"]["name"], {"status": {"conditions": waits}}, subresource="status"
        )
        pod = await stage.next_pod(session, first)
        assert "hostUsers" not in pod["spec"]
        await stage.make_ready(pod)
        running = await stage.reach("early", "Running")
        assert (
            "containerd 2.4.2 without user namespaces" in running["status"]["isolation"]["message"]
        )
        assert "failures" not in running["status"]


@pytest.mark.parametrize("mode", ["Auto", "Required"])
async def test_refused_namespace_is_left_out_or_waited_for(stage: Stage, mode: str) -> None:
    """As a kubelet reports a volume without idmapped mounts. No failure counts, and no pod is there
    while it waits.
    """
    node = await stage.node("able")
    await stage.patch(NODES, node, {"status": ABLE}, subresource="status")
    template = await stage.template(
        isolation={"userNamespaces": mode},
        placement={"nodeSelector": stage.here},
        persistence={"enabled": False},
    )
    async with stage.operator():
        session = await stage.session("idmap", template)
        first = await stage.pod_of(session)
        assert first["spec"]["hostUsers"] is False
        # Tests of another file on this API server may have started a scheduler.
        with suppress(Conflict):
            await stage.bind(first, node)
        error = "failed to set MOUNT_ATTR_IDMAP on /volumes/home: invalid argument"
        waiting = {"waiting": {"reason": "RunContainerError", "message": error}}
        statuses = [
            {"name": "desktop", "state": waiting, "image": "", "imageID": "", "ready": False}
        ]
        statuses[0]["restartCount"] = 0
        patch = {"status": {"containerStatuses": statuses}}
        await stage.patch(PODS, first["metadata"]["name"], patch, subresource="status")
        if mode == "Required":
            status = (await stage.reach("idmap", "Pending", 'set isolation.userNamespaces: "Off"'))[
                "status"
            ]
            (admitted,) = [
                condition for condition in status["conditions"] if condition["type"] == "Admitted"
            ]
            assert (
                admitted["reason"] == "NoIdmappedMounts"
                and f"node {node} has no idmapped" in admitted["message"]
            )
            assert "podName" not in status
        else:
            pod = await stage.next_pod(session, first)
            assert "hostUsers" not in pod["spec"]
            await stage.make_ready(pod)
            status = (await stage.reach("idmap", "Running"))["status"]
            assert (
                f"There is no user namespace: node {node} has no idmapped"
                in status["isolation"]["message"]
            )
        assert "failures" not in status
