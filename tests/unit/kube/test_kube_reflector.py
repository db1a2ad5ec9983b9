"""The reflector through everything that can happen to a watch."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import web

from support.waiting import PATIENCE, eventually
from unit.kube.kube_fake_api import FakeApi, refusal
from unit.kube.kube_things import THINGS, Journal, Thing, a_thing
from vdi.kube.errors import ConnectionFailed, Forbidden, NotFound
from vdi.kube.store import Store
from vdi.kube.transport import NO_RETRY, Client
from vdi.kube.watch import Reflector, WatchTiming

QUICK = WatchTiming(read_deadline=5, backoff=0.005, backoff_cap=0.02)


class Reflected:
    def __init__(self, api: FakeApi, client: Client, timing: WatchTiming, **scope: Any) -> None:
        self.api = api
        self.journal = Journal()
        self.store: Store[Thing] = Store()
        self.store.listen(self.journal)
        self.reflector = Reflector(
            client, THINGS, Thing, self.store, timing=timing, **{"namespace": "ns", **scope}
        )

    def size_of(self, name: str) -> int | None:
        thing = self.store.get("ns", name)
        return None if thing is None else thing.size

    def equals_server(self) -> bool:
        there = {
            key[2]: obj["metadata"]["resourceVersion"] for key, obj in self.api.objects.items()
        }
        return there == {
            thing.metadata.name: thing.metadata.resource_version for thing in self.store.values()
        }


@asynccontextmanager
async def reflected(
    api: FakeApi, timing: WatchTiming = QUICK, **scope: Any
) -> AsyncIterator[Reflected]:
    async with Client(api.config(), field_manager="tester", retry=NO_RETRY) as client:
        this = Reflected(api, client, timing, **scope)
        task = asyncio.create_task(this.reflector.run())
        try:
            yield this
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def this(api: FakeApi) -> AsyncIterator[Reflected]:
    """With its watch open."""
    async with reflected(api) as this:
        await eventually(lambda: api.watching)
        yield this


async def test_list_then_watch(api: FakeApi) -> None:
    api.put("things", "a", size=1)
    async with reflected(api) as this:
        await asyncio.wait_for(this.reflector.wait_synced(), PATIENCE)
        assert this.size_of("a") == 1
        await eventually(lambda: api.watching)
        api.put("things", "b", size=2)
        api.put("things", "a", size=3)
        api.remove("things", "b")
        await eventually(lambda: this.journal.lines == ["+a", "+b", "~a", "-b"])
        assert this.size_of("a") == 3
        assert api.count("GET") == api.count("WATCH") == 1


async def test_the_watch_asks_for_its_scope_bookmarks_and_an_end(api: FakeApi) -> None:
    async with reflected(api, label_selector="app=x,tier", field_selector="spec.y=z"):
        await eventually(lambda: api.watching)
        _, path, query, _, _ = api.requests[-1]
        assert path == "/apis/example.org/v1/namespaces/ns/things"
        assert 300 <= int(query.pop("timeoutSeconds")) <= 600
        assert query == {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": "100",
            "labelSelector": "app=x,tier",
            "fieldSelector": "spec.y=z",
        }


async def test_a_cut_stream_goes_on_where_it_was_without_a_list(
    api: FakeApi, this: Reflected
) -> None:
    api.put("things", "a")
    await eventually(lambda: this.size_of("a") is not None)
    await api.cut_streams()
    api.put("things", "b")
    await eventually(this.equals_server)
    assert api.count("GET") == 1
    assert api.count("WATCH") == 2


async def test_a_bookmark_moves_the_place_to_go_on(api: FakeApi, this: Reflected) -> None:
    api.version = 500
    before = this.reflector.last_contact
    api.bookmark("things")
    await eventually(lambda: this.reflector.last_contact != before)
    await api.cut_streams()
    await eventually(lambda: api.count("WATCH") == 2)
    assert api.requests[-1][2]["resourceVersion"] == "500"


async def test_older_bookmark_of_a_lagging_server_is_ignored(api: FakeApi, this: Reflected) -> None:
    before = this.reflector.last_contact
    await api.say(b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"7"}}}\n')
    await eventually(lambda: this.reflector.last_contact != before)
    await api.cut_streams()
    await eventually(lambda: api.count("WATCH") == 2)
    assert api.requests[-1][2]["resourceVersion"] == "100"


@pytest.mark.parametrize("how", ["status", "event"])
async def test_410_lists_again_and_reports_what_vanished(api: FakeApi, how: str) -> None:
    gone = {
        "type": "ERROR",
        "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"},
    }
    api.put("things", "stays")
    api.put("things", "vanishes")
    async with reflected(api) as this:
        await eventually(lambda: api.watching)
        api.silent = True
        api.remove("things", "vanishes")
        api.put("things", "appears")
        api.forget_history()
        api.silent = False
        if how == "status":
            await api.cut_streams()
        else:
            await api.say(json.dumps(gone).encode() + b"\n")
        await eventually(this.equals_server)
        assert this.journal.lines == ["+stays", "+vanishes", "+appears", "-vanishes"]
        assert this.reflector.last_error is None or "410" in str(this.reflector.last_error)
        await eventually(lambda: api.watching)


async def test_410_between_two_pages_restarts_the_list_without_pages(api: FakeApi) -> None:
    for number in range(600):
        api.put("things", f"t{number}")

    async def expire(request: web.Request) -> None:
        if "continue" in request.query:
            api.remove("things", "t0")
            api.forget_history()

    api.faults = [("GET", expire), ("GET", expire)]
    async with reflected(api) as this:
        await this.reflector.wait_synced()
        assert this.equals_server()
        assert (
            "limit" not in [query for method, _, query, _, _ in api.requests if method == "GET"][-1]
        )


async def test_an_incomplete_list_removes_nothing(api: FakeApi) -> None:
    for number in range(600):
        api.put("things", f"t{number}")
    async with reflected(api) as this:
        await eventually(lambda: api.watching)

        async def fail(request: web.Request) -> web.StreamResponse | None:
            assert len(this.store) == 600
            return await refusal(403, "Forbidden")(request) if "continue" in request.query else None

        api.faults = [("GET", fail)] * 6
        api.forget_history()
        await api.cut_streams()
        await eventually(lambda: not api.faults and api.watching)
        assert not [line for line in this.journal.lines if line.startswith("-")]


async def test_a_refused_reconnect_is_tried_until_the_server_is_back(api: FakeApi) -> None:
    api.put("things", "a")
    async with reflected(api) as this:
        await eventually(lambda: api.watching)
        await api.stop()
        await eventually(lambda: isinstance(this.reflector.last_error, ConnectionFailed))
        assert this.size_of("a") is not None, "what was known stays known"
        assert this.reflector.synced
        api.put("things", "b")
        await api.start()
        await eventually(this.equals_server)
        assert api.count("GET") == 1
        await eventually(lambda: this.reflector.last_error is None)


async def test_a_server_that_is_not_there_yet_is_waited_for(api: FakeApi) -> None:
    await api.stop()
    async with reflected(api) as this:
        await eventually(lambda: this.reflector.last_error is not None)
        assert not this.reflector.synced
        assert this.reflector.last_contact is None
        await api.start()
        await asyncio.wait_for(this.reflector.wait_synced(), PATIENCE)


async def test_a_silent_half_open_stream_is_given_up_at_the_deadline(api: FakeApi) -> None:
    timing = WatchTiming(read_deadline=0.1, backoff=0.005)
    async with reflected(api, timing) as this:
        await eventually(lambda: api.watching)
        api.silent = True
        api.put("things", "a")
        await eventually(lambda: api.count("WATCH") >= 2)
        api.silent = False
        await eventually(this.equals_server)
        assert api.count("GET") == 1


async def test_a_quiet_kind_is_no_trouble(api: FakeApi) -> None:
    """The API server sends no bookmark where nothing has changed: silence alone must not make
    anyone unready.
    """
    timing = WatchTiming(read_deadline=0.02, backoff=0.005)
    async with reflected(api, timing) as this:
        await eventually(lambda: api.count("WATCH") >= 2)
        before = this.reflector.last_contact
        assert before is not None
        for _ in range(4):
            seen = this.reflector.last_contact
            await eventually(lambda: this.reflector.last_contact != seen)  # noqa: B023 - it has ended when `seen` moves
            assert this.reflector.last_error is None
        assert (this.reflector.last_contact or 0) > before
        assert api.count("GET") == 1


async def test_a_line_of_a_megabyte_split_anywhere(api: FakeApi, this: Reflected) -> None:
    obj = {
        "metadata": {"name": "big", "namespace": "ns", "uid": "u", "resourceVersion": "200"},
        "size": 7,
    }
    line = json.dumps(
        {"type": "ADDED", "object": {**obj, "pad": "ü" * 700_000}}, ensure_ascii=False
    ).encode()
    assert len(line) > 2**20
    cuts = [0, 1, 17, 65_536, 65_537, 700_001, len(line)]
    for start, end in pairwise(cuts):
        await api.say(line[start:end])
    await api.say(b"\n")
    await eventually(lambda: this.size_of("big") == 7)


async def test_known_version_is_not_decoded_again(
    api: FakeApi, this: Reflected, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []
    decode = this.reflector._decode

    def note(event: Any) -> Any:
        decoded.append(event.line)
        return decode(event)

    monkeypatch.setattr(this.reflector, "_decode", note)
    meta = api.put("things", "a", size=1)["metadata"]
    this.store.remember(a_thing("a", int(meta["resourceVersion"]), meta["uid"], size=1))
    api.put("things", "b", size=1)
    await eventually(lambda: this.size_of("b") == 1)
    assert [b'"b"' in body for body in decoded] == [True]


async def test_one_unreadable_object_does_not_hide_the_others(
    api: FakeApi, caplog: pytest.LogCaptureFixture
) -> None:
    api.put("things", "odd", size="many")
    api.put("things", "good", size=1)
    async with reflected(api) as this:
        await eventually(lambda: api.watching)
        assert this.size_of("good") == 1
        api.put("things", "odd", size="very many")
        api.put("things", "good", size=2)
        await eventually(lambda: this.size_of("good") == 2)
    assert "ns/odd is ignored" in caplog.text
    assert "$.size" in caplog.text


@pytest.mark.parametrize(("code", "error"), [(403, Forbidden), (404, NotFound)])
async def test_refused_or_missing_kind_is_logged_once_and_retried(
    api: FakeApi, code: int, error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    api.faults = [("GET", refusal(code, error.__name__))] * 4
    async with reflected(api) as this:
        await eventually(lambda: isinstance(this.reflector.last_error, error))
        await asyncio.wait_for(this.reflector.wait_synced(), PATIENCE)
        assert this.reflector.last_error is None
    assert len(caplog.records) == 1


async def test_a_server_that_ends_every_watch_at_once_is_not_hammered(api: FakeApi) -> None:
    async def end(request: web.Request) -> web.StreamResponse:
        return web.Response()

    timing = WatchTiming(backoff=30, backoff_cap=30)
    api.faults = [("WATCH", end)] * 50
    async with reflected(api, timing) as this:
        await eventually(lambda: this.reflector.last_error is not None)
        assert api.count("WATCH") == 1


async def test_refused_watch_does_not_list_in_a_tight_loop(
    api: FakeApi, caplog: pytest.LogCaptureFixture
) -> None:
    timing = WatchTiming(backoff=0.02, backoff_cap=30)
    api.faults = [("WATCH", refusal(403, "Forbidden"))] * 5
    async with reflected(api, timing) as this:
        await eventually(lambda: api.watching)
        lists_when_it_worked = api.count("GET")
        assert lists_when_it_worked == 6
        assert this.reflector._failures == 5, "each wait is twice the one before"
    assert len(caplog.records) == 1
