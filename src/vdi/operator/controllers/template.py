"""Controller of VDITemplate: pulls its image to every node that may run its desktops (`prePull`),
with puller pods.

`vdi.session.prepull` plans; the status reports progress, warns of settings that have no effect, and
has the size of the largest desktop that a node can run.
"""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import msgspec

from vdi.api.meta import Condition
from vdi.api.template import PrePullStatus, TemplateStatus, VDITemplate
from vdi.cluster.objects import Node, Pod
from vdi.kinds import TEMPLATES
from vdi.kube.apply import Applier
from vdi.kube.errors import ApiError, NotFound
from vdi.kube.queue import Result
from vdi.kube.resource import PODS
from vdi.operator.caches import ClusterContext
from vdi.operator.child_writes import explain_refusal
from vdi.operator.status import ClusterStatusWriter, printable
from vdi.session.naming import SESSIONS_NAMESPACE, assigned_namespace
from vdi.session.prepull import (
    IMAGE_PULLED,
    PREPULL,
    PullMemory,
    PullPlan,
    build_puller,
    image_pulled,
    plan,
    summarise,
)
from vdi.session.resize import find_largest
from vdi.session.template_image import SETTINGS_IGNORED, settings_ignored

# Index of puller pods by the name of their template.
_BY_TEMPLATE = "prepull"


class PrePuller:
    """Puller pods and the status of one template at a time."""

    def __init__(self, cluster: ClusterContext, *, has_autoscaler: bool) -> None:
        self._has_autoscaler = has_autoscaler
        client, caches = cluster.client, cluster.caches
        self._caches = caches
        self.statuses = ClusterStatusWriter(
            client, TEMPLATES, VDITemplate, caches.templates, cluster.clock
        )
        self._settings = cluster.settings
        self._clock = cluster.clock
        self._pods = Applier(client, PODS, Pod, caches.pods)
        caches.pods.add_index(_BY_TEMPLATE, _template_name)
        self._memories: dict[str, PullMemory] = {}  # by uid of the template; dropped with it

    async def pull(self, template: VDITemplate, namespace: str) -> float | None:
        """Create and remove pullers as planned, with pods in this namespace; the seconds until the
        next look, if any.

        Raises KubeError for what another try may fix; the status is written all the same.
        """
        memory = self._memories.setdefault(template.metadata.uid, PullMemory())
        step = self._plan(template, namespace, memory)
        results = await asyncio.gather(
            self.remove(step.remove),
            *(self._create(template, node, namespace, memory) for node in step.create),
            return_exceptions=True,
        )
        pause = await self._write_status(template, summarise(step, memory))
        for result in results:
            if isinstance(result, BaseException):
                raise result
        now = self._clock.now()
        # The plan does not know yet of pullers that were refused just now: their time is in the
        # memory.
        looks = [failure.again for failure in memory.failures.values() if failure.again > now]
        looks += [step.again] if step.again else []
        seconds = [max(0.0, (look - now).total_seconds()) for look in looks] + (
            [pause] if pause is not None else []
        )
        return min(seconds, default=None)

    async def withdraw(self, template: VDITemplate) -> None:
        """Remove pullers and progress of a template that no longer has `prePull`."""
        await self.remove(self.pullers_of(template.metadata.name))
        self.forget(template)
        status = template.status
        conditions = _with_condition(template, IMAGE_PULLED, None)
        if status.pre_pull is not None or conditions != status.conditions:
            await self._write(template, None, conditions)

    async def remove(self, pods: Iterable[Pod]) -> None:
        """Delete these pullers, side by side."""
        await asyncio.gather(*(self._pods.delete(pod) for pod in pods))

    def pullers_of(self, template_name: str) -> list[Pod]:
        """The pullers of this template, and of earlier ones of its name."""
        return self._caches.pods.by_index(_BY_TEMPLATE, template_name)

    def forget(self, template: VDITemplate) -> None:
        """Drop what is remembered of a template."""
        self._memories.pop(template.metadata.uid, None)
        self.statuses.forget(template.metadata.uid)

    def _plan(self, template: VDITemplate, namespace: str, memory: PullMemory) -> PullPlan:
        mine = []
        for pod in self.pullers_of(template.metadata.name):
            if pod.metadata.namespace == namespace:
                mine.append(pod)
        pullers = [(pod, self._caches.events_of(pod)) for pod in mine]
        nodes = self._caches.nodes.values()
        return plan(
            template,
            nodes,
            pullers,
            memory,
            gpu_resource=self._settings.gpu_resource,
            now=self._clock.now(),
        )

    async def _create(
        self, template: VDITemplate, node: Node, namespace: str, memory: PullMemory
    ) -> None:
        """Create one puller. A refusal (quota, Pod Security) counts as a failure of the node."""
        try:
            await self._pods.ensure(build_puller(template, node.metadata.name, namespace))
        except ApiError as failure:
            refused = explain_refusal(failure, "Pod")
            if refused is None:
                raise
            text = f"The pod that pulls the image is refused: {failure.message}"
            memory.fail(node, refused.reason, text, self._clock.now())

    async def describe(self, template: VDITemplate) -> VDITemplate:
        """Keep the largest size, and the condition on settings without effect; returns the template
        as it then is.
        """
        warning = settings_ignored(template, self._clock.now())
        conditions = _with_condition(template, SETTINGS_IGNORED, warning)
        nodes = () if self._has_autoscaler else self._caches.nodes.values()
        largest = find_largest(template, nodes, self._settings.gpu_resource)
        status = template.status
        # Helm waits for ever for an object whose status describes an earlier generation.
        is_current = status.observed_generation in (0, template.metadata.generation)
        if is_current and (conditions, largest) == (status.conditions, status.largest):
            return template
        content = {
            "observedGeneration": template.metadata.generation,
            "conditions": msgspec.to_builtins(conditions),
            "largest": msgspec.to_builtins(largest),
        }
        return await self.statuses.write(template.metadata, content)

    async def _write_status(self, template: VDITemplate, progress: PrePullStatus) -> float | None:
        """Write the progress if it is new; the seconds to wait where it is too soon for the same
        condition.
        """
        status, now = template.status, self._clock.now()
        progress, condition = printable(progress), printable(image_pulled(template, progress, now))
        if progress == status.pre_pull and condition in status.conditions:
            return None
        wait = self.statuses.seconds_left(template.metadata.uid)
        before = next(
            (condition.reason for condition in status.conditions if condition.type == IMAGE_PULLED),
            "",
        )
        if wait > 0 and condition.reason == before:
            return wait
        conditions = _with_condition(template, IMAGE_PULLED, condition)
        await self._write(template, progress, conditions)
        return None

    async def _write(
        self,
        template: VDITemplate,
        progress: PrePullStatus | None,
        conditions: tuple[Condition, ...],
    ) -> None:
        status = TemplateStatus(progress, template.metadata.generation, conditions=conditions)
        content: dict[str, Any] = {"prePull": None, "conditions": [], **msgspec.to_builtins(status)}
        if progress is not None:  # a merge patch leaves fields that it does not name as they were
            empty: dict[str, Any] = {
                "image": None,
                "desired": 0,
                "ready": 0,
                "pulling": [],
                "failed": [],
            }
            content["prePull"] = empty | content["prePull"]
        await self.statuses.write(template.metadata, content)


