"""A dump of the bundled database, as a file here that has been read back.

pg_dump and pg_restore run in the database's own pod, so that their version is the server's; the password stays there.
The file appears under its name when it is whole, and only its owner may read it: it holds everybody's password hashes.
"""

import asyncio
import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from vdi.helm.place import Place
from vdi.kasm.errors import KasmFailedError, KasmRefusedError
from vdi.kasm.generations import Generation
from vdi.kube.resource import PODS
from vdi.kube.transport import Client
from vdi.new_file import NewFileError, new_file

MAGIC = b"PGDMP"
"""How a dump in pg_dump's custom format begins."""
_LOGIN = 'PGPASSWORD="$POSTGRES_PASSWORD" exec {program} --username="${{POSTGRES_USER:-kasmapp}}" '
_DUMP = _LOGIN.format(program="pg_dump") + '--format=custom --no-password --dbname="${POSTGRES_DB:-kasm}"'
_LIST = "exec pg_restore --list"
_READ = "exec pg_restore --file=/dev/null"
_ZONES = "TABLE DATA public zones"
"""Kasm's init containers look into this table to see whether the database is initialised."""


@dataclass(frozen=True, slots=True)
class Backup:
    """A dump that was made and read back."""

    file: Path
    size: int
    tables: int
    """How many tables have data in it."""


@dataclass(frozen=True, slots=True)
class Kubectl:
    """The program that reaches into a pod; our own client speaks no exec."""

    path: Path
    place: Place

    def exec(self, pod: str, container: str, script: str, *, stdin: bool = False) -> list[str]:
        """The command line of a script in a container. Nothing secret is in it."""
        words = [str(self.path), "exec", *self.place.kubectl_arguments]
        return [*words, *(["--stdin"] if stdin else []), pod, "--container", container, "--", "sh", "-c", script]


def find_kubectl(place: Place) -> Kubectl:
    """The kubectl in PATH. Raises KasmRefusedError."""
    found = shutil.which("kubectl")
    if found is None:
        raise KasmRefusedError("kubectl, which connects to the database's pod, is not in PATH; install it")
    return Kubectl(Path(found), place)


def database_pod(
    generation: Generation, pods: Sequence[Mapping[str, Any]], release: str, place: Place
) -> tuple[str, str]:
    """Name and container of the database's pod. Raises KasmRefusedError when no such pod is ready."""
    found = [
        pod
        for pod in pods
        if (component := generation.component_of(pod["metadata"].get("labels") or {})) and component.key == "db"
        if pod["metadata"]["labels"].get("app.kubernetes.io/instance", release) == release
    ]
    if not found:
        raise KasmRefusedError(
            f"the bundled database of {release} has no pod here. If it is outside the cluster "
            "(database.standalone), back it up there."
        )
    for pod in found:
        for status in (pod.get("status") or {}).get("containerStatuses") or ():
            if status.get("ready"):
                return pod["metadata"]["name"], status["name"]
    names = ", ".join(pod["metadata"]["name"] for pod in found)
    raise KasmRefusedError(
        f"the database is not working, so it cannot be dumped (pod {names}): vdi kasm diagnose {place.options}"
    )


async def back_up(client: Client, kubectl: Kubectl, generation: Generation, release: str, file: Path) -> Backup:
    """Dump, read back, then put the file in its place. Raises KasmRefusedError, KasmFailedError, KubeError."""
    check_free(file)
    pods = await client.list(PODS, namespace=kubectl.place.namespace, into=dict[str, Any])
    pod, container = database_pod(generation, pods, release, kubectl.place)
    with _as_new(file) as stream:
        await _run(kubectl.exec(pod, container, _DUMP), "pg_dump", stdout=stream.fileno())
        size = stream.seek(0, os.SEEK_END)
        tables = await _verify(kubectl, pod, container, stream)
    return Backup(file, size, tables)


def check_free(file: Path) -> None:
    """Whether a dump can be put there. Raises KasmRefusedError."""
    if file.exists():
        raise KasmRefusedError(f"{file} already exists; name another file")
    if not file.parent.is_dir():
        raise KasmRefusedError(f"the folder {file.parent} does not exist; name a file in an existing folder")


@contextlib.contextmanager
def _as_new(file: Path) -> Iterator[FileIO]:
    """See `new_file`. Raises KasmRefusedError."""
    try:
        with new_file(file) as stream:
            yield stream
    except NewFileError as error:
        raise KasmRefusedError(f"{error}; name another file") from error


async def _verify(kubectl: Kubectl, pod: str, container: str, dump: FileIO) -> int:
    """Read all of it back where it came from; how many tables have data. Raises KasmFailedError."""
    size = dump.seek(0, os.SEEK_END)
    dump.seek(0)
    if dump.read(len(MAGIC)) != MAGIC:
        raise KasmFailedError(f"pg_dump in pod {pod} produced no dump ({size} bytes); no file was kept.")
    outputs = []
    for script in (_LIST, _READ):
        os.lseek(dump.fileno(), 0, os.SEEK_SET)
        command = kubectl.exec(pod, container, script, stdin=True)
        outputs.append(await _run(command, "pg_restore", stdin=dump.fileno()))
    contents = outputs[0].decode("utf-8", "replace")
    if _ZONES not in contents:
        raise KasmFailedError(
            f"the dump of pod {pod} has no data of table zones: this Kasm was not initialised; no file was kept."
        )
    return contents.count(" TABLE DATA ")


async def _run(command: list[str], what: str, *, stdin: int | None = None, stdout: int | None = None) -> bytes:
    """Run to the end, or end it when we are ended. Raises KasmFailedError with what it said."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=stdin if stdin is not None else asyncio.subprocess.DEVNULL,
        stdout=stdout if stdout is not None else asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode != 0:
        said = err.decode("utf-8", "replace").strip().splitlines()
        why = said[-1] if said else f"exit status {process.returncode}"
        raise KasmFailedError(f"{what} in the database's pod failed: {why}; no file was kept.")
    return out or b""
