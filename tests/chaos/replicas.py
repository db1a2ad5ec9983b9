"""Operators as processes, each with its own way to the API server, that can be killed, frozen and
started again.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from chaos.fault_proxy import FaultProxy
from chaos.world import ChaosWorld
from cluster.operator_stage import OperatorProcess, Stage
from support.waiting import eventually, is_waiting


@dataclass
class Replica:
    """One operator; without a `process` while it is down."""

    stage: Stage
    proxy: FaultProxy
    process: OperatorProcess | None = None
    frozen: bool = False

    async def start(self) -> None:
        """Start it, if it is down; wake it, if it is frozen."""
        if self.process is not None and self.process.process.returncode is not None:
            self.process = None
        if self.process is None:
            self.proxy.repair()
            self.process = await self.stage.spawn_operator()
        if self.frozen:
            self._send(signal.SIGCONT)
            self.frozen = False

    async def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            await self.process.kill()
        self.process, self.frozen = None, False

    async def stop(self) -> None:
        """SIGTERM, as a rollout does."""
        if self.process is None or self.frozen:
            return
        self._send(signal.SIGTERM)
        await asyncio.wait_for(self.process.process.wait(), 40)
        self.process = None

    async def freeze(self) -> None:
        """SIGSTOP: it does not know that time goes on.

        While it waits for news, since what it has handed to its event loop in a turn leaves at the
        end of that turn, also if it is stopped in between (docs/design/operator.md, "Two
        operators").
        """
        if self.process is not None and self.process.process.returncode is None and not self.frozen:
            await eventually(self._waits, "the operator waits for news, or has ended")
            self._send(signal.SIGSTOP)
            self.frozen = True

    def _waits(self) -> bool:
        assert self.process is not None
        return self.process.process.returncode is not None or is_waiting(self.process.process.pid)

    def _send(self, number: signal.Signals) -> None:
        assert self.process is not None
        if self.process.process.returncode is None:
            self.process.process.send_signal(number)

    def log(self) -> str:
        """All that it has logged, over all its lives."""
        file = self.stage.folder / "operator.log"
        return file.read_text() if file.exists() else ""


@asynccontextmanager
async def replicas(world: ChaosWorld, count: int = 2) -> AsyncIterator[list[Replica]]:
    """So many operators side by side; killed at the end."""
    async with AsyncExitStack() as stack:
        made: list[Replica] = []
        for number in range(count):
            label = f"operator-{number + 1}"
            proxy = FaultProxy(world.upstream, label=label, audit=world.audit)
            proxy.user = world.proxy.user
            await stack.enter_async_context(proxy.serve())
            folder = world.stage.folder / label
            folder.mkdir()
            replica = Replica(replace(world.stage, proxy=proxy, folder=folder), proxy)
            stack.push_async_callback(replica.kill)
            await replica.start()
            made.append(replica)
        yield made
