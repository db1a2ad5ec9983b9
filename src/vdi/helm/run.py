"""Helm as a program: finding it, running it, and the pods that a release waits for.

Helm runs in a session of its own, so that Ctrl-C reaches it once and through us, with time to clean
up.
"""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

from vdi.cluster.explain import StartState, chart_subject, explain, first_line
from vdi.cluster.objects import Event, Pod
from vdi.cluster.units import format_time
from vdi.helm.errors import (
    Failure,
    HelmFailedError,
    HelmInterruptedError,
    HelmUnavailableError,
    explain_failure,
)
from vdi.kube.clock import SYSTEM_CLOCK, Clock
from vdi.kube.errors import Forbidden, KubeError
from vdi.kube.resource import EVENTS, PODS
from vdi.kube.transport import Client

# The first whose `template --dry-run=server` reads the cluster, and which upgrades what server-side
# apply has made.
OLDEST = (3, 14, 0)
MAJORS = (3, 4)
_VERSION_SECONDS = 20.0
STOPPING = (
    "Interrupted: helm stops and undoes its changes; press Ctrl-C again to stop it immediately."
)
# Variables by which helm would go to another cluster, or as somebody else, than the preflight
# before it.
_ELSEWHERE = "HELM_KUBE"
# Time that a helm has to undo its change when whoever waits for it gives up.
_STOP_SECONDS = 10.0
WATCH_SECONDS = 1.5


@dataclass(frozen=True, slots=True)
class Helm:
    path: Path
    version: tuple[int, int, int]

    @property
    def major(self) -> int:
        """3 or 4: their flags differ."""
        return self.version[0]

    @property
    def words(self) -> str:
        return f"Helm {'.'.join(map(str, self.version))} ({self.path})"


def find_helm(given: Path | None = None) -> Helm:
    """The helm that is named, else the one in PATH. Raises HelmUnavailableError, which says what
    was looked at.
    """
    driver = os.environ.get("HELM_DRIVER", "")
    if driver not in ("", "secret", "secrets"):
        raise HelmUnavailableError(
            f"HELM_DRIVER is {driver!r}: releases are read from Secrets only; allowed: unset,"
            " secret"
        )
    if given is not None:
        program = given.expanduser().absolute()
        if not (program.is_file() and os.access(program, os.X_OK)):
            raise HelmUnavailableError(
                f"helm: {given} is not a program; allowed: the path of a Helm 3 or 4"
            )
    else:
        in_path = shutil.which("helm")
        if in_path is None:
            raise HelmUnavailableError(
                "helm is not in PATH; install Helm 3 or 4 (https://helm.sh/docs/intro/install), or"
                " pass its path: --helm PATH"
            )
        program = Path(in_path)
    return Helm(program, _version_of(program))


def parse_version(text: str) -> tuple[int, int, int] | None:
    """`v4.3.1`, also with a suffix, as numbers."""
    match = re.match(r"v?(\d+)\.(\d+)\.(\d+)", text.strip())
    if match:
        return (int(match[1]), int(match[2]), int(match[3]))
    return None


