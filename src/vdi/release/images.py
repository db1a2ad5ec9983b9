"""Image archives on the nodes of a cluster that reaches no registry, for `vdi images load`.

No registry has an image for the pod on each node, so it takes one that the node has, and runs the
node's own `ctr` in it: root without capabilities, with containerd's socket and its client, and
nothing else of the node. The archive passes through `kubectl exec`.
"""

import asyncio
import json
import os
import secrets
import signal
import tarfile
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import msgspec

from vdi.cluster import objects
from vdi.cluster.objects import Event, Pod
from vdi.kube.clock import SYSTEM_CLOCK
from vdi.kube.errors import KubeError, NotFound
from vdi.kube.resource import EVENTS, NODES, PODS
from vdi.kube.transport import Client
from vdi.release.chart import RefusedError, image_reference

# Bytes of one JSON file, and of all that are read. A blob of less than a MiB may be a layer as
# well.
_LARGEST_DOCUMENT, _LARGEST_INDEX = 1 << 20, 64 << 20
# Annotations with the name of an image, the first one that is there.
_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
# Hardened clusters exempt it from Pod Security; elsewhere they refuse a pod with hostPath volumes.
NAMESPACE = "kube-system"
LABELS = {"app.kubernetes.io/name": "vdi-images-load"}
CONTAINER = "ctr"
# The kubelet never deletes such an image: no registry could bring it back.
PINNED = "io.cri-containerd.pinned=pinned"
# A pod that is left behind by a killed command ends by itself.
_DEADLINE_SECONDS = 3600
# Libraries that a distribution's `ctr` is linked to; K3s' own is static.
_LIBRARIES = {"amd64": ("/lib", "/lib64"), "arm64": ("/lib",)}
# Nodes that are served at the same time: all of it passes through the API server.
_AT_ONCE = 4
_CHUNK_BYTES = 1 << 20
_POLL_SECONDS = 0.3
_ENDED = ("Succeeded", "Failed")
# Time limit for the start of the pod: nothing is pulled, but the node may be busy.
_START_SECONDS = 120.0
# Time for the kubelet to report that a container has ended.
_END_SECONDS = 5.0


class BadArchiveError(Exception):
    """Raised for a file that is no image archive; the message names the file and what is
    allowed.
    """


class LoadFailedError(Exception):
    """Raised when a node cannot take or did not take an archive; the message says why."""


class ArchiveImage(NamedTuple):
    name: str
    architecture: str


def read_archive(path: Path) -> tuple[ArchiveImage, ...]:
    """The images in a tar file, gzip or not. Raises BadArchiveError."""
    allowed = "allowed: a tar file of docker save, podman save or an OCI layout, also with gzip"
    try:
        with tarfile.open(path) as archive:
            documents = dict(_documents(archive))
    except (OSError, tarfile.TarError, EOFError, zlib.error) as error:
        raise BadArchiveError(
            f"{path}: cannot be read as an image archive ({error}); {allowed}"
        ) from error
    try:
        images = tuple(dict.fromkeys(_docker_images(documents) or _oci_images(documents)))
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BadArchiveError(
            f"{path}: its index of images is broken ({error!r}); {allowed}"
        ) from error
    if not images:
        raise BadArchiveError(f"{path}: contains no image with a name; {allowed}")
    return images


