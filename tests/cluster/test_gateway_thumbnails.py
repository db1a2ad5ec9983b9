"""The small picture of a desktop, through the real gateway and operator from an agent that the test plays."""

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web
from PIL import Image

from cluster.desktop_agent import Agent, run_desktop
from cluster.gateway_stage import open_gateway_stage
from cluster.operator_stage import Stage
from support.waiting import eventually
from support.web_server import serve_app
from vdi.gateway.desktop_agent import AGENT_PORT
from vdi.kinds import SESSIONS, TEMPLATES

ADDRESS = "127.31.0.9"
PATH = "/desktops/mine/thumbnail"


def a_jpeg() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (320, 180), "teal").save(data, "JPEG")
    return data.getvalue()


@dataclass
class ScreenAgent:
    """Answers `GET /thumbnail` on the agent's port."""

    picture: bytes = field(default_factory=a_jpeg)
    tokens: list[str] = field(default_factory=list)

    async def thumbnail(self, request: web.Request) -> web.Response:
        self.tokens.append(request.headers.get("Authorization", ""))
        return web.Response(body=self.picture, content_type="text/html")

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["ScreenAgent"]:
        app = web.Application()
        app.add_routes([web.get("/thumbnail", self.thumbnail)])
        async with serve_app(app, ADDRESS, AGENT_PORT):
            yield self


async def test_the_owner_of_a_running_desktop_gets_its_picture(stage: Stage, tmp_path: Path) -> None:
    template = await stage.template()
    async with (
        ScreenAgent().serve() as agent,
        open_gateway_stage(stage, tmp_path) as gateway,
        stage.operator(),
    ):
        alice = await gateway.log_in("alice@example.com")
        bob = await gateway.log_in("bob@example.com")
        root = await gateway.log_in("root@example.com")
        await stage.session("mine", template)
        assert (await alice.get(PATH)).status_code in (404, 204), (
            "the gateway has not heard of it, or it does not run yet"
        )
        await run_desktop(stage, "mine", Agent(ADDRESS))

        async def runs() -> bool:
            return PATH in (await alice.get("/")).text

        await eventually(runs, "the card has a place for the picture")
        answer = await alice.get(PATH)
        assert (answer.status_code, answer.content) == (200, agent.picture)
        assert answer.headers["content-type"] == "image/jpeg", "whatever the agent calls it"
        assert answer.headers["cache-control"] == "no-store"
        assert len(agent.tokens) == 1
        assert len(agent.tokens[0]) > len("Bearer ") + 16, "the token of the session's Secret"

        access = [{"user": "bob@example.com", "role": "collaborator"}]
        await stage.patch(SESSIONS, "mine", {"spec": {"access": access}})

        async def knows_bob() -> bool:
            return "mine" in (await bob.get("/shared")).text

        await eventually(knows_bob, "bob sees the desktop")
        assert [(await person.get(PATH)).status_code for person in (bob, root)] == [403, 403]
        assert (await (await gateway.browser()).get(PATH)).status_code == 401
        assert len(agent.tokens) == 1, "no one else's request reaches the desktop"

        await stage.api.patch(TEMPLATES, template, {"spec": {"thumbnails": False}}, into=dict)

        async def is_off() -> bool:
            return (await alice.get(PATH)).status_code == 204

        await eventually(is_off, "the template has switched it off")
        assert PATH not in (await alice.get("/")).text
