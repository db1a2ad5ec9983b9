"""Controller of homes that the gateway made ahead of a user's first desktop: has their volume made,
too.

A StorageClass with `WaitForFirstConsumer` waits for the annotation by which the scheduler selects a
node. It is set here where there is no choice, because one node alone can run desktops of the
template. With several, the volume would tie the desktop to a node before the queue knows which one
has capacity.
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

# Kubernetes' own annotation: the node for which a provisioner makes the volume.
SELECTED_NODE = "volume.kubernetes.io/selected-node"


class HomesAhead:
    """Key: (namespace, name) of the claim."""

    def __init__(
        self,
        cluster: ClusterContext,
        homes: OwnedResource[PersistentVolumeClaim],
        enqueue: Callable[[tuple[str, str]], None],
    ) -> None:
        self._homes = homes
        self._caches = cluster.caches
        self._settings = cluster.settings

        def claim_changed(
            old: PersistentVolumeClaim | None, new: PersistentVolumeClaim | None
        ) -> None:
            if old is None and new is not None and MADE_AHEAD in new.metadata.annotations:
                enqueue((new.metadata.namespace, new.metadata.name))

        cluster.caches.claims.listen(claim_changed)

    async def reconcile(self, key: tuple[str, str]) -> Result:
        """Select the claim's node, if there is only one. Raises KubeError for what another try may
        fix.
        """
        claim = self._caches.claims.get(*key)
        if (
            claim is None
            or claim.metadata.deletion_timestamp
            or SELECTED_NODE in claim.metadata.annotations
        ):
            return Result()
        template = self._caches.templates.get("", claim.metadata.annotations.get(MADE_AHEAD, ""))
        if template is None:
            return Result()
        gpu = self._settings.gpu_resource
        names = []
        for node in self._caches.nodes.values():
            if can_run(node, template, gpu):
                names.append(node.metadata.name)
        if len(names) != 1:
            return Result()
        with suppress(Conflict, NotFound):  # used or deleted meanwhile
            await self._homes.patch_unchanged(claim, annotations={SELECTED_NODE: names[0]})
        return Result()
