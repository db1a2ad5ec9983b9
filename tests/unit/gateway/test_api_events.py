"""`/events`: sessions as they change, for one person."""

import asyncio
import itertools
from dataclasses import replace
from typing import Any

import pytest

from support.waiting import PATIENCE
from unit.gateway.api_stage import BOB, ROOT, RUNNING, ApiStage
from unit.gateway.api_stream import Events, events_of
from unit.gateway.test_api_sessions import problem

SHARED = [{"user": "bob@example.com", "role": "viewer"}]


@pytest.fixture
def stage() -> ApiStage:
    return ApiStage()


async def reported(events: Events) -> tuple[str, str]:
    """Kind and session of the next event."""
    kind, data = await events.next()
    return kind, data["metadata"]["name"] if kind == "session" else (data or {}).get("name", "")


async def test_first_all_then_each_change(stage: ApiStage) -> None:
    stage.session("first")
    stage.session("second")
    stage.session("bobs", user="bob@example.com")
    alice = await stage.program()
    async with events_of(stage.public, "/api/v1/events", alice.headers) as events:
        assert [await reported(events) for _ in range(3)] == [
            ("session", "first"),
            ("session", "second"),
            ("ready", ""),
        ]
        stage.session("bobs", user="bob@example.com", timeout="1h")
        stage.session("third", status=RUNNING)
        kind, data = await events.next()
        assert (kind, data["metadata"]["name"], data["status"]["phase"]) == (
            "session",
            "third",
            "Running",
        )
        uid = stage.cluster.objects["first"]["metadata"]["uid"]
        stage.cluster.drop("first")
        assert await events.next() == ("gone", {"name": "first", "uid": uid})


async def test_what_is_shared_comes_and_what_is_taken_back_goes(stage: ApiStage) -> None:
    stage.session()
    bob = await stage.program(BOB)
    async with events_of(stage.public, "/api/v1/events", bob.headers) as events:
        assert await reported(events) == ("ready", "")
        stage.session(access=SHARED)
        assert await reported(events) == ("session", "alice-desktop")
        stage.session(access=[])
        assert await reported(events) == ("gone", "alice-desktop")


async def test_a_share_that_expires_goes_by_itself(
    stage: ApiStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdi.gateway.api.sessions.CHECK_SECONDS", 0.02)
    stage.session(access=[{**SHARED[0], "expires": "2026-11-20T12:00:30Z"}])
    bob = await stage.program(BOB)
    async with events_of(stage.public, "/api/v1/events", bob.headers) as events:
        assert [await reported(events) for _ in range(2)] == [
            ("session", "alice-desktop"),
            ("ready", ""),
        ]
        stage.clock.wall = stage.clock.wall.replace(minute=1)
        assert await reported(events) == ("gone", "alice-desktop")


async def test_the_stream_ends_with_the_login(
    stage: ApiStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdi.gateway.api.sessions.CHECK_SECONDS", 0.02)
    alice = await stage.program()
    async with events_of(stage.public, "/api/v1/events", alice.headers) as events:
        assert await reported(events) == ("ready", "")
        await alice.delete("/api/v1/tokens/current")
        assert await reported(events) == ("end", "")


@pytest.mark.parametrize("change", [{"admin": False}, {"groups": frozenset({"staff"})}], ids=str)
async def test_the_stream_ends_when_what_its_user_may_see_changes(
    stage: ApiStage, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    monkeypatch.setattr("vdi.gateway.api.sessions.CHECK_SECONDS", 0.02)
    stage.session()
    root = await stage.program(ROOT)
    async with events_of(
        stage.public, "/api/v1/events?session=alice-desktop", root.headers
    ) as events:
        assert [await reported(events) for _ in range(2)] == [
            ("session", "alice-desktop"),
            ("ready", ""),
        ]
        await stage.logins.follow_users({ROOT.user: replace(ROOT, **change)})
        assert await reported(events) == ("end", "")


async def test_a_stream_with_much_to_report_ends_too(
    stage: ApiStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdi.gateway.api.sessions.CHECK_SECONDS", 0.2)
    stage.session()
    root = await stage.program(ROOT)
    async with (
        events_of(stage.public, "/api/v1/events?session=alice-desktop", root.headers) as events,
        asyncio.timeout(PATIENCE),
    ):
        await stage.logins.follow_users({ROOT.user: replace(ROOT, admin=False)})
        for hours in itertools.count(1):
            if (await events.next())[0] == "end":
                break
            stage.session(timeout=f"{hours}h")


async def test_the_stream_ends_with_the_gateway(stage: ApiStage) -> None:
    alice = await stage.program()
    async with events_of(stage.public, "/api/v1/events", alice.headers) as events:
        assert await reported(events) == ("ready", "")
        stage.services.context.stopping.set()
        assert await reported(events) == ("end", "")


async def test_one_session_alone(stage: ApiStage) -> None:
    stage.session("one")
    stage.session("other")
    alice = await stage.program()
    async with events_of(stage.public, "/api/v1/events?session=one", alice.headers) as events:
        assert [await reported(events) for _ in range(2)] == [("session", "one"), ("ready", "")]
        stage.session("other", timeout="1h")
        stage.session("one", timeout="1h")
        assert await reported(events) == ("session", "one")
    problem(await alice.get("/api/v1/events", params={"session": "none"}), 404, "not-found")
    problem(
        await (await stage.program(BOB)).get("/api/v1/events", params={"session": "one"}),
        404,
        "not-found",
    )


async def test_one_person_holds_not_all_connections(
    stage: ApiStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdi.gateway.web.streams.MOST_PER_USER", 1)
    alice, bob = await stage.program(), await stage.program(BOB)
    for _ in range(2):
        async with events_of(stage.public, "/api/v1/events", alice.headers) as events:
            assert await reported(events) == ("ready", "")
            problem(await alice.get("/api/v1/events"), 429, "too-many-requests")
            async with events_of(stage.public, "/api/v1/events", bob.headers) as others:
                assert await reported(others) == ("ready", "")
    assert not stage.services.streams


async def test_another_desktop_of_the_same_name_is_another_one(stage: ApiStage) -> None:
    """Deleted and made again before the reader has looked: the old one is gone, the new one is
    there.
    """
    stage.session("one")
    alice = await stage.program()
    async with events_of(stage.public, "/api/v1/events", alice.headers) as events:
        assert [await reported(events) for _ in range(2)] == [("session", "one"), ("ready", "")]
        stage.cluster.drop("one")
        stage.session("one")
        assert [await reported(events) for _ in range(2)] == [("gone", "one"), ("session", "one")]
