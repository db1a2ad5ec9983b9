"""`/internal/ended`: only the operator is believed, only an end is taken, and 204 means that it is
written.
"""

import asyncio
import time
from typing import Any

import httpx
import msgspec
import pytest
from prometheus_client import generate_latest

from support.waiting import eventually
from unit.gateway.gateway_stage import GatewayStage
from unit.gateway.history_stage import Life, at, rows_of
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.gateway.token_review import (
    AUDIENCE,
    MOST_REFUSED,
    REMEMBERED,
    TOKEN_REVIEWS,
    RefusedTokens,
    TokenReview,
)
from vdi.kube.errors import Forbidden

OPERATOR = "system:serviceaccount:vdi-system:vdi-operator"


class Cluster:
    """The API server's side: which token is whose, and for whom."""

    def __init__(self) -> None:
        self.tokens = {
            "good": (OPERATOR, [AUDIENCE]),
            "other": ("system:serviceaccount:x:y", [AUDIENCE]),
        }
        # For the API server itself: none of the audiences that were asked for.
        self.tokens["api"] = (
            OPERATOR,
            [],
        )
        self.asked: list[str] = []
        self.refuses = False
        self.refused = 0
        self.answers = asyncio.Event()
        self.answers.set()

    async def create(
        self, resource: object, body: dict[str, Any], *, into: type[TokenReview]
    ) -> TokenReview:
        assert resource is TOKEN_REVIEWS
        assert body["spec"]["audiences"] == [AUDIENCE]
        if self.refuses:
            self.refused += 1
            raise Forbidden(403, "Forbidden", "tokenreviews is forbidden", request="POST")
        token = body["spec"]["token"]
        self.asked.append(token)
        await self.answers.wait()
        user, audiences = self.tokens.get(token, ("", []))
        status = {"authenticated": bool(user), "user": {"username": user}, "audiences": audiences}
        return msgspec.convert({"status": status}, into)


class EndReportStage(GatewayStage):
    def __init__(self) -> None:
        super().__init__(cluster=Cluster(), now=at(99))
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.internal), base_url="http://gateway:8081"
        )

    async def post(self, body: bytes, token: str | None = "Bearer good") -> httpx.Response:
        headers = {"Authorization": token} if token is not None else {}
        return await self.http.post("/internal/ended", content=body, headers=headers)


@pytest.fixture
def stage() -> EndReportStage:
    return EndReportStage()


def an_end(**meta: Any) -> bytes:
    life = Life()
    life.running_since(0)
    life.meta |= meta
    return msgspec.json.encode(life.ending(30))


async def test_204_means_that_it_is_written_and_again_it_is_the_same(stage: EndReportStage) -> None:
    for _ in range(3):
        assert (await stage.post(an_end())).status_code == 204
    (session,), (run,) = await rows_of(stage.database)
    assert (session.ended, session.end_reason, run.ended, run.ready) == (
        at(30),
        "deleted",
        at(30),
        at(1),
    )


async def test_a_token_is_not_asked_about_again_and_again(stage: EndReportStage) -> None:
    for token, status in (("good", 204), ("good", 204), ("bad", 403), ("bad", 403), ("good", 204)):
        assert (await stage.post(an_end(), f"Bearer {token}")).status_code == status
    assert stage.cluster.asked == ["good", "bad"]


async def test_made_up_tokens_cost_the_api_server_little(stage: EndReportStage) -> None:
    await stage.post(an_end())
    asked = (stage.post(an_end(), f"Bearer made-up-{number}") for number in range(100))
    statuses = [answer.status_code for answer in await asyncio.gather(*asked)]
    assert sorted(statuses) == [403] * MOST_REFUSED + [429] * (100 - MOST_REFUSED)
    assert len(stage.cluster.asked) == 1 + MOST_REFUSED
    assert (await stage.post(an_end())).status_code == 204, "the operator's token is known"


async def test_a_known_token_does_not_wait_behind_made_up_ones(stage: EndReportStage) -> None:
    assert (await stage.post(an_end())).status_code == 204
    stage.cluster.answers.clear()
    made_up = asyncio.create_task(stage.post(an_end(), "Bearer made-up"))
    await eventually(lambda: stage.cluster.asked[-1] == "made-up")
    async with asyncio.timeout(20):
        assert (await stage.post(an_end())).status_code == 204
    assert not made_up.done()
    stage.cluster.answers.set()
    assert (await made_up).status_code == 403


