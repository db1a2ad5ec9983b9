"""Ends that are reported to the gateway: once, by a queue of their own, and never in the way of a
session for long.
"""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from support.web_server import serve_app
from unit.operator.operator_world import NAMESPACE, OperatorWorld
from vdi.api.session import VDISession
from vdi.kube.queue import Result
from vdi.operator.end_reports import PAUSE, EndReports

KEY = (NAMESPACE, "alice")
DELETED = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)


class Gateway:
    """The gateway's endpoint for ended sessions."""

    def __init__(self) -> None:
        self.answer = 204
        self.received: list[tuple[str, dict[str, Any]]] = []

    async def ended(self, request: web.Request) -> web.Response:
        self.received.append((request.headers["Authorization"], await request.json()))
        return web.Response(status=self.answer, text="" if self.answer == 204 else "not now")


class EndReportWorld(OperatorWorld):
    """A deleted session, and the controllers that report it and that wait for the report."""

    def __init__(self, url: str, token_file: Path) -> None:
        super().__init__(start=DELETED)
        self.sessions = self.caches.sessions
        self.telling, self.waiting = self.new_controller("history"), self.new_controller("session")
        self.reports = EndReports(
            url,
            token_file,
            self.sessions,
            self.recorder,
            self.clock,
            enqueue_report=self.telling.enqueue,
            enqueue_session=self.waiting.enqueue,
        )

    def session(self, uid: str = "u1") -> VDISession:
        return self.put_session(metadata={"uid": uid, "deletionTimestamp": "2026-11-20T08:00:00Z"})


@pytest.fixture
async def gateway() -> Gateway:
    return Gateway()


@pytest.fixture
async def world(gateway: Gateway, tmp_path: Path) -> AsyncIterator[EndReportWorld]:
    app = web.Application()
    app.add_routes([web.post("/internal/ended", gateway.ended)])
    (tmp_path / "token").write_text("t0ken\n")
    async with serve_app(app) as port:
        yield EndReportWorld(f"http://127.0.0.1:{port}", tmp_path / "token")


async def test_session_waits_for_its_report_which_is_sent_once(
    world: EndReportWorld, gateway: Gateway
) -> None:
    session = world.session()
    assert world.reports.seconds_to_wait(session) == 60
    assert len(world.telling.queue) == 1
    for _ in range(3):
        assert await world.reports.report(KEY) == Result()
    ((bearer, reported),) = gateway.received
    assert bearer == "Bearer t0ken"
    assert msgspec.convert(reported, VDISession) == session
    assert len(world.waiting.queue) == 1
    assert world.reports.seconds_to_wait(session) is None
    assert world.said == []


@pytest.mark.parametrize("status", [401, 403, 404, 500, 503, 302, 200])
async def test_any_answer_but_204_is_retried(
    world: EndReportWorld, gateway: Gateway, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.answer = status
    session = world.session()
    world.reports.seconds_to_wait(session)
    await world.telling.queue.take()
    for _ in range(2):
        assert await world.reports.report(KEY) == Result(requeue_after=PAUSE)
    assert world.reports.seconds_to_wait(session) == 60
    assert len(world.telling.queue) == 0, "another look does not hurry the next try"
    (line,) = caplog.messages
    assert f"responds with {status} (not now)" in line
    gateway.answer = 204
    assert await world.reports.report(KEY) == Result()
    assert world.reports.seconds_to_wait(session) is None


async def test_session_ends_unreported_after_a_minute_with_an_event(
    world: EndReportWorld, gateway: Gateway
) -> None:
    gateway.answer = 503
    session = world.session()
    world.reports.seconds_to_wait(session)
    await world.reports.report(KEY)
    world.clock.wall = DELETED + timedelta(seconds=60)
    assert await world.reports.report(KEY) == Result()
    for _ in range(2):
        assert world.reports.seconds_to_wait(session) is None
    ((_, reason, note),) = world.said
    assert reason == "HistoryNotRecorded"
    assert "within 60 s" in note and "responds with 503 (not now)" in note


async def test_missing_gateway_and_missing_token_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = EndReportWorld("http://127.0.0.1:1", tmp_path / "token")
    world.reports.seconds_to_wait(world.session())
    assert (await world.reports.report(KEY)).requeue_after == PAUSE
    (tmp_path / "token").write_text("t")
    assert (await world.reports.report(KEY)).requeue_after == PAUSE
    assert "cannot be read (No such file or directory)" in caplog.messages[0]
    assert "http://127.0.0.1:1 does not respond" in caplog.messages[1]


async def test_new_session_of_the_same_name_is_reported_too(
    world: EndReportWorld, gateway: Gateway
) -> None:
    first = world.session()
    world.reports.seconds_to_wait(first)
    await world.reports.report(KEY)
    world.sessions.observe_deleted(first)
    second = world.session("u2")
    assert world.reports.seconds_to_wait(second) == 60
    await world.reports.report(KEY)
    assert [reported["metadata"]["uid"] for _, reported in gateway.received] == ["u1", "u2"]
    assert world.reports.seconds_to_wait(second) is None


async def test_session_that_is_gone_is_not_reported_or_kept(
    world: EndReportWorld, gateway: Gateway
) -> None:
    session = world.session()
    world.reports.seconds_to_wait(session)
    world.sessions.observe_deleted(session)
    assert await world.reports.report(KEY) == Result()
    assert gateway.received == []
    assert world.reports._done == {}, "nothing is kept of it"
