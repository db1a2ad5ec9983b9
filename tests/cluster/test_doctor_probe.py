"""The TURN client of `vdi doctor --probe`: Debian's turnserver gives it an address for good words,
and none for bad.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cluster.edge_traefik import free_port, run_program
from support.waiting import eventually
from vdi.doctor.probe.turn import TurnError, allocate
from vdi.session.credentials import make_turn_credentials

SECRET = "n" * 40
SOON = timedelta(minutes=2)


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[int]:
    program = shutil.which("turnserver")
    assert program, "turnserver is not on PATH: apt-get install --no-install-recommends coturn"
    port = free_port()
    config = tmp_path / "turnserver.conf"
    lines = [
        f"listening-port={port}",
        "listening-ip=127.0.0.1",
        "relay-ip=127.0.0.1",
        "realm=turn.example.com",
    ]
    lines += [
        "use-auth-secret",
        f"static-auth-secret={SECRET}",
        "no-tls",
        "no-dtls",
        "no-cli",
        "fingerprint",
    ]
    lines += [f"pidfile={tmp_path}/pid", f"userdb={tmp_path}/db", "log-file=stdout"]
    config.write_text("\n".join(lines) + "\n")
    config.chmod(0o600)
    async with run_program(tmp_path, Path(program), "-c", str(config)):
        yield port


async def outcome(port: int, secret: str, ends: datetime) -> str:
    try:
        await allocate("127.0.0.1", port, *make_turn_credentials(secret, "vdi-doctor", ends))
    except TurnError as error:
        return str(error)
    return "allocated"


async def test_turn_address_requires_valid_credentials(port: int) -> None:
    now = datetime.now(UTC)

    async def gives_an_address() -> bool:
        return await outcome(port, SECRET, now + SOON) == "allocated"

    await eventually(gives_an_address, "the TURN server gives an address")
    refused = await asyncio.gather(
        outcome(port, "w" * 40, now + SOON), outcome(port, SECRET, now - SOON)
    )
    assert all(one.startswith("it responds with 401") for one in refused), refused
