"""Controller of VDISession: observes a session, decides with `vdi.session`, acts, and writes the
status.

deleted? finalize -> finalizer -> observe -> host -> run over? end it -> suspended? -> pod lost?
replace it
                  -> decide -> capacity -> build children -> status -> soonest requeue

The steps in full, with their reasons: docs/design/operator.md.
"""

from dataclasses import replace
from datetime import datetime

from vdi.api.session import SessionStatus, VDISession
from vdi.cluster.reasons import PodReason
from vdi.kinds import SESSIONS
from vdi.kube.errors import NotFound, Replaced
from vdi.kube.meta import key_of
from vdi.kube.queue import Result
from vdi.operator.agents import Agents
from vdi.operator.caches import ClusterContext, SessionKey
from vdi.operator.child_writes import Builder, Built, Cleanup, pods_of
from vdi.operator.end_reports import EndReports
from vdi.operator.observe import Observer
from vdi.operator.owned_resources import OwnedResources, UncertainCreates
from vdi.operator.pool_claims import PoolClaims
from vdi.operator.queueing import QueueManager
from vdi.operator.release_keys import ReleaseKey
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

# Until a refused child, size or mount is tried again: no event reports that a quota or a filesystem
# has changed.
_REFUSED_AGAIN_SECONDS = 30.0
# A reconcile's own writes do not enqueue its session: where they leave something to do, it returns
# this.
_AT_ONCE = Result(requeue_after=0.0)


