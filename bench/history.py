"""`python -m bench.history`: how many changes of sessions the gateway's recorder writes in a
second, and how soon.

The recorder alone, in one process on one core, on states as the watch brings them; without the API
server. Each session lives one life of ten states, of which eight say something that is kept:
queued, two runs, a suspension, an end.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import msgspec
import uvloop

from bench.command import FINDINGS, INTERRUPTED, positive
from bench.processes import MACHINE_CPUS, machine_cpu_seconds
from bench.rows import add_json_option, write_rows
from bench.stats import latency, spread
from vdi.api.session import VDISession
from vdi.cluster.units import format_time
from vdi.gateway.cluster_cache import ClusterCache
from vdi.gateway.history.recorder import Recorder
from vdi.gateway.settings import Settings
from vdi.gateway.store.database import Database, DatabaseUnavailableError, DatabaseUrlError
from vdi.gateway.store.history import sessions
from vdi.gateway.store.migrations import upgrade
from vdi.kube.transport import Client

Figures = dict[str, Any]
# Seconds between two looks whether all is written: looking all the time would be most of the CPU
# that is measured.
_LOOK = 0.0002
# Changes that are written one by one, to see how long each takes.
ALONE = 200

EXAMPLE = """\
examples:
  python -m bench.history                          SQLite in a temporary folder, about a minute
  python -m bench.history -n 100 --repeat 1        a quick look
  python -m bench.history --database postgresql+asyncpg://me@/bench?host=/run/postgresql
                                                   an empty database that may be written to
