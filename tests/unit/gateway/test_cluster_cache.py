"""What the gateway knows, from a watch that works and one that does not."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from support.waiting import PATIENCE, eventually
from unit.kube.kube_fake_api import FakeApi, fake_api, refusal
from vdi.gateway.cluster_cache import Change, ClusterCache
from vdi.gateway.settings import Settings
from vdi.kube.transport import NO_RETRY, Client

SETTINGS = Settings()


def put_session(api: FakeApi, name: str, user: str = "alice@example.com", host: str = "", **spec: object) -> str:
    """`host`: the label of the address that the operator has given it."""
    spec = {"user": user, "template": "desktop", **spec}
    status = {"url": SETTINGS.url(SETTINGS.host(host))} if host else {}
    made = api.put("vdisessions", name, namespace=SETTINGS.namespaces[0], spec=spec, status=status)
    return str(made["metadata"]["uid"])


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    async with fake_api() as api:
        yield api


async def with_world(api: FakeApi, work: Callable[[ClusterCache], Awaitable[None]]) -> None:
    """In one task, as the gateway does it."""
    async with (
        Client(api.config(), field_manager="t", retry=NO_RETRY) as client,
        ClusterCache(client, SETTINGS) as world,
    ):
        await world.wait_synced()
        await work(world)


async def test_sessions_are_found_by_name_host_and_uid(api: FakeApi) -> None:
    uid = put_session(api, "alice-desktop", host="alice-desktop-5tq2mzk4")
    put_session(api, "other", host="nice")

    async def look(world: ClusterCache) -> None:
        session = world.session("alice-desktop")
        assert session is not None
        assert world.by_host("alice-desktop-5tq2mzk4.vdi.localhost") is session
        assert world.by_host("alice-desktop-5tq2mzk4") is session
        assert world.by_uid(uid) is session
        found = world.by_host("nice.vdi.localhost")
        assert found
        assert found.metadata.name == "other"
        for unknown in (
            "alice-desktop.vdi.localhost",
            "other.vdi.localhost",
            "a.nice.vdi.localhost",
            "nice.evil.example",
            "",
            ".vdi.localhost",
        ):
            assert world.by_host(unknown) is None
        assert (world.synced, list(world.troubles())) == (True, [])

    await with_world(api, look)


async def test_who_only_asks_for_a_host_is_not_found_there(api: FakeApi) -> None:
    """It may be reserved for another person: only the operator knows."""
    put_session(api, "same")
    put_session(api, "other", hostname="same")

    async def look(world: ClusterCache) -> None:
        assert world.by_host("same.vdi.localhost") is None

    await with_world(api, look)


async def test_a_host_belongs_to_whose_route_it_is_not_to_who_asks_for_it(api: FakeApi) -> None:
    """Eve's session is older and now wants Alice's host, too; the route still leads to Alice's pod."""
    for name, created, status in (
        ("eves", "2026-11-20T08:00:00Z", {"phase": "Pending"}),
        ("alices", "2026-11-20T09:00:00Z", {"phase": "Running", "url": "https://same.vdi.localhost"}),
    ):
        spec = {"user": "a@b.c", "template": "t", "hostname": "same"}
        metadata = {"creationTimestamp": created}
        api.put("vdisessions", name, namespace=SETTINGS.namespaces[0], metadata=metadata, spec=spec, status=status)

    async def look(world: ClusterCache) -> None:
        found = world.by_host("same.vdi.localhost")
        assert found
        assert found.metadata.name == "alices"

    await with_world(api, look)


async def test_several_changes_of_one_object_are_read_as_one(api: FakeApi) -> None:
    put_session(api, "a")

    async def look(world: ClusterCache) -> None:
        heard: list[Change] = []
        world.listen(lambda kind, old, new: heard.append(Change(kind, old, new)))
        with world.changes() as changes:
            for priority in (1, 2, 3):
                put_session(api, "a", priority=priority)
            put_session(api, "b")
            await eventually(lambda: len(heard) == 4, "all changes are seen")
            first, second = await anext(changes), await anext(changes)
        assert (first.name, first.old.spec.priority, first.new.spec.priority) == ("a", 0, 3)
        assert (second.name, second.old, second.new.spec.user) == ("b", None, "alice@example.com")

    await with_world(api, look)


async def test_a_removal_is_reported_with_what_was_there(api: FakeApi) -> None:
    put_session(api, "a")

    async def look(world: ClusterCache) -> None:
        with world.changes() as changes:
            api.remove("vdisessions", "a", namespace=SETTINGS.namespaces[0])
            change = await anext(changes)
        assert (change.kind, change.name, change.new) == ("session", "a", None)
        assert change.old.spec.user == "alice@example.com"
        assert world.session("a") is None

    await with_world(api, look)


async def test_only_what_is_desired_is_reported(api: FakeApi) -> None:
    async def look(world: ClusterCache) -> None:
        with world.changes(lambda change: change.new.spec.user.startswith("bob")) as changes:
            put_session(api, "a")
            put_session(api, "b", "bob@example.com")
            assert (await anext(changes)).name == "b"

    await with_world(api, look)


async def test_readers_come_to_an_end_with_the_world(api: FakeApi) -> None:
    async def look(world: ClusterCache) -> None:
        async def read_all() -> list[str]:
            with world.changes() as changes:
                return [change.name async for change in changes]

        reader = asyncio.create_task(read_all())
        await asyncio.sleep(0)
        world.end_changes()
        assert await asyncio.wait_for(reader, PATIENCE) == []

    await with_world(api, look)


async def test_a_kind_that_cannot_be_watched_is_named(api: FakeApi) -> None:
    api.faults += [("GET", refusal(403, "Forbidden"))] * 3

    async with (
        Client(api.config(), field_manager="t", retry=NO_RETRY) as client,
        ClusterCache(client, SETTINGS) as world,
    ):
        await eventually(lambda: all("Forbidden" in trouble for trouble in world.troubles()), "troubles are told")
        assert {trouble.partition(":")[0] for trouble in world.troubles()} == {
            "vdisessions",
            "vditemplates",
            "vdipools",
        }
        assert not world.synced
