"""`python -m bench.holding`: what the operator costs while it holds many desktops and nothing
happens, on fake nodes.

It makes them itself, on a control plane of its own as `python -m bench` starts it. Then it is
measured twice: as it is after all that work, and as a process that was just started and found
everything there.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from bench.audit import count_requests, read_requests
from bench.cluster import OPERATOR_USER, Cluster
from bench.command import add_image_option, in_words, positive, run_measurement
from bench.measure import AUDIT_FLUSH_SECONDS, Plan, Run
from bench.objects import NAMESPACE
from bench.operator_python import Program, operator_program
from bench.processes import end_cleanly_on_signals
from bench.report import goal
from bench.rows import add_json_option, write_rows
from bench.subjects import Operator
from bench.timeline import Timeline
from vdi.api.crd import build_crds
from vdi.devcluster.layout import free_ports
from vdi.kube.events import CROWD_PAUSE, WAITING

SESSIONS = 10_000
MOST_MIB, MOST_PERCENT = 150.0, 0.1
SETTLED_PERCENT = 2.0
DEADLINE_SECONDS = 3600.0

EXAMPLE = """\
examples:
  python -m bench.holding                 10,000 sessions, about ten minutes on two cores
  python -m bench.holding -n 1000         a quick look
  python -m bench.holding --json FILE     every figure, too
