"""`python -m bench.pool_claim`: how long a session waits for a desktop that a pool keeps ready, on
fake nodes.

A control plane of its own, as `python -m bench` makes it; kwok plays the kubelets. Four rounds on
one operator: sessions one by one while the pool refills, and many at once; and the same where there
is no pool.
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

from bench import objects
from bench.audit import count_requests, read_requests
from bench.cluster import OPERATOR_USER, Cluster
from bench.command import FINDINGS, in_words, positive, run_measurement
from bench.measure import AUDIT_FLUSH_SECONDS, TRICKLE_INTERVAL, foreign_percent, pooled, quiet
from bench.operator_python import from_here
from bench.processes import end_cleanly_on_signals
from bench.rows import add_json_option, write_rows
from bench.stats import latency
from bench.subjects import Operator
from bench.timeline import Timeline
from vdi.api.crd import build_crds
from vdi.devcluster.layout import free_ports

POOLS = f"{objects.API}/vdipools"
POOL, COLD = "warm", "cold"
CLIENTS = 32
DEADLINE = 120.0

EXAMPLE = """\
examples:
  python -m bench.pool_claim              a pool of 100, 200 claims one by one, 100 at once; about a minute on two cores
  python -m bench.pool_claim -n 20        a quick look
  python -m bench.pool_claim --json FILE  every figure, too
