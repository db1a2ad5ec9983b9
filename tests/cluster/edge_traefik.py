"""A real Traefik with TLS in front of a real gateway's listeners and a desktop, all on loopback, no
Kubernetes.

Its routes are the chart's, written for the file provider; its Middlewares have the specs that the
chart renders.
"""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from support.desktop_key import MASTER
from support.waiting import PATIENCE, eventually
from unit.gateway.edge_selkies import FakeSelkies, run_selkies
from unit.gateway.edge_stage import EdgeStage, a_session, changed
from vdi.devcluster.layout import free_ports
from vdi.gateway.app import _Server, _uvicorn_config, listen
from vdi.gateway.edge.headers import DESKTOP_RESPONSE_HEADERS, FORWARD_AUTH
from vdi.gateway.login.logins import Device, Identity
from vdi.gateway.settings import Settings
from vdi.gateway.shared_state import SharedState
from vdi.gateway.web.credentials import LOGIN_COOKIE
from vdi.http_client import unverified
from vdi.session.children import DESKTOP_TRANSPORT

ANY_LABEL = r"HostRegexp(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?\.vdi\.localhost$`)"


# Ports that `free_port` has returned.
_given: set[int] = set()


def free_port() -> int:
    """A port that is free, and never the same twice: what is to listen there may not have begun."""
    while True:
        [port] = free_ports(1)
        if port not in _given:
            _given.add(port)
            return port


@dataclass
class TraefikStage:
    """Traefik, the gateway behind it, and alice's desktop."""

    port: int
    folder: Path
    stage: EdgeStage
    desktop: FakeSelkies
    public: int
    internal: int
    servers: list[_Server]
    serving: list[asyncio.Task[None]] = field(default_factory=list)
    # URL of an image with a page of its own, which has the route in the desktop's place.
    web: str = ""

    @property
    def settings(self) -> Settings:
        """The gateway's."""
        return self.stage.settings

    def url(self, label: str = "alice-desktop", path: str = "/") -> str:
        """An address as people see it."""
        return self.settings.url(self.settings.host(label)) + path

    def host(self, label: str = "alice-desktop") -> str:
        """A host without port."""
        return self.settings.host(label)

    async def add_desktop(self, label: str, user: str, **parts: Any) -> None:
        """Another desktop, with a live route to the same server."""
        self.stage.add(changed(a_session(label, user), **parts))
        self.write_routes("alice-desktop", label)
        await self.routed(label)

    def write_routes(self, *labels: str) -> None:
        """The routes: the gateway's four, and one for each of these desktops, as the operator makes
        them.
        """
        tls: dict[str, Any] = {"entryPoints": ["websecure"], "tls": {}}
        routers: dict[str, Any] = {
            "portal": {
                "rule": f"Host(`{self.host('portal')}`)",
                "priority": 2000,
                "service": "gateway",
                **tls,
            },
            "vdi": {
                "rule": f"{ANY_LABEL} && PathPrefix(`/.vdi/`)",
                "priority": 1000,
                "service": "gateway",
                **tls,
            },
            "turn": {
                "rule": f"{ANY_LABEL} && Path(`/api/turn`)",
                "priority": 1000,
                "service": "gateway",
                **tls,
            },
            "rest": {"rule": ANY_LABEL, "priority": 1, "service": "gateway", **tls},
        }
        for label in labels:
            rule = f"Host(`{self.host(label)}`)"
            routers[label] = {
                "rule": rule,
                "service": "desktop",
                "middlewares": ["vdi-edge"],
                **tls,
            }
        address = f"http://127.0.0.1:{self.internal}/edge/verify"
        middlewares = {
            "vdi-edge": {"chain": {"middlewares": ["vdi-edge-headers", "vdi-edge-auth"]}},
            "vdi-edge-headers": {
                "headers": {"customResponseHeaders": dict(DESKTOP_RESPONSE_HEADERS)}
            },
            "vdi-edge-auth": {"forwardAuth": {"address": address, **FORWARD_AUTH}},
        }
        target = {"servers": [{"url": self.web or self.desktop.url}]}
        dynamic = {
            "http": {
                "routers": routers,
                "middlewares": middlewares,
                "serversTransports": {DESKTOP_TRANSPORT: {"insecureSkipVerify": True}},
                "services": {
                    "gateway": {
                        "loadBalancer": {"servers": [{"url": f"http://127.0.0.1:{self.public}"}]}
                    },
                    "desktop": {
                        "loadBalancer": (
                            {**target, "serversTransport": DESKTOP_TRANSPORT}
                            if self.web
                            else target
                        )
                    },
                },
            }
        }
        fresh = self.folder / "routes.new"
        fresh.write_text(json.dumps(dynamic))  # JSON is YAML
        fresh.rename(self.folder / "routes" / "routes.yaml")

    async def routed(self, label: str) -> None:
        """Return when Traefik has the live route of this host: then the edge answers, no more the
        waiting page.
        """
        await self._answers(label, "not opened this desktop, or")

    async def unrouted(self, label: str) -> None:
        """Return when Traefik has no live route of this host any more."""
        await self._answers(label, "not opened this desktop.")

    async def _answers(self, label: str, words: str) -> None:
        async with aiohttp.ClientSession(connector=connector()) as session:

            async def look() -> bool:
                with contextlib.suppress(aiohttp.ClientError):  # until Traefik listens
                    async with session.options(self.url(label, "/probe")) as answer:
                        return words in await answer.text()
                return False

            await eventually(look, f"{label} answers {words!r}")

    async def browser(self, user: str = "") -> aiohttp.ClientSession:
        """A browser; with `user` one that has logged in at the portal. Close it when done."""
        jar = aiohttp.CookieJar(quote_cookie=False)
        headers = {
            "Accept": "text/html",
            "Sec-Fetch-Mode": "navigate",
            "Sec-Fetch-Dest": "document",
        }
        session = aiohttp.ClientSession(connector=connector(), cookie_jar=jar, headers=headers)
        if user:
            from yarl import URL

            secret, _ = await self.stage.logins.begin(Identity(user=user), Device())
            jar.update_cookies({LOGIN_COOKIE: secret}, URL(self.settings.portal_url))
        return session

    async def raw(self, request: str, seconds: float = 5.0) -> str:
        """Bytes as no browser sends them (with \\n for line ends); the answer until Traefik
        closes.
        """
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=unverified(), server_hostname=self.host()
        )
        writer.write(request.replace("\n", "\r\n").encode("latin-1"))
        await writer.drain()
        try:
            async with asyncio.timeout(seconds):
                return (await reader.read()).decode("latin-1").replace("\r\n", "\n")
        finally:
            writer.close()

    def ask_to_stop(self) -> None:
        """Let both listeners end."""
        for server in self.servers:
            server.should_exit = True

    async def stop_gateway(self) -> None:
        """Both listeners, at once, as when the last replica dies."""
        for server in self.servers:
            server.should_exit = server.force_exit = True
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait(self.serving)


