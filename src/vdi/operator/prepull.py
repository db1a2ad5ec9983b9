"""Carries out what `session.prepull` plans: makes and removes puller pods, and tells how far it is in the status."""

import asyncio
from collections.abc import Iterable
from typing import Any

import msgspec

from vdi.api.template import PrePullStatus, TemplateStatus, VDITemplate
from vdi.kube.apply import Applier
from vdi.kube.errors import Forbidden, Invalid
from vdi.kube.resource import PODS
from vdi.operator.caches import BY_SUBJECT
from vdi.operator.context import ClusterContext
from vdi.operator.kinds import TEMPLATES
from vdi.operator.status import printable
from vdi.session.api_errors import explain_api_error
from vdi.session.children.puller import build_puller
from vdi.session.observed import Event, Node, Pod
from vdi.session.prepull import IMAGE_PULLED, PREPULL, PullMemory, PullPlan, image_pulled, plan, summarise

_BY_TEMPLATE = "prepull"
STATUS_PAUSE = 1.0
"""Seconds between two notes on progress in one template's status; the last word is never held back."""


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
