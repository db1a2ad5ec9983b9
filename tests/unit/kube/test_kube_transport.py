"""Requests: what is sent, what is retried, what is raised."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from support.clock import EagerClock
from unit.kube.kube_fake_api import FakeApi, refusal
from unit.kube.kube_things import THINGS, Thing, requested
from vdi.kube import errors
from vdi.kube.clock import Clock
from vdi.kube.config import ClusterConfig
from vdi.kube.resource import PODS
from vdi.kube.transport import NO_RETRY, PAGE_SIZE, Client, RetryPolicy


@pytest.fixture
def clock() -> EagerClock:
    return EagerClock()


def a_client(config: ClusterConfig, clock: Clock | None = None, **more: Any) -> Client:
    return Client(config, field_manager="tester", clock=clock or EagerClock(), **more)


@pytest.fixture
async def client(api: FakeApi, clock: EagerClock) -> AsyncIterator[Client]:
    async with a_client(api.config(), clock) as client:
        yield client


async def test_an_objects_life(client: Client) -> None:
    made = await client.create(THINGS, requested("a", size=1), namespace="ns", into=Thing)
    assert made.size == 1
    assert made.metadata.uid
    changed = await client.patch(THINGS, "a", {"size": 2}, namespace="ns", into=Thing)
    assert (changed.size, (await client.get(THINGS, "a", namespace="ns", into=Thing)).size) == (
        2,
        2,
    )
    assert (
        await client.delete(THINGS, "a", namespace="ns", uid=made.metadata.uid, into=Thing) is None
    )
    with pytest.raises(errors.NotFound):
        await client.get(THINGS, "a", namespace="ns", into=Thing)


async def test_every_request_asks_for_plain_json(api: FakeApi, client: Client) -> None:
    await client.list(THINGS, into=Thing)
    headers = api.requests[0][4]
    assert headers["Accept-Encoding"] == "identity"
    assert headers["Accept"] == "application/json"


async def test_the_servers_clock_is_read_out_of_its_answers(
    client: Client, clock: EagerClock
) -> None:
    assert client.server_time() is None
    await client.list(THINGS, into=Thing)
    before = client.server_time()
    assert before is not None
    assert abs(datetime.now(UTC) - before) < timedelta(seconds=10)
    await clock.sleep(60)
    assert client.server_time() == before + timedelta(seconds=60)


async def test_apply_sends_manager_and_force(api: FakeApi, client: Client) -> None:
    api.put("things", "a")
    await client.apply(THINGS, "a", requested("a"), namespace="ns", dry_run=True, into=Thing)
    _, path, query, _, headers = api.requests[-1]
    assert path == "/apis/example.org/v1/namespaces/ns/things/a"
    assert query == {"fieldManager": "tester", "force": "true", "dryRun": "All"}
    assert headers["Content-Type"] == "application/apply-patch+yaml"


async def test_a_list_longer_than_a_page_is_complete(api: FakeApi, client: Client) -> None:
    for number in range(2 * PAGE_SIZE + 1):
        api.put("things", f"t{number:04}", size=number)
    things = await client.list(THINGS, namespace="ns", into=Thing)
    assert [thing.size for thing in things] == list(range(2 * PAGE_SIZE + 1))
    assert api.count("GET") == 3


async def test_list_with_an_expired_page_is_repeated_without_pages(
    api: FakeApi, client: Client
) -> None:
    for number in range(PAGE_SIZE + 100):
        api.put("things", f"t{number:04}")
    api.faults = [("GET", refusal(410, "Expired"))]
    assert len(await client.list(THINGS, into=Thing)) == PAGE_SIZE + 100
    assert "limit" not in api.requests[-1][2]


@pytest.mark.parametrize(
    ("code", "reason", "error"),
    [
        (400, "BadRequest", errors.BadRequest),
        (401, "Unauthorized", errors.Unauthorized),
        (403, "Forbidden", errors.Forbidden),
        (404, "NotFound", errors.NotFound),
        (409, "AlreadyExists", errors.AlreadyExists),
        (409, "Conflict", errors.Conflict),
        (410, "Expired", errors.Gone),
        (422, "Invalid", errors.Invalid),
        (429, "TooManyRequests", errors.TooManyRequests),
        (500, "InternalError", errors.ServerError),
        (418, "Teapot", errors.ApiError),
    ],
)
async def test_each_refusal_has_its_type(
    api: FakeApi, code: int, reason: str, error: type[errors.ApiError]
) -> None:
    async with a_client(api.config(), retry=NO_RETRY) as client:
        cause = {"field": "spec.size", "reason": "FieldValueInvalid", "message": "must be positive"}
        api.faults = [("POST", refusal(code, reason, causes=[cause]))]
        with pytest.raises(errors.ApiError) as caught:
            await client.create(THINGS, requested(), namespace="ns", into=Thing)
    assert type(caught.value) is error
    assert caught.value.causes == (errors.Cause(**cause),)
    assert "POST /apis/example.org/v1/namespaces/ns/things" in str(caught.value)


async def test_a_kind_that_is_not_installed_is_not_a_missing_object(
    api: FakeApi, client: Client
) -> None:
    async def plain(request: web.Request) -> web.Response:
        return web.Response(status=404, text="404 page not found\n")

    api.faults = [("GET", plain)]
    with pytest.raises(errors.NotFound) as caught:
        await client.get(THINGS, "a", namespace="ns", into=Thing)
    assert caught.value.api_missing
    with pytest.raises(errors.NotFound) as caught:
        await client.get(THINGS, "a", namespace="ns", into=Thing)
    assert not caught.value.api_missing


async def test_a_burst_of_429_is_waited_out_as_long_as_the_server_asks(
    api: FakeApi, client: Client, clock: EagerClock
) -> None:
    api.faults = [("POST", refusal(429, "TooManyRequests", headers={"Retry-After": "3"}))] * 3
    assert (
        await client.create(THINGS, requested("a"), namespace="ns", into=Thing)
    ).metadata.name == "a"
    assert clock.slept == [3.0, 3.0, 3.0]
    assert api.count("POST") == 4


async def test_retry_after_above_the_cap_is_not_waited_for(
    api: FakeApi, client: Client, clock: EagerClock
) -> None:
    api.faults = [("GET", refusal(429, "TooManyRequests", headers={"Retry-After": "3600"}))]
    with pytest.raises(errors.TooManyRequests) as caught:
        await client.list(THINGS, into=Thing)
    assert caught.value.retry_after == 3600
    assert clock.slept == []


async def test_retries_end_and_grow(api: FakeApi, clock: EagerClock) -> None:
    policy = RetryPolicy(attempts=4, base=1, cap=3, jitter=0)
    async with a_client(api.config(), clock, retry=policy) as client:
        api.faults = [("GET", refusal(503, "ServiceUnavailable"))] * 9
        with pytest.raises(errors.ServerError):
            await client.list(THINGS, into=Thing)
        assert api.count("GET") == 4
    assert clock.slept == [1, 2, 3]


async def test_a_plain_500_and_a_refusal_are_not_retried(api: FakeApi, client: Client) -> None:
    for code, reason in ((500, "InternalError"), (403, "Forbidden"), (409, "Conflict")):
        api.faults = [("GET", refusal(code, reason))]
        with pytest.raises(errors.ApiError):
            await client.list(THINGS, into=Thing)
    assert api.count("GET") == 3


async def test_an_unknown_host_is_no_server_out_of_reach() -> None:
    async with a_client(ClusterConfig("http://nobody.invalid"), retry=NO_RETRY) as client:
        with pytest.raises(errors.ConnectionFailed, match="cannot resolve its host name: "):
            await client.list(THINGS, into=Thing)


async def test_a_server_out_of_reach_is_named(clock: EagerClock) -> None:
    async with a_client(ClusterConfig("http://127.0.0.1:1"), clock) as client:
        with pytest.raises(errors.ConnectionFailed, match=r"http://127\.0\.0\.1:1"):
            await client.list(THINGS, into=Thing)
    assert len(clock.slept) == 4


async def test_retry_of_a_lost_create_ends_in_already_exists(api: FakeApi, client: Client) -> None:
    async def do_and_cut(request: web.Request) -> None:
        api.put("things", "a")
        assert request.transport is not None
        request.transport.abort()

    api.faults = [("POST", do_and_cut)]
    with pytest.raises(errors.AlreadyExists):
        await client.create(THINGS, requested("a"), namespace="ns", into=Thing)


async def test_an_answer_that_is_not_the_api_is_shown(api: FakeApi, client: Client) -> None:
    async def page(request: web.Request) -> web.Response:
        return web.Response(text="<html>Please log in</html>")

    api.faults = [("GET", page)]
    with pytest.raises(errors.UnexpectedAnswer, match="not a list"):
        await client.list(THINGS, into=Thing)


async def test_a_rotated_token_file_is_read_again_within_a_minute(
    api: FakeApi, clock: EagerClock, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    async with a_client(api.config(token_file=file), clock) as client:
        await client.list(THINGS, into=Thing)
        file.write_text("second\n")
        await client.list(THINGS, into=Thing)
        await clock.sleep(61)
        await client.list(THINGS, into=Thing)
    sent = [headers["Authorization"] for *_, headers in api.requests]
    assert sent == ["Bearer first", "Bearer first", "Bearer second"]


async def test_a_401_reads_the_token_file_at_once_and_tries_again_once(
    api: FakeApi, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("old")
    async with a_client(api.config(token_file=file)) as client:
        await client.list(THINGS, into=Thing)
        file.write_text("new")
        api.faults = [("GET", refusal(401, "Unauthorized"))]
        await client.list(THINGS, into=Thing)
        assert [headers["Authorization"] for *_, headers in api.requests][1:] == [
            "Bearer old",
            "Bearer new",
        ]
        api.faults = [("GET", refusal(401, "Unauthorized"))] * 2
        with pytest.raises(errors.Unauthorized):
            await client.list(THINGS, into=Thing)


async def test_an_expired_plugin_token_is_fetched_again(api: FakeApi) -> None:
    tokens = iter(["fresh", "fresher", "freshest"])
    async with a_client(api.config(token="old", token_plugin=lambda: next(tokens))) as client:
        api.faults = [("GET", refusal(401, "Unauthorized"))]
        await client.list(THINGS, into=Thing)
        assert api.requests[-1][4]["Authorization"] == "Bearer fresh"
        api.faults = [("GET", refusal(401, "Unauthorized"))] * 3
        with pytest.raises(errors.Unauthorized):
            await client.list(THINGS, into=Thing)
        assert len(api.faults) == 1, "one new token is tried, not one after another"


async def test_requests_are_counted_with_method_kind_and_status(api: FakeApi) -> None:
    counted: list[tuple[str, str, int]] = []

    def count(method: str, plural: str, status: int, seconds: float) -> None:
        assert seconds > 0
        counted.append((method, plural, status))

    async with a_client(api.config(), on_request=count) as client:
        api.faults = [("POST", refusal(503, "ServiceUnavailable"))]
        await client.create(THINGS, requested(), namespace="ns", into=Thing)
        await client.list(PODS, into=Thing)
    assert counted == [("POST", "things", 503), ("POST", "things", 200), ("GET", "pods", 200)]


async def test_log_lines_come_as_they_are_written(api: FakeApi, client: Client) -> None:
    go_on = asyncio.Event()

    async def log(request: web.Request) -> web.StreamResponse:
        assert dict(request.query) == {"container": "desktop", "follow": "true", "tailLines": "5"}
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"first\nsec" + "ö".encode()[:1])
        await go_on.wait()
        await answer.write("ö".encode()[1:] + b"nd\nthird")
        return answer

    api.faults = [("GET", log)]
    lines = []
    async for line in client.log_lines("ns", "pod", container="desktop", follow=True, tail=5):
        lines.append(line)
        go_on.set()
    assert lines == ["first", "secönd", "third"]


async def test_log_size_limit_is_sent_to_the_server(api: FakeApi, client: Client) -> None:
    async def log(request: web.Request) -> web.Response:
        assert dict(request.query) == {"tailLines": "5", "limitBytes": "1000"}
        return web.Response(body=b"x" * 3 * 2**20)

    api.faults = [("GET", log)]
    lines = [line async for line in client.log_lines("ns", "pod", tail=5, max_bytes=1000)]
    assert "".join(lines) == "x" * 3 * 2**20
    assert max(map(len, lines)) < 3 * 2**20


async def test_closed_client_raises() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await a_client(ClusterConfig("http://127.0.0.1:1")).list(THINGS, into=Thing)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            "Invalid value: \"string\": 'alice' is not an e-mail address",
            "'alice' is not an e-mail address",
        ),
        (
            "Invalid value: \"alice\": 'alice' is not an e-mail address",
            "'alice' is not an e-mail address",
        ),
        ('Invalid value: "a\\u202eb\\": ": the rule', "the rule"),
        ('Invalid value: {"size":"1Ti"}: is too large', "is too large"),
        ("Invalid value: 0: must be 1 or more", "must be 1 or more"),
        ("Invalid value: null: must be set", "must be set"),
        (
            "Invalid value: 0: spec.n in body should be at least 1",
            "Invalid value: 0: spec.n in body should be at least 1",
        ),
        ("Required value", "Required value"),
    ],
)
def test_a_rules_words_come_without_the_value_of_any_version(message: str, words: str) -> None:
    assert errors.Cause("spec.user", "FieldValueInvalid", message).words == words
    assert errors.Cause("metadata.name", "FieldValueInvalid", message).words == message


def test_rules_that_were_not_checked_are_left_out_beside_a_cause() -> None:
    unchecked = {
        "field": "<nil>",
        "message": "Invalid value: null: some validation rules were not checked",
    }
    wrong = {
        "field": "spec.n",
        "message": 'Invalid value: "x": spec.n in body must be of type integer',
    }
    for causes, fields in (([wrong, unchecked], ["spec.n"]), ([unchecked], ["<nil>"])):
        body = msgspec.json.encode({"kind": "Status", "code": 422, "details": {"causes": causes}})
        assert [cause.field for cause in errors.error_from(422, body).causes] == fields
