"""Scheduled starts: on time, within the user's limits, once, and right over clock changes and dead replicas."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unit.gateway.api_stage import ALICE, ROOT, ApiStage
from vdi.gateway.denied import ActionDenied
from vdi.gateway.limits import Limit
from vdi.gateway.login.logins import OIDC, Device, Identity
from vdi.gateway.scheduled_starts import CLAIM, LATE, LEAD, MOST, ScheduledStarts
from vdi.gateway.store.scheduled_starts import ScheduledStart
from vdi.gateway.users import User
from vdi.session.times import format_time

pytestmark = pytest.mark.timeout(120)

WHO = replace(ALICE, source=OIDC)
USER = User(ALICE.user, groups=frozenset(ALICE.groups))
WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI")
EVERY_DAY = (*WEEKDAYS, "SAT", "SUN")


class Stage(ApiStage):
    """An API stage with a clock that sessions are made by, and what was started when."""

    def __init__(self, folder: Path, *, everybody: Limit | None = None) -> None:
        super().__init__(folder, everybody=everybody)
        self.started: list[datetime] = []
        self.resumed: list[datetime] = []
        create, patch = self.cluster.create, self.cluster.patch

        async def creating(resource: Any, obj: Any, **rest: Any) -> Any:
            obj["metadata"]["creationTimestamp"] = format_time(self.clock.now())
            made = await create(resource, obj, **rest)
            self.started.append(self.clock.now())
            await self._recorded(made)
            return made

        async def patching(resource: Any, name: str, change: Any, **rest: Any) -> Any:
            made = await patch(resource, name, change, **rest)
            self.resumed.append(self.clock.now())
            return made

        self.cluster.create = creating  # type: ignore[method-assign]
        self.cluster.patch = patching  # type: ignore[method-assign]

    async def _recorded(self, session: Any) -> None:
        """The history's recorder, which runs beside it, has seen the session."""
        await self.services.history.recorder.record_end(session)

    @property
    def scheduled(self) -> ScheduledStarts:
        return self.services.scheduled

    def replica(self) -> ScheduledStarts:
        """Another one, on the same database."""
        api = self.services
        return ScheduledStarts(
            api.context, actions=api.actions, history=api.history, audit=api.audit, local=self.login.services.local
        )

    async def only(self) -> ScheduledStart:
        (start,) = await self.scheduled.of(USER)
        return start


def utc(text: str, zone: str = "UTC") -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with Stage(tmp_path) as stage:
        stage.clock.wall = utc("2026-11-19T18:00")  # a Thursday
        await stage.logins.begin(WHO, Device())
        yield stage


async def schedule(stage: Stage, **fields: Any) -> ScheduledStart:
    asked: dict[str, Any] = {"template": "ubuntu", "time": "08:30", "days": WEEKDAYS, "time_zone": "Europe/Berlin"}
    return await stage.scheduled.add(USER, **asked | fields)


async def test_a_desktop_is_started_a_little_before_its_time_and_again_the_next_weekday(stage: Stage) -> None:
    assert (await schedule(stage)).next_time == utc("2026-11-20T07:30")
    stage.clock.wall = utc("2026-11-20T07:24:59")
    await stage.scheduled.start_due()
    assert stage.started == []
    stage.clock.wall = utc("2026-11-20T07:25")
    for _ in range(3):
        await stage.scheduled.start_due()
    assert stage.started == [utc("2026-11-20T07:25")]
    done = await stage.only()
    assert (done.last_result, done.last_time) == ("Started", utc("2026-11-20T07:30"))
    assert done.next_time == utc("2026-11-23T07:30"), "Monday"
    rows = [(entry.actor, entry.action, entry.outcome) for entry in await stage.services.audit.entries(limit=9)]
    assert (USER.email, "session.start", "done") in rows and (USER.email, "schedule.create", "done") in rows


OTHER_ALICE = "alice@example.org"


