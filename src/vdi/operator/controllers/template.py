"""Controller of VDITemplate: pulls the image to every node that may run its desktops (`prePull`), and warns in the
status
of settings without effect. The plan comes from `vdi.session.prepull`.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from vdi.api.template import PrePullStatus, TemplateStatus, VDITemplate
from vdi.cluster.objects import Event, Node, Pod
from vdi.kinds import TEMPLATES
from vdi.kube.apply import Applier
from vdi.kube.errors import Forbidden, Invalid, NotFound
from vdi.kube.queue import Result
from vdi.kube.resource import PODS
from vdi.operator.caches import BY_SUBJECT, ClusterContext
from vdi.operator.status import printable
from vdi.session.decide import explain_api_error
from vdi.session.naming import SESSIONS_NAMESPACE, assigned_namespace
from vdi.session.prepull import IMAGE_PULLED, PREPULL, PullMemory, PullPlan, build_puller, image_pulled, plan, summarise
from vdi.session.streaming import SETTINGS_IGNORED, settings_ignored


class TemplateWarnings:
    """Keeps one condition of each template; the others are other writers'."""

    def __init__(self, cluster: ClusterContext) -> None:
        self._client = cluster.client
        self._caches = cluster.caches
        self._clock = cluster.clock

    async def update(self, template: VDITemplate) -> VDITemplate:
        """Write the condition if it says something new; gives the template as it then is. Raises KubeError."""

        status, meta = template.status, template.metadata
        warning = settings_ignored(template, self._clock.now())
        others = tuple(condition for condition in status.conditions if condition.type != SETTINGS_IGNORED)
        conditions = (*others, warning) if warning else others
        if conditions == status.conditions:
            return template
        content = {"observedGeneration": meta.generation, "conditions": msgspec.to_builtins(conditions)}
        patch = {"metadata": {"uid": meta.uid}, "status": content}
        patched = await self._client.patch(TEMPLATES, meta.name, patch, subresource="status", into=VDITemplate)
        self._caches.templates.remember(patched)
        return patched


_BY_TEMPLATE = "prepull"
# Seconds between two notes on progress in one template's status; the last word is never held back.
STATUS_PAUSE = 1.0


class PrePuller:
    """Works on one template at a time."""

    def __init__(self, cluster: ClusterContext) -> None:
        client, caches = cluster.client, cluster.caches
        self._client = client
        self._caches = caches
        self._settings = cluster.settings
        self._clock = cluster.clock
        self._pods = Applier(client, PODS, Pod, caches.pods)
        caches.pods.add_index(_BY_TEMPLATE, _template_name)
        self._memories: dict[str, PullMemory] = {}  # by uid of the template; dropped with it
        self._written: dict[str, float] = {}  # by uid: when we last wrote the status

    async def pull(self, template: VDITemplate, namespace: str) -> float | None:
        """Bring the template's image one step closer to its nodes, with pods in this namespace.

        Gives the seconds until the next look, if any.

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
        # What was refused just now waits in the memory too: plan once more for the time of the next look only.
        looks = [failure.again for failure in memory.failures.values() if failure.again > now]
        looks += [step.again] if step.again else []
        seconds = [max(0.0, (look - now).total_seconds()) for look in looks] + ([pause] if pause is not None else [])
        return min(seconds, default=None)

    async def withdraw(self, template: VDITemplate) -> None:
        """The template does not want its image anywhere any more: no puller, no word of it in the status."""
        await self.remove(self.pullers_of(template.metadata.name))
        self.forget(template)
        status = template.status
        others = tuple(condition for condition in status.conditions if condition.type != IMAGE_PULLED)
        if status.pre_pull is not None or others != status.conditions:
            await self._write(template, None, others)

    async def remove(self, pods: Iterable[Pod]) -> None:
        """Delete these pullers, side by side."""
        await asyncio.gather(*(self._pods.delete(pod) for pod in pods))

    def pullers_of(self, template_name: str) -> list[Pod]:
        """The pullers of every template that has had this name."""
        return self._caches.pods.by_index(_BY_TEMPLATE, template_name)

    def forget(self, template: VDITemplate) -> None:
        """The template is gone, or needs nothing."""
        self._memories.pop(template.metadata.uid, None)
        self._written.pop(template.metadata.uid, None)

    def _plan(self, template: VDITemplate, namespace: str, memory: PullMemory) -> PullPlan:
        pullers = [
            (pod, self._events(pod))
            for pod in self.pullers_of(template.metadata.name)
            if pod.metadata.namespace == namespace
        ]
        nodes = self._caches.nodes.values()
        return plan(template, nodes, pullers, memory, gpu_resource=self._settings.gpu_resource, now=self._clock.now())

    def _events(self, pod: Pod) -> list[Event]:
        events = self._caches.events.by_index(BY_SUBJECT, ("Pod", pod.metadata.name))
        return [event for event in events if event.regarding.uid == pod.metadata.uid]

    async def _create(self, template: VDITemplate, node: Node, namespace: str, memory: PullMemory) -> None:
        """Make one puller. A refusal (quota, Pod Security) is that node's failure, and is said in the status."""
        try:
            await self._pods.ensure(build_puller(template, node.metadata.name, namespace))
        except (Forbidden, Invalid) as refusal:
            words = f"The pod that pulls the image is refused: {refusal.message}"
            memory.fail(node, explain_api_error("Pod", refusal.message).reason, words, self._clock.now())

    async def _write_status(self, template: VDITemplate, progress: PrePullStatus) -> float | None:
        """Write the status if it says something new; gives the seconds to wait when it is too soon for a mere note."""
        status, now = template.status, self._clock.now()
        progress, condition = printable(progress), printable(image_pulled(template, progress, now))
        if progress == status.pre_pull and condition in status.conditions:
            return None
        uid = template.metadata.uid
        wait = self._written.get(uid, float("-inf")) + STATUS_PAUSE - self._clock.monotonic()
        before = next((condition.reason for condition in status.conditions if condition.type == IMAGE_PULLED), "")
        if wait > 0 and condition.reason == before:
            return wait
        await self._write(
            template,
            progress,
            (*(condition for condition in status.conditions if condition.type != IMAGE_PULLED), condition),
        )
        self._written[uid] = self._clock.monotonic()
        return None

    async def _write(self, template: VDITemplate, progress: PrePullStatus | None, conditions: tuple[Any, ...]) -> None:
        meta = template.metadata
        status = TemplateStatus(progress, meta.generation, conditions)
        content: dict[str, Any] = {"prePull": None, "conditions": [], **msgspec.to_builtins(status)}
        if progress is not None:  # in a merge patch, what is left out stays as it was
            empty: dict[str, Any] = {"image": None, "desired": 0, "ready": 0, "pulling": [], "failed": []}
            content["prePull"] = empty | content["prePull"]
        patch = {"metadata": {"uid": meta.uid}, "status": content}
        patched = await self._client.patch(TEMPLATES, meta.name, patch, subresource="status", into=VDITemplate)
        self._caches.templates.remember(patched)


