"""Reservations of homes and hosts, which only one session can have.

In memory until the caches show what was created; chosen host labels for good, in ConfigMaps.
"""

from vdi.api.session import VDISession
from vdi.kube.errors import AlreadyExists
from vdi.kube.resource import CONFIG_MAPS
from vdi.operator.caches import ClusterContext
from vdi.operator.release_keys import ReleaseKey
from vdi.session.children import HostReservation
from vdi.session.naming import build_reservation, host_label, refuse_hostname, reservation_name


def home_reservation(namespace: str, claim: str) -> str:
    """The name under which a home is reserved: a user may have one of the same name in each
    namespace.
    """
    return f"{namespace}/{claim}"


class Reservations:
    """Homes and hosts reserved by sessions, between a decision and the moment when the caches show
    its result.

    Lost at a restart without harm: the first lists show what was created. Touched only from the
    event loop's thread, between two awaits: hence no lock.
    """

    def __init__(self) -> None:
        self._holders: dict[str, str] = {}
        self._things: dict[str, set[str]] = {}

    def holder(self, thing: str) -> str | None:
        """The uid of the session that has reserved `thing`."""
        return self._holders.get(thing)

    def reserve(self, thing: str, uid: str) -> bool:
        """Reserve `thing`; False when another session has it."""
        if self._holders.setdefault(thing, uid) != uid:
            return False
        self._things.setdefault(uid, set()).add(thing)
        return True

    def release(self, uid: str) -> None:
        """Release everything that this session has reserved."""
        for thing in self._things.pop(uid, ()):
            del self._holders[thing]


class Hosts:
    """Host labels: which label a session has, and whose it is. Used by `Observer` and `Builder`."""

    def __init__(self, cluster: ClusterContext, key: ReleaseKey) -> None:
        self._client = cluster.client
        self._caches = cluster.caches
        self._settings = cluster.settings
        self._key = key
        self._namespace = cluster.namespaces[0]  # reservations count for all namespaces

    def label_of(self, session: VDISession) -> str:
        """The session's host label, unless that is taken; empty where its hostname is refused."""
        if refuse_hostname(session, self._settings):
            return ""
        meta = session.metadata
        return session.spec.hostname or host_label(
            namespace=meta.namespace,
            session_name=meta.name,
            user=session.spec.user,
            key=self._key.value,
        )

    def needs_reservation(self, session: VDISession, label: str) -> bool:
        """Whether the session has chosen this label and no one has reserved it."""
        return label == session.spec.hostname and self.owner_of(label) is None

    def is_owned_by_another(self, session: VDISession, label: str) -> bool:
        return self.owner_of(label) not in (None, session.spec.user)

    def owner_of(self, label: str) -> str | None:
        """The user who has reserved the label; None: no one."""
        reservation = self._caches.reservations.get(self._namespace, reservation_name(label))
        return reservation.data.user if reservation else None

    async def reserve(self, session: VDISession, label: str) -> str:
        """Reserve the label for the session's user, unless it is reserved; returns its owner.
        Raises KubeError.
        """
        # The API server decides who is first. Of an existing reservation only the labels are
        # repaired, by which our watch finds it.
        namespace = self._namespace
        body = build_reservation(namespace, label, session.spec.user)
        try:
            made = await self._client.create(
                CONFIG_MAPS, body, namespace=namespace, into=HostReservation
            )
        except AlreadyExists:
            name = body["metadata"]["name"]
            labels = {"metadata": {"labels": body["metadata"]["labels"]}}
            made = await self._client.patch(
                CONFIG_MAPS, name, labels, namespace=namespace, into=HostReservation
            )
        self._caches.reservations.remember(made)
        return made.data.user
