"""`python -m bench.edge`: `/edge/verify` on one core: a real server process, a real HTTP client,
both on loopback.

What Traefik asks before each request and each WebSocket handshake. The server is the gateway's
internal listener as it runs in a pod (uvicorn, uvloop, all its layers), with 1,000 sessions and a
token for each; it is held to one core, the client to the others.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import uvloop

from bench.rows import add_json_option, write_rows
from bench.stats import percentile
from vdi.session.credentials import KEY_ENTRY, KEY_SECRET

if TYPE_CHECKING:
    from vdi.gateway.store.database import Database
    from vdi.gateway.store.logins import Grant

GOAL_P50_MS, GOAL_PER_SECOND = 1.0, 2000.0
SESSIONS = 1000
HOST = "{name}.vdi.localhost"

EXAMPLE = """\
examples:
  python -m bench.edge                 about 30 seconds
  python -m bench.edge --seconds 30    longer per figure
  python -m bench.edge --json FILE     every figure, too
"""


class FakeCluster:
    """The Secrets that the edge reads."""

    def __init__(self) -> None:
        self._keys: dict[str, Any] = {"metadata": {"resourceVersion": "1"}, "data": {}}

    async def get(self, _resource: Any, name: str, *, into: Any, **_: Any) -> Any:
        of_desktops = {"data": {KEY_ENTRY: base64.b64encode(b"k" * 32).decode()}}
        return msgspec.convert(of_desktops if name == KEY_SECRET else self._keys, into)

    async def patch(self, _resource: Any, _name: str, patch: Any, **_: Any) -> Any:
        """Take in what was written."""
        self._keys["data"] = patch["data"]
        return msgspec.Raw(b"{}")


async def serve(pipe: Connection, folder: Path) -> None:
    """The server's side: say where it listens and with which tokens, then serve until stopped."""
    from vdi.api.meta import ObjectMeta
    from vdi.api.session import Role, SessionSpec, SessionStatus, VDISession
    from vdi.cluster.units import format_time
    from vdi.gateway.app import _Server, _uvicorn_config, build_gateway, build_internal, listen
    from vdi.gateway.cluster_cache import ClusterCache
    from vdi.gateway.component import GatewayContext
    from vdi.gateway.edge.tokens import Tokens
    from vdi.gateway.limits import Limits
    from vdi.gateway.metrics import Metrics
    from vdi.gateway.settings import Settings
    from vdi.gateway.shared_state import MemorySharedState
    from vdi.gateway.store.database import Database
    from vdi.gateway.store.logins import Grant, GrantStore
    from vdi.gateway.store.migrations import upgrade

    class StillWorld(ClusterCache):
        """A world that has seen everything."""

        @property
        def synced(self) -> bool:
            return True

    def clock() -> datetime:
        return datetime.now(UTC)

    settings = Settings(token_seconds=3600, database_url=f"sqlite+aiosqlite:///{folder}/vdi.db")
    client: Any = FakeCluster()
    database = Database(settings.database_url)
    context = GatewayContext(
        settings=settings,
        client=client,
        cluster=StillWorld(client, settings),
        database=database,
        shared=MemorySharedState(),
        metrics=Metrics(),
        clock=clock,
    )
    await upgrade(database)
    gateway = build_gateway(context, Limits())
    edge = gateway.edge
    await edge.ring.refresh()
    store = GrantStore(database)
    signer = Tokens(edge.ring, settings.portal_url, settings.token_seconds, clock)
    tokens = []
    for number in range(SESSIONS):
        name, user = f"desktop-{number}", f"user{number}@example.com"
        meta = ObjectMeta(
            name=name,
            namespace=settings.namespaces[0],
            uid=f"uid-{number}",
            resource_version=str(number + 1),
            creation_timestamp=format_time(clock()),
        )
        status = SessionStatus(phase="Running", url=settings.url(HOST.format(name=name)))
        context.cluster.sessions.observe(
            VDISession(meta, SessionSpec(user=user, template="office"), status)
        )
        grant = Grant(
            id=f"grant-{number}",
            session_uid=meta.uid,
            user=user,
            role=Role.OWNER,
            login_id=f"login-{number}",
            created=clock(),
            expires=clock() + timedelta(days=1),
        )
        await store.add(grant, f"handle-{number}")
        await _log_in(database, grant)
        tokens.append(signer.mint(grant))
    await edge.revoker.poll()
    await edge.tables.close()  # there are no desktops that could take one
    gateway.health.begun = True
    with listen(("127.0.0.1", 0), "loopback") as where:
        server = _Server(_uvicorn_config(build_internal(gateway)))
        task = asyncio.create_task(server.serve([where]))
        pipe.send((where.getsockname()[1], tokens))
        loop = asyncio.get_running_loop()
        while await loop.run_in_executor(None, pipe.recv) == "cpu?":
            used = resource.getrusage(resource.RUSAGE_SELF)
            pipe.send(used.ru_utime + used.ru_stime)
        server.should_exit = True
        await task
    await database.close()


