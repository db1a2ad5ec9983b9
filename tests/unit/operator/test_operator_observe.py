"""Observation of sessions from the caches, and the sessions that a change wakes. Real stores,
filled by hand.
"""

from itertools import count
from typing import Any

import pytest

from unit.operator.operator_world import NAMESPACE, ObserverWorld
from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.objects import Event, Node, PersistentVolumeClaim, Pod
from vdi.operator.reservations import home_reservation
from vdi.session.children import Route, Secret
from vdi.session.decide import host_taken
from vdi.session.homes import home_names


def home_of(session: VDISession) -> str:
    """The claim of its user and template."""
    return home_names(session)[0]


class SessionsWorld(ObserverWorld):
    """The stores of an observer, with short ways to fill them."""

    def session(
        self,
        name: str,
        created: str = "2026-11-20T08:00:00Z",
        *,
        status: dict[str, Any] | None = None,
        **spec: Any,
    ) -> VDISession:
        return self.put_session(
            name, status=status, metadata={"creationTimestamp": created}, **spec
        )

    def node(self, name: str, *, ready: bool = True, cordoned: bool = False) -> Node:
        status = {"conditions": [{"type": "Ready", "status": str(ready)}]}
        return self.put(
            self.caches.nodes, Node, name, spec={"unschedulable": cordoned}, status=status
        )

    def route(self, name: str, owner: str, host: str) -> Route:
        metadata = {"annotations": {"vdi.kasm.io/host": host}}
        return self.put(self.caches.routes, Route, name, owner, metadata=metadata)

    def host(self, session: VDISession) -> str | None:
        """Its host label; None: it is taken."""
        observed = self.observer.observe(session)
        assert observed.host_blocked in (None, host_taken(self.hosts.label_of(session)))
        return None if observed.host_blocked else observed.host

    def holder(self, session: VDISession) -> str | None:
        """The session or pod that holds its home."""
        return self.observer.observe(session).home_holder


@pytest.fixture
def world() -> SessionsWorld:
    return SessionsWorld()


OLD, YOUNG = "2026-11-20T07:00:00Z", "2026-11-20T09:00:00Z"
GIVEN_UP = {"failures": {"count": 6, "reason": "CrashLoop", "time": OLD, "generation": 1}}


@pytest.mark.parametrize("holds", ["", "pod", "reservation"])
def test_home_belongs_to_its_pod_or_the_oldest_session(world: SessionsWorld, holds: str) -> None:
    old, young = world.session("old", OLD), world.session("young", YOUNG)
    if holds == "pod":
        world.add_pod("young", "young", home_of(young))
    if holds == "reservation":  # its pod is not in the cache yet
        assert world.reservations.reserve(
            home_reservation(NAMESPACE, home_of(young)), young.metadata.uid
        )
    assert (world.holder(old), world.holder(young)) == (("young", None) if holds else (None, "old"))


def test_pod_of_a_deleted_session_still_holds_the_home(world: SessionsWorld) -> None:
    session = world.session("new")
    world.add_pod("ghost", "ghost", home_of(session))
    assert world.holder(session) == "ghost"


@pytest.mark.parametrize(
    "other",
    [
        {"resources": {"memory": "64Gi"}},
        {"persistence": {"size": "500Ti"}},
        {"persistence": {"enabled": False}},
        {"user": "bob@example.com"},
        {"template": "other"},
        {"status": GIVEN_UP},
    ],
)
def test_session_that_cannot_use_the_home_does_not_hold_it(
    world: SessionsWorld, other: dict[str, Any]
) -> None:
    world.session("other", OLD, **other)
    assert world.holder(world.session("young", YOUNG)) is None


def test_session_with_an_existing_larger_home_keeps_it(world: SessionsWorld) -> None:
    young = world.session("young", YOUNG)
    old = world.session("old", OLD, persistence={"size": "500Ti"})
    world.put(world.caches.claims, PersistentVolumeClaim, home_of(old))
    assert world.holder(young) == "old"


def test_scope_user_shares_one_home_between_templates(world: SessionsWorld) -> None:
    for name in ("cad", "office"):
        world.put_template(name, persistence={"scope": "User"})
    first = world.session("first", OLD, template="cad")
    second = world.session("second", YOUNG, template="office")
    assert world.holder(second) == "first"
    assert world.observer.observe(first).home_claim == world.observer.observe(second).home_claim
    other = world.session("other", OLD, template="cad", user="bob@example.com")
    assert world.holder(other) is None


