"""`python -m bench`: the operator beside the raw API's floor and a tuned Go reference, each on a
control plane of its own, taking turns. Prints a table of medians and ratios. Nothing outside a
temporary folder and the cache is touched.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import uvloop

from bench import report
from bench.cluster import BINARIES, Cluster
from bench.command import (
    COULD_NOT_LOOK,
    FINDINGS,
    INTERRUPTED,
    add_image_option,
    in_words,
    positive,
)
from bench.contenders import Contender, line_up
from bench.measure import Plan, Run
from bench.operator_python import operator_program
from bench.processes import end_cleanly_on_signals
from bench.reference import build_reference
from bench.rows import add_json_option, write_rows
from bench.timeline import Timeline
from tools.binaries import ensure
from vdi.api.crd import build_crds
from vdi.devcluster.binaries import BinaryUnavailable
from vdi.devcluster.build_cache import SourceFailed, default_cache
from vdi.devcluster.progress import Progress, StepFailed

EXAMPLE = """\
examples:
  python -m bench                    300 sessions, three runs of each, about 10 minutes on two cores
  python -m bench -n 50 --repeat 1   a quick look
  python -m bench --image            the operator as its image has it, with Debian 13's Python
  python -m bench --full             1000 sessions, three runs of each, the Go reference also untuned: half an hour
  python -m bench --json FILE        every figure of every run, too
"""


class RunFailedError(Exception):
    """Raised when a run did not get to its end; says why and where the logs are."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line. Ends the program with 2 when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-n", "--sessions", type=positive, help="sessions of the burst (300; with --full 1000)"
    )
    parser.add_argument("--repeat", type=positive, help="runs of each contender (3)")
    parser.add_argument(
        "--full", action="store_true", help="larger, and the Go reference also untuned"
    )
    add_image_option(parser)
    add_json_option(parser)
    return parser.parse_args(arguments)


async def run_once(
    contender: Contender, binaries: Mapping[str, Path], plan: Plan, figures: dict[str, Any]
) -> None:
    """One contender on a fresh control plane. Raises RunFailedError; `figures` then holds what was
    measured before.
    """
    cluster = Cluster(binaries, build_crds(), max(plan.sessions, plan.trickle))
    try:
        async with (
            cluster,
            Timeline(cluster.url, cluster.ca, cluster.admin_token) as timeline,
            contender.on(cluster) as subject,
        ):
            await Run(cluster, timeline, subject, plan, figures).measure()
    except Exception as error:
        raise RunFailedError(f"{in_words(error)}; logs in {cluster.folder}") from error


def run_all(
    contenders: Sequence[Contender],
    binaries: Mapping[str, Path],
    plan: Plan,
    repeat: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Every contender `repeat` times, taking turns. Ctrl-C ends it early with what there is until
    then.
    """
    runs: list[dict[str, Any]] = []
    try:
        for number in range(1, repeat + 1):
            for contender in contenders:
                run: dict[str, Any] = {"name": contender.name, "repeat": number}
                try:
                    with (
                        progress.step(f"{contender.name}, run {number} of {repeat}"),
                        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
                    ):
                        runner.run(run_once(contender, binaries, plan, run))
                except RunFailedError as error:
                    run["error"] = str(error)
                runs.append(run)
    except KeyboardInterrupt:
        progress.say("interrupted")
    return runs


def main(arguments: Sequence[str]) -> int:
    """0: measured; 1: a run had an error; 2: wrong command line; 3: a program is missing; 130:
    interrupted.
    """
    options = parse(arguments)
    plan = Plan(sessions=options.sessions or (1000 if options.full else 300))
    repeat = options.repeat or 3
    end_cleanly_on_signals()
    with (
        operator_program(from_image=options.image) as operator,
        Progress(default_cache(os.environ) / "logs") as progress,
    ):
        try:
            binaries = ensure(BINARIES, progress=progress)
            reference = build_reference(progress)
        except (BinaryUnavailable, SourceFailed, StepFailed) as error:
            progress.say(str(error))
            return COULD_NOT_LOOK
        contenders = line_up(operator, reference, full=options.full)
        runs = run_all(contenders, binaries, plan, repeat, progress)
    if runs:
        print_runs(runs, plan, repeat, python=operator.python, file=options.json)
    if len(runs) < repeat * len(contenders):
        return INTERRUPTED
    return FINDINGS if any("error" in run for run in runs) else 0


def print_runs(
    runs: list[dict[str, Any]], plan: Plan, repeat: int, *, python: str, file: Path | None
) -> None:
    """Print the table, and keep every figure."""
    write_rows(file, {"python": python, "sessions": plan.sessions, "runs": runs})
    print(
        f"{plan.sessions} sessions in the burst by {plan.clients} clients; median"
        f" [smallest..largest] of {repeat} interleaved runs; {os.cpu_count()} CPUs, Linux"
        f" {platform.release()}, Python {python}\n"
    )
    print(report.table(runs))
    print(*report.goals(runs), *report.remarks(runs), sep="\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
