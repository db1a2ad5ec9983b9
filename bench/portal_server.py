"""`python -m bench.portal_server FOLDER`: a portal with a thousand sessions and no cluster, for
`bench.portal`.

The real app, login, database (SQLite in FOLDER) and uvicorn settings; the world is filled by hand
where a cluster's watch would fill it. Says on stdout, a JSON object per line, where it listens and
with which cookies; then takes orders from stdin, one per line, and answers each with when it was
done (CLOCK_MONOTONIC, which all processes share).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import msgspec
import uvicorn
import uvloop

from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.units import format_time
from vdi.gateway.app import build_gateway, build_public
from vdi.gateway.cluster_cache import ClusterCache
from vdi.gateway.component import GatewayContext
from vdi.gateway.limits import Limits
from vdi.gateway.login.logins import Device, Identity
from vdi.gateway.metrics import Metrics
from vdi.gateway.settings import Settings
from vdi.gateway.shared_state import MemorySharedState
from vdi.gateway.store.database import Database
from vdi.gateway.store.migrations import upgrade
from vdi.gateway.web.connection import Connection
from vdi.kube.errors import Forbidden
from vdi.kube.transport import Client

SESSIONS = 1000
USERS = 500
ADMIN = "root@example.com"
HOST = "portal.vdi.localhost"


class NoCluster:
    """What the pages ask of the API server is refused at once: they are measured, not it."""

    async def _refuse(self, *_: Any, **__: Any) -> Any:
        raise Forbidden(403, "Forbidden", "there is no cluster")

    get = list = _refuse


class FilledGateway:
    def __init__(self, folder: Path) -> None:
        self.settings = Settings(database_url=f"sqlite+aiosqlite:///{folder}/vdi.db")
        client = cast(Client, NoCluster())
        self.world = ClusterCache(client, self.settings)
        self.database = Database(self.settings.database_url)
        self._version = 0
        context = GatewayContext(
            settings=self.settings,
            client=client,
            cluster=self.world,
            database=self.database,
            shared=MemorySharedState(),
            metrics=Metrics(),
            clock=now,
        )
        self.gateway = build_gateway(context, Limits())

    def fill(self) -> None:
        """Five templates, a thousand sessions of five hundred people."""
        for number in range(5):
            self._put(self.world.templates, _template(number))
        for number in range(SESSIONS):
            self.set_session(number, "Running")

    def set_session(self, number: int, phase: str) -> None:
        """One of the thousand, as the watch would bring it."""
        self._put(
            self.world.sessions, _session(f"desk-{number:04}", user(number % USERS), number, phase)
        )

    def _put(self, store: Any, one: Any) -> None:
        self._version += 1
        meta = msgspec.structs.replace(one.metadata, resource_version=str(self._version))
        store.observe(msgspec.structs.replace(one, metadata=meta))

    async def cookies(self) -> dict[str, str]:
        """Everybody logged in: the value of each one's cookie."""
        await upgrade(self.database)
        logins = self.gateway.login.services.logins
        who = [Identity(user=user(number)) for number in range(USERS)]
        who.append(Identity(user=ADMIN, admin=True))
        return {one.user: (await logins.begin(one, Device()))[0] for one in who}

    def obey(self, order: str) -> None:
        """`one PHASE` or `all PHASE`."""
        which, phase = order.split()
        match which:
            case "one":
                self.set_session(0, phase)
            case "all":
                for number in range(USERS):
                    self.set_session(number, phase)
            case _:
                raise ValueError(f"{order!r} is not an order; allowed: `one PHASE` and `all PHASE`")


def now() -> datetime:
    """The machine's clock."""
    return datetime.now(UTC)


def user(number: int) -> str:
    return f"user{number:03}@example.com"


def _template(number: int) -> VDITemplate:
    spec = {
        "image": "registry.example.com/desktop:1",
        "displayName": f"Template {number}",
        "description": "A desktop.",
    }
    return msgspec.convert({"metadata": {"name": f"template-{number}"}, "spec": spec}, VDITemplate)


def _session(name: str, owner: str, number: int, phase: str) -> VDISession:
    begun = now() - timedelta(minutes=number)
    status = {
        "phase": phase,
        "url": f"https://{name}.vdi.localhost",
        "startTime": format_time(begun),
        "expiresAt": format_time(begun + timedelta(hours=24)),
        "podName": name,
        "nodeName": f"node-{number % 40}",
    }
    metadata = {
        "name": name,
        "namespace": "vdi-sessions",
        "uid": f"uid-{name}",
        "creationTimestamp": format_time(begun),
    }
    spec = {"user": owner, "template": f"template-{number % 5}"}
    return msgspec.convert({"metadata": metadata, "spec": spec, "status": status}, VDISession)


async def main(folder: Path) -> None:
    """Serve until stdin ends."""
    stage = FilledGateway(folder)
    stage.fill()
    cookies = await stage.cookies()
    gateway = stage.gateway
    gateway.health.begun = True
    config = uvicorn.Config(
        build_public(gateway),
        http=Connection,
        ws="none",
        host="127.0.0.1",
        port=0,
        lifespan="off",
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=2048,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    say({"port": server.servers[0].sockets[0].getsockname()[1], "cookies": cookies})
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(orders), sys.stdin
    )
    while order := await orders.readline():
        began = time.monotonic()
        stage.obey(order.decode())
        say({"done": began})
    stage.gateway.stop()
    server.should_exit = True
    await serving
    await stage.database.close()


def say(what: dict[str, Any]) -> None:
    """One line to whoever has started this."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1])))
