"""`python -m bench.doctor`: what a run of `vdi doctor` takes beside 1,000 sessions that are well,
on fake nodes.

It makes them itself, on a control plane of its own as `python -m bench` starts it. Beside the
doctor's reading stands the floor: the same lists, asked for at once and thrown away.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.cluster import Cluster
from bench.command import in_words, positive, run_measurement
from bench.measure import Plan, Run
from bench.objects import NAMESPACE
from bench.operator_python import from_here
from bench.processes import end_cleanly_on_signals
from bench.report import goal
from bench.rows import add_json_option, write_rows
from bench.subjects import Operator
from bench.timeline import Timeline
from vdi.api.crd import build_crds
from vdi.devcluster.layout import free_ports
from vdi.doctor.checks.run import run_checks
from vdi.doctor.collect import BUDGET, SELECTED, collect
from vdi.kube.clock import SYSTEM_CLOCK
from vdi.kube.config import load_config
from vdi.kube.transport import Client
from vdi.snapshot.model import Scope
from vdi.snapshot.objects import KINDS

MOST_SECONDS = 3.0
# The fake pods have addresses of loopback, which an EndpointSlice may not have.
NOT_HERE = "service_without_endpoints"

EXAMPLE = """\
examples:
  python -m bench.doctor                 1,000 sessions, about two minutes on two cores
  python -m bench.doctor -n 100          a quick look
  python -m bench.doctor --json FILE     every figure, too
"""


async def measure(binaries: Mapping[str, Path], options: argparse.Namespace) -> dict[str, float]:
    """The sessions, then the runs: medians. Raises RuntimeError where it failed; says why and where
    the logs are.
    """
    cluster = Cluster(binaries, build_crds(), options.sessions)
    try:
        async with cluster, Timeline(cluster.url, cluster.ca, cluster.admin_token) as timeline:
            [port] = free_ports(1)
            own = {
                "VDI_NAMESPACE": NAMESPACE,
                "VDI_OPERATOR_NAMESPACE": NAMESPACE,
                "VDI_METRICS_ADDR": f"127.0.0.1:{port}",
            }
            program = from_here()
            operator = Operator.start(cluster, program.argv, {**program.environment, **own})
            plan = Plan(sessions=options.sessions, deadline_seconds=600.0)
            await Run(cluster, timeline, operator, plan).burst(
                [f"s{i:05d}" for i in range(options.sessions)]
            )
            kubeconfig = cluster.kubeconfig("admin", cluster.admin_token)
            rounds = [await _round(cluster, kubeconfig) for _ in range(options.repeat)]
    except Exception as error:
        raise RuntimeError(f"{in_words(error)}; logs in {cluster.folder}") from error
    return {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}


async def _round(cluster: Cluster, kubeconfig: Path) -> dict[str, float]:
    floor = await _floor(cluster)
    requests = 0

    def count(*_: object) -> None:
        nonlocal requests
        requests += 1

    config = load_config(kubeconfig, None)
    begun = time.perf_counter()
    async with Client(config, field_manager="bench", on_request=count) as client:
        snapshot = await collect(client, Scope(NAMESPACE, ""), SYSTEM_CLOCK)
    read = time.perf_counter()
    findings = run_checks(snapshot)
    judged = time.perf_counter()
    program = from_here()
    command = [*program.argv[:-2], "doctor", "-n", NAMESPACE, "--kubeconfig", str(kubeconfig)]
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **program.environment}, stdout=asyncio.subprocess.DEVNULL
    )
    await process.wait()
    command_s = time.perf_counter() - judged
    if process.returncode not in (0, 1):
        raise RuntimeError(f"`{' '.join(command)}` ended with status {process.returncode}")
    return {
        "floor_s": floor,
        "read_s": read - begun,
        "judge_s": judged - read,
        "command_s": command_s,
        "requests": requests - len(snapshot.logs),
        "findings": sum(finding.code != NOT_HERE for finding in findings),
    }


async def _floor(cluster: Cluster) -> float:
    """Seconds for the same lists, undecoded, by one client at once."""
    begun = time.perf_counter()
    async with cluster.client(cluster.admin_token) as http:

        async def get(path: str) -> None:
            async with http.get(path) as answer:
                await answer.read()
                if answer.status not in (200, 404):
                    raise RuntimeError(f"GET {path}: {answer.status}")

        kinds = (kind for kind in KINDS.values() if kind not in SELECTED)
        await asyncio.gather(*(get(kind.path()) for kind in kinds))
    return time.perf_counter() - begun


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line. Ends the program with 2 when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.doctor",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-n", "--sessions", type=positive, default=1000, help="how many (1000)")
    parser.add_argument(
        "--repeat", type=positive, default=5, help="how many runs; the median is shown (5)"
    )
    add_json_option(parser)
    return parser.parse_args(arguments)


def table(figures: Mapping[str, Any], sessions: int) -> str:
    """What people read."""
    read, floor = figures["read_s"], figures["floor_s"]
    met = figures["command_s"] < MOST_SECONDS and figures["requests"] <= BUDGET
    return "\n".join(
        [
            f"vdi doctor beside {sessions} sessions that are well",
            "",
            (
                f"read: {read:.2f} s in {figures['requests']:.0f} requests; the lists alone, thrown"
                f" away: {floor:.2f} s, so {read / floor:.1f} x"
            ),
            f"judged: {figures['judge_s']:.2f} s, findings: {figures['findings']:.0f}",
            f"the whole command: {figures['command_s']:.2f} s",
            "",
            goal(met, f"under {MOST_SECONDS:g} s and at most {BUDGET} requests"),
            goal(not figures["findings"], "nothing is found where nothing is wrong"),
        ]
    )


def main(arguments: Sequence[str]) -> int:
    """0: measured; 1: failed; 2: wrong command line; 3: a program is missing; 130: interrupted."""
    options = parse(arguments)
    end_cleanly_on_signals()
    figures = run_measurement(
        f"{options.sessions} sessions, {options.repeat} runs of the doctor",
        partial(measure, options=options),
    )
    print(table(figures, options.sessions))
    write_rows(options.json, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
