"""`python -m bench.node_request`: how long after a session begins to wait a node is requested for
it.

A control plane of its own, as `python -m bench` makes it, with a real scheduler and no autoscaler.
No node has the label that the sessions' template asks for. Each session is applied at another
moment of the operator's pace.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench import objects
from bench.cluster import Cluster
from bench.command import FINDINGS, in_words, positive, run_measurement
from bench.measure import foreign_percent
from bench.operator_python import from_here
from bench.processes import end_cleanly_on_signals
from bench.rows import add_json_option, write_rows
from bench.stats import latency
from bench.subjects import Operator
from vdi.api.crd import build_crds
from vdi.devcluster.layout import free_ports

AIM_SECONDS = 2.0
PLACES = "bench-places"
PRIORITY_CLASS = "bench-placeholder"
REQUESTS = f"/api/v1/namespaces/{PLACES}/pods"
DEADLINE_SECONDS = 60.0
# Of the operator's looks at who waits: the sessions come at all moments of it.
_PACE_SECONDS = 1.0
_STEP = 0.37

EXAMPLE = """\
examples:
  python -m bench.node_request            40 sessions; a minute
  python -m bench.node_request -n 5       a quick look
  python -m bench.node_request --json FILE  every figure, too
"""


def template() -> objects.Object:
    """A template for which no node is there, whose desktops have no home."""
    made = objects.template()
    spec = {
        "persistence": {"enabled": False},
        "placement": {"nodeSelector": {"bench/node": "to-come"}},
    }
    return {**made, "metadata": {"name": "waiting"}, "spec": {**made["spec"], **spec}}


class Sightings:
    """When each placeholder was seen first, by a watch."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._at: dict[str, float] = {}
        self._changed = asyncio.Condition()

    async def watch(self) -> None:
        """Until cancelled."""
        async with self._cluster.http.get(REQUESTS, params={"watch": "1"}) as response:
            async for line in response.content:
                at, event = time.monotonic(), json.loads(line)
                async with self._changed:
                    self._at.setdefault(event["object"]["metadata"]["name"], at)
                    self._changed.notify_all()

    async def newest(self, count: int) -> float:
        """When there were so many. Raises TimeoutError."""
        async with asyncio.timeout(DEADLINE_SECONDS), self._changed:
            await self._changed.wait_for(lambda: len(self._at) >= count)
        return sorted(self._at.values())[count - 1]


async def measure(cluster: Cluster, count: int) -> dict[str, Any]:
    own = {
        "VDI_NAMESPACE": objects.NAMESPACE,
        "VDI_OPERATOR_NAMESPACE": objects.NAMESPACE,
        "VDI_METRICS_ADDR": f"127.0.0.1:{free_ports(1)[0]}",
        "VDI_MAX_PLACEHOLDERS": "1000",
        "VDI_PLACEHOLDER_NAMESPACE": PLACES,
        "VDI_PLACEHOLDER_IMAGE": "placeholder:bench",
        "VDI_PLACEHOLDER_PRIORITY_CLASS": PRIORITY_CLASS,
    }
    program = from_here()
    operator = Operator.start(cluster, program.argv, {**program.environment, **own})
    sightings = Sightings(cluster)
    watching = asyncio.create_task(sightings.watch())
    waits: list[float] = []
    try:
        await _request(cluster, operator, sightings, "first", 1)  # the operator has to start
        before, start = cluster.processes.cpu(), time.monotonic()
        for number in range(count):
            await asyncio.sleep(number * _STEP % _PACE_SECONDS)
            waits.append(
                await _request(cluster, operator, sightings, f"waits-{number:04d}", number + 2)
            )
        foreign = foreign_percent(before, cluster.processes.cpu(), time.monotonic() - start)
    finally:
        watching.cancel()
        cluster.processes.stop(["operator"])
    return {"sessions": count, "waiting_to_request": latency(waits), "foreign_cpu_percent": foreign}


async def _request(
    cluster: Cluster, operator: Operator, sightings: Sightings, name: str, number: int
) -> float:
    """Seconds from the answer to the session's create until its request is seen."""
    made = objects.session(name)
    await cluster.post(objects.SESSIONS, {**made, "spec": {**made["spec"], "template": "waiting"}})
    posted = time.monotonic()
    try:
        return await sightings.newest(number) - posted
    except TimeoutError:
        operator.check()
        raise RuntimeError(f"no request for {name} within {DEADLINE_SECONDS:g} s") from None


async def run(binaries: Mapping[str, Path], count: int) -> dict[str, Any]:
    """Everything, from the control plane's start to its end. Raises RuntimeError, saying where."""
    cluster = Cluster(binaries, build_crds(), 1)
    try:
        async with cluster:
            await cluster.post("/api/v1/namespaces", {"metadata": {"name": PLACES}})
            await cluster.post(
                "/apis/scheduling.k8s.io/v1/priorityclasses",
                {"metadata": {"name": PRIORITY_CLASS}, "value": -10, "preemptionPolicy": "Never"},
            )
            await cluster.post(objects.TEMPLATES, template())
            return await measure(cluster, count)
    except Exception as error:
        raise RuntimeError(f"{in_words(error)}; logs in {cluster.folder}") from error


def table(figures: Mapping[str, Any]) -> str:
    lines = [
        "session applied, and no node for it -> request for a node:",
        "",
        "| sessions | p50, ms | p99, ms | max, ms | CPU of others |",
        "|---|---|---|---|---|",
    ]
    waits = figures["waiting_to_request"]
    cells = [figures["sessions"], waits["p50_ms"], waits["p99_ms"], waits["max_ms"]]
    lines.append(f"| {' | '.join(map(str, cells))} | {figures['foreign_cpu_percent']} % |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """0: measured; 1: an error, or over the aim; 2: wrong command line; 3: a program is missing;
    130: interrupted.
    """
    parser = argparse.ArgumentParser(
        prog="python -m bench.node_request",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-n", "--sessions", type=positive, default=40, help="sessions (40)")
    add_json_option(parser)
    options = parser.parse_args(arguments)
    end_cleanly_on_signals()
    figures = run_measurement(
        f"requests for {options.sessions} nodes", partial(run, count=options.sessions)
    )
    print(table(figures))
    write_rows(options.json, figures)
    if figures["waiting_to_request"]["max_ms"] > AIM_SECONDS * 1000:
        print(f"the slowest request took longer than {AIM_SECONDS:g} s")
        return FINDINGS
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