def connector() -> aiohttp.TCPConnector:
    """Everything is on this machine, and the certificate is Traefik's own."""
    return aiohttp.TCPConnector(ssl=False, resolver=_Here())


class _Here(AbstractResolver):
    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host="127.0.0.1",
                port=port,
                family=socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
        ]

    async def close(self) -> None:
        return None


@asynccontextmanager
async def open_edge(
    traefik: Path, folder: Path, *, shared: SharedState | None = None, database_url: str = ""
) -> AsyncIterator[TraefikStage]:
    """Everything, with a live route to alice-desktop."""
    port = free_port()
    async with AsyncExitStack() as stack:
        desktop = await stack.enter_async_context(run_selkies(MASTER))
        stage = await stack.enter_async_context(
            EdgeStage(
                settings=Settings(url_port=port),
                shared=shared,
                database_url=database_url,
                selkies=lambda _: desktop.url,
            )
        )
        sockets = [stack.enter_context(listen(("127.0.0.1", 0), "loopback")) for _ in range(2)]
        servers = [_Server(_uvicorn_config(app)) for app in (stage.public, stage.internal)]
        public, internal = (one.getsockname()[1] for one in sockets)
        edge = TraefikStage(port, folder, stage, desktop, public, internal, servers)
        group = await stack.enter_async_context(asyncio.TaskGroup())
        for server, where in zip(servers, sockets, strict=True):
            edge.serving.append(group.create_task(server.serve([where])))
        work = group.create_task(stage.edge.run())
        stack.callback(work.cancel)
        stack.callback(edge.ask_to_stop)
        (folder / "routes").mkdir()
        edge.write_routes("alice-desktop")
        await stack.enter_async_context(run_traefik(traefik, folder, port))
        await edge.routed("alice-desktop")
        yield edge


@asynccontextmanager
async def run_program(
    folder: Path, program: Path, *words: str, **environment: str
) -> AsyncIterator[None]:
    """A program as a process, which writes to a log in the folder."""
    with (folder / f"{program.name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program, *words, env={"PATH": os.environ["PATH"], **environment}, stdout=log, stderr=log
        )
        try:
            yield
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


@asynccontextmanager
async def run_traefik(
    binary: Path, folder: Path, port: int, options: dict[str, Any] | None = None, **environment: str
) -> AsyncIterator[None]:
    """A Traefik on this port. Its routes are files in `routes`, unless `options` name another
    provider.
    """
    static = {
        "entryPoints": {"websecure": {"address": f"127.0.0.1:{port}"}},
        "providers": {"file": {"directory": str(folder / "routes"), "watch": True}},
        "log": {"level": "ERROR"},
        "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
        **(options or {}),
    }
    (folder / "traefik.yaml").write_text(json.dumps(static))
    async with run_program(
        folder, binary, f"--configFile={folder / 'traefik.yaml'}", **environment
    ):
        yield
