"""The operator's view of the cluster: one store per kind, one reflector per kind and namespace of
sessions.

Only templates, pools, nodes and volumes are cluster-scoped; of other namespaces the operator sees
nothing but pods. An index is computed from the object alone, so that the store can maintain it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

from vdi.api.pool import VDIPool
from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.objects import (
    Event,
    ForeignPod,
    Node,
    PersistentVolume,
    PersistentVolumeClaim,
    Pod,
    Service,
)
from vdi.kinds import POOLS, ROUTES, SESSIONS, TEMPLATES
from vdi.kube.clock import Clock
from vdi.kube.interning import Interner
from vdi.kube.managed_fields import FieldOwnershipReader
from vdi.kube.meta import T
from vdi.kube.resource import (
    CLAIMS,
    CONFIG_MAPS,
    EVENTS,
    NODES,
    PODS,
    SECRETS,
    SERVICES,
    VOLUMES,
    Resource,
)
from vdi.kube.store import Store
from vdi.kube.transport import Client
from vdi.kube.watch import Reflector, describe_troubles
from vdi.session.autoscaling import PLACEHOLDER, AutoscalerEvent
from vdi.session.children import HostReservation, Route, Secret
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.homes import home_names, resolve_home
from vdi.session.naming import APPLIED_HASH, HOST, MANAGED_BY

SessionKey = tuple[str, str]  # (namespace, name)

# Names of indices.
BY_TEMPLATE = "template"
BY_CLASS = "class"
BY_HOME = "home"
BY_HOST = "host"
BY_SUBJECT = "subject"
_ALL_NAMESPACES = (None,)


class Caches:
    """Stores and the reflectors that fill them; both live as long as one `Runtime`."""

    def __init__(
        self,
        client: Client,
        namespaces: tuple[str, ...],
        clock: Clock,
        *,
        count_others: bool = True,
        placeholders_namespace: str = "",
    ) -> None:
        self.namespaces = namespaces  # where sessions live
        ownership, interner = FieldOwnershipReader(client.field_manager, APPLIED_HASH), Interner()
        self.sessions: Store[VDISession] = Store(interner=interner)
        self.templates: Store[VDITemplate] = Store()
        self.pools: Store[VDIPool] = Store()
        self.nodes: Store[Node] = Store(interner=interner)
        self.volumes: Store[PersistentVolume] = Store(interner=interner)
        # Pods that are not ours and use capacity: in the sessions' namespaces, and in all others
        # where those count.
        self.foreign_pods: Store[ForeignPod] = Store(interner=interner)
        self.foreign_pods_elsewhere: Store[ForeignPod] = Store(interner=interner)
        self.placeholders: Store[Pod] = Store(interner=interner)
        # About placeholders.
        self.autoscaler_events: Store[AutoscalerEvent] = Store(interner=interner)
        self.pods: Store[Pod] = Store(interner=interner)
        self.claims: Store[PersistentVolumeClaim] = Store(interner=interner)
        self.secrets: Store[Secret] = Store(interner=interner)
        # Only these two are repaired when somebody edits them; the others are created once.
        self.services: Store[Service] = Store(ownership, interner)
        self.routes: Store[Route] = Store(ownership, interner)
        self.events: Store[Event] = Store(interner=interner)
        self.reservations: Store[HostReservation] = Store(interner=interner)

        self.sessions.add_index(BY_TEMPLATE, lambda session: [session.spec.template])
        # By the claim's name alone, which needs less memory: readers leave out other namespaces.
        self.sessions.add_index(BY_HOME, lambda session: home_names(session)[:2])
        self.sessions.add_index(BY_HOST, labels_of)
        self.volumes.add_index(BY_CLASS, lambda volume: [volume.spec.storage_class_name])
        self.pods.add_index(BY_HOME, lambda pod: [pod.home_claim] if pod.home_claim else [])
        self.routes.add_index(BY_HOST, lambda route: [route.host])
        self.events.add_index(
            BY_SUBJECT, lambda event: [(event.regarding.kind, event.regarding.name)]
        )

        # Owned resources are found by their label; of Events only the warnings explain anything.
        ours = ",".join(f"{key}={value}" for key, value in MANAGED_BY.items())
        of_hosts = f"{ours},{HOST}"
        not_mine = ",".join(f"{key}!={value}" for key, value in MANAGED_BY.items())
        placed = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"
        in_other_namespaces = ",".join(
            [*(f"metadata.namespace!={namespace}" for namespace in namespaces), placed]
        )

        def reflect(
            resource: Resource,
            into: type[T],
            store: Store[T],
            *,
            labels: str | None = None,
            fields: str | None = None,
            scopes: Sequence[str | None] = namespaces,
        ) -> Iterator[Reflector[T]]:
            make = partial(Reflector, label_selector=labels, field_selector=fields, clock=clock)
            return (make(client, resource, into, store, namespace=scope) for scope in scopes)

        reflectors: list[Iterator[Reflector[Any]]] = [
            reflect(SESSIONS, VDISession, self.sessions),
            reflect(TEMPLATES, VDITemplate, self.templates, scopes=_ALL_NAMESPACES),
            reflect(POOLS, VDIPool, self.pools, scopes=_ALL_NAMESPACES),
            reflect(NODES, Node, self.nodes, scopes=_ALL_NAMESPACES),
            reflect(VOLUMES, PersistentVolume, self.volumes, scopes=_ALL_NAMESPACES),
            reflect(PODS, ForeignPod, self.foreign_pods, labels=not_mine, fields=placed),
            reflect(PODS, Pod, self.pods, labels=ours),
            reflect(CLAIMS, PersistentVolumeClaim, self.claims, labels=ours),
            reflect(SECRETS, Secret, self.secrets, labels=ours),
            reflect(SERVICES, Service, self.services, labels=ours),
            reflect(ROUTES, Route, self.routes, labels=ours),
            reflect(EVENTS, Event, self.events, fields="type=Warning"),
            reflect(
                CONFIG_MAPS,
                HostReservation,
                self.reservations,
                labels=of_hosts,
                scopes=namespaces[:1],
            ),
        ]
        if count_others:
            # Without placeholders: the scheduler preempts those for desktops.
            others = partial(
                reflect, PODS, ForeignPod, self.foreign_pods_elsewhere, labels=f"!{PLACEHOLDER}"
            )
            reflectors.append(others(fields=in_other_namespaces, scopes=_ALL_NAMESPACES))
        if placeholders_namespace:
            scopes = [placeholders_namespace]
            reflectors += [
                reflect(PODS, Pod, self.placeholders, labels=PLACEHOLDER, scopes=scopes),
                reflect(EVENTS, AutoscalerEvent, self.autoscaler_events, scopes=scopes),
            ]
        self.reflectors: tuple[Reflector[Any], ...] = tuple(chain.from_iterable(reflectors))

    @property
    def synced(self) -> bool:
        """Whether every store has had a complete list."""
        return all(reflector.synced for reflector in self.reflectors)

    def homes_of(self, session: VDISession) -> dict[str, PersistentVolumeClaim]:
        """The existing claims, by name, that may be the home of this session."""
        namespace = session.metadata.namespace
        named_claims = ((name, self.claims.get(namespace, name)) for name in home_names(session))
        return {name: claim for name, claim in named_claims if claim}

    def retained_home(self, session: VDISession) -> str | None:
        """The claim of a home that this session shares with other sessions of its user, if it has
        one.
        """
        template = self.templates.get("", session.spec.template)
        home = None
        if template:
            home = resolve_home(session, template, self.homes_of(session))
        return home.claim if home and home.retain else None

    def namesakes(self, session: VDISession) -> list[VDISession]:
        """Sessions of the same name in the other namespaces, of which only one may run."""
        meta = session.metadata
        others = (
            self.sessions.get(space, meta.name)
            for space in self.namespaces
            if space != meta.namespace
        )
        return [other for other in others if other]

    def events_of(self, pod: Pod) -> list[Event]:
        """The warnings about this pod. Events outlive their pods, so its uid counts, not its
        name.
        """
        events = self.events.by_index(BY_SUBJECT, ("Pod", pod.metadata.name))
        return [event for event in events if event.regarding.uid == pod.metadata.uid]

    async def wait_synced(self) -> None:
        """Return once every store has had a complete list."""
        for reflector in self.reflectors:
            await reflector.wait_synced()

    def troubles(self) -> Iterator[str]:
        """One line per kind that cannot be watched, with the API server's reason."""
        return describe_troubles(self.reflectors)


def labels_of(session: VDISession) -> list[str]:
    """The host label that the session has chosen, if any; other labels are unique by themselves."""
    if session.spec.hostname:
        return [session.spec.hostname]
    return []


@dataclass(frozen=True, slots=True)
class ClusterContext:
    """The client, caches, settings and clock of one operator. Most of its components take this."""

    # Refuses to write while this process does not lead.
    client: Client
    caches: Caches
    settings: ClusterSettings
    clock: Clock
    # Where sessions live. The first one also has the Lease and the reservations of hosts.
    namespaces: tuple[str, ...]
