"""Grants that end: at once, everywhere, for good, and on the screen."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from support.desktop_key import MASTER
from support.waiting import eventually
from unit.gateway.edge_selkies import FakeSelkies
from unit.gateway.edge_stage import (
    GUEST,
    HOST,
    OWNER,
    SETTINGS,
    EdgeStage,
    a_session,
    address,
    changed,
    shared_with,
)
from unit.gateway.gateway_stage import Browser, a_past
from vdi.api.meta import Condition
from vdi.api.session import VDISession
from vdi.cluster.units import format_time
from vdi.gateway.edge.headers import GRANT_COOKIE, STATE_COOKIE
from vdi.gateway.edge.ticket_handoff import issue_ticket
from vdi.gateway.login.logins import SignOut
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.gateway.store.logins import GrantStore
from vdi.kinds import SESSIONS
from vdi.kube.errors import ConnectionFailed, KubeError
from vdi.session.credentials import grant_token


@asynccontextmanager
async def replica(desktop: FakeSelkies, other: EdgeStage | None = None) -> AsyncIterator[EdgeStage]:
    """A gateway whose background work runs; with `other` the second one of two."""
    shares: dict[str, Any] = other.shares if other else {}
    async with EdgeStage(selkies=lambda _: desktop.url, **shares) as stage:
        for session in other.world.sessions.values() if other else ():
            stage.add(session)
        stage.edge.revoker.primed = False
        work = asyncio.create_task(stage.edge.run())
        await eventually(lambda: stage.edge.revoker.primed)
        try:
            yield stage
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


@pytest.fixture
async def stage(desktop: FakeSelkies, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EdgeStage]:
    monkeypatch.setattr("vdi.gateway.edge.component.SWEEP_SECONDS", 0.05)
    async with replica(desktop) as stage:
        yield stage


async def a_guest(stage: EdgeStage, desktop: FakeSelkies, until: str | None = None) -> Browser:
    """The session is shared, and the guest is in; the desktop knows."""
    stage.change(spec=shared_with(GUEST, "viewer", until))
    guest = await stage.logged_in(GUEST)
    before = len(desktop.tables)
    assert (await guest.open(address())).status_code == 200
    await desktop.posted(before + 1)
    return guest


async def status(stage: EdgeStage, browser: Browser) -> int:
    return (await stage.verify(HOST, Cookie=browser.stolen(HOST))).status_code


async def no_one(stage: EdgeStage) -> bool:
    return await GrantStore(stage.database).open() == []


def record(stage: EdgeStage, session: VDISession) -> None:
    """What the history of either replica writes when it sees the session."""
    stage.remember(
        msgspec.structs.replace(a_past(session.metadata.uid), name=session.metadata.name)
    )


async def reasons(stage: EdgeStage) -> list[str]:
    """Why grants were ended, in the last day."""
    return [
        one.reason
        for one in await GrantStore(stage.database).ended_since(
            stage.clock.now() - timedelta(days=1)
        )
    ]


async def enter_by_token(stage: EdgeStage, user: str, lifetime: timedelta) -> Browser:
    """As `vdi session probe` does: an API token's ticket, and no login at the portal."""
    owner = await stage.logged_in(user)
    person = await stage.logins.person_by_id(owner.login_id)
    assert person is not None
    secret, _ = await stage.logins.new_token(person, "probe", lifetime)
    by_token = await stage.logins.person_by_token(secret)
    assert by_token is not None
    browser, state = stage.browser(), "s" * 43
    browser.cookies.set(STATE_COOKIE, state, domain=HOST, path="/")
    ticket = await issue_ticket(
        stage.context.shared, by_token, stage.session, hashlib.sha256(state.encode()).hexdigest()
    )
    answer = await browser.get(address(path=f"/.vdi/enter?ticket={ticket}"))
    assert (answer.status_code, GRANT_COOKIE in browser.stolen(HOST)) == (302, True)
    return browser


async def until_cut(desktop: FakeSelkies) -> None:
    """Return when the desktop has a table without anybody."""
    await eventually(lambda: desktop.table == {})


