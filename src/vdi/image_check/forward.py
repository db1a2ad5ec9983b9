"""`kubectl port-forward` to a pod: it reaches a port past network policies, and passes headers, POST and WebSockets.

The API server's pod proxy needs no kubectl, but keeps the Authorization header for itself.
"""

import asyncio
import re
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from vdi.http_client import LOOPBACK

_FORWARDING = re.compile(rf"Forwarding from {re.escape(LOOPBACK)}:(\d+) ")
_START_SECONDS = 20.0


class ForwardError(Exception):
    """Raised when there is no way to the pod's port; says why."""


@asynccontextmanager
async def forward(kubectl: Sequence[str], namespace: str, pod: str, port: int) -> AsyncIterator[int]:
    """A port of this machine's loopback address that leads to the pod's. Raises ForwardError."""
    if not kubectl:
        raise ForwardError("kubectl, which forwards the container's port, is not in PATH")
    command = [*kubectl, "--namespace", namespace, "port-forward", "--address", LOOPBACK, f"pod/{pod}", f":{port}"]
    # In a session of its own: Ctrl-C reaches this process alone, which then ends it.
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=STDOUT, start_new_session=True)
    try:
        yield await _local_port(process)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _local_port(process: Process) -> int:
    assert process.stdout is not None  # noqa: S101 - it was started with a pipe
    last = "it printed nothing"
    with suppress(TimeoutError):
        async with asyncio.timeout(_START_SECONDS):
            async for line in process.stdout:
                last = line.decode("utf-8", "replace").strip()
                if found := _FORWARDING.search(last):
                    return int(found[1])
    raise ForwardError(f"kubectl port-forward does not reach the container: {last}")
