"""`python -m bench.agent`: from a software agent's action to the screenshot after it, through the
gateway.

One gateway process with the real app, tokens and audit (SQLite); this process plays the agents and
their desktops, which answer at once with a PNG of 1280x720: so the figures are what the gateway
adds. With `--demo`, a real desktop on the demo's cluster (`make demo`), through Traefik and TLS;
what it made is removed.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import multiprocessing
import os
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import uvloop
from aiohttp import web

from bench.command import add_demo_options, positive
from bench.crowd import MAKE_TOKEN
from bench.first_picture import a_user, exit_status, where
from bench.photon import Window
from bench.processes import MACHINE_CPUS, cpu_seconds
from bench.report import goal, render
from bench.rows import add_json_option, write_rows
from bench.stats import percentile
from bench.template_copy import OfTemplateCopy
from vdi.demo.browser import Login
from vdi.devcluster.build_cache import default_cache
from vdi.devcluster.progress import Progress
from vdi.kube.config import load_config
from vdi.kube.transport import Client

SIZE = (1280, 720)
AIM_P95_MS, AIM_ACTIONS = 100.0, 200
AGENTS = 20
# The gateway takes 600 actions of one desktop in a minute; a turn has two, and some are for warming
# up.
MOST_TURNS = 250
HOST, NAME = "portal.vdi.localhost", "desk-{}"
DESKTOP = "bench-agent"
ALONE, REAL = "1 agent, through the gateway", "a real desktop"
CROWD = f"{AGENTS} agents at once"
CLICK: dict[str, Any] = {"action": "left_click", "coordinate": [640, 360]}
SCREENSHOT: dict[str, Any] = {"action": "screenshot"}
# The shortest way through everything that the two pass, too.
POINTER: dict[str, Any] = {"action": "cursor_position"}
PATH_TURNS = 40

EXAMPLE = """\
examples:
  python -m bench.agent                        the gateway alone, about a minute
  make demo && python -m bench.agent --demo    a real desktop
  python -m bench.agent --json FILE            every figure, too
