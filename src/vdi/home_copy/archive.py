"""A home as a tar archive: `export_home` writes one, `import_home` makes a home of one.

pod that mounts the claim -> `kubectl exec` -> tar in the pod. The pod ends with its command. An import marks its claim
(`COPYING`) until all of it is there: no desktop starts on a home that is half filled.
"""

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, TypeVar, cast

import msgspec

from vdi.api.template import VDITemplate
from vdi.home_copy.check import ArchiveCheck, BadArchiveError
from vdi.home_copy.errors import CopyFailedError, CopyRefusedError
from vdi.home_copy.pod import CONTAINER, PACK, build_copy_pod, held, pod_name, unpack_script
from vdi.kube.clock import Clock
from vdi.kube.errors import AlreadyExists, NotFound, Replaced
from vdi.kube.resource import CLAIMS, EVENTS, PODS
from vdi.kube.transport import Client
from vdi.session.children.home import build_home
from vdi.session.explain import StartState, explain
from vdi.session.homes import COPYING, Home
from vdi.session.identity import Identity
from vdi.session.observed import Event, PersistentVolumeClaim, Pod
from vdi.session.subject import Subject

T = TypeVar("T")
IMPORT = "vdi home import"
CHUNK_BYTES = 1 << 20
_CHANGED = 1
"""tar's exit status when files changed while it read them."""
_ENDED = ("Succeeded", "Failed")
_LOOK_SECONDS = 0.5
_START_SECONDS = 300.0
"""How long the pod may take: the image is usually on the node, but a volume may have to be made."""
_END_SECONDS = 60.0
_LAST_LINES = 3
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


@dataclass(frozen=True, slots=True)
class Copied:
    """An archive that has passed."""

    archive_bytes: int
    content_bytes: int
    """Unpacked."""
    warnings: tuple[str, ...] = ()
    """What tar says of files that it left out or that changed meanwhile."""


async def export_home(
    run: CopyRun, claim: str, template: VDITemplate, sink: BinaryIO, *, image: str | None = None
) -> Copied:
    """Write the home's archive. A desktop may run meanwhile.

    Raises CopyRefusedError, CopyFailedError and KubeError; what was written to `sink` is then no archive.
    """
    body = build_copy_pod(claim, template, image=image, read_only=True, node=await _node_of(run, claim))
    check = ArchiveCheck()
    async with _pod(run, claim, body):
        await _until_running(run, claim)
        async with _open_command(run, claim, held(PACK)) as command:
            command.stdin.close()
            passed = 0
            while chunk := await command.stdout.read(CHUNK_BYTES):
                _feed(check, chunk, "the pod sent no archive")
                await _in_thread(partial(_write, sink, chunk))
                passed += len(chunk)
                run.moved(passed)
            status, lines = await command.end()
        if status not in (0, _CHANGED):
            raise CopyFailedError(await _reason(run, claim, status, lines))
        try:
            check.finish()
        except BadArchiveError as error:
            said = f" ({'; '.join(lines[-_LAST_LINES:])})" if lines else ""
            raise CopyFailedError(f"the pod sent no whole archive: {error}{said}") from error
    return Copied(passed, check.size, tuple(lines))


async def import_home(
    run: CopyRun,
    identity: Identity,
    home: Home,
    template: VDITemplate,
    source: BinaryIO,
    *,
    image: str | None = None,
) -> Copied:
    """Make the home and fill it. One that exists is refused; one that an interrupted import has left is filled again.

    Raises CopyRefusedError, CopyFailedError and KubeError; the home does not exist then.
    """
    async with _pod(run, home.claim, build_copy_pod(home.claim, template, image=image)):
        uid = await _make_claim(run, identity, home)
        try:
            await _until_running(run, home.claim)
            copied = await _fill(run, home.claim, source)
        except BaseException:
            await _delete_claim(run, home.claim, uid)
            raise
        unmarked = {"metadata": {"uid": uid, "annotations": {COPYING: None}}}
        await run.client.patch(CLAIMS, home.claim, unmarked, namespace=run.namespace, into=msgspec.Raw)
    return copied


async def _make_claim(run: CopyRun, identity: Identity, home: Home) -> str:
    """The uid of the claim, which no desktop starts on. Raises CopyRefusedError for a home that is in use."""
    body = build_home(identity=identity, home=home)
    body["metadata"]["annotations"][COPYING] = IMPORT
    try:
        made = await run.client.create(CLAIMS, body, namespace=run.namespace, into=PersistentVolumeClaim)
    except AlreadyExists:
        made = await run.client.get(CLAIMS, home.claim, namespace=run.namespace, into=PersistentVolumeClaim)
        if made.metadata.annotations.get(COPYING) != IMPORT or made.metadata.deletion_timestamp:
            raise CopyRefusedError(
                f"the home {home.claim!r} of {identity.user} exists already, and stays as it is. To replace it, end its"
                f" sessions and delete it with all its files: vdi home rm {home.claim} -n {run.namespace}"
            ) from None
        run.progress("an interrupted import is begun again")
    return made.metadata.uid


