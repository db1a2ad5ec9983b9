"""Starts one session of an image, observes it as the doctor and a client would, and deletes it."""

import asyncio
import base64
import re
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from vdi.api.meta import ObjectMeta
from vdi.api.session import Phase, SessionPersistence, SessionSpec, VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.explain import IMAGE_CODES
from vdi.cluster.objects import Pod
from vdi.cluster.reasons import PodReason
from vdi.cluster.units import parse_time
from vdi.doctor.checks.run import run_checks
from vdi.doctor.collect import collect
from vdi.findings.model import Finding
from vdi.http_client import HTTP_ERRORS, LOOPBACK, open_client, unverified
from vdi.image_check.judge import TRIAL, Observation
from vdi.kinds import SESSIONS, TEMPLATES
from vdi.kube.clock import SYSTEM_CLOCK
from vdi.kube.errors import AlreadyExists, ApiError, NotFound, Replaced
from vdi.kube.resource import PODS, SECRETS, Resource
from vdi.kube.transport import Client
from vdi.session.children import AGENT_TOKEN_KEY, PASSWORD_KEY
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.conditions import ADMITTED, POD_READY
from vdi.session.credentials import direct_table, direct_token
from vdi.session.naming import secret_name
from vdi.session.template_image import generation
from vdi.snapshot.model import Scope

USER = "template-try@vdi.invalid"
AGENT_PORT = ClusterSettings().agent_port
_POLL_SECONDS = 0.5
# Reasons that do not pass by themselves once they have lasted for `_FAULT_SECONDS`.
_FAULTS = IMAGE_CODES | {
    PodReason.CRASH_LOOP,
    PodReason.BAD_COMMAND,
    PodReason.CANNOT_START,
    PodReason.PROBE_REFUSED,
}
_FAULT_SECONDS = 20.0
_ANSWER_SECONDS = 10.0
_END_SECONDS = 30
_FORWARDING = re.compile(rf"Forwarding from {re.escape(LOOPBACK)}:(\d+) ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Cluster, template and display of a check. `kubectl` is empty where it is not installed."""

    client: Client
    namespace: str
    template: VDITemplate
    # The spec of a file, whose template exists only while it is tried; None: the template is in the
    # cluster.
    spec: Mapping[str, Any] | None
    kubectl: Sequence[str]
    # Time limit until the desktop runs.
    seconds: float
    waiting: Callable[[str], None]


async def check_image(check: Check) -> Observation:
    """One session, observed. Raises AlreadyExists while another check runs or was killed, and
    KubeError.
    """
    seen = Observation(f"vditemplate/{check.template.metadata.name}", check.template.spec)
    async with AsyncExitStack() as made:
        if check.spec is not None:
            body = {"metadata": {"name": TRIAL}, "spec": check.spec}
            await made.enter_async_context(_made(check, TEMPLATES, body, None))
        await _check_session(check, seen)
    return seen


async def _check_session(check: Check, seen: Observation) -> None:
    spec = SessionSpec(
        user=USER,
        template=check.template.metadata.name if check.spec is None else TRIAL,
        persistence=SessionPersistence(retain=False),
        priority=-1000,  # on a full cluster users' desktops start first
        timeout=f"{int(check.seconds) + 180}s",  # ends it where this command was killed
    )
    session = VDISession(metadata=ObjectMeta(name=TRIAL, namespace=check.namespace), spec=spec)
    async with _made(check, SESSIONS, session, check.namespace):
        name = await _observe_start(check, seen)
        check.waiting("the doctor's checks")
        seen.diagnosis = await _diagnose(check)
        if not seen.runs:
            return
        pod = await check.client.get(PODS, name, namespace=check.namespace, into=Pod)
        seen.ready_seconds = _ready_seconds(pod)
        if generation(check.template.spec) == "2":
            check.waiting("requests to the desktop")
            try:
                await _observe_answers(check, seen, name)
            except (OSError, ApiError) as error:  # TimeoutError, too, which says nothing
                seen.requests_unchecked = (
                    str(error).rstrip(".") or "kubectl port-forward does not respond"
                )
        check.waiting("the end of the desktop")
        await _observe_end(check, seen, pod)


@asynccontextmanager
async def _made(
    check: Check, resource: Resource, body: object, namespace: str | None
) -> AsyncIterator[None]:
    """The object, while the context lasts; it is deleted also where this is cancelled before the
    API server answers.
    """
    raw = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        **msgspec.to_builtins(body),
        "status": {},
    }
    # Ctrl-C may come while the API server makes the object. The request goes on behind the shield,
    # so that the uid is known and this very object can be deleted.
    creation = asyncio.create_task(
        check.client.create(resource, raw, namespace=namespace, strict=True, into=dict[str, Any])
    )
    try:
        await asyncio.shield(creation)
        yield
    finally:
        with suppress(AlreadyExists, NotFound, Replaced):
            uid = (await creation)["metadata"]["uid"]
            await check.client.delete(
                resource, TRIAL, namespace=namespace, uid=uid, into=msgspec.Raw
            )


