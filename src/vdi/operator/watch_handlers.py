"""Watch handlers of the session controller: each change of an object becomes keys of sessions in
its queue.

Handlers run inside the watch, between two events, so they only look up and enqueue.
"""

from collections.abc import Callable, Iterable

from vdi.api.session import VDISession
from vdi.api.template import HomeScope, VDITemplate
from vdi.cluster.objects import Event, Node, PersistentVolumeClaim, Pod
from vdi.kube.meta import HasMetadata
from vdi.kube.queue import Controller
from vdi.operator.caches import BY_HOME, BY_HOST, BY_TEMPLATE, Caches, SessionKey, labels_of
from vdi.operator.owned_resources import session_of
from vdi.operator.status import START_PAUSE
from vdi.session.children import HostReservation, Route
from vdi.session.naming import reserved_label, user_home_claim_name

# Index of pods by their node.
BY_NODE = "node"


class WatchHandlers:
    """Listens to all stores, and enqueues the sessions that a change concerns.

    A home is looked up by its claim's name alone. Sessions of other namespaces are then reconciled,
    too, in vain.
    """

    def __init__(
        self,
        caches: Caches,
        domain: str,
        sessions: Controller[SessionKey],
        forget: Callable[[VDISession], None],
    ) -> None:
        """`forget` is called with each session that is gone."""
        self._caches = caches
        self._suffix = f".{domain}"
        self._sessions = sessions
        self._forget = forget
        caches.sessions.listen(self._session_changed)
        caches.templates.listen(self._template_changed)
        caches.pods.add_index(
            BY_NODE, lambda pod: [pod.spec.node_name] if pod.spec.node_name else []
        )
        caches.pods.listen(self._pod_changed)
        caches.nodes.listen(self._node_changed)
        caches.claims.listen(self._claim_changed)
        caches.routes.listen(self._route_changed)
        caches.services.listen(self._child_changed)
        caches.secrets.listen(self._child_changed)
        caches.events.listen(self._event_changed)
        caches.reservations.listen(self._reservation_changed)

    def _session_changed(self, old: VDISession | None, new: VDISession | None) -> None:
        current = new or old
        if current is None:
            return
        self._sessions.enqueue_changed((current.metadata.namespace, current.metadata.name))
        if new is None and old is not None:
            self._forget(old)
        if old is None or new is None or _rivalry(old) != _rivalry(new):
            for session in (old, new):
                if session is not None:
                    self._enqueue_all(self._rivals(session))

    def _rivals(self, session: VDISession) -> list[VDISession]:
        sessions, home = self._caches.sessions, self._caches.retained_home(session)
        of_host = [
            rival for label in labels_of(session) for rival in sessions.by_index(BY_HOST, label)
        ]
        of_home = sessions.by_index(BY_HOME, home) if home else []
        return of_home + of_host + self._caches.namesakes(session)

    def _template_changed(self, old: VDITemplate | None, new: VDITemplate | None) -> None:
        if old and new and old.metadata.generation == new.metadata.generation:
            return
        current = new or old
        if current is None:
            return
        sessions = self._caches.sessions.by_index(BY_TEMPLATE, current.metadata.name)
        self._enqueue_all(sessions)
        if any(
            template and template.spec.persistence.scope is HomeScope.USER
            for template in (old, new)
        ):
            # Their sessions of other templates may start now.
            for user in {session.spec.user for session in sessions}:
                self._enqueue_all(
                    self._caches.sessions.by_index(BY_HOME, user_home_claim_name(user))
                )

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        # Progress of a pod may wait: a start is not reported before `START_PAUSE`, and mostly the
        # pod is ready by then, so that one reconcile is enough for both. In a burst, a pod that is
        # ready goes before sessions without one.
        if old is not None and new is not None and _is_progress(old, new):
            if owner := session_of(new):
                self._sessions.enqueue_within((new.metadata.namespace, owner.name), START_PAUSE)
            return
        self._child_changed(old, new, urgent=True)
        if old is not None and new is None and old.home_claim:
            self._enqueue_all(self._caches.sessions.by_index(BY_HOME, old.home_claim))

    def _node_changed(self, old: Node | None, new: Node | None) -> None:
        if old is not None and new is not None and _service_of(old) == _service_of(new):
            return
        if current := new or old:
            for pod in self._caches.pods.by_index(BY_NODE, current.metadata.name):
                self._child_changed(None, pod)

    def _claim_changed(
        self, old: PersistentVolumeClaim | None, new: PersistentVolumeClaim | None
    ) -> None:
        self._child_changed(old, new)
        if current := new or old:
            self._enqueue_all(self._caches.sessions.by_index(BY_HOME, current.metadata.name))

    def _route_changed(self, old: Route | None, new: Route | None) -> None:
        self._child_changed(old, new)
        if old is not None and (new is None or new.host != old.host):
            self._enqueue_all(
                self._caches.sessions.by_index(BY_HOST, old.host.removesuffix(self._suffix))
            )

    def _reservation_changed(
        self, old: HostReservation | None, new: HostReservation | None
    ) -> None:
        if current := new or old:
            self._enqueue_all(
                self._caches.sessions.by_index(BY_HOST, reserved_label(current.metadata.name))
            )

    def _child_changed(
        self, old: HasMetadata | None, new: HasMetadata | None, *, urgent: bool = False
    ) -> None:
        for child in (old, new):
            owner = session_of(child) if child is not None else None
            if owner and child is not None:
                self._sessions.enqueue_changed(
                    (child.metadata.namespace, owner.name), urgent=urgent
                )

    def _event_changed(self, _old: Event | None, new: Event | None) -> None:
        if new is None:
            return
        namespace, subject = new.metadata.namespace, new.regarding
        if subject.kind == "Pod":
            self._child_changed(None, self._caches.pods.get(namespace, subject.name))
        elif subject.kind == "PersistentVolumeClaim":
            self._claim_changed(None, self._caches.claims.get(namespace, subject.name))

    def _enqueue_all(self, sessions: Iterable[VDISession]) -> None:
        for session in sessions:
            self._sessions.enqueue_changed((session.metadata.namespace, session.metadata.name))


def _service_of(node: Node) -> tuple[bool, bool]:
    """The part of a node's state that concerns its desktops; the rest changes with every
    heartbeat.
    """
    return node.ready, node.spec.unschedulable


def _is_progress(old: Pod, new: Pod) -> bool:
    """Whether a pod was starting and still is: such a change is worth a message at most."""
    on_its_way = (
        old.status.phase == new.status.phase == "Pending"
        and not old.terminating
        and not new.terminating
    )
    return on_its_way and session_of(old) == session_of(new)


def _rivalry(session: VDISession) -> tuple[object, ...]:
    """The fields that decide which of several sessions gets a home or a host."""
    return session.metadata.generation, session.metadata.deletion_timestamp