def _documents(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    size = 0
    for member in archive:
        name = member.name.removeprefix("./")
        is_document = name.endswith(".json") or name.startswith("blobs/")
        if member.isfile() and is_document and member.size <= _LARGEST_DOCUMENT:
            content = archive.extractfile(member)
            assert content is not None  # noqa: S101 - it is a file
            size += member.size
            if size > _LARGEST_INDEX:
                raise tarfile.TarError(f"its small files have more than {_LARGEST_INDEX} bytes")
            yield name, content.read()


def _docker_images(documents: Mapping[str, bytes]) -> list[ArchiveImage]:
    archive_images = []
    for entry in json.loads(documents.get("manifest.json", b"[]")):
        architecture = json.loads(documents[entry["Config"]])["architecture"]
        archive_images += [ArchiveImage(name, architecture) for name in entry.get("RepoTags") or ()]
    return archive_images


def _oci_images(documents: Mapping[str, bytes]) -> list[ArchiveImage]:
    archive_images = []
    for entry in json.loads(documents.get("index.json", b"{}")).get("manifests", ()):
        notes = entry.get("annotations") or {}
        name = next((notes[key] for key in _NAMES if key in notes), "")
        if name:
            archive_images += [
                ArchiveImage(name, architecture)
                for architecture in _architectures(documents, entry)
            ]
    return archive_images


def _architectures(documents: Mapping[str, bytes], entry: Mapping[str, Any]) -> Iterator[str]:
    """Of an image, or of each image in an index. Attestations have the architecture `unknown`."""
    seen: set[str] = set()
    waiting = [entry]
    while waiting:
        entry = waiting.pop(0)
        if platform := (entry.get("platform") or {}).get("architecture"):
            if platform != "unknown":
                yield platform
            continue
        path = _path(entry)
        if path in seen:  # read again, two indexes that name each other would have no end
            raise ValueError(f"the index names {path} twice, or itself")
        seen.add(path)
        document = json.loads(documents[path])
        if "manifests" in document:
            waiting += document["manifests"]
        else:
            yield json.loads(documents[_path(document["config"])])["architecture"]


def _path(descriptor: Mapping[str, Any]) -> str:
    return "blobs/" + str(descriptor["digest"]).replace(":", "/")


class NodeImage(msgspec.Struct, rename="camel"):
    names: tuple[str, ...] | None = None
    size_bytes: int = 0


class NodeInfo(objects.NodeInfo, rename="camel"):
    architecture: str = ""
    operating_system: str = ""


class NodeStatus(objects.NodeStatus, rename="camel"):
    node_info: NodeInfo = msgspec.field(default_factory=NodeInfo)
    images: tuple[NodeImage, ...] = ()  # type: ignore[assignment]  # with their sizes


class NodeWithImages(objects.Node):
    """A node with what its containerd can run."""

    status: NodeStatus = msgspec.field(default_factory=NodeStatus)


@dataclass(frozen=True, slots=True)
class Containerd:
    """Paths of containerd's socket and client on a node."""

    socket: str
    ctr: str
    libraries: tuple[str, ...] = ()

    def command(self, *arguments: str) -> list[str]:
        """A command of `ctr` on the images that the kubelet sees."""
        return [self.ctr, "--address", self.socket, "--namespace", "k8s.io", *arguments]


def find_containerd(node: NodeWithImages, socket: str | None, ctr: str | None) -> Containerd:
    """The paths on this node; `socket` and `ctr` win. Raises LoadFailedError."""
    info = node.status.node_info
    if info.operating_system != "linux":
        raise LoadFailedError(f"its operating system is {info.operating_system}; allowed: linux")
    runtime = info.container_runtime_version
    if not runtime.startswith("containerd://"):
        raise LoadFailedError(f"its container runtime is {runtime}; allowed: containerd")
    if "+k3s" in info.kubelet_version:
        return Containerd(
            socket or "/run/k3s/containerd/containerd.sock",
            ctr or "/var/lib/rancher/k3s/data/current/bin/ctr",
        )
    libraries = _LIBRARIES.get(info.architecture, ())
    return Containerd(socket or "/run/containerd/containerd.sock", ctr or "/usr/bin/ctr", libraries)


def choose_image(node: NodeWithImages) -> str:
    """An image that is on the node: `pause`, which every node has, else the smallest. Raises
    LoadFailedError.
    """
    sizes: dict[str, int] = {}
    for image in node.status.images:
        named = [name for name in image.names or () if "<none>" not in name]
        if named:
            by_tag = min(named, key=lambda name: "@" in name)
            sizes[by_tag] = image.size_bytes
    if not sizes:
        raise LoadFailedError("it reports no image that a pod could use")
    return min(sizes, key=lambda name: ("pause" not in name, sizes[name], name))


def check_architectures(
    node: NodeWithImages, archives: Mapping[str, Sequence[ArchiveImage]]
) -> dict[str, list[str]]:
    """By archive, the images for this node's architecture. Raises LoadFailedError where one is in
    no archive.
    """
    architecture = node.status.node_info.architecture
    fitting: dict[str, list[str]] = {}
    others: set[str] = set()
    for path, images in archives.items():
        for image in images:
            if image.architecture == architecture:
                fitting.setdefault(path, []).append(image.name)
            else:
                others.add(image.name)
    missing = sorted(others.difference(*fitting.values()))
    if missing:
        raise LoadFailedError(
            f"its architecture is {architecture}, for which no archive contains"
            f" {', '.join(missing)}"
        )
    return fitting


def pod_of(name: str, node: NodeWithImages, image: str, containerd: Containerd) -> dict[str, Any]:
    """The pod: root without capabilities, with containerd's socket and its client, and nothing else
    of the node.
    """
    mounts = [
        ("socket", containerd.socket, "Socket"),
        ("client", containerd.ctr, "File"),
        *(
            (f"library-{index}", path, "Directory")
            for index, path in enumerate(containerd.libraries)
        ),
    ]
    container = {
        "name": CONTAINER,
        "image": image,
        "imagePullPolicy": "Never",
        "command": containerd.command("events"),  # waits until it is ended
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
            "seLinuxOptions": {"type": "spc_t"},  # others may not connect to containerd's socket
        },
        "volumeMounts": [
            {"name": volume, "mountPath": path, "readOnly": True} for volume, path, _ in mounts
        ],
    }
    spec = {
        "nodeName": node.metadata.name,
        "restartPolicy": "Never",
        "activeDeadlineSeconds": _DEADLINE_SECONDS,
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "tolerations": [{"operator": "Exists"}],
        "containers": [container],
        "volumes": [
            {"name": volume, "hostPath": {"path": path, "type": kind}}
            for volume, path, kind in mounts
        ],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": LABELS},
        "spec": spec,
    }


