"""A running desktop is resized, against a real API server. The test is the kubelet and the
scheduler.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import pytest

from cluster.operator_stage import Object, Stage, condition
from cluster.test_operator_crash import MOMENTS, Moment, cut_and_kill
from vdi.kinds import SESSIONS, TEMPLATES
from vdi.kube.errors import Conflict
from vdi.kube.resource import PODS
from vdi.session.cluster_settings import ClusterSettings

pytestmark = pytest.mark.timeout(180)
NAME = "alice-desktop"
OFFER = {
    "defaultGPU": 0,
    "defaultMemory": "2Gi",
    "maxMemory": "100Gi",
    "defaultCPU": "1",
    "maxCPU": "8",
}


async def a_running_desktop(stage: Stage, template: str) -> Object:
    session = await stage.session(NAME, template)
    pod = await stage.pod_of(session)
    await bind(stage, pod)
    await stage.run(NAME)
    await report_resources(stage, pod)
    return session


async def bind(stage: Stage, pod: Object) -> None:
    # Tests of another file on this API server may have started a scheduler.
    with suppress(Conflict):
        await stage.bind(pod, f"{stage.namespace}-one")


async def report_resources(stage: Stage, pod: Object) -> None:
    """As a kubelet does that can resize pods: the API server refuses the others."""
    live = await stage.until(PODS, pod["metadata"]["name"])
    (status,) = live["status"]["containerStatuses"]
    statuses = [{**status, "resources": live["spec"]["containers"][0]["resources"]}]
    await stage.patch(
        PODS,
        pod["metadata"]["name"],
        {"status": {"containerStatuses": statuses}},
        subresource="status",
    )


async def ask(stage: Stage, **resources: str) -> None:
    await stage.patch(SESSIONS, NAME, {"spec": {"resources": {"gpu": 1, **resources}}})


async def resized(stage: Stage, session: Object, **limits: str) -> Object:
    """The pod, when it requests these limits."""

    def is_so(pod: Object) -> object:
        return limits.items() <= pod["spec"]["containers"][0]["resources"]["limits"].items()

    (pod,) = await stage.owned(PODS, session)
    return await stage.until(PODS, pod["metadata"]["name"], is_so, f"its limits are {limits}", 10)


async def test_running_desktop_grows_and_shrinks(stage: Stage) -> None:
    await stage.node("one", has={"memory": "32Gi", "cpu": "8"})
    template = await stage.template(resources=OFFER, placement={"nodeSelector": stage.here})
    async with stage.operator():
        session = await a_running_desktop(stage, template)
        before = await stage.pod_of(session)
        await ask(stage, memory="6Gi", cpu="2")
        pod = await resized(stage, session, memory="6Gi", cpu="2")
        assert pod["metadata"]["uid"] == before["metadata"]["uid"]
        policies = pod["spec"]["containers"][0].get("resizePolicy", [])
        assert all(policy["restartPolicy"] == "NotRequired" for policy in policies), (
            "the default of Kubernetes"
        )
        assert pod["status"]["qosClass"] == before["status"]["qosClass"]
        await ask(stage, memory="8Gi")
        await ask(stage, memory="3Gi")
        await resized(stage, session, memory="3Gi", cpu="2")

        await ask(stage, memory="64Gi")
        warned = await stage.warned(NAME, "ResizePending")
        why = condition(warned, "ResizePending")
        assert why["reason"] == "Infeasible"
        assert "64Gi is more than node" in why["message"]
        await ask(stage, memory="4Gi")
        await resized(stage, session, memory="4Gi")
        await stage.warned(NAME, "ResizePending", expected=False)


async def test_node_that_cannot_resize_needs_a_restart(stage: Stage) -> None:
    await stage.node("one")
    template = await stage.template(resources=OFFER, placement={"nodeSelector": stage.here})
    async with stage.operator():
        session = await stage.session(NAME, template)
        await bind(stage, await stage.pod_of(session))
        await stage.run(NAME)
        await ask(stage, memory="6Gi")
        warned = await stage.warned(NAME, "ResizePending")
        why = condition(warned, "ResizePending")
        assert (why["reason"], "closes all programs" in why["message"]) == ("NeedsRestart", True)


async def test_template_has_the_largest_size_of_its_nodes(stage: Stage) -> None:
    await stage.node("one", has={"memory": "32Gi", "cpu": "8"})
    template = await stage.template(resources=OFFER, placement={"nodeSelector": stage.here})

    def has(**largest: str) -> Callable[[Object], object]:
        return lambda found: found.get("status", {}).get("largest") == largest

    async with stage.operator():
        await stage.until(
            TEMPLATES, template, has(memory="32768Mi", cpu="8000m"), "the size of the node"
        )
        await stage.node("two", has={"memory": "64Gi", "cpu": "4"})
        await stage.until(
            TEMPLATES, template, has(memory="65536Mi", cpu="8000m"), "the size of the larger one"
        )
        edited = await stage.patch(
            TEMPLATES, template, {"spec": {"description": "changes no size"}}
        )
        generation = edited["metadata"]["generation"]

        def is_described(found: Object) -> bool:
            return bool(found["status"]["observedGeneration"] == generation)

        await stage.until(TEMPLATES, template, is_described, "Helm's wait ends")


async def test_size_below_what_is_in_use_is_said_and_announced_when_applied(stage: Stage) -> None:
    await stage.node("one", has={"memory": "10Gi"})
    template = await stage.template(resources=OFFER, placement={"nodeSelector": stage.here})
    async with stage.operator():
        session = await a_running_desktop(stage, template)
        await ask(stage, memory="1Gi")
        pod = await resized(stage, session, memory="1Gi")
        message = "attempting to set pod memory limit (1) below current usage (2)"
        failing = {
            "type": "PodResizeInProgress",
            "status": "True",
            "reason": "Error",
            "message": message,
        }
        conditions = pod["status"]["conditions"]
        for shown in ([*conditions, failing], conditions):
            await stage.patch(PODS, NAME, {"status": {"conditions": shown}}, subresource="status")
            warned = await stage.warned(NAME, "ResizePending", expected=shown != conditions)
            assert shown == conditions or condition(warned, "ResizePending")["reason"] == "InUse"
        await stage.event("Resized")


async def test_size_that_waits_is_said_and_counted_by_the_queue(stage: Stage) -> None:
    await stage.node("one", has={"memory": "10Gi"})
    placement = {"nodeSelector": stage.here}
    template = await stage.template(
        resources=OFFER, placement=placement, persistence={"enabled": False}
    )
    async with stage.operator(cluster=ClusterSettings(requests_memory="100Gi")):
        session = await a_running_desktop(stage, template)
        await ask(stage, memory="9Gi")
        pod = await resized(stage, session, memory="9Gi")
        await stage.session("next", template)
        await stage.reach("next", "Pending", "memory")
        deferred = {
            "type": "PodResizePending",
            "status": "True",
            "reason": "Deferred",
            "message": "not now",
        }
        conditions = [*pod["status"]["conditions"], deferred]
        await stage.patch(PODS, NAME, {"status": {"conditions": conditions}}, subresource="status")
        assert (
            "not now"
            in condition(await stage.warned(NAME, "ResizePending"), "ResizePending")["message"]
        )


@pytest.mark.parametrize("moment", MOMENTS)
async def test_resize_survives_a_kill_at_its_write(stage: Stage, moment: Moment) -> None:
    await stage.node("one")
    template = await stage.template(resources=OFFER, placement={"nodeSelector": stage.here})
    async with stage.operator():
        session = await a_running_desktop(stage, template)
    await ask(stage, memory="5Gi")
    stage.proxy.cut_at(1, moment)
    assert await cut_and_kill(stage, asyncio.create_task(asyncio.Event().wait()))
    await ask(stage, memory="6Gi")
    async with stage.operator():
        await resized(stage, session, memory="6Gi")
        await stage.warned(NAME, "ResizePending", expected=False)
