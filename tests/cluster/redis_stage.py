"""A real Redis as a process of the test: on a Unix socket in its folder, with nothing kept on
disk.
"""

import asyncio
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.waiting import eventually
from vdi.gateway.shared_state import RedisSharedState


@dataclass
class RedisServer:
    """A running server."""

    folder: Path
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """For VDI_REDIS_URL."""
        return f"unix://{self.folder}/redis.sock"

    async def start(self) -> None:
        """Start, and return when it answers."""
        program = shutil.which("redis-server")
        assert program, "redis-server is not on PATH: apt-get install redis-server"
        options = [
            "--port",
            "0",
            "--unixsocket",
            f"{self.folder}/redis.sock",
            "--save",
            "",
            "--appendonly",
            "no",
        ]
        self.process = await asyncio.create_subprocess_exec(
            program, *options, "--dir", str(self.folder), stdout=asyncio.subprocess.DEVNULL
        )
        shared = RedisSharedState(self.url)

        async def answers() -> bool:
            try:
                await shared.check()
            except OSError:
                return False
            return True

        try:
            await eventually(answers, "Redis answers")
        finally:
            await shared.close()

    def send(self, how: signal.Signals) -> None:
        """SIGSTOP freezes it, SIGCONT lets it go on."""
        assert self.process is not None
        self.process.send_signal(how)

    async def kill(self) -> None:
        """SIGKILL; all it knew is lost."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


@pytest.fixture
async def redis() -> AsyncIterator[RedisServer]:
    """A server in a folder with a short path: a socket's has 107 characters at most."""
    with tempfile.TemporaryDirectory(prefix="vdi-redis-") as folder:
        server = RedisServer(Path(folder))
        await server.start()
        try:
            yield server
        finally:
            await server.kill()
