"""Grants that end: at once, everywhere, for good, and on the screen."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from unit.gateway.component_stage import Browser
from unit.gateway.edge_selkies import FakeSelkies, run_selkies
from unit.gateway.edge_stage import (
    GUEST,
    OWNER,
    SETTINGS,
    EdgeStage,
    a_session,
    address,
    changed,
    gone,
    publish,
    shared_with,
    until,
)
from vdi.gateway.store.base import DatabaseUnavailableError
from vdi.gateway.store.grants import GrantStore
from vdi.session.selkies_tokens import grant_token
from vdi.session.times import format_time

HOST = SETTINGS.host("alice-desktop")
MASTER = "master-alice-desktop"


@pytest.fixture
async def desktop() -> AsyncIterator[FakeSelkies]:
    async with run_selkies(MASTER) as desktop:
        yield desktop


@asynccontextmanager
async def replica(folder: Path, desktop: FakeSelkies, other: EdgeStage | None = None) -> AsyncIterator[EdgeStage]:
    """A gateway whose background work runs; with `other` the second one of two."""
    shares: dict[str, Any] = {"secrets": other.secrets, "shared": other.shared} if other else {}
    async with EdgeStage(folder, selkies=lambda _: desktop.url, **shares) as stage:
        for session in other.world.sessions.values() if other else ():
            publish(stage.world, session)
        stage.edge.revoker.primed = False
        work = asyncio.create_task(stage.edge.run())

        async def primed() -> bool:
            return stage.edge.revoker.primed

        await until(primed)
        try:
            yield stage
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


@pytest.fixture
async def stage(tmp_path: Path, desktop: FakeSelkies, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EdgeStage]:
    monkeypatch.setattr("vdi.gateway.edge.component.SWEEP_SECONDS", 0.05)
    async with replica(tmp_path, desktop) as stage:
        yield stage


async def a_guest(stage: EdgeStage, desktop: FakeSelkies, until: str | None = None) -> Browser:
    """The session is shared, and the guest is in; the desktop knows."""
    stage.add(changed(a_session(), spec=shared_with(GUEST, "viewer", until)))
    guest = await stage.logged_in(GUEST)
    before = len(desktop.tables)
    assert (await guest.open(address())).status_code == 200
    await desktop.posted(before + 1)
    return guest


async def status(stage: EdgeStage, browser: Browser) -> int:
    return (await stage.verify(HOST, Cookie=browser.stolen(HOST))).status_code


async def no_one(stage: EdgeStage) -> bool:
    return await GrantStore(stage.database).open() == []


async def until_cut(desktop: FakeSelkies) -> None:
    """Return when the desktop has a table without anybody."""
    async with asyncio.timeout(5):
        while desktop.table != {}:
            await desktop.posted(len(desktop.tables) + 1)


async def test_the_desktop_learns_who_may_connect_and_as_what(stage: EdgeStage, desktop: FakeSelkies) -> None:
    await a_guest(stage, desktop)
    alice = await stage.logged_in(OWNER)
    count = len(desktop.tables)
    await alice.open(address())
    await desktop.posted(count + 1)
    grants = {one.user: one for one in await GrantStore(stage.database).open()}
    assert desktop.table == {
        grant_token(MASTER, grants[OWNER].id): {"role": "controller", "slot": 1},
        grant_token(MASTER, grants[GUEST].id): {"role": "viewer", "slot": None},
    }


async def test_logout_ends_it(stage: EdgeStage, desktop: FakeSelkies) -> None:
    guest = await a_guest(stage, desktop)
    assert await stage.edge.end_grants(login_id=guest.login_id) == 1
    assert await status(stage, guest) == 401
    await until_cut(desktop)
    assert await stage.edge.end_grants(login_id=guest.login_id) == 0
    registry = stage.context.metrics.registry
    counts = [
        registry.get_sample_value("vdi_gateway_grants_total", {"role": "viewer", "what": what})
        for what in ("made", "ended")
    ]
    assert counts == [1, 1]


async def test_logout_everywhere_ends_all_of_a_user(stage: EdgeStage, desktop: FakeSelkies) -> None:
    first, second = await a_guest(stage, desktop), await stage.logged_in(GUEST)
    await second.open(address())
    alice = await stage.logged_in(OWNER)
    await alice.open(address())
    assert await stage.edge.end_grants(user=GUEST) == 2
    assert [await status(stage, one) for one in (first, second, alice)] == [401, 401, 200]


async def test_ending_needs_a_name(stage: EdgeStage) -> None:
    with pytest.raises(ValueError, match="allowed: user, session_uid and login_id"):
        await stage.edge.end_grants()


async def test_a_share_taken_back_cuts_the_picture(stage: EdgeStage, desktop: FakeSelkies) -> None:
    guest = await a_guest(stage, desktop)
    session = stage.world.session("alice-desktop")
    assert session is not None
    publish(stage.world, changed(session, spec={"access": ()}))
    await until_cut(desktop)
    assert await status(stage, guest) == 401
    await until(lambda: no_one(stage))  # written after it is in force
    (ended,) = await GrantStore(stage.database).ended_since(stage.clock.now())
    assert (ended.user, ended.reason) == (GUEST, "access-ended")


async def test_a_share_that_runs_out_cuts_the_picture(stage: EdgeStage, desktop: FakeSelkies) -> None:
    await a_guest(stage, desktop, format_time(stage.clock.now() + timedelta(minutes=1)))
    stage.clock.forward(seconds=61)
    await until_cut(desktop)
    await until(lambda: no_one(stage))
    (ended,) = await GrantStore(stage.database).ended_since(stage.clock.now())
    assert ended.reason == "access-ended"


async def test_a_new_role_is_a_new_grant(stage: EdgeStage, desktop: FakeSelkies) -> None:
    await a_guest(stage, desktop)
    session = stage.world.session("alice-desktop")
    assert session is not None
    publish(stage.world, changed(session, spec=shared_with(GUEST, "collaborator")))
    await until_cut(desktop)


async def test_suspending_cuts_the_picture_and_a_way_made_after_that_stays(
    stage: EdgeStage, desktop: FakeSelkies
) -> None:
    alice = await stage.logged_in(OWNER)
    await alice.open(address())
    await desktop.posted(1)
    before = alice.stolen(HOST)
    session = publish(stage.world, changed(a_session(), spec={"suspended": True}))
    stage.clock.forward(seconds=1)
    await until_cut(desktop)
    await until(lambda: no_one(stage))
    publish(stage.world, changed(session, status={"phase": "Suspended"}))
    assert "This desktop is suspended" in (await alice.open(address())).text
    publish(stage.world, changed(session, spec={"suspended": False}, metadata={"resource_version": "9"}))
    assert (await stage.verify(HOST, Cookie=before)).status_code == 401
    assert await status(stage, alice) == 200


async def test_the_end_of_the_session_ends_its_grants(stage: EdgeStage, desktop: FakeSelkies) -> None:
    alice = await stage.logged_in(OWNER)
    await alice.open(address())
    gone(stage.world, a_session())
    assert await status(stage, alice) == 401
    await until(lambda: no_one(stage))
    ended = await GrantStore(stage.database).ended_since(stage.clock.now())
    assert [one.reason for one in ended] == ["session-ended"]


async def test_the_other_replica_refuses_at_once(tmp_path: Path, stage: EdgeStage, desktop: FakeSelkies) -> None:
    guest = await a_guest(stage, desktop)
    async with replica(tmp_path, desktop, stage) as other:
        assert await status(other, guest) == 200
        await stage.edge.end_grants(login_id=guest.login_id)

        async def refused() -> bool:
            return await status(other, guest) == 401

        await until(refused, 1)  # less than a poll


async def test_a_replica_that_missed_the_news_sees_it_when_it_polls(
    tmp_path: Path, stage: EdgeStage, desktop: FakeSelkies
) -> None:
    guest = await a_guest(stage, desktop)
    session = stage.world.session("alice-desktop")
    assert session is not None
    async with AsyncExitStack() as stack:
        other = await stack.enter_async_context(
            EdgeStage(tmp_path, secrets=stage.secrets, selkies=lambda _: desktop.url)
        )
        publish(other.world, changed(session))
        await stage.edge.end_grants(login_id=guest.login_id)
        await other.edge.revoker.poll()
        assert await status(other, guest) == 401


async def test_what_was_revoked_is_revoked_after_a_restart(tmp_path: Path, desktop: FakeSelkies) -> None:
    async with replica(tmp_path, desktop) as before:
        guest = await a_guest(before, desktop)
        stolen, secrets = guest.stolen(HOST), before.secrets
        await before.edge.end_grants(user=GUEST)
    async with EdgeStage(tmp_path, secrets=secrets) as after:
        publish(
            after.world, changed(a_session(), spec=shared_with(GUEST, "viewer"), metadata={"resource_version": "5"})
        )
        assert (await after.verify(HOST, Cookie=stolen)).status_code == 401


async def test_a_restart_posts_the_tables_again(tmp_path: Path, desktop: FakeSelkies) -> None:
    """The gateway may have died between the database and the desktop."""
    async with replica(tmp_path, desktop) as before:
        guest = await a_guest(before, desktop)
        await GrantStore(before.database).end(
            [one.id for one in await GrantStore(before.database).open()], before.clock.now(), "x"
        )
        secrets, count = before.secrets, len(desktop.tables)
        assert desktop.table != {}
        assert guest.login_id
    async with EdgeStage(tmp_path, secrets=secrets, selkies=lambda _: desktop.url):
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
            await stage.edge.end_grants(login_id=guest.login_id)
        await until_cut(desktop)
        assert await status(stage, guest) in (401, 503)


async def test_without_redis_it_is_over_here_and_written_down(
    stage: EdgeStage, desktop: FakeSelkies, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = await a_guest(stage, desktop)

    async def fail(channel: str, text: str) -> None:
        raise ConnectionError("Redis is away")

    monkeypatch.setattr(stage.shared, "publish", fail)
    assert await stage.edge.end_grants(login_id=guest.login_id) == 1
    assert await status(stage, guest) == 401


async def test_rubbish_on_the_channel_is_said_and_changes_nothing(
    stage: EdgeStage, desktop: FakeSelkies, caplog: pytest.LogCaptureFixture
) -> None:
    guest = await a_guest(stage, desktop)
    await stage.shared.publish("edge/ended", "[]")

    async def said() -> bool:
        return "cannot be read" in caplog.text

    await until(said)
    assert await status(stage, guest) == 200
    await stage.edge.end_grants(user=GUEST)
    assert await status(stage, guest) == 401


async def test_revocations_are_forgotten_when_no_token_can_need_them(stage: EdgeStage, desktop: FakeSelkies) -> None:
    guest = await a_guest(stage, desktop)
    (grant,) = await GrantStore(stage.database).open()
    await stage.edge.end_grants(user=GUEST)
    revocations = stage.edge.revoker._revocations
    assert revocations.knows(grant.id)
    stage.clock.forward(seconds=300)
    await stage.edge.revoker.poll()
    assert revocations.knows(grant.id)
    stage.clock.forward(seconds=300)
    await stage.edge.revoker.poll()
    assert not revocations.knows(grant.id)
    assert await status(stage, guest) == 401


async def test_old_rows_are_removed(stage: EdgeStage, desktop: FakeSelkies) -> None:
    await a_guest(stage, desktop)
    await stage.edge.end_grants(user=GUEST)
    store = GrantStore(stage.database)
    stage.clock.forward(days=6)
    await stage.edge.revoker.forget_old()
    assert len(await store.ended_since(stage.clock.now() - timedelta(days=30))) == 1
    stage.clock.forward(days=2)
    await stage.edge.revoker.forget_old()
    assert await store.ended_since(stage.clock.now() - timedelta(days=30)) == []
