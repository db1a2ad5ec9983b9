"""Whose host it is, how much may be sent, and what is counted."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import httpx
import pytest
from prometheus_client import generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message

from support.waiting import PATIENCE, eventually
from vdi.gateway.database_wait import DatabaseWait
from vdi.gateway.metrics import Metrics
from vdi.gateway.settings import Settings
from vdi.gateway.web import middleware
from vdi.gateway.web.middleware import (
    ANONYMOUS_BODY,
    AUTHENTICATED,
    BodyLimit,
    HostRouter,
    RequestMetrics,
)
from vdi.gateway.web.render import ErrorPages


def client_of(app: ASGIApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://portal.vdi.localhost"
    )


def says(words: str) -> ASGIApp:
    async def answer(request: Request) -> Response:
        return PlainTextResponse(f"{words} {request.url}")

    return Starlette(routes=[Route("/{path:path}", answer)])


def a_door(*, ready: bool = True) -> HostRouter:
    settings = Settings(url_port=8443)
    return HostRouter(
        settings,
        portal=says("portal"),
        desktops=says("desktop"),
        ready=lambda: ready,
        starting=DatabaseWait(),
    )


HOSTS: dict[str, tuple[str, ...]] = {
    "portal": ("portal.vdi.localhost", "portal.vdi.localhost:8443", "PORTAL.VDI.localhost"),
    "desktop": ("alice-desktop.vdi.localhost:8443", "x" * 63 + ".vdi.localhost"),
    "": (
        "x" * 64 + ".vdi.localhost",
        *(f"{name}vdi.localhost" for name in ("", ".", "evil", "-a.", "a.portal.", "p\u00f6rtal.")),
        *(
            f"portal.vdi.localhost{rest}"
            for rest in (".", ".evil.example", ":x", ":8443@evil.example")
        ),
        "",
    ),
}


@pytest.mark.parametrize(
    ("host", "answer"), [(host, answer) for answer, hosts in HOSTS.items() for host in hosts]
)
async def test_each_host_has_its_own_pages_and_no_one_else_s(host: str, answer: str) -> None:
    async with client_of(a_door()) as client:
        got = await client.get("/x", headers=[(b"Host", host.encode("latin-1"))])
    assert got.status_code == (200 if answer else 421)
    assert not answer or got.text.startswith(f"{answer} https://")


async def test_two_hosts_are_no_one_s() -> None:
    hosts = [("Host", "portal.vdi.localhost"), ("Host", "x.vdi.localhost")]
    async with client_of(a_door()) as client:
        assert (await client.get("/", headers=hosts)).status_code == 421


async def test_no_one_is_let_in_before_the_gateway_has_begun() -> None:
    async with client_of(a_door(ready=False)) as client:
        got = await client.get("/")
    assert (got.status_code, got.headers["retry-after"]) == (503, "5")


def echo() -> BodyLimit:
    async def answer(request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    async def ignore(_request: Request) -> Response:
        return PlainTextResponse("not read")

    routes = [Route("/", answer, methods=["POST"]), Route("/ignore", ignore, methods=["POST"])]
    return BodyLimit(
        Starlette(routes=routes, exception_handlers=ErrorPages(Settings()).handlers()), 100
    )


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_a_body_of_reported_length_is_refused_before_it_comes() -> None:
    async with client_of(echo()) as client:
        assert (await client.post("/", content=b"x" * 100)).text == "100"
        answer = await client.post("/", content=b"x" * 101)
        assert (await client.post("/ignore", content=b"x" * 101)).text == "not read", (
            "who reads none needs no limit"
        )
    assert (answer.status_code, answer.headers["connection"]) == (413, "close")
    assert "100 bytes" in answer.text


async def test_a_body_of_untold_length_is_refused_when_it_is_too_much() -> None:
    async with client_of(echo()) as client:
        assert (await client.post("/", content=chunks(b"x" * 60, b"x" * 40))).text == "100"
        assert (await client.post("/", content=chunks(b"x" * 60, b"x" * 41))).status_code == 413


@pytest.mark.parametrize("length", ["-1", "1e3", "+5", " 7", "\u0663", "9" * 5000])
async def test_a_length_that_is_none_is_refused(length: str) -> None:
    async with client_of(echo()) as client:
        headers = {"Content-Length": length.encode()}
        assert (await client.post("/", content=chunks(b"x"), headers=headers)).status_code == 413  # type: ignore[arg-type]


async def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.02)
    sent: list[Message] = []

    async def receive() -> Message:
        if not sent:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "headers": [],
        "query_string": b"",
    }
    await echo()(scope, receive, send)
    assert sent[0]["status"] == 408


async def test_a_body_of_more_than_4_kib_needs_a_login() -> None:
    def answer(known: bool) -> ASGIApp:
        async def read(request: Request) -> Response:
            request.scope[AUTHENTICATED] = known
            return PlainTextResponse(str(len(await request.body())))

        handlers = ErrorPages(Settings()).handlers()
        return BodyLimit(
            Starlette(routes=[Route("/", read, methods=["POST"])], exception_handlers=handlers),
            10_000,
        )

    for known, most in ((False, ANONYMOUS_BODY), (True, 10_000)):
        async with client_of(answer(known)) as client:
            assert (await client.post("/", content=b"x" * most)).text == str(most)
            refusals = [
                await client.post("/", content=body)
                for body in (b"x" * (most + 1), chunks(b"x" * most, b"x"))
            ]
            assert {refusal.status_code for refusal in refusals} == {413}
            assert all(f"{most} bytes" in refusal.text for refusal in refusals)


async def test_the_oldest_unfinished_body_is_given_up_where_there_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each takes one of the listener's connections; somebody who signs in is never the oldest."""
    monkeypatch.setattr(middleware, "MOST_UNFINISHED", 2)
    app, answered, waiting = echo(), [], []

    def is_waiting(bodies: int) -> bool:
        return len(app._unfinished) == bodies

    async def ask(number: int, parts: asyncio.Queue[Message]) -> None:
        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered.append((number, message["status"]))

        scope: dict[str, Any] = {
            "type": "http",
            "method": "POST",
            "path": "/",
            "headers": [],
            "query_string": b"",
        }
        await app(scope, parts.get, send)

    async with asyncio.timeout(PATIENCE):
        for number in range(4):
            parts: asyncio.Queue[Message] = asyncio.Queue()
            waiting.append((parts, asyncio.create_task(ask(number, parts))))
            await eventually(partial(is_waiting, min(number + 1, 2)))
            # It is not younger for that.
            parts.put_nowait({"type": "http.request", "body": b"x", "more_body": True})
            await eventually(parts.empty)
        await eventually(lambda: answered == [(0, 408), (1, 408)])
        for parts, task in waiting[2:]:
            parts.put_nowait({"type": "http.request", "body": b"", "more_body": False})
            await task
    assert answered[2:] == [(2, 200), (3, 200)]
    assert not app._unfinished


