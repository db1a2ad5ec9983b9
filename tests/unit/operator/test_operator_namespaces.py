"""Several namespaces of sessions in one operator: what it watches, and what sessions of different
namespaces share.
"""

from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from prometheus_client import generate_latest

from unit.operator.operator_world import NAMESPACE, ObserverWorld, OperatorWorld
from vdi.api.meta import ObjectMeta
from vdi.api.session import VDISession
from vdi.cluster.objects import Pod
from vdi.kube.transport import Client
from vdi.operator.caches import Caches
from vdi.operator.metrics import Metrics
from vdi.operator.release_keys import ReleaseKey
from vdi.operator.reservations import Hosts, home_reservation
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.decide import decide
from vdi.session.homes import home_names
from vdi.session.naming import SESSIONS_NAMESPACE, assigned_namespace

LAB = "lab"
_OLD, _YOUNG = "2026-11-20T07:00:00Z", "2026-11-20T09:00:00Z"
_OF_CLUSTER = {"vditemplates", "vdipools", "nodes", "persistentvolumes"}
_NAMESPACED = {
    "vdisessions",
    "persistentvolumeclaims",
    "secrets",
    "services",
    "ingressroutes",
    "events",
}


def watched(*namespaces: str, **options: Any) -> list[tuple[str, str | None]]:
    """The kind and namespace of each watch."""
    client = cast(Client, SimpleNamespace(field_manager="vdi-operator"))
    caches = Caches(client, namespaces, OperatorWorld().clock, **options)
    return sorted(
        (reflector.resource.plural, reflector.namespace or "") for reflector in caches.reflectors
    )


def test_one_namespace_costs_fourteen_watches() -> None:
    """One for each kind, three for pods: desktops, others in the namespace, others elsewhere."""
    of_cluster = {(plural, "") for plural in (*_OF_CLUSTER, "pods")}
    there = [(plural, NAMESPACE) for plural in (*_NAMESPACED, "configmaps", "pods", "pods")]
    assert watched(NAMESPACE) == sorted([*of_cluster, *there])
    assert len(watched(NAMESPACE)) == 14


def test_secrets_are_watched_in_the_namespaces_of_sessions_only() -> None:
    both = watched(NAMESPACE, LAB, count_others=False)
    more = [(plural, LAB) for plural in (*_NAMESPACED, "pods", "pods")]
    assert both == sorted([*watched(NAMESPACE, count_others=False), *more]), (
        "no second ledger of hosts"
    )
    assert {plural for plural, namespace in both if not namespace} == _OF_CLUSTER


def test_foreign_pods_are_watched_outside_the_namespaces() -> None:
    caches = OperatorWorld(namespaces=(NAMESPACE, LAB)).caches
    everywhere = [
        reflector
        for reflector in caches.reflectors
        if reflector.resource.plural == "pods" and reflector.namespace is None
    ]
    (selector,) = [reflector._scope["field_selector"] for reflector in everywhere]
    assert selector.startswith(
        f"metadata.namespace!={NAMESPACE},metadata.namespace!={LAB},spec.nodeName!=,"
    )


def test_objects_of_all_namespaces_are_counted_together(world: "NamespacesWorld") -> None:
    world.session("cad")
    world.session("lab-cad", LAB)
    metrics = Metrics()
    metrics.watch_caches(world.caches.reflectors)
    assert b'vdi_cache_objects{kind="vdisessions"} 2.0' in generate_latest(metrics.registry)


def test_label_assigns_a_template_or_pool_to_a_namespace() -> None:
    def metadata(**labels: str) -> ObjectMeta:
        return ObjectMeta(name="any", labels=labels)

    both = (NAMESPACE, LAB)
    assert assigned_namespace(metadata(), both) == NAMESPACE
    assert assigned_namespace(metadata(**{SESSIONS_NAMESPACE: LAB}), both) == LAB
    assert assigned_namespace(metadata(**{SESSIONS_NAMESPACE: "other"}), both) is None


