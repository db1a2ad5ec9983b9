"""A home as a tar archive: `export_home` writes one, `import_home` makes a home of one.

pod that mounts the claim -> `kubectl exec` -> tar in the pod. The pod ends with its command. An import marks its claim
(`COPYING`) until all of it is there: no desktop starts on a home that is half filled.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, TypeVar, cast

import msgspec

from vdi.api.template import VDITemplate
from vdi.home_copy.check import ArchiveCheck, BadArchiveError
from vdi.home_copy.pod import (
    CHUNK_BYTES,
    ENDED,
    LAST_LINES,
    PACK,
    CopyFailedError,
    CopyRefusedError,
    CopyRun,
    build_copy_pod,
    copy_pod,
    delete_claim,
    held,
    open_command,
    reason_of,
    result_of,
    unpack_script,
    until_running,
)
from vdi.kube.errors import AlreadyExists, Forbidden
from vdi.kube.resource import CLAIMS, DEPLOYMENTS, NODES, PODS
from vdi.operator.settings import read_settings
from vdi.operator.variables import SettingsError
from vdi.session.children.home import build_home
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.homes import COPYING, Home
from vdi.session.identity import Identity
from vdi.session.observed import Node, PersistentVolumeClaim, Pod
from vdi.session.prepull import can_run

T = TypeVar("T")
IMPORT = "vdi home import"
_CHANGED = 1
"""tar's exit status when files changed while it read them."""


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
    body = build_copy_pod(claim, template, image=image, read_only=True, nodes=await _nodes_of(run, claim))
    check = ArchiveCheck()
    async with copy_pod(run, claim, body):
        await until_running(run, claim)
        async with open_command(run, claim, held(PACK)) as command:
            command.stdin.close()
            passed = 0
            while chunk := await command.stdout.read(CHUNK_BYTES):
                _feed(check, chunk, "the pod sent no archive")
                await _in_thread(partial(_write, sink, chunk))
                passed += len(chunk)
                run.moved(passed)
            status, lines = await command.end()
        if status not in (0, _CHANGED):
            raise CopyFailedError(await reason_of(run, claim, status, lines))
        try:
            check.finish()
        except BadArchiveError as error:
            said = f" ({'; '.join(lines[-LAST_LINES:])})" if lines else ""
            raise CopyFailedError(f"the pod sent an incomplete archive: {error}{said}") from error
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
    body = build_copy_pod(home.claim, template, image=image, nodes=await find_nodes(run, template))
    async with copy_pod(run, home.claim, body):
        making = asyncio.create_task(_make_claim(run, identity, home))
        try:
            uid = await asyncio.shield(making)
            await until_running(run, home.claim)
            copied = await _fill(run, home.claim, source)
        except BaseException:
            if made := await result_of(making):
                await delete_claim(run, home.claim, made)
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
                f"the home {home.claim} of {identity.user} already exists and is not changed. To replace it, end "
                f"its sessions and delete it with all its files: vdi home rm {home.claim}{run.flags}"
            ) from None
        run.progress("an interrupted import is started again")
    return made.metadata.uid


async def _fill(run: CopyRun, claim: str, source: BinaryIO) -> Copied:
    check, passed, problem = ArchiveCheck(), 0, "the archive cannot be read"
    chunk = await _in_thread(partial(_read, source))
    _feed(check, chunk, problem)
    async with open_command(run, claim, held(unpack_script(gzip=check.is_gzip))) as command:
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
        raise CopyFailedError(await reason_of(run, claim, status, lines))
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


async def _nodes_of(run: CopyRun, claim: str) -> tuple[str, ...]:
    """The node of a desktop that has the home: a volume may be mounted on one node only."""
    for pod in await run.client.list(PODS, namespace=run.namespace, into=Pod):
        mounts = any(
            volume.persistent_volume_claim and volume.persistent_volume_claim.claim_name == claim
            for volume in pod.spec.volumes
        )
        if mounts and pod.status.phase not in ENDED and pod.spec.node_name:
            return (pod.spec.node_name,)
    return ()


async def find_nodes(run: CopyRun, template: VDITemplate) -> tuple[str, ...]:
    """Nodes on which the volume of an imported home may be created: those that can run the desktops of its template.

    Empty: they request no GPU, and the placement says it all. The pod that fills the home requests no GPU, which it
    would have to wait for, and could be the first consumer of the volume on a node without any.

    Raises CopyRefusedError where no node can run them, and KubeError.
    """
    gpus = template.spec.resources.default_gpu
    if not gpus:
        return ()
    resource = await _read_gpu_resource(run)
    nodes = await run.client.list(NODES, into=Node)
    names = tuple(sorted(node.metadata.name for node in nodes if can_run(node, template, resource)))
    if not names:
        raise CopyRefusedError(
            f"no node can run desktops of the template {template.metadata.name!r} now ({gpus} {resource}, "
            "spec.placement), and the volume of the home must be created where they run. Import the home when such a "
            "node is ready: kubectl get nodes"
        )
    return names


async def _read_gpu_resource(run: CopyRun) -> str:
    """The setting of the operator whose sessions these are; the default where its Deployment is not seen."""
    try:
        deployments = await run.client.list(DEPLOYMENTS, into=dict[str, Any])
    except Forbidden:
        return ClusterSettings().gpu_resource
    for deployment in deployments:
        for container in deployment["spec"]["template"]["spec"]["containers"]:
            environment = {variable["name"]: variable.get("value", "") for variable in container.get("env") or ()}
            namespaces = environment.get("VDI_NAMESPACE", "").split(",")
            if container["name"] == "operator" and run.namespace in namespaces:
                try:
                    return read_settings(environment).cluster.gpu_resource
                except SettingsError:  # it does not start; `vdi doctor` reports it
                    return ClusterSettings().gpu_resource
    return ClusterSettings().gpu_resource
