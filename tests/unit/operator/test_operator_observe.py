"""What the operator sees of a session in its stores, and whom a change wakes. Real stores, filled by hand."""

from itertools import count
from types import SimpleNamespace
from typing import Any, cast

import pytest

from unit.operator.operator_world import NAMESPACE, OperatorWorld
from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.objects import Event, Node, PersistentVolumeClaim, Pod
from vdi.operator.observe import Observer
from vdi.operator.release_keys import ReleaseKey
from vdi.operator.reservations import Hosts, Reservations, home_reservation
from vdi.operator.watch_handlers import WatchHandlers
from vdi.session.children import HostReservation, Route, Secret
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.decide import host_taken
from vdi.session.homes import home_names
from vdi.session.naming import build_reservation, host_label

KEY = b"k" * 32


def home_of(session: VDISession) -> str:
    """The claim of its user and template."""
    return home_names(session)[0]


class ObserverWorld(OperatorWorld):
    """The operator's stores, its observer and its wake-ups."""

    def __init__(self) -> None:
        super().__init__()
        self.reservations = Reservations()
        self.hosts = Hosts(self.cluster, cast(ReleaseKey, SimpleNamespace(value=KEY)))
        self.observer = Observer(
            self.caches, self.reservations, self.hosts, ClusterSettings(), lambda _: None, lambda _: self.unpublished
        )
        self.unpublished = False
        self.woken: set[str] = set()
        self.forgotten: list[str] = []
        self.woken_soon: set[str] = set()
        self.urgent: set[str] = set()
        WatchHandlers(self.caches, "vdi.localhost", self, lambda gone: self.forgotten.append(gone.metadata.name))

    def enqueue(self, key: tuple[str, str], *, urgent: bool = False) -> None:
        assert key[0] == NAMESPACE
        self.woken.add(key[1])
        if urgent:
            self.urgent.add(key[1])

    def enqueue_within(self, key: tuple[str, str], _seconds: float) -> None:
        self.woken_soon.add(key[1])

    def template(self, name: str, **spec: Any) -> VDITemplate:
        return self.put_template(name, **spec)

    def session(
        self, name: str, created: str = "2026-11-20T08:00:00Z", *, status: dict[str, Any] | None = None, **spec: Any
    ) -> VDISession:
        return self.put_session(name, status=status, metadata={"creationTimestamp": created}, **spec)

    def pod(self, name: str, owner: str, home: str | None = None, *, node: str = "", **metadata: Any) -> Pod:
        volumes = [{"name": "home", "persistentVolumeClaim": {"claimName": home}}] if home else []
        spec = {"volumes": volumes, "nodeName": node}
        return self.put(self.caches.pods, Pod, name, owner, metadata=metadata, spec=spec)

    def node(self, name: str, *, ready: bool = True, cordoned: bool = False) -> Node:
        status = {"conditions": [{"type": "Ready", "status": str(ready)}]}
        return self.put(self.caches.nodes, Node, name, spec={"unschedulable": cordoned}, status=status)

    def route(self, name: str, owner: str, host: str) -> Route:
        metadata = {"annotations": {"vdi.kasm.io/host": host}}
        return self.put(self.caches.routes, Route, name, owner, metadata=metadata)

    def reservation(self, label: str, user: str = "alice@example.com") -> HostReservation:
        made = build_reservation(NAMESPACE, label, user)
        name = made["metadata"]["name"]
        return self.put(self.caches.reservations, HostReservation, name, data=made["data"])

    def host(self, session: VDISession) -> str | None:
        """Its host label; None: it is taken."""
        observed = self.observer.observe(session)
        assert observed.host_blocked in (None, host_taken(self.hosts.label_of(session)))
        return None if observed.host_blocked else observed.host


@pytest.fixture
def world() -> ObserverWorld:
    world = ObserverWorld()
    world.put_template()
    return world


OLD, YOUNG = "2026-11-20T07:00:00Z", "2026-11-20T09:00:00Z"


def test_oldest_of_several_gets_the_home(world: ObserverWorld) -> None:
    young, old = world.session("young", YOUNG), world.session("old", OLD)
    assert world.observer.observe(young).home_holder == "old"
    assert world.observer.observe(old).home_holder is None


def test_pod_that_mounts_the_home_holds_it_against_older_sessions(world: ObserverWorld) -> None:
    old, young = world.session("old", OLD), world.session("young", YOUNG)
    world.pod("young", "young", home_of(young))
    assert world.observer.observe(old).home_holder == "young"
    assert world.observer.observe(young).home_holder is None


def test_pod_of_a_session_that_is_gone_still_holds_the_home(world: ObserverWorld) -> None:
    session = world.session("new")
    world.pod("ghost", "ghost", home_of(session))
    assert world.observer.observe(session).home_holder == "ghost"