class NamespacesWorld(ObserverWorld):
    """An observer of two namespaces."""

    def __init__(self) -> None:
        super().__init__(NAMESPACE, LAB)

    def session(
        self, name: str, namespace: str = NAMESPACE, created: str = _OLD, **spec: Any
    ) -> VDISession:
        metadata = {
            "namespace": namespace,
            "uid": f"uid-{namespace}-{name}",
            "creationTimestamp": created,
        }
        return self.put_session(name, metadata=metadata, **spec)

    def pod(self, session: VDISession, home: str = "") -> Pod:
        meta = session.metadata
        owner = {
            "apiVersion": "vdi.kasm.io/v1alpha1",
            "kind": "VDISession",
            "name": meta.name,
            "uid": meta.uid,
        }
        metadata: dict[str, Any] = {
            "namespace": meta.namespace,
            "uid": f"pod-{meta.uid}",
            "ownerReferences": [owner],
        }
        return self.add_pod(meta.name, "", home, **metadata)

    def reason(self, session: VDISession) -> tuple[str, str] | None:
        blocked = decide(
            self.observer.observe(session), ClusterSettings(), self.clock.now()
        ).blocked
        return (blocked.reason, blocked.message) if blocked else None


@pytest.fixture
def world() -> NamespacesWorld:
    return NamespacesWorld()


def test_of_two_sessions_of_a_name_the_older_one_starts(world: NamespacesWorld) -> None:
    young, old = world.session("cad", created=_YOUNG), world.session("cad", LAB)
    assert world.reason(old) is None
    words = (
        "The namespace 'lab' already has a session 'cad'. Delete it, or choose another session"
        " name."
    )
    assert world.reason(young) == ("NameTaken", words)


def test_a_session_that_runs_keeps_its_name(world: NamespacesWorld) -> None:
    young, old = world.session("cad", created=_YOUNG), world.session("cad", LAB)
    world.pod(young)
    assert world.reason(young) is None
    assert (world.reason(old) or ("",))[0] == "NameTaken"


def test_the_end_of_a_session_wakes_the_one_of_its_name(world: NamespacesWorld) -> None:
    old = world.session("cad", LAB)
    young = world.session("cad", created=_YOUNG)
    world.woken.clear()
    world.remove(world.caches.sessions, old)
    assert "cad" in world.woken
    assert world.reason(young) is None


def test_homes_of_two_namespaces_are_two_homes(world: NamespacesWorld) -> None:
    here, there = world.session("cad", created=_YOUNG), world.session("lab-cad", LAB)
    claim, *_ = home_names(here)
    assert claim == home_names(there)[0], "the same user and template"
    world.pod(there, claim)
    world.reservations.reserve(home_reservation(LAB, claim), there.metadata.uid)
    assert world.observer.observe(here).home_holder is None
    assert world.observer.observe(world.session("second", LAB, _YOUNG)).home_holder == "lab-cad"


def test_a_host_is_reserved_once_for_all_namespaces(world: NamespacesWorld) -> None:
    alice = world.session("cad", hostname="design")
    bob = world.session("lab-cad", LAB, _YOUNG, hostname="design", user="bob@example.com")
    assert (world.reason(bob) or ("",))[0] == "HostTaken", "the older session asks for it"
    world.reserve_host("design", "bob@example.com")
    assert (world.reason(alice) or ("",))[0] == "HostTaken"
    assert world.reason(bob) is None


async def test_a_reservation_is_made_in_the_first_namespace() -> None:
    made: list[tuple[str, Any]] = []

    async def create(_resource: Any, body: dict[str, Any], *, namespace: str, into: Any) -> Any:
        made.append((namespace, body["metadata"]["namespace"]))
        metadata = body["metadata"] | {"uid": "uid-1", "resourceVersion": "1"}
        return msgspec.convert({"metadata": metadata, "data": body["data"]}, into)

    client = cast(Client, SimpleNamespace(field_manager="vdi-operator", create=create))
    world = OperatorWorld(client, namespaces=(NAMESPACE, LAB))
    hosts = Hosts(world.cluster, cast(ReleaseKey, None))
    session = world.put_session("cad", metadata={"namespace": LAB})
    assert await hosts.reserve(session, "design") == "alice@example.com"
    assert made == [(NAMESPACE, NAMESPACE)]
    assert hosts.owner_of("design") == "alice@example.com"


def test_with_one_namespace_no_session_has_a_namesake() -> None:
    world = OperatorWorld()
    assert world.caches.namesakes(world.put_session("cad")) == []
