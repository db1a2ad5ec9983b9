"""The state of one session as `vdi.session` decides on it, from the stores alone: no API reads.

Also decides, with `find_holder`, which of several sessions has a home, a host or a name.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from vdi.api.session import VDISession
from vdi.cluster.objects import Event, Pod, Service
from vdi.kube.meta import HasMetadata
from vdi.operator.caches import BY_HOME, BY_HOST, BY_SUBJECT, Caches
from vdi.operator.owned_resources import owner_uid, session_of
from vdi.operator.reservations import Hosts, Reservations, home_reservation
from vdi.session import naming
from vdi.session.children import Route, Secret
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.decide import Contender, Observed, find_holder, host_taken
from vdi.session.effective import Desktop, resolve
from vdi.session.failures import current_failures, is_hopeless
from vdi.session.homes import Home, resolve_home
from vdi.session.lifetime import Activity

N = TypeVar("N", bound=HasMetadata)


class Observer:
    """Collects a session's template, children and rivals; used by the session controller."""

    def __init__(
        self,
        caches: Caches,
        reservations: Reservations,
        hosts: Hosts,
        settings: ClusterSettings,
        report: Callable[[str], Activity | None],
        is_unpublished: Callable[[str], bool],
    ) -> None:
        """`report` and `is_unpublished` are those of `Agents` and `StatusWriter`."""
        self._caches = caches
        self._reservations = reservations
        self._hosts = hosts
        self._settings = settings
        self._report = report
        self._is_unpublished = is_unpublished

    def observe(self, session: VDISession) -> Observed:
        """The session's state. Objects with its children's names that belong to others are left
        out.
        """
        caches, meta = self._caches, session.metadata
        pod, terminating, extra_pods = self._pods_of(session)
        service, route, secret = self._access_of(session)
        template, homes = caches.templates.get("", session.spec.template), caches.homes_of(session)
        home = resolve_home(session, template, homes) if template else None
        resolved = home.claim if home else ""
        if template is None:
            resolved = session.status.home_claim
        claim = (pod.home_claim or "") if pod else resolved
        bound = pod or terminating
        host = self._hosts.label_of(session)
        is_taken = self._is_taken(session, host)
        node = None
        if bound and bound.spec.node_name:
            node = caches.nodes.get("", bound.spec.node_name)
        return Observed(
            session=session,
            template=template,
            pod=pod,
            home=caches.claims.get(meta.namespace, claim) if claim else None,
            home_claim=claim,
            homes=homes,
            service=service,
            route=route,
            secret=secret,
            events=tuple(self._events(meta.namespace, pod, claim)) if pod and not pod.ready else (),
            node=node,
            node_gone=bound is not None and bool(bound.spec.node_name) and node is None,
            terminating=terminating,
            activity=self._report(meta.uid) if pod else None,
            extra_pods=extra_pods,
            home_holder=None if pod or home is None else self._home_holder(session, home),
            host="" if is_taken else host,
            host_blocked=host_taken(host) if is_taken else None,
            name_holder=self._name_holder(session),
        )

    def is_current(self, observed: Observed) -> bool:
        """Whether the stores have the session's children as they are in `observed`."""
        namespace, claim = observed.session.metadata.namespace, observed.home_claim
        home = self._caches.claims.get(namespace, claim) if claim else None
        stored = (*self._pods_of(observed.session), *self._access_of(observed.session), home)
        return stored == (
            observed.pod,
            observed.terminating,
            observed.extra_pods,
            observed.service,
            observed.route,
            observed.secret,
            observed.home,
        )

    def _access_of(self, session: VDISession) -> tuple[Service | None, Route | None, Secret | None]:
        """The session's Service, route and Secret; without those of that name that belong to
        others.
        """
        caches, meta = self._caches, session.metadata
        service = caches.services.get(meta.namespace, naming.service_name(meta.name))
        route = caches.routes.get(meta.namespace, naming.route_name(meta.name))
        secret = caches.secrets.get(meta.namespace, naming.secret_name(meta.name))
        return (
            service if service and owner_uid(service) == meta.uid else None,
            route if route and owner_uid(route) == meta.uid else None,
            secret if secret and owner_uid(secret) == meta.uid else None,
        )

    def _pods_of(self, session: VDISession) -> tuple[Pod | None, Pod | None, tuple[Pod, ...]]:
        """The session's pod, a pod that we have deleted and that has not ended yet, and extra pods.

        A pod that somebody else deletes is the session's pod until its end. Of several, the pod
        that the status names stays, else one that is ready, else the oldest: so every reconcile
        chooses the same.
        """
        named, uid = session.status.pod_name, session.metadata.uid
        pods = [pod for pod in self._caches.pods.by_owner(uid) if owner_uid(pod) == uid]
        unpublished = not named and self._is_unpublished(uid)
        given_up = [
            pod
            for pod in pods
            if pod.terminating and pod.metadata.name != named and not unpublished
        ]
        live = [pod for pod in pods if pod not in given_up]
        live.sort(
            key=lambda pod: (
                pod.metadata.name != named,
                not pod.ready,
                pod.metadata.creation_timestamp,
                pod.metadata.name,
            )
        )
        return (
            live[0] if live else None,
            given_up[0] if given_up else None,
            (*live[1:], *given_up[1:]),
        )

    def _events(self, namespace: str, pod: Pod, claim: str) -> Iterator[Event]:
        yield from self._caches.events_of(pod)
        if claim:
            events = self._caches.events.by_index(BY_SUBJECT, ("PersistentVolumeClaim", claim))
            yield from (event for event in events if event.metadata.namespace == namespace)

    def _home_holder(self, session: VDISession, home: Home) -> str | None:
        if home.shared or not home.retain:
            return None
        claim, namespace = home.claim, session.metadata.namespace
        peers = _within(namespace, self._caches.sessions.by_index(BY_HOME, claim))
        mounting = _within(namespace, self._caches.pods.by_index(BY_HOME, claim))
        if len(peers) == 1 and not mounting:
            return None
        reserved = self._reservations.holder(home_reservation(namespace, claim))
        wanting = []
        for peer in peers:
            if self._could_start(peer, claim):
                wanting.append(_contender(peer, holds=peer.metadata.uid == reserved))
        return _holder(session, having=mounting, wanting=wanting)

    def _is_taken(self, session: VDISession, label: str) -> bool:
        """Whether the host label belongs to another user, or to another session of the same
        user.
        """
        if self._hosts.is_owned_by_another(session, label):
            return True
        host, owner = self._settings.host(label), self._hosts.owner_of(label)
        peers = []
        for peer in self._caches.sessions.by_index(BY_HOST, label):
            if owner in (None, peer.spec.user) and self._hosts.label_of(peer) == label:
                peers.append(peer)
        if not peers:  # the label is made with the key: no other session requests it
            return False
        reserved, url = self._reservations.holder(host), self._settings.url(host)
        wanting = [
            _contender(peer, holds=peer.metadata.uid == reserved, first=peer.status.url == url)
            for peer in peers
        ]
        return (
            _holder(session, having=self._caches.routes.by_index(BY_HOST, host), wanting=wanting)
            is not None
        )

    def _could_start(self, session: VDISession, claim: str) -> bool:
        """Whether the session waits for this home alone; else it must not keep others from it."""
        if session.spec.suspended:
            return False
        template = self._caches.templates.get("", session.spec.template)
        desktop = None
        if template:
            desktop = resolve(session, template, self._settings, self._caches.homes_of(session))
        has_home = (
            isinstance(desktop, Desktop)
            and desktop.home is not None
            and desktop.home.claim == claim
        )
        failures = current_failures(session)
        given_up = failures is not None and is_hopeless(failures, session, template)
        is_blocked = self._name_holder(session) or self._is_taken(
            session, self._hosts.label_of(session)
        )
        return has_home and not given_up and not is_blocked

    def _name_holder(self, session: VDISession) -> VDISession | None:
        """The session of another namespace that has this session's name."""
        namesakes = self._caches.namesakes(session)
        if not namesakes:
            return None
        sessions = {rival.metadata.uid: rival for rival in (session, *namesakes)}
        contenders = (
            _contender(rival, holds=bool(self._caches.pods.by_owner(uid)))
            for uid, rival in sessions.items()
        )
        holder = find_holder(contenders)
        if holder and holder.uid != session.metadata.uid:
            return sessions[holder.uid]
        return None