def _version_of(path: Path) -> tuple[int, int, int]:
    command = [str(path), "version", "--template", "{{.Version}}"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_VERSION_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HelmUnavailableError(f"{path} version: {error}") from error
    version = parse_version(done.stdout)
    if done.returncode != 0 or version is None:
        said = (done.stderr or done.stdout).strip() or f"exit status {done.returncode}"
        raise HelmUnavailableError(f"{path} does not report its version as Helm 3 and 4 do: {said}")
    if version[0] not in MAJORS or version < OLDEST:
        shown = ".".join(map(str, version))
        raise HelmUnavailableError(
            f"{path} is Helm {shown}; allowed: Helm 3 from {OLDEST[0]}.{OLDEST[1]} on, and Helm 4"
        )
    return version


@dataclass(frozen=True, slots=True)
class Output:
    """Printed output of a helm that has ended well."""

    stdout: str
    stderr: str


async def run_helm(
    helm: Helm,
    arguments: Sequence[str],
    *,
    stdin: bytes | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Output:
    """Run helm to its end. The first Ctrl-C (or SIGTERM) is handed on, `say` tells so, the second
    kills helm.

    Raises HelmFailedError, and HelmInterruptedError when helm has ended after a Ctrl-C.
    """
    what = f"helm {arguments[0]}"
    # The handlers stand before helm starts. A signal in between would end this process and leave
    # helm alone, with a release that is pending for ever.
    with _SignalsHandedOn(say) as signals:
        starting = asyncio.ensure_future(_start(helm, arguments, stdin is not None))
        try:
            # Without the shield, a cancelled start would kill helm in the middle of its work.
            process = await asyncio.shield(starting)
            signals.go_to(process)
            out, err = await process.communicate(stdin)
        except asyncio.CancelledError:
            await _stop(await starting)
            raise
    if signals.came:
        raise HelmInterruptedError(what)
    error_text = err.decode("utf-8", "replace")
    if process.returncode != 0:
        raise HelmFailedError(what, explain_failure(error_text))
    return Output(out.decode("utf-8", "replace"), error_text)


async def _start(
    helm: Helm, arguments: Sequence[str], with_stdin: bool
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        helm.path,
        *arguments,
        stdin=asyncio.subprocess.PIPE if with_stdin else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith(_ELSEWHERE)},
        # Ctrl-C reaches the whole process group of the terminal: helm would get it at once, and
        # again through us.
        start_new_session=True,
    )


class _SignalsHandedOn:
    """While this lasts, Ctrl-C and SIGTERM are for helm: the first asks it to stop, the second
    kills it.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.came = 0
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        # Not in the main thread.
        with contextlib.suppress(RuntimeError, ValueError, NotImplementedError):
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.getsignal(number)
                loop.add_signal_handler(number, self._hand_on)
                self._before[number] = before
        return self

    def __exit__(self, *_: object) -> None:
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
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class View(Protocol):
    """The display of a wait."""

    def waiting(self, text: str) -> None:
        """Show the object that is waited for."""

    def say(self, text: str) -> None:
        """Print one line that stays."""

    def passed(self, text: str, seconds: float) -> None:
        """Print a stage that is over."""


class NotReady(NamedTuple):
    # `pod/kasm/vdi-operator-...`.
    object: str
    sentence: str
    # False: an ordinary step of a start.
    stuck: bool


@dataclass
class Watch:
    """Polls the pods of a namespace, and remembers why they were not ready.

    With --atomic the failed pods are gone when helm ends: only reasons that were seen before can
    explain the failure.
    """

    client: Client
    namespace: str
    view: View
    # Beginnings of the names of the release's objects.
    names: tuple[str, ...] = ("",)
    clock: Clock = SYSTEM_CLOCK
    # Reasons at the last look that found any: stuck pods, else pods that were starting.
    reasons: tuple[NotReady, ...] = ()
    _shown: set[tuple[str, str]] = field(default_factory=set)

    async def run(self) -> None:
        """Look until cancelled. An API server that does not answer for a while is waited for."""
        began = format_time(self.clock.now())
        while True:
            try:
                await self._look(began)
            except Forbidden as error:
                self.view.say(f"  (what is waited for is not shown: {error})")
                return
            except KubeError as error:
                self.view.waiting(f"the API server does not respond: {error}")
            await self.clock.sleep(WATCH_SECONDS)

    async def _look(self, began: str) -> None:
        listed, events = await asyncio.gather(
            self.client.list(PODS, namespace=self.namespace, into=Pod),
            self.client.list(EVENTS, namespace=self.namespace, into=Event),
        )
        ours = (pod for pod in listed if pod.metadata.name.startswith(self.names))
        pods = [pod for pod in ours if not pod.terminating]
        running = (pod for pod in pods if pod.status.phase != "Succeeded")
        waiting = [not_ready(pod, events) for pod in running if not pod.ready]
        missing = [refused(event) for event in events if self._refuses_a_pod(event, began)]
        now = tuple(dict.fromkeys([*missing, *waiting]))
        stuck = tuple(reason for reason in now if reason.stuck)
        if stuck or (now and not any(reason.stuck for reason in self.reasons)):
            self.reasons = stuck or now
        for reason in stuck:
            if (reason.object, reason.sentence) not in self._shown:
                self._shown.add((reason.object, reason.sentence))
                self.view.say(f"  {reason.object}: {reason.sentence}")
        first = next(iter(stuck or now), None)
        why = f"; {first.object}: {first.sentence}" if first else ""
        self.view.waiting(f"{len(pods) - len(waiting)} of {len(pods)} pods ready{why}")

    def _refuses_a_pod(self, event: Event, began: str) -> bool:
        return (
            event.reason == "FailedCreate"
            and event.seen >= began
            and event.regarding.name.startswith(self.names)
        )


def not_ready(pod: Pod, events: Sequence[Event]) -> NotReady:
    """The reason why a pod is not ready, in the doctor's sentences."""
    meta = pod.metadata
    about = []
    for event in events:
        object_key = event.regarding.kind, event.metadata.namespace, event.regarding.name
        if object_key == ("Pod", meta.namespace, meta.name):
            about.append(event)
    explanation = explain(StartState(pod, events=tuple(about), subject=chart_subject("pod")))
    return NotReady(f"pod/{meta.namespace}/{meta.name}", explanation.sentence, explanation.stuck)


def refused(event: Event) -> NotReady:
    """Pods that admission or a quota refuses. There is no pod then: only an Event of its ReplicaSet
    says so.
    """
    about = f"{event.regarding.kind.lower()}/{event.metadata.namespace}/{event.regarding.name}"
    return NotReady(about, f"Its pods are refused: {first_line(event.note)}", stuck=True)


async def run_watched(
    helm: Helm, arguments: Sequence[str], watch: Watch, *, stdin: bytes | None
) -> Output:
    """Run helm while the view shows its waits. Raises HelmFailedError with the reasons, or
    HelmInterruptedError.
    """
    watching = asyncio.create_task(watch.run())
    try:
        return await run_helm(helm, arguments, stdin=stdin, say=watch.view.say)
    except HelmFailedError as error:
        raise HelmFailedError(error.what, with_reasons(error.failure, watch.reasons)) from error
    finally:
        await stop_telling(watching, watch.view)


async def stop_telling(telling: "asyncio.Task[None]", view: View) -> None:
    """Stop watching. Print a fault of the watch: helm's own work goes on without it."""
    telling.cancel()
    (ended,) = await asyncio.gather(telling, return_exceptions=True)
    if isinstance(ended, Exception):
        view.say(f"  (some resources were not shown while waiting: {ended!r})")


def with_reasons(failure: Failure, reasons: Sequence[NotReady]) -> Failure:
    """A failure to become ready, with what was not ready and why; every other failure as it is."""
    if failure.code not in ("NotReadyInTime", "Unknown") or not reasons:
        return failure
    lines = "".join(f"\n  {reason.object}: {reason.sentence}" for reason in reasons)
    return failure._replace(sentence=f"{failure.sentence}{lines}\n")