def test_change_of_scope_to_user_keeps_an_existing_home(world: SessionsWorld) -> None:
    world.put_template("cad", persistence={"scope": "User"})
    world.put_template("office", persistence={"scope": "User"})
    session = world.session("first", OLD, template="cad")
    world.put(world.caches.claims, PersistentVolumeClaim, home_of(session))
    assert world.observer.observe(session).home_claim == home_of(session)
    other = world.session("second", YOUNG, template="office")
    assert world.observer.observe(other).home_claim == home_names(other)[1]
    assert world.holder(other) is None


def test_home_with_read_write_many_is_held_by_no_desktop(world: SessionsWorld) -> None:
    world.put_template("cad", persistence={"scope": "User", "accessMode": "ReadWriteMany"})
    first = world.session("first", OLD, template="cad")
    second = world.session("second", YOUNG, template="cad")
    assert world.holder(second) == "first", "until the claim is there"
    claim = home_names(first)[1]
    world.put(
        world.caches.claims, PersistentVolumeClaim, claim, spec={"accessModes": ["ReadWriteMany"]}
    )
    world.add_pod("first", "first", claim)
    assert world.holder(second) is None


def test_scope_session_gives_each_session_its_own_home(world: SessionsWorld) -> None:
    world.put_template("cad", persistence={"scope": "Session"})
    world.session("first", OLD, template="cad")
    observed = world.observer.observe(world.session("second", YOUNG, template="cad"))
    assert (observed.home_claim, observed.home_holder) == ("second-home", None)


def test_template_with_scope_user_wakes_those_of_other_templates(world: SessionsWorld) -> None:
    world.put_template("cad", persistence={"scope": "User"})
    world.put_template("office", persistence={"scope": "User"})
    world.session("first", OLD, template="cad")
    world.session("second", YOUNG, template="office")
    world.session("else", YOUNG, user="bob@example.com")
    world.woken.clear()
    metadata = {"generation": 2}
    world.put(world.caches.templates, VDITemplate, "cad", metadata=metadata, spec={"image": "i"})
    assert world.woken == {"first", "second"}


def test_status_keeps_the_home_when_the_template_is_gone(world: SessionsWorld) -> None:
    session = world.session("first", template="gone", status={"homeClaim": "home-alice-1"})
    assert world.observer.observe(session).home_claim == "home-alice-1"


def test_route_holds_its_host_against_older_sessions(world: SessionsWorld) -> None:
    old = world.session("old", OLD, hostname="desk")
    young = world.session("young", YOUNG, user="bob@example.com", hostname="desk")
    assert (world.host(young), world.host(old)) == (None, "desk")
    world.route("young", "young", "desk.vdi.localhost")
    assert (world.host(young), world.host(old)) == ("desk", None)


def test_children_of_others_are_not_seen(world: SessionsWorld) -> None:
    session = world.session("alice")
    world.put(world.caches.secrets, Secret, "alice-auth")
    world.add_pod("alice", "somebody-else")
    observed = world.observer.observe(session)
    assert (observed.secret, observed.pod) == (None, None)


def test_only_events_of_the_pod_and_the_home_are_observed(world: SessionsWorld) -> None:
    session = world.session("alice")
    claim = home_of(session)
    pod = world.add_pod("alice", "alice", claim)
    for name, kind, subject, uid in (
        ("now", "Pod", "alice", pod.metadata.uid),
        ("earlier", "Pod", "alice", "uid-of-an-earlier-pod"),
        ("home", "PersistentVolumeClaim", claim, "any"),
        ("other", "Pod", "bob", "uid-bob"),
    ):
        regarding = {"kind": kind, "name": subject, "uid": uid}
        world.put(world.caches.events, Event, name, regarding=regarding, reason=name, note="n")
    assert {event.reason for event in world.observer.observe(session).events} == {"now", "home"}


def test_child_wakes_its_session(world: SessionsWorld) -> None:
    world.add_pod("a", "alice")
    world.route("a", "bob", "x.vdi.localhost")
    world.put(world.caches.events, Event, "e", regarding={"kind": "Pod", "name": "a"})
    assert world.woken == {"alice", "bob"}


def test_starting_pod_wakes_its_session_later_than_a_ready_one(world: SessionsWorld) -> None:
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


def test_template_wakes_its_sessions_when_its_spec_changes(world: SessionsWorld) -> None:
    world.session("alice")
    world.session("bob", template="other")
    world.woken.clear()
    world.put(
        world.caches.templates,
        VDITemplate,
        "desktop",
        metadata={"labels": {"a": "b"}},
        spec={"image": "i"},
    )
    assert world.woken == set()
    world.put(
        world.caches.templates,
        VDITemplate,
        "desktop",
        metadata={"generation": 2},
        spec={"image": "j"},
    )
    assert world.woken == {"alice"}


