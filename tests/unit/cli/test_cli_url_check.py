"""Whether the URL answers: what the answers mean, and where `*.localhost` is."""

import pytest
from aiohttp import web

from support.hostile_server import DRIP, serve_answer
from support.web_server import serve_app
from vdi.cli.session import wait
from vdi.cli.session.wait import interpret, wait_until_ready


@pytest.mark.parametrize(
    ("status", "ready"),
    [(200, True), (302, True), (401, True), (404, False), (500, False), (502, False), (503, False)],
)
def test_the_proxy_s_own_answers_are_not_the_desktop_s(status: int, ready: bool) -> None:
    answer = interpret(status)
    assert (answer.reached, answer.ready) == (True, ready)


def test_a_gateway_asks_for_the_login() -> None:
    assert interpret(401, by_gateway=True).text == "responds, and asks for the login"


async def test_it_asks_until_the_desktop_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "_POLL_SECONDS", 0.0)
    statuses = iter([404, 502, 401])

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=next(statuses))

    app = web.Application()
    app.router.add_get("/", answer)
    async with serve_app(app) as port:
        found = await wait_until_ready(f"http://alice.vdi.localhost:{port}", 5.0)
    assert (found.ready, found.text) == (True, "responds, and asks for the password")
    assert list(statuses) == []


async def test_a_host_that_no_one_serves_is_given_up_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "_UNREACHABLE_AFTER_SECONDS", 0.0)
    answer = await wait_until_ready("http://alice.vdi.localhost:1", 60.0)
    assert (answer.reached, answer.ready) == (False, False)
    assert "cannot be reached from this machine" in answer.text


async def test_a_header_that_drips_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "_ONE_REQUEST_SECONDS", 0.2)
    async with serve_answer(DRIP) as server:
        answer = await wait_until_ready(server.url, 0.0)
    assert answer.text == "does not respond: no response in time"