async def test_the_desktop_learns_who_may_connect_and_as_what(
    stage: EdgeStage, desktop: FakeSelkies
) -> None:
    await a_guest(stage, desktop)
    alice = await stage.logged_in(OWNER)
    await alice.open(address())
    grants = {one.user: one for one in await GrantStore(stage.database).open()}
    expected = {
        grant_token(MASTER, grants[OWNER].id): {"role": "controller", "slot": 1},
        grant_token(MASTER, grants[GUEST].id): {"role": "viewer", "slot": None},
    }
    # The guest's table may still be under way, so it may be the next one.
    await eventually(lambda: desktop.table == expected, "both are in the table")


async def test_logout_ends_it(stage: EdgeStage, desktop: FakeSelkies) -> None:
    guest = await a_guest(stage, desktop)
    assert await stage.edge.revoker.end(login_id=guest.login_id) == 1
    assert await status(stage, guest) == 401
    await until_cut(desktop)
    assert await stage.edge.revoker.end(login_id=guest.login_id) == 0
    registry = stage.context.metrics.registry
    counts = [
        registry.get_sample_value("vdi_gateway_grants_total", {"role": "viewer", "what": what})
        for what in ("made", "ended")
    ]
    assert counts == [1, 1]


async def test_logout_everywhere_ends_all_of_a_user(stage: EdgeStage, desktop: FakeSelkies) -> None:
    first, second = await a_guest(stage, desktop), await stage.entered(GUEST)
    alice = await stage.entered()
    assert await stage.edge.revoker.end(user=GUEST) == 2
    assert [await status(stage, one) for one in (first, second, alice)] == [401, 401, 200]


async def test_ending_needs_a_name(stage: EdgeStage) -> None:
    with pytest.raises(ValueError, match="allowed: user, session_uid and login_id"):
        await stage.edge.revoker.end()


@pytest.mark.parametrize(
    ("spec", "seconds"),
    [({"access": ()}, 0), ({}, 61), (shared_with(GUEST, "collaborator"), 0)],
    ids=["taken back", "runs out", "another role"],
)
async def test_a_share_that_ends_cuts_the_picture(
    stage: EdgeStage, desktop: FakeSelkies, spec: dict[str, Any], seconds: int
) -> None:
    guest = await a_guest(stage, desktop, format_time(stage.clock.now() + timedelta(minutes=1)))
    stage.change(spec=spec)
    stage.clock.forward(seconds=seconds)
    await until_cut(desktop)
    assert await status(stage, guest) == 401
    await eventually(lambda: no_one(stage))  # written after it is in force
    (ended,) = await GrantStore(stage.database).ended_since(stage.clock.now() - timedelta(days=1))
    assert (ended.user, ended.reason) == (GUEST, "access-ended")


async def test_suspending_ends_only_the_grants_from_before(
    stage: EdgeStage, desktop: FakeSelkies
) -> None:
    alice = await stage.entered()
    await desktop.posted(1)
    before = alice.stolen(HOST)
    stage.change(spec={"suspended": True})
    stage.clock.forward(seconds=1)
    await until_cut(desktop)
    await eventually(lambda: no_one(stage))
    stage.change(status={"phase": "Suspended"})
    assert "This desktop is suspended" in (await alice.open(address())).text
    stage.change(spec={"suspended": False}, status={"phase": "Running"})
    assert (await stage.verify(HOST, Cookie=before)).status_code == 401
    assert await status(stage, alice) == 200


async def test_what_a_token_has_opened_ends_with_the_token(
    stage: EdgeStage, desktop: FakeSelkies
) -> None:
    """Also where nothing is requested any more: a WebSocket that is open asks no one."""
    browser = await enter_by_token(stage, OWNER, timedelta(minutes=10))
    await desktop.posted(1)
    await stage.edge.revoker.poll()
    assert await status(stage, browser) == 200
    stage.clock.forward(minutes=10)
    await stage.edge.revoker.poll()
    assert (await status(stage, browser), await no_one(stage), await reasons(stage)) == (
        401,
        True,
        ["login-over"],
    )
    await until_cut(desktop)


