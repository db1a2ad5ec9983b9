"""The pod of a copy while it runs: made, waited for, reached through `kubectl exec`, deleted."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from vdi.home_copy.errors import CopyFailedError, CopyRefusedError
from vdi.home_copy.pod import CONTAINER, pod_name
from vdi.kube.clock import Clock
from vdi.kube.errors import AlreadyExists, KubeError, NotFound, Replaced
from vdi.kube.resource import CLAIMS, EVENTS, PODS
from vdi.kube.transport import Client
from vdi.session.explain import StartState, explain
from vdi.session.observed import Event, PersistentVolumeClaim, Pod
from vdi.session.subject import Subject

T = TypeVar("T")

CHUNK_BYTES = 1 << 20
ENDED = ("Succeeded", "Failed")
LAST_LINES = 3
LOOK_SECONDS = 0.5
_START_SECONDS = 300.0
"""How long the pod may take: the image is usually on the node, but a volume may have to be made."""
END_SECONDS = 60.0
_KUBECTL_SAYS = ("command terminated with exit code", "Defaulted container")
_COPY = Subject(name="the copy", title="The copy", image="--image", memory="the limit of the copy's pod")


@dataclass(frozen=True, slots=True)
class CopyRun:
    """What a copy needs."""

    client: Client
    clock: Clock
    kubectl: Sequence[str]
    """kubectl, with the options that choose the cluster."""
    namespace: str
    progress: Callable[[str], None]
    """Called with what happens now."""
    moved: Callable[[int], None]
    """Called with the bytes of the archive that have passed."""
    flags: str = ""
    """What to add to a suggested command so that it is about the same namespace and cluster."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command that runs in the pod."""

    process: asyncio.subprocess.Process
    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader
    errors: "asyncio.Task[bytes]"

    async def end(self) -> tuple[int, list[str]]:
        """Its exit status, and the lines of its stderr."""
        said = (await self.errors).decode("utf-8", "replace")
        lines = [line for line in said.splitlines() if line.strip() and not line.startswith(_KUBECTL_SAYS)]
        return await self.process.wait(), lines


@asynccontextmanager
async def open_command(run: CopyRun, claim: str, script: str) -> AsyncIterator[Command]:
    """Run a script in the pod of that home; it is killed when the context ends before it."""
    words = [*run.kubectl, "--namespace", run.namespace, "exec", "--stdin", pod_name(claim)]
    words += ["--container", CONTAINER, "--", "sh", "-c", script]
    pipe = asyncio.subprocess.PIPE
    # In a session of its own: Ctrl-C reaches this process alone, which then removes the pod.
    process = await asyncio.create_subprocess_exec(
        *words, stdin=pipe, stdout=pipe, stderr=pipe, limit=CHUNK_BYTES, start_new_session=True
    )
    assert process.stdin and process.stdout and process.stderr  # noqa: S101 - they are pipes
    errors = asyncio.create_task(process.stderr.read())
    try:
        yield Command(process, process.stdin, process.stdout, errors)
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        await errors


@asynccontextmanager
async def copy_pod(run: CopyRun, claim: str, body: Mapping[str, Any]) -> AsyncIterator[None]:
    """The pod of that home. It is deleted at the end, also when this is cancelled. Raises CopyRefusedError."""
    run.progress("starting a pod")
    try:
        made = await run.client.create(PODS, body, namespace=run.namespace, into=Pod)
    except AlreadyExists:
        await _clear(run, claim)
        made = await run.client.create(PODS, body, namespace=run.namespace, into=Pod)
    try:
        yield
    finally:
        with suppress(NotFound, Replaced):
            await run.client.delete(
                PODS, pod_name(claim), namespace=run.namespace, uid=made.metadata.uid, into=msgspec.Raw
            )


async def _clear(run: CopyRun, claim: str) -> None:
    """Remove a pod that has ended. Raises CopyRefusedError for one that has not."""
    name = pod_name(claim)
    with suppress(NotFound):
        pod = await run.client.get(PODS, name, namespace=run.namespace, into=Pod)
        if pod.status.phase not in ENDED and not pod.terminating:
            raise CopyRefusedError(
                f"the home {claim!r} is being copied by the pod {name} since {pod.metadata.creation_timestamp}. If the"
                f" command that made the pod was killed: kubectl -n {run.namespace} delete pod {name}"
            )
        run.progress("waiting until an earlier pod ends")
        await run.client.delete(PODS, name, namespace=run.namespace, uid=pod.metadata.uid, into=msgspec.Raw)
        deadline = run.clock.monotonic() + END_SECONDS
        while run.clock.monotonic() < deadline:
            await run.client.get(PODS, name, namespace=run.namespace, into=msgspec.Raw)
            await run.clock.sleep(LOOK_SECONDS)
        raise CopyRefusedError(f"the pod {name} of an earlier copy has not ended within {END_SECONDS:g} s")


async def until_running(run: CopyRun, claim: str) -> None:
    """Raises CopyFailedError for a pod that does not start, with the reason."""
    deadline, name = run.clock.monotonic() + _START_SECONDS, pod_name(claim)
    while True:
        pod = await run.client.get(PODS, name, namespace=run.namespace, into=Pod)
        if pod.status.phase == "Running":
            return
        reason = await _explain(run, claim, pod)
        if pod.status.phase in ENDED:
            raise CopyFailedError(f"the pod {name} ended: {reason}")
        if run.clock.monotonic() > deadline:
            raise CopyFailedError(f"the pod {name} has not started within {_START_SECONDS:g} s: {reason}")
        run.progress(reason)
        await run.clock.sleep(LOOK_SECONDS)


async def _explain(run: CopyRun, claim: str, pod: Pod) -> str:
    """Why the pod is not running."""
    namespace, name = run.namespace, pod.metadata.name
    claims = await run.client.list(
        CLAIMS, namespace=namespace, field_selector=f"metadata.name={claim}", into=PersistentVolumeClaim
    )
    events = await run.client.list(
        EVENTS, namespace=namespace, field_selector=f"type=Warning,regarding.name={name}", into=Event
    )
    of_this_pod = tuple(event for event in events if event.regarding.uid == pod.metadata.uid)
    return explain(StartState(pod, next(iter(claims), None), of_this_pod, None, subject=_COPY)).sentence


async def reason_of(run: CopyRun, claim: str, status: int, lines: Sequence[str]) -> str:
    """Why the command in the pod failed: the end of the pod, or else what it said."""
    with suppress(NotFound):
        pod = await run.client.get(PODS, pod_name(claim), namespace=run.namespace, into=Pod)
        state = pod.desktop.state.terminated if pod.desktop else None
        if pod.status.reason or (state and state.reason == "OOMKilled"):
            return f"the pod ended: {await _explain(run, claim, pod)}"
    words = "; ".join(lines[-LAST_LINES:]) or f"exit status {status}"
    return f"the copy in the pod failed: {words}"


async def result_of(making: "asyncio.Task[T]") -> T | None:
    """What a request that was under way when this command was interrupted has made; None: it failed."""
    try:
        return await making
    except (KubeError, CopyRefusedError):
        return None


async def delete_claim(run: CopyRun, claim: str, uid: str) -> None:
    """Delete this very claim, if it is there."""
    with suppress(NotFound, Replaced):
        await run.client.delete(CLAIMS, claim, namespace=run.namespace, uid=uid, into=msgspec.Raw)
