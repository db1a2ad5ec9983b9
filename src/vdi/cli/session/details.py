"""Collects all that `session show` prints: the session, its objects, its Events, and what may not be read."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from vdi.api.session import VDISession
from vdi.cli.output import Raw, parse_time
from vdi.cli.session.view import SessionDetails, SessionEvent, SessionObject, condition_reason
from vdi.kube.errors import Forbidden, NotFound
from vdi.kube.resource import CLAIMS, EVENTS, PODS, SECRETS, SERVICES, Resource
from vdi.kube.transport import Client
from vdi.operator.kinds import ROUTES
from vdi.session.conditions import HOME_BOUND, Reason
from vdi.session.explain import StartState, explain
from vdi.session.homes import own_claim, retained_claim
from vdi.session.naming import pod_name, route_name, secret_name, service_name
from vdi.session.observed import Event, PersistentVolumeClaim, Pod
from vdi.session.scheduling import explain_unschedulable

_EVENTS_SHOWN = 15
_ABSENT = {"Pending": "not created yet", "Suspended": "none while it is suspended"}
"""The state of an object that does not exist, by phase; in other phases it is `missing`."""


async def collect_details(client: Client, session: VDISession) -> SessionDetails:
    """Collect the details of one session; all reads run concurrently."""
    meta = session.metadata
    claim = retained_claim(session) or own_claim(session) or ""
    pod = session.status.pod_name or pod_name(meta.name)
    objects = [
        (PODS, pod, _pod_state),
        (SERVICES, service_name(meta.name), _service_state),
        (ROUTES, route_name(meta.name), _route_state),
        (SECRETS, secret_name(meta.name), lambda _: "opens the desktop"),
    ]
    if claim and condition_reason(session, HOME_BOUND) != Reason.NO_HOME:
        objects.append((CLAIMS, claim, _claim_state))
    absent = _ABSENT.get(session.status.phase, "missing")
    *found, events = await asyncio.gather(
        *(_read(f"{kind.kind} {name}", _find(client, meta.namespace, kind, name, absent)) for kind, name, _ in objects),
        _read("the events", _events(client, session, {meta.name, pod, claim})),
    )
    children = [
        SessionObject(kind.kind, name, _state(raw, state), raw.get("metadata", {}).get("creationTimestamp", ""))
        for (kind, name, state), raw in zip(objects, found, strict=True)
        if not isinstance(raw, str)
    ]
    found_events = [] if isinstance(events, str) else events
    return SessionDetails(
        session=session,
        children=children,
        events=[_session_event(raw) for raw in found_events],
        explanation=_why(found[0], found[4] if len(found) > 4 else {}, found_events),
        unreadable=[problem for problem in (*found, events) if isinstance(problem, str)],
    )


async def _read(what: str, work: Awaitable[Any]) -> Any:
    """The result, or a string that says why it could not be read."""
    try:
        return await work
    except Forbidden as error:
        return f"{what}: {error.message}"


async def _find(client: Client, namespace: str, resource: Resource, name: str, absent: str) -> Raw:
    """The object; when it does not exist, one with only the key `missing`."""
    try:
        return await client.get(resource, name, namespace=namespace, into=dict[str, Any])
    except NotFound as error:
        return {
            "missing": f"missing: the {resource.group} CRDs are not on this cluster" if error.api_missing else absent
        }


def _state(raw: Raw, state: Callable[[Raw], str]) -> str:
    if "missing" in raw:
        return str(raw["missing"])
    return state(raw) + (", being deleted" if raw["metadata"].get("deletionTimestamp") else "")


def _why(pod: Raw | str, claim: Raw | str, events: Sequence[Raw]) -> str:
    """The operator's explanation, computed here: it works without an operator too."""
    if isinstance(pod, str) or "missing" in pod:
        return ""
    seen = msgspec.convert(pod, Pod)
    if seen.ready:
        return ""
    home = None if isinstance(claim, str) or "metadata" not in claim else msgspec.convert(claim, PersistentVolumeClaim)
    return explain(StartState(seen, home, tuple(msgspec.convert(event, Event) for event in events))).sentence


def _pod_state(raw: Raw) -> str:
    status = raw.get("status", {})
    containers = status.get("containerStatuses", [])
    ready = "ready" if containers and all(container.get("ready") for container in containers) else "not ready"
    restarts = sum(container.get("restartCount", 0) for container in containers)
    return f"{status.get('phase', 'Unknown')}, {ready}" + (f", restarted {restarts} times" if restarts else "")


def _claim_state(raw: Raw) -> str:
    spec, status = raw.get("spec", {}), raw.get("status", {})
    size = spec.get("resources", {}).get("requests", {}).get("storage", "?")
    return f"{status.get('phase', 'Unknown')}, {size}, class {spec.get('storageClassName', '(default)')}"


def _service_state(raw: Raw) -> str:
    ports = ", ".join(str(port.get("port")) for port in raw.get("spec", {}).get("ports", []))
    return f"port {ports}" if ports else "no ports"


def _route_state(raw: Raw) -> str:
    matches = [route.get("match", "?") for route in raw.get("spec", {}).get("routes", [])]
    return ", ".join(matches) or "no routes"


async def _events(client: Client, session: VDISession, names: set[str]) -> Sequence[Raw]:
    """The newest Events about objects of these names, oldest first; none older than the session."""
    namespace, created = session.metadata.namespace, parse_time(session.metadata.creation_timestamp)
    lists: list[list[dict[str, Any]]] = await asyncio.gather(
        *(
            client.list(EVENTS, namespace=namespace, field_selector=f"regarding.name={name}", into=dict[str, Any])
            for name in sorted(names)
        )
    )
    dated = [(when, raw) for raws in lists for raw in raws if (when := parse_time(_when(raw)))]
    since = [event for event in dated if created is None or event[0] >= created]
    return [raw for _, raw in sorted(since, key=lambda event: event[0])][-_EVENTS_SHOWN:]


def _when(event: Raw) -> str:
    """When an Event was last seen: `series` in the new API, `deprecatedLastTimestamp` from the kubelet's old one."""
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("deprecatedLastTimestamp"), event.get("eventTime"))
    return next((str(time) for time in times if time), str(event["metadata"].get("creationTimestamp", "")))


def _session_event(event: Raw) -> SessionEvent:
    note, about = event.get("note", ""), event.get("regarding", {}).get("kind", "")
    text = explain_unschedulable(note)[1] if event.get("reason") == "FailedScheduling" else note
    count = (event.get("series") or {}).get("count") or event.get("deprecatedCount") or 1
    return SessionEvent(when=_when(event), about=about, text=text, count=count)