"""


def template(name: str) -> objects.Object:
    """A template whose desktops have no home."""
    made = objects.template()
    return {
        **made,
        "metadata": {"name": name},
        "spec": {**made["spec"], "persistence": {"enabled": False}},
    }


def session(name: str, of: str) -> objects.Object:
    made = objects.session(name)
    return {**made, "spec": {**made["spec"], "template": of}}


class Bench:
    """The rounds, on one cluster with one operator."""

    def __init__(self, cluster: Cluster, timeline: Timeline, operator: Operator, size: int) -> None:
        self._cluster, self._timeline, self._operator = cluster, timeline, operator
        self._size = size

    async def measure(self) -> dict[str, Any]:
        """All rounds. Raises RuntimeError or TimeoutError."""
        for name in (POOL, COLD):
            await self._cluster.post(objects.TEMPLATES, template(name))
        pool = {"apiVersion": objects.API_VERSION, "kind": "VDIPool", "metadata": {"name": POOL}}
        start = time.monotonic()
        await self._cluster.post(
            POOLS, {**pool, "spec": {"template": POOL, "replicas": self._size}}
        )
        await self._filled()
        figures: dict[str, Any] = {
            "pool": self._size,
            "filled_s": round(time.monotonic() - start, 2),
        }
        figures["one_by_one"] = await self._round("t", 2 * self._size, POOL, at_once=False)
        await self._filled()
        figures["at_once"] = await self._round("b", self._size, POOL, at_once=True)
        await self._filled()
        figures["one_by_one_without_pool"] = await self._round("c", self._size, COLD, at_once=False)
        figures["at_once_without_pool"] = await self._round("d", self._size, COLD, at_once=True)
        return figures

    async def _round(self, prefix: str, count: int, of: str, *, at_once: bool) -> dict[str, Any]:
        names = [f"{prefix}{number:05d}" for number in range(count)]
        await quiet(self._cluster)
        since, cpu = time.time(), self._operator.cpu()
        before, start = self._cluster.processes.cpu(), time.monotonic()
        if at_once:
            await pooled(names, CLIENTS, lambda name: self._create(name, of))
        else:
            for name in names:
                await self._create(name, of)
                await asyncio.sleep(TRICKLE_INTERVAL)
        await self._timeline.all_in(
            self._timeline.session_running, names, DEADLINE, "sessions Running"
        )
        seen, posted = self._timeline.session_running, self._operator.posted
        after, seconds = self._cluster.processes.cpu(), time.monotonic() - start
        waits = latency([seen[name] - posted[name] for name in names])
        await asyncio.sleep(AUDIT_FLUSH_SECONDS)
        with self._cluster.audit_log.open() as log:
            requests = count_requests(read_requests(log, OPERATOR_USER), since, time.time(), count)
        return {
            "sessions": count,
            "from_pool": await self._from_pool(set(names)),
            "created_to_running": waits,
            "operator_cpu_s": round(self._operator.cpu() - cpu, 2),
            "until_running_s": round(seconds, 2),
            "cpu_until_running_s": {name: round(after[name] - before[name], 2) for name in before},
            "foreign_cpu_percent": foreign_percent(before, after, seconds),
            "api": requests,
        }

    async def _create(self, name: str, of: str) -> None:
        await self._cluster.post(objects.SESSIONS, session(name, of))
        self._operator.posted[name] = time.monotonic()

    async def _from_pool(self, names: set[str]) -> int:
        """How many of these sessions have a desktop that the pool had started."""
        pods = (await self._get(objects.PODS))["items"]
        taken = (
            pod["metadata"]
            for pod in pods
            if "vdi.kasm.io/pool" in pod["metadata"].get("annotations", {})
        )
        return sum(
            1 for meta in taken if {owner["name"] for owner in meta["ownerReferences"]} & names
        )

    async def _filled(self) -> None:
        """Wait until the pool has what it wants."""
        end = time.monotonic() + DEADLINE
        while (await self._get(f"{POOLS}/{POOL}")).get("status", {}).get("ready") != self._size:
            self._operator.check()
            if time.monotonic() > end:
                raise TimeoutError(f"the pool was not full within {DEADLINE:g} s")
            await asyncio.sleep(0.2)

    async def _get(self, path: str) -> dict[str, Any]:
        async with self._cluster.http.get(path) as response:
            answer: dict[str, Any] = await response.json()
            return answer


async def run(binaries: Mapping[str, Path], size: int) -> dict[str, Any]:
    """Everything, from the control plane's start to its end. Raises RuntimeError or TimeoutError,
    saying where.
    """
    cluster = Cluster(binaries, build_crds(), 6 * size)
    own = {
        "VDI_NAMESPACE": objects.NAMESPACE,
        "VDI_OPERATOR_NAMESPACE": objects.NAMESPACE,
        "VDI_METRICS_ADDR": f"127.0.0.1:{free_ports(1)[0]}",
    }
    try:
        async with cluster, Timeline(cluster.url, cluster.ca, cluster.admin_token) as timeline:
            program = from_here()
            operator = Operator.start(cluster, program.argv, {**program.environment, **own})
            return await Bench(cluster, timeline, operator, size).measure()
    except Exception as error:
        raise RuntimeError(f"{in_words(error)}; logs in {cluster.folder}") from error


def table(figures: Mapping[str, Any]) -> str:
    lines = [
        (
            f"a pool of {figures['pool']} desktops, full after {figures['filled_s']} s; session"
            " created -> Running:"
        ),
        "",
        (
            "| round | sessions | from the pool | p50, ms | p99, ms | max, ms | API writes | reads"
            " | CPU of others |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in ("one_by_one", "one_by_one_without_pool", "at_once", "at_once_without_pool"):
        one = figures[name]
        waits, api = one["created_to_running"], one["api"]
        cells = [
            one["sessions"],
            one["from_pool"],
            waits["p50_ms"],
            waits["p99_ms"],
            waits["max_ms"],
        ]
        cells += [
            api["writes_per_session"],
            api["reads_per_session"],
            f"{one['foreign_cpu_percent']} %",
        ]
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(str(cell) for cell in cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """0: measured; 1: the run had an error; 2: wrong command line; 3: a program is missing; 130:
    interrupted.
    """
    parser = argparse.ArgumentParser(
        prog="python -m bench.pool_claim",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-n",
        "--desktops",
        type=positive,
        default=100,
        help="desktops that the pool keeps ready (100)",
    )
    add_json_option(parser)
    options = parser.parse_args(arguments)
    end_cleanly_on_signals()
    figures = run_measurement(
        f"claims from a pool of {options.desktops}", partial(run, size=options.desktops)
    )
    print(table(figures))
    write_rows(options.json, figures)
    short = [
        name
        for name in ("one_by_one", "at_once")
        if figures[name]["from_pool"] < figures[name]["sessions"]
    ]
    for name in short:
        one = figures[name]
        print(
            f"{name.replace('_', ' ')}: {one['sessions'] - one['from_pool']} sessions found the"
            " pool empty"
        )
    return FINDINGS if "one_by_one" in short else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
