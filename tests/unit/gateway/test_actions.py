"""Deeds on an API server that keeps objects, by one gateway and by two at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

import msgspec
import pytest

from support.waiting import eventually
from unit.gateway.component_stage import NOW, ComponentStage, RecordedAudit
from unit.kube.kube_fake_api import FakeApi, fake_api, refusal
from vdi.api.schedule import SessionSchedule
from vdi.api.session import GuestRole
from vdi.gateway.actions import Actions
from vdi.gateway.cluster_cache import ClusterCache
from vdi.gateway.denied import ActionDenied
from vdi.gateway.history.component import History
from vdi.gateway.history.usage import Month
from vdi.gateway.limits import Limits, MonthUse, read_limits
from vdi.gateway.rights import User
from vdi.gateway.settings import Settings
from vdi.gateway.shared_state import MemorySharedState, SharedState, SharedUnavailableError
from vdi.gateway.store.audit import Audit
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.kube.transport import NO_RETRY, Client
from vdi.session.naming import MANAGED_BY, USER_ANNOTATION, home_claim_name
from vdi.session.request import SessionRequest

SETTINGS = Settings()
NS = SETTINGS.namespaces[0]
ALICE = User("alice@example.com", "Alice", frozenset({"students"}))
BOB, EVE = User("bob@example.com"), User("eve@example.com")
ROOT = User("root@example.com", admin=True)


@dataclass
class Hours:
    used: float | None = 0.0
    gpu_hours: float = 0.0

    async def use_this_month(self, user: str, now: datetime) -> MonthUse:
        if self.used is None:
            raise DatabaseUnavailableError("down")
        return MonthUse(self.used, self.gpu_hours, Month.of(now).end)


@dataclass
class Replica:
    actions: Actions
    world: ClusterCache
    book: RecordedAudit
    hours: Hours


class SharedCluster:
    """The API server, and as many gateways as are wanted; all share one `SharedState`."""

    def __init__(self, api: FakeApi) -> None:
        self.api = api
        self.shared: SharedState = MemorySharedState()
        self.put_template("desktop")

    def put_template(self, name: str, **spec: Any) -> None:
        self.api.put("vditemplates", name, namespace="", spec={"image": "registry.example.com/desktop:1", **spec})

    def put_session(self, name: str, person: User = ALICE, namespace: str = NS, **spec: Any) -> None:
        body = {"user": person.email, "template": "desktop", **spec}
        self.api.put("vdisessions", name, namespace=namespace, spec=body)

    def spec(self, name: str) -> dict[str, Any]:
        spec: dict[str, Any] = self.api.objects["vdisessions", NS, name]["spec"]
        return spec

    @property
    def names(self) -> set[str]:
        return {name for kind, _, name in self.api.objects if kind == "vdisessions"}

    @asynccontextmanager
    async def replica(self, limits: str = "", settings: Settings = SETTINGS) -> AsyncIterator[Replica]:
        book, hours = RecordedAudit(), Hours()
        chosen: Limits = read_limits(limits, "limits")
        async with (
            Client(self.api.config(), field_manager="vdi-gateway", retry=NO_RETRY) as client,
            ClusterCache(client, settings) as world,
        ):
            await world.wait_synced()
            gateway = ComponentStage(client, settings=settings, shared=self.shared, world=world)
            actions = Actions(gateway.context, limits=chosen, history=cast(History, hours), audit=cast(Audit, book))
            yield Replica(actions, world, book, hours)


@asynccontextmanager
async def a_stage() -> AsyncIterator[SharedCluster]:
    async with fake_api() as api:
        yield SharedCluster(api)


def requested(person: User = ALICE, template: str = "desktop", **more: Any) -> SessionRequest:
    return SessionRequest(person.email, template, **more)


async def test_a_start_makes_a_session_with_a_name_that_is_read_easily() -> None:
    async with a_stage() as stage, stage.replica() as one:
        made = await one.actions.start(ALICE, requested(timeout="2h", gpu=1))
        assert made.metadata.name == "alice-desktop"
        assert stage.spec("alice-desktop")["timeout"] == "2h"
        assert one.world.session("alice-desktop") is not None, "this replica sees its own write at once"
        assert one.book.rows == [(ALICE.email, "session.start", "alice-desktop", "done")]


async def test_the_same_desktop_a_second_time_is_refused_and_a_name_makes_another() -> None:
    async with a_stage() as stage, stage.replica() as one:
        await one.actions.start(ALICE, requested())
        with pytest.raises(ActionDenied, match="You already have the desktop 'alice-desktop'") as refused:
            await one.actions.start(ALICE, requested())
        assert refused.value.code == "Conflict"
        await one.actions.start(ALICE, requested(name="second"))
        assert stage.names == {"alice-desktop", "second"}


async def test_two_people_with_one_first_name_get_two_names() -> None:
    other = User("alice@elsewhere.example")
    async with a_stage() as stage, stage.replica() as one:
        await one.actions.start(ALICE, requested())
        assert (await one.actions.start(other, requested(other))).metadata.name == "alice-desktop-2"


async def test_a_name_that_somebody_else_has_tells_nothing_of_them() -> None:
    async with a_stage() as stage, stage.replica() as one:
        stage.put_session("nice", BOB)
        with pytest.raises(ActionDenied, match=r"^name: 'nice' is not available\. Choose another name\.$") as refused:
            await one.actions.start(ALICE, requested(name="nice"))
        assert BOB.email not in refused.value.sentence


@pytest.mark.parametrize(
    ("asked", "code", "words"),
    [
        (requested(BOB), "Forbidden", "allowed: alice@example.com"),
        (requested(priority=5), "Forbidden", "allowed: 0 or less"),
        (requested(template="none"), "NotFound", "you can start: desktop"),
        (requested(template="secret"), "NotFound", "you can start: desktop"),
        (requested(memory="64Gi"), "OverLimit", "more than the 4Gi"),
        (requested(gpu=2), "OverLimit", "more than the 1"),
        (requested(ephemeral_storage="1Gi"), "OverLimit", "template 'desktop' has no defaultEphemeralStorage"),
        (requested(home_size="500Ti"), "OverLimit", "spec.persistence.size: 500Ti is more than the 10Gi"),
        (requested(hostname="portal"), "Invalid", "used by the portal"),
        (requested(timeout="8 hours"), "Invalid", "8 hours"),
    ],
)
async def test_a_start_that_is_not_allowed_says_what_is(asked: SessionRequest, code: str, words: str) -> None:
    async with a_stage() as stage:
        stage.put_template("secret", access={"users": [BOB.email]})
        async with stage.replica() as one:
            with pytest.raises(ActionDenied) as refused:
                await one.actions.start(ALICE, asked)
        assert refused.value.code == code
        assert words in refused.value.sentence
        assert stage.names == set()


async def test_anyone_may_let_others_go_first() -> None:
    async with a_stage() as stage, stage.replica() as one:
        await one.actions.start(ALICE, requested(priority=-5))
        assert stage.spec("alice-desktop")["priority"] == -5


async def test_an_administrator_cannot_start_for_an_address_that_hides_something() -> None:
    async with a_stage() as stage, stage.replica() as one:
        with pytest.raises(
            ActionDenied, match=r"^user: 'bob\\u202e@example.com' .*; allowed: visible characters"
        ) as refused:
            await one.actions.start(ROOT, requested(User("bob\u202e@example.com")))
        assert refused.value.code == "Invalid"
        assert stage.names == set()


async def test_an_administrator_starts_for_others_with_priority_and_past_their_limits() -> None:
    async with a_stage() as stage, stage.replica("default: {sessions: 0}") as one:
        await one.actions.start(ROOT, requested(ALICE, priority=7))
        assert stage.spec("alice-desktop")["user"] == ALICE.email
        assert stage.spec("alice-desktop")["priority"] == 7


async def test_limits_hold_at_start_and_at_resume() -> None:
    limits = "groups: {students: {sessions: 1}}"
    async with a_stage() as stage, stage.replica(limits) as one:
        await one.actions.start(ALICE, requested(name="one"))
        with pytest.raises(ActionDenied, match="1 desktop running, and you have one") as refused:
            await one.actions.start(ALICE, requested(name="two"))
        assert refused.value.code == "OverLimit"
        await one.actions.suspend(ALICE, "one")
        await one.actions.start(ALICE, requested(name="two"))
        with pytest.raises(ActionDenied, match="have two"):
            await one.actions.resume(ALICE, "one")
        await one.actions.resume(ROOT, "one")
        assert not stage.spec("one")["suspended"]


async def test_starts_at_the_same_moment_through_two_replicas_are_no_more_than_allowed() -> None:
    limits = "default: {sessions: 3}"
    async with a_stage() as stage, stage.replica(limits) as one, stage.replica(limits) as two:
        tries = [
            replica.actions.start(ALICE, requested(name=f"d{number}")) for number in range(4) for replica in (one, two)
        ]
        for number, each in enumerate(tries):
            tries[number] = each
        answers = await asyncio.gather(*tries, return_exceptions=True)
        assert len(stage.names) == 3
        assert [type(answer) for answer in answers].count(ActionDenied) == 5


class NoOneThere(MemorySharedState):
    async def take_once(self, key: str, seconds: float) -> bool:
        raise SharedUnavailableError("Redis does not respond")


async def test_who_has_limits_does_not_start_while_no_one_can_count() -> None:
    async with a_stage() as stage:
        stage.shared = NoOneThere()
        async with stage.replica("users: {alice@example.com: {sessions: 5}}") as one:
            with pytest.raises(ActionDenied, match="cannot be checked") as refused:
                await one.actions.start(ALICE, requested())
            assert refused.value.code == "Unavailable"
            await one.actions.start(BOB, requested(BOB))
        assert stage.names == {"bob-desktop"}


async def test_hours_are_counted_and_a_database_that_is_down_stops_no_one() -> None:
    async with a_stage() as stage, stage.replica("default: {hoursPerMonth: 10}") as one:
        one.hours.used = 10.5
        with pytest.raises(ActionDenied, match=r"10 hours per calendar month and have run 10\.5"):
            await one.actions.start(ALICE, requested())
        one.hours.used = None
        await one.actions.start(ALICE, requested())


async def test_gpu_hours_are_counted_and_desktops_without_gpus_start_all_the_same() -> None:
    async with a_stage() as stage:
        stage.put_template("office", resources={"defaultGPU": 0})
        stage.put_session("old", suspended=True)
        async with stage.replica("default: {gpuHoursPerMonth: 10}") as one:
            one.hours.gpu_hours = 10.0
            words = (
                r"10 GPU hours per calendar month and have used 10\.0\. The count restarts on 2026-12-01 at 00:00 UTC"
            )
            for refused in (one.actions.start(ALICE, requested()), one.actions.resume(ALICE, "old")):
                with pytest.raises(ActionDenied, match=words) as denied:
                    await refused
                assert denied.value.code == "OverLimit"
            await one.actions.start(ALICE, requested(template="office"))
            one.hours.used = None
            await one.actions.resume(ALICE, "old")


def a_home(name: str, size: str, person: User = ALICE) -> dict[str, Any]:
    annotations = {USER_ANNOTATION: person.email}
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
    return {"name": name, "metadata": {"labels": dict(MANAGED_BY), "annotations": annotations}, "spec": spec}


async def test_homes_together_are_limited_and_one_that_exists_starts() -> None:
    """Two starts one after the other, before the operator has made the first home, are counted both."""
    async with a_stage() as stage:
        for name in ("first", "second", "third"):
            stage.put_template(name, persistence={"size": "40Gi", "maxSize": "90Gi"})
        stage.put_template("none", persistence={"enabled": False})
        of_first = home_claim_name(session_name="x", user=ALICE.email, template="first", retain=True)
        for home in (a_home(of_first, "50Gi"), a_home("of-bob", "500Gi", BOB)):
            stage.api.put("persistentvolumeclaims", home.pop("name"), namespace=NS, **home)
        async with stage.replica("default: {homeStorage: 100Gi}") as one:
            await one.actions.start(ALICE, requested(template="first", name="a"))
            with pytest.raises(ActionDenied, match="take up 50 GiB") as denied:
                await one.actions.start(ALICE, requested(template="second", name="b", home_size="60Gi"))
            assert denied.value.code == "OverLimit" and of_first in denied.value.sentence
            await one.actions.start(ALICE, requested(template="second", name="b"))
            with pytest.raises(ActionDenied, match=r"take up 90 GiB \(.*would add a home of 40 GiB"):
                await one.actions.start(ALICE, requested(template="third", name="c"))
            await one.actions.start(ALICE, requested(template="none", name="d"))
            await one.actions.suspend(ALICE, "b")
            await one.actions.start(ALICE, requested(template="third", name="c"))
            with pytest.raises(ActionDenied, match="take up 90 GiB"):
                await one.actions.resume(ALICE, "b")
            await one.actions.resume(ALICE, "a")


async def test_shares_edited_through_two_replicas_at_once_all_count() -> None:
    guests = [f"guest{number}@example.com" for number in range(6)]
    async with a_stage() as stage, stage.replica() as one, stage.replica() as two:
        stage.put_session("a", access=[{"user": "old@example.com", "role": "viewer"}])
        await asyncio.gather(
            *(
                replica.actions.share(ALICE, "a", guest, GuestRole.VIEWER, None)
                for guest, replica in zip(guests, (one, two) * 3, strict=True)
            ),
            one.actions.unshare(ALICE, "a", "old@example.com"),
        )
        assert {entry["user"] for entry in stage.spec("a")["access"]} == set(guests)


async def test_a_share_is_written_with_its_role_and_end() -> None:
    async with a_stage() as stage, stage.replica() as one:
        stage.put_session("a")
        await one.actions.share(ALICE, "a", "Bob@example.com", GuestRole.COLLABORATOR, NOW + timedelta(hours=2))
        desired = {"user": BOB.email, "role": "collaborator", "expires": "2026-11-20T14:00:00Z"}
        assert stage.spec("a")["access"] == [desired]
        await one.actions.resume(BOB, "a")
        with pytest.raises(
            ActionDenied, match=r"As collaborator of alice@example\.com's desktop 'a' you may not suspend"
        ):
            await one.actions.suspend(BOB, "a")
        assert one.book.rows[-1] == (BOB.email, "session.suspend", "a", "Forbidden")


async def test_no_one_learns_whether_another_s_session_exists() -> None:
    async with a_stage() as stage, stage.replica() as one:
        stage.put_session("hers")
        said = []
        for name in ("hers", "none", "..", "a/b", "", "A" * 300, "x?y"):
            for action in (one.actions.suspend, one.actions.resume, one.actions.restart, one.actions.end):
                with pytest.raises(ActionDenied) as refused:
                    await action(EVE, name)
                said.append((refused.value.code, refused.value.sentence.replace(repr(name), "NAME")))
        assert len(set(said)) == 1
        assert said[0][0] == "NotFound"
        assert not any(method in ("PATCH", "DELETE") for method, *_ in stage.api.requests)


async def test_an_administrator_s_act_is_not_done_unless_it_is_written_down() -> None:
    async with a_stage() as stage, stage.replica() as one:
        stage.put_session("hers")
        one.book.broken = True
        with pytest.raises(ActionDenied, match="cannot be written to the audit") as refused:
            await one.actions.end(ROOT, "hers")
        assert refused.value.code == "Unavailable"
        assert "hers" in stage.names
        await one.actions.end(ALICE, "hers")
        assert stage.names == set()


async def test_extend_knows_the_template_s_most_and_that_time_is_over() -> None:
    async with a_stage() as stage:
        stage.put_template("short", lifecycle={"maxTimeout": "4h"})
        async with stage.replica() as one:
            stage.put_session("a", template="short", timeout="1h")
            stage.api.put("vdisessions", "a", namespace=NS, status={"startTime": "2026-11-20T10:00:00Z"})
            await one.actions.extend(ALICE, "a", "4h")
            assert stage.spec("a")["timeout"] == "4h"
            for length, code, words in (
                ("5h", "OverLimit", "5h is more than 4h, the maximum for template"),
                ("2h", "Invalid", "has already lasted 2h"),
                ("soon", "Invalid", "such as 30m"),
            ):
                with pytest.raises(ActionDenied, match=words) as refused:
                    await one.actions.extend(ALICE, "a", length)
                assert refused.value.code == code


EIGHT_THIRTY = SessionSchedule(start="08:30", time_zone="Europe/Berlin")


async def test_schedule_is_set_changed_and_removed_by_the_owner_alone() -> None:
    async with a_stage() as stage, stage.replica() as one:
        stage.put_session("a", access=[{"user": "bob@example.com", "role": "collaborator"}])
        await one.actions.schedule(ALICE, "a", EIGHT_THIRTY)
        assert stage.spec("a")["schedule"] == {"start": "08:30", "timeZone": "Europe/Berlin"}
        with pytest.raises(ActionDenied) as refused:
            await one.actions.schedule(BOB, "a", None)
        assert refused.value.code == "Forbidden"
        await one.actions.schedule(ALICE, "a", None)
        assert stage.spec("a").get("schedule") is None


@pytest.mark.parametrize("user", [ALICE, ROOT], ids=["owner", "administrator"])
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"time_zone": "Mars/Olympus"}, "timeZone: 'Mars/Olympus' is not allowed; allowed: a known time zone"),
        ({"time_zone": "x" * 60_000}, "timeZone: '" + "x" * 100 + "' is not allowed"),
        ({"start": "8:30"}, "start: '8:30' is not allowed; allowed: a time of day from 00:00 to 23:59"),
        ({"start": "x" * 60_000}, "start: '" + "x" * 100 + "' is not allowed"),
        ({"end": "08:30"}, "end: '08:30' is not allowed; allowed: not start, nor the 5 minutes before it"),
        ({"start": "00:02", "end": "23:58"}, "end: '23:58' is not allowed"),
        ({"days": ()}, "days: '' is not allowed; allowed: one or more of MON, TUE"),
        ({"days": ("Monday",)}, "days: 'Monday' is not allowed"),
    ],
)
async def test_wrong_schedule_is_refused_before_it_is_kept_anywhere(
    user: User, fields: dict[str, Any], words: str
) -> None:
    async with a_stage() as stage, stage.replica() as one:
        stage.put_session("a")
        with pytest.raises(ActionDenied) as refused:
            await one.actions.schedule(user, "a", msgspec.structs.replace(EIGHT_THIRTY, **fields))
        assert words in refused.value.sentence
        assert refused.value.code == "Invalid"
        assert one.book.rows == []
        assert stage.spec("a").get("schedule") is None


async def test_scheduled_desktop_counts_as_running_in_the_limits() -> None:
    async with a_stage() as stage, stage.replica(limits="default: {sessions: 1}") as one:
        stage.put_session("a", suspended=True)
        stage.put_session("b", suspended=True)
        await one.actions.schedule(ALICE, "a", EIGHT_THIRTY)
        for act in (one.actions.schedule(ALICE, "b", EIGHT_THIRTY), one.actions.resume(ALICE, "b")):
            with pytest.raises(ActionDenied, match="and you have a") as refused:
                await act
            assert refused.value.code == "OverLimit"
        await one.actions.resume(ALICE, "a")


async def test_limited_hours_are_not_used_by_a_schedule() -> None:
    async with a_stage() as stage, stage.replica(limits="default: {hoursPerMonth: 100}") as one:
        stage.put_session("a", suspended=True)
        with pytest.raises(ActionDenied, match="Your hours are limited") as refused:
            await one.actions.schedule(ALICE, "a", EIGHT_THIRTY)
        assert refused.value.code == "OverLimit"
        await one.actions.schedule(ROOT, "a", EIGHT_THIRTY)
        assert stage.spec("a")["schedule"]["start"] == "08:30"


async def test_extend_knows_the_cluster_s_most_where_the_template_has_none() -> None:
    async with a_stage() as stage, stage.replica(settings=Settings(max_timeout="24h")) as one:
        stage.put_session("a", timeout="1h")
        await one.actions.extend(ALICE, "a", "24h")
        with pytest.raises(ActionDenied, match="25h is more than 24h, the maximum for template") as refused:
            await one.actions.extend(ALICE, "a", "25h")
        assert refused.value.code == "OverLimit"
        assert stage.spec("a")["timeout"] == "24h"


async def test_restart_asks_for_a_new_desktop_and_says_why_there_is_none() -> None:
    async with a_stage() as stage, stage.replica() as one:
        stage.put_session("a")
        await one.actions.restart(ALICE, "a")
        annotations = stage.api.objects["vdisessions", NS, "a"]["metadata"]["annotations"]
        assert annotations == {"vdi.kasm.io/restartedAt": "2026-11-20T12:00:00Z"}
        await one.actions.suspend(ALICE, "a")
        with pytest.raises(ActionDenied, match="Resume it instead"):
            await one.actions.restart(ALICE, "a")


async def test_groups_that_the_template_s_volumes_name_are_written_at_each_start_of_ones_own() -> None:
    def written() -> str | None:
        annotations: dict[str, str] = stage.api.objects["vdisessions", NS, "a"]["metadata"].get("annotations") or {}
        return annotations.get("vdi.kasm.io/groups")

    team = {"name": "team", "mountPath": "/team", "persistentVolumeClaim": {"claimName": "team"}}
    volumes = [team | {"groups": [{"name": "students"}, {"name": "staff"}]}]
    async with a_stage() as stage, stage.replica() as one:
        stage.put_template("cad", volumes=volumes)
        await eventually(lambda: one.world.template("cad"), "the watch has brought it")
        await one.actions.start(ALICE, requested(template="cad", name="a"))
        assert written() == '["students"]'
        await one.actions.suspend(ALICE, "a")
        await one.actions.resume(ROOT, "a")
        assert written() == '["students"]', "the groups of its user, whoever resumes it"
        moved = User(ALICE.email, groups=frozenset({"staff", "others"}))
        await one.actions.restart(moved, "a")
        assert written() == '["staff"]'
        await one.actions.suspend(moved, "a")
        await one.actions.resume(User(ALICE.email), "a")
        assert written() is None

        await one.actions.end(ALICE, "a")
        await one.actions.start(ROOT, SessionRequest(ALICE.email, "cad", name="a"))
        assert written() is None, "which groups another person is in is not known"


async def test_a_template_that_needs_a_gateway_is_started_through_it() -> None:
    async with a_stage() as stage, stage.replica() as one:
        stage.put_template("web", protocol="Web", port=8443)
        await eventually(lambda: one.world.template("web"), "the watch has brought it")
        assert (await one.actions.start(ALICE, requested(template="web"))).spec.template == "web"


async def test_files_are_deleted_only_where_they_are_no_one_else_s() -> None:
    async with a_stage() as stage, stage.replica() as one:
        stage.put_session("a")
        stage.put_session("b")
        await eventually(lambda: len(one.world.sessions) == 2)
        with pytest.raises(ActionDenied, match="and 'b' share their files, so nothing was deleted"):
            await one.actions.end(ALICE, "a", delete_home=True)
        assert stage.names == {"a", "b"}
        await one.actions.end(ALICE, "a")
        await eventually(lambda: len(one.world.sessions) == 1)
        await one.actions.end(ALICE, "b", delete_home=True)
        deleted = [path.split("/")[-2] for method, path, *_ in stage.api.requests if method == "DELETE"]
        assert deleted == ["vdisessions", "persistentvolumeclaims", "vdisessions", "persistentvolumeclaims"]
        assert stage.names == set(), "the first one of the claim was a question"


async def test_where_the_files_may_not_be_deleted_nothing_is() -> None:
    async with a_stage() as stage, stage.replica() as one:
        stage.put_session("a")
        stage.api.faults.append(("DELETE", refusal(403, "Forbidden")))
        with pytest.raises(ActionDenied, match="The cluster refuses this"):
            await one.actions.end(ALICE, "a", delete_home=True)
        assert stage.names == {"a"}


async def test_a_session_that_is_ending_can_only_be_ended() -> None:
    async with a_stage() as stage, stage.replica() as one:
        stage.put_session("a")
        metadata = {"deletionTimestamp": "2026-11-20T12:00:00Z", "finalizers": ["x"]}
        stage.api.put("vdisessions", "a", namespace=NS, metadata=metadata)
        with pytest.raises(ActionDenied, match="is ending"):
            await one.actions.suspend(ALICE, "a")
        await one.actions.end(ALICE, "a")


@pytest.mark.parametrize(
    ("status", "reason", "code", "words"),
    [
        (422, "Invalid", "Invalid", "does not accept this"),
        (403, "Forbidden", "Forbidden", "The cluster refuses this"),
        (409, "Conflict", "Conflict", "Someone else has just changed"),
        (404, "NotFound", "NotFound", "has ended"),
        (500, "InternalError", "Unavailable", "Try again in a minute"),
        (429, "TooManyRequests", "Unavailable", "Try again in a minute"),
        (401, "Unauthorized", "Unavailable", "Report this to an administrator"),
    ],
)
async def test_what_the_cluster_says_becomes_words(status: int, reason: str, code: str, words: str) -> None:
    async with a_stage() as stage, stage.replica() as one:
        stage.put_session("a")
        stage.api.faults += [("PATCH", refusal(status, reason, name="a"))] * 2
        with pytest.raises(ActionDenied, match=words) as refused:
            await one.actions.suspend(ALICE, "a")
        assert refused.value.code == code
        assert one.book.rows == [(ALICE.email, "session.suspend", "a", code)]