async def test_a_browser_that_leaves_in_a_body_is_no_error_of_the_gateway(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        """No one reads it."""

    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "headers": [],
        "query_string": b"",
    }
    await echo()(scope, receive, send)
    assert not caplog.records


async def test_a_complete_body_may_wait_for_its_response(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the body, `receive` tells of the browser's leaving: a stream listens to that for
    hours.
    """
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.01)
    messages = [{"type": "http.request", "body": b"", "more_body": False}]
    left = asyncio.Event()

    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        assert (await receive())["type"] == "http.request"
        waiting = asyncio.create_task(receive())
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert not done
        left.set()
        assert (await waiting)["type"] == "http.disconnect"

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(_message: Message) -> None:
        raise AssertionError

    await BodyLimit(app, 10)({"type": "http", "headers": []}, receive, send)


async def test_answers_are_counted_by_route_never_by_what_was_asked() -> None:
    async def page(request: Request) -> Response:
        if request.path_params["name"] == "bad":
            raise RuntimeError
        return PlainTextResponse("x", 201)

    metrics = Metrics()
    app = RequestMetrics(Starlette(routes=[Route("/desktops/{name}", page)]), metrics, "public")
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        for path in ("/desktops/a", "/desktops/b", "/desktops/bad", "/nowhere/1", "/nowhere/2"):
            await client.get(path)
        await client.request("WHATEVER", "/desktops/a")
    text = generate_latest(metrics.registry).decode()
    name = "vdi_gateway_requests_total"
    assert f'{name}{{code="201",method="GET",route="public:/desktops/{{name}}"}} 2.0' in text
    assert f'{name}{{code="500",method="GET",route="public:/desktops/{{name}}"}} 1.0' in text
    assert f'{name}{{code="404",method="GET",route="public:none"}} 2.0' in text
    assert f'{name}{{code="405",method="other",route="public:/desktops/{{name}}"}} 1.0' in text