"""

Figures = dict[str, Any]
# Of a turn.
Pair = tuple[Figures, Figures]


def a_png(width: int, height: int) -> bytes:
    """A picture of noise and plain ground, about as large as that of a desktop."""
    noise = Random(0)
    row = bytes(width * 3 - 600)
    rows = zlib.compress(b"".join(b"\0" + noise.randbytes(600) + row for _ in range(height)), 1)
    head = width.to_bytes(4) + height.to_bytes(4) + b"\x08\x02\0\0\0"
    chunks = ((b"IHDR", head), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)
        for kind, data in chunks
    )


async def serve_gateway(pipe: Connection, folder: Path, desktops: str) -> None:
    """The gateway's side: say where it listens and with which tokens, then serve until told to
    stop.
    """
    import msgspec

    from bench.edge import FakeCluster
    from vdi.api.session import VDISession
    from vdi.api.template import VDITemplate
    from vdi.gateway.app import _Server, _uvicorn_config, build_gateway, build_public, listen
    from vdi.gateway.cluster_cache import ClusterCache
    from vdi.gateway.component import GatewayContext
    from vdi.gateway.desktop.agent import DesktopAgent, DesktopKey
    from vdi.gateway.limits import Limits
    from vdi.gateway.login.logins import Device, Identity
    from vdi.gateway.metrics import Metrics
    from vdi.gateway.settings import Settings
    from vdi.gateway.shared_state import MemorySharedState
    from vdi.gateway.store.database import Database
    from vdi.gateway.store.migrations import upgrade

    settings = Settings(database_url=f"sqlite+aiosqlite:///{folder}/vdi.db")
    client: Any = FakeCluster()
    cluster, database = ClusterCache(client, settings), Database(settings.database_url)
    context = GatewayContext(
        settings=settings, client=client, cluster=cluster, database=database, shared=MemorySharedState(),
        metrics=Metrics(), clock=lambda: datetime.now(UTC),
    )  # fmt: skip
    await upgrade(database)
    agent = DesktopAgent(DesktopKey(client, settings.namespaces[0]), lambda _: desktops)
    gateway = build_gateway(context, Limits(), agent=agent)
    template = {
        "metadata": {"name": "office", "resourceVersion": "1"},
        "spec": {"image": "x", "agents": {"enabled": True}},
    }
    cluster.templates.observe(msgspec.convert(template, VDITemplate))
    logins, tokens = gateway.login.services.logins, []
    for number in range(AGENTS + 1):
        user, name = f"user{number}@example.com", NAME.format(number)
        meta = {
            "creationTimestamp": "2026-11-20T08:00:00Z",
            "name": name,
            "namespace": settings.namespaces[0],
            "uid": f"uid-{number}",
            "resourceVersion": f"{number + 1}",
        }
        spec, status = {"user": user, "template": "office"}, {"phase": "Running", "podName": name}
        cluster.sessions.observe(
            msgspec.convert({"metadata": meta, "spec": spec, "status": status}, VDISession)
        )
        person = await logins.person_by_cookie(
            (await logins.begin(Identity(user=user), Device()))[0]
        )
        assert person
        tokens.append((await logins.new_token(person, "bench", timedelta(days=1)))[0])
    gateway.health.begun = True
    with listen(("127.0.0.1", 0), "loopback") as socket:
        server = _Server(_uvicorn_config(build_public(gateway)))
        serving = asyncio.create_task(server.serve([socket]))
        pipe.send((socket.getsockname()[1], tokens))
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
        gateway.stop()
        server.should_exit = True
        await serving
    await database.close()


def run_gateway(pipe: Connection, folder: Path, desktops: str) -> None:
    uvloop.run(serve_gateway(pipe, folder, desktops))


class Agent:
    """A software agent in one desktop. `url`: where its actions go; `pause`: seconds after each
    turn.
    """

    def __init__(
        self, http: aiohttp.ClientSession, url: str, token: str, host: str, pause: float = 0.0
    ) -> None:
        self._http, self._url, self._pause = http, url, pause
        self._headers = {"Host": host, "Authorization": f"Bearer {token}"}

    async def act(self, action: Figures) -> float:
        """Seconds of one action, with its picture. Raises RuntimeError."""
        start = time.perf_counter()
        async with self._http.post(
            self._url, json=action, headers=self._headers, ssl=False
        ) as answer:
            body = await answer.read()
        took = time.perf_counter() - start
        if answer.status != 200 or (action is SCREENSHOT and len(body) < 10_000):
            raise RuntimeError(f"{action['action']} was answered {answer.status}: {body[:200]!r}")
        return took

    async def turns(
        self, count: int, pair: Pair = (CLICK, SCREENSHOT)
    ) -> list[tuple[float, float]]:
        """So many turns: seconds of each of the two actions."""
        taken = []
        for _ in range(count):
            taken.append((await self.act(pair[0]), await self.act(pair[1])))
            await asyncio.sleep(self._pause)
        return taken


async def measure(
    what: str,
    agents: Sequence[Agent],
    count: int,
    gateway: int | None = None,
    pair: Pair = (CLICK, SCREENSHOT),
) -> Figures:
    """So many turns of each agent, all at once. `gateway`: its process, where that is ours."""
    await asyncio.gather(*(agent.turns(2, pair) for agent in agents))
    before, start = cpu_seconds(gateway) if gateway else 0.0, time.perf_counter()
    taken = await asyncio.gather(*(agent.turns(count, pair) for agent in agents))
    seconds = time.perf_counter() - start
    cpu = cpu_seconds(gateway) - before if gateway else None
    return summarize(what, [turn for each in taken for turn in each], seconds, cpu)


def summarize(
    what: str, turns: Sequence[tuple[float, float]], seconds: float, cpu: float | None
) -> Figures:
    """The figures of one row. `cpu`: seconds of the gateway's CPU."""

    def milliseconds(values: Sequence[float], percent: float) -> float | None:
        seconds = percentile(values, percent)
        return None if seconds is None else round(1000 * seconds, 1)

    whole = [sum(turn) for turn in turns]
    return {
        "what": what,
        "turns": len(turns),
        "p50_ms": milliseconds(whole, 50),
        "p95_ms": milliseconds(whole, 95),
        "first_p50_ms": milliseconds([first for first, _ in turns], 50),
        "second_p50_ms": milliseconds([second for _, second in turns], 50),
        "actions_per_second": round(2 * len(turns) / seconds, 1),
        "gateway_ms_per_action": None if cpu is None else round(1000 * cpu / (2 * len(turns)), 2),
    }