@dataclass(frozen=True, slots=True)
class Loading:
    """Cluster, archives and options of one `vdi images load`."""

    client: Client
    # kubectl, with the options that choose the cluster.
    kubectl: Sequence[str]
    archives: Mapping[Path, Sequence[ArchiveImage]]
    socket: str | None
    ctr: str | None
    # For each node.
    seconds: float
    # Called with a node and what happens on it.
    progress: Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class NodeResult:
    """Images that a node took, and its problem."""

    node: str
    images: tuple[str, ...]
    seconds: float
    # Empty: it has all images.
    problem: str = ""


async def load_images(
    run: Loading, only: Sequence[str], done: Callable[[NodeResult], None]
) -> list[NodeResult]:
    """Load all archives on all nodes, or on those that are named. Raises KubeError, and
    RefusedError for unknown nodes.

    A node that fails does not stop the others. The pods are gone when this returns or is cancelled.
    """
    nodes = {node.metadata.name: node for node in await run.client.list(NODES, into=NodeWithImages)}
    if unknown := [name for name in only if name not in nodes]:
        raise RefusedError(
            f"--node {unknown[0]}: there is no such node; allowed: {', '.join(sorted(nodes))}"
        )
    # A killed command leaves pods, which end by their deadline but stay as objects.
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


async def _load_on_node(run: Loading, node: NodeWithImages) -> NodeResult:
    name, began = node.metadata.name, monotonic()
    images: list[str] = []
    problem = ""
    try:
        if not node.ready:
            raise LoadFailedError("it is not Ready")
        containerd = find_containerd(node, run.socket, run.ctr)
        fitting = check_architectures(
            node, {str(path): archive for path, archive in run.archives.items()}
        )
        async with asyncio.timeout(run.seconds), _pod(run, node, containerd) as pod:
            for path, names in fitting.items():
                await _import(run, name, pod, containerd, Path(path))
                for image in names:
                    await _execute(
                        run,
                        pod,
                        containerd.command("images", "label", image_reference(image), PINNED),
                    )
                    images.append(image)
    except TimeoutError:
        problem = f"not done within {run.seconds:.0f} s"
    except (LoadFailedError, KubeError, OSError) as error:
        problem = str(error)
    return NodeResult(name, tuple(images), monotonic() - began, problem)


