"""What is measured: an operator in a process of its own, or the floor, which is the same writes and nothing else."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp

from bench import objects
from bench.cluster import Cluster
from bench.processes import cpu_seconds, memory_mib

MERGE_PATCH = "application/merge-patch+json"


class Subject(Protocol):
    """Something that turns sessions into desktops."""

    follows_pods: bool
    """Whether it waits for a session's pod to run before it says that the session runs."""

    posted: dict[str, float]
    """Session -> when the API server had answered to its create, in seconds of the monotonic clock."""

    async def create(self, name: str) -> None:
        """Post a session. Raises RuntimeError when the API server refuses."""

    async def delete(self, name: str) -> None:
        """Delete a session."""

    def cpu(self) -> float:
        """CPU seconds used so far."""

    def memory(self, key: str) -> float | None:
        """MiB, `VmRSS` or `VmHWM`; None where it says nothing."""

    def check(self) -> None:
        """Raises RuntimeError when it has ended."""


@dataclass
class Operator:
    """An operator's process; sessions are posted and deleted by the administrator."""

    cluster: Cluster
    process: subprocess.Popen[bytes]
    follows_pods: bool = True
    posted: dict[str, float] = field(default_factory=dict)

    @classmethod
    def start(cls, cluster: Cluster, argv: Sequence[str], env: Mapping[str, str]) -> Operator:
        """Start it with a kubeconfig of its own; it may do everything."""
        kubeconfig = cluster.kubeconfig("operator", cluster.operator_token)
        return cls(cluster, cluster.processes.start("operator", argv, {**env, "KUBECONFIG": str(kubeconfig)}))

    async def create(self, name: str) -> None:
        """Post a session."""
        await self.cluster.post(objects.SESSIONS, objects.session(name))
        self.posted[name] = time.monotonic()

    async def delete(self, name: str) -> None:
        """Delete a session."""
        async with self.cluster.http.delete(f"{objects.SESSIONS}/{name}") as response:
            await response.read()

    def cpu(self) -> float:
        """CPU of the operator's process tree."""
        return cpu_seconds(self.process.pid)

    def memory(self, key: str) -> float | None:
        """Memory of the operator's process tree."""
        return memory_mib(self.process.pid, key)

    def check(self) -> None:
        """Raises RuntimeError with the end of the log when the operator has ended."""
        if self.process.poll() is not None:
            tail = self.cluster.processes.log_tail("operator")
            raise RuntimeError(f"the operator ended with status {self.process.returncode}: {tail}")


@dataclass
class Floor:
    """A client that knows what to write: no watch, no cache, no decision; the writes of one session in an operator's
    order, those that do not need each other side by side. It runs in the bench's own process.
    """

    cluster: Cluster
    http: aiohttp.ClientSession
    follows_pods: bool = False
    posted: dict[str, float] = field(default_factory=dict)

    async def create(self, name: str) -> None:
        """Post a session and do all that its operator would write. It does not wait for the pod."""
        async with self.cluster.http.post(objects.SESSIONS, json=objects.session(name)) as response:
            session = await response.json()
        self.posted[name] = time.monotonic()
        path = f"{objects.SESSIONS}/{name}"
        await self._write("PATCH", path, {"metadata": {"finalizers": [objects.FINALIZER]}})
        children = objects.floor_children(name, session["metadata"]["uid"])
        await asyncio.gather(*(self._write("POST", where, child) for where, child in children.items()))
        for phase in ("Creating", "Running"):
            await self._write("PATCH", f"{path}/status", {"status": {"phase": phase, "url": f"https://{name}.test"}})

    async def delete(self, name: str) -> None:
        """Delete a session and let it go."""
        async with self.cluster.http.delete(f"{objects.SESSIONS}/{name}") as response:
            await response.read()
        await self._write("PATCH", f"{objects.SESSIONS}/{name}", {"metadata": {"finalizers": None}})

    async def _write(self, method: str, path: str, body: dict[str, Any]) -> None:
        kind = MERGE_PATCH if method == "PATCH" else "application/json"
        async with self.http.request(method, path, data=json.dumps(body), headers={"Content-Type": kind}) as response:
            if response.status >= 300:
                raise RuntimeError(f"{method} {path}: {response.status} {(await response.text())[:400]}")
            await response.read()

    def cpu(self) -> float:
        """CPU of the bench's process: it posts the sessions too, so this is a little more than the writes cost."""
        return time.process_time()

    def memory(self, key: str) -> float | None:
        """Nothing: the bench's own memory is not what anyone asks for."""

    def check(self) -> None:
        """It cannot end before the bench does."""