async def test_a_token_that_was_good_is_asked_about_at_the_limit(
    stage: EndReportStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await stage.post(an_end())).status_code == 204
    now = time.monotonic()
    monkeypatch.setattr("vdi.gateway.token_review.time.monotonic", lambda: now + REMEMBERED + 1)
    for number in range(MOST_REFUSED):
        assert (await stage.post(an_end(), f"Bearer made-up-{number}")).status_code == 403
    assert (await stage.post(an_end(), "Bearer one-more")).status_code == 429
    assert (await stage.post(an_end())).status_code == 204
    assert stage.cluster.asked.count("good") == 2


async def test_tokens_that_cannot_be_checked_are_counted(stage: EndReportStage) -> None:
    assert (await stage.post(an_end())).status_code == 204
    stage.cluster.refuses = True
    statuses = [
        (await stage.post(an_end(), f"Bearer made-up-{number}")).status_code
        for number in range(100)
    ]
    assert statuses == [503] * MOST_REFUSED + [429] * (100 - MOST_REFUSED)
    assert stage.cluster.refused == MOST_REFUSED
    assert (await stage.post(an_end())).status_code == 204


def test_refused_tokens_are_forgotten_within_a_memory_limit() -> None:
    refused = RefusedTokens()
    for number in range(5000):
        refused.add(b"%d" % number, f"10.0.{number // 250}.{number % 250}")
    assert refused.knows(b"4999") and not refused.knows(b"0")
    assert len(refused._tokens) == len(refused._addresses) == 1000


async def test_no_one_else_is_believed(stage: EndReportStage) -> None:
    for token in (None, "", "Bearer", "Bearer  ", "Basic Z29vZA==", "good"):
        assert (await stage.post(an_end(), token)).status_code == 401, token
    for token in ("Bearer bad", "Bearer other", "Bearer api"):
        assert (await stage.post(an_end(), token)).status_code == 403, token
    assert (await stage.http.get("/internal/ended")).status_code == 405
    assert await rows_of(stage.database) == ([], [])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not a valid end report"),
        (b"{}", "missing required field"),
        (b"[1]", "Expected `object`"),
        (an_end(namespace="kube-system"), "allowed: 'vdi-sessions'"),
        (an_end(uid=""), "metadata.uid is empty"),
        (an_end(creationTimestamp=""), "metadata.creationTimestamp is empty"),
        (an_end(creationTimestamp="yesterday"), "Invalid isoformat string"),
        (msgspec.json.encode(Life().created()), "is not ending"),
    ],
)
async def test_what_is_no_end_is_refused_in_words(
    stage: EndReportStage, body: bytes, words: str
) -> None:
    answer = await stage.post(body)
    assert (answer.status_code, words in answer.text) == (400, True), answer.text
    assert await rows_of(stage.database) == ([], [])


async def test_503_means_that_it_may_be_reported_again(
    stage: EndReportStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.cluster.refuses = True
    assert (await stage.post(an_end())).status_code == 503
    stage.cluster.refuses = False

    async def away(_session: object) -> None:
        raise DatabaseUnavailableError("the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(stage.history.recorder, "record_end", away)
        answer = await stage.post(an_end())
    assert (answer.status_code, answer.text) == (503, "the database is away\n")
    assert (await stage.post(an_end())).status_code == 204


async def test_what_others_ask_of_history(stage: EndReportStage) -> None:
    await stage.post(an_end())
    (past,) = await stage.history.past(limit=5, user="Alice@example.com")
    assert (past.session.name, [run.ended for run in past.runs]) == ("alice", [at(30)])
    assert await stage.history.past(limit=5, user="bob@example.com") == []
    assert await stage.history.past(limit=5, before=(past.session.created, past.session.uid)) == []
    assert await stage.history.past(limit=5, name="alice") == [past]
    assert await stage.history.session("uid-alice") == past
    assert await stage.history.session("uid-bob") is None
    assert (
        "vdi_gateway_recorder_lag_seconds 0.0"
        in generate_latest(stage.context.metrics.registry).decode()
    )
