"""Placeholders on a real API server with a real scheduler. The test plays the autoscaler: it adds
nodes, and writes the Events that cluster-autoscaler and Karpenter write.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from cluster.control_plane import empty_namespace, make_namespace
from cluster.operator_stage import Object, Stage
from cluster.test_operator_crash import MOMENTS, MOST_WRITES, Moment, cut_and_kill
from cluster.test_operator_queue import gpu_template, starts, waits
from support.permissions import placeholder_rules
from support.waiting import eventually
from vdi.kinds import SESSIONS
from vdi.kube.resource import EVENTS, PODS, Resource
from vdi.session.autoscaling import PLACEHOLDER, AutoscalingSettings

pytestmark = pytest.mark.timeout(200)
PRIORITY_CLASSES = Resource(
    "scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False
)
# For an operator that is killed, and the next one.
_TWO_STARTS_SECONDS = 90.0


class Autoscaler:
    """The placeholders' namespace, as the chart makes it, and what an autoscaler does there."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.namespace = f"{stage.namespace}-placeholders"
        self.priority_class = f"vdi-placeholder.{stage.namespace}"

    def settings(self, **chosen: Any) -> AutoscalingSettings:
        return AutoscalingSettings(
            namespace=self.namespace,
            image="registry.example.com/vdi:1",
            priority_class=self.priority_class,
            **chosen,
        )

    def variables(self) -> dict[str, str]:
        """The same for an operator that is a process of its own."""
        return {
            "VDI_PLACEHOLDER_NAMESPACE": self.namespace,
            "VDI_PLACEHOLDER_IMAGE": "registry.example.com/vdi:1",
            "VDI_PLACEHOLDER_PRIORITY_CLASS": self.priority_class,
        }

    async def prepare(self) -> None:
        await make_namespace(self.stage.api, self.namespace)
        await self.stage.of(self.namespace).restrict()
        body: Object = {
            "apiVersion": PRIORITY_CLASSES.api_version,
            "kind": "PriorityClass",
            "metadata": {"name": self.priority_class},
            "value": -10,
            "preemptionPolicy": "Never",
        }
        await self.stage.api.create(PRIORITY_CLASSES, body, into=msgspec.Raw)
        await self.stage.allow(self.namespace, placeholder_rules())

    async def clean_up(self) -> None:
        await empty_namespace(self.stage.api, self.namespace)
        await self.stage.delete(PRIORITY_CLASSES, self.priority_class)

    async def placeholders(self) -> list[Object]:
        """All of them, but for those that are being deleted."""
        pods = await self.stage.api.list(
            PODS, namespace=self.namespace, label_selector=PLACEHOLDER, into=dict
        )
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    async def has(self, count: int, seconds: float = 30.0) -> list[Object]:
        """Wait for so many placeholders."""

        async def look() -> bool:
            return len(await self.placeholders()) == count

        await eventually(look, f"{count} placeholders", seconds)
        return await self.placeholders()

    async def unschedulable(self, count: int) -> list[Object]:
        """Wait until the scheduler has found no node for so many: what an autoscaler looks for."""

        async def look() -> list[Object]:
            pods = [pod for pod in await self.placeholders() if _is_unschedulable(pod)]
            return pods if len(pods) == count else []

        return await eventually(look, f"{count} unschedulable placeholders")

    async def report(
        self, pod: Object, reason: str, note: str, *, by: str = "cluster-autoscaler"
    ) -> None:
        """An Event about a placeholder."""
        meta = pod["metadata"]
        event = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"generateName": "e-"},
            "regarding": (
                {"apiVersion": "v1", "kind": "Pod"}
                | {key: meta[key] for key in ("name", "namespace", "uid")}
            ),
            "type": "Normal",
            "reason": reason,
            "note": note,
            "action": "Scale",
            "reportingController": by,
            "reportingInstance": by,
            "eventTime": time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime()),
        }
        await self.stage.api.create(EVENTS, event, namespace=self.namespace, into=msgspec.Raw)


