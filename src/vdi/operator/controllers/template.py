"""Reconciles one template: its image on every node that may run its desktops (`prePull`), or no trace of that, and in
its status what of it has no effect."""

from collections.abc import Callable

from vdi.api.template import VDITemplate
from vdi.kube.errors import NotFound
from vdi.kube.queue import Result
from vdi.operator.context import ClusterContext
from vdi.operator.prepull import PrePuller
from vdi.operator.template_warnings import TemplateWarnings
from vdi.session.identity import SESSIONS_NAMESPACE, assigned_namespace
from vdi.session.observed import Node, Pod
from vdi.session.prepull import PREPULL


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
