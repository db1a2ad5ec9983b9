"""Reconciles one session: observe, decide, act, write the status. The steps are always the same:

guard -> deleting? finalize -> finalizer -> observe -> host -> run over? end it -> suspended? -> pod lost? replace it
      -> decide -> room -> build -> status -> soonest requeue
"""

from dataclasses import dataclass, replace
from datetime import datetime

from vdi.api.session import VDISession
from vdi.kinds import SESSIONS
from vdi.kube.errors import NotFound, Replaced
from vdi.kube.meta import key_of
from vdi.kube.queue import Result
from vdi.operator.caches import ClusterContext
from vdi.operator.children import Builder, Built, Cleanup, pods_of
from vdi.operator.observe import Observer
from vdi.operator.owned_resources import UncertainCreates
from vdi.operator.queue_positions import CapacityQueue, Desktops, EndReports, Pools
from vdi.operator.reservations import Hosts, Reservations
from vdi.operator.status import SessionEvents, StatusWriter
from vdi.session.alerts import evictable_at, find_alerts, find_notices
from vdi.session.conditions import Reason
from vdi.session.decide import Decision, Observed, decide
from vdi.session.ending import Ending, Removal, after_loss, find_ending, find_removal, next_requeue
from vdi.session.failures import find_vanished
from vdi.session.naming import FINALIZER
from vdi.session.schedule import start_due_at
from vdi.session.status import derive, derive_ending, derive_suspended

# (namespace, name).
SessionKey = tuple[str, str]

# Seconds until a refused child is tried again: nothing tells us when a quota or a label of the namespace changes.
REFUSED_AGAIN = 30.0


@dataclass(frozen=True, slots=True)
class Dependencies:
    """Whom the controller asks: who may have room, who has a desktop ready, what the agents say, what history needs."""

    admission: CapacityQueue
    pools: Pools
    desktops: Desktops
    # None: there is no gateway that keeps a history.
    history: EndReports | None = None


