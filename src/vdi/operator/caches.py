"""The operator's view of the cluster: one store per kind, one reflector per kind and namespace of sessions.

Only templates, pools, nodes and volumes are cluster-scoped; of other namespaces the operator sees nothing but pods.
An index is computed from the object alone, so that the store can maintain it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from vdi.api.pool import VDIPool
from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.objects import Event, ForeignPod, Node, PersistentVolume, PersistentVolumeClaim, Pod, Service
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

BY_TEMPLATE = "template"
BY_HOME = "home"
BY_HOST = "host"
BY_SUBJECT = "subject"
# The scope of a reflector of all namespaces.
_CLUSTER = (None,)


class Caches:
    """Stores and reflectors. Stores live as long as the process and are rebuilt from the API at start."""

    def __init__(
        self,
        client: Client,
        namespaces: tuple[str, ...],
        clock: Clock,
        *,
        count_others: bool = True,
        placeholders_namespace: str = "",
    ) -> None:
        self.namespaces = namespaces
        """Where sessions live."""

        ownership, interner = FieldOwnershipReader(client.field_manager, APPLIED_HASH), Interner()
        self.sessions: Store[VDISession] = Store(interner=interner)
        self.templates: Store[VDITemplate] = Store()
        self.pools: Store[VDIPool] = Store()
        self.nodes: Store[Node] = Store(interner=interner)
        self.volumes: Store[PersistentVolume] = Store(interner=interner)
        self.foreign_pods: Store[ForeignPod] = Store(interner=interner)
        """Pods in the sessions' namespaces that are not ours, as long as they take room."""
        self.foreign_pods_elsewhere: Store[ForeignPod] = Store(interner=interner)
        """Pods of all other namespaces, as long as they take room; empty where they are not to be counted."""
        self.placeholders: Store[Pod] = Store(interner=interner)
        self.autoscaler_events: Store[AutoscalerEvent] = Store(interner=interner)
        """Events about placeholders."""
        self.pods: Store[Pod] = Store(interner=interner)
        self.claims: Store[PersistentVolumeClaim] = Store(interner=interner)
        self.secrets: Store[Secret] = Store(interner=interner)
        # Only these two are repaired when somebody edits them: the others are made once.
        self.services: Store[Service] = Store(ownership, interner)
        self.routes: Store[Route] = Store(ownership, interner)
        self.events: Store[Event] = Store(interner=interner)
        self.reservations: Store[HostReservation] = Store(interner=interner)

        self.sessions.add_index(BY_TEMPLATE, lambda session: [session.spec.template])
        # Of the claim's name alone, which is shorter: whoever reads it leaves out other namespaces.
        self.sessions.add_index(BY_HOME, lambda session: home_names(session)[:2])
        self.sessions.add_index(BY_HOST, labels_of)
        self.pods.add_index(BY_HOME, lambda pod: [pod.home_claim] if pod.home_claim else [])
        self.routes.add_index(BY_HOST, lambda route: [route.host])
        self.events.add_index(BY_SUBJECT, lambda event: [(event.regarding.kind, event.regarding.name)])

        # Owned resources are found by their label; of Events only the warnings explain anything.
        ours = ",".join(f"{key}={value}" for key, value in MANAGED_BY.items())
        not_mine = ",".join(f"{key}!={value}" for key, value in MANAGED_BY.items())
        placed = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"
        in_other_namespaces = ",".join([*(f"metadata.namespace!={namespace}" for namespace in namespaces), placed])

        def reflect(
            resource: Resource,
            into: type[T],
            store: Store[T],
            *,
            labels: str | None = None,
            fields: str | None = None,
            scopes: Sequence[str | None] = namespaces,
        ) -> list[Reflector[T]]:
            return [
                Reflector(
                    client,
                    resource,
                    into,
                    store,
                    namespace=scope,
                    label_selector=labels,
                    field_selector=fields,
                    clock=clock,
                )
                for scope in scopes
            ]

        reflectors: list[list[Reflector[Any]]] = [
            reflect(SESSIONS, VDISession, self.sessions),
            reflect(TEMPLATES, VDITemplate, self.templates, scopes=_CLUSTER),
            reflect(POOLS, VDIPool, self.pools, scopes=_CLUSTER),
            reflect(NODES, Node, self.nodes, scopes=_CLUSTER),
            reflect(VOLUMES, PersistentVolume, self.volumes, scopes=_CLUSTER),
            reflect(PODS, ForeignPod, self.foreign_pods, labels=not_mine, fields=placed),
            reflect(PODS, Pod, self.pods, labels=ours),
            reflect(CLAIMS, PersistentVolumeClaim, self.claims, labels=ours),
            reflect(SECRETS, Secret, self.secrets, labels=ours),
            reflect(SERVICES, Service, self.services, labels=ours),
            reflect(ROUTES, Route, self.routes, labels=ours),
            reflect(EVENTS, Event, self.events, fields="type=Warning"),
            reflect(CONFIG_MAPS, HostReservation, self.reservations, labels=f"{ours},{HOST}", scopes=namespaces[:1]),
        ]
        if count_others:
            # A placeholder's place is free for desktops: the scheduler preempts it.
            reflectors.append(
                reflect(
                    PODS,
                    ForeignPod,
                    self.foreign_pods_elsewhere,
                    labels=f"!{PLACEHOLDER}",
                    fields=in_other_namespaces,
                    scopes=_CLUSTER,
                )
            )
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
        """The claims that may be the home of this session and exist."""
        namespace = session.metadata.namespace
        found = ((name, self.claims.get(namespace, name)) for name in home_names(session))
        return {name: claim for name, claim in found if claim}

    def retained_home(self, session: VDISession) -> str | None:
        """The claim that this session shares with other sessions of its user; None: it has none, or only its own."""
        template = self.templates.get("", session.spec.template)
        home = resolve_home(session, template, self.homes_of(session)) if template else None
        return home.claim if home and home.retain else None

    def namesakes(self, session: VDISession) -> list[VDISession]:
        """Sessions of the same name in the other namespaces: a name is one session's in all of them together."""
        meta = session.metadata
        others = (self.sessions.get(space, meta.name) for space in self.namespaces if space != meta.namespace)
        return [other for other in others if other]

    async def wait_synced(self) -> None:
        """Return once every store has had a complete list."""
        for reflector in self.reflectors:
            await reflector.wait_synced()

    def troubles(self) -> Iterator[str]:
        """One line per kind that cannot be watched, with the API server's reason."""
        return describe_troubles(self.reflectors)


def labels_of(session: VDISession) -> list[str]:
    """The host label that this session shares with all who ask for it; none where its label is made with the key."""
    return [session.spec.hostname] if session.spec.hostname else []


@dataclass(frozen=True, slots=True)
class ClusterContext:
    """The cluster as one operator sees and changes it."""

    # Refuses to write while this process does not lead.
    client: Client
    caches: Caches
    settings: ClusterSettings
    clock: Clock
    # Where sessions live. The first has what there is once: Lease, key of the host labels, reservations of hosts.
    namespaces: tuple[str, ...]
