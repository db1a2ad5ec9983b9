"""Removes what a session has: all of it, what a suspended one does not keep, or one pod that must go."""

import asyncio
import logging

from vdi.api.session import VDISession
from vdi.kube.clock import Clock
from vdi.kube.errors import KubeError
from vdi.operator.owned_resources import OwnedResources, owner_uid
from vdi.session.decide import Observed
from vdi.session.home_list import LAST_USED, is_use_due
from vdi.session.homes import MADE_AHEAD
from vdi.session.identity import Identity
from vdi.session.observed import Pod
from vdi.session.times import format_time

log = logging.getLogger(__name__)


class Cleanup:
    """Deletes by uid, and only what is the session's own."""

    def __init__(self, owned: OwnedResources, clock: Clock) -> None:
        self._owned = owned
        self._clock = clock

    async def delete_all(self, observed: Observed) -> bool:
        """Delete what a session that goes has; True when all of it is gone.

        The garbage collector would delete all but the pod as well, but it looks for new kinds every 30 s only: until it
        knows the CRD, a session of the same name would find its host and its Secret taken by one that is gone. A home
        of the session's own is left to it: we may not delete volumes.

        Pods and the way in go first: while many sessions are deleted at once, what computes is gone before the rest is
        tidied up.
        """
        if not await self.delete_desktop(observed):
            return False
        work = []
        if observed.service:
            work.append(self._owned.services.delete(observed.service))
        if observed.secret:
            work.append(self._owned.secrets.delete(observed.secret))
        return all(await asyncio.gather(*work))

    async def delete_desktop(self, observed: Observed) -> bool:
        """Delete what a suspended session does not keep: pod and route; True when they are gone."""
        work = [self._delete(pod, observed) for pod in pods_of(observed)]
        work.append(self._record_use(observed))
        if observed.route:
            work.append(self._owned.routes.delete(observed.route))
        return all(await asyncio.gather(*work))

    async def delete_pod(self, observed: Observed) -> bool:
        """Delete the pod; True when it is gone."""
        return observed.pod is None or await self._delete(observed.pod, observed)

    async def delete_extra_pods(self, observed: Observed) -> None:
        """Delete pods that should not be: a second one, and one of which a dead node would never report the end."""
        terminating = [pod for pod in (observed.pod, observed.terminating) if pod and pod.terminating]
        unwanted = [*observed.extra_pods, *(pod for pod in terminating if _may_be_forced(pod, observed))]
        if unwanted:
            await asyncio.gather(*(self._delete(pod, observed) for pod in unwanted))

    async def is_gone(self, session: VDISession) -> bool:
        """Whether the API server too has no more pod of the name that the status knows.

        A cache may lag behind, and somebody may have taken the labels off by which it finds our pods: they come back.
        """
        meta, pods = session.metadata, self._owned.pods
        live = await pods.get_live(meta.namespace, session.status.pod_name)
        if live is None or owner_uid(live) != meta.uid:
            return True
        await pods.label(live, Identity.of(session).labels)
        return False

    async def _record_use(self, observed: Observed) -> bool:
        """Note on a retained home when its desktop was stopped. No reason to keep a desktop: a failure is logged."""
        pod, home, now = observed.pod, observed.home, self._clock.now()
        if home and MADE_AHEAD in home.metadata.annotations and pods_of(observed):
            # The gateway made it while the operator was starting the desktop. It may have files now.
            await self._owned.homes.annotate(home, {MADE_AHEAD: None})
        if pod and not pod.terminating and home and owner_uid(home) is None and is_use_due(home.metadata, now):
            try:
                await self._owned.homes.annotate(home, {LAST_USED: format_time(now)})
            except KubeError as error:
                log.warning("%s/%s: last use not recorded: %s", home.metadata.namespace, home.metadata.name, error)
        return True

    async def _delete(self, pod: Pod, observed: Observed) -> bool:
        if _may_be_forced(pod, observed):
            return await self._owned.pods.delete_now(pod)
        return await self._owned.pods.delete(pod)


def pods_of(observed: Observed) -> list[Pod]:
    """All pods of a session."""
    return [pod for pod in (observed.pod, observed.terminating, *observed.extra_pods) if pod]


def _may_be_forced(pod: Pod, observed: Observed) -> bool:
    """Its node cannot tell that it has ended; if it still runs there, it can at least spoil no volume."""
    on_that_node = observed.node is None or pod.spec.node_name == observed.node.metadata.name
    return pod.terminating and observed.node_lost and on_that_node and not pod.writes_to