async def measure_gateway(count: int) -> list[Figures]:
    """The fake desktops alone, then one agent and all agents through the gateway."""
    picture = json.dumps({"data": base64.b64encode(a_png(*SIZE)).decode()}).encode()

    async def answer(request: web.Request) -> web.Response:
        body = picture if await request.json() == SCREENSHOT else b'{"result": "ok"}'
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_post("/computer-use", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    [address, *_] = runner.addresses
    desktops = f"http://127.0.0.1:{address[1]}"
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        process = context.Process(target=run_gateway, args=(theirs, Path(folder), desktops))
        process.start()
        theirs.close()
        loop = asyncio.get_running_loop()
        try:
            port, tokens = await loop.run_in_executor(None, ours.recv)
            async with aiohttp.ClientSession() as http:
                url = f"http://127.0.0.1:{port}/api/v1/sessions/{NAME}/computer"
                agents = [
                    Agent(http, url.format(number), token, HOST)
                    for number, token in enumerate(tokens)
                ]
                direct = Agent(http, f"{desktops}/computer-use", "", "desktop")
                figures = [await measure("the fake desktop alone", [direct], count)]
                assert process.pid
                figures.append(await measure(ALONE, agents[:1], count, process.pid))
                # Not the first one again, which has used up its minute.
                crowd = agents[1:]
                figures.append(await measure(CROWD, crowd, count, process.pid))
            ours.send("stop")
            await loop.run_in_executor(None, process.join, 10)
            return figures
        finally:
            if process.is_alive():
                process.kill()
                process.join()
            await runner.cleanup()


async def measure_demo(
    kubeconfig: Path, login: Login, template: str, count: int, progress: Progress
) -> list[Figures]:
    """One agent in a real desktop of 1280x720. Raises KubeError, NoPictureError, RuntimeError,
    TimeoutError.
    """
    async with Client(load_config(kubeconfig), field_manager="vdi-bench") as client:
        changes = {"agents": {"enabled": True}, "persistence": {"enabled": False}}
        sessions = OfTemplateCopy(client, login, DESKTOP, changes)
        try:
            with progress.step("Start the desktop"):
                await sessions.prepare(template)
                await sessions.apply(DESKTOP)
                await sessions.ready(DESKTOP)
                token = await asyncio.to_thread(give_size, await sessions.url(DESKTOP), login)
            portal = urlsplit(login.portal)
            url = f"https://127.0.0.1:{portal.port}/api/v1/sessions/{DESKTOP}/computer"
            with progress.step(f"{count} turns"):
                async with aiohttp.ClientSession() as http:
                    # Traefik takes 20 requests of a token in a second.
                    agent = Agent(http, url, token, portal.netloc, pause=0.1)
                    path = await measure(
                        "cursor_position twice", [agent], PATH_TURNS, pair=(POINTER, POINTER)
                    )
                    return [await measure(REAL, [agent], count), path]
        finally:
            await sessions.remove(DESKTOP)
            await sessions.clear()


def give_size(url: str, login: Login) -> str:
    """Open the desktop once, which gives its screen the window's size; an API token of its user."""
    with Window(url, login, width=SIZE[0], height=SIZE[1]) as window:
        window.log_in()
        token: str = window.page.evaluate(MAKE_TOKEN, "bench")
        window.open()
    return token


def table(figures: Sequence[Figures]) -> str:
    """What people read."""
    columns = (
        "",
        "turns",
        "p50, ms",
        "p95, ms",
        "click p50",
        "screenshot p50",
        "actions/s",
        "gateway CPU, ms/action",
    )
    rows = [
        columns,
        *(tuple("-" if value is None else str(value) for value in one.values()) for one in figures),
    ]
    head = f"a click and the screenshot after it, {SIZE[0]}x{SIZE[1]}; {MACHINE_CPUS} CPUs"
    return "\n".join([head, "", render(rows), "", *verdicts(figures)])


def verdicts(figures: Sequence[Figures]) -> list[str]:
    """Whether the aims are met: the time of one agent, and how many actions all of them do."""
    lines = []
    for row in figures:
        what, p95, rate = row["what"], row["p95_ms"], row["actions_per_second"]
        if what in (ALONE, REAL) and p95 is not None:
            aim = f"{what}, p95 {p95} ms: at most {AIM_P95_MS:g} ms wanted"
            lines.append(goal(p95 <= AIM_P95_MS, aim))
        if what == CROWD:
            aim = f"{what}, {rate} actions/s: at least {AIM_ACTIONS} wanted"
            lines.append(goal(rate >= AIM_ACTIONS, aim))
    return lines


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line. Ends the program with 2 when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.agent",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-n",
        "--turns",
        type=positive,
        default=200,
        help=f"turns of each agent (200), {MOST_TURNS} at most",
    )
    parser.add_argument(
        "--demo", action="store_true", help="instead: a real desktop on the demo's cluster"
    )
    add_demo_options(parser)
    add_json_option(parser)
    options = parser.parse_args(arguments)
    if options.turns > MOST_TURNS:
        parser.error(f"argument -n: {options.turns}: allowed: 1 to {MOST_TURNS}")
    return options


def main(arguments: Sequence[str]) -> int:
    """0: measured; 1: the run failed; 2: wrong command line; 3: there is no cluster or browser;
    130: interrupted.
    """
    options = parse(arguments)

    def run() -> int:
        if options.demo:
            kubeconfig, portal = where(options.cluster)
            with (
                Progress(default_cache(os.environ) / "logs") as progress,
                a_user(kubeconfig, portal) as login,
            ):
                wanted = measure_demo(kubeconfig, login, options.template, options.turns, progress)
                figures = asyncio.run(wanted)
        else:
            figures = uvloop.run(measure_gateway(options.turns))
        print(table(figures))
        write_rows(options.json, figures)
        return 0

    return exit_status(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
