"""The agent of a desktop, played by the test on an address of its own."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from cluster.operator_stage import Object, Stage
from support.web_server import serve_app
from vdi.kinds import SESSIONS
from vdi.kube.resource import PODS


class Agent:
    """The agent of one desktop, on an address of its own."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.port = 0
        self.status = 200
        self.last_input = time.time()
        self.asked = 0
        self.tokens: set[str] = set()
        self.notices: list[dict[str, Any]] = []
        self.graphics: dict[str, Any] | None = None

    def touch(self) -> None:
        """Somebody presses a key."""
        self.last_input = time.time()

    async def activity(self, request: web.Request) -> web.Response:
        self.asked += 1
        self.tokens.add(request.headers["Authorization"])
        report: dict[str, Any] = {
            "idleSeconds": time.time() - self.last_input,
            "viewers": 1,
            "connectedSeconds": None,
        }
        if self.graphics:
            report["graphics"] = self.graphics
        return web.json_response(report, status=self.status)

    async def notice(self, request: web.Request) -> web.Response:
        self.notices.append(await request.json())
        return web.json_response({})

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["Agent"]:
        app = web.Application()
        app.add_routes([web.get("/activity", self.activity), web.post("/notice", self.notice)])
        async with serve_app(app, self.address) as self.port:
            yield self


async def run_desktop(stage: Stage, name: str, agent: Agent) -> Object:
    """The session's pod runs where its agent listens."""
    session = await stage.get(SESSIONS, name)
    assert session
    pod = await stage.pod_of(session)
    where = {"podIP": agent.address, "podIPs": [{"ip": agent.address}]}
    await stage.patch(PODS, pod["metadata"]["name"], {"status": where}, subresource="status")
    await stage.make_ready(pod)
    return await stage.reach(name, "Running")
