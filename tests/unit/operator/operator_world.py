"""The operator's caches as unit tests have them: filled by hand, not by a watch, with a clock that
stands still.
"""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import msgspec

from support.clock import FakeClock
from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.objects import Node, PersistentVolume, Pod
from vdi.cluster.units import format_time
from vdi.kube.events import EventRecorder
from vdi.kube.meta import ObjectReference
from vdi.kube.queue import Controller
from vdi.kube.store import Store
from vdi.kube.transport import Client
from vdi.operator.caches import Caches, ClusterContext, SessionKey
from vdi.operator.observe import Observer
from vdi.operator.release_keys import ReleaseKey
from vdi.operator.reservations import Hosts, Reservations
from vdi.operator.watch_handlers import WatchHandlers
from vdi.session.children import HostReservation
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.naming import build_reservation

T = TypeVar("T")
NAMESPACE = "vdi-sessions"
START = datetime(2026, 11, 20, 8, tzinfo=UTC)
_CLUSTER_SCOPED = (VDITemplate, Node, PersistentVolume)


class OperatorWorld:
    """What every component of the operator works with, and the Events that it emits. Each test adds
    its component.
    """

    def __init__(
        self,
        client: Client | None = None,
        *,
        start: datetime = START,
        namespaces: tuple[str, ...] = (NAMESPACE,),
        **settings: Any,
    ) -> None:
        """`settings`: fields of ClusterSettings."""
        client = client or cast(Client, SimpleNamespace(field_manager="vdi-operator"))
        self.clock = FakeClock(start)
        self.caches = Caches(client, namespaces, self.clock)
        self.cluster = ClusterContext(
            client, self.caches, ClusterSettings(**settings), self.clock, namespaces
        )
        self.recorder = cast(EventRecorder, self)
        # Events: (name of the object, reason, note).
        self.said: list[tuple[str, str, str]] = []
        self._version = 0

    def emit(
        self, subject: ObjectReference, _kind: str, reason: str, note: str, _action: str
    ) -> None:
        self.said.append((subject.name, reason, note))

    def new_controller(self, name: str) -> Controller[Any]:
        return Controller(name, clock=self.clock)

    def put(self, store: Store[Any], kind: type[T], name: str, owner: str = "", **fields: Any) -> T:
        """The watch brings this object; `owner` is the name of its session."""
        self._version += 1
        namespace = "" if kind in _CLUSTER_SCOPED else NAMESPACE
        metadata: dict[str, Any] = {"name": name, "namespace": namespace, "uid": f"uid-{name}"}
        metadata["resourceVersion"] = str(self._version)
        if owner:
            reference = {
                "apiVersion": "vdi.kasm.io/v1alpha1",
                "kind": "VDISession",
                "name": owner,
                "uid": f"uid-{owner}",
            }
            metadata |= {"ownerReferences": [reference]}
        obj = msgspec.convert({**fields, "metadata": metadata | fields.get("metadata", {})}, kind)
        store.observe(obj)
        return obj

    def remove(self, store: Store[Any], obj: Any) -> None:
        """The watch brings its end."""
        self._version += 1
        metadata = msgspec.structs.replace(obj.metadata, resource_version=str(self._version))
        store.observe_deleted(msgspec.structs.replace(obj, metadata=metadata))

    def put_template(self, name: str = "desktop", **spec: Any) -> VDITemplate:
        return self.put(self.caches.templates, VDITemplate, name, spec={"image": "i", **spec})

    def put_session(
        self,
        name: str = "alice",
        *,
        status: dict[str, Any] | None = None,
        metadata: Any = None,
        **spec: Any,
    ) -> VDISession:
        made = {"creationTimestamp": format_time(self.clock.now()), "generation": 1} | (
            metadata or {}
        )
        body = {"user": "alice@example.com", "template": "desktop"} | spec
        return self.put(
            self.caches.sessions, VDISession, name, metadata=made, spec=body, status=status or {}
        )


class ObserverWorld(OperatorWorld):
    """An observer of sessions, and the watch handlers with the session queue in which they
    enqueue.
    """

    def __init__(self, *namespaces: str) -> None:
        super().__init__(namespaces=namespaces or (NAMESPACE,))
        self.reservations = Reservations()
        self.hosts = Hosts(self.cluster, cast(ReleaseKey, SimpleNamespace(value=b"k" * 32)))
        self.unpublished = False
        self.observer = Observer(
            self.caches,
            self.reservations,
            self.hosts,
            ClusterSettings(),
            lambda _: None,
            lambda _: self.unpublished,
        )
        self.woken: set[str] = set()
        self.woken_soon: set[str] = set()
        self.urgent: set[str] = set()
        self.forgotten: list[str] = []
        WatchHandlers(
            self.caches,
            "vdi.localhost",
            cast(Controller[SessionKey], self),
            lambda gone: self.forgotten.append(gone.metadata.name),
        )
        self.put_template()

    def enqueue_changed(self, key: tuple[str, str], *, urgent: bool = False) -> None:
        self.woken.add(key[1])
        if urgent:
            self.urgent.add(key[1])

    def enqueue_within(self, key: tuple[str, str], _seconds: float) -> None:
        self.woken_soon.add(key[1])

    def add_pod(
        self, name: str, owner: str, home: str | None = None, *, node: str = "", **metadata: Any
    ) -> Pod:
        """`home`: the claim that the pod mounts."""
        volumes = [{"name": "home", "persistentVolumeClaim": {"claimName": home}}] if home else []
        spec = {"volumes": volumes, "nodeName": node}
        return self.put(self.caches.pods, Pod, name, owner, metadata=metadata, spec=spec)

    def reserve_host(self, label: str, user: str = "alice@example.com") -> HostReservation:
        made = build_reservation(NAMESPACE, label, user)
        return self.put(
            self.caches.reservations, HostReservation, made["metadata"]["name"], data=made["data"]
        )
