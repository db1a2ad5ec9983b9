"""A server on loopback that accepts connections as Redis does, and responds to nothing until a test
lets it.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from vdi.gateway import shared_state
from vdi.gateway.shared_state import RedisSharedState

# Seconds that a command waits for it.
RESPONSE_SECONDS = 0.2


@dataclass(eq=False)
class SilentRedis:
    """The server, and a client's shared state."""

    shared: RedisSharedState = field(init=False)
    # Accepted so far.
    connections: int = 0
    _answers: bool = False

    def answer(self) -> None:
        """Answer what comes from now on: every command with the same status."""
        self._answers = True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            # A command is an array, whose first line has its length: `*2`.
            while line := await reader.readline():
                if line.startswith(b"*") and self._answers:
                    writer.write(b"+PONG\r\n")
        except ConnectionError:
            pass  # the client has given up
        finally:
            writer.close()


@pytest.fixture
async def silent_redis(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SilentRedis]:
    monkeypatch.setattr(shared_state, "_RESPONSE_SECONDS", RESPONSE_SECONDS)
    stage = SilentRedis()
    server = await asyncio.start_server(stage.serve, "127.0.0.1", 0)
    stage.shared = RedisSharedState(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        yield stage
    finally:
        await stage.shared.close()
        server.close()
        await server.wait_closed()