def _template_name(pod: Pod) -> tuple[str, ...]:
    name = pod.metadata.annotations.get(PREPULL)
    return (name,) if name else ()


class TemplateController:
    """What is done for one template at a time; its key is the template's name."""

    def __init__(
        self, cluster: ClusterContext, puller: PrePuller, warnings: TemplateWarnings, enqueue: Callable[[str], None]
    ) -> None:
        self._caches = cluster.caches
        self._namespaces = cluster.namespaces
        self._puller = puller
        self._warnings = warnings
        self._listen(enqueue)

    async def reconcile(self, name: str) -> Result:
        """One step. Raises KubeError for what another try may fix."""
        template = self._caches.templates.get("", name)
        if template is None or template.metadata.deletion_timestamp:
            await self._puller.remove(self._puller.pullers_of(name))
            return Result()
        namespace = assigned_namespace(template.metadata, self._namespaces)
        elsewhere = [pod for pod in self._puller.pullers_of(name) if pod.metadata.namespace != namespace]
        await self._puller.remove(elsewhere)
        if namespace is None:
            self._puller.forget(template)
            return Result()
        try:
            template = await self._warnings.update(template)
            if not template.spec.pre_pull:
                await self._puller.withdraw(template)
                return Result()
            return Result(requeue_after=await self._puller.pull(template, namespace))
        except NotFound:
            if self._is_there(template):
                raise
            return Result()  # deleted meanwhile: its event calls

    def _is_there(self, template: VDITemplate) -> bool:
        present = self._caches.templates.get("", template.metadata.name)
        return present is not None and present.metadata.uid == template.metadata.uid

    def _listen(self, enqueue: Callable[[str], None]) -> None:
        """Enqueue a template when it, one of its pullers or a node has changed."""
        caches = self._caches

        def template_changed(old: VDITemplate | None, new: VDITemplate | None) -> None:
            if old and new and _desired_state(old) == _desired_state(new):
                return
            if old and (new is None or new.metadata.uid != old.metadata.uid):
                self._puller.forget(old)
            if current := new or old:
                enqueue(current.metadata.name)

        def pod_changed(old: Pod | None, new: Pod | None) -> None:
            if (current := new or old) and (name := current.metadata.annotations.get(PREPULL)):
                enqueue(name)

        def node_changed(old: Node | None, new: Node | None) -> None:
            if old is None or new is None or _matters(old) != _matters(new):
                for template in caches.templates.values():
                    if template.spec.pre_pull:
                        enqueue(template.metadata.name)

        caches.templates.listen(template_changed)
        caches.pods.listen(pod_changed)
        caches.nodes.listen(node_changed)


def _desired_state(template: VDITemplate) -> tuple[object, ...]:
    """What an edit changes, and a write of the status does not."""
    return template.metadata.generation, template.metadata.labels.get(SESSIONS_NAMESPACE)


def _matters(node: Node) -> tuple[object, ...]:
    """What decides whether a node should have an image, and whether it has it."""
    return node.metadata.uid, node.ready, node.spec, node.metadata.labels, node.status.allocatable, node.status.images
