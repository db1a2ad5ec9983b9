"""`python -m bench.move`: how soon a desktop without a home runs elsewhere when its node is
drained, on the demo's cluster of several nodes. It needs `vdi demo up --nodes 3` first, and removes
what it made.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.command import FINDINGS, add_demo_options, positive
from bench.first_picture import CouldNotLookError, exit_status
from bench.report import goal, render
from bench.rows import add_json_option, write_rows
from bench.stats import percentile
from bench.ways import NAMESPACE, USER, Object, remove, status, until
from vdi.api.meta import RELEASE_NAMESPACE
from vdi.cluster.units import parse_duration, parse_time
from vdi.devcluster import cluster
from vdi.kinds import SESSIONS, TEMPLATES
from vdi.kube.config import load_config
from vdi.kube.transport import Client
from vdi.session.conditions import DRAINING

# Of the template, and of its session.
NAME = "bench-move"
# From the end of the notice until the desktop runs elsewhere.
GOAL_S = 20.0
_NOTICE = "jsonpath={.spec.template.spec.containers[0].env[?(@.name=='VDI_DRAIN_NOTICE')].value}"

Figures = dict[str, float]


class Kubectl:
    """The commands that an administrator types."""

    def __init__(self, program: Path, kubeconfig: Path) -> None:
        self._program, self._environment = program, {**os.environ, "KUBECONFIG": str(kubeconfig)}

    async def __call__(self, *arguments: str) -> str:
        """What it prints. Raises RuntimeError when it fails."""
        process = await asyncio.create_subprocess_exec(
            self._program,
            *arguments,
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            said = (await process.communicate())[0].decode()
        finally:
            if process.returncode is None:  # cancelled
                process.kill()
                await process.wait()
        if process.returncode != 0:
            raise RuntimeError(f"`kubectl {' '.join(arguments)}`: {said.strip()}")
        return said


async def move(client: Client, kubectl: Kubectl, notice_s: float) -> Figures:
    """Start a desktop, drain its node, and wait until it runs on another one; seconds."""
    session: Object = {
        "apiVersion": SESSIONS.api_version,
        "kind": SESSIONS.kind,
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {"user": USER, "template": NAME},
    }
    node = ""
    try:
        await client.create(SESSIONS, session, namespace=NAMESPACE, into=Object)
        node = status(await until(client, SESSIONS, NAME, is_running), "nodeName")
        begin = time.time()
        draining = asyncio.create_task(
            kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=5m")
        )
        try:
            warned = await until(
                client, SESSIONS, NAME, lambda found: draining_since(found) is not None
            )
            over = (draining_since(warned) or begin) + notice_s
            await until(
                client,
                SESSIONS,
                NAME,
                lambda found: is_running(found) and status(found, "nodeName") != node,
            )
            moved = time.time()
            await draining
        finally:
            draining.cancel()
            await asyncio.wait([draining])
        return {"drain_to_running_s": moved - begin, "notice_over_to_running_s": moved - over}
    finally:
        await remove(client, SESSIONS, NAME)
        if node:
            await kubectl("uncordon", node)


def is_running(session: Object) -> bool:
    """Whether the session's desktop runs on a node."""
    return status(session, "phase") == "Running" and bool(status(session, "nodeName"))


def draining_since(session: Object) -> float | None:
    """When the notice began, in seconds since the epoch; None without one."""
    conditions: list[dict[str, Any]] = session.get("status", {}).get("conditions", [])
    draining = [one for one in conditions if one["type"] == DRAINING and one["status"] == "True"]
    moment = parse_time(draining[0]["lastTransitionTime"]) if draining else None
    return moment.timestamp() if moment else None


async def measure(client: Client, kubectl: Kubectl, model: str, moves: int) -> dict[str, Any]:
    """So many moves, one after the other, of the desktop of a template like `model`, without a
    home.
    """
    notice = (
        await kubectl("-n", RELEASE_NAMESPACE, "get", "deploy", "vdi-operator", "-o", _NOTICE)
    ).strip()
    notice_s = parse_duration(notice).total_seconds()
    like = await client.get(TEMPLATES, model, into=Object)
    template = {
        "apiVersion": TEMPLATES.api_version,
        "kind": TEMPLATES.kind,
        "metadata": {"name": NAME},
        "spec": {**like["spec"], "persistence": {"enabled": False}},
    }
    try:
        await client.create(TEMPLATES, template, into=Object)
        figures = [await move(client, kubectl, notice_s) for _ in range(moves)]
    finally:
        await remove(client, TEMPLATES, NAME, namespace=None)
    return {"notice_s": notice_s, "moves": figures}


def table(moved: dict[str, Any]) -> str:
    """p50 and the slowest of both times."""
    rows = [["until the desktop runs on another node", "p50, s", "slowest, s"]]
    for title, key in (
        ("drain begins ->", "drain_to_running_s"),
        ("notice is over ->", "notice_over_to_running_s"),
    ):
        seconds = [figures[key] for figures in moved["moves"]]
        rows.append(
            [title, *(f"{percentile(seconds, percent) or 0.0:.1f}" for percent in (50.0, 100.0))]
        )
    return render(rows)


def where(name: str) -> tuple[Path, Path]:
    """Kubeconfig and kubectl of an embedded cluster of several nodes that runs. Raises
    CouldNotLookError.
    """
    cluster_status = cluster.status(name)
    if cluster_status.state not in ("running", "degraded") or len(cluster_status.nodes) < 2:
        raise CouldNotLookError(
            f"cluster {name!r} is {cluster_status.state} with {len(cluster_status.nodes)} nodes, of which 2 are"
            " needed: make one with `sudo vdi demo up --nodes 3`"
        )
    kubeconfig = Path(cluster_status.kubeconfig)
    return kubeconfig, kubeconfig.parent / "tools" / "kubectl"


def main(arguments: Sequence[str]) -> int:
    """0: measured; 1: an error, or over the aim; 2: wrong command line; 3: there is no cluster;
    130: interrupted.
    """
    parser = argparse.ArgumentParser(
        prog="python -m bench.move",
        description=__doc__,
        epilog="example: sudo vdi demo up --nodes 3 && sudo python -m bench.move",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-n", "--moves", type=positive, default=3, help="moves, one after the other (3)"
    )
    add_demo_options(parser)
    add_json_option(parser)
    options = parser.parse_args(arguments)

    async def ask(kubeconfig: Path, kubectl: Path) -> dict[str, Any]:
        async with Client(load_config(kubeconfig), field_manager="vdi-bench") as client:
            return await measure(
                client, Kubectl(kubectl, kubeconfig), options.template, options.moves
            )

    def run() -> int:
        figures = asyncio.run(ask(*where(options.cluster)))
        slowest = max(each["notice_over_to_running_s"] for each in figures["moves"])
        write_rows(options.json, figures)
        print(
            f"{options.moves} moves, drainNotice {figures['notice_s']:g} s, {os.cpu_count()} CPUs\n"
        )
        print(
            table(figures),
            goal(
                slowest < GOAL_S,
                f"runs elsewhere {slowest:.1f} s after the notice, under {GOAL_S:g} s wanted",
            ),
            sep="\n",
        )
        return 0 if slowest < GOAL_S else FINDINGS

    return exit_status(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
