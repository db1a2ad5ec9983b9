"""Starts an image in a pod, observes it, and removes the pod, also when it is interrupted."""

import asyncio
import base64
import re
import secrets
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec

from vdi.api.template import VDITemplate
from vdi.image_check.observation import Observation, Stopped
from vdi.image_check.pod import (
    AGENT_PORT,
    HOME_CONTAINER,
    LABELS,
    Tokens,
    build_check_pod,
    read_inside,
    resolve_desktop,
)
from vdi.kube.clock import SYSTEM_CLOCK, Clock
from vdi.kube.errors import ApiError, Forbidden, Invalid, KubeError, NotFound
from vdi.kube.resource import EVENTS, NODES, PODS, SECRETS
from vdi.kube.transport import Client
from vdi.session.conditions import Reason
from vdi.session.effective import Blocked
from vdi.session.explain import Explanation, StartState, explain
from vdi.session.image import health_path
from vdi.session.observed import ContainerStatus, Event, Pod, Regarding, Terminated
from vdi.session.pulling import IMAGE_CODES
from vdi.session.streaming import generation, uses_webrtc
from vdi.session.subject import Subject

NAME_PREFIX = "vdi-image-check-"
_DESKTOP = "desktop"
_POLL_SECONDS = 0.3
_STUCK_SECONDS = 10.0
"""A reason that lasts so long does not pass by itself: the kubelet has tried again by then."""
_UNPLACED_SECONDS = 30.0
_REFUSED_SECONDS = 20.0
"""Images answer otherwise while they start."""
_INSIDE_SECONDS = 20.0
"""How long the second container may take after the desktop is ready."""
_END_SECONDS = 30.0
"""How long the kubelet may take to report the end, beside the grace period."""
_NOT_STARTED = frozenset({"StartError", "ContainerCannotRun"})
_SIZE = re.compile(r"Image size: (\d+) bytes")
_SUBJECT = Subject(
    name="the image",
    title="The image",
    image="the image's name",
    pull_secrets="imagePullSecrets of the template",
    memory="resources.defaultMemory of the template",
)
Object = dict[str, Any]


class _Regarding(Regarding, rename="camel", gc=False):
    field_path: str = ""
    """Such as `spec.containers{desktop}`."""