@pytest.mark.parametrize("is_taken_first", [True, False])
async def test_the_second_user_with_a_local_part_gets_a_name_of_their_own_and_keeps_it(
    stage: Stage, is_taken_first: bool
) -> None:
    if is_taken_first:
        stage.session("alice-ubuntu", user=OTHER_ALICE)
    assert (await schedule(stage)).session == ("alice-ubuntu-2" if is_taken_first else "alice-ubuntu")
    stage.session("alice-ubuntu", user=OTHER_ALICE)
    stage.session("alice-ubuntu-2", template="other")
    stage.clock.wall = utc("2026-11-20T07:26")
    await stage.scheduled.start_due()
    done = await stage.only()
    assert (done.last_result, done.session) == ("Started", "alice-ubuntu-3"), "one's own of another template stays"
    assert stage.cluster.objects["alice-ubuntu-3"]["spec"]["user"] == USER.email
    for name in ("alice-ubuntu", "alice-ubuntu-2", "alice-ubuntu-3"):
        stage.cluster.drop(name)
    stage.clock.wall = utc("2026-11-23T07:26")
    await stage.scheduled.start_due()
    done = await stage.only()
    assert (done.last_result, done.session) == ("Started", "alice-ubuntu-3"), "the same home and address every day"


async def test_a_name_that_is_taken_at_the_last_moment_is_replaced_at_the_next_try(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two users with the same local part have a start for the same time."""
    await schedule(stage)
    start = stage.services.actions.start

    async def another_is_faster(*words: Any) -> Any:
        monkeypatch.setattr(stage.services.actions, "start", start)
        stage.session("alice-ubuntu", user=OTHER_ALICE)
        return await start(*words)

    monkeypatch.setattr(stage.services.actions, "start", another_is_faster)
    stage.clock.wall = utc("2026-11-20T07:25")
    await stage.scheduled.start_due()
    assert (await stage.only()).last_result == "" and stage.started == []
    stage.clock.forward(seconds=CLAIM.total_seconds())
    await stage.scheduled.start_due()
    done = await stage.only()
    assert (done.last_result, done.session) == ("Started", "alice-ubuntu-2")
    assert stage.started == [utc("2026-11-20T07:27")], "before its time"


async def test_a_name_that_the_user_chose_is_not_replaced(stage: Stage) -> None:
    await schedule(stage, session="cad")
    stage.session("cad", user=OTHER_ALICE)
    stage.clock.wall = utc("2026-11-20T07:26")
    await stage.scheduled.start_due()
    done = await stage.only()
    assert (done.last_result, done.session) == ("Conflict", "cad") and stage.started == []


async def test_a_suspended_desktop_is_resumed_and_one_that_runs_is_left_alone(stage: Stage) -> None:
    await schedule(stage, session="cad")
    stage.session("cad", suspended=True)
    stage.clock.wall = utc("2026-11-20T07:26")
    await stage.scheduled.start_due()
    assert stage.cluster.objects["cad"]["spec"]["suspended"] is False and stage.started == []
    assert (await stage.only()).last_result == "Resumed"
    stage.clock.wall = utc("2026-11-23T07:26")
    await stage.scheduled.start_due()
    assert len(stage.resumed) == 1 and (await stage.only()).last_result == "Running"


async def test_limits_of_the_user_hold_and_the_next_day_is_another_try(tmp_path: Path) -> None:
    async with Stage(tmp_path, everybody=Limit(sessions=1)) as stage:
        stage.clock.wall = utc("2026-11-19T18:00")
        await stage.logins.begin(WHO, Device())
        await schedule(stage, session="second")
        stage.session("first")
        stage.clock.wall = utc("2026-11-20T07:26")
        await stage.scheduled.start_due()
        refused = await stage.only()
        assert stage.started == [] and refused.last_result == "OverLimit"
        assert "You can have at most 1 desktop running" in refused.last_message
        stage.cluster.drop("first")
        stage.clock.wall = utc("2026-11-23T07:26")
        await stage.scheduled.start_due()
        assert len(stage.started) == 1 and (await stage.only()).last_result == "Started"


async def test_a_template_that_is_no_longer_for_the_user_is_not_started(stage: Stage) -> None:
    await schedule(stage)
    stage.template("ubuntu", access={"groups": ["others"]})
    stage.clock.wall = utc("2026-11-20T07:26")
    await stage.scheduled.start_due()
    assert stage.started == [] and (await stage.only()).last_result == "NotFound"


@pytest.mark.parametrize("groups", [frozenset({"engineering"}), frozenset()])
async def test_the_groups_are_those_of_the_last_login(stage: Stage, groups: frozenset[str]) -> None:
    stage.template("ubuntu", access={"groups": ["engineering"]})
    await schedule(stage)
    stage.clock.forward(hours=1)
    await stage.logins.begin(replace(WHO, groups=groups), Device())
    stage.clock.wall = utc("2026-11-20T07:26")
    await stage.scheduled.start_due()
    assert bool(stage.started) == bool(groups)


async def test_an_administrator_has_no_special_rights_while_away(stage: Stage) -> None:
    await stage.logins.begin(replace(ROOT, source=OIDC), Device())
    stage.template("ubuntu", access={"groups": ["others"]})
    root = User(ROOT.user, admin=True)
    await stage.scheduled.add(root, template="ubuntu", time="08:30", days=WEEKDAYS, time_zone="UTC")
    stage.clock.wall = utc("2026-11-20T08:26")
    await stage.scheduled.start_due()
    assert stage.started == [] and (await stage.scheduled.of(root))[0].last_result == "NotFound"


async def test_who_has_not_logged_in_for_long_gets_no_desktop_until_the_next_login(stage: Stage) -> None:
    await schedule(stage)
    stage.clock.wall = utc("2026-12-18T07:26")
    await stage.logins.forget_old()
    await stage.scheduled.start_due()
    assert stage.started == [] and (await stage.only()).last_result == "LoginNeeded"
    await stage.logins.begin(WHO, Device())
    stage.clock.wall = utc("2026-12-21T07:26")
    await stage.scheduled.start_due()
    assert (await stage.only()).last_result == "Started"


class Users:
    """Local users in place of those of the Secret."""

    def __init__(self, *users: Identity) -> None:
        self.users = {user.user: user for user in users}

    async def identities(self) -> dict[str, Identity]:
        return self.users


async def test_a_local_user_who_was_removed_gets_no_desktop(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    users = Users(ALICE)
    monkeypatch.setattr(stage.scheduled, "_local", users)
    stage.clock.forward(hours=1)
    await stage.logins.begin(ALICE, Device())
    await schedule(stage)
    stage.clock.wall = utc("2026-11-20T07:26")
    await stage.scheduled.start_due()
    assert (await stage.only()).last_result == "Started"
    stage.cluster.drop("alice-ubuntu")
    users.users.clear()
    stage.clock.wall = utc("2026-11-23T07:26")
    await stage.scheduled.start_due()
    assert len(stage.started) == 1 and (await stage.only()).last_result == "LoginNeeded"


async def test_a_time_that_was_missed_is_made_up_for_half_an_hour_and_then_reported(stage: Stage) -> None:
    await schedule(stage)
    stage.clock.wall = utc("2026-11-20T07:59")
    await stage.scheduled.start_due()
    assert len(stage.started) == 1
    stage.cluster.drop("alice-ubuntu")
    stage.clock.wall = utc("2026-11-25T08:01")
    await stage.scheduled.start_due()
    missed = await stage.only()
    assert len(stage.started) == 1, "nobody waits for a desktop of half an hour ago"
    assert (missed.last_result, missed.last_time) == ("Missed", utc("2026-11-25T07:30")), "days before are not made up"
    assert missed.next_time == utc("2026-11-26T07:30")


async def test_a_cluster_that_does_not_answer_is_tried_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    await schedule(stage)
    start, tries = stage.services.actions.start, []

    async def failing(*words: Any) -> Any:
        tries.append(words)
        if len(tries) == 1:
            raise ActionDenied("Unavailable", "The cluster does not answer.")
        return await start(*words)

    monkeypatch.setattr(stage.services.actions, "start", failing)
    stage.clock.wall = utc("2026-11-20T07:26")
    await stage.scheduled.start_due()
    assert (await stage.only()).last_result == "" and stage.started == []
    stage.clock.forward(seconds=CLAIM.total_seconds())
    await stage.scheduled.start_due()
    assert (await stage.only()).last_result == "Started" and len(stage.started) == 1


@pytest.mark.parametrize("deleted", [False, True])
async def test_what_a_killed_replica_has_started_is_not_started_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, deleted: bool
) -> None:
    await schedule(stage)
    other = stage.replica()
    stage.clock.wall = utc("2026-11-20T07:25")

    async def killed(*_: Any, **__: Any) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(stage.scheduled._store, "finish", killed)
    with pytest.raises(asyncio.CancelledError):
        await stage.scheduled.start_due()
    assert len(stage.started) == 1
    await other.start_due()
    assert (await stage.only()).last_result == "", "the claim of the dead still holds"
    if deleted:
        stage.cluster.drop("alice-ubuntu")
    stage.clock.forward(seconds=CLAIM.total_seconds())
    await other.start_due()
    assert len(stage.started) == 1
    assert (await stage.only()).last_result == ("Ended" if deleted else "Running")


async def test_two_replicas_at_once_start_one_desktop(stage: Stage) -> None:
    await schedule(stage)
    stage.clock.wall = utc("2026-11-20T07:25")
    await asyncio.gather(*(replica.start_due() for replica in (stage.scheduled, stage.replica(), stage.replica())))
    assert len(stage.started) == 1 and (await stage.only()).last_result == "Started"


async def test_a_start_that_is_deleted_is_gone_also_while_it_is_due(stage: Stage) -> None:
    start = await schedule(stage)
    with pytest.raises(ActionDenied, match="no scheduled start"):
        await stage.scheduled.delete(User("bob@example.com"), start.id)
    await stage.scheduled.delete(USER, start.id)
    stage.clock.wall = utc("2026-11-20T07:26")
    await stage.scheduled.start_due()
    assert stage.started == [] and await stage.scheduled.of(USER) == []


async def test_what_cannot_be_scheduled_is_refused_in_words(stage: Stage) -> None:
    with pytest.raises(ActionDenied, match="timeZone: 'Europe/Atlantis' is not a known time zone"):
        await schedule(stage, time_zone="Europe/Atlantis")
    with pytest.raises(ActionDenied, match="template: there is no template 'cad' that you can start"):
        await schedule(stage, template="cad")
    for number in range(MOST):
        await schedule(stage, session=f"desk-{number}")
    with pytest.raises(ActionDenied, match="You already have 20 scheduled starts"):
        await schedule(stage)


async def test_the_api_takes_lists_and_deletes_them(stage: Stage) -> None:
    program = await stage.program()
    asked = {"template": "ubuntu", "time": "08:30", "timeZone": "Europe/Berlin"}
    made = await program.post("/api/v1/scheduled-starts", json=asked)
    assert made.status_code == 201 and made.json()["days"] == list(WEEKDAYS)
    assert made.json()["nextTime"] == "2026-11-20T07:30:00Z" and made.json()["session"] == "alice-ubuntu"
    assert (await program.get("/api/v1/scheduled-starts")).json()["items"] == [made.json()]
    for field, value in (("time", "8:30"), ("time", "24:00"), ("days", ["MONDAY"]), ("days", []), ("session", "A_B")):
        refused = await program.post("/api/v1/scheduled-starts", json=asked | {field: value})
        assert refused.status_code == 422 and field in refused.text, refused.text
    stranger = await stage.program(Identity(user="bob@example.com"))
    address = f"/api/v1/scheduled-starts/{made.json()['id']}"
    assert (await stranger.get("/api/v1/scheduled-starts")).json() == {"items": []}
    assert (await stranger.delete(address)).status_code == 404
    assert (await program.delete(address)).status_code == 204
    assert (await program.get("/api/v1/scheduled-starts")).json() == {"items": []}


CHANGES = {
    "Europe/Berlin": ("2026-03-27T12:00", "2026-10-23T12:00"),
    "America/New_York": ("2026-03-06T12:00", "2026-10-30T12:00"),
    "Australia/Lord_Howe": ("2026-04-03T12:00", "2026-10-02T12:00"),
}
"""Two days before each clock change."""
STEPS = st.lists(st.tuples(st.integers(1, 600), st.sampled_from(["run", "claimed", "started", "end"])), max_size=24)


@settings(max_examples=15, deadline=None)
@given(
    zone=st.sampled_from(sorted(CHANGES)),
    spring=st.booleans(),
    time=st.sampled_from(["00:00", "01:30", "02:00", "02:15", "02:45", "08:30", "23:59"]),
    steps=STEPS,
)
@example(zone="America/New_York", spring=False, time="01:30", steps=[(1673, "run"), (600, "claimed")])
def test_no_time_has_two_starts_and_none_is_lost_whatever_is_killed(
    zone: str, spring: bool, time: str, steps: list[tuple[int, str]]
) -> None:
    """Replicas are killed after their claim or after their start, users end desktops, and gateways are away."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_live_through(Path(folder), zone, utc(CHANGES[zone][0 if spring else 1], zone), time, steps))


async def _live_through(folder: Path, zone: str, begin: datetime, time: str, steps: list[tuple[int, str]]) -> None:
    async with Stage(folder) as stage:
        stage.clock.wall = begin
        await stage.logins.begin(WHO, Device())
        start = await schedule(stage, time=time, days=EVERY_DAY, time_zone=zone)
        hour, minute = map(int, time.split(":"))
        for minutes, what in steps:
            stage.clock.forward(minutes=minutes)
            replica = stage.replica()
            await _run(stage, replica, what)
            if what == "end" and start.session in stage.cluster.objects:
                stage.cluster.drop(start.session)
        # All replicas are well again: what is due now is done, however many claims the dead have left.
        stage.clock.forward(seconds=CLAIM.total_seconds())
        await stage.replica().start_due()
        known = await stage.only()
        assert known.next_time > stage.clock.now() + LEAD, "nothing is left behind"
        days = [started.astimezone(ZoneInfo(zone)) for started in stage.started]
        times = {_time_of(started, hour, minute) for started in days}
        assert len(times) == len(days), f"two starts for one time: {days}"
        for started in days:
            meant = _time_of(started, hour, minute)
            # A time that the clock change leaves out is the moment of the change, less than an hour off.
            instant = meant.astimezone(UTC)
            is_left_out = instant.astimezone(meant.tzinfo).replace(tzinfo=None) != meant.replace(tzinfo=None)
            slack = timedelta(hours=1) if is_left_out else timedelta(0)
            moment = started.astimezone(UTC)
            comes_twice = timedelta(hours=1) if meant.replace(fold=1).astimezone(UTC) != instant else timedelta(0)
            assert instant - LEAD - slack <= moment <= instant + LATE + slack + comes_twice, (started, meant)


def _time_of(started: datetime, hour: int, minute: int) -> datetime:
    """The time of the wall clock that a start was for: the last one that is not more than the lead after it."""
    latest = (started.astimezone(UTC) + LEAD).astimezone(started.tzinfo)
    meant = latest.replace(hour=hour, minute=minute, second=0, microsecond=0, fold=0)
    # Where the clock goes back it shows an earlier time again, and where it goes forward it leaves some out.
    is_reached = meant <= latest or meant.astimezone(UTC) <= latest.astimezone(UTC)
    return meant if is_reached else meant - timedelta(days=1)


async def _run(stage: Stage, replica: ScheduledStarts, what: str) -> None:
    """One look at what is due, by a replica that is killed where `what` says."""

    async def killed(*_: Any, **__: Any) -> Any:
        raise asyncio.CancelledError

    with pytest.MonkeyPatch.context() as patch:
        if what == "claimed":
            patch.setattr(replica, "_start", killed)
        if what == "started":
            patch.setattr(replica._store, "finish", killed)
        try:
            await replica.start_due()
        except asyncio.CancelledError:
            assert what in ("claimed", "started")