def test_reservation_counts_until_the_pod_is_seen(world: ObserverWorld) -> None:
    old, young = world.session("old", OLD), world.session("young", YOUNG)
    assert world.reservations.reserve(home_reservation(NAMESPACE, home_of(young)), young.metadata.uid)
    assert world.observer.observe(old).home_holder == "young"
    assert world.observer.observe(young).home_holder is None


def test_session_that_cannot_start_does_not_keep_others_from_the_home(world: ObserverWorld) -> None:
    world.session("greedy", OLD, resources={"memory": "64Gi"})
    world.session("hoarder", OLD, persistence={"size": "500Ti"})
    world.session("homeless", OLD, persistence={"enabled": False})
    assert world.observer.observe(world.session("young", YOUNG)).home_holder is None


def test_session_with_an_existing_larger_home_keeps_it(world: ObserverWorld) -> None:
    young = world.session("young", YOUNG)
    old = world.session("old", OLD, persistence={"size": "500Ti"})
    world.put(world.caches.claims, PersistentVolumeClaim, home_of(old))
    assert world.observer.observe(young).home_holder == "old"


def test_other_users_and_other_templates_have_other_homes(world: ObserverWorld) -> None:
    world.session("bobs", OLD, user="bob@example.com")
    world.session("other", OLD, template="other")
    assert world.observer.observe(world.session("young", YOUNG)).home_holder is None


def a_shared_claim(world: ObserverWorld, session: VDISession) -> str:
    """The claim of the user's home, for several desktops at a time."""
    claim = home_names(session)[1]
    world.put(world.caches.claims, PersistentVolumeClaim, claim, spec={"accessModes": ["ReadWriteMany"]})
    return claim


def test_desktops_of_two_templates_with_scope_user_have_one_home(world: ObserverWorld) -> None:
    for name in ("cad", "office"):
        world.template(name, persistence={"scope": "User"})
    first, second = world.session("first", OLD, template="cad"), world.session("second", YOUNG, template="office")
    assert world.observer.observe(second).home_holder == "first"
    assert world.observer.observe(first).home_claim == world.observer.observe(second).home_claim
    other = world.session("other", OLD, template="cad", user="bob@example.com")
    assert world.observer.observe(other).home_holder is None


def test_a_home_of_user_and_template_is_used_on_when_the_scope_becomes_user(world: ObserverWorld) -> None:
    world.template("cad", persistence={"scope": "User"})
    world.template("office", persistence={"scope": "User"})
    session = world.session("first", OLD, template="cad")
    world.put(world.caches.claims, PersistentVolumeClaim, home_of(session))
    assert world.observer.observe(session).home_claim == home_of(session)
    other = world.session("second", YOUNG, template="office")
    assert world.observer.observe(other).home_claim == home_names(other)[1]
    assert world.observer.observe(other).home_holder is None


def test_a_home_with_read_write_many_is_held_by_no_desktop(world: ObserverWorld) -> None:
    world.template("cad", persistence={"scope": "User", "accessMode": "ReadWriteMany"})
    first, second = world.session("first", OLD, template="cad"), world.session("second", YOUNG, template="cad")
    assert world.observer.observe(second).home_holder == "first", "until the claim is there"
    world.pod("first", "first", a_shared_claim(world, first))
    assert world.observer.observe(second).home_holder is None


def test_scope_session_gives_each_session_its_own_home(world: ObserverWorld) -> None:
    world.template("cad", persistence={"scope": "Session"})
    world.session("first", OLD, template="cad")
    observed = world.observer.observe(world.session("second", YOUNG, template="cad"))
    assert (observed.home_claim, observed.home_holder) == ("second-home", None)


def test_a_template_with_scope_user_wakes_desktops_of_other_templates(world: ObserverWorld) -> None:
    world.template("cad", persistence={"scope": "User"})
    world.template("office", persistence={"scope": "User"})
    world.session("first", OLD, template="cad")
    world.session("second", YOUNG, template="office")
    world.session("else", YOUNG, user="bob@example.com")
    world.woken.clear()
    metadata = {"generation": 2}
    world.put(world.caches.templates, VDITemplate, "cad", metadata=metadata, spec={"image": "i"})
    assert world.woken == {"first", "second"}


def test_the_status_names_the_home_also_when_the_template_is_gone(world: ObserverWorld) -> None:
    session = world.session("first", template="gone", status={"homeClaim": "home-alice-1"})
    assert world.observer.observe(session).home_claim == "home-alice-1"


