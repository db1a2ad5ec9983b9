"""Requests to an agent: with its token, whole within their time, and cut at their size."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
import pytest
from aiohttp import web

from support.builders import a_session
from support.desktop_key import DATA, KEY, tokens_of
from support.waiting import PATIENCE, eventually
from support.web_server import serve_app
from vdi.api.session import VDISession
from vdi.gateway.denied import ActionDenied, BusyError
from vdi.gateway.desktop.agent import DesktopAgent, DesktopKey, poll_agents
from vdi.gateway.in_flight import (
    ACTION_ANSWER_BYTES,
    ANSWER_COPIES,
    PAGES,
    POLLS,
    SMALL_ANSWER_BYTES,
    USER_ANSWERS_BYTES,
)
from vdi.http_client import Response
from vdi.kube.errors import NotFound
from vdi.kube.http import BUFFER, Connection

SESSION = a_session()


@dataclass
class Secrets:
    """As much of kube.Client as is used."""

    data: dict[str, str] | None = field(default_factory=lambda: dict(DATA))
    read: int = 0

    async def get(self, resource: Any, name: str, *, namespace: str, into: Any) -> Any:
        self.read += 1
        if self.data is None:
            raise NotFound(404, "NotFound", "not found")
        return msgspec.convert({"data": self.data}, into)


@dataclass
class Stand:
    """An agent that answers as the test says."""

    secrets: Secrets = field(default_factory=Secrets)
    agent: DesktopAgent = field(init=False)
    status: int = 200
    asked: list[tuple[str, str]] = field(default_factory=list)
    hold: asyncio.Event | None = None
    begins: asyncio.Event | None = None
    size: int = 100
    is_chunked: bool = False

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((f"{request.method} {request.path}", request.headers["Authorization"]))
        if self.begins:
            await self.begins.wait()
        if self.hold is None:
            whole = web.Response(body=b"x" * self.size, status=self.status)
            if self.is_chunked:
                whole.enable_chunked_encoding()
            return whole
        answer = web.StreamResponse()
        answer.content_length = 2
        await answer.prepare(request)
        await answer.write(b"x")
        await self.hold.wait()
        return answer

    async def ask(
        self, *, seconds: float = 5.0, max_bytes: int = 100, held: AsyncExitStack | None = None
    ) -> Response:
        return await self.agent.ask(
            SESSION, "GET", "/thumbnail", seconds=seconds, max_bytes=max_bytes, held=held
        )


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    stand, app = Stand(), web.Application()
    app.router.add_route("*", "/{path:.*}", stand.serve)
    async with serve_app(app) as port:
        stand.agent = DesktopAgent(
            DesktopKey(cast(Any, stand.secrets), "vdi-system"), lambda _: f"http://127.0.0.1:{port}"
        )
        yield stand


async def test_the_token_goes_along_and_the_key_is_read_once(stand: Stand) -> None:
    for _ in range(2):
        assert await stand.ask() == Response(200, b"x" * 100)
    assert stand.asked == [("GET /thumbnail", f"Bearer {tokens_of().agent}")] * 2
    assert stand.secrets.read == 1


async def test_after_a_refusal_the_key_is_read_again(stand: Stand) -> None:
    await stand.ask()
    stand.status = 401
    stand.secrets.data = {"key": base64.b64encode(b"n" * 32).decode()}
    assert (await stand.ask()).status == 401
    await stand.agent.key.reread()
    await stand.ask()
    assert [token for _, token in stand.asked] == [
        f"Bearer {tokens_of(key=key).agent}" for key in (KEY, KEY, b"n" * 32)
    ]


@pytest.mark.parametrize("data", [None, {}])
async def test_a_key_that_cannot_be_read_again_still_counts(
    stand: Stand, data: dict[str, str] | None
) -> None:
    stand.status = 401
    await stand.ask()
    stand.secrets.data = data
    await stand.agent.key.reread()
    assert (await stand.ask()).status == 401


async def test_an_answer_has_a_largest_size(stand: Stand) -> None:
    with pytest.raises(ActionDenied, match="is too large"):
        await stand.ask(max_bytes=99)


async def test_an_answer_that_drips_ends_in_time(stand: Stand) -> None:
    stand.hold = asyncio.Event()
    with pytest.raises(ActionDenied, match="does not respond"):
        await stand.ask(seconds=0.2)
    stand.hold.set()


@pytest.mark.parametrize("data", [None, {}, {"key": "c2hvcnQ="}])
async def test_without_a_key_no_one_is_asked(stand: Stand, data: dict[str, str] | None) -> None:
    stand.secrets.data = data
    with pytest.raises(ActionDenied, match="is not known right now"):
        await stand.ask()
    assert stand.asked == []


async def test_an_action_may_be_silent_for_its_own_time(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdi.gateway.desktop.agent.SILENT_SECONDS", 0.01)
    stand.begins = asyncio.Event()
    asked = asyncio.create_task(stand.ask(seconds=PATIENCE))
    done, _ = await asyncio.wait([asked], timeout=0.2)
    stand.begins.set()
    assert not done, "longer than a silence of a request without a time of its own"
    assert (await asked).status == 200


@pytest.mark.parametrize("is_poll", [False, True], ids=["users", "polls"])
async def test_neither_polls_nor_users_take_the_turns_of_the_other(
    stand: Stand, is_poll: bool
) -> None:
    taken, free = (PAGES, POLLS) if is_poll else (POLLS, PAGES)
    answers: list[Response] = []

    async def poll(session: VDISession) -> None:
        answers.append(await stand.ask())
        work.cancel()

    with ExitStack() as full:
        for number in range(taken.most):
            uid = f"uid-{number}"
            full.enter_context(stand.agent.limits.enter(taken, uid, "another", uid))
        if is_poll:
            work = asyncio.create_task(poll_agents("tests", lambda: [SESSION], poll, 0.0))
            await asyncio.wait([work], timeout=PATIENCE)
        else:
            answers.append(await stand.ask())
        assert [answer.status for answer in answers] == [200]
        uid = SESSION.metadata.uid
        for _ in range(free.each):
            full.enter_context(stand.agent.limits.enter(free, uid, "desk", "alice"))
        with pytest.raises(BusyError), stand.agent.limits.enter(free, uid, "desk", "alice"):
            pass


async def test_bytes_of_a_large_answer_are_reserved_until_the_end(stand: Stand) -> None:
    stand.size = SMALL_ANSWER_BYTES + 1
    async with AsyncExitStack() as held:
        await stand.ask(max_bytes=ACTION_ANSWER_BYTES, held=held)
        assert len(stand.agent.answers) == ANSWER_COPIES * stand.size
        assert len(stand.agent.limits) == 1
    assert len(stand.agent.answers) == len(stand.agent.limits) == 0


async def test_answer_without_a_length_is_refused(stand: Stand) -> None:
    """Its bytes could not be reserved before they come."""
    stand.is_chunked = True
    with pytest.raises(ActionDenied, match="its length is not in its header"):
        await stand.ask()


async def test_no_more_than_a_buffer_is_read_before_bytes_are_free(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand.size, seen = 4 << 20, []
    paused: Any = Connection.pause

    def note(connection: Connection) -> None:
        paused(connection)
        seen.append(connection)

    monkeypatch.setattr(Connection, "pause", note)
    async with AsyncExitStack() as others:
        await stand.agent.answers.reserve(others, SESSION.spec.user, USER_ANSWERS_BYTES)
        asked = asyncio.create_task(stand.ask(max_bytes=stand.size))
        await eventually(lambda: bool(seen), "the header is there", PATIENCE)
        await asyncio.wait([asked], timeout=0.2)
        assert seen[0]._waiting <= 2 * BUFFER
    assert len((await asked).body) == stand.size


async def test_a_poll_holds_the_bytes_of_one_answer_at_a_time(stand: Stand) -> None:
    stand.size, reserved = 1 << 20, []

    async def poll(session: VDISession) -> None:
        for _ in range(2):
            await stand.ask(max_bytes=1 << 20)
            reserved.append(len(stand.agent.polled))
        work.cancel()

    work = asyncio.create_task(poll_agents("tests", lambda: [SESSION], poll, 0.0))
    await asyncio.wait([work], timeout=PATIENCE)
    assert reserved == [ANSWER_COPIES << 20] * 2
    assert len(stand.agent.polled) == len(stand.agent.answers) == len(stand.agent.limits) == 0


async def test_a_poll_that_pauses_holds_nothing(stand: Stand) -> None:
    stand.size, polled = 1 << 20, []

    async def poll(session: VDISession) -> float:
        await stand.ask(max_bytes=1 << 20)
        polled.append(len(stand.agent.polled))
        return PATIENCE

    work = asyncio.create_task(poll_agents("tests", lambda: [SESSION], poll, 0.0))
    await eventually(lambda: bool(polled) and len(stand.agent.polled) == 0, "it pauses", PATIENCE)
    assert polled == [ANSWER_COPIES << 20]
    assert len(stand.agent.limits) == 0
    work.cancel()


async def test_poll_that_drips_gives_its_bytes_back(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdi.gateway.desktop.agent.POLLED_SECONDS", 0.05)
    stand.hold, failed = asyncio.Event(), asyncio.Event()

    async def poll(session: VDISession) -> None:
        try:
            await stand.ask(seconds=PATIENCE)
        except ActionDenied:
            failed.set()
            raise

    work = asyncio.create_task(poll_agents("tests", lambda: [SESSION], poll, 0.0))
    async with asyncio.timeout(PATIENCE):
        await failed.wait()
    await eventually(lambda: len(stand.agent.polled) == 0, "its bytes are free")
    stand.hold.set()
    work.cancel()


async def test_fault_with_one_desktop_ends_no_poll(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vdi.gateway.desktop.agent.POLL_AGAIN_SECONDS", 0.01)
    turns: list[str] = []

    async def poll(session: VDISession) -> None:
        turns.append(session.metadata.name)
        raise TypeError("a fault")

    work = asyncio.create_task(poll_agents("tests", lambda: [SESSION], poll, 0.01))
    await eventually(lambda: len(turns) > 2, "it is polled again")
    assert not work.done()
    assert "TypeError: a fault" in caplog.text
    work.cancel()