@asynccontextmanager
async def _pod(run: Loading, node: NodeWithImages, containerd: Containerd) -> AsyncIterator[str]:
    """A pod that runs on the node. It is deleted at the end, also when this is cancelled."""
    pod = f"{LABELS['app.kubernetes.io/name']}-{secrets.token_hex(4)}"
    run.progress(node.metadata.name, "starting a pod")
    try:
        body = pod_of(pod, node, choose_image(node), containerd)
        await run.client.create(PODS, body, namespace=NAMESPACE, into=msgspec.Raw)
        await _until_running(run.client, pod)
        yield pod
    finally:
        await _delete(run.client, pod)


async def _read_pod(client: Client, pod: str) -> Pod:
    return await client.get(PODS, pod, namespace=NAMESPACE, into=Pod)


async def _until_running(client: Client, name: str) -> None:
    """Raises LoadFailedError for a pod that does not start, with the kubelet's reason."""
    try:
        async with asyncio.timeout(_START_SECONDS):
            while (pod := await _read_pod(client, name)).status.phase != "Running":
                if pod.status.phase in _ENDED:
                    raise LoadFailedError(f"its pod ended: {await _reason(client, pod)}")
                await SYSTEM_CLOCK.sleep(_POLL_SECONDS)
    except TimeoutError:
        reason = await _reason(client, await _read_pod(client, name))
        raise LoadFailedError(
            f"its pod has not started in {_START_SECONDS:.0f} s: {reason}"
        ) from None


async def _until_ended(client: Client, name: str) -> Pod | None:
    """A pod that ends within `_END_SECONDS`; None for one that goes on."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_END_SECONDS):
            while (pod := await _read_pod(client, name)).status.phase not in _ENDED:
                await SYSTEM_CLOCK.sleep(_POLL_SECONDS)
            return pod
    return None


async def _reason(client: Client, pod: Pod) -> str:
    for container in pod.status.container_statuses:
        waiting, ended = container.state.waiting, container.state.terminated
        if waiting and waiting.message:
            return f"{waiting.reason}: {waiting.message}"
        if ended:
            return f"{ended.reason}: {ended.message or f'exit status {ended.exit_code}'}"
    selector = f"regarding.name={pod.metadata.name},type=Warning"
    events = await client.list(EVENTS, namespace=NAMESPACE, field_selector=selector, into=Event)
    if events:
        return events[-1].note
    return pod.status.message or "no reason"


async def _import(run: Loading, node: str, pod: str, containerd: Containerd, archive: Path) -> None:
    shown = -1
    argv = containerd.command("images", "import", "--no-unpack", "-")

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

    await _execute(run, pod, argv, feed)


async def _execute(
    run: Loading,
    pod: str,
    argv: Sequence[str],
    feed: Callable[[asyncio.StreamWriter], Any] | None = None,
) -> None:
    """Run a command in the pod. Raises LoadFailedError: what it has said, or why the pod ended."""
    command = [
        *run.kubectl,
        "--namespace",
        NAMESPACE,
        "exec",
        "--stdin",
        pod,
        "--container",
        CONTAINER,
        "--",
        *argv,
    ]
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
            raise LoadFailedError(f"its pod ended: {await _reason(run.client, ended)}")
        lines = [line for line in said.splitlines() if line.strip()] or [f"exit status {status}"]
        raise LoadFailedError(f"{Path(argv[0]).name} {' '.join(argv[5:7])}: {' '.join(lines[-2:])}")


async def _delete(client: Client, pod: str) -> None:
    with suppress(NotFound):
        await client.delete(PODS, pod, namespace=NAMESPACE, into=msgspec.Raw)


async def _remove_leftovers(client: Client) -> None:
    """Pods of commands that were killed: they have ended by their deadline."""
    selector = ",".join(f"{key}={value}" for key, value in LABELS.items())
    for pod in await client.list(PODS, namespace=NAMESPACE, label_selector=selector, into=Pod):
        if pod.status.phase in _ENDED:
            await _delete(client, pod.metadata.name)