def _within(namespace: str, objects: Iterable[N]) -> list[N]:
    return [obj for obj in objects if obj.metadata.namespace == namespace]


def _holder(
    session: VDISession, *, having: Iterable[HasMetadata], wanting: Iterable[Contender]
) -> str | None:
    """The name of the session that gets it, if that is another one."""
    contenders = list(wanting)
    for obj in having:
        owner = session_of(obj)
        if owner:
            uid, name = owner.uid, owner.name
        else:
            uid, name = obj.metadata.uid, obj.metadata.name
        contenders.append(Contender(uid=uid, name=name, created="", holds=True, terminating=False))
    mine = []
    for contender in contenders:
        if contender.uid == session.metadata.uid and contender.holds:
            mine.append(contender)
    holder = mine[0] if mine else find_holder(contenders)
    if holder and holder.uid != session.metadata.uid:
        return holder.name
    return None


def _contender(session: VDISession, *, holds: bool, first: bool = False) -> Contender:
    """`first`: before all older ones. So a suspended session, which has no route, gets its former
    host again.
    """
    meta = session.metadata
    return Contender(
        uid=meta.uid,
        name=meta.name,
        created="" if first else meta.creation_timestamp,
        holds=holds,
        terminating=meta.deletion_timestamp is not None,
    )