"""


def life(number: int, began: datetime) -> list[VDISession]:
    """The states of one session, in their order."""

    def at(minute: float) -> str:
        return format_time(began + timedelta(minutes=minute))

    def condition(kind: str, status: str, reason: str, minute: float) -> dict[str, str]:
        return {"type": kind, "status": status, "reason": reason, "lastTransitionTime": at(minute)}

    def run(start: float, ready: bool, message: str = "") -> dict[str, Any]:
        seen: dict[str, Any] = {
            "startTime": at(start),
            "expiresAt": at(start + 480),
            "podName": f"desk-{number}",
        }
        seen |= {
            "conditions": [condition("Admitted", "True", "Admitted", start)],
            "message": message,
        }
        return seen | (
            {"phase": "Running", "readyTime": at(start + 1), "nodeName": "node-1"} if ready else {}
        )

    queued = {"phase": "Pending", "conditions": [condition("Admitted", "False", "GPUsBusy", 1)]}
    resting = [
        condition("Admitted", "False", "Suspended", 60),
        condition("Ready", "False", "Suspended", 60),
    ]
    statuses = [
        {},
        queued,
        run(5, ready=False),
        run(5, ready=False, message="The image is being fetched."),
        run(5, ready=True),
        run(5, ready=True, message="A note for who waits."),
        {"phase": "Suspended", "conditions": resting},
        run(90, ready=False),
        run(90, ready=True),
        run(90, ready=True),
    ]
    spec = {"user": f"user{number % 97}@example.com", "template": "office"}
    states = []
    for index, status in enumerate(statuses):
        meta = {
            "name": f"desk-{number}",
            "namespace": "vdi-sessions",
            "uid": f"{began.timestamp():.6f}-{number}",
            "resourceVersion": str(index + 1),
            "creationTimestamp": at(0),
            **({"deletionTimestamp": at(120)} if index == len(statuses) - 1 else {}),
        }
        states.append(
            msgspec.convert({"metadata": meta, "spec": spec, "status": status}, VDISession)
        )
    return states


async def measure(database: Database, count: int) -> Figures:
    """One run: all lives at once, state by state; then a start over what is written; then changes
    one by one.
    """
    began = datetime.now(UTC)
    lives = [life(number, began) for number in range(count)]
    no_client = cast(Client, None)  # only who has lost sight of a session asks the API server
    world = ClusterCache(no_client, Settings())
    recorder = Recorder(
        database=database, cluster=world, client=no_client, clock=lambda: datetime.now(UTC)
    )
    recording = asyncio.create_task(recorder.run())
    start, busy = time.perf_counter(), time.process_time()
    for step in range(len(lives[0])):
        for states in lives:
            world.sessions.observe(states[step])
        await _written(recorder)
    seconds, cpu = time.perf_counter() - start, time.process_time() - busy
    figures: Figures = {"states": recorder.written, "per_second": recorder.written / seconds}
    figures |= {"cpu_us_per_state": 1e6 * cpu / recorder.written}

    again = Recorder(
        database=database, cluster=world, client=no_client, clock=lambda: datetime.now(UTC)
    )
    start = time.perf_counter()
    relisting = asyncio.create_task(again.run())
    await asyncio.sleep(0)
    await _written(again)
    figures["start_over_them_s"] = time.perf_counter() - start

    alone: list[float] = []
    for number in range(ALONE):
        state = life(count + number, began)[4]
        start = time.perf_counter()
        world.sessions.observe(state)
        await _written(recorder)
        alone.append(time.perf_counter() - start)
    figures["alone"] = latency(alone)
    for task in (recording, relisting):
        task.cancel()
    await asyncio.gather(recording, relisting, return_exceptions=True)
    return figures


async def _written(recorder: Recorder) -> None:
    """Return when nothing is left to write. Raises DatabaseUnavailableError."""
    while recorder.lag:
        if recorder.trouble:
            raise DatabaseUnavailableError(recorder.trouble)
        await asyncio.sleep(_LOOK)


async def run(url: str, count: int, repeat: int) -> Figures:
    """Several runs on one database, which is emptied before each."""
    database = Database(url)
    try:
        await upgrade(database)
        start, busy, own = time.monotonic(), machine_cpu_seconds(), time.process_time()
        runs = []
        for _ in range(repeat):
            async with database.begin() as connection:
                await connection.execute(sessions.delete())
            runs.append(await measure(database, count))
        foreign = machine_cpu_seconds() - busy - (time.process_time() - own)
        percent = round(max(0.0, 100 * foreign / (time.monotonic() - start) / MACHINE_CPUS), 1)
        name = database.url.get_backend_name()
        return {"database": name, "sessions": count, "runs": runs, "foreign_cpu_percent": percent}
    finally:
        await database.close()


def table(figures: Figures) -> str:
    """For people: median [smallest..largest] of the runs."""
    runs = figures["runs"]
    rows = {
        "changes written per second": [one["per_second"] for one in runs],
        "CPU per change, us": [one["cpu_us_per_state"] for one in runs],
        "a start that finds all written, s": [one["start_over_them_s"] for one in runs],
        "one change alone, p50 ms": [one["alone"]["p50_ms"] for one in runs],
        "one change alone, p99 ms": [one["alone"]["p99_ms"] for one in runs],
    }
    lines = [
        f"| {figures['database']}, {figures['sessions']} sessions | median [smallest..largest] |",
        "|---|---|",
    ]
    lines += [f"| {name} | {spread(values)} |" for name, values in rows.items()]
    others = "Others, the database's server among them,"
    states = statistics.median(one["states"] for one in runs)
    lines += [
        "",
        (
            f"{states:g} changes in each run. {others} used {figures['foreign_cpu_percent']} % of"
            " the machine."
        ),
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """0: measured; 1: the run had an error; 2: wrong command line; 130: interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.history",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-n", "--sessions", type=positive, default=1000, help="sessions at once (1000)"
    )
    parser.add_argument("--repeat", type=positive, default=3, help="runs (3)")
    parser.add_argument(
        "--database", metavar="URL", help="its history is deleted (SQLite in a temporary folder)"
    )
    add_json_option(parser)
    options = parser.parse_args(arguments)
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            url = options.database or f"sqlite+aiosqlite:///{folder}/vdi.db"
            figures = runner.run(run(url, options.sessions, options.repeat))
    except (DatabaseUrlError, DatabaseUnavailableError) as error:
        print(f"the run failed: {error}", file=sys.stderr)
        return FINDINGS
    except KeyboardInterrupt:
        return INTERRUPTED
    print(table(figures))
    write_rows(options.json, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
