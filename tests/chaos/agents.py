"""Plays the agents in all desktops: no one has touched anything for a long time, and every notice
is shown.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from support.web_server import serve_app

PORT = 8082
# Loopback, and this run's own: the desktops' pod address.
ADDRESS = f"127.{64 + os.getpid() % 64}.{os.getpid() // 64 % 250}.{os.getpid() // 16000 + 2}"


@asynccontextmanager
async def agents() -> AsyncIterator[None]:
    """Answer while the context lasts."""

    async def activity(_request: web.Request) -> web.Response:
        return web.json_response({"idleSeconds": 1e6, "viewers": 0, "connects": 0})

    async def notice(_request: web.Request) -> web.Response:
        return web.json_response({})

    app = web.Application()
    app.router.add_get("/activity", activity)
    app.router.add_post("/notice", notice)
    async with serve_app(app, ADDRESS, PORT):
        yield
