"""Actions at an API server that keeps objects: rights, limits, audit, two replicas at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from support.waiting import eventually
from unit.gateway.gateway_stage import NOW, GatewayStage
from unit.kube.kube_fake_api import FakeApi, fake_api, refusal
from vdi.api.session import GuestRole
from vdi.gateway.actions import Actions
from vdi.gateway.cluster_cache import ClusterCache
from vdi.gateway.denied import ActionDenied
from vdi.gateway.limits import Limits, read_limits
from vdi.gateway.rights import User
from vdi.gateway.settings import Settings
from vdi.gateway.shared_state import MemorySharedState, SharedState, SharedUnavailableError
from vdi.kube.transport import NO_RETRY, Client
from vdi.session.actions import (
    Extend,
    Resize,
    Restart,
    Resume,
    Schedule,
    SetSchedule,
    Share,
    Suspend,
    Unshare,
)
from vdi.session.naming import MANAGED_BY, USER_ANNOTATION, home_claim_name
from vdi.session.request import RequestedHome, RequestedResources, SessionRequest

SETTINGS = Settings()
NS = SETTINGS.namespaces[0]
ALICE = User("alice@example.com", "Alice", frozenset({"students"}))
BOB, EVE = User("bob@example.com"), User("eve@example.com")
ROOT = User("root@example.com", admin=True)


@dataclass
class Replica:
    actions: Actions
    world: ClusterCache
    stage: GatewayStage


class SharedCluster:
    """The API server, and as many gateways as are wanted; all share one `SharedState`."""

    def __init__(self, api: FakeApi) -> None:
        self.api = api
        self.shared: SharedState = MemorySharedState()
        self.put_template("desktop")

    def put_template(self, name: str, **spec: Any) -> None:
        self.api.put(
            "vditemplates",
            name,
            namespace="",
            spec={"image": "registry.example.com/desktop:1", **spec},
        )

    def put_session(
        self, name: str, person: User = ALICE, namespace: str = NS, **spec: Any
    ) -> None:
        body = {"user": person.email, "template": "desktop", **spec}
        self.api.put("vdisessions", name, namespace=namespace, spec=body)

    def spec(self, name: str) -> dict[str, Any]:
        spec: dict[str, Any] = self.api.objects["vdisessions", NS, name]["spec"]
        return spec

    @property
    def names(self) -> set[str]:
        return {name for kind, _, name in self.api.objects if kind == "vdisessions"}

    @asynccontextmanager
    async def replica(
        self, limits: str = "", settings: Settings = SETTINGS
    ) -> AsyncIterator[Replica]:
        chosen: Limits = read_limits(limits, "limits")
        async with (
            Client(self.api.config(), field_manager="vdi-gateway", retry=NO_RETRY) as client,
            ClusterCache(client, settings) as world,
        ):
            await world.wait_synced()
            stage = GatewayStage(
                cluster=client, settings=settings, limits=chosen, shared=self.shared, cache=world
            )
            yield Replica(stage.actions, world, stage)


@pytest.fixture
async def stage() -> AsyncIterator[SharedCluster]:
    async with fake_api() as api:
        yield SharedCluster(api)


@pytest.fixture
async def one(stage: SharedCluster) -> AsyncIterator[Replica]:
    async with stage.replica() as one:
        yield one


def requested(person: User = ALICE, template: str = "desktop", **more: Any) -> SessionRequest:
    return SessionRequest(user=person.email, template=template, **more)


async def test_start_creates_a_session_with_a_readable_name(
    stage: SharedCluster, one: Replica
) -> None:
    made = await one.actions.start(ALICE, SessionRequest(template="desktop", timeout="2h"))
    assert made.metadata.name == "alice-desktop"
    assert stage.spec("alice-desktop")["timeout"] == "2h"
    assert one.world.session("alice-desktop") is not None, "this replica sees its own write at once"
    assert one.stage.acts == [(ALICE.email, "session.start", "alice-desktop", "done")]


async def test_a_second_start_is_refused_unless_it_has_a_name(
    stage: SharedCluster, one: Replica
) -> None:
    await one.actions.start(ALICE, requested())
    with pytest.raises(
        ActionDenied, match="You already have the desktop 'alice-desktop'"
    ) as refused:
        await one.actions.start(ALICE, requested())
    assert refused.value.code == "Conflict"
    await one.actions.start(ALICE, requested(name="second"))
    assert stage.names == {"alice-desktop", "second"}


async def test_two_users_with_one_first_name_get_two_names(
    stage: SharedCluster, one: Replica
) -> None:
    other = User("alice@elsewhere.example")
    await one.actions.start(ALICE, requested())
    assert (await one.actions.start(other, requested(other))).metadata.name == "alice-desktop-2"


async def test_a_taken_name_reveals_nothing_of_its_owner(
    stage: SharedCluster, one: Replica
) -> None:
    stage.put_session("nice", BOB)
    with pytest.raises(
        ActionDenied, match=r"^name: 'nice' is not available\. Choose another name\.$"
    ) as refused:
        await one.actions.start(ALICE, requested(name="nice"))
    assert BOB.email not in refused.value.sentence


@pytest.mark.parametrize(
    ("asked", "code", "words"),
    [
        (requested(BOB), "Forbidden", "allowed: alice@example.com"),
        (requested(priority=5), "Forbidden", "allowed: 0 or less"),
        (requested(template="none"), "NotFound", "you can start: desktop"),
        (requested(template="secret"), "NotFound", "you can start: desktop"),
        (requested(resources=RequestedResources(memory="64Gi")), "OverLimit", "more than the 4Gi"),
        (requested(resources=RequestedResources(gpu=2)), "OverLimit", "more than the 1"),
        (
            requested(resources=RequestedResources(ephemeral_storage="1Gi")),
            "OverLimit",
            "template 'desktop' has no defaultEphemeralStorage",
        ),
        (
            requested(persistence=RequestedHome(size="500Ti")),
            "OverLimit",
            "spec.persistence.size: 500Ti is more than the 10Gi",
        ),
        (requested(hostname="portal"), "Invalid", "used by the portal"),
        (requested(timeout="8 hours"), "Invalid", "8 hours"),
    ],
)
async def test_a_refused_start_names_what_is_allowed(
    stage: SharedCluster, asked: SessionRequest, code: str, words: str
) -> None:
    stage.put_template("secret", access={"users": [BOB.email]})
    async with stage.replica() as one:
        with pytest.raises(ActionDenied) as refused:
            await one.actions.start(ALICE, asked)
    assert refused.value.code == code
    assert words in refused.value.sentence
    assert stage.names == set()


async def test_no_desktop_is_started_for_an_address_that_hides(
    stage: SharedCluster, one: Replica
) -> None:
    with pytest.raises(
        ActionDenied, match=r"^user: 'bob\\u202e@example.com' .*; allowed: visible characters"
    ) as refused:
        await one.actions.start(ROOT, requested(User("bob\u202e@example.com")))
    assert refused.value.code == "Invalid"
    assert stage.names == set()


async def test_administrators_start_for_others_past_their_limits(stage: SharedCluster) -> None:
    async with stage.replica("default: {sessions: 0}") as one:
        await one.actions.start(ROOT, requested(ALICE, priority=7))
        assert stage.spec("alice-desktop")["user"] == ALICE.email
        assert stage.spec("alice-desktop")["priority"] == 7


async def test_limits_hold_at_start_and_at_resume(stage: SharedCluster) -> None:
    limits = "groups: {students: {sessions: 1}}"
    async with stage.replica(limits) as one:
        await one.actions.start(ALICE, requested(name="one"))
        with pytest.raises(ActionDenied, match="1 desktop running, and you have one") as refused:
            await one.actions.start(ALICE, requested(name="two"))
        assert refused.value.code == "OverLimit"
        await one.actions.act(ALICE, "one", Suspend())
        await one.actions.start(ALICE, requested(name="two"))
        with pytest.raises(ActionDenied, match="have two"):
            await one.actions.act(ALICE, "one", Resume())
        await one.actions.act(ROOT, "one", Resume())
        assert not stage.spec("one")["suspended"]


async def test_starts_at_one_moment_through_two_replicas_are_counted(stage: SharedCluster) -> None:
    limits = "default: {sessions: 3}"
    async with stage.replica(limits) as one, stage.replica(limits) as two:
        starts = [
            replica.actions.start(ALICE, requested(name=f"d{number}"))
            for number in range(4)
            for replica in (one, two)
        ]
        answers = await asyncio.gather(*starts, return_exceptions=True)
        assert len(stage.names) == 3
        assert [type(answer) for answer in answers].count(ActionDenied) == 5


class NoOneThere(MemorySharedState):
    async def take_once(self, key: str, seconds: float) -> bool:
        raise SharedUnavailableError("Redis does not respond")


async def test_limited_users_cannot_start_while_nothing_counts(stage: SharedCluster) -> None:
    stage.shared = NoOneThere()
    async with stage.replica("users: {alice@example.com: {sessions: 5}}") as one:
        with pytest.raises(ActionDenied, match="cannot be checked") as refused:
            await one.actions.start(ALICE, requested())
        assert refused.value.code == "Unavailable"
        await one.actions.start(BOB, requested(BOB))
    assert stage.names == {"bob-desktop"}


async def test_hours_are_counted_unless_the_database_is_down(stage: SharedCluster) -> None:
    async with stage.replica("default: {hoursPerMonth: 10}") as one:
        one.stage.use(ALICE.email, 10.5)
        with pytest.raises(ActionDenied, match=r"10 hours per calendar month and have run 10\.5"):
            await one.actions.start(ALICE, requested())
        one.stage.lose_history()
        await one.actions.start(ALICE, requested())


async def test_gpu_hours_do_not_limit_desktops_without_gpus(stage: SharedCluster) -> None:
    stage.put_template("office", resources={"defaultGPU": 0})
    stage.put_session("old", suspended=True)
    async with stage.replica("default: {gpuHoursPerMonth: 10}") as one:
        one.stage.use(ALICE.email, 5.0, gpus=2)
        words = (
            r"10 GPU hours per calendar month and have used 10\.0\. The count restarts on"
            r" 2026-12-01 at 00:00 UTC"
        )
        for refused in (
            one.actions.start(ALICE, requested()),
            one.actions.act(ALICE, "old", Resume()),
        ):
            with pytest.raises(ActionDenied, match=words) as denied:
                await refused
            assert denied.value.code == "OverLimit"
        await one.actions.start(ALICE, requested(template="office"))
        one.stage.lose_history()
        await one.actions.act(ALICE, "old", Resume())


def a_home(name: str, size: str, person: User = ALICE) -> dict[str, Any]:
    annotations = {USER_ANNOTATION: person.email}
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
    return {
        "name": name,
        "metadata": {"labels": dict(MANAGED_BY), "annotations": annotations},
        "spec": spec,
    }


async def test_homes_together_are_limited(stage: SharedCluster) -> None:
    """Two starts one after the other, before the operator has made the first home, are counted
    both.
    """
    for name in ("first", "second", "third"):
        stage.put_template(name, persistence={"size": "40Gi", "maxSize": "90Gi"})
    stage.put_template("none", persistence={"enabled": False})
    of_first = home_claim_name(session_name="x", user=ALICE.email, template="first", retain=True)
    for home in (a_home(of_first, "50Gi"), a_home("of-bob", "500Gi", BOB)):
        stage.api.put("persistentvolumeclaims", home.pop("name"), namespace=NS, **home)
    async with stage.replica("default: {homeStorage: 100Gi}") as one:
        await one.actions.start(ALICE, requested(template="first", name="a"))
        with pytest.raises(ActionDenied, match="take up 50 GiB") as denied:
            await one.actions.start(
                ALICE,
                requested(template="second", name="b", persistence=RequestedHome(size="60Gi")),
            )
        assert denied.value.code == "OverLimit" and of_first in denied.value.sentence
        await one.actions.start(ALICE, requested(template="second", name="b"))
        with pytest.raises(ActionDenied, match=r"take up 90 GiB \(.*would add a home of 40 GiB"):
            await one.actions.start(ALICE, requested(template="third", name="c"))
        await one.actions.start(ALICE, requested(template="none", name="d"))
        await one.actions.act(ALICE, "b", Suspend())
        await one.actions.start(ALICE, requested(template="third", name="c"))
        with pytest.raises(ActionDenied, match="take up 90 GiB"):
            await one.actions.act(ALICE, "b", Resume())
        await one.actions.act(ALICE, "a", Resume())


async def test_shares_through_two_replicas_at_once_all_count(
    stage: SharedCluster, one: Replica
) -> None:
    guests = [f"guest{number}@example.com" for number in range(6)]
    async with stage.replica() as two:
        stage.put_session("a", access=[{"user": "old@example.com", "role": "viewer"}])
        await asyncio.gather(
            *(
                replica.actions.act(ALICE, "a", Share(guest, GuestRole.VIEWER, None))
                for guest, replica in zip(guests, (one, two) * 3, strict=True)
            ),
            one.actions.act(ALICE, "a", Unshare("old@example.com")),
        )
        assert {entry["user"] for entry in stage.spec("a")["access"]} == set(guests)


async def test_resizes_through_two_replicas_at_once_all_count(stage: SharedCluster) -> None:
    stage.put_template("desktop", resources={"maxMemory": "16Gi", "maxCPU": "8"})
    stage.put_session("a", resources={"memory": "4Gi"})
    async with stage.replica() as one, stage.replica() as two:
        cpus = [one.actions.act(ALICE, "a", Resize(None, str(number))) for number in range(2, 6)]
        await asyncio.gather(*cpus, two.actions.act(ALICE, "a", Resize("6Gi", None)))
    assert stage.spec("a")["resources"]["memory"] == "6Gi"


async def test_actions_send_what_is_decided(stage: SharedCluster, one: Replica) -> None:
    stage.put_session("a")
    bob = {"user": BOB.email, "role": "collaborator", "expires": "2026-11-20T14:00:00Z"}
    await one.actions.act(
        ALICE, "a", Share("Bob@example.com", GuestRole.COLLABORATOR, NOW + timedelta(hours=2))
    )
    assert stage.spec("a")["access"] == [bob]
    await one.actions.act(ALICE, "a", Unshare(BOB.email))
    await one.actions.act(ALICE, "a", Extend("4h"))
    await one.actions.act(ALICE, "a", SetSchedule(EIGHT_THIRTY))
    await one.actions.act(ALICE, "a", Restart())
    await one.actions.act(ALICE, "a", Suspend())
    assert stage.spec("a") == {
        "user": ALICE.email,
        "template": "desktop",
        "access": [],
        "timeout": "4h",
        "schedule": {"start": "08:30", "timeZone": "Europe/Berlin"},
        "suspended": True,
    }
    annotations = stage.api.objects["vdisessions", NS, "a"]["metadata"]["annotations"]
    assert annotations == {"vdi.kasm.io/restartedAt": "2026-11-20T12:00:00Z"}
    await one.actions.act(ALICE, "a", SetSchedule(None))
    assert stage.spec("a").get("schedule") is None
    actions = ["share", "unshare", "extend", "schedule", "restart", "suspend", "schedule"]
    assert one.stage.acts == [(ALICE.email, f"session.{action}", "a", "done") for action in actions]


async def test_refusals_have_code_and_field_and_are_audited(stage: SharedCluster) -> None:
    async with stage.replica(settings=Settings(max_timeout="24h")) as one:
        stage.put_session("a", access=[{"user": BOB.email, "role": "collaborator"}])
        with pytest.raises(ActionDenied, match="25h is more than 24h") as refused:
            await one.actions.act(ALICE, "a", Extend("25h"))
        assert (refused.value.code, refused.value.fields[0].allowed) == ("OverLimit", "at most 24h")
        with pytest.raises(
            ActionDenied, match=r"As collaborator of alice@example\.com's desktop 'a' you may not"
        ):
            await one.actions.act(BOB, "a", Suspend())
        assert one.stage.acts == [
            (ALICE.email, "session.extend", "a", "OverLimit"),
            (BOB.email, "session.suspend", "a", "Forbidden"),
        ]


@pytest.mark.parametrize("user", [ALICE, ROOT], ids=["owner", "administrator"])
async def test_unusable_schedule_is_kept_nowhere(
    stage: SharedCluster, one: Replica, user: User
) -> None:
    stage.put_session("a")
    with pytest.raises(ActionDenied) as refused:
        await one.actions.act(
            user, "a", SetSchedule(Schedule(start="x" * 60_000, time_zone="Europe/Berlin"))
        )
    assert refused.value.code == "Invalid" and len(refused.value.sentence) < 300
    assert one.stage.acts == []
    assert stage.spec("a").get("schedule") is None


async def test_files_are_deleted_after_a_dry_run_and_the_session(
    stage: SharedCluster, one: Replica
) -> None:
    stage.put_session("a")
    stage.put_session("b")
    await eventually(lambda: len(one.world.sessions) == 2)
    with pytest.raises(ActionDenied, match="and 'b' share their files, so nothing was deleted"):
        await one.actions.end(ALICE, "a", delete_home=True)
    await one.actions.end(ALICE, "a")
    await eventually(lambda: len(one.world.sessions) == 1)
    await one.actions.end(ALICE, "b", delete_home=True)
    deleted = [path.split("/")[-2] for method, path, *_ in stage.api.requests if method == "DELETE"]
    assert deleted == [
        "vdisessions",
        "persistentvolumeclaims",
        "vdisessions",
        "persistentvolumeclaims",
    ]
    assert stage.names == set()


async def test_another_user_s_session_and_none_look_the_same(
    stage: SharedCluster, one: Replica
) -> None:
    stage.put_session("hers")
    said = []
    for name in ("hers", "none", "..", "a/b", "", "A" * 300, "x?y"):
        for action in (
            lambda user, name: one.actions.act(user, name, Suspend()),
            lambda user, name: one.actions.act(user, name, Resume()),
            lambda user, name: one.actions.act(user, name, Restart()),
            one.actions.end,
        ):
            with pytest.raises(ActionDenied) as refused:
                await action(EVE, name)
            said.append((refused.value.code, refused.value.sentence.replace(repr(name), "NAME")))
    assert len(set(said)) == 1
    assert said[0][0] == "NotFound"
    assert not any(method in ("PATCH", "DELETE") for method, *_ in stage.api.requests)


async def test_administrators_act_only_where_it_can_be_audited(
    stage: SharedCluster, one: Replica
) -> None:
    stage.put_session("hers")
    one.stage.lose_audit()
    with pytest.raises(ActionDenied, match="cannot be written to the audit") as refused:
        await one.actions.end(ROOT, "hers")
    assert refused.value.code == "Unavailable"
    assert "hers" in stage.names
    await one.actions.end(ALICE, "hers")
    assert stage.names == set()


EIGHT_THIRTY = Schedule(start="08:30", time_zone="Europe/Berlin")


async def test_scheduled_desktop_counts_as_running_in_the_limits(stage: SharedCluster) -> None:
    async with stage.replica(limits="default: {sessions: 1}") as one:
        stage.put_session("a", suspended=True)
        stage.put_session("b", suspended=True)
        await one.actions.act(ALICE, "a", SetSchedule(EIGHT_THIRTY))
        for act in (
            one.actions.act(ALICE, "b", SetSchedule(EIGHT_THIRTY)),
            one.actions.act(ALICE, "b", Resume()),
        ):
            with pytest.raises(ActionDenied, match="and you have a") as refused:
                await act
            assert refused.value.code == "OverLimit"
        await one.actions.act(ALICE, "a", Resume())


async def test_limited_hours_are_not_used_by_a_schedule(stage: SharedCluster) -> None:
    async with stage.replica(limits="default: {hoursPerMonth: 100}") as one:
        stage.put_session("a", suspended=True)
        with pytest.raises(ActionDenied, match="Your hours are limited") as refused:
            await one.actions.act(ALICE, "a", SetSchedule(EIGHT_THIRTY))
        assert refused.value.code == "OverLimit"
        await one.actions.act(ROOT, "a", SetSchedule(EIGHT_THIRTY))
        assert stage.spec("a")["schedule"]["start"] == "08:30"


async def test_groups_of_volumes_are_written_at_each_start_of_ones_own(
    stage: SharedCluster, one: Replica
) -> None:
    def written() -> str | None:
        annotations: dict[str, str] = (
            stage.api.objects["vdisessions", NS, "a"]["metadata"].get("annotations") or {}
        )
        return annotations.get("vdi.kasm.io/groups")

    team = {"name": "team", "mountPath": "/team", "persistentVolumeClaim": {"claimName": "team"}}
    volumes = [team | {"groups": [{"name": "students"}, {"name": "staff"}]}]
    stage.put_template("cad", volumes=volumes)
    await eventually(lambda: one.world.template("cad"), "the watch has brought it")
    await one.actions.start(ALICE, requested(template="cad", name="a"))
    assert written() == '["students"]'
    await one.actions.act(ALICE, "a", Suspend())
    await one.actions.act(ROOT, "a", Resume())
    assert written() == '["students"]', "the groups of its user, whoever resumes it"
    moved = User(ALICE.email, groups=frozenset({"staff", "others"}))
    await one.actions.act(moved, "a", Restart())
    assert written() == '["staff"]'
    await one.actions.act(moved, "a", Suspend())
    await one.actions.act(User(ALICE.email), "a", Resume())
    assert written() is None

    await one.actions.end(ALICE, "a")
    await one.actions.start(ROOT, requested(ALICE, "cad", name="a"))
    assert written() is None, "which groups another person is in is not known"


async def test_nothing_is_deleted_where_the_files_may_not_be(
    stage: SharedCluster, one: Replica
) -> None:
    stage.put_session("a")
    stage.api.faults.append(("DELETE", refusal(403, "Forbidden")))
    with pytest.raises(ActionDenied, match="The cluster refuses this"):
        await one.actions.end(ALICE, "a", delete_home=True)
    assert stage.names == {"a"}


@pytest.mark.parametrize(
    ("status", "reason", "code", "words"),
    [
        (422, "Invalid", "Invalid", "does not accept this"),
        (403, "Forbidden", "Forbidden", "The cluster refuses this"),
        (404, "NotFound", "NotFound", "has ended"),
        (500, "InternalError", "Unavailable", "Try again in a minute"),
        (429, "TooManyRequests", "Unavailable", "Try again in a minute"),
        (401, "Unauthorized", "Unavailable", "Report this to an administrator"),
    ],
)
async def test_errors_of_the_cluster_become_refusals(
    stage: SharedCluster, one: Replica, status: int, reason: str, code: str, words: str
) -> None:
    stage.put_session("a")
    stage.api.faults += [("PATCH", refusal(status, reason, name="a"))] * 2
    with pytest.raises(ActionDenied, match=words) as refused:
        await one.actions.act(ALICE, "a", Suspend())
    assert refused.value.code == code
    assert one.stage.acts == [(ALICE.email, "session.suspend", "a", code)]