def test_route_holds_its_host_against_older_sessions(world: ObserverWorld) -> None:
    old = world.session("old", OLD, hostname="desk")
    young = world.session("young", YOUNG, user="bob@example.com", hostname="desk")
    assert (world.host(young), world.host(old)) == (None, "desk")
    world.route("young", "young", "desk.vdi.localhost")
    assert (world.host(young), world.host(old)) == ("desk", None)


def test_children_of_others_are_not_seen(world: ObserverWorld) -> None:
    session = world.session("alice")
    world.put(world.caches.secrets, Secret, "alice-auth")
    world.pod("alice", "somebody-else")
    observed = world.observer.observe(session)
    assert (observed.secret, observed.pod) == (None, None)


def test_events_are_those_of_this_pod_and_its_home(world: ObserverWorld) -> None:
    session = world.session("alice")
    claim = home_of(session)
    pod = world.pod("alice", "alice", claim)
    for name, kind, subject, uid in (
        ("now", "Pod", "alice", pod.metadata.uid),
        ("earlier", "Pod", "alice", "uid-of-an-earlier-pod"),
        ("home", "PersistentVolumeClaim", claim, "any"),
        ("other", "Pod", "bob", "uid-bob"),
    ):
        regarding = {"kind": kind, "name": subject, "uid": uid}
        world.put(world.caches.events, Event, name, regarding=regarding, reason=name, note="n")
    assert {event.reason for event in world.observer.observe(session).events} == {"now", "home"}


def test_child_wakes_its_session(world: ObserverWorld) -> None:
    world.pod("a", "alice")
    world.route("a", "bob", "x.vdi.localhost")
    world.put(world.caches.events, Event, "e", regarding={"kind": "Pod", "name": "a"})
    assert world.woken == {"alice", "bob"}


def test_pod_on_its_way_wakes_its_session_soon_and_one_that_has_got_there_at_once(world: ObserverWorld) -> None:
    words = map(str, count())

    def pod(phase: str, **metadata: str) -> None:
        status = {"phase": phase, "message": next(words)}
        world.put(world.caches.pods, Pod, "pod", "alice", status=status, metadata=metadata)

    pod("Pending")
    assert world.woken == {"alice"}
    world.woken.clear()
    pod("Pending")
    assert (world.woken, world.woken_soon) == (set(), {"alice"})
    for phase in ("Running", "Running", "Pending", "Failed"):
        world.woken.clear()
        world.urgent.clear()
        pod(phase)
        assert world.woken == world.urgent == {"alice"}
    pod("Pending")
    world.woken.clear()
    pod("Pending", deletionTimestamp="2026-11-20T11:00:00Z")
    assert world.woken == {"alice"}


def test_template_wakes_its_sessions_when_its_spec_changes(world: ObserverWorld) -> None:
    world.session("alice")
    world.session("bob", template="other")
    world.woken.clear()
    world.put(world.caches.templates, VDITemplate, "desktop", metadata={"labels": {"a": "b"}}, spec={"image": "i"})
    assert world.woken == set()
    world.put(world.caches.templates, VDITemplate, "desktop", metadata={"generation": 2}, spec={"image": "j"})
    assert world.woken == {"alice"}


def test_end_of_a_pod_wakes_who_waits_for_its_home(world: ObserverWorld) -> None:
    first = world.session("first")
    pod = world.pod("first", "first", home_of(first))
    world.session("second")
    world.woken.clear()
    world.caches.pods.observe_deleted(pod)
    assert world.woken == {"first", "second"}


def test_end_of_a_route_wakes_who_waits_for_its_host(world: ObserverWorld) -> None:
    route = world.route("first", "first", "desk.vdi.localhost")
    world.session("second", hostname="desk")
    world.woken.clear()
    world.caches.routes.observe_deleted(route)
    assert world.woken == {"first", "second"}


def test_end_of_a_session_wakes_its_rivals_and_is_forgotten(world: ObserverWorld) -> None:
    first = world.session("first")
    world.session("second")
    world.session("stranger", user="eve@example.com")
    world.woken.clear()
    world.caches.sessions.observe_deleted(first)
    assert world.woken == {"first", "second"}
    assert world.forgotten == ["first"]


def test_home_wakes_all_who_share_it(world: ObserverWorld) -> None:
    claim = home_of(world.session("first"))
    world.woken.clear()
    world.put(world.caches.claims, PersistentVolumeClaim, claim)
    assert world.woken == {"first"}


def test_pod_is_known_by_its_owner_whatever_its_name(world: ObserverWorld) -> None:
    session = world.session("alice")
    pod = world.pod("pool-x7k2p", "alice", node="node-1")
    observed = world.observer.observe(session)
    assert observed.pod == pod
    assert observed.node_lost, "there is no such node"
    node = world.node("node-1")
    observed = world.observer.observe(session)
    assert (observed.node, observed.node_lost) == (node, False)


