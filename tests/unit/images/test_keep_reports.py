"""keep_reports.py of the desktop image: a report is sent until the agent has it; what does not fit
is counted.

Selkies' module `audit` is played by a namespace with the same names; `test_streaming_transfers.py`
has the real one.
"""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from support.waiting import eventually
from support.web_server import serve_app
from unit.images.image_scripts import load_library


class Agent:
    """Takes reports, or answers them with `problem`; a status, or None for a connection that
    ends.
    """

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.tries = 0
        self.problem: int | None = 200

    async def answer(self, request: web.Request) -> web.Response:
        self.tries += 1
        assert request.headers["Authorization"] == "Bearer token"
        if self.problem is None:
            assert request.transport
            request.transport.close()
        if self.problem == 200:
            self.taken.append(await request.json())
        return web.Response(status=self.problem or 200)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    loaded = load_library("keep_reports")
    monkeypatch.setattr(loaded, "AGAIN_SECONDS", 0.01)
    return loaded


@pytest.fixture
def agent() -> Agent:
    return Agent()


async def run(module: Any, agent: Agent, body: Any, bound: int = 1024) -> None:
    """Deliver what `body` puts into the queue."""
    app = web.Application()
    app.router.add_post("/transfers", agent.answer)
    async with serve_app(app) as port:
        settings = SimpleNamespace(
            audit_webhook_url=f"http://127.0.0.1:{port}/transfers",
            audit_webhook_token="token",
            audit_webhook_timeout=2.0,
        )
        audit = SimpleNamespace(
            settings=settings, _deliver=None, _dropped=0, _overflowing=False, _closing=False
        )
        audit.rfc3339 = lambda seconds: f"at {seconds}"
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(bound)
        module.keep_reports(audit)
        sender = asyncio.create_task(audit._deliver(queue))
        await body(audit, queue)
        sender.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sender


@pytest.mark.parametrize("problem", [None, 503])
async def test_report_is_sent_until_the_agent_has_it(
    module: Any, agent: Agent, problem: int | None
) -> None:
    async def body(_audit: Any, queue: Any) -> None:
        agent.problem = problem
        for number in range(3):
            queue.put_nowait({"event": "clipboard.send", "ts": number})
        await eventually(lambda: agent.tries > 3, "tries", 10)
        agent.problem = 200
        await eventually(lambda: len(agent.taken) == 3, "all reports", 10)

    await run(module, agent, body)
    assert [(report["ts"], report["report"]) for report in agent.taken] == [
        ("at 0", 1),
        ("at 1", 2),
        ("at 2", 3),
    ]


async def test_what_did_not_fit_is_counted_with_its_time(module: Any, agent: Agent) -> None:
    async def body(audit: Any, queue: Any) -> None:
        queue.put_nowait({"event": "clipboard.send", "ts": 1})
        audit._dropped, audit._overflowing = 7, True
        await eventually(lambda: len(agent.taken) == 2, "the number", 10)
        assert (audit._dropped, audit._overflowing) == (0, False)

    await run(module, agent, body)
    assert (agent.taken[1]["event"], agent.taken[1]["count"]) == ("audit.dropped", 7)
    assert agent.taken[1]["seconds"] >= 0


async def test_report_that_is_refused_does_not_hold_up_others(module: Any, agent: Agent) -> None:
    async def body(_audit: Any, queue: Any) -> None:
        agent.problem = 400
        queue.put_nowait({"event": "unknown", "ts": 1})
        await eventually(lambda: agent.tries == 1, "a try", 10)
        agent.problem = 200
        queue.put_nowait({"event": "clipboard.send", "ts": 2})
        await eventually(lambda: len(agent.taken) == 1, "the next report", 10)

    await run(module, agent, body)


def test_another_release_of_selkies_is_refused(module: Any) -> None:
    with pytest.raises(SystemExit, match="reports transfers otherwise"):
        module.keep_reports(SimpleNamespace(_deliver=None))