def _is_unschedulable(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(
        one["type"] == "PodScheduled" and one.get("reason") == "Unschedulable" for one in conditions
    )


@pytest.fixture
async def autoscaler(stage: Stage) -> AsyncIterator[Autoscaler]:
    autoscaler = Autoscaler(stage)
    await autoscaler.prepare()
    yield autoscaler
    await autoscaler.clean_up()


async def test_placeholders_request_nodes_and_are_deleted(
    stage: Stage, autoscaler: Autoscaler
) -> None:
    template = await gpu_template(stage)
    async with stage.operator(autoscaling=autoscaler.settings()):
        await stage.session("first", template, user="a@x.yz")
        await autoscaler.has(1)
        for name in ("second", "third"):
            await stage.session(name, template, user=f"{name}@x.yz")
            await waits(stage, name, "NoMatchingNode")
        pods = await autoscaler.unschedulable(3)
        session = await waits(stage, "first", "NoMatchingNode", "A node was requested at")
        assert session["status"]["message"].startswith("Waiting for capacity, number 1 in line: ")
        assert session["status"]["queue"]["nodeRequestTime"]
        await autoscaler.report(
            pods[0], "TriggeredScaleUp", "pod triggered scale-up: [{gpu 0->1 (max: 3)}]"
        )
        session = await waits(
            stage, "first", "NoMatchingNode", "A node is being added (requested at "
        )

        node = await stage.node("gpu", gpu="2")
        await starts(stage, "first", "second")
        for name in ("first", "second"):
            await stage.until(
                PODS, name, lambda pod: pod["spec"].get("nodeName") == node, f"it is on {node}"
            )
        await autoscaler.has(1)
        await waits(stage, "third", "GPUsBusy", "requested at ")

        await stage.delete(SESSIONS, "third")
        await autoscaler.has(0)


async def test_queue_works_without_the_priority_class(stage: Stage, autoscaler: Autoscaler) -> None:
    """The chart makes it. Without it the API server refuses each placeholder, and sessions go on as
    before.
    """
    await stage.node("gpu", gpu="1")
    template = await gpu_template(stage)
    settings = AutoscalingSettings(
        namespace=autoscaler.namespace, image="i", priority_class="missing"
    )
    async with stage.operator(autoscaling=settings):
        await stage.start("r0", template, user="r0@x.yz")
        await stage.session("late", template, user="late@x.yz")
        await waits(stage, "late", "GPUsBusy")
        await stage.delete(SESSIONS, "r0")
        await starts(stage, "late")
    assert await autoscaler.placeholders() == []


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("moment", MOMENTS)
async def test_placeholders_survive_a_kill_at_every_write(
    stage: Stage, autoscaler: Autoscaler, moment: Moment
) -> None:
    template = await gpu_template(stage)
    stage.variables = autoscaler.variables()
    for write in range(1, MOST_WRITES):
        name = f"w{write}"
        await stage.session(name, template)
        stage.proxy.cut_at(write, moment)
        done = asyncio.create_task(
            stage.reach(name, "Pending", "A node was requested at", _TWO_STARTS_SECONDS)
        )
        was_cut = await cut_and_kill(stage, done, _TWO_STARTS_SECONDS)
        async with stage.operator(autoscaling=autoscaler.settings()):
            await done
            await autoscaler.has(1)
        await stage.delete(SESSIONS, name)
        stage.proxy.cut_at(write, moment)
        gone = asyncio.create_task(autoscaler.has(0, _TWO_STARTS_SECONDS))
        was_cut = await cut_and_kill(stage, gone, _TWO_STARTS_SECONDS) or was_cut
        async with stage.operator(autoscaling=autoscaler.settings()):
            await gone
            await stage.gone(SESSIONS, name)
        if not was_cut:
            assert write > 3, (
                f"the operator got through with {write - 1} writes: what has it not done?"
            )
            return
    raise AssertionError(f"still writing after {MOST_WRITES} writes")