async def _observe_start(check: Check, seen: Observation) -> str:
    """Wait until the session runs, or does not start; the name of its pod."""
    begun = since = SYSTEM_CLOCK.monotonic()
    known = ""
    while True:
        status = (
            await check.client.get(SESSIONS, TRIAL, namespace=check.namespace, into=VDISession)
        ).status
        conditions = {condition.type: condition for condition in status.conditions}
        seen.runs, is_failed = status.phase == Phase.RUNNING, status.phase == Phase.FAILED
        seen.is_at_fault = is_failed or (
            ADMITTED in conditions and conditions[ADMITTED].status == "True"
        )
        seen.message = status.message or "no operator has processed the session yet"
        if POD_READY in conditions:
            reason = conditions[POD_READY].reason
        else:
            reason = ""
        now = SYSTEM_CLOCK.monotonic()
        if reason != known:
            known, since = reason, now
        is_stuck = reason in _FAULTS and now - since > _FAULT_SECONDS
        if seen.runs or is_failed or is_stuck or now - begun > check.seconds:
            return status.pod_name
        check.waiting(seen.message)
        await SYSTEM_CLOCK.sleep(_POLL_SECONDS)


def _ready_seconds(pod: Pod) -> float:
    """From the container's start until it was ready."""
    ready, running = pod.condition("Ready"), pod.desktop and pod.desktop.state.running
    if not ready or not running:
        return 0.0
    return (parse_time(ready.last_transition_time) - parse_time(running.started_at)).total_seconds()


async def _diagnose(check: Check) -> list[Finding]:
    """The doctor's findings about the session and its template, with their causes."""
    findings = run_checks(await collect(check.client, Scope(check.namespace, TRIAL), SYSTEM_CLOCK))
    subjects = {
        f"vdisession/{check.namespace}/{TRIAL}",
        f"vditemplate/{check.template.metadata.name}",
    }
    kept = {finding.key for finding in findings if finding.object in subjects}
    for finding in reversed(findings):  # a cause comes before what follows from it
        if finding.key in kept and finding.caused_by:
            kept.add(finding.caused_by)
    return [finding for finding in findings if finding.key in kept]


async def _observe_answers(check: Check, seen: Observation, pod: str) -> None:
    held: dict[str, Any] = await check.client.get(
        SECRETS, secret_name(TRIAL), namespace=check.namespace, into=dict[str, Any]
    )
    secret = {key: base64.b64decode(value).decode() for key, value in held["data"].items()}
    master = secret[PASSWORD_KEY]
    async with _forward(check, pod, seen.spec.port) as port:
        url = f"{seen.spec.scheme.value.lower()}://{LOOPBACK}:{port}/api"
        seen.token_table = await _request(
            "POST", f"{url}/tokens", master, json=direct_table(master)
        )
        seen.with_token = await _request("GET", f"{url}/sessions", direct_token(master))
        seen.without_token = await _request("GET", f"{url}/sessions")
    async with _forward(check, pod, AGENT_PORT) as port:
        url = f"http://{LOOPBACK}:{port}/activity"
        seen.agent = await _request("GET", url, secret.get(AGENT_TOKEN_KEY, ""))
        seen.agent_without_token = await _request("GET", url)


async def _request(method: str, url: str, token: str = "", **options: Any) -> int:
    """The HTTP status; 0: no response."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        client = open_client(url, seconds=_ANSWER_SECONDS, tls=unverified())
        async with (
            asyncio.timeout(_ANSWER_SECONDS),
            client as http,
            http.stream(method, url, headers=headers, **options) as response,
        ):
            return response.status
    except HTTP_ERRORS:
        return 0


@asynccontextmanager
async def _forward(check: Check, pod: str, port: int) -> AsyncIterator[int]:
    """A port of this machine that leads to the pod's, past network policies. Raises OSError."""
    if not check.kubectl:
        raise ConnectionError("kubectl, which forwards the desktop's port, is not in PATH")
    command = [
        *check.kubectl,
        "--namespace",
        check.namespace,
        "port-forward",
        "--address",
        LOOPBACK,
    ]
    command += [f"pod/{pod}", f":{port}"]
    # In a session of its own: Ctrl-C reaches this process alone, which then ends it.
    process = await asyncio.create_subprocess_exec(
        *command, stdout=PIPE, stderr=STDOUT, start_new_session=True
    )
    assert process.stdout is not None  # noqa: S101 - it was started with a pipe
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), 2 * _ANSWER_SECONDS)).decode(
            "utf-8", "replace"
        )
        if not (match := _FORWARDING.search(line)):
            raise ConnectionError(
                f"kubectl port-forward does not reach the desktop: {line.strip()}"
            )
        yield int(match[1])
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _observe_end(check: Check, seen: Observation, pod: Pod) -> None:
    """End the session as its user would, and follow the pod to the end of its container."""
    # The pod object goes with its session, and the exit code with the pod: a watch sees the last
    # status in between.
    begun = SYSTEM_CLOCK.monotonic()
    await check.client.delete(SESSIONS, TRIAL, namespace=check.namespace, into=msgspec.Raw)
    changes = check.client.watch(
        PODS,
        namespace=check.namespace,
        field_selector=f"metadata.name={pod.metadata.name}",
        resource_version=pod.metadata.resource_version,
        timeout_seconds=_END_SECONDS,
    )
    async with aclosing(changes):
        async for change in changes:
            if change.type == "BOOKMARK":
                continue
            desktop = msgspec.json.decode(change.object, type=Pod).desktop
            if desktop and (ended := desktop.state.terminated):
                seen.exit_code, seen.end_seconds = ended.exit_code, SYSTEM_CLOCK.monotonic() - begun
            if seen.exit_code is not None or change.type == "DELETED":
                return