@pytest.mark.parametrize("gone", ["pod", "route", "session"])
def test_end_of_a_holder_wakes_the_sessions_that_wait(world: SessionsWorld, gone: str) -> None:
    first = world.session("first")
    pod = world.add_pod("first", "first", home_of(first))
    route = world.route("first", "first", "desk.vdi.localhost")
    world.session("second", hostname="desk")
    world.session("stranger", user="eve@example.com")
    world.woken.clear()
    stores: dict[str, tuple[Any, Any]] = {
        "pod": (world.caches.pods, pod),
        "route": (world.caches.routes, route),
        "session": (world.caches.sessions, first),
    }
    store, obj = stores[gone]
    store.observe_deleted(obj)
    assert world.woken == {"first", "second"}
    assert world.forgotten == (["first"] if gone == "session" else [])


def test_home_wakes_the_sessions_that_use_it(world: SessionsWorld) -> None:
    claim = home_of(world.session("first"))
    world.woken.clear()
    world.put(world.caches.claims, PersistentVolumeClaim, claim)
    assert world.woken == {"first"}


def test_pod_is_found_by_its_owner(world: SessionsWorld) -> None:
    session = world.session("alice")
    pod = world.add_pod("pool-x7k2p", "alice", node="node-1")
    observed = world.observer.observe(session)
    assert observed.pod == pod
    assert observed.node_lost, "there is no such node"
    node = world.node("node-1")
    observed = world.observer.observe(session)
    assert (observed.node, observed.node_lost) == (node, False)


def test_of_several_pods_the_one_in_the_status_stays(world: SessionsWorld) -> None:
    session = world.session("alice", status={"podName": "young"})
    world.add_pod("old", "alice", creationTimestamp=OLD)
    young = world.add_pod("young", "alice", creationTimestamp=YOUNG)
    observed = world.observer.observe(session)
    assert observed.pod == young
    assert [pod.metadata.name for pod in observed.extra_pods] == ["old"]


def test_deleted_pod_is_only_terminating_when_we_deleted_it(world: SessionsWorld) -> None:
    theirs = world.session("alice", status={"podName": "alice"})
    pod = world.add_pod("alice", "alice", deletionTimestamp=YOUNG)
    observed = world.observer.observe(theirs)
    assert (observed.pod, observed.terminating) == (pod, None)
    ours = world.session("alice")
    observed = world.observer.observe(ours)
    assert (observed.pod, observed.terminating) == (None, pod)
    world.unpublished = True
    assert world.observer.observe(ours).pod == pod, (
        "it was made a moment ago, and not by us deleted"
    )


def test_suspended_session_lends_its_home_and_keeps_its_host(world: SessionsWorld) -> None:
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


def test_chosen_host_stays_its_owners_without_a_session(world: SessionsWorld) -> None:
    world.reserve_host("desk", "mallory@example.com")
    session = world.session("first", hostname="desk")
    assert world.host(session) is None
    mallorys = world.session("second", YOUNG, user="mallory@example.com", hostname="desk")
    assert world.host(mallorys) == "desk", "an older session of another user does not count"
    assert not world.hosts.needs_reservation(mallorys, "desk")


def test_refused_hostname_is_no_host(world: SessionsWorld) -> None:
    assert world.host(world.session("first", hostname="alice-5tq2mzk4")) == ""


def test_reservation_wakes_the_sessions_that_want_its_host(world: SessionsWorld) -> None:
    world.session("chosen", hostname="desk")
    world.session("stranger", user="eve@example.com")
    world.woken.clear()
    desk = world.reserve_host("desk")
    assert world.woken == {"chosen"}
    world.woken.clear()
    world.caches.reservations.observe_deleted(desk)
    assert world.woken == {"chosen"}


def test_closed_node_wakes_its_sessions_a_heartbeat_does_not(world: SessionsWorld) -> None:
    world.node("node-1")
    world.add_pod("a", "alice", node="node-1")
    world.add_pod("b", "bob", node="node-2")
    world.woken.clear()
    world.node("node-1")
    assert world.woken == set()
    for change in ({"ready": False}, {"cordoned": True}):
        world.node("node-1", **change)
        assert world.woken == {"alice"}
        world.node("node-1")
        world.woken.clear()