async def test_what_a_removed_user_has_opened_ends(stage: EdgeStage, desktop: FakeSelkies) -> None:
    """With a password and with an API token, though no one asks for the end of the grants."""
    browsers = [await enter_by_token(stage, OWNER, timedelta(days=1)), await stage.entered()]
    await stage.edge.revoker.poll()
    assert [await status(stage, browser) for browser in browsers] == [200, 200]
    await stage.logins.follow_users({})
    await stage.edge.revoker.poll()
    assert [await status(stage, browser) for browser in browsers] == [401, 401]
    assert (await no_one(stage), await reasons(stage)) == (True, ["login-over", "login-over"])


async def test_a_login_that_expires_ends_its_grants(here: EdgeStage) -> None:
    """Its time is over, its user was removed: what it has open must not wait until the browser asks
    again.
    """
    here.enter_grant("that-login")
    await here.login.services.sign_out.end_grants_of(["that-login"])
    assert here.ended_grants == ["that-login"]


async def test_a_failed_end_of_grants_is_made_up_for(
    stage: EdgeStage, desktop: FakeSelkies
) -> None:
    """The logins have ended by then, so who looks for logins that are over does not find them
    again.
    """
    browsers = [await a_guest(stage, desktop), await stage.entered()]

    async def fail(**_: object) -> None:
        raise DatabaseUnavailableError("it is down")

    stage.clock.forward(hours=13)
    with pytest.raises(DatabaseUnavailableError):
        await SignOut(stage.logins, stage.audit, fail).end_grants_of(await stage.logins.end_over())
    assert await stage.logins.end_over() == []
    await stage.edge.revoker.poll()
    assert [await status(stage, browser) for browser in browsers] == [401, 401]
    assert await no_one(stage)


async def test_grants_made_with_ended_logins_are_revoked(stage: EdgeStage) -> None:
    await stage.entered()
    (grant,) = await GrantStore(stage.database).open()
    await SignOut(stage.logins, stage.audit, stage.edge.revoker.end).end_everything(
        OWNER, tokens=True
    )
    later = msgspec.structs.replace(grant, id="later")
    assert stage.edge.revoker.revocations.covers(later.id, later.login_id)


# --- a replica whose watch is behind ---


@pytest.fixture
async def here() -> AsyncIterator[EdgeStage]:
    """The replica that sees everything at once. Nothing runs by itself."""
    async with EdgeStage() as here:
        yield here


@pytest.fixture
async def behind(here: EdgeStage) -> AsyncIterator[EdgeStage]:
    """The other one: it sees what a test publishes in its world."""
    async with EdgeStage(**here.shares) as behind:
        yield behind


async def sweep(stage: EdgeStage) -> None:
    await stage.edge.revoker.poll()
    await stage.edge.revoker.sweep()


async def test_a_late_replica_ends_no_grants_of_a_new_session(
    here: EdgeStage, behind: EdgeStage
) -> None:
    session = here.add(a_session("alice-second"))
    record(here, session)
    alice, there = await here.logged_in(OWNER), SETTINGS.host("alice-second")
    assert (await alice.open(address("alice-second"))).status_code == 200
    await sweep(behind)
    assert (await here.verify(there, Cookie=alice.stolen(there))).status_code == 200
    assert not await no_one(here)
    here.drop(session)
    assert (await here.verify(there, Cookie=alice.stolen(there))).status_code == 401, (
        "even before that"
    )
    await sweep(behind)
    assert (await no_one(here), await reasons(here)) == (True, ["session-ended"])


async def test_a_late_replica_ends_no_grants_of_a_new_role(
    here: EdgeStage, behind: EdgeStage
) -> None:
    here.change(spec=shared_with(GUEST, "viewer"))
    guest = await here.logged_in(GUEST)
    assert (await guest.open(address())).status_code == 200
    await sweep(behind)
    assert not await no_one(here)
    assert (await behind.verify(HOST, Cookie=guest.stolen(HOST))).status_code == 401, (
        "it lets in whom it knows of"
    )
    here.change(spec={"access": ()})
    await sweep(behind)
    assert (await no_one(here), await reasons(here)) == (True, ["access-ended"])