class SessionController:
    """Reconciles sessions, each at one time by one worker only."""

    def __init__(
        self,
        cluster: ClusterContext,
        owned: OwnedResources,
        uncertain_creates: UncertainCreates,
        host_key: ReleaseKey,
        desktop_key: ReleaseKey,
        *,
        queue: QueueManager,
        pools: PoolClaims,
        agents: Agents,
        reports: EndReports | None,
        events: SessionEvents,
    ) -> None:
        """`reports`: None where no gateway keeps a history."""
        client = cluster.client
        caches = cluster.caches
        settings = cluster.settings
        clock = cluster.clock
        self._client = client
        self._caches = caches
        self._uncertain_creates = uncertain_creates
        self._queue = queue
        self._pools = pools
        self._agents = agents
        self._reports = reports
        self._events = events
        self._settings = settings
        self._clock = clock
        self._reservations = reservations = Reservations()
        hosts = Hosts(cluster, host_key)
        self._builder = Builder(
            owned, hosts, reservations, uncertain_creates, desktop_key, settings
        )
        self._cleanup = Cleanup(owned, clock)
        self._statuses = StatusWriter(client, caches.sessions, clock)
        self._observer = Observer(
            caches, reservations, hosts, settings, agents.report, self._statuses.is_unpublished
        )

    async def reconcile(self, key: SessionKey) -> Result:
        """Take one session as many steps further as possible. Raises KubeError for what another try
        may fix.
        """
        await self._uncertain_creates.settle(key)
        session = self._caches.sessions.get(*key)
        if session is None:
            return Result()
        if session.metadata.deletion_timestamp:
            return await self._finalize(session)
        return await self._run(session)

    def forget(self, session: VDISession) -> None:
        """Drop everything that is remembered of a session that is gone."""
        self._queue.forget(session.metadata.uid)
        self._reservations.release(session.metadata.uid)
        self._uncertain_creates.forget(key_of(session))
        self._statuses.forget(session.metadata.uid)

    async def _run(self, session: VDISession) -> Result:
        observed = await self._builder.reserve_host(self._observer.observe(session))
        now = self._clock.now()
        await self._cleanup.delete_extra_pods(observed)
        if ending := find_ending(observed, self._settings, now):
            return await self._end(observed, ending, now)
        if session.spec.suspended:
            due = start_due_at(session, now)
            if due and now >= due:
                await self._patch(session, {"spec": {"suspended": False}})
                return _AT_ONCE
            return await self._reconcile_suspended(observed, now)
        unpublished = self._statuses.is_unpublished(session.metadata.uid)
        if not pods_of(observed) and (loss := find_vanished(session, unpublished=unpublished)):
            if unpublished or await self._cleanup.is_gone(session):
                return await self._replace_pod(observed, after_loss(observed, loss, now), now)
            return _AT_ONCE  # the pod is in the cache now
        if removal := find_removal(observed, now):
            if observed.pod:
                self._queue.note_refusal(observed.pod)
            return await self._replace_pod(observed, removal, now)
        return await self._reconcile_active(observed, now)

    async def _reconcile_active(self, observed: Observed, now: datetime) -> Result:
        """Create or repair the children, or wait for what is missing; write the status."""
        session = observed.session
        observed, decision = await self._request_capacity(
            observed, decide(observed, self._settings, now)
        )
        built = await self._build(observed, decision, now)
        # A desktop is often ready within 1.5 s of its pod. Its status is then written once, as
        # Running.
        if (
            _is_just_made(observed, built, now)
            and (note_due := self._statuses.hold(session)) is not None
        ):
            again = built.pod_follows or not self._observer.is_current(built.observed)
            if again:
                return _AT_ONCE
            return Result(requeue_after=note_due)
        unresized = await self._builder.resize(built.observed)
        alerts = (*find_alerts(built.observed, self._settings, now), *filter(None, [unresized]))
        status = derive(built.observed, built.blocked, self._settings, now, alerts)
        written, note_due = await self._write_status(session, status, now)
        if built.observed.pod:
            for notice in find_notices(session, alerts, now):
                self._agents.notify(session, built.observed.pod, notice)
        if built.failure:
            raise built.failure
        if written is not session:
            observed = replace(built.observed, session=written)
        else:
            observed = built.observed
        # A warning that has just been written may mean more at once.
        is_warned = bool(alerts) and written is not session
        if built.pod_follows or is_warned or not self._observer.is_current(observed):
            return _AT_ONCE
        due = [] if note_due is None else [note_due]
        if unresized or _may_be_refused_no_longer(observed, built):
            due.append(_REFUSED_AGAIN_SECONDS)
        if requeue_at := next_requeue(observed, self._settings, now):
            due.append((requeue_at - now).total_seconds())
        return Result(requeue_after=min(due, default=None))

    async def _build(self, observed: Observed, decision: Decision, now: datetime) -> Built:
        """Send finalizer and children, as far as they are missing; of a blocked session the former
        alone.
        """
        session = observed.session
        add_finalizer = None
        if decision.blocked:
            observed = replace(observed, session=await self._add_finalizer(session))
        elif not _has_finalizer(session):
            # Beside the first children, which the session owns: where it is deleted meanwhile, the
            # garbage collector deletes them.
            add_finalizer = self._add_finalizer(session)
        free_from = evictable_at(observed, self._settings)
        is_evictable = free_from is not None and now >= free_from
        built = await self._builder.build(observed, decision, add_finalizer, evictable=is_evictable)
        if built.observed.pod is None and built.refused:
            self._queue.withdraw(session.metadata.uid)
        return built

    async def _request_capacity(
        self, observed: Observed, decision: Decision
    ) -> tuple[Observed, Decision]:
        """Claim a pool's desktop, or reserve capacity for a new one; Blocked where neither is
        possible.
        """
        session, desktop = observed.session, decision.desktop
        if observed.pod:
            return observed, decision
        if desktop is None:
            self._queue.withdraw(session.metadata.uid)
            return observed, decision
        if pod := await self._pools.claim(observed, desktop):
            self._queue.withdraw(session.metadata.uid)
            return (
                replace(observed, pod=pod, node=self._caches.nodes.get("", pod.spec.node_name)),
                decision,
            )
        if refusal := self._queue.find_refusal(desktop, observed.home):
            self._queue.withdraw(session.metadata.uid)
            return observed, Decision(blocked=refusal)
        if waiting := self._queue.request(session, desktop, observed.home):
            return observed, Decision(blocked=waiting.blocked)
        return observed, replace(decision, desktop=self._queue.isolate(desktop, observed.home))

    async def _replace_pod(self, observed: Observed, removal: Removal, now: datetime) -> Result:
        # The status first, then the pod. Killed in between, the next start counts the loss once,
        # and between two pods the status keeps the time when the run began.
        without = replace(observed, session=removal.session, pod=None)
        status = derive(without, removal.blocked, self._settings, now)
        await self._write_status(observed.session, status, now, at_once=True)
        await self._cleanup.delete_pod(observed)
        return _AT_ONCE

    async def _reconcile_suspended(self, observed: Observed, now: datetime) -> Result:
        """Remove pod, route and place in the queue; home, host and Secret stay."""
        session = await self._add_finalizer(observed.session)
        self._queue.withdraw(session.metadata.uid)
        status = derive_suspended(observed, self._settings, now)
        written, _ = await self._write_status(session, status, now, at_once=True)
        if await self._cleanup.delete_desktop(observed):
            self._reservations.release(session.metadata.uid)
        if not self._observer.is_current(replace(observed, session=written)):
            return _AT_ONCE
        requeue_at = next_requeue(replace(observed, pod=None), self._settings, now)
        return Result(requeue_after=(requeue_at - now).total_seconds() if requeue_at else None)

    async def _end(self, observed: Observed, ending: Ending, now: datetime) -> Result:
        """Write that the run is over, then suspend or delete the session. Its next reconcile does
        the rest.
        """
        # Each write names the resourceVersion that the decision was made on. So an extension that
        # the watch has not brought yet wins: the write fails with a conflict, and the session is
        # reconciled again.
        written = session = await self._add_finalizer(observed.session)
        if not (session.spec.suspended and ending.suspends):
            status = derive_ending(observed, ending, self._settings, now)
            written, _ = await self._write_status(
                session, status, now, at_once=True, if_unchanged=True
            )
        if ending.suspends:
            if ending.reason == Reason.ENDED_AS_PLANNED:
                done = {"plannedEnd": None}
            else:
                done = {}
            await self._patch(written, {"spec": {"suspended": True, **done}})
            return _AT_ONCE
        if await self._delete(written):
            return _AT_ONCE
        return Result()

    async def _finalize(self, session: VDISession) -> Result:
        """Delete the children, wait until the pod has ended and the gateway knows, and remove the
        finalizer.
        """
        self._queue.withdraw(session.metadata.uid)
        if FINALIZER not in session.metadata.finalizers:
            return Result()
        wait = None
        if self._reports:
            wait = self._reports.seconds_to_wait(session)
        observed = self._observer.observe(session)
        if pods := pods_of(observed):
            terminating = replace(observed, pod=pods[0], terminating=None)
            status = derive(terminating, None, self._settings, self._clock.now())
            session, _ = await self._statuses.write(session, status)
        if not await self._cleanup.delete_all(observed):
            # The DELETED event of the last child enqueues the session. Before that, a pod that
            # terminates since now may have to be deleted by force: that of a dead node.
            is_current = self._observer.is_current(replace(observed, session=session))
            return Result() if is_current else _AT_ONCE
        if wait is not None:
            return Result(requeue_after=wait)
        kept = tuple(
            finalizer for finalizer in session.metadata.finalizers if finalizer != FINALIZER
        )
        left = await self._set_finalizers(session, kept)
        if not left.metadata.finalizers:
            # That deleted the session. The response has the old version, so the cache would keep
            # the session until the watch reports its end, and a child's event before that would
            # have the finalizer removed a second time.
            meta = left.metadata
            self._caches.sessions.forget(meta.namespace, meta.name, meta.uid)
        return Result()

    async def _write_status(
        self, session: VDISession, status: SessionStatus, now: datetime, **options: bool
    ) -> tuple[VDISession, float | None]:
        """`StatusWriter.write`, with the Events and metrics that belong to the change."""
        written, note_due = await self._statuses.write(session, status, **options)
        if written is not session:
            self._events.announce(session, written, now)
        return written, note_due

    async def _add_finalizer(self, session: VDISession) -> VDISession:
        if _has_finalizer(session):
            return session
        return await self._set_finalizers(session, (*session.metadata.finalizers, FINALIZER))

    async def _set_finalizers(self, session: VDISession, finalizers: tuple[str, ...]) -> VDISession:
        return await self._patch(session, {"metadata": {"finalizers": list(finalizers)}})

    async def _patch(self, session: VDISession, patch: dict[str, dict[str, object]]) -> VDISession:
        # With the resourceVersion, so that a finalizer of somebody else, or their edit of the spec,
        # is not undone.
        meta = session.metadata
        body = {
            **patch,
            "metadata": {**patch.get("metadata", {}), "resourceVersion": meta.resource_version},
        }
        patched = await self._client.patch(
            SESSIONS, meta.name, body, namespace=meta.namespace, into=VDISession
        )
        self._caches.sessions.remember(patched)
        return patched

    async def _delete(self, session: VDISession) -> bool:
        """Delete the session if it is still as it is known here; whether it was there. Raises
        Conflict.
        """
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
            return False
        if left:
            self._caches.sessions.remember(left)
        return left is not None


def _has_finalizer(session: VDISession) -> bool:
    return FINALIZER in session.metadata.finalizers


def _may_be_refused_no_longer(observed: Observed, built: Built) -> bool:
    """Whether no event reports that the cause is gone, so that another try is due."""
    if built.refused or (built.blocked and built.blocked.reason == PodReason.NO_IDMAPPED_MOUNTS):
        return True
    host = observed.host_blocked
    return host is not None and host.reason != Reason.HOST_TAKEN


def _is_just_made(observed: Observed, built: Built, now: datetime) -> bool:
    """Whether this reconcile has created the pod, and nothing else is to be reported."""
    in_order = not (built.blocked or built.failure or observed.terminating or observed.extra_pods)
    is_made = observed.pod is None and built.observed.pod is not None
    return in_order and is_made and find_removal(built.observed, now) is None