async def _log_in(database: Database, grant: Grant) -> None:
    """The login of a grant: one without a login that holds is ended."""
    from vdi.gateway.store.logins import logins

    empty = dict.fromkeys(("name", "groups", "source", "credential", "address", "agent"), "")
    ids = {"id": grant.login_id, "secret_hash": grant.login_id, "user": grant.user, "admin": False}
    times = {"created": grant.created, "seen": grant.created, "expires": grant.expires}
    async with database.begin() as connection:
        await connection.execute(logins.insert().values(empty | ids | times))


def run_server(pipe: Connection, folder: Path, core: int) -> None:
    """The server's process, on one core."""
    os.sched_setaffinity(0, {core})
    uvloop.run(serve(pipe, folder))


@dataclass
class Client:
    """Asks as Traefik does, over connections that stay open."""

    port: int
    tokens: list[str]
    pipe: Connection

    async def measure(self, what: str, connections: int, seconds: float) -> dict[str, Any]:
        """One figure: so many connections ask as fast as they are answered."""
        taken: list[float] = []
        connector = aiohttp.TCPConnector(limit=connections)
        async with aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            await self._ask(session, 0, what, taken, time.perf_counter() + 0.5)
            taken.clear()
            before, start = self._cpu(), time.perf_counter()
            await asyncio.gather(
                *(
                    self._ask(session, number, what, taken, start + seconds)
                    for number in range(connections)
                )
            )
            took = time.perf_counter() - start
            cpu = self._cpu() - before
        return {
            "what": what,
            "connections": connections,
            "per_second": round(len(taken) / took),
            "per_core_second": round(len(taken) / cpu),
            "p50_ms": round(1000 * (percentile(taken, 50) or 0), 3),
            "p99_ms": round(1000 * (percentile(taken, 99) or 0), 3),
        }

    async def _ask(
        self,
        session: aiohttp.ClientSession,
        number: int,
        what: str,
        taken: list[float],
        until: float,
    ) -> None:
        url = f"http://127.0.0.1:{self.port}/edge/verify"
        expected = 200 if what == "good token" else 401
        count = number * 31
        while time.perf_counter() < until:
            count += 1
            of = count % len(self.tokens)
            headers = _question(of, self._cookie(what, of))
            start = time.perf_counter()
            async with session.get(url, headers=headers) as answer:
                await answer.read()
            taken.append(time.perf_counter() - start)
            if answer.status != expected:
                raise RuntimeError(f"{what}: the answer was {answer.status}, not {expected}")

    def _cookie(self, what: str, of: int) -> str:
        token = self.tokens[of]
        if what == "no token":
            return "theme=dark"
        if what == "forged token":
            token = token[:-10] + "AAAAAAAAAA"
        return (
            f"theme=dark; __Host-vdi-desktop={token};"
            f" __Host-vdi-grant={'x' * 43 if what == 'good token' else ''}"
        )

    def _cpu(self) -> float:
        self.pipe.send("cpu?")
        return float(self.pipe.recv())


def _question(of: int, cookie: str) -> dict[str, str]:
    return {
        "Cookie": cookie,
        "Accept": "*/*",
        "Sec-Fetch-Mode": "cors",
        "Sec-Fetch-Site": "same-origin",
        "X-Forwarded-Method": "GET",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": HOST.format(name=f"desktop-{of}"),
        "X-Forwarded-Uri": "/assets/index.js",
        "X-Forwarded-For": "10.42.0.7",
    }


async def measure(client: Client, seconds: float) -> list[dict[str, Any]]:
    plan = (
        ("good token", 1),
        ("good token", 8),
        ("good token", 32),
        ("no token", 32),
        ("forged token", 32),
    )
    return [await client.measure(what, connections, seconds) for what, connections in plan]


def main(arguments: Sequence[str]) -> int:
    """0: measured, and the goals are reached; 1: they are not."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.edge",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement (5)")
    add_json_option(parser)
    options = parser.parse_args(arguments)
    cores = sorted(os.sched_getaffinity(0))
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        server = context.Process(target=run_server, args=(theirs, Path(folder), cores[0]))
        server.start()
        try:
            theirs.close()
            port, tokens = ours.recv()
            if len(cores) > 1:
                os.sched_setaffinity(0, set(cores[1:]))
            figures = uvloop.run(measure(Client(port, tokens, ours), options.seconds))
            ours.send("stop")
            server.join(10)
        finally:
            if server.is_alive():
                server.kill()
                server.join()
    write_rows(options.json, figures)
    return report(figures)


def report(figures: list[dict[str, Any]]) -> int:
    """Print the figures; whether the goals are reached."""
    alone, crowd = figures[0], max(figures[1:3], key=lambda figure: figure["per_second"])
    reached = alone["p50_ms"] < GOAL_P50_MS and crowd["per_core_second"] >= GOAL_PER_SECOND
    print(
        f"{'':14}{'connections':>12}{'per second':>12}{'per core s':>12}{'p50 ms':>9}{'p99 ms':>9}"
    )
    for figure in figures:
        rates = f"{figure['per_second']:>12}{figure['per_core_second']:>12}"
        print(
            f"{figure['what']:14}{figure['connections']:>12}{rates}{figure['p50_ms']:>9.2f}{figure['p99_ms']:>9.2f}"
        )
    print(
        f"goals: p50 below {GOAL_P50_MS} ms on one connection, {GOAL_PER_SECOND:.0f} per second of"
        " one core: ",
        end="",
    )
    print("reached" if reached else "missed")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
