"""Operations below `/sessions`, `/templates` and `/events`: a user's desktops, their event stream, latency probes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.responses import Response

from vdi.api.session import VDISession
from vdi.gateway.api.operation import JSON, PREFIX, Call, Empty, Key, Operation, cut
from vdi.gateway.api.problems import ProblemError, invalid
from vdi.gateway.api.schemas import (
    EndQuery,
    Extend,
    Schedule,
    Session,
    SessionList,
    SessionQuery,
    Share,
    Template,
    TemplateList,
    session_of,
    template_of,
)
from vdi.gateway.cluster_cache import Change
from vdi.gateway.denied import ActionDenied
from vdi.gateway.desktop_agent import StartupScriptList
from vdi.gateway.probing import MOST, WINDOW, Begun, Stage, TooManyProbesError
from vdi.gateway.rights import Action, User, knows_of, may_use, refusal, role_in
from vdi.gateway.services import ApiServices
from vdi.gateway.web.streams import sse_event
from vdi.latency_probe.measurements import Measurements
from vdi.session.request import SessionRequest


def age(session: VDISession) -> Key:
    """Oldest first."""

    return session.metadata.creation_timestamp, session.metadata.name


def visible_session(api: ApiServices, user: User, name: str) -> VDISession:
    """A session that the person may see. Raises ActionDenied with the words for one that is not theirs or not there."""
    session = api.context.cluster.session(name)
    stranger = f"You have no desktop {name!r}, and no desktop with this name is shared with you."
    why = refusal(user, Action.SEE, session, api.context.clock()) if session else stranger
    if session is None or why:
        raise ActionDenied("NotFound", why or stranger)
    return session


async def list_sessions(call: Call[SessionQuery, None]) -> SessionList:
    """My sessions, and those shared with me."""
    now, user, role_filter = call.now(), call.user, call.query.role

    def is_selected(session: VDISession) -> bool:
        role = role_in(session, user.email, now)
        return role is not None and role_filter in (None, role)

    shown, after = cut(filter(is_selected, call.cluster.sessions.values()), age, call.query)
    return SessionList(tuple(session_of(session, user, now) for session in shown), after)


async def get_session(call: Call[Empty, None]) -> Session:
    """One session."""
    session = visible_session(call.api, call.user, call.path("name"))
    return session_of(session, call.user, call.now())


async def create_session(call: Call[Empty, SessionRequest]) -> Response:
    """A new desktop."""
    made = await call.api.actions.start(call.user, call.body)
    body = msgspec.json.encode(session_of(made, call.user, call.now()))
    headers = {"Location": f"{PREFIX}/sessions/{made.metadata.name}"}
    return Response(body, 201, headers=headers, media_type=JSON)


async def end_session(call: Call[EndQuery, None]) -> None:
    """The end of a session."""
    await call.api.actions.end(call.user, call.path("name"), delete_home=call.query.delete_home)


async def extend_session(call: Call[Empty, Extend]) -> Session:
    """More time."""
    return _now(call, await call.api.actions.extend(call.user, call.path("name"), call.body.timeout))


async def schedule_session(call: Call[Empty, Schedule]) -> Session:
    """Resume it at set times."""
    return _now(call, await call.api.actions.schedule(call.user, call.path("name"), call.body))


async def unschedule_session(call: Call[Empty, None]) -> Session:
    """Resume it no longer."""
    return _now(call, await call.api.actions.schedule(call.user, call.path("name"), None))


async def suspend_session(call: Call[Empty, None]) -> Session:
    """Stop the desktop."""
    return _now(call, await call.api.actions.suspend(call.user, call.path("name")))


async def resume_session(call: Call[Empty, None]) -> Session:
    """Start it again."""
    return _now(call, await call.api.actions.resume(call.user, call.path("name")))


async def restart_session(call: Call[Empty, None]) -> Session:
    """Start it again."""
    return _now(call, await call.api.actions.restart(call.user, call.path("name")))


async def share_session(call: Call[Empty, Share]) -> Session:
    """Let somebody in."""
    name, user = call.path("name"), call.path("user")
    return _now(call, await call.api.actions.share(call.user, name, user, call.body.role, call.body.expires))


async def unshare_session(call: Call[Empty, None]) -> Session:
    """Let somebody in no longer."""
    return _now(call, await call.api.actions.unshare(call.user, call.path("name"), call.path("user")))


async def list_startup_scripts(call: Call[Empty, None]) -> StartupScriptList:
    """What became of the start-up scripts."""
    return StartupScriptList(await call.api.startup_scripts.read(call.user, call.path("name")))


def _now(
    call: Call[Empty, None] | Call[Empty, Extend] | Call[Empty, Schedule] | Call[Empty, Share], session: VDISession
) -> Session:
    now: datetime = call.now()
    return session_of(session, call.user, now)


async def list_templates(call: Call[Empty, None]) -> TemplateList:
    """The kinds of desktop that this person may start."""
    mine = [template for template in call.cluster.templates.values() if may_use(template, call.user)]
    return TemplateList(
        tuple(template_of(template) for template in sorted(mine, key=lambda template: template.metadata.name))
    )


async def get_template(call: Call[Empty, None]) -> Template:
    """One of them."""
    name = call.path("name")
    template = call.cluster.template(name)
    if template is None or not may_use(template, call.user):
        known = ", ".join(offered.metadata.name for offered in (await list_templates(call)).items) or "none"
        raise ActionDenied("NotFound", f"There is no template {name!r} that you can use. Available: {known}.")
    return template_of(template)


_TAG = "Desktops"
_CHANGE = ("not-found", "forbidden", "conflict", "over-limit")

OPERATIONS = (
    Operation(
        method="GET", path="/sessions", name="listSessions", tag=_TAG, handler=list_sessions,
        summary="Your desktops and those shared with you, oldest first",
        query=SessionQuery, answer=SessionList,
    ),
    Operation(
        method="POST", path="/sessions", name="createSession", tag=_TAG, handler=create_session,
        summary="Start a desktop",
        description="Returns as soon as the cluster has accepted the session. Follow the start with `GET /events`.",
        body=SessionRequest, answer=Session, status=201, problems=("conflict", "over-limit", "forbidden", "not-found"),
    ),
    Operation(
        method="GET", path="/sessions/{name}", name="getSession", tag=_TAG, handler=get_session,
        summary="One desktop with its spec and status", answer=Session, problems=("not-found",),
    ),
    Operation(
        method="DELETE", path="/sessions/{name}", name="endSession", tag=_TAG, handler=end_session,
        summary="End a desktop",
        description=(
            "The home is kept for the next session of the same template, unless `deleteHome` is true or the "
            "session was created with `persistence.retain: false`."
        ),
        query=EndQuery, problems=_CHANGE,
    ),
    Operation(
        method="POST", path="/sessions/{name}/extend", name="extendSession", tag=_TAG, handler=extend_session,
        summary="Set the length of the whole run", body=Extend, answer=Session, problems=_CHANGE,
    ),
    Operation(
        method="POST", path="/sessions/{name}/suspend", name="suspendSession", tag=_TAG, handler=suspend_session,
        summary="Stop the desktop and free its GPU; home and address are kept", answer=Session, problems=_CHANGE,
    ),
    Operation(
        method="POST", path="/sessions/{name}/resume", name="resumeSession", tag=_TAG, handler=resume_session,
        summary="Start a suspended desktop again: a new run", answer=Session, problems=_CHANGE,
    ),
    Operation(
        method="POST", path="/sessions/{name}/restart", name="restartSession", tag=_TAG, handler=restart_session,
        summary="Restart the desktop on the same home, for example after it hangs or fails",
        answer=Session, problems=_CHANGE,
    ),
    Operation(
        method="PUT", path="/sessions/{name}/schedule", name="scheduleSession", tag=_TAG, handler=schedule_session,
        summary="Resume the desktop by itself at set times, and suspend it at their end",
        description=(
            "A scheduled desktop counts as running in the limits of its owner. Someone whose hours are limited cannot "
            "schedule; an administrator can do it for them."
        ),
        body=Schedule, answer=Session, problems=_CHANGE,
    ),
    Operation(
        method="DELETE", path="/sessions/{name}/schedule", name="unscheduleSession", tag=_TAG,
        handler=unschedule_session, summary="Remove the schedule of the desktop", answer=Session, problems=_CHANGE,
    ),
    Operation(
        method="PUT", path="/sessions/{name}/access/{user}", name="shareSession", tag=_TAG, handler=share_session,
        summary="Share the desktop with a guest; replaces an existing share with the same guest",
        body=Share, answer=Session, problems=(*_CHANGE, "view-only-unavailable"),
    ),
    Operation(
        method="DELETE", path="/sessions/{name}/access/{user}", name="unshareSession", tag=_TAG,
        handler=unshare_session, summary="End a share; the guest is disconnected",
        answer=Session, problems=_CHANGE,
    ),
    Operation(
        method="GET", path="/sessions/{name}/startup-scripts", name="listStartupScripts", tag=_TAG,
        handler=list_startup_scripts,
        summary="The result and the last lines of the start-up scripts of your running desktop",
        description=(
            "Those of the current start. The desktop must be running, and its image must report them, as ours does. "
            "Only for its owner."
        ),
        answer=StartupScriptList, problems=("not-found", "forbidden", "conflict", "unavailable"),
    ),
    Operation(
        method="GET", path="/templates", name="listTemplates", tag="Templates", handler=list_templates,
        summary="The templates that you can start, by name", answer=TemplateList,
    ),
    Operation(
        method="GET", path="/templates/{name}", name="getTemplate", tag="Templates", handler=get_template,
        summary="One of these templates", answer=Template, problems=("not-found",),
    ),
)  # fmt: skip

# How often it is looked whether the login still holds for the same rights, and whether shares have expired.
CHECK_SECONDS = 15.0


class EventsQuery(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """What to follow."""

    session: Annotated[
        Annotated[str, msgspec.Meta(max_length=253)] | None,
        msgspec.Meta(description="Only this session. Default: all of yours."),
    ] = None


class Gone(msgspec.Struct):
    """A session that has ended, or is no longer visible to this user."""

    name: str
    uid: str


async def follow(call: Call[EventsQuery, None]) -> Response:
    """The stream."""
    if call.query.session is not None:
        visible_session(call.api, call.user, call.query.session)
    return call.api.streams.response(call.api.context, call.user.email, _events(call))


async def _events(call: Call[EventsQuery, None]) -> AsyncIterator[bytes]:
    only = call.query.session
    sent: dict[str, VDISession] = {}
    loop = asyncio.get_running_loop()
    check_at = loop.time() + CHECK_SECONDS

    def wants(change: Change) -> bool:
        return change.kind == "session" and only in (None, change.name) and _concerns(call, change, sent)

    with call.cluster.changes(wants) as changes:
        for session in sorted(call.cluster.sessions.values(), key=age):
            if only in (None, session.metadata.name) and _shows(call, session):
                yield _tell(call, session, sent)
        yield sse_event("{}", event="ready")
        waiting: asyncio.Task[Change] | None = None
        try:
            while True:
                waiting = waiting or asyncio.ensure_future(_next_change(aiter(changes)))
                await asyncio.wait([waiting], timeout=max(0.0, check_at - loop.time()))
                if loop.time() >= check_at:
                    if not await _still_in(call):
                        return
                    for session in [shown for shown in sent.values() if not _shows(call, shown)]:
                        yield _forget(session, sent)
                    check_at = loop.time() + CHECK_SECONDS
                if not waiting.done():
                    continue
                done, waiting = waiting, None
                try:
                    change = done.result()
                except StopAsyncIteration:
                    return
                for event in _events_of_change(call, change, sent):
                    yield event
        finally:
            if waiting is not None:
                waiting.cancel()
                with suppress(asyncio.CancelledError, StopAsyncIteration):
                    await waiting


async def _next_change(changes: AsyncIterator[Change]) -> Change:
    return await anext(changes)


def _concerns(call: Call[EventsQuery, None], change: Change, sent: dict[str, VDISession]) -> bool:
    return change.name in sent or (change.new is not None and _shows(call, change.new))


def _shows(call: Call[EventsQuery, None], session: VDISession) -> bool:
    """Mine and shared with me; one that was asked for by name also as an administrator."""
    now = call.now()
    if call.query.session is not None:
        return knows_of(session, call.user, now)
    return role_in(session, call.user.email, now) is not None


def _events_of_change(call: Call[EventsQuery, None], change: Change, sent: dict[str, VDISession]) -> list[bytes]:
    """What a change means for this person."""
    events = []
    old: VDISession | None = sent.get(change.name)
    new: VDISession | None = change.new if change.new is not None and _shows(call, change.new) else None
    if old is not None and (new is None or new.metadata.uid != old.metadata.uid):
        events.append(_forget(old, sent))
    if new is not None:
        events.append(_tell(call, new, sent))
    return events


def _tell(call: Call[EventsQuery, None], session: VDISession, sent: dict[str, VDISession]) -> bytes:
    sent[session.metadata.name] = session
    shown = session_of(session, call.user, call.now())
    return sse_event(msgspec.json.encode(shown).decode(), event="session")


def _forget(session: VDISession, sent: dict[str, VDISession]) -> bytes:
    meta = session.metadata
    del sent[meta.name]
    return sse_event(msgspec.json.encode(Gone(meta.name, meta.uid)).decode(), event="gone")


async def _still_in(call: Call[EventsQuery, None]) -> bool:
    """Whether the login that the stream was opened with still holds, for the same rights."""
    return await call.api.guard.authenticate(call.request) == call.user


EVENT_OPERATIONS = (
    Operation(
        method="GET", path="/events", name="followSessions", tag="Desktops", handler=follow,
        summary="Changes of your desktops and of those shared with you, as Server-Sent Events",
        description=(
            "`event: session` has a session as data (first all current sessions, then each one that changes), "
            "`event: ready` ends the first list, `event: gone` has `name` and `uid` of a session that has ended or "
            "is no longer shared. A comment every 20 s keeps the connection open."
        ),
        query=EventsQuery, media="text/event-stream", problems=("not-found",),
    ),
)  # fmt: skip


class NewProbe(msgspec.Struct, forbid_unknown_fields=True):
    """A probe to start."""

    state: Annotated[
        str,
        Meta(
            description=(
                "SHA-256, in hexadecimal, of a secret that you choose: the ticket works only with the cookie "
                "`__Host-vdi-state` that contains the secret."
            ),
            pattern=r"^[0-9a-f]{64}$",
        ),
    ]


class ProbeResult(msgspec.Struct, forbid_unknown_fields=True):
    """Result of a probe: either figures or failed."""

    figures: Annotated[Measurements | None, Meta(description="The measured values.")] = None
    failed: Annotated[Stage | None, Meta(description="The stage in which it failed.")] = None


async def begin_probe(call: Call[Empty, NewProbe]) -> Begun:
    """The mark is armed, the way is open."""
    try:
        return await call.api.prober.begin(call.user, call.path("name"), call.body.state)
    except TooManyProbesError as error:
        detail = f"The desktop {str(error)!r} has already been probed {MOST} times within {WINDOW} s."
        raise ProblemError("too-many-requests", detail, headers={"Retry-After": str(WINDOW)}) from error


async def finish_probe(call: Call[Empty, ProbeResult]) -> None:
    """Its figures."""
    found = call.body.figures or call.body.failed
    if found is None or (call.body.figures and call.body.failed):
        raise invalid("figures", None, "either `figures` or `failed`, not both")
    await call.api.prober.finish(call.user, call.path("name"), call.path("id"), found)


# All of them.
PROBE_OPERATIONS = (
    Operation(
        method="POST", path="/sessions/{name}/probe", name="beginProbe", tag="Desktops", handler=begin_probe,
        summary="Start to measure the latency of one of your desktops",
        description=(
            "Shows a small mark in a corner of the screen for one minute. The mark responds to two keys that no "
            "keyboard has. Also opens a connection to the desktop. `vdi session probe` does the rest. The idle "
            "timeout does not count it as activity."
        ),
        body=NewProbe, answer=Begun, problems=("not-found", "forbidden", "conflict"),
    ),
    Operation(
        method="PUT", path="/sessions/{name}/probe/{id}", name="finishProbe", tag="Desktops", handler=finish_probe,
        summary="Submit the results of a probe; they count in the metrics", body=ProbeResult,
        problems=("not-found", "forbidden"),
    ),
)  # fmt: skip
