"""Brings image archives to the nodes: a pod on each, and through `kubectl exec` into the node's containerd."""

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec

from vdi.kube.clock import SYSTEM_CLOCK
from vdi.kube.errors import KubeError, NotFound
from vdi.kube.resource import EVENTS, NODES, PODS
from vdi.kube.transport import Client
from vdi.release.errors import RefusedError
from vdi.release.images.archive import ArchiveImage
from vdi.release.images.nodes import (
    CONTAINER,
    LABELS,
    NAMESPACE,
    PINNED,
    Containerd,
    UnsupportedNodeError,
    check_architectures,
    choose_image,
    find_containerd,
    pod_of,
)

Object = Mapping[str, Any]
_AT_ONCE = 4
"""Nodes that are served at the same time: all of it passes through the API server."""
_CHUNK_BYTES = 1 << 20
_POLL_SECONDS = 0.3
_ENDED = ("Succeeded", "Failed")
_START_SECONDS = 120.0
"""How long the pod may take to start: nothing is pulled, but the node may be busy."""
_END_SECONDS = 5.0
"""How long the kubelet may take to report that a container has ended."""


class LoadFailedError(Exception):
    """Raised when a node did not take an archive; the message says why."""


@dataclass(frozen=True, slots=True)
class Loading:
    """What a run needs."""

    client: Client
    kubectl: Sequence[str]
    """kubectl, with the options that choose the cluster."""
    archives: Mapping[Path, Sequence[ArchiveImage]]
    socket: str | None
    ctr: str | None
    seconds: float
    """For each node."""
    progress: Callable[[str, str], None]
    """Called with a node and what happens on it."""


@dataclass(frozen=True, slots=True)
class NodeResult:
    """What a node has got."""

    node: str
    images: tuple[str, ...]
    seconds: float
    problem: str = ""
    """Empty: it has all images."""


async def load_images(run: Loading, only: Sequence[str], done: Callable[[NodeResult], None]) -> list[NodeResult]:
    """Load all archives on all nodes, or on those that are named. Raises KubeError, and RefusedError for unknown nodes.

    A node that fails does not stop the others. The pods are gone when this returns or is cancelled.
    """
    nodes = {node["metadata"]["name"]: node for node in await run.client.list(NODES, into=dict[str, Any])}
    if unknown := [name for name in only if name not in nodes]:
        raise RefusedError(f"--node {unknown[0]}: there is no such node; allowed: {', '.join(sorted(nodes))}")
    await _remove_leftovers(run.client)
    limit = asyncio.Semaphore(_AT_ONCE)

    async def serve(name: str) -> NodeResult:
        async with limit:
            result = await _load_on_node(run, nodes[name])
            done(result)
            return result

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(serve(name)) for name in sorted(only or nodes)]
    return [task.result() for task in tasks]


async def _load_on_node(run: Loading, node: Object) -> NodeResult:
    name, began = str(node["metadata"]["name"]), monotonic()
    images: list[str] = []
    try:
        if not any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions") or ()):
            raise UnsupportedNodeError("it is not Ready")
        containerd = find_containerd(node, run.socket, run.ctr)
        fitting = check_architectures(node, {str(path): found for path, found in run.archives.items()})
        async with asyncio.timeout(run.seconds), _pod(run, node, containerd) as pod:
            for path, names in fitting.items():
                await _import(run, name, pod, containerd, Path(path))
                for image in names:
                    await _execute(run, pod, containerd.command("images", "label", image_reference(image), PINNED))
                    images.append(image)
    except TimeoutError:
        return NodeResult(name, tuple(images), monotonic() - began, f"not done within {run.seconds:.0f} s")
    except (UnsupportedNodeError, LoadFailedError, KubeError, OSError) as error:
        return NodeResult(name, tuple(images), monotonic() - began, str(error))
    return NodeResult(name, tuple(images), monotonic() - began)


def image_reference(name: str) -> str:
    """The name under which containerd keeps an image: with its registry and its tag."""
    named = name if "@" in name or ":" in name.rpartition("/")[2] else f"{name}:latest"
    first, slash, _ = named.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return named
    return f"docker.io/{named}" if slash else f"docker.io/library/{named}"


@asynccontextmanager
async def _pod(run: Loading, node: Object, containerd: Containerd) -> AsyncIterator[str]:
    """A pod that runs on the node. It is deleted at the end, also when this is cancelled."""
    pod = f"{LABELS['app.kubernetes.io/name']}-{secrets.token_hex(4)}"
    run.progress(node["metadata"]["name"], "starting a pod")
    try:
        body = pod_of(pod, node, choose_image(node), containerd)
        await run.client.create(PODS, body, namespace=NAMESPACE, into=msgspec.Raw)
        await _until_running(run.client, pod)
        yield pod
    finally:
        await _delete(run.client, pod)


