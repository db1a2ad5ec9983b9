"""Pre-pull against a real API server and scheduler, with the test as the kubelets of the nodes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from cluster.operator_stage import Object, Stage
from support.waiting import eventually
from vdi.kinds import TEMPLATES
from vdi.kube.errors import NotFound
from vdi.kube.resource import NODES, PODS
from vdi.session.prepull import AT_ONCE, PREPULL, PREPULL_NODE

pytestmark = pytest.mark.timeout(150)
IMAGE = "registry.example.com/desktop:1"


async def pullers(stage: Stage) -> dict[str, Object]:
    """By the node that each is bound to, or meant for."""
    return {
        pod["metadata"]["annotations"][PREPULL_NODE]: pod
        for pod in await stage.all(PODS)
        if PREPULL in pod["metadata"]["labels"]
    }


async def reach(stage: Stage, template: str, reason: str, **fields: Any) -> Object:
    """Wait until the condition has that reason, and `prePull` these fields."""

    def is_so(found: Object) -> object:
        status = found.get("status", {})
        pulled = status.get("prePull", {})
        reasons = [condition["reason"] for condition in status.get("conditions", ())]
        return reasons == [reason] and {name: pulled.get(name) for name in fields} == fields

    return await stage.until(TEMPLATES, template, is_so, f"{reason} {fields}")


async def has_image(stage: Stage, node: str, *images: str) -> None:
    """The kubelet says what it has."""
    listed = [{"names": [image], "sizeBytes": 1} for image in images]
    await stage.patch(NODES, node, {"status": {"images": listed}}, subresource="status")


async def report(stage: Stage, pod: Object, phase: str, **container: Any) -> None:
    """The kubelet says how a puller does."""
    one = {
        "name": "pull",
        "image": IMAGE,
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        **container,
    }
    status = {"phase": phase, "containerStatuses": [one]}
    with suppress(NotFound):
        await stage.patch(PODS, pod["metadata"]["name"], {"status": status}, subresource="status")


@asynccontextmanager
async def kubelets(stage: Stage) -> AsyncIterator[list[int]]:
    """Pullers that were bound fetch their images and end; gives how many were at work at each
    look.
    """
    seen: list[int] = []

    async def work() -> None:
        while True:
            at_work = {
                node: pod
                for node, pod in (await pullers(stage)).items()
                if pod["status"]["phase"] == "Pending"
            }
            seen.append(len(at_work))
            for node, pod in at_work.items():
                if pod["spec"].get("nodeName"):
                    assert pod["spec"]["nodeName"] == node
                    await report(stage, pod, "Succeeded", imageID="sha256:1")
            await asyncio.sleep(0.02)

    task = asyncio.create_task(work())
    try:
        yield seen
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def no_pullers(stage: Stage) -> None:
    async def look() -> bool:
        return not await pullers(stage)

    await eventually(look, "the pullers are gone")


async def test_image_is_pulled_to_every_node_few_at_a_time(stage: Stage) -> None:
    nodes = [await stage.node(f"n{number}") for number in range(5)]
    closed = await stage.node("closed")
    await stage.patch(NODES, closed, {"spec": {"unschedulable": True}})
    await has_image(stage, nodes[0], IMAGE)
    async with stage.operator(), kubelets(stage) as seen:
        template = await stage.template(prePull=True, placement={"nodeSelector": stage.here})
        await reach(stage, template, "Pulled", image=IMAGE, desired=5, ready=5)
        assert 0 < max(seen) <= AT_ONCE
        await no_pullers(stage)
        made = [write for write in stage.proxy.writes() if write.method == "POST"]
        assert len(made) == 4, "one for each node that lacks it"
        seen.clear()
        other = "registry.example.com/desktop:2"
        await stage.patch(TEMPLATES, template, {"spec": {"image": other}})
        await reach(stage, template, "Pulled", image=other, desired=5, ready=5)
        assert 0 < max(seen) <= AT_ONCE
        await stage.patch(NODES, closed, {"spec": {"unschedulable": None}})
        await reach(stage, template, "Pulled", desired=6, ready=6)
        await no_pullers(stage)


async def test_pullers_are_deleted_with_prepull_or_the_template(stage: Stage) -> None:
    await stage.node("n1")
    async with stage.operator():
        template = await stage.template(prePull=True, placement={"nodeSelector": stage.here})
        await reach(stage, template, "Pulling", desired=1, pulling=[f"{stage.namespace}-n1"])
        await stage.patch(TEMPLATES, template, {"spec": {"prePull": False}})
        await no_pullers(stage)

        def is_silent(found: Object) -> bool:
            status = found.get("status", {})
            return "prePull" not in status and not status.get("conditions")

        await stage.until(TEMPLATES, template, is_silent, "the status says nothing any more")
        await stage.patch(TEMPLATES, template, {"spec": {"prePull": True}})
        await reach(stage, template, "Pulling", desired=1)
        await stage.delete(TEMPLATES, template)
        await no_pullers(stage)
