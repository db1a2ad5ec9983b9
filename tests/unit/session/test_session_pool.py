"""What a pool makes, removes and says; whom its desktops fit. Pods and nodes are built by hand."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.builders import a_node, a_session, a_template
from support.desktop_key import KEY
from unit.session.resolving import desktop_of, pod_of
from vdi.api.pool import VDIPool
from vdi.api.template import VDITemplate
from vdi.cluster.objects import Node, Pod
from vdi.cluster.units import format_time
from vdi.session.children import build_pool_pod, build_pool_secret
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.credentials import DesktopTokens
from vdi.session.effective import Blocked, Desktop
from vdi.session.naming import PoolIdentity, pod_name, pool_pod_name, pool_secret_name
from vdi.session.pool import (
    Backoff,
    Obstacles,
    PoolPlan,
    can_serve,
    explain_unserved,
    fingerprint,
    is_waiting,
    plan,
    pool_desktop,
    summarise,
)

NOW = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
SETTINGS = ClusterSettings()
NO_HOME: dict[str, Any] = {"persistence": {"enabled": False}}


def a_pool(ready: int = 1, **status: Any) -> VDIPool:
    metadata = {"name": "warm", "uid": "uid-warm", "generation": 1}
    spec = {"template": "ubuntu-desktop", "replicas": ready}
    return msgspec.convert({"metadata": metadata, "spec": spec, "status": status}, VDIPool)


def a_desktop(session: dict[str, Any] | None = None, **template: Any) -> Desktop:
    return desktop_of(a_session(**(session or {})), **{**NO_HOME, **template})


FITS = fingerprint("ubuntu-desktop", a_desktop(), SETTINGS, KEY)


def warm(
    name: str,
    *,
    ready: bool = True,
    fits: str = FITS,
    node: str = "node-1",
    age: float = 300,
    since: float = 290,
    restarts: int = 0,
    owner: str = "VDIPool",
    **over: Any,
) -> Pod:
    """A desktop that a pool made `age` seconds ago, and whose state is as it is for `since`
    seconds.
    """
    made, changed = (format_time(NOW - timedelta(seconds=ago)) for ago in (age, since))
    metadata = {
        "name": name,
        "uid": f"uid-{name}",
        "creationTimestamp": made,
        "annotations": {"vdi.kasm.io/pool": "warm", "vdi.kasm.io/pool-desktop": fits},
        "ownerReferences": [
            {"apiVersion": "v", "kind": owner, "name": "x", "uid": "uid-warm", "controller": True}
        ],
        **over.pop("metadata", {}),
    }
    running = {"state": {"running": {"startedAt": changed}}, "restartCount": restarts}
    status = {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": str(ready), "lastTransitionTime": changed}],
        "containerStatuses": [{"name": "desktop", **running}],
        **over,
    }
    return msgspec.convert(
        {"metadata": metadata, "spec": {"nodeName": node}, "status": status}, Pod
    )


def on_one_node(name: str) -> Node | None:
    return a_node() if name == "node-1" else None


def look(desired: int, *pods: Pod, nodes: tuple[Node, ...] = ()) -> PoolPlan:
    known = {node.metadata.name: node for node in nodes or (a_node(),)}
    return plan(desired, FITS, pods, known.get, NOW)


def names(pods: tuple[Pod, ...]) -> list[str]:
    return [pod.metadata.name for pod in pods]


def test_pool_makes_what_is_missing_and_removes_what_is_too_much() -> None:
    assert look(3, warm("a"), warm("b", ready=False, since=5)).make == 1
    assert look(2, warm("a"), warm("b")) == PoolPlan(ready=(warm("a"), warm("b")))
    step = look(1, warm("a", age=400), warm("b", age=300), warm("c", ready=False, since=5, age=500))
    assert (step.make, names(step.remove)) == (0, ["b", "c"]), "the oldest ready one stays"
    assert names(look(0, warm("a"), warm("b")).remove) == ["a", "b"]


def test_terminating_desktop_is_replaced_and_not_removed_again() -> None:
    terminating = warm("a", metadata={"deletionTimestamp": format_time(NOW)})
    assert look(1, terminating) == PoolPlan(make=1)


@pytest.mark.parametrize(
    ("pod", "nodes", "words", "of_desktop"),
    [
        (warm("a"), (a_node(unschedulable=True),), "accepts no new desktops", False),
        (warm("a"), (a_node(ready=False),), "does not respond", False),
        (warm("a", node="gone"), (), "is gone", False),
        (warm("a", ready=False, phase="Failed", reason="Evicted"), (), "has ended (Evicted)", True),
        (warm("a", ready=False, restarts=3, since=1), (), "restarted 3 times", True),
        (warm("a", ready=False, since=91), (), "has not responded for 90 s", True),
        (
            warm(
                "a",
                ready=False,
                node="",
                age=16,
                conditions=[{"type": "PodScheduled", "status": "False"}],
            ),
            (),
            "No node can run the desktop",
            True,
        ),
    ],
)
def test_desktop_that_no_one_should_get_is_replaced(
    pod: Pod, nodes: tuple[Node, ...], words: str, of_desktop: bool
) -> None:
    step = look(1, pod, nodes=nodes)
    (fault,) = step.faults
    assert words in fault.words
    assert fault.of_desktop is of_desktop
    assert (step.make, step.ready, step.starting) == (1, (), ())


def test_desktop_without_idmapped_mounts_is_replaced_at_once() -> None:
    """The next one has no user namespace, so there is no pause."""
    error = {
        "reason": "RunContainerError",
        "message": "failed to set MOUNT_ATTR_IDMAP on /x: invalid argument",
    }
    pod = warm(
        "a", ready=False, containerStatuses=[{"name": "desktop", "state": {"waiting": error}}]
    )
    assert look(1, pod).faults == ()
    pod.spec.host_users = False
    (fault,) = look(1, pod).faults
    assert "in the user namespace" in fault.words and not fault.of_desktop


def test_a_gated_desktop_is_not_replaced() -> None:
    gate = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}
    step = look(1, warm("a", ready=False, node="", age=500, conditions=[gate]))
    assert (step.faults, step.make) == ((), 0)


def test_desktop_that_starts_is_waited_for_and_looked_at_again() -> None:
    step = look(1, warm("a", ready=False, since=30))
    assert (names(step.starting), step.faults, step.look_again) == (
        ["a"],
        (),
        timedelta(seconds=60),
    )
    pulling = warm("a", ready=False, age=900, containerStatuses=[])
    assert look(1, pulling).look_again is None, "the kubelet fetches the image: nothing is overdue"


def test_node_of_which_nothing_is_known_yet_is_new() -> None:
    step = look(1, warm("a", ready=False, node="new", age=5, since=2))
    assert (names(step.starting), step.faults) == (["a"], ())


def test_changed_template_rolls_by_a_quarter_at_a_time() -> None:
    old = [warm(f"old-{number}", fits="other") for number in range(4)]
    first = look(4, *old)
    assert (first.make, first.remove, names(first.outdated)) == (
        1,
        (),
        [pod.metadata.name for pod in old],
    )
    second = look(4, *old, warm("new", ready=False, since=5))
    assert (second.make, second.remove) == (0, ()), "one after the other"
    third = look(4, *old, warm("new"))
    assert (third.make, names(third.remove)) == (1, ["old-3"])


@given(
    st.integers(0, 9), st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=20)
)
def test_pool_is_never_overfull_and_always_gets_there(
    desired: int, kinds: list[tuple[bool, bool, bool]]
) -> None:
    """Carry out plan after plan, with desktops that become ready: it ends with exactly those that
    are wanted.
    """
    pods = [
        warm(
            f"p{n}",
            ready=ready,
            since=5,
            fits=FITS if fresh else "old",
            node="node-1" if alive else "gone",
        )
        for n, (ready, fresh, alive) in enumerate(kinds)
    ]
    for turn in range(60):
        step = look(desired, *pods)
        gone = set(names(step.remove)) | {fault.pod.metadata.name for fault in step.faults}
        pods = [pod for pod in pods if pod.metadata.name not in gone]
        pods += [warm(f"new-{turn}-{n}", ready=False, since=1) for n in range(step.make)]
        assert len(pods) <= desired + max(1, -(-desired // 4))
        if not gone and not step.make and not step.starting:
            break
        pods = [
            warm(pod.metadata.name) if pod.metadata.name in names(step.starting) else pod
            for pod in pods
        ]
    assert len(pods) == desired
    assert all(can_serve(pod, FITS, on_one_node) for pod in pods)


def test_desktop_fits_who_would_get_the_same_pod() -> None:
    same = a_desktop(
        {"name": "bobs", "user": "bob@example.com", "resources": {"gpu": 1, "memory": "4Gi"}}
    )
    assert fingerprint("ubuntu-desktop", same, SETTINGS, KEY) == FITS
    assert (
        fingerprint("ubuntu-desktop", a_desktop({"timeZone": "Asia/Calcutta"}), SETTINGS, KEY)
        == FITS
    )
    assert (
        fingerprint("ubuntu-desktop", a_desktop(generation=7, displayName="New"), SETTINGS, KEY)
        == FITS
    )
    for other in (
        fingerprint("ubuntu-desktop", a_desktop({"persistence": {"enabled": True}}), SETTINGS, KEY),
        fingerprint(
            "ubuntu-desktop", a_desktop(image="registry.example.com/desktop:2"), SETTINGS, KEY
        ),
        fingerprint("ubuntu-desktop", a_desktop({"resources": {"memory": "2Gi"}}), SETTINGS, KEY),
        fingerprint("another-template", a_desktop(), SETTINGS, KEY),
        fingerprint("ubuntu-desktop", a_desktop(), ClusterSettings(agent_port=9000), KEY),
        fingerprint("ubuntu-desktop", a_desktop(), SETTINGS, b"another"),
    ):
        assert other != FITS


@pytest.mark.parametrize(
    ("pod", "serves"),
    [
        (warm("a"), True),
        (warm("a", ready=False), False),
        (warm("a", fits="other"), False),
        (warm("a", owner="VDISession"), False),
        (warm("a", node="gone"), False),
        (warm("a", metadata={"deletionTimestamp": format_time(NOW)}), False),
    ],
)
def test_only_a_ready_desktop_that_no_one_has_is_given_away(pod: Pod, serves: bool) -> None:
    assert can_serve(pod, FITS, on_one_node) is serves
    assert is_waiting(pod) is (pod.metadata.owner_references[0].kind == "VDIPool")


def test_session_hears_why_no_pool_serves_it() -> None:
    offered = a_desktop()
    same = a_desktop({"resources": {"gpu": 1, "memory": "4Gi"}, "timeZone": "Europe/Berlin"})
    assert explain_unserved(same, "warm", offered, has_password=False) is None
    again = explain_unserved(same, "warm", offered, has_password=True)
    assert again and "password" in again
    home = explain_unserved(
        a_desktop({"persistence": {"enabled": True}}), "warm", offered, has_password=False
    )
    assert home and "'warm'" in home and "home volume cannot be attached" in home
    smaller = explain_unserved(
        a_desktop({"resources": {"memory": "2Gi"}}), "warm", offered, has_password=False
    )
    assert smaller and "memory 2Gi instead of 4Gi" in smaller


OWN_VOLUME = {
    "name": "own",
    "mountPath": "/own",
    "subPath": "{user}",
    "persistentVolumeClaim": {"claimName": "own"},
}


@pytest.mark.parametrize(
    ("template", "reason", "words"),
    [
        (a_template(), "TemplateHasHome", "spec.persistence.enabled: false in the template"),
        (
            a_template(**NO_HOME, volumes=[OWN_VOLUME]),
            "TemplateHasUserVolumes",
            "Remove groups and {user}",
        ),
        (None, "TemplateNotFound", "There is no template 'ubuntu-desktop'"),
    ],
)
def test_pool_that_can_have_no_desktop_says_why(
    template: VDITemplate | None, reason: str, words: str
) -> None:
    blocked = pool_desktop(a_pool(), template, SETTINGS)
    assert isinstance(blocked, Blocked)
    assert blocked.reason == reason
    assert words in blocked.message


def test_pool_keeps_the_templates_default_desktop() -> None:
    assert pool_desktop(a_pool(), a_template(**NO_HOME), SETTINGS) == a_desktop()


def test_status_counts_and_says_what_is_missing() -> None:
    pool = a_pool(3)
    some = PoolPlan(ready=(warm("a"),), starting=(warm("b", ready=False),))
    filling = summarise(pool, some, 2, Obstacles(slow="The image is slow."), NOW)
    assert (filling.ready, filling.starting, filling.claimed) == (1, 1, 2)
    assert filling.message == "1 of 3 desktops is ready, 1 starting. The image is slow."
    assert filling.selector == "vdi.kasm.io/pool=warm,!vdi.kasm.io/session"
    assert [
        (condition.type, condition.status, condition.reason) for condition in filling.conditions
    ] == [("Ready", "False", "Filling")]
    blocked = summarise(
        pool, some, 0, Obstacles(blocked=Blocked("GPUsBusy", "All GPUs are taken.")), NOW
    )
    assert blocked.message == "1 of 3 desktops is ready. All GPUs are taken."
    assert blocked.conditions[0].reason == "GPUsBusy"
    full = summarise(pool, PoolPlan(ready=(warm("a"), warm("b"), warm("c"))), 0, Obstacles(), NOW)
    assert (full.message, full.conditions[0].status, full.conditions[0].reason) == (
        "",
        "True",
        "Full",
    )


def test_pause_after_a_failure_is_reported() -> None:
    once = Backoff().after("It crashed.", NOW)
    assert once.left(NOW) == timedelta(seconds=10)
    assert once.left(NOW + timedelta(seconds=10)) is None
    status = summarise(a_pool(1), PoolPlan(), 0, Obstacles(pause=once), NOW)
    assert (
        status.message
        == "0 of 1 desktops are ready. It crashed. The next one is started at 2026-11-20T09:00:10Z."
    )
    assert status.conditions[0].reason == "DesktopsFail"


def test_pods_of_pools_have_names_that_no_session_has() -> None:
    name = pool_pod_name("warm", "token")
    assert name.startswith("warm-") and len(name) <= 58
    assert pod_name(name) != name, "a session of this name gets another one for its pod"
    assert pool_pod_name("warm", "other") != name
    assert len(pool_secret_name(pool_pod_name("x." * 100 + "y", "token"))) <= 63


def test_pool_pod_differs_in_secret_and_owner_only() -> None:
    identity = PoolIdentity.of(a_pool(), "vdi-sessions")
    ours = build_pool_pod(
        identity=identity, name="warm-x", desktop=a_desktop(), annotations={"a": "b"}
    )
    theirs = pod_of(**NO_HOME)
    text = msgspec.json.encode(ours["spec"]).decode().replace("warm-x-auth", "alice-desktop-auth")
    assert msgspec.json.decode(text) == theirs["spec"]
    (owner,) = ours["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("VDIPool", "uid-warm", True)
    assert ours["metadata"]["labels"]["vdi.kasm.io/pool"] == "warm"
    assert "vdi.kasm.io/hold" not in ours["metadata"]["labels"], "nobody minds when it is evicted"
    assert theirs["metadata"]["labels"]["vdi.kasm.io/hold"] == "true"


def test_secret_of_a_pools_desktop_dies_with_the_pod() -> None:
    identity = PoolIdentity.of(a_pool(), "vdi-sessions")
    secret = build_pool_secret(
        identity=identity, pod="warm-x", pod_uid="u", tokens=DesktopTokens("p", "t")
    )
    assert secret["metadata"]["name"] == "warm-x-auth"
    assert [(owner["kind"], owner["uid"]) for owner in secret["metadata"]["ownerReferences"]] == [
        ("Pod", "u")
    ]