async def _until_running(client: Client, pod: str) -> None:
    """Raises LoadFailedError for a pod that does not start, with the kubelet's reason."""
    try:
        async with asyncio.timeout(_START_SECONDS):
            while True:
                status = (await client.get(PODS, pod, namespace=NAMESPACE, into=dict[str, Any])).get("status") or {}
                if status.get("phase") == "Running":
                    return
                if status.get("phase") in _ENDED:
                    raise LoadFailedError(f"its pod ended: {await _reason(client, pod, status)}")
                await SYSTEM_CLOCK.sleep(_POLL_SECONDS)
    except TimeoutError:
        status = (await client.get(PODS, pod, namespace=NAMESPACE, into=dict[str, Any])).get("status") or {}
        raise LoadFailedError(
            f"its pod has not started in {_START_SECONDS:.0f} s: {await _reason(client, pod, status)}"
        ) from None


async def _until_ended(client: Client, pod: str) -> Object | None:
    """The status of a pod that ends within `_END_SECONDS`; None for one that goes on."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_END_SECONDS):
            while True:
                status = (await client.get(PODS, pod, namespace=NAMESPACE, into=dict[str, Any])).get("status") or {}
                if status.get("phase") in _ENDED:
                    return dict(status)
                await SYSTEM_CLOCK.sleep(_POLL_SECONDS)
    return None


async def _reason(client: Client, pod: str, status: Object) -> str:
    for container in status.get("containerStatuses") or ():
        for kind, state in (container.get("state") or {}).items():
            if state.get("message"):
                return f"{state.get('reason')}: {state['message']}"
            if kind == "terminated":
                return f"{state.get('reason')}: exit status {state.get('exitCode')}"
    selector = f"regarding.name={pod},type=Warning"
    events = await client.list(EVENTS, namespace=NAMESPACE, field_selector=selector, into=dict[str, Any])
    return str(events[-1].get("message") or events[-1].get("note")) if events else status.get("message") or "no reason"


async def _import(run: Loading, node: str, pod: str, containerd: Containerd, archive: Path) -> None:
    shown = -1
    words = containerd.command("images", "import", "--no-unpack", "-")

    async def feed(stdin: asyncio.StreamWriter) -> None:
        nonlocal shown
        sent = 0
        with archive.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
                stdin.write(chunk)
                await stdin.drain()
                sent += len(chunk)
                if (quarters := 4 * sent // size) != shown:
                    shown = quarters
                    run.progress(node, f"{archive.name} {25 * quarters}%")

    await _execute(run, pod, words, feed)


async def _execute(
    run: Loading,
    pod: str,
    words: Sequence[str],
    feed: Callable[[asyncio.StreamWriter], Any] | None = None,
) -> None:
    """Run a command in the pod. Raises LoadFailedError: what it has said, or why the pod ended."""
    command = [*run.kubectl, "--namespace", NAMESPACE, "exec", "--stdin", pod, "--container", CONTAINER, "--", *words]
    # In a session of its own: Ctrl-C reaches this process alone, which then removes the pods.
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT, start_new_session=True
    )
    assert process.stdin is not None and process.stdout is not None  # noqa: S101 - they are pipes
    try:
        reading = asyncio.create_task(process.stdout.read())
        with suppress(BrokenPipeError, ConnectionResetError):  # what it says then is the reason
            if feed is not None:
                await feed(process.stdin)
            process.stdin.close()
            await process.stdin.wait_closed()
        said = (await reading).decode("utf-8", "replace")
        status = await process.wait()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            await process.wait()
    if status != 0:
        if ended := await _until_ended(run.client, pod):
            raise LoadFailedError(f"its pod ended: {await _reason(run.client, pod, ended)}")
        lines = [line for line in said.splitlines() if line.strip()] or [f"exit status {status}"]
        raise LoadFailedError(f"{Path(words[0]).name} {' '.join(words[5:7])}: {' '.join(lines[-2:])}")


async def _delete(client: Client, pod: str) -> None:
    with suppress(NotFound):
        await client.delete(PODS, pod, namespace=NAMESPACE, into=msgspec.Raw)


async def _remove_leftovers(client: Client) -> None:
    """Pods of commands that were killed: they have ended by their deadline."""
    selector = ",".join(f"{key}={value}" for key, value in LABELS.items())
    for pod in await client.list(PODS, namespace=NAMESPACE, label_selector=selector, into=dict[str, Any]):
        if (pod.get("status") or {}).get("phase") in _ENDED:
            await _delete(client, pod["metadata"]["name"])
