"""One run of one subject on a fresh control plane: probe, trickle, burst, idle, delete. Figures go
into plain dicts.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.audit import count_requests, read_requests
from bench.cluster import OPERATOR_USER, Cluster
from bench.processes import MACHINE_CPUS
from bench.stats import latency
from bench.subjects import Subject
from bench.timeline import Timeline

Figures = dict[str, Any]

READY_SECONDS = 60.0
TRICKLE_INTERVAL = 0.2
AUDIT_FLUSH_SECONDS = 2.5  # the API server writes its audit log in batches, at most one second late
TRAILING_SECONDS = 1.0
QUIET_PERCENT = 10.0
QUIET_SECONDS = 20.0
# What `Processes.cpu` tells besides etcd, API server, scheduler, controllers and kwok.
NOT_THE_CLUSTER = {"operator", "bench", "foreign"}


@dataclass(frozen=True)
class Plan:
    """How much is asked of each subject."""

    sessions: int
    trickle: int = 50
    clients: int = 32
    idle_seconds: float = 10.0
    deadline_seconds: float = 300.0


@dataclass
class Run:
    """A subject on its cluster, with what was seen and noted so far. Phases run in the order of
    `measure`.
    """

    cluster: Cluster
    timeline: Timeline
    subject: Subject
    plan: Plan
    figures: Figures = field(default_factory=dict)
    # Phase -> from when to when in Unix seconds, and for how many sessions; the audit log is
    # counted by it.
    windows: dict[str, tuple[float, float, int]] = field(default_factory=dict)

    async def measure(self) -> Figures:
        """All phases. Raises RuntimeError or TimeoutError; `figures` then holds what was measured
        before it.
        """
        self.figures["startup_s"] = await self._probe()
        await quiet(self.cluster)
        self.figures["trickle"] = await self._trickle(
            [f"t{i:05d}" for i in range(self.plan.trickle)]
        )
        names = [f"s{i:05d}" for i in range(self.plan.sessions)]
        await quiet(self.cluster)
        self.figures["burst"] = await self.burst(names)
        self.figures["idle"] = await self._idle()
        self.figures["delete"] = await self._delete(names)
        self.figures["peak_rss_mib"] = self.subject.memory("VmHWM")
        with self.cluster.audit_log.open() as log:
            requests = read_requests(log, OPERATOR_USER)
        self.figures["api"] = {
            phase: count_requests(requests, *window) for phase, window in self.windows.items()
        }
        return self.figures

    async def _probe(self) -> float:
        """One session, so that caches are warm and connections open. Seconds from the operator's
        start.
        """
        start = time.monotonic()
        await self.subject.create("probe")
        await self._running(["probe"], READY_SECONDS)
        took = self.timeline.session_running["probe"] - start
        await self._gone(["probe"])
        return round(took, 2)

    async def _trickle(self, names: Sequence[str]) -> Figures:
        """One session at a time, at a steady pace: what a person waits when nothing else
        happens.
        """
        before = self.cluster.processes.cpu()
        cpu = self.subject.cpu()
        since = time.time()
        start = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for number, name in enumerate(names):
                await asyncio.sleep(max(0.0, start + number * TRICKLE_INTERVAL - time.monotonic()))
                tasks.create_task(self.subject.create(name))
        await self._running(names, READY_SECONDS)
        seconds = time.monotonic() - start
        figures = self._latencies(names) | {
            "operator_cpu_s": round(self.subject.cpu() - cpu, 2),
            "foreign_percent": foreign_percent(before, self.cluster.processes.cpu(), seconds),
        }
        await asyncio.sleep(AUDIT_FLUSH_SECONDS)
        self.windows["trickle"] = (since, time.time(), len(names))
        await self._gone(names)
        return figures

    async def burst(self, names: Sequence[str]) -> Figures:
        """Everybody at once; CPU counts until the trailing work is done."""
        before = self.cluster.processes.cpu()
        cpu = self.subject.cpu()
        since = time.time()
        start = time.monotonic()
        await pooled(names, self.plan.clients, self.subject.create)
        posted = time.monotonic()
        seen = self.timeline
        await self._running(names, self.plan.deadline_seconds)
        await asyncio.sleep(TRAILING_SECONDS)
        after = self.cluster.processes.cpu()
        figures = self._latencies(names) | {
            "posted_s": round(posted - start, 3),
            "pods_created_s": round(max(seen.pod_added[name] for name in names) - start, 3),
            "pods_running_s": round(max(seen.pod_running[name] for name in names) - start, 3),
            "sessions_running_s": round(
                max(seen.session_running[name] for name in names) - start, 3
            ),
            "operator_cpu_s": round(self.subject.cpu() - cpu, 2),
            "apiserver_cpu_s": round(after["apiserver"] - before["apiserver"], 2),
            "cluster_cpu_s": round(
                sum(after[name] - before[name] for name in after.keys() - NOT_THE_CLUSTER), 2
            ),
            "foreign_percent": foreign_percent(before, after, time.monotonic() - start),
        }
        await asyncio.sleep(AUDIT_FLUSH_SECONDS)
        self.windows["burst"] = (since, time.time(), len(names))
        return figures

    async def _idle(self) -> Figures:
        """What all these desktops cost while nothing changes."""
        cpu, since, start = self.subject.cpu(), time.time(), time.monotonic()
        await asyncio.sleep(self.plan.idle_seconds)
        used, seconds = self.subject.cpu() - cpu, time.monotonic() - start
        self.windows["idle"] = (since, time.time(), self.plan.sessions)
        return {
            "cpu_percent_of_core": round(100 * used / seconds, 2),
            "rss_mib": self.subject.memory("VmRSS"),
        }

    async def _delete(self, names: Sequence[str]) -> Figures:
        """Everybody leaves at once."""
        cpu, since, start = self.subject.cpu(), time.time(), time.monotonic()
        await self._gone(names)
        figures = {
            "sessions_gone_s": round(
                max(self.timeline.session_gone[name] for name in names) - start, 3
            ),
            "pods_gone_s": round(max(self.timeline.pod_gone[name] for name in names) - start, 3),
            "operator_cpu_s": round(self.subject.cpu() - cpu, 2),
        }
        await asyncio.sleep(AUDIT_FLUSH_SECONDS)
        self.windows["delete"] = (since, time.time(), len(names))
        return figures

    async def _running(self, names: Sequence[str], seconds: float) -> None:
        await self._wait(self.timeline.session_running, names, seconds, "sessions Running")
        await self._wait(self.timeline.pod_running, names, seconds, "pods Running")

    async def _gone(self, names: Sequence[str]) -> None:
        await pooled(names, self.plan.clients, self.subject.delete)
        await self._wait(
            self.timeline.session_gone, names, self.plan.deadline_seconds, "sessions gone"
        )
        await self._wait(self.timeline.pod_gone, names, self.plan.deadline_seconds, "pods gone")

    async def _wait(
        self, sightings: dict[str, float], names: Sequence[str], seconds: float, what: str
    ) -> None:
        expected = set(names)

        def reached() -> bool:
            self.subject.check()
            return expected <= sightings.keys()

        await self.timeline.until(reached, seconds, f"{what}: {len(expected)}")

    def _latencies(self, names: Sequence[str]) -> Figures:
        seen, posted = self.timeline, self.subject.posted
        figures = {"pod_created": latency([seen.pod_added[name] - posted[name] for name in names])}
        if self.subject.follows_pods:
            waits = [seen.session_running[name] - seen.pod_running[name] for name in names]
            figures["pod_to_session_running"] = latency(waits)
        return figures


async def pooled(
    names: Sequence[str], clients: int, work: Callable[[str], Awaitable[None]]
) -> None:
    """Do the work for each name, at most `clients` at a time, in order."""
    left = deque(names)

    async def client() -> None:
        while left:
            await work(left.popleft())

    async with asyncio.TaskGroup() as tasks:
        for _ in range(min(clients, len(left))):
            tasks.create_task(client())


def foreign_percent(before: dict[str, float], after: dict[str, float], seconds: float) -> float:
    """How much of the machine others used meanwhile: above a few percent the run says less."""
    # The kernel counts in ticks, so that nothing may come out below.
    used = max(0.0, after["foreign"] - before["foreign"])
    return round(100 * used / (seconds * MACHINE_CPUS), 1)


async def quiet(cluster: Cluster) -> None:
    """Wait until others use less than QUIET_PERCENT of the machine, but no longer than
    QUIET_SECONDS.
    """
    end = time.monotonic() + QUIET_SECONDS
    while time.monotonic() < end:
        before, start = cluster.processes.cpu(), time.monotonic()
        await asyncio.sleep(2)
        if (
            foreign_percent(before, cluster.processes.cpu(), time.monotonic() - start)
            < QUIET_PERCENT
        ):
            return