class SessionController:
    """What is done for one session at a time."""

    def __init__(
        self,
        cluster: ClusterContext,
        *,
        hosts: Hosts,
        reservations: Reservations,
        uncertain_creates: UncertainCreates,
        builder: Builder,
        cleanup: Cleanup,
        dependencies: Dependencies,
        session_events: SessionEvents,
    ) -> None:
        client, caches, settings, clock = cluster.client, cluster.caches, cluster.settings, cluster.clock
        self._client = client
        self._caches = caches
        self._reservations = reservations
        self._uncertain_creates = uncertain_creates
        self._builder = builder
        self._cleanup = cleanup
        self._queue = dependencies.admission
        self._pools = dependencies.pools
        self._desktops = dependencies.desktops
        self._history = dependencies.history
        self._session_events = session_events
        self._settings = settings
        self._clock = clock
        self._statuses = StatusWriter(client, caches.sessions, clock)
        report = dependencies.desktops.report
        self._observer = Observer(caches, reservations, hosts, settings, report, self._statuses.is_unpublished)

    async def reconcile(self, key: SessionKey) -> Result:
        """Bring one session one step, or all steps, further. Raises KubeError for what another try may fix."""

        await self._uncertain_creates.settle(key)
        session = self._caches.sessions.get(*key)
        if session is None:
            return Result()
        if session.metadata.deletion_timestamp:
            return await self._finalize(session)
        return await self._run(session)

    def forget(self, session: VDISession) -> None:
        """The session is gone: drop what was remembered of it."""
        self._queue.forget(session.metadata.uid)
        self._reservations.release(session.metadata.uid)
        self._uncertain_creates.forget(key_of(session))
        self._statuses.forget(session.metadata.uid)

    async def _run(self, session: VDISession) -> Result:
        if FINALIZER not in session.metadata.finalizers:
            session = await self._set_finalizers(session, (*session.metadata.finalizers, FINALIZER))
        observed = await self._builder.reserve_host(self._observer.observe(session))
        now = self._clock.now()
        await self._cleanup.delete_extra_pods(observed)
        if ending := find_ending(observed, self._settings, now):
            return await self._end(observed, ending, now)
        if session.spec.suspended:
            due = start_due_at(session, now)
            if due and now >= due:
                await self._patch(session, {"spec": {"suspended": False}})
                return Result()
            return await self._reconcile_suspended(observed, due, now)
        unpublished = self._statuses.is_unpublished(session.metadata.uid)
        if not pods_of(observed) and (loss := find_vanished(session, unpublished=unpublished)):
            if unpublished or await self._cleanup.is_gone(session):
                return await self._replace_pod(observed, after_loss(observed, loss, now), now)
            return Result()  # the caches will have it in a moment
        if removal := find_removal(observed, now):
            return await self._replace_pod(observed, removal, now)
        return await self._reconcile_active(observed, now)

    async def _reconcile_active(self, observed: Observed, now: datetime) -> Result:
        """Build what is missing, or wait; tell how it stands."""
        session = observed.session
        observed, decision = await self._request_capacity(observed, decide(observed, self._settings, now))
        free_from = evictable_at(observed, self._settings)
        built = await self._builder.build(observed, decision, evictable=free_from is not None and now >= free_from)
        if built.observed.pod is None and built.refused:
            self._queue.withdraw(session.metadata.uid)
        if _is_just_made(observed, built, now) and (note_due := self._statuses.hold(session)) is not None:
            return Result(requeue_after=note_due)
        alerts = find_alerts(built.observed, self._settings, now)
        status = derive(built.observed, built.blocked, self._settings, now, alerts)
        written, note_due = await self._statuses.write(session, status)
        self._announce(session, written, now)
        if built.observed.pod:
            for notice in find_notices(session, alerts):
                self._desktops.notify(session, built.observed.pod, notice)
        if built.failure:
            raise built.failure
        observed = replace(built.observed, session=written) if written is not session else built.observed
        refused = built.refused or (observed.host_blocked and observed.host_blocked.reason != Reason.HOST_TAKEN)
        due = [note_due, REFUSED_AGAIN if refused else None]
        look = next_requeue(observed, self._settings, now)
        due.append((look - now).total_seconds() if look else None)
        return Result(requeue_after=min((one for one in due if one is not None), default=None))

    async def _request_capacity(self, observed: Observed, decision: Decision) -> tuple[Observed, Decision]:
        """A desktop that is ready already, else room for a new one; Blocked when there is neither."""
        session, desktop = observed.session, decision.desktop
        if observed.pod:
            return observed, decision
        if desktop is None:
            self._queue.withdraw(session.metadata.uid)
            return observed, decision
        if pod := await self._pools.claim(observed, desktop):
            self._queue.withdraw(session.metadata.uid)
            return replace(observed, pod=pod, node=self._caches.nodes.get("", pod.spec.node_name)), decision
        if waiting := self._queue.request(session, desktop, observed.home):
            return observed, Decision(blocked=replace(waiting.blocked, queue=waiting.queue))
        return observed, decision

    async def _replace_pod(self, observed: Observed, removal: Removal, now: datetime) -> Result:
        """The status first, then the pod: so a loss is counted once, and the run's begin is known between two pods."""
        without = replace(observed, session=removal.session, pod=None)
        status = derive(without, removal.blocked, self._settings, now)
        written, _ = await self._statuses.write(observed.session, status, at_once=True)
        self._announce(observed.session, written, now)
        await self._cleanup.delete_pod(observed)
        return Result()  # the news of it wakes us

    async def _reconcile_suspended(self, observed: Observed, resumed_at: datetime | None, now: datetime) -> Result:
        """Suspended (B7): no pod, no way in, no place in the queue; home, address and Secret stay.

        `resumed_at`: when the session's schedule resumes it.
        """
        session = observed.session
        self._queue.withdraw(session.metadata.uid)
        written, _ = await self._statuses.write(session, derive_suspended(observed, self._settings, now), at_once=True)
        self._announce(session, written, now)
        if await self._cleanup.delete_desktop(observed):
            self._reservations.release(session.metadata.uid)
        return Result(requeue_after=(resumed_at - now).total_seconds() if resumed_at else None)

    async def _end(self, observed: Observed, ending: Ending, now: datetime) -> Result:
        """The end of a run (B4): say so, then suspend or delete the session; resting or finalizing does the rest.

        Each write names the state that was decided on: an extension that the watch has not brought yet wins.
        """
        session = observed.session
        status = derive_ending(observed, ending, self._settings, now)
        written, _ = await self._statuses.write(session, status, at_once=True, if_unchanged=True)
        self._announce(session, written, now)
        if ending.suspends:
            await self._patch(written, {"spec": {"suspended": True}})
        else:
            await self._delete(written)
        return Result()

    async def _finalize(self, session: VDISession) -> Result:
        """Delete the children, wait for the pod's end, let the session go."""
        self._queue.withdraw(session.metadata.uid)
        if FINALIZER not in session.metadata.finalizers:
            return Result()
        wait = self._history.seconds_to_wait(session) if self._history else None
        observed = self._observer.observe(session)
        if pods := pods_of(observed):
            terminating = replace(observed, pod=pods[0], terminating=None)
            status = derive(terminating, None, self._settings, self._clock.now())
            session, _ = await self._statuses.write(session, status)
        if not await self._cleanup.delete_all(observed):
            return Result()  # the DELETED event of what is left wakes us
        if wait is not None:
            return Result(requeue_after=wait)
        kept = tuple(finalizer for finalizer in session.metadata.finalizers if finalizer != FINALIZER)
        left = await self._set_finalizers(session, kept)
        if not left.metadata.finalizers:
            # That deleted it. The answer has the version from before, which is no news to the cache: a child's end that
            # is seen before the session's own would have it released a second time.
            meta = left.metadata
            self._caches.sessions.forget(meta.namespace, meta.name, meta.uid)
        return Result()

    def _announce(self, before: VDISession, written: VDISession, now: datetime) -> None:
        if written is not before:
            self._session_events.announce(before, written, now)

    async def _set_finalizers(self, session: VDISession, finalizers: tuple[str, ...]) -> VDISession:
        """Write the whole list, which others write to as well."""
        return await self._patch(session, {"metadata": {"finalizers": list(finalizers)}})

    async def _patch(self, session: VDISession, patch: dict[str, dict[str, object]]) -> VDISession:
        """Change this very state of the session: the resourceVersion keeps us from undoing what others have written."""
        meta = session.metadata
        body = {**patch, "metadata": {**patch.get("metadata", {}), "resourceVersion": meta.resource_version}}
        patched = await self._client.patch(SESSIONS, meta.name, body, namespace=meta.namespace, into=VDISession)
        self._caches.sessions.remember(patched)
        return patched

    async def _delete(self, session: VDISession) -> None:
        """Delete this very state of the session. Raises Conflict."""
        meta = session.metadata
        try:
            left = await self._client.delete(
                SESSIONS,
                meta.name,
                namespace=meta.namespace,
                uid=meta.uid,
                resource_version=meta.resource_version,
                into=VDISession,
            )
        except (NotFound, Replaced):
            return
        if left:
            self._caches.sessions.remember(left)


def _is_just_made(observed: Observed, built: Built, now: datetime) -> bool:
    """Whether all is as it should be and the pod was made in this very look: then there is nothing to tell yet."""
    in_order = not (built.blocked or built.failure or observed.terminating or observed.extra_pods)
    is_made = observed.pod is None and built.observed.pod is not None
    return in_order and is_made and find_removal(built.observed, now) is None