def test_of_several_pods_the_one_in_the_status_stays(world: ObserverWorld) -> None:
    session = world.session("alice", status={"podName": "young"})
    world.pod("old", "alice", creationTimestamp=OLD)
    young = world.pod("young", "alice", creationTimestamp=YOUNG)
    observed = world.observer.observe(session)
    assert observed.pod == young
    assert [pod.metadata.name for pod in observed.extra_pods] == ["old"]


def test_pod_that_we_deleted_is_reported_from_one_that_others_delete(world: ObserverWorld) -> None:
    theirs = world.session("alice", status={"podName": "alice"})
    pod = world.pod("alice", "alice", deletionTimestamp=YOUNG)
    observed = world.observer.observe(theirs)
    assert (observed.pod, observed.terminating) == (pod, None)
    ours = world.session("alice")
    observed = world.observer.observe(ours)
    assert (observed.pod, observed.terminating) == (None, pod)
    world.unpublished = True
    assert world.observer.observe(ours).pod == pod, "it was made a moment ago, and not by us deleted"


def test_suspended_session_lends_its_home_and_keeps_its_host(world: ObserverWorld) -> None:
    url = "https://desk.vdi.localhost"
    world.session("first", OLD, hostname="desk", suspended=True, status={"url": url})
    second = world.session("second", YOUNG, hostname="desk")
    observed = world.observer.observe(second)
    assert (observed.home_holder, world.host(second)) == (None, None)
    world.session("first", OLD, hostname="desk", status={"url": url})  # resumed, and in the queue
    older = world.session("oldest", "2026-11-20T01:00:00Z", user="bob@example.com", hostname="desk")
    assert world.host(older) is None
    route = world.route("oldest", "oldest", "desk.vdi.localhost")
    assert world.host(older) == "desk", "a route outweighs a memory"
    world.caches.routes.observe_deleted(route)
    world.session("first", OLD, hostname="desk", suspended=True)
    assert world.host(older) == "desk", "it never had it"


def keyed(name: str, user: str = "alice@example.com") -> str:
    return host_label(namespace=NAMESPACE, session_name=name, user=user, key=KEY)


def test_host_of_a_session_name_is_another_one_for_the_next_user(world: ObserverWorld) -> None:
    mallorys = world.session("alice-small", user="mallory@example.com")
    host = world.host(mallorys)
    world.caches.sessions.observe_deleted(mallorys)
    again = world.session("alice-small")
    assert (host, world.host(again)) == (keyed("alice-small", "mallory@example.com"), keyed("alice-small"))
    assert not world.hosts.needs_reservation(again, keyed("alice-small")), "no write for the usual case"


def test_chosen_host_belongs_to_its_first_owner_without_any_session(world: ObserverWorld) -> None:
    world.reservation("desk", "mallory@example.com")
    session = world.session("first", hostname="desk")
    assert world.host(session) is None
    mallorys = world.session("second", YOUNG, user="mallory@example.com", hostname="desk")
    assert world.host(mallorys) == "desk", "an older session of another user does not count"
    assert not world.hosts.needs_reservation(mallorys, "desk")


def test_refused_hostname_is_no_host(world: ObserverWorld) -> None:
    assert world.host(world.session("first", hostname="alice-5tq2mzk4")) == ""


def test_reservation_wakes_all_who_ask_for_its_host(world: ObserverWorld) -> None:
    world.session("chosen", hostname="desk")
    world.session("stranger", user="eve@example.com")
    world.woken.clear()
    desk = world.reservation("desk")
    assert world.woken == {"chosen"}
    world.woken.clear()
    world.caches.reservations.observe_deleted(desk)
    assert world.woken == {"chosen"}


def test_session_that_was_given_up_does_not_keep_others_from_the_home(world: ObserverWorld) -> None:
    failures = {"count": 6, "reason": "CrashLoop", "time": OLD, "generation": 1}
    world.session("broken", OLD, status={"failures": failures})
    assert world.observer.observe(world.session("young", YOUNG)).home_holder is None


def test_node_wakes_its_sessions_when_it_goes_out_of_service_and_not_at_each_heartbeat(world: ObserverWorld) -> None:
    world.node("node-1")
    world.pod("a", "alice", node="node-1")
    world.pod("b", "bob", node="node-2")
    world.woken.clear()
    world.node("node-1")
    assert world.woken == set()
    for change in ({"ready": False}, {"cordoned": True}):
        world.node("node-1", **change)
        assert world.woken == {"alice"}
        world.node("node-1")
        world.woken.clear()