"""


class Holding:
    """The two measurements, on one cluster."""

    def __init__(
        self,
        cluster: Cluster,
        timeline: Timeline,
        program: Program,
        sessions: int,
        idle_seconds: float,
    ) -> None:
        self._cluster, self._timeline, self._program = cluster, timeline, program
        self._sessions, self._idle_seconds = sessions, idle_seconds
        self._port = 0
        self._operator = self._start()

    async def measure(self) -> dict[str, Any]:
        """Make the sessions, then measure. Raises RuntimeError or TimeoutError."""
        plan = Plan(sessions=self._sessions, deadline_seconds=DEADLINE_SECONDS)
        run = Run(self._cluster, self._timeline, self._operator, plan)
        figures: dict[str, Any] = {
            "made": await run.burst([f"s{number:05d}" for number in range(self._sessions)])
        }
        # Its Events come at their leisure: that is not idleness yet.
        await asyncio.sleep(WAITING * CROWD_PAUSE)
        await self._settled()
        figures["after_the_burst"] = await self._idle()
        self._cluster.processes.stop(["operator"])
        self._operator = self._start()
        begun, unix = time.monotonic(), time.time()
        await self._ready()
        ready = time.monotonic() - begun
        await self._settled()
        figures["after_a_restart"] = {
            "ready_s": round(ready, 1),
            "cpu_until_settled_s": round(self._operator.cpu(), 1),
            **await self._idle(),
            **await self._requests(unix),
        }
        return figures

    def _start(self) -> Operator:
        [self._port] = free_ports(1)
        own = {
            "VDI_NAMESPACE": NAMESPACE,
            "VDI_OPERATOR_NAMESPACE": NAMESPACE,
            "VDI_METRICS_ADDR": f"127.0.0.1:{self._port}",
        }
        return Operator.start(
            self._cluster, self._program.argv, {**self._program.environment, **own}
        )

    async def _ready(self) -> None:
        """Wait until it says that its caches are full."""
        end = time.monotonic() + DEADLINE_SECONDS
        async with aiohttp.ClientSession() as http:
            while time.monotonic() < end:
                self._operator.check()
                try:
                    async with http.get(f"http://127.0.0.1:{self._port}/readyz") as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientConnectionError:
                    pass
                await asyncio.sleep(0.05)
        raise TimeoutError(f"the operator was not ready within {DEADLINE_SECONDS:g} s")

    async def _settled(self) -> None:
        """Wait until it does no more than SETTLED_PERCENT of a core for five seconds."""
        end = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < end:
            self._operator.check()
            if (await self._cpu_percent(5.0)) < SETTLED_PERCENT:
                return
        raise TimeoutError(f"the operator was not idle within {DEADLINE_SECONDS:g} s")

    async def _idle(self) -> dict[str, float | None]:
        percent = await self._cpu_percent(self._idle_seconds)
        memory = self._operator.memory
        return {
            "idle_cpu_percent": percent,
            "rss_mib": memory("VmRSS"),
            "peak_rss_mib": memory("VmHWM"),
        }

    async def _cpu_percent(self, seconds: float) -> float:
        cpu, start = self._operator.cpu(), time.monotonic()
        await asyncio.sleep(seconds)
        return round(100 * (self._operator.cpu() - cpu) / (time.monotonic() - start), 2)

    async def _requests(self, since: float) -> dict[str, Any]:
        """What the new process asked of the API server: lists, and no write."""
        until = time.time()
        await asyncio.sleep(AUDIT_FLUSH_SECONDS)
        with self._cluster.audit_log.open() as log:
            requests = read_requests(log, OPERATOR_USER)
        counted = count_requests(requests, since, until, 1)
        return {"writes": counted["writes_per_session"], "by_kind": counted["by_kind"]}


async def measure(
    binaries: Mapping[str, Path], program: Program, options: argparse.Namespace
) -> dict[str, Any]:
    """The whole run on a fresh control plane. Raises RuntimeError where it failed; says why and
    where the logs are.
    """
    cluster = Cluster(binaries, build_crds(), options.sessions)
    try:
        async with cluster, Timeline(cluster.url, cluster.ca, cluster.admin_token) as timeline:
            return await Holding(
                cluster, timeline, program, options.sessions, options.idle
            ).measure()
    except Exception as error:
        raise RuntimeError(f"{in_words(error)}; logs in {cluster.folder}") from error


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line. Ends the program with 2 when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.holding",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-n", "--sessions", type=positive, default=SESSIONS, help=f"how many ({SESSIONS})"
    )
    parser.add_argument(
        "--idle", type=positive, default=60, metavar="SECONDS", help="how long it is watched (60)"
    )
    add_image_option(parser)
    add_json_option(parser)
    return parser.parse_args(arguments)


def table(figures: Mapping[str, Any], sessions: int) -> str:
    """What people read."""
    lines = [f"{sessions} sessions held; Python {figures['python']}", ""]
    for title, key in (
        ("after it has made them", "after_the_burst"),
        ("after a restart", "after_a_restart"),
    ):
        part = figures[key]
        lines.append(f"{title}: {part['rss_mib']:g} MiB, {part['idle_cpu_percent']:g} % of a core")
    cold, made = figures["after_a_restart"], figures["made"]
    lines += [
        (
            f"made in {made['sessions_running_s']:g} s with {made['operator_cpu_s']:g} s of CPU,"
            f" at most {figures['after_the_burst']['peak_rss_mib']:g} MiB"
        ),
        (
            f"ready {cold['ready_s']:g} s after a restart, settled after"
            f" {cold['cpu_until_settled_s']:g} s of CPU, {cold['writes']:g} writes, at most"
            f" {cold['peak_rss_mib']:g} MiB"
        ),
        "",
    ]
    for key in ("after_the_burst", "after_a_restart"):
        met = (
            figures[key]["rss_mib"] <= MOST_MIB and figures[key]["idle_cpu_percent"] <= MOST_PERCENT
        )
        lines.append(goal(met, f"{key}: at most {MOST_MIB:g} MiB and {MOST_PERCENT:g} % of a core"))
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """0: measured; 1: failed; 2: wrong command line; 3: a program is missing; 130: interrupted."""
    options = parse(arguments)
    end_cleanly_on_signals()
    with operator_program(from_image=options.image) as program:
        work = partial(measure, program=program, options=options)
        figures = {
            "python": program.python,
            **run_measurement(f"holding {options.sessions} sessions", work),
        }
    print(table(figures, options.sessions))
    write_rows(options.json, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
