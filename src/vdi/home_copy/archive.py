"""Export and import of a home as a tar archive, and the check of an archive's outer form.

Called by `vdi home export` and `import`; the pod that mounts the home is in `pod`.
"""

import asyncio
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, TypeVar, cast

import msgspec

from vdi.api.template import VDITemplate
from vdi.cluster.objects import Node, PersistentVolumeClaim, Pod
from vdi.doctor.objects.components import operators_among
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
from vdi.session.children import build_home
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.homes import COPYING, Home
from vdi.session.naming import Identity
from vdi.session.prepull import can_run
from vdi.snapshot.objects.workloads import WorkloadObject

_GZIP = b"\x1f\x8b"
_MAGIC = slice(257, 262)
_BLOCK = 512
# Unpacked at a time: a chunk of a sparse file may unpack to a thousand times its size.
_MOST_BYTES = 1 << 20

# A tar archive ends with two blocks of zeros.
_END = bytes(2 * _BLOCK)


class BadArchiveError(Exception):
    """Raised for what is not a whole archive; the message says what is wrong."""


class ArchiveCheck:
    """Takes the chunks of a stream in order; `finish` says whether it was whole."""

    def __init__(self) -> None:
        # Bytes so far, as they are in the archive; unpacked where it is compressed.
        self.size = 0
        self._head = b""
        self._tail = b""
        self._gzip: zlib._Decompress | None = None
        self._begun = False

    def feed(self, chunk: bytes) -> None:
        """Look at the next bytes. Raises BadArchiveError."""
        if not self._begun:
            chunk = self._head + chunk
            if len(chunk) < len(_GZIP):
                self._head = chunk
                return
            self._begun, self._head = True, b""
            if chunk.startswith(_GZIP):
                self._gzip = zlib.decompressobj(wbits=31)
        if self._gzip:
            self._unpack(self._gzip, chunk)
        else:
            self._feed_tar(chunk)

    @property
    def is_gzip(self) -> bool:
        """Whether it is compressed; known from the second byte on."""
        return self._gzip is not None

    def finish(self) -> None:
        """The stream is over. Raises BadArchiveError."""
        if self._gzip and not self._gzip.eof:
            raise BadArchiveError("it is truncated: the end of its compressed data is missing")
        if self.size == 0:
            raise BadArchiveError("it is empty")
        if self.size < len(_END) or self._tail != _END:
            raise BadArchiveError("it is truncated: the end of the tar archive is missing")

    def _unpack(self, stream: "zlib._Decompress", chunk: bytes) -> None:
        while chunk:
            try:
                self._feed_tar(stream.decompress(chunk, _MOST_BYTES))
            except zlib.error as error:
                raise BadArchiveError(f"its compressed data is damaged ({error})") from error
            if stream.unused_data:
                raise BadArchiveError("there is data after its end")
            chunk = stream.unconsumed_tail

    def _feed_tar(self, data: bytes) -> None:
        if len(self._head) < _BLOCK:
            self._head += data[: _BLOCK - len(self._head)]
            if len(self._head) == _BLOCK and self._head[_MAGIC] != b"ustar" and any(self._head):
                raise BadArchiveError("it is not a tar archive, plain or compressed with gzip")
        self.size += len(data)
        self._tail = (self._tail + data[-len(_END) :])[-len(_END) :]


T = TypeVar("T")
IMPORT = "vdi home import"
# tar's exit status when files changed while it read them.
_CHANGED = 1


@dataclass(frozen=True, slots=True)
class Copied:
    """An archive that has passed."""

    archive_bytes: int
    # Unpacked.
    content_bytes: int
    # Messages of tar about files that it left out or that changed meanwhile.
    warnings: tuple[str, ...] = ()


async def export_home(
    run: CopyRun, claim: str, template: VDITemplate, sink: BinaryIO, *, image: str | None
) -> Copied:
    """Write the home's archive. A desktop may run meanwhile.

    Raises CopyRefusedError, CopyFailedError and KubeError; what was written to `sink` is then no
    archive.
    """
    body = build_copy_pod(
        claim, template, image=image, read_only=True, nodes=await _nodes_of(run, claim)
    )
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
    """Make the home and fill it. One that exists is refused; one that an interrupted import has
    left is filled again.

    Raises CopyRefusedError, CopyFailedError and KubeError; the home does not exist then.
    """
    body = build_copy_pod(home.claim, template, image=image, nodes=await find_nodes(run, template))
    async with copy_pod(run, home.claim, body):
        # Ctrl-C may come while the API server makes the claim. Its answer is awaited behind the
        # shield, so that the claim is deleted by its uid and no desktop starts on a half-filled
        # home.
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
        await run.client.patch(
            CLAIMS, home.claim, unmarked, namespace=run.namespace, into=msgspec.Raw
        )
    return copied


async def _make_claim(run: CopyRun, identity: Identity, home: Home) -> str:
    """The uid of the claim, which no desktop starts on. Raises CopyRefusedError for a home that is
    in use.
    """
    body = build_home(identity=identity, home=home)
    body["metadata"]["annotations"][COPYING] = IMPORT
    try:
        made = await run.client.create(
            CLAIMS, body, namespace=run.namespace, into=PersistentVolumeClaim
        )
    except AlreadyExists:
        made = await run.client.get(
            CLAIMS, home.claim, namespace=run.namespace, into=PersistentVolumeClaim
        )
        if made.metadata.annotations.get(COPYING) != IMPORT or made.metadata.deletion_timestamp:
            raise CopyRefusedError(
                f"the home {home.claim} of {identity.user} already exists and is not changed. To"
                " replace it, end its sessions and delete it with all its files: vdi home rm"
                f" {home.claim}{run.flags}"
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
            # Before tar takes the end of the stream for the end of the archive.
            _feed(check, None, problem)
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
    """The result of what may block for ever, as a pipe does: Ctrl-C waits for `asyncio.to_thread`,
    and not for this.
    """
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
    """Nodes on which the volume of an imported home may be created: those that can run the desktops
    of its template.

    Empty: they request no GPU, and the placement says it all. The pod that fills the home requests
    no GPU, which it would have to wait for, and could be the first consumer of the volume on a node
    without any.

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
            f"no node can run desktops of the template {template.metadata.name!r} now ({gpus}"
            f" {resource}, spec.placement), and the volume of the home must be created where they"
            " run. Import the home when such a node is ready: kubectl get nodes"
        )
    return names


async def _read_gpu_resource(run: CopyRun) -> str:
    """The setting of the operator whose sessions these are; the default where its Deployment is not
    seen.
    """
    try:
        deployments = await run.client.list(DEPLOYMENTS, into=WorkloadObject)
    except Forbidden:
        deployments = []
    own = []
    for operator in operators_among(deployments):
        if run.namespace in operator.watches:
            own.append(operator)
    return (own[0].settings if own else ClusterSettings()).gpu_resource