class _Event(Event, rename="camel", gc=False, kw_only=True):
    regarding: _Regarding = msgspec.field(default_factory=_Regarding)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What a check needs."""

    client: Client
    namespace: str
    """Of the sessions."""
    subject: str
    template: VDITemplate
    kubectl: Sequence[str]
    """kubectl, with the options that choose the cluster; empty: it is not installed."""
    seconds: float
    """How long the image may take until it is ready."""
    passed: Callable[[str], None]
    """Called with each stage that is over."""
    waiting: Callable[[str], None]
    """Called with what is waited for."""
    clock: Clock = field(default=SYSTEM_CLOCK)


async def check_image(check: Check) -> Observation:
    """One start, observed. Raises KubeError where the API server does not let us look."""
    seen = _describe(check)
    name = f"{NAME_PREFIX}{secrets.token_hex(4)}"
    desktop = resolve_desktop(name, check.namespace, check.template)
    if isinstance(desktop, Blocked):
        seen.unusable = desktop.message
        return seen
    seen.probe_path = desktop.probe_path
    await _remove_leftovers(check)
    tokens = Tokens(secrets.token_urlsafe(32), secrets.token_urlsafe(32))
    body = build_check_pod(name, check.namespace, check.template, desktop, tokens, check.seconds)
    seen.grace_seconds = body["spec"]["terminationGracePeriodSeconds"]
    is_there = True
    try:
        try:
            await check.client.create(PODS, body, namespace=check.namespace, into=msgspec.Raw)
        except (Forbidden, Invalid) as error:
            is_there = False
            if "cannot create resource" in error.message:
                raise
            seen.refused = error.message
            return seen
        await _observe_start(check, seen, name)
        if seen.is_running:
            await _observe_serving(check, seen, name, tokens)
        if seen.is_running or seen.ended:
            await _observe_inside(check, seen, name)
            await _observe_size(check, seen, name)
        if seen.is_running:
            await _observe_end(check, seen, name)
        return seen
    finally:
        if is_there:
            await asyncio.shield(_remove(check, name))


def _describe(check: Check) -> Observation:
    spec = check.template.spec
    return Observation(
        subject=check.subject,
        image=spec.image,
        generation=generation(spec),
        port=spec.port,
        scheme=spec.scheme.value,
        health_path=health_path(spec),
        run_as_user=spec.run_as_user,
        mount_path=spec.persistence.mount_path if spec.persistence.enabled else "",
        signs_in=spec.basic_auth_secret is not None,
        uses_webrtc=uses_webrtc(spec),
    )


async def _observe_start(check: Check, seen: Observation, name: str) -> None:
    """Until the desktop is ready, has ended, or stands still for a reason that does not pass."""
    begun = check.clock.monotonic()
    started: float | None = None
    stuck: tuple[str, float] | None = None
    while True:
        pod = await check.client.get(PODS, name, namespace=check.namespace, into=Pod)
        events = await _events(check, name)
        now = check.clock.monotonic()
        seen.node, seen.waited_seconds = pod.spec.node_name, now - begun
        desktop = _container(pod, _DESKTOP)
        if desktop and started is None and (desktop.state.running or desktop.state.terminated):
            started = now
            _observe_pull(check, seen, events)
        if desktop and (ended := desktop.state.terminated):
            _observe_early_end(seen, pod, ended)
            return
        if desktop and desktop.ready and started is not None:
            seen.ready_seconds = now - started
            check.passed("ready")
            return
        why = explain(StartState(_alone(pod, desktop), events=events, subject=_SUBJECT))
        seen.probe_message = _last_note(events, "Unhealthy")
        check.waiting(why.sentence)
        if stuck is None or stuck[0] != why.reason:
            stuck = why.reason, now
        patience = _patience(pod, why)
        if now - begun > check.seconds or (patience is not None and now - stuck[1] > patience):
            _give_up(seen, pod, why, running=started is not None)
            return
        await check.clock.sleep(_POLL_SECONDS)


def _patience(pod: Pod, why: Explanation) -> float | None:
    """How long this reason may last; None: an ordinary step."""
    if why.reason == Reason.PROBE_REFUSED:
        return _REFUSED_SECONDS
    if not why.stuck:
        return None
    return _STUCK_SECONDS if pod.spec.node_name else _UNPLACED_SECONDS


def _give_up(seen: Observation, pod: Pod, why: Explanation, *, running: bool) -> None:
    if not pod.spec.node_name:
        seen.unplaced = why.sentence
    elif why.reason in IMAGE_CODES:
        seen.pull_failed = why.sentence
    elif not running and why.reason == Reason.PREPARING:
        seen.pull_failed = f"Node {pod.spec.node_name} has not pulled the image within {seen.waited_seconds:.0f} s."
    elif not running:
        seen.start_failed = why.sentence
    else:
        seen.not_ready = why.sentence
        seen.probe_refused = why.reason == Reason.PROBE_REFUSED


def _observe_pull(check: Check, seen: Observation, events: Sequence[Event]) -> None:
    note = next((event.note for event in events if event.reason == "Pulled"), "")
    seen.pulled = note.partition(" (")[0]
    if size := _SIZE.search(note):
        seen.size_bytes = int(size[1])
    check.passed(f"started on node {seen.node}")


def _observe_early_end(seen: Observation, pod: Pod, ended: Terminated) -> None:
    if ended.reason in _NOT_STARTED:
        desktop = _container(pod, _DESKTOP)
        assert desktop is not None  # noqa: S101 - it has ended
        last = msgspec.structs.replace(desktop, last_state=desktop.state)
        seen.start_failed = explain(StartState(_alone(pod, last), subject=_SUBJECT)).sentence
    else:
        seen.ended = ended


async def _observe_serving(check: Check, seen: Observation, name: str, tokens: Tokens) -> None:
    from vdi.image_check.serving import observe_serving  # takes long, and most of what is refused never comes here

    check.waiting("Requests to the image.")
    credentials = None
    if secret := check.template.spec.basic_auth_secret:
        credentials = await _credentials(check, seen, secret.name)
    await observe_serving(seen, check.kubectl, check.namespace, name, tokens, AGENT_PORT, credentials)
    check.passed(f"no requests: {seen.requests_unchecked}" if seen.requests_unchecked else "requests sent")


async def _credentials(check: Check, seen: Observation, name: str) -> tuple[str, str] | None:
    try:
        held: Object = await check.client.get(SECRETS, name, namespace=check.namespace, into=dict[str, Any])
        data = held.get("data") or {}
        user, password = (base64.b64decode(data[key]).decode() for key in ("username", "password"))
    except ApiError as error:
        seen.sign_in_unchecked = f"Secret {name} cannot be read: {error.message.rstrip('.')}"
    except (KeyError, ValueError) as error:
        seen.sign_in_unchecked = f"Secret {name} needs text under username and password: {error}"
    else:
        return user, password
    return None


async def _observe_inside(check: Check, seen: Observation, name: str) -> None:
    check.waiting("A shell in the image checks its user and home.")
    deadline = check.clock.monotonic() + _INSIDE_SECONDS
    while check.clock.monotonic() < deadline:
        pod = await check.client.get(PODS, name, namespace=check.namespace, into=Pod)
        second = _container(pod, HOME_CONTAINER)
        ended = second.state.terminated if second else None
        if ended:
            seen.inside = read_inside(ended.message)
            if seen.inside is None:
                why = "the image has no sh" if ended.reason in _NOT_STARTED else f"its sh ended with {ended.exit_code}"
                seen.inside_unchecked = why
            return
        await check.clock.sleep(_POLL_SECONDS)
    seen.inside_unchecked = f"a shell in the image did not end within {_INSIDE_SECONDS:.0f} s"


async def _observe_size(check: Check, seen: Observation, name: str) -> None:
    if seen.size_bytes is not None:
        return
    pod = await check.client.get(PODS, name, namespace=check.namespace, into=Pod)
    desktop = _container(pod, _DESKTOP)
    names = {desktop.image, desktop.image_id} if desktop else set()
    try:
        node: Object = await check.client.get(NODES, seen.node, into=dict[str, Any])
    except ApiError as error:
        seen.size_unchecked = f"node {seen.node} cannot be read: {error.message.rstrip('.')}"
        return
    for image in (node.get("status") or {}).get("images") or ():
        if names & set(image.get("names") or ()):
            seen.size_bytes = image.get("sizeBytes")
            return
    seen.size_unchecked = f"node {seen.node} does not report this image"


async def _observe_end(check: Check, seen: Observation, name: str) -> None:
    """Delete the pod as it is deleted at the end of a session, and follow it to the end of the container."""
    pod = await check.client.get(PODS, name, namespace=check.namespace, into=Pod)
    desktop = _container(pod, _DESKTOP)
    if desktop and desktop.state.terminated:
        seen.stopped_unchecked = f"it had already ended, with exit status {desktop.state.terminated.exit_code}"
        return
    check.waiting("SIGTERM was sent.")
    begun = check.clock.monotonic()
    await check.client.delete(PODS, name, namespace=check.namespace, into=msgspec.Raw)
    limit = seen.grace_seconds + _END_SECONDS
    changes = check.client.watch(
        PODS,
        namespace=check.namespace,
        field_selector=f"metadata.name={name}",
        resource_version=pod.metadata.resource_version,
        timeout_seconds=int(limit),
    )
    async with aclosing(changes):
        async for change in changes:
            if change.type == "BOOKMARK":
                continue
            found = _container(msgspec.json.decode(change.object, type=Pod), _DESKTOP)
            if found and (ended := found.state.terminated):
                seen.stopped = Stopped(ended.exit_code, check.clock.monotonic() - begun)
                check.passed("ended")
                return
            if change.type == "DELETED":
                seen.stopped_unchecked = "the node did not report how the container ended"
                return
    seen.stopped_unchecked = f"the node did not report the end within {limit:.0f} s"


async def _events(check: Check, name: str) -> tuple[Event, ...]:
    """Those of the desktop's container and of the pod; the second container's say nothing of the image's page."""
    found = await check.client.list(
        EVENTS, namespace=check.namespace, field_selector=f"regarding.name={name}", into=_Event
    )
    return tuple(event for event in found if HOME_CONTAINER not in event.regarding.field_path)


