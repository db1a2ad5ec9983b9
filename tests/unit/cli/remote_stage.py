"""A real gateway's API and login, served over TLS on loopback in a thread of its own, for commands
to talk to.

One server for all tests, with a gateway of its own behind it for each: a server takes a tenth of a
second to end.
"""

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from support.csrf import csrf_of
from support.waiting import PATIENCE, eventually
from support.web_server import listen
from unit.cli.fake_cluster import InThread
from unit.gateway.api_stage import ALICE, ApiStage
from unit.gateway.gateway_stage import PORTAL
from vdi.devcluster.credentials import authority
from vdi.gateway.login.logins import Device, Identity
from vdi.gateway.settings import Settings
from vdi.gateway.web.credentials import LOGIN_COOKIE
from vdi.gateway.web.render import ErrorPages

T = TypeVar("T")


class RemoteGateway(InThread):
    """The gateway, and what tests do with it from their own thread."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._authority = authority(folder, "ca", "A test's own authority")
        self.ca = self._authority.file
        self.url = ""
        self.stage: ApiStage | None = None
        self._server: uvicorn.Server | None = None
        self._app: ASGIApp = Starlette()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run in the gateway's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def call(self, work: Callable[[ApiStage], T]) -> T:
        """The same for what does not wait."""

        async def run() -> T:
            return work(self.there)

        return self.do(run())

    @property
    def there(self) -> ApiStage:
        assert self.stage is not None
        return self.stage

    async def log_in(self, who: Identity) -> str:
        """The cookie of a new login in a browser."""
        secret, _ = await self.there.services.logins.begin(who, Device())
        return secret

    def api_token(self, who: Identity) -> str:
        """A new one, as a program sends it."""

        async def make() -> str:
            client = await self.there.program(who)
            return str(client.headers["authorization"]).removeprefix("Bearer ")

        return self.do(make())

    async def agree(self, address: str, who: Identity = ALICE) -> httpx.Response:
        """What a person's browser does with the address that `vdi login` opens."""
        async with self.browser(await self.log_in(who)) as browser:
            page = await browser.get(address.removeprefix(self.url))
            assert page.status_code == 200, page.text
            fields = dict(httpx.URL(address).params)
            fields["csrf"] = csrf_of(page.text)
            return await browser.post("/cli/authorize", data=fields, headers={"Origin": PORTAL})

    @asynccontextmanager
    async def browser(self, cookie: str) -> AsyncIterator[httpx.AsyncClient]:
        """A browser that trusts the test's authority, and sends the cookie wherever it goes."""
        trust = ssl.create_default_context(cafile=self.ca)
        headers = {"Accept": "text/html", "Cookie": f"{LOGIN_COOKIE}={cookie}"}
        async with httpx.AsyncClient(
            verify=trust,
            base_url=f"https://127.0.0.1:{httpx.URL(self.url).port}",
            headers=headers,
            trust_env=False,
        ) as browser:
            yield browser

    @contextmanager
    def with_stage(self, folder: Path) -> Iterator["RemoteGateway"]:
        """A gateway without people and sessions behind the same address, until the context ends."""
        ready, stop = threading.Event(), asyncio.Event()
        playing = asyncio.run_coroutine_threadsafe(self._play(folder, ready, stop), self._loop)
        try:
            assert ready.wait(PATIENCE), "the gateway has not started"
            yield self
        finally:
            self._loop.call_soon_threadsafe(stop.set)
            playing.result(2 * PATIENCE)  # longer than it waits for the last request

    async def _serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        issued = self._authority.issue(
            "server",
            "portal.vdi.localhost",
            names=["portal.vdi.localhost", "127.0.0.1"],
            server=True,
        )
        with listen() as listening:
            self.url = f"https://portal.vdi.localhost:{listening.getsockname()[1]}"
            config = uvicorn.Config(
                self._answer, ssl_certfile=issued[0], ssl_keyfile=issued[1], log_level="critical", lifespan="off",
                interface="asgi3", timeout_graceful_shutdown=1,
            )  # fmt: skip
            self._server = uvicorn.Server(config)
            serving = asyncio.create_task(self._server.serve([listening]))
            ready.set()
            await stop.wait()
            await finish_accepting(listening)
            self._server.should_exit = True
            # Once, on a busy machine, it did not end.
            _, running = await asyncio.wait({serving}, timeout=5)
            for task in running:
                task.cancel()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    async def _play(self, folder: Path, ready: threading.Event, stop: asyncio.Event) -> None:
        async with ApiStage() as stage:
            self.stage = stage
            routes = [*stage.login.portal_routes(), *stage.api.portal_routes()]
            self._app = Starlette(
                routes=routes, exception_handlers=ErrorPages(Settings()).handlers()
            )
            ready.set()
            await stop.wait()
            stage.services.context.stopping.set()
            server = self._server
            assert server is not None
            await eventually(lambda: not server.server_state.tasks, "the last request is answered")


async def finish_accepting(listening: socket.socket) -> None:
    """Accept no one any more, and wait for whom is being accepted.

    asyncio's server, once closed, loses a connection between accept() and its transport: its socket
    stays open.
    """
    asyncio.get_running_loop().remove_reader(listening)
    if accepting := {
        task for task in asyncio.all_tasks() if "_accept_connection" in repr(task.get_coro())
    }:
        await asyncio.wait(accepting, timeout=5)
