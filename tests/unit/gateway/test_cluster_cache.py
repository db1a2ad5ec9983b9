"""What the gateway knows, from a watch that works and one that does not."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from support.waiting import eventually
from unit.kube.kube_fake_api import FakeApi, fake_api, refusal
from vdi.gateway.cluster_cache import ClusterCache
from vdi.gateway.settings import Settings
from vdi.kube.transport import NO_RETRY, Client

SETTINGS = Settings()


def put_session(
    api: FakeApi, name: str, user: str = "alice@example.com", host: str = "", **spec: object
) -> str:
    """`host`: the label of the address that the operator has given it."""
    spec = {"user": user, "template": "desktop", **spec}
    status = {"url": SETTINGS.url(SETTINGS.host(host))} if host else {}
    made = api.put("vdisessions", name, namespace=SETTINGS.namespaces[0], spec=spec, status=status)
    return str(made["metadata"]["uid"])


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    async with fake_api() as api:
        yield api


@asynccontextmanager
async def watching(api: FakeApi) -> AsyncIterator[ClusterCache]:
    async with (
        Client(api.config(), field_manager="t", retry=NO_RETRY) as client,
        ClusterCache(client, SETTINGS) as world,
    ):
        yield world


async def test_sessions_are_found_by_name_host_and_uid(api: FakeApi) -> None:
    uid = put_session(api, "alice-desktop", host="alice-desktop-5tq2mzk4")
    put_session(api, "other", host="nice")

    async with watching(api) as world:
        await world.wait_synced()
        session = world.session("alice-desktop")
        assert session is not None
        assert world.by_host("alice-desktop-5tq2mzk4.vdi.localhost") is session
        assert world.by_host("alice-desktop-5tq2mzk4") is session
        assert world.by_uid(uid) is session
        found = world.by_host("nice.vdi.localhost")
        assert found
        assert found.metadata.name == "other"
        foreign = (
            "alice-desktop.vdi.localhost",
            "other.vdi.localhost",
            "a.nice.vdi.localhost",
            "nice.evil.example",
        )
        for unknown in (*foreign, "", ".vdi.localhost"):
            assert world.by_host(unknown) is None, unknown
        assert (world.synced, list(world.troubles())) == (True, [])


async def test_who_only_asks_for_a_host_is_not_found_there(api: FakeApi) -> None:
    """It may be reserved for another person: only the operator knows."""
    put_session(api, "same")
    put_session(api, "other", hostname="same")

    async with watching(api) as world:
        await world.wait_synced()
        assert world.by_host("same.vdi.localhost") is None


async def test_a_host_belongs_to_the_session_with_the_route(api: FakeApi) -> None:
    """Eve's session is older and now wants Alice's host, too; the route still leads to Alice's
    pod.
    """
    for name, created, status in (
        ("eves", "2026-11-20T08:00:00Z", {"phase": "Pending"}),
        (
            "alices",
            "2026-11-20T09:00:00Z",
            {"phase": "Running", "url": "https://same.vdi.localhost"},
        ),
    ):
        spec = {"user": "a@b.c", "template": "t", "hostname": "same"}
        metadata = {"creationTimestamp": created}
        api.put(
            "vdisessions",
            name,
            namespace=SETTINGS.namespaces[0],
            metadata=metadata,
            spec=spec,
            status=status,
        )

    async with watching(api) as world:
        await world.wait_synced()
        found = world.by_host("same.vdi.localhost")
        assert found
        assert found.metadata.name == "alices"


async def test_a_kind_that_cannot_be_watched_is_named(api: FakeApi) -> None:
    api.faults += [("GET", refusal(403, "Forbidden"))] * 3

    async with watching(api) as world:
        await eventually(
            lambda: all("Forbidden" in trouble for trouble in world.troubles()), "troubles are told"
        )
        kinds = {trouble.partition(":")[0] for trouble in world.troubles()}
        assert kinds == {"vdisessions", "vditemplates", "vdipools"}
        assert not world.synced