def _with_condition(
    template: VDITemplate, kind: str, condition: Condition | None
) -> tuple[Condition, ...]:
    others = tuple(known for known in template.status.conditions if known.type != kind)
    return (*others, condition) if condition else others


def _template_name(pod: Pod) -> tuple[str, ...]:
    name = pod.metadata.annotations.get(PREPULL)
    return (name,) if name else ()


class TemplateController:
    """Reconciles templates; the key is the template's name."""

    def __init__(
        self, cluster: ClusterContext, enqueue: Callable[[str], None], *, has_autoscaler: bool
    ) -> None:
        """`has_autoscaler`: nodes that are larger than all of now may come."""
        self._caches = cluster.caches
        self._namespaces = cluster.namespaces
        self._puller = PrePuller(cluster, has_autoscaler=has_autoscaler)
        self._listen(enqueue)

    async def reconcile(self, name: str) -> Result:
        """Take a template one step further. Raises KubeError for what another try may fix."""
        template = self._caches.templates.get("", name)
        if template is None or template.metadata.deletion_timestamp:
            await self._puller.remove(self._puller.pullers_of(name))
            return Result()
        namespace = assigned_namespace(template.metadata, self._namespaces)
        elsewhere = []
        for pod in self._puller.pullers_of(name):
            if pod.metadata.namespace != namespace:
                elsewhere.append(pod)
        await self._puller.remove(elsewhere)
        if namespace is None:
            self._puller.forget(template)
            return Result()
        try:
            template = await self._puller.describe(template)
            if not template.spec.pre_pull:
                await self._puller.withdraw(template)
                return Result()
            return Result(requeue_after=await self._puller.pull(template, namespace))
        except NotFound:
            if self._puller.statuses.exists(template.metadata):
                raise
            return Result()

    def _listen(self, enqueue: Callable[[str], None]) -> None:
        """Enqueue a template when it, one of its pullers or a node has changed."""
        self._caches.templates.listen(partial(self._template_changed, enqueue))
        self._caches.pods.listen(partial(_puller_changed, enqueue))
        self._caches.nodes.listen(partial(self._node_changed, enqueue))

    def _template_changed(
        self, enqueue: Callable[[str], None], old: VDITemplate | None, new: VDITemplate | None
    ) -> None:
        if old and new and _desired_state(old) == _desired_state(new):
            return
        if old and (new is None or new.metadata.uid != old.metadata.uid):
            self._puller.forget(old)
        if current := new or old:
            enqueue(current.metadata.name)

    def _node_changed(
        self, enqueue: Callable[[str], None], old: Node | None, new: Node | None
    ) -> None:
        is_resized = old is None or new is None or _shape(old) != _shape(new)
        is_changed = old is None or new is None or _matters(old) != _matters(new)
        if not (is_resized or is_changed):
            return
        for template in self._caches.templates.values():
            if is_resized or template.spec.pre_pull:
                enqueue(template.metadata.name)


def _puller_changed(enqueue: Callable[[str], None], old: Pod | None, new: Pod | None) -> None:
    current = new or old
    if current and (name := current.metadata.annotations.get(PREPULL)):
        enqueue(name)


def _desired_state(template: VDITemplate) -> tuple[object, ...]:
    """The parts that an edit changes, and a write of the status does not."""
    return template.metadata.generation, template.metadata.labels.get(SESSIONS_NAMESPACE)


def _matters(node: Node) -> tuple[object, ...]:
    """The fields of a node that decide whether it should have an image, and whether it has it."""
    return (
        node.metadata.uid,
        node.ready,
        node.spec,
        node.metadata.labels,
        node.status.allocatable,
        node.status.images,
    )


def _shape(node: Node) -> tuple[object, ...]:
    """The fields of a node that decide how large a desktop it can run, and of which templates."""
    return node.metadata.uid, node.spec.taints, node.metadata.labels, node.status.allocatable