async def _fill(run: CopyRun, claim: str, source: BinaryIO) -> Copied:
    check, passed, problem = ArchiveCheck(), 0, "the archive cannot be read"
    chunk = await _in_thread(partial(_read, source))
    _feed(check, chunk, problem)
    async with _open_command(run, claim, held(unpack_script(gzip=check.is_gzip))) as command:
        with suppress(BrokenPipeError, ConnectionResetError):  # what tar says then is the reason
            while chunk:
                command.stdin.write(chunk)
                await command.stdin.drain()
                passed += len(chunk)
                run.moved(passed)
                chunk = await _in_thread(partial(_read, source))
                _feed(check, chunk, problem)
            _feed(check, None, problem)  # before tar takes the end of the stream for the end of the archive
            command.stdin.close()
            await command.stdin.wait_closed()
        await command.stdout.read()
        status, lines = await command.end()
    if status != 0:
        raise CopyFailedError(await _reason(run, claim, status, lines))
    return Copied(passed, check.size, tuple(lines))


def _read(source: BinaryIO) -> bytes:
    """A whole chunk, or what is left: an unbuffered stream gives less at a time."""
    parts, missing = [], CHUNK_BYTES
    while missing and (part := source.read(missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _write(sink: BinaryIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[sink.write(rest) :]


async def _in_thread(work: Callable[[], T]) -> T:
    """The result of what may block for ever, as a pipe does: Ctrl-C waits for `asyncio.to_thread`, and not for this."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def give(result: T | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(cast("T", result))

    def run() -> None:
        try:
            result, error = work(), None
        except Exception as failure:
            result, error = None, failure
        with suppress(RuntimeError):  # the loop is closed: no one waits any longer
            loop.call_soon_threadsafe(give, result, error)

    threading.Thread(target=run, daemon=True).start()
    return await future


def _feed(check: ArchiveCheck, chunk: bytes | None, problem: str) -> None:
    """Look at the next bytes; None: the stream is over. Raises CopyFailedError."""
    try:
        if chunk is None:
            check.finish()
        else:
            check.feed(chunk)
    except BadArchiveError as error:
        raise CopyFailedError(f"{problem}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Command:
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
async def _open_command(run: CopyRun, claim: str, script: str) -> AsyncIterator[_Command]:
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
        yield _Command(process, process.stdin, process.stdout, errors)
    finally:
        if process.returncode is None:  # else its number may be that of another process by now
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        await errors


@asynccontextmanager
async def _pod(run: CopyRun, claim: str, body: Mapping[str, Any]) -> AsyncIterator[None]:
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
        if pod.status.phase not in _ENDED and not pod.terminating:
            raise CopyRefusedError(
                f"the home {claim!r} is being copied by the pod {name} since {pod.metadata.creation_timestamp}. If the"
                f" command that made the pod was killed: kubectl -n {run.namespace} delete pod {name}"
            )
        run.progress("waiting for the end of an earlier pod")
        await run.client.delete(PODS, name, namespace=run.namespace, uid=pod.metadata.uid, into=msgspec.Raw)
        deadline = run.clock.monotonic() + _END_SECONDS
        while run.clock.monotonic() < deadline:
            await run.client.get(PODS, name, namespace=run.namespace, into=msgspec.Raw)
            await run.clock.sleep(_LOOK_SECONDS)
        raise CopyRefusedError(f"the pod {name} of an earlier copy has not ended within {_END_SECONDS:g} s")


async def _until_running(run: CopyRun, claim: str) -> None:
    """Raises CopyFailedError for a pod that does not start, with the reason."""
    deadline, name = run.clock.monotonic() + _START_SECONDS, pod_name(claim)
    while True:
        pod = await run.client.get(PODS, name, namespace=run.namespace, into=Pod)
        if pod.status.phase == "Running":
            return
        reason = await _explain(run, claim, pod)
        if pod.status.phase in _ENDED:
            raise CopyFailedError(f"the pod {name} ended: {reason}")
        if run.clock.monotonic() > deadline:
            raise CopyFailedError(f"the pod {name} has not started within {_START_SECONDS:g} s: {reason}")
        run.progress(reason)
        await run.clock.sleep(_LOOK_SECONDS)


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


async def _reason(run: CopyRun, claim: str, status: int, lines: Sequence[str]) -> str:
    """Why the command in the pod failed: the end of the pod, or else what it said."""
    with suppress(NotFound):
        pod = await run.client.get(PODS, pod_name(claim), namespace=run.namespace, into=Pod)
        state = pod.desktop.state.terminated if pod.desktop else None
        if pod.status.reason or (state and state.reason == "OOMKilled"):
            return f"the pod ended: {await _explain(run, claim, pod)}"
    words = "; ".join(lines[-_LAST_LINES:]) or f"exit status {status}"
    return f"tar in the pod failed: {words}"


async def _node_of(run: CopyRun, claim: str) -> str:
    """The node of a desktop that has the home: a volume may be mounted on one node only."""
    for pod in await run.client.list(PODS, namespace=run.namespace, into=Pod):
        mounts = any(
            volume.persistent_volume_claim and volume.persistent_volume_claim.claim_name == claim
            for volume in pod.spec.volumes
        )
        if mounts and pod.status.phase not in _ENDED and pod.spec.node_name:
            return pod.spec.node_name
    return ""


async def _delete_claim(run: CopyRun, claim: str, uid: str) -> None:
    with suppress(NotFound, Replaced):
        await run.client.delete(CLAIMS, claim, namespace=run.namespace, uid=uid, into=msgspec.Raw)
