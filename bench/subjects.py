"""What is measured: an operator in a process of its own, or the floor (`bench.floor`)."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bench import objects
from bench.cluster import Cluster
from bench.processes import cpu_seconds, memory_mib


class Subject(Protocol):
    """Something that turns sessions into desktops."""

    # Whether it waits for a session's pod to run before it says that the session runs.
    follows_pods: bool

    # Session -> when the API server had answered to its create, in seconds of the monotonic clock.
    posted: dict[str, float]

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
        return cls(
            cluster,
            cluster.processes.start("operator", argv, {**env, "KUBECONFIG": str(kubeconfig)}),
        )

    async def create(self, name: str) -> None:
        await self.cluster.post(objects.SESSIONS, objects.session(name))
        self.posted[name] = time.monotonic()

    async def delete(self, name: str) -> None:
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