async def test_another_session_of_the_same_name_ends_the_grants(
    here: EdgeStage, behind: EdgeStage
) -> None:
    session = here.add(a_session("alice-second"))
    record(here, session)
    await (await here.logged_in(OWNER)).open(address("alice-second"))
    here.add(changed(session, metadata={"uid": "uid-of-another"}))
    await sweep(behind)
    assert (await no_one(here), await reasons(here)) == (True, ["session-ended"])


@pytest.mark.parametrize("hangs", [False, True])
async def test_nothing_is_ended_that_the_api_server_cannot_confirm(
    here: EdgeStage, behind: EdgeStage, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    """But a share that runs out has run out, by the clock."""
    monkeypatch.setattr("vdi.gateway.edge.revocation.API_SECONDS", 0.05)
    end = format_time(here.clock.now() + timedelta(minutes=1))
    shared = changed(a_session(), spec=shared_with(GUEST, "viewer", end))
    for stage in (here, behind):
        stage.add(shared)
    for session in (here.add(a_session("alice-second")), here.add(a_session("alice-third"))):
        record(here, session)
        await (await here.logged_in(OWNER)).open(address(session.metadata.name))
    await here.entered(GUEST)
    behind.clock.forward(seconds=61)
    asked: list[str] = []

    async def fail(resource: object, name: str, **_: object) -> None:
        if resource is SESSIONS:
            asked.append(name)
        if hangs:
            await asyncio.Event().wait()
        raise ConnectionFailed("https://api", "GET", "refused")

    with monkeypatch.context() as patch:
        patch.setattr(here.cluster, "get", fail)
        with pytest.raises((KubeError, TimeoutError)):
            await sweep(behind)
    assert len(asked) == 1, "who does not respond is asked again at the next sweep"
    assert {grant.user for grant in await GrantStore(here.database).open()} == {OWNER}
    assert await reasons(here) == ["access-ended"]
    for name in ("alice-second", "alice-third"):
        here.drop(a_session(name))
    await sweep(behind)
    assert await no_one(here)


async def test_a_late_suspension_ends_only_earlier_grants(
    here: EdgeStage, behind: EdgeStage
) -> None:
    await here.entered()
    here.clock.forward(seconds=60)
    admitted = Condition(
        "Admitted", "False", "Suspended", last_transition_time=format_time(here.clock.now())
    )
    here.change(
        spec={"suspended": True},
        status={"conditions": (admitted,)},
        metadata={"resource_version": "3"},
    )
    here.clock.forward(seconds=60)
    late = await here.entered()
    behind.clock.forward(seconds=180)
    behind.change(spec={"suspended": True})
    await behind.edge._follow()
    (kept,) = await GrantStore(here.database).open()
    assert (kept.login_id, await reasons(here)) == (late.login_id, ["suspended"])


async def test_a_suspension_seen_after_the_resume_ends_nothing(
    here: EdgeStage, behind: EdgeStage
) -> None:
    await here.entered()
    behind.change(spec={"suspended": True})
    here.change(spec={"suspended": False}, metadata={"resource_version": "3"})
    await behind.edge._follow()
    assert not await no_one(here)


async def test_the_other_replica_refuses_at_once(stage: EdgeStage, desktop: FakeSelkies) -> None:
    guest = await a_guest(stage, desktop)
    async with replica(desktop, stage) as other:
        assert await status(other, guest) == 200
        await stage.edge.revoker.end(login_id=guest.login_id)

        async def refused() -> bool:
            return await status(other, guest) == 401

        await eventually(refused, seconds=1)  # less than a poll


async def test_a_replica_that_missed_the_news_sees_it_when_it_polls(
    stage: EdgeStage, desktop: FakeSelkies
) -> None:
    guest = await a_guest(stage, desktop)
    async with EdgeStage(
        cluster=stage.cluster, memory=stage.memory, selkies=lambda _: desktop.url
    ) as other:
        other.add(stage.session)
        await stage.edge.revoker.end(login_id=guest.login_id)
        await other.edge.revoker.poll()
        assert await status(other, guest) == 401


async def test_what_was_revoked_is_revoked_after_a_restart(desktop: FakeSelkies) -> None:
    async with replica(desktop) as before:
        guest = await a_guest(before, desktop)
        stolen, shares = guest.stolen(HOST), before.shares
        await before.edge.revoker.end(user=GUEST)
    async with EdgeStage(**shares) as after:
        after.change(spec=shared_with(GUEST, "viewer"))
        assert (await after.verify(HOST, Cookie=stolen)).status_code == 401


async def test_a_restart_posts_the_tables_again(desktop: FakeSelkies) -> None:
    """The gateway may have died between the database and the desktop."""
    async with replica(desktop) as before:
        guest = await a_guest(before, desktop)
        store = GrantStore(before.database)
        await store.end([one.id for one in await store.open()], before.clock.now(), "x")
        shares, count = before.shares, len(desktop.tables)
        assert desktop.table != {}
        assert guest.login_id
    async with EdgeStage(**shares, selkies=lambda _: desktop.url):
        await desktop.posted(count + 1)
        assert desktop.table == {}


async def test_without_a_database_it_is_over_all_the_same_and_said(
    stage: EdgeStage, desktop: FakeSelkies, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = await a_guest(stage, desktop)

    def fail(*_: Any) -> None:
        raise DatabaseUnavailableError("it is down")

    with monkeypatch.context() as patch:
        patch.setattr(stage.database, "connect", fail)
        patch.setattr(stage.database, "begin", fail)
        with pytest.raises(DatabaseUnavailableError):
            await stage.edge.revoker.end(login_id=guest.login_id)
        await until_cut(desktop)
        assert await status(stage, guest) in (401, 503)


async def test_without_redis_it_is_over_here_and_written_down(
    stage: EdgeStage, desktop: FakeSelkies, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = await a_guest(stage, desktop)

    async def fail(channel: str, text: str) -> None:
        raise ConnectionError("Redis is away")

    monkeypatch.setattr(stage.shared, "publish", fail)
    assert await stage.edge.revoker.end(login_id=guest.login_id) == 1
    assert await status(stage, guest) == 401


async def test_rubbish_on_the_channel_is_said_and_changes_nothing(
    stage: EdgeStage, desktop: FakeSelkies, caplog: pytest.LogCaptureFixture
) -> None:
    guest = await a_guest(stage, desktop)
    await stage.shared.publish("edge/ended", "[]")
    await eventually(lambda: "cannot be read" in caplog.text)
    assert await status(stage, guest) == 200
    await stage.edge.revoker.end(user=GUEST)
    assert await status(stage, guest) == 401


async def test_revocations_are_forgotten_when_no_token_can_need_them(
    stage: EdgeStage, desktop: FakeSelkies
) -> None:
    guest = await a_guest(stage, desktop)
    (grant,) = await GrantStore(stage.database).open()
    await stage.edge.revoker.end(user=GUEST)
    revocations = stage.edge.revoker.revocations
    assert grant.id in revocations
    stage.clock.forward(seconds=300)
    await stage.edge.revoker.poll()
    assert grant.id in revocations
    stage.clock.forward(seconds=300)
    await stage.edge.revoker.poll()
    assert grant.id not in revocations
    assert await status(stage, guest) == 401


async def test_old_rows_are_removed(stage: EdgeStage, desktop: FakeSelkies) -> None:
    await a_guest(stage, desktop)
    await stage.edge.revoker.end(user=GUEST)
    store = GrantStore(stage.database)
    stage.clock.forward(days=6)
    await stage.edge.revoker.forget_old()
    assert len(await store.ended_since(stage.clock.now() - timedelta(days=30))) == 1
    stage.clock.forward(days=2)
    await stage.edge.revoker.forget_old()
    assert await store.ended_since(stage.clock.now() - timedelta(days=30)) == []
