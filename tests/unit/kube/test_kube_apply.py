"""The applier: which requests it sends, and which not. Field ownership itself is tested against the
real server.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from support.waiting import PATIENCE, eventually
from unit.kube.kube_fake_api import FakeApi, refusal
from unit.kube.kube_things import HASH, THINGS, Journal, Thing, requested
from vdi.kube import errors
from vdi.kube.apply import Applier
from vdi.kube.errors import Conflict
from vdi.kube.managed_fields import FieldOwnershipReader
from vdi.kube.store import Store
from vdi.kube.transport import NO_RETRY, Client
from vdi.kube.watch import Reflector


class ApplierStage:
    def __init__(self, api: FakeApi, client: Client) -> None:
        self.api = api
        self.journal = Journal()
        self.store: Store[Thing] = Store(FieldOwnershipReader("tester", HASH))
        self.store.listen(self.journal)
        self.reflector = Reflector(client, THINGS, Thing, self.store, namespace="ns")
        self.applier = Applier(client, THINGS, Thing, self.store)
        self.plain = Applier(client, THINGS, Thing, Store[Thing]())

    def sent(self) -> list[str]:
        """The requests since the last call, but for lists and watches."""
        found = [
            r[0]
            for r in self.api.requests
            if r[0] != "WATCH" and not (r[0] == "GET" and r[1].endswith("things"))
        ]
        self.api.requests.clear()
        return found

    def known(self, name: str = "a") -> Thing:
        thing = self.store.get("ns", name)
        assert thing is not None
        return thing


@asynccontextmanager
async def stage(api: FakeApi) -> AsyncIterator[ApplierStage]:
    async with Client(api.config(), field_manager="tester", retry=NO_RETRY) as client:
        this = ApplierStage(api, client)
        task = asyncio.create_task(this.reflector.run())
        try:
            await asyncio.wait_for(this.reflector.wait_synced(), PATIENCE)
            yield this
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def here(api: FakeApi) -> AsyncIterator[ApplierStage]:
    async with stage(api) as this:
        yield this


@pytest.fixture
async def unwatched(api: FakeApi) -> AsyncIterator[ApplierStage]:
    """With a store that hears of nothing but our own writes."""
    async with Client(api.config(), field_manager="tester", retry=NO_RETRY) as client:
        yield ApplierStage(api, client)


def ours(fields: dict[str, Any], operation: str = "Apply") -> list[dict[str, Any]]:
    return [{"manager": "tester", "operation": operation, "fieldsV1": fields}]


async def test_created_by_post_with_our_hash_and_known_at_once(
    api: FakeApi, unwatched: ApplierStage
) -> None:
    await unwatched.applier.ensure(requested(size=1))
    assert unwatched.sent() == ["POST"]
    assert unwatched.known().size == 1
    assert len(api.objects["things", "ns", "a"]["metadata"]["annotations"][HASH]) == 16
    await unwatched.applier.ensure(requested(size=1))
    assert unwatched.sent() == [], "the store lags, but our own write is remembered"


async def test_changed_object_is_applied(here: ApplierStage) -> None:
    await here.applier.ensure(requested(size=1))
    await here.applier.ensure(requested(size=2))
    assert here.sent() == ["POST", "PATCH"]
    assert here.known().size == 2
    await here.applier.ensure(requested(size=2))
    assert here.sent() == []


@pytest.mark.parametrize(
    ("edit", "sent"),
    [({"managedFields": ours({"f:spec": {}})}, ["PATCH"]), ({"labels": {"theirs": "x"}}, [])],
    ids=["took our field", "added a field"],
)
async def test_edits_of_our_fields_alone_are_repaired_and_once(
    api: FakeApi, here: ApplierStage, edit: dict[str, Any], sent: list[str]
) -> None:
    await here.applier.ensure(requested(size=1))
    api.put("things", "a", metadata=edit)
    await eventually(lambda: "~a" in here.journal.lines)
    here.sent()
    await here.applier.ensure(requested(size=1))
    await here.applier.ensure(requested(size=1))
    assert here.sent() == sent


async def test_restart_sends_nothing_for_unchanged_objects(api: FakeApi) -> None:
    async with stage(api) as here:
        await here.applier.ensure(requested(size=1))
    fields: dict[str, Any] = {"f:size": {}, "f:metadata": {"f:annotations": {f"f:{HASH}": {}}}}
    api.put("things", "a", metadata={"managedFields": ours(fields)})
    async with stage(api) as restarted:
        restarted.sent()
        await restarted.applier.ensure(requested(size=1))
        assert restarted.sent() == []
    del fields["f:size"]
    api.put("things", "a", metadata={"managedFields": ours(fields)})
    async with stage(api) as restarted:
        restarted.sent()
        await restarted.applier.ensure(requested(size=1))
        assert restarted.sent() == ["PATCH"]


async def test_field_that_cannot_be_owned_costs_one_request(api: FakeApi) -> None:
    async with stage(api) as here:
        await here.applier.ensure(requested(size=0))
    async with stage(api) as restarted:
        restarted.sent()
        for _ in range(3):
            await restarted.applier.ensure(requested(size=0))
        assert restarted.sent() == ["PATCH"]


async def test_first_change_after_a_create_takes_over_its_fields(
    api: FakeApi, here: ApplierStage
) -> None:
    await here.applier.ensure(requested(size=1))
    theirs = {"manager": "other", "operation": "Update", "fieldsV1": {"f:x": {}}}
    posted = {"manager": "tester", "operation": "Update", "fieldsV1": {"f:size": {}}}
    applied = {"manager": "tester", "operation": "Apply", "fieldsV1": {"f:more": {"f:y": {}}}}
    api.put("things", "a", metadata={"managedFields": [theirs, posted, applied]})
    await eventually(lambda: "~a" in here.journal.lines)
    here.sent()
    version = here.known().metadata.resource_version
    await here.applier.ensure(requested(size=2))
    handed, applied_body = [r[3] for r in api.requests if r[0] == "PATCH"]
    assert here.sent() == ["GET", "PATCH", "PATCH"]
    merged: dict[str, Any] = {"f:size": {}, "f:more": {"f:y": {}}}
    assert handed["metadata"]["managedFields"] == [theirs, {**applied, "fieldsV1": merged}]
    assert handed["metadata"]["resourceVersion"] == version, (
        "nobody else's entry is lost in between"
    )
    assert applied_body["size"] == 2


async def test_existing_object_outside_the_cache_is_applied(
    api: FakeApi, unwatched: ApplierStage
) -> None:
    api.put("things", "a", size=9)
    assert (await unwatched.applier.ensure(requested(size=1))).size == 1
    assert unwatched.sent() == ["POST", "PATCH"]


async def test_nothing_is_sent_for_an_object_being_deleted(api: FakeApi) -> None:
    api.put(
        "things", "a", metadata={"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x"]}
    )
    async with stage(api) as here:
        assert (await here.applier.ensure(requested(size=1))).metadata.deletion_timestamp
        assert await here.applier.delete(here.known()) is False
        assert here.sent() == []


async def test_deleted_is_known_at_once_and_not_asked_twice(api: FakeApi) -> None:
    api.put("things", "a")
    async with stage(api) as here:
        api.silent = True
        thing = here.known()
        assert await here.applier.delete(thing)
        assert await here.applier.delete(thing)
        assert here.sent() == ["DELETE"]
        assert here.store.get("ns", "a") is None


async def test_deletion_with_finalizers_waits_for_the_watch(api: FakeApi) -> None:
    api.put("things", "a", metadata={"finalizers": ["x"]})
    async with stage(api) as here:
        assert not await here.applier.delete(here.known(), grace_seconds=1)
        assert not await here.applier.delete(here.known())
        assert [
            request[3]["gracePeriodSeconds"] for request in api.requests if request[0] == "DELETE"
        ] == [1]
        api.remove("things", "a")
        await eventually(lambda: here.store.get("ns", "a") is None)


async def test_delete_that_met_a_conflict_was_not_done(api: FakeApi) -> None:
    api.put("things", "a")
    async with stage(api) as here:
        api.faults = [("DELETE", refusal(409, "Conflict"))]
        with pytest.raises(Conflict):
            await here.applier.delete(here.known())
        assert here.known()
        assert await here.applier.delete(here.known()) is True


async def test_another_incarnation_is_not_deleted(api: FakeApi) -> None:
    api.put("things", "a")
    async with stage(api) as here:
        old = here.known()
        api.silent = True
        api.remove("things", "a")
        api.put("things", "a")
        assert await here.applier.delete(old)
        assert ("things", "ns", "a") in api.objects


async def test_refused_object_is_raised_and_not_stored(
    api: FakeApi, unwatched: ApplierStage
) -> None:
    api.faults = [("POST", refusal(403, "Forbidden"))]
    with pytest.raises(errors.Forbidden):
        await unwatched.applier.ensure(requested())
    assert len(unwatched.store) == 0


async def test_a_post_of_which_we_never_saw_the_answer_ends_well(
    api: FakeApi, unwatched: ApplierStage
) -> None:
    async def do_and_cut(request: web.Request) -> None:
        api.put("things", "a", size=1)
        assert request.transport is not None
        request.transport.abort()

    api.faults = [("POST", do_and_cut)]
    with pytest.raises(errors.ConnectionFailed):
        await unwatched.applier.ensure(requested(size=1))
    assert (await unwatched.applier.ensure(requested(size=1))).size == 1
    assert [name for _, _, name in api.objects] == ["a"]


async def test_without_marks_an_object_is_made_once_and_left_as_it_is(
    api: FakeApi, unwatched: ApplierStage
) -> None:
    made = await unwatched.plain.ensure(requested(size=1))
    assert (await unwatched.plain.ensure(requested(size=2))) is made
    assert unwatched.sent() == ["POST"]
    assert "annotations" not in api.objects["things", "ns", "a"]["metadata"]