def _last_note(events: Sequence[Event], reason: str) -> str:
    matching = [event for event in events if event.reason == reason]
    return max(matching, key=lambda event: event.seen).note if matching else ""


def _container(pod: Pod, name: str) -> ContainerStatus | None:
    return next((status for status in pod.status.container_statuses if status.name == name), None)


def _alone(pod: Pod, desktop: ContainerStatus | None) -> Pod:
    """The pod with the desktop's container alone, as `explain` knows a desktop's pod."""
    statuses = (desktop,) if desktop else ()
    return msgspec.structs.replace(pod, status=msgspec.structs.replace(pod.status, container_statuses=statuses))


async def _remove(check: Check, name: str) -> None:
    with suppress(NotFound):
        await check.client.delete(PODS, name, namespace=check.namespace, grace_seconds=0, into=msgspec.Raw)


async def _remove_leftovers(check: Check) -> None:
    """Pods of commands that were killed: Kubernetes has ended them by their deadline."""
    selector = ",".join(f"{key}={value}" for key, value in LABELS.items())
    with suppress(KubeError):  # tidying; the check itself says what is not allowed
        for pod in await check.client.list(PODS, namespace=check.namespace, label_selector=selector, into=Pod):
            if pod.status.phase in ("Failed", "Succeeded"):
                await _remove(check, pod.metadata.name)
