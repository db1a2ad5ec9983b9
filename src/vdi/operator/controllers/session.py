"""Reconciles one session: looks, decides, acts, tells. The shape never varies:

guard -> deleting? finalize -> finalizer -> observe -> over? expire -> decide -> build -> status -> soonest requeue
"""

from datetime import timedelta

from vdi.api.session import VDISession
from vdi.kube.clock import Clock
from vdi.kube.errors import Conflict, NotFound
from vdi.kube.queue import Result
from vdi.kube.transport import Client
from vdi.operator.announce import Announcer
from vdi.operator.build import Builder
from vdi.operator.caches import Caches
from vdi.operator.kinds import SESSIONS
from vdi.operator.logs import log_session
from vdi.operator.observe import Observer
from vdi.operator.reservations import Reservations
from vdi.operator.status import StatusWriter
from vdi.session.children.identity import FINALIZER
from vdi.session.decide import Observed, decide
from vdi.session.lifetime import expires_at, is_over
from vdi.session.phase import derive
from vdi.session.policy import Policy

SessionKey = tuple[str, str]
"""(namespace, name)."""

REFUSED_AGAIN = 30.0
"""Seconds until a refused child is tried again: nothing tells us when a quota or a label of the namespace changes."""


class SessionController:
    """What is done for one session at a time."""

    def __init__(
        self,
        *,
        client: Client,
        caches: Caches,
        reservations: Reservations,
        builder: Builder,
        announcer: Announcer,
        policy: Policy,
        clock: Clock,
    ) -> None:
        self._client = client
        self._caches = caches
        self._reservations = reservations
        self._builder = builder
        self._announcer = announcer
        self._policy = policy
        self._clock = clock
        self._observer = Observer(caches, reservations, policy)
        self._statuses = StatusWriter(client, caches.sessions, clock)

    async def reconcile(self, key: SessionKey) -> Result:
        """Bring one session one step, or all steps, further. Raises KubeError for what another try may mend."""
        with log_session(key):
            session = self._caches.sessions.get(*key)
            if session is None:
                return Result()
            if session.metadata.deletion_timestamp:
                return await self._finalize(session)
            return await self._run(session)

    def forget(self, session: VDISession) -> None:
        """The session is gone: drop what was remembered of it."""
        self._reservations.release(session.metadata.uid)
        self._statuses.forget(session.metadata.uid)

    async def _run(self, session: VDISession) -> Result:
        if FINALIZER not in session.metadata.finalizers:
            session = await self._set_finalizers(session, (*session.metadata.finalizers, FINALIZER))
        observed = self._observer.observe(session)
        now = self._clock.now()
        if is_over(session, observed.template, observed.pod, now):
            return await self._expire(observed)
        built = await self._builder.build(observed, decide(observed, self._policy))
        status = derive(built.observed, built.problem, self._policy, now)
        written, note_due = await self._statuses.write(session, status)
        if written is not session:
            self._announcer.announce(session, written, now)
        if built.failure:
            raise built.failure
        end = expires_at(session, observed.template, built.observed.pod)
        left = max(timedelta(), end - now) if end else None
        refused = REFUSED_AGAIN if built.refused else None
        due = [one for one in (note_due, refused, left.total_seconds() if left else None) if one is not None]
        return Result(requeue_after=min(due, default=None))

    async def _expire(self, observed: Observed) -> Result:
        """The end of the time (B4): say so, then delete the session; finalizing it does the rest."""
        session, now = observed.session, self._clock.now()
        written, _ = await self._statuses.write(session, derive(observed, None, self._policy, now))
        self._announcer.announce(session, written, now)
        meta = session.metadata
        try:
            left = await self._client.delete(
                SESSIONS, meta.name, namespace=meta.namespace, uid=meta.uid, into=VDISession
            )
        except (NotFound, Conflict):  # gone already, or another one by now
            return Result()
        if left:
            self._caches.sessions.remember(left)
        return Result()

    async def _finalize(self, session: VDISession) -> Result:
        """Delete the children, wait for the pod's end, let the session go."""
        if FINALIZER not in session.metadata.finalizers:
            return Result()
        observed = self._observer.observe(session)
        if observed.pod:
            leaving = Observed(session, pod=observed.pod)
            session, _ = await self._statuses.write(session, derive(leaving, None, self._policy, self._clock.now()))
        if not await self._builder.clear(observed):
            return Result()  # the DELETED event of what is left wakes us
        kept = tuple(one for one in session.metadata.finalizers if one != FINALIZER)
        await self._set_finalizers(session, kept)
        return Result()

    async def _set_finalizers(self, session: VDISession, finalizers: tuple[str, ...]) -> VDISession:
        """Write the whole list; the resourceVersion keeps us from undoing what others wrote to it meanwhile."""
        meta = session.metadata
        patch = {"metadata": {"resourceVersion": meta.resource_version, "finalizers": list(finalizers)}}
        patched = await self._client.patch(SESSIONS, meta.name, patch, namespace=meta.namespace, into=VDISession)
        self._caches.sessions.remember(patched)
        return patched
