"""Who comes in by the API's door, and what is said to those who do not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from support.waiting import PATIENCE
from unit.gateway.api_stage import BOB, ApiStage
from unit.gateway.silent_redis import SilentRedis, silent_redis
from unit.gateway.test_api_sessions import problem
from vdi.gateway import shared_state
from vdi.gateway.api.component import OPERATIONS
from vdi.gateway.api.operation import MAX_AGENT_REQUESTS, MAX_REQUESTS
from vdi.gateway.in_flight import TOKEN_LOOKUPS, TOKEN_REQUESTS
from vdi.gateway.shared_state import SharedUnavailableError
from vdi.gateway.store.database import DatabaseUnavailableError

__all__ = ["silent_redis"]

EVERY = [
    (operation.method, "/api/v1" + operation.path.format(name="n", user="u@x.yz", id="i", uid="u"))
    for operation in OPERATIONS
]
ADMINS = [
    ("/api/v1" + operation.path, operation.method) for operation in OPERATIONS if operation.admin
]


@pytest.fixture
def stage() -> ApiStage:
    return ApiStage()


@pytest.mark.parametrize(
    "authorization", [None, "Bearer vdi_wrong", "Bearer wrong", "Basic YTpi", ""]
)
async def test_no_operation_answers_a_stranger(stage: ApiStage, authorization: str | None) -> None:
    stage.session("n")
    anybody = await stage.anybody(
        **({} if authorization is None else {"authorization": authorization})
    )
    for method, path in EVERY:
        answer = await anybody.request(method, path)
        assert "Bearer" in answer.headers["www-authenticate"]
        problem(answer, 401, "unauthenticated")
    assert set(stage.cluster.objects) == {"n"}


async def test_an_expired_token_is_worth_nothing(stage: ApiStage) -> None:
    alice = await stage.program()
    stage.clock.wall = stage.clock.wall.replace(day=22)
    problem(await alice.get("/api/v1/me"), 401, "unauthenticated")


@pytest.mark.parametrize(("path", "method"), ADMINS)
async def test_administration_is_for_administrators(
    stage: ApiStage, path: str, method: str
) -> None:
    bob = await stage.program(BOB)
    said = problem(await bob.request(method, path), 403, "forbidden")["detail"]
    assert said == "Only administrators can do this; bob@example.com is not an administrator."


async def test_too_many_requests_are_slowed_down(stage: ApiStage) -> None:
    alice, again, bob = await stage.program(), await stage.program(), await stage.program(BOB)
    window = int(stage.clock.wall.timestamp()) // 60
    for _ in range(MAX_REQUESTS - 1):
        await stage.services.context.shared.count(f"api/alice@example.com/{window}", 60)
    assert (await alice.get("/api/v1/templates")).status_code == 200
    stage.clock.wall = stage.clock.wall.replace(second=48)
    for each in (alice, again):
        refused = await each.get("/api/v1/templates")
        problem(refused, 429, "too-many-requests")
        assert refused.headers["retry-after"] == "12"
    assert (await bob.get("/api/v1/templates")).status_code == 200
    stage.clock.wall = stage.clock.wall.replace(minute=1, second=0)
    assert (await alice.get("/api/v1/templates")).status_code == 200


async def test_a_method_that_is_not_there_is_named_with_those_that_are(stage: ApiStage) -> None:
    alice = await stage.program()
    answer = await alice.patch("/api/v1/sessions")
    problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "GET, POST"


@pytest.mark.parametrize(
    "path", ["/api/v1", "/api/v1/", "/api/v2/sessions", "/api/v1/sessions/a/b/c/d", "/api/x"]
)
async def test_an_address_that_is_not_there_is_a_problem_too(stage: ApiStage, path: str) -> None:
    problem(await (await stage.program()).get(path), 404, "not-found")


@pytest.mark.parametrize("media", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_a_body_that_is_not_json_is_refused(stage: ApiStage, media: str) -> None:
    alice = await stage.program()
    answer = await alice.post(
        "/api/v1/sessions", content=b'{"template": "ubuntu"}', headers={"Content-Type": media}
    )
    problem(answer, 415, "unsupported-media-type")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"template": "\xff"}', b"[" * 5000])
async def test_broken_json_is_refused(stage: ApiStage, content: bytes) -> None:
    alice = await stage.program()
    answer = await alice.post(
        "/api/v1/sessions", content=content, headers={"Content-Type": "application/json"}
    )
    problem(answer, 400, "malformed")


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("limit=0", {"field": "limit", "value": "0", "allowed": "a whole number from 1 to 500"}),
        ("limit=many", {"field": "limit", "value": "many", "allowed": "a whole number from 1 to 500"}),
        ("role=root", {"field": "role", "value": "root", "allowed": "one of collaborator, owner, viewer"}),
        ("limit=1&limit=2", {"field": "limit", "value": ["1", "2"], "allowed": "given once"}),
        ("page=2", {"field": "page", "value": "2", "allowed": "a field of this request: limit, cursor, role"}),
    ],
)  # fmt: skip
async def test_parameters_are_refused_by_name(
    stage: ApiStage, query: str, error: dict[str, Any]
) -> None:
    alice = await stage.program()
    assert problem(await alice.get(f"/api/v1/sessions?{query}"), 422, "invalid")["errors"] == [
        error
    ]


async def test_a_fault_of_ours_tells_nothing_but_that(
    stage: ApiStage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    alice = await stage.program()
    monkeypatch.setattr(stage.services.context.cluster.templates, "values", lambda: 1 / 0)
    body = problem(await alice.get("/api/v1/templates"), 500, "unexpected")
    assert "division" not in str(body)
    assert "GET /api/v1/templates failed" in caplog.text


async def test_a_database_that_is_down_is_said(
    stage: ApiStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await stage.program()

    async def down(*_: object) -> None:
        raise DatabaseUnavailableError("postgresql://db:5432 refused")

    monkeypatch.setattr(stage.services.logins, "person_by_token", down)
    answer = await alice.get("/api/v1/templates")
    assert "5432" not in str(problem(answer, 503, "unavailable"))
    assert answer.headers["retry-after"] == "5"


async def test_without_redis_the_api_is_unavailable(
    stage: ApiStage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    alice = await stage.program()

    async def down(*_: object) -> int:
        raise SharedUnavailableError("Error 111 connecting to redis.internal:6379")

    monkeypatch.setattr(stage.services.context.shared, "count", down)
    answer = await alice.get("/api/v1/templates")
    assert "redis.internal" not in str(problem(answer, 503, "unavailable"))
    assert answer.headers["retry-after"] == "5"
    (record,) = caplog.records
    assert "redis.internal" in record.getMessage()
    assert record.exc_info is None


async def test_a_silent_redis_holds_up_no_queue_of_programs(
    stage: ApiStage, silent_redis: SilentRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The programs that are looked up wait for it; those behind them are refused at once."""
    monkeypatch.setattr(shared_state, "_LISTEN_AGAIN", 3600.0)
    programs = [await stage.program() for _ in range(5 * TOKEN_LOOKUPS)]
    monkeypatch.setattr(stage.services.context.shared, "count", silent_redis.shared.count)
    async with asyncio.timeout(PATIENCE):
        answers = await asyncio.gather(*(program.get("/api/v1/me") for program in programs))
    for answer in answers:
        problem(answer, 503, "unavailable")
        assert answer.headers["retry-after"] == "5"
    assert silent_redis.connections <= TOKEN_LOOKUPS + 1, "those that were looked up, and a ping"


