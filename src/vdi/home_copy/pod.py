"""The pod that reads or writes a home while no desktop does: what it is, what runs in it, and how
it is reached.

It has the user, the placement and the image of the desktops that use the home: the image is on the
node, and the volume can be mounted there. It passes the Pod Security Standard `restricted`; the
namespace's default-deny policy is its network. Its command comes through `kubectl exec`.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from vdi.api.meta import ObjectMeta
from vdi.api.template import HomeScope, TemplateSpec, VDITemplate
from vdi.cluster.explain import StartState, Subject, explain
from vdi.cluster.objects import Event, PersistentVolumeClaim, Pod
from vdi.kube.clock import Clock
from vdi.kube.errors import AlreadyExists, KubeError, NotFound, Replaced
from vdi.kube.resource import CLAIMS, EVENTS, PODS
from vdi.kube.transport import Client
from vdi.session.children import bound_to, restricted_container, restricted_pod

T = TypeVar("T")

CONTAINER = "copy"
LABELS = {"app.kubernetes.io/name": "vdi-home-copy"}
MOUNT = "/mnt/home"
# A pod that a killed command left behind, and that nothing else ended, ends then.
_DEADLINE_SECONDS = 24 * 3600

_HELD = "/tmp/held"  # noqa: S108 -- in the pod's own emptyDir
# The pod ends when the command of `held` ends, also by a lost connection; or when none begins in
# 120 s. Two seconds later, so that the kubelet can deliver the command's exit status.
_WAIT = f"mkfifo {_HELD} && {{ (sleep 120; : > {_HELD}) & cat {_HELD}; sleep 2; }}"
_GNU = (
    "tar --version 2>/dev/null | grep -q GNU ||"
    ' { echo "the image has no GNU tar: name another one with --image" >&2; exit 90; }'
)
# Not the top folder: it belongs to root and keeps its mode.
_CONTENT = "find . -mindepth 1 -maxdepth 1 ! -name lost+found"
# Status 1: a file changed while it was read, as happens below a running desktop.
PACK = (
    f"{_CONTENT} -print0 | tar --create --gzip --format=posix --sparse --xattrs --null"
    " --files-from=- --file=-"
)
# `tar .` archives these too. Both may be root's, and tar ends with an error when it cannot set
# their modes and times; `--no-overwrite-dir` sets a mode all the same.
_NOT_OURS = "--anchored --exclude=./lost+found --exclude=lost+found --no-recursion --exclude=."
_EMPTY = (
    # Folders without the right to write, as an interrupted import may leave them, cannot be
    # emptied.
    "find . -path ./lost+found -prune -o -type d ! -perm -700 -exec chmod u+rwx {} \\; &&"
    f" {_CONTENT} -exec rm -rf {{}} +"
)
CHUNK_BYTES = 1 << 20
ENDED = ("Succeeded", "Failed")
LAST_LINES = 3
LOOK_SECONDS = 0.5
# Time limit for the start of the pod: the image is usually on the node, but a volume may have to be
# made.
_START_SECONDS = 300.0
END_SECONDS = 60.0
_KUBECTL_SAYS = ("command terminated with exit code", "Defaulted container")
_COPY = Subject(
    name="the copy", title="The copy", image="--image", memory="the limit of the copy's pod"
)


class CopyRefusedError(Exception):
    """Raised before anything was changed: the copy cannot be made as requested. The message says
    why.
    """


class CopyFailedError(Exception):
    """Raised when a copy broke off. The message says why, and what was kept."""


def pod_name(claim: str) -> str:
    """The name of the pod that copies this home: one at a time, since two pods cannot have one
    name.
    """
    return f"copy-{claim}"


def choose_template(
    template: str, templates: Sequence[VDITemplate], home: str, *, has_image: bool = False
) -> VDITemplate:
    """The template whose desktops use a home; of a home of all templates, the first one. Raises
    CopyRefusedError.

    `has_image`: another image is named, so that a template that no longer exists is not needed.
    """
    for candidate in sorted(templates, key=lambda candidate: candidate.metadata.name):
        of_user = not template and candidate.spec.persistence.scope is HomeScope.USER
        if of_user or candidate.metadata.name == template:
            return candidate
    if has_image:
        return VDITemplate(metadata=ObjectMeta(name=template), spec=TemplateSpec(image=""))
    missing = "no template has the scope User"
    if template:
        missing = f"its template {template!r} does not exist"
    raise CopyRefusedError(
        f"the image that reads the home {home!r} is unknown: {missing}. Name one with GNU tar that"
        " runs as user 1000: --image IMAGE"
    )


def build_copy_pod(
    claim: str,
    template: VDITemplate,
    *,
    image: str | None = None,
    read_only: bool = False,
    nodes: Collection[str] = (),
) -> Mapping[str, Any]:
    """The pod that mounts the claim and waits for one command.

    `nodes`: where the volume is mounted already, or may be created; empty: wherever the placement
    allows.
    """
    spec = template.spec
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": _DEADLINE_SECONDS,
        "terminationGracePeriodSeconds": 1,
        "nodeSelector": dict(spec.placement.node_selector),
        "tolerations": [
            msgspec.to_builtins(toleration) for toleration in spec.placement.tolerations
        ],
        "imagePullSecrets": [msgspec.to_builtins(secret) for secret in spec.image_pull_secrets],
        **restricted_pod(spec.user_id, owns_volumes=True),
        "containers": [
            {
                "name": CONTAINER,
                "image": image or spec.image,
                "imagePullPolicy": "IfNotPresent",
                "command": ["sh", "-c", _WAIT],
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "resources": {
                    "requests": {"cpu": "10m", "memory": "32Mi"},
                    "limits": {"memory": "512Mi"},
                },
                "securityContext": restricted_container(is_read_only=True),
                "volumeMounts": [
                    {"name": "home", "mountPath": MOUNT, "readOnly": read_only},
                    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 -- the pod's own
                ],
            }
        ],
        "volumes": [
            {"name": "home", "persistentVolumeClaim": {"claimName": claim}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "16Mi"}},
        ],
    }
    if nodes:
        pod["affinity"] = bound_to(nodes)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod_name(claim), "labels": dict(LABELS)},
        "spec": pod,
    }


def held(script: str) -> str:
    """The script as the command that the pod waits for: the pod ends with it."""
    return (
        f"until [ -p {_HELD} ]; do sleep 0.1; done; exec 3> {_HELD} && {{ {_GNU}; }} && cd {MOUNT}"
        f" && {{ {script}; }}"
    )


def unpack_script(*, gzip: bool) -> str:
    """The script that empties a home of an interrupted import and fills it from the archive on
    stdin.
    """
    return (
        f"{_EMPTY} && tar --extract {'--gzip ' if gzip else ''}--preserve-permissions"
        f" --delay-directory-restore --xattrs {_NOT_OURS} --file=- && sync"
    )


@dataclass(frozen=True, slots=True)
class CopyRun:
    """Cluster, kubectl and display of a copy."""

    client: Client
    clock: Clock
    # kubectl, with the options that choose the cluster.
    kubectl: Sequence[str]
    namespace: str
    # Called with what happens now.
    progress: Callable[[str], None]
    # Called with the bytes of the archive that have passed.
    moved: Callable[[int], None]
    # Options for a suggested command that choose the same namespace and cluster.
    flags: str = ""


@dataclass(frozen=True, slots=True)
class Command:
    process: asyncio.subprocess.Process
    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader
    errors: "asyncio.Task[bytes]"

    async def end(self) -> tuple[int, list[str]]:
        """Its exit status, and the lines of its stderr."""
        said = (await self.errors).decode("utf-8", "replace")
        lines = []
        for line in said.splitlines():
            if line.strip() and not line.startswith(_KUBECTL_SAYS):
                lines.append(line)
        return await self.process.wait(), lines


@asynccontextmanager
async def open_command(run: CopyRun, claim: str, script: str) -> AsyncIterator[Command]:
    """Run a script in the pod of that home; it is killed when the context ends before it."""
    command = [*run.kubectl, "--namespace", run.namespace, "exec", "--stdin", pod_name(claim)]
    command += ["--container", CONTAINER, "--", "sh", "-c", script]
    pipe = asyncio.subprocess.PIPE
    # In a session of its own: Ctrl-C reaches this process alone, which then removes the pod.
    process = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, stderr=pipe, limit=CHUNK_BYTES, start_new_session=True
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
    """The pod of that home. It is deleted at the end, also when this is cancelled. Raises
    CopyRefusedError.
    """
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
                PODS,
                pod_name(claim),
                namespace=run.namespace,
                uid=made.metadata.uid,
                into=msgspec.Raw,
            )


async def _clear(run: CopyRun, claim: str) -> None:
    """Remove a pod that has ended. Raises CopyRefusedError for one that has not."""
    name = pod_name(claim)
    with suppress(NotFound):
        pod = await run.client.get(PODS, name, namespace=run.namespace, into=Pod)
        if pod.status.phase not in ENDED and not pod.terminating:
            raise CopyRefusedError(
                f"the home {claim!r} is being copied by the pod {name} since"
                f" {pod.metadata.creation_timestamp}. If the command that made the pod was killed:"
                f" kubectl -n {run.namespace} delete pod {name}"
            )
        run.progress("waiting until an earlier pod ends")
        await run.client.delete(
            PODS, name, namespace=run.namespace, uid=pod.metadata.uid, into=msgspec.Raw
        )
        deadline = run.clock.monotonic() + END_SECONDS
        while run.clock.monotonic() < deadline:
            await run.client.get(PODS, name, namespace=run.namespace, into=msgspec.Raw)
            await run.clock.sleep(LOOK_SECONDS)
        raise CopyRefusedError(
            f"the pod {name} of an earlier copy has not ended within {END_SECONDS:g} s"
        )


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
            raise CopyFailedError(
                f"the pod {name} has not started within {_START_SECONDS:g} s: {reason}"
            )
        run.progress(reason)
        await run.clock.sleep(LOOK_SECONDS)


async def _explain(run: CopyRun, claim: str, pod: Pod) -> str:
    """The reason why the pod is not running, as the operator words it for a desktop."""
    namespace, name = run.namespace, pod.metadata.name
    claims = await run.client.list(
        CLAIMS,
        namespace=namespace,
        field_selector=f"metadata.name={claim}",
        into=PersistentVolumeClaim,
    )
    events = await run.client.list(
        EVENTS,
        namespace=namespace,
        field_selector=f"type=Warning,regarding.name={name}",
        into=Event,
    )
    of_this_pod = tuple(event for event in events if event.regarding.uid == pod.metadata.uid)
    return explain(
        StartState(pod, next(iter(claims), None), of_this_pod, None, subject=_COPY)
    ).sentence


async def reason_of(run: CopyRun, claim: str, status: int, lines: Sequence[str]) -> str:
    """The reason why the command in the pod failed: the end of the pod, or else its last output."""
    with suppress(NotFound):
        pod = await run.client.get(PODS, pod_name(claim), namespace=run.namespace, into=Pod)
        state = pod.desktop.state.terminated if pod.desktop else None
        if pod.status.reason or (state and state.reason == "OOMKilled"):
            return f"the pod ended: {await _explain(run, claim, pod)}"
    last_lines = "; ".join(lines[-LAST_LINES:]) or f"exit status {status}"
    return f"the copy in the pod failed: {last_lines}"


async def result_of(making: "asyncio.Task[T]") -> T | None:
    """The result of a request that was under way when this command was interrupted; None: it
    failed.
    """
    try:
        return await making
    except (KubeError, CopyRefusedError):
        return None


async def delete_claim(run: CopyRun, claim: str, uid: str) -> None:
    """Delete this very claim, if it is there."""
    with suppress(NotFound, Replaced):
        await run.client.delete(CLAIMS, claim, namespace=run.namespace, uid=uid, into=msgspec.Raw)
