"""Chooses the node of a home that the gateway made ahead of a person's first desktop, so that its volume is made, too.

A StorageClass that waits for the first consumer waits for the scheduler's choice, which is an annotation. It is made
here where there is no choice: one node alone can run desktops of the template. With several, the volume would bind the
desktop to a node before the queue knows which one has room.
"""

from collections.abc import Callable
from contextlib import suppress

from vdi.cluster.objects import PersistentVolumeClaim
from vdi.kube.errors import Conflict, NotFound
from vdi.kube.queue import Result
from vdi.operator.caches import ClusterContext
from vdi.operator.owned_resources import OwnedResource
from vdi.session.homes import MADE_AHEAD
from vdi.session.prepull import can_run

# Kubernetes' own: for which node a provisioner makes the volume.
SELECTED_NODE = "volume.kubernetes.io/selected-node"


class HomesAhead:
    """Its key is the claim's namespace and name."""

    def __init__(
        self,
        cluster: ClusterContext,
        homes: OwnedResource[PersistentVolumeClaim],
        enqueue: Callable[[tuple[str, str]], None],
    ) -> None:
        self._homes = homes
        self._caches = cluster.caches
        self._settings = cluster.settings

        def claim_changed(old: PersistentVolumeClaim | None, new: PersistentVolumeClaim | None) -> None:
            if old is None and new is not None and MADE_AHEAD in new.metadata.annotations:
                enqueue((new.metadata.namespace, new.metadata.name))

        cluster.caches.claims.listen(claim_changed)

    async def reconcile(self, key: tuple[str, str]) -> Result:
        """Once per claim. Raises KubeError for what another try may fix."""

        claim = self._caches.claims.get(*key)
        if claim is None or claim.metadata.deletion_timestamp or SELECTED_NODE in claim.metadata.annotations:
            return Result()
        template = self._caches.templates.get("", claim.metadata.annotations.get(MADE_AHEAD, ""))
        if template is None:
            return Result()
        gpu = self._settings.gpu_resource
        names = [node.metadata.name for node in self._caches.nodes.values() if can_run(node, template, gpu)]
        if len(names) != 1:
            return Result()
        with suppress(Conflict, NotFound):  # used or deleted meanwhile
            await self._homes.annotate_unchanged(claim, {SELECTED_NODE: names[0]})
        return Result()
