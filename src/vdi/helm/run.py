"""Runs helm: in a session of its own, so that Ctrl-C reaches it once and through us, with time to clean up."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from vdi.helm.binary import Helm
from vdi.helm.errors import HelmFailed, HelmInterrupted
from vdi.helm.failures import explain_failure

STOPPING = "Interrupted: helm stops and undoes its changes; press Ctrl-C again to stop it immediately."
_ELSEWHERE = "HELM_KUBE"
"""Variables by which helm would go to another cluster, or as somebody else, than what looked at the cluster before."""


@dataclass(frozen=True, slots=True)
class Output:
    """What helm has printed."""

    stdout: str
    stderr: str


async def run_helm(
    helm: Helm,
    arguments: Sequence[str],
    *,
    stdin: bytes | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Output:
    """Run helm to its end. The first Ctrl-C (or SIGTERM) is handed on, `say` tells so, the second kills helm.

    Raises HelmFailed, and HelmInterrupted when helm has ended after a Ctrl-C.
    """
    what = f"helm {arguments[0]}"
    with _SignalsHandedOn(say) as signals:  # before helm starts: from then on none may end us and leave it alone
        starting = asyncio.ensure_future(_start(helm, arguments, stdin is not None))
        try:
            process = await asyncio.shield(starting)  # else a cancelled start would kill helm in the middle of its work
            signals.go_to(process)
            out, err = await process.communicate(stdin)
        except asyncio.CancelledError:
            await _stop(await starting)
            raise
    if signals.came:
        raise HelmInterrupted(what)
    words = err.decode("utf-8", "replace")
    if process.returncode != 0:
        raise HelmFailed(what, explain_failure(words))
    return Output(out.decode("utf-8", "replace"), words)


async def _start(helm: Helm, arguments: Sequence[str], with_stdin: bool) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        helm.path,
        *arguments,
        stdin=asyncio.subprocess.PIPE if with_stdin else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith(_ELSEWHERE)},
        start_new_session=True,
    )


class _SignalsHandedOn:
    """While this lasts, Ctrl-C and SIGTERM are for helm: the first asks it to stop, the second kills it."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.came = 0
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(RuntimeError, ValueError, NotImplementedError):  # not in the main thread
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.getsignal(number)
                loop.add_signal_handler(number, self._hand_on)
                self._before[number] = before
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop = asyncio.get_running_loop()
        for number, before in self._before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, before)

    def go_to(self, process: asyncio.subprocess.Process) -> None:
        """The process that they are for; one that came already is handed on now."""
        self._process = process
        if self.came:
            self._deliver()

    def _hand_on(self) -> None:
        self.came += 1
        if self.came == 1:
            self._say(STOPPING)
        self._deliver()

    def _deliver(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGINT if self.came == 1 else signal.SIGKILL)


async def _stop(process: asyncio.subprocess.Process) -> None:
    """End helm where whoever waits for it has given up."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            await process.wait()
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