async def test_token_has_few_requests_under_way_and_others_go_on(stage: ApiStage) -> None:
    alice = await stage.program()
    bob = await stage.program(BOB)
    requests = stage.services.token_requests
    token = alice.headers["authorization"].removeprefix("Bearer ")
    with ExitStack() as held:
        for _ in range(TOKEN_REQUESTS):
            held.enter_context(requests.enter(token))
        refused = await alice.get("/api/v1/templates")
        problem(refused, 429, "too-many-requests")
        assert refused.headers["retry-after"] == "1"
        assert (await bob.get("/api/v1/templates")).status_code == 200
    assert (await alice.get("/api/v1/templates")).status_code == 200
    assert len(requests) == 0


async def test_few_tokens_are_looked_up_at_a_time_and_pages_do_not_wait(stage: ApiStage) -> None:
    program = await stage.program()
    page = await stage.page()
    lookup = stage.services.token_requests.lookup
    for _ in range(TOKEN_LOOKUPS):
        await lookup.acquire()
    waiting = asyncio.create_task(program.get("/api/v1/templates"))
    assert (await page.get("/api/v1/templates")).status_code == 200
    assert not waiting.done()
    lookup.release()
    assert (await waiting).status_code == 200


async def test_agents_of_a_user_have_one_rate_over_all_tokens(stage: ApiStage) -> None:
    """Refused requests count, too; requests of the user's own are counted apart."""
    alice, again, bob = await stage.program(), await stage.program(), await stage.program(BOB)
    action = "/api/v1/sessions/no-desktop/computer"
    window = int(stage.clock.wall.timestamp()) // 60
    for _ in range(MAX_AGENT_REQUESTS - 2):
        await stage.services.context.shared.count(f"agents/alice@example.com/{window}", 60)
    for each in (alice, again):
        problem(await each.post(action, json={"action": "screenshot"}), 404, "not-found")
    for each in (alice, again):
        problem(await each.post(action, json={"action": "screenshot"}), 429, "too-many-requests")
    problem(await bob.post(action, json={"action": "screenshot"}), 404, "not-found")
    assert (await alice.get("/api/v1/templates")).status_code == 200


async def test_client_that_leaves_in_its_body_is_no_fault_of_ours(
    stage: ApiStage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def leave(_request: Request) -> AsyncIterator[bytes]:
        raise ClientDisconnect
        yield b""

    alice = await stage.program()
    monkeypatch.setattr(Request, "stream", leave)
    answer = await alice.post("/api/v1/sessions", json={"template": "ubuntu"})
    problem(answer, 400, "malformed")
    assert "failed" not in caplog.text
