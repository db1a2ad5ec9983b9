"""Operations below `/sessions`, `/templates` and `/events`: a user's desktops, their event stream,
latency probes.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta
from starlette.responses import Response

from vdi.api.constraints import doc
from vdi.api.session import VDISession
from vdi.cluster.units import format_time
from vdi.gateway.api.operation import JSON, Call, Empty, OperationTable, created
from vdi.gateway.api.schemas import (
    EndQuery,
    Session,
    SessionQuery,
    Template,
    session_of,
    template_of,
)
from vdi.gateway.cluster_cache import session_topic, user_topic
from vdi.gateway.denied import ActionDenied, invalid
from vdi.gateway.desktop.access import find_session
from vdi.gateway.desktop.agent_requests import Begun, Stage, StartupScriptResult
from vdi.gateway.desktop.computer import (
    MAX_REASON,
    MAX_RUN_SECONDS,
    MAX_TEXT,
    CommandResult,
    ComputerAction,
)
from vdi.gateway.queries import Key, ListPage, cut
from vdi.gateway.rights import knows_of, role_in
from vdi.gateway.web.streams import sse_event
from vdi.latency_probe.measurements import Measurements
from vdi.session.actions import (
    ACTIONS,
    AnswerAccess,
    AnyAction,
    End,
    RequestAccess,
    Share,
)
from vdi.session.request import SessionRequest

operation = OperationTable("Desktops")
template_operation = OperationTable("Templates")

# An API token gets the last two while a person has taken over, or is asked to.
_TAKEN = ("human-in-control", "parked")
# Actions that may be refused since the image cannot hold a viewer to viewing.
_SHARING = (Share, RequestAccess, AnswerAccess)
_CHANGE = ("not-found", "forbidden", "conflict", "over-limit", *_TAKEN)
# Seconds between two checks that the login still holds for the same rights, and that shares have
# not expired.
CHECK_SECONDS = 15.0


def age(session: VDISession) -> Key:
    """Sort key: oldest first."""
    return session.metadata.creation_timestamp, session.metadata.name


def _shown(call: Call[object, object], session: VDISession) -> Session:
    return session_of(session, call.user, call.now())


@operation("GET /sessions")
async def list_sessions(call: Call[SessionQuery, None]) -> ListPage[Session]:
    """Your desktops and those shared with you, oldest first."""
    now = call.now()
    mine = []
    for session in call.api.subscriptions.sessions_with(call.user):
        if (role := role_in(session, call.user.email, now)) and call.query.role in (None, role):
            mine.append(session)
    page = cut(mine, age, limit=call.query.limit, cursor=call.query.cursor)
    return ListPage(tuple(_shown(call, session) for session in page.items), page.next)


@operation("GET /sessions/{name}", problems=("not-found",))
async def get_session(call: Call[Empty, None]) -> Session:
    """One desktop with its spec and status."""
    session, _ = find_session(call.api.context, call.user, call.path("name"))
    return _shown(call, session)


@operation(
    "POST /sessions",
    answer=Session,
    status=201,
    problems=("conflict", "over-limit", "forbidden", "not-found"),
)
async def create_session(call: Call[Empty, SessionRequest]) -> Response:
    """Start a desktop.

    Returns as soon as the cluster has accepted the session. Follow the start with `GET /events`.
    """
    made = await call.api.actions.start(call.user, call.body)
    return created(f"/sessions/{made.metadata.name}", _shown(call, made))


@operation("DELETE /sessions/{name}", problems=_CHANGE)
async def end_session(call: Call[EndQuery, None]) -> None:
    """End a desktop.

    The home is kept for the next session of the same template, unless `deleteHome` is true or the
    session was created with `persistence.retain: false`.
    """
    await call.api.actions.end(call.user, call.path("name"), delete_home=call.query.delete_home)


def _add_action(shape: type[AnyAction]) -> None:
    """`POST /sessions/{name}/{action}`."""
    name = shape.action.replace("-", "_")

    async def carry_out(call: Call[Empty, AnyAction | None]) -> Session | None:
        if call.body is None:
            action = msgspec.convert({}, shape)
        else:
            action = call.body
        changed = await call.api.session_actions.carry_out(call.user, call.path("name"), action)
        return _shown(call, changed) if changed else None

    operation.add(
        f"POST /sessions/{{name}}/{shape.action}",
        carry_out,
        name=name if "_" in name else f"{name}_session",
        text=shape.__doc__ or "",
        body=shape if shape.__struct_fields__ else None,
        answer=Session,
        problems=(*_CHANGE, "view-only-unavailable") if shape in _SHARING else _CHANGE,
    )


for _shape in ACTIONS.values():
    if _shape is not End:  # DELETE, above
        _add_action(_shape)


@operation(
    "GET /sessions/{name}/startup-scripts",
    problems=("not-found", "forbidden", "conflict", "unavailable", *_TAKEN),
)
async def list_startup_scripts(call: Call[Empty, None]) -> ListPage[StartupScriptResult]:
    """The result and the last lines of the start-up scripts of your running desktop.

    Those of the current start. The desktop must be running, and its image must report them, as ours
    does. Only for its owner.
    """
    return ListPage(await call.api.agents.read_startup_scripts(call.user, call.path("name")))


@template_operation("GET /templates")
async def list_templates(call: Call[Empty, None]) -> ListPage[Template]:
    """The templates that you can start, by name."""
    return ListPage(tuple(map(template_of, call.cluster.templates_for(call.user).values())))


@template_operation("GET /templates/{name}", problems=("not-found",))
async def get_template(call: Call[Empty, None]) -> Template:
    """One of these templates."""
    name, mine = call.path("name"), call.cluster.templates_for(call.user)
    if name not in mine:
        known = ", ".join(mine) or "none"
        raise ActionDenied(
            "NotFound", f"There is no template {name!r} that you can use. Available: {known}."
        )
    return template_of(mine[name])


class ActionResult(msgspec.Struct):
    """The result of an action."""

    png: Annotated[str | None, doc("A picture of the screen, as base64.")] = None
    text: Annotated[str | None, doc("A text, such as the position of the pointer.")] = None


@operation(
    "POST /sessions/{name}/computer",
    answer=ActionResult,
    problems=("not-found", "forbidden", "conflict", *_TAKEN),
    drives=True,
)
async def act_in_session(call: Call[Empty, ComputerAction]) -> Response:
    """See the screen of a desktop, or send it keys and clicks.

    For its owner, guests with full control, and API tokens of this session. One program drives at a
    time, at most 600 actions in a minute, and none while a person does. An end that is announced,
    or less than 15 minutes away, is in the response's headers `VDI-Ends-At`, a time, and
    `VDI-Ends-Reason`: `Expiring`, `PlannedEnd`, `Closing` or `Idle`.
    """
    name = call.path("name")
    done = await call.api.computer.act(call.actor, name, call.body, call.until_read)
    # In the shape of `ActionResult`; a picture goes out as the desktop sent it.
    result = (
        {"png": None, "text": done or None}
        if isinstance(done, str)
        else {"png": done, "text": None}
    )
    headers = {}
    if end := call.api.computer.announced_end(name):
        headers = {"VDI-Ends-At": format_time(end.at), "VDI-Ends-Reason": end.type}
    return Response(msgspec.json.encode(result), headers=headers, media_type=JSON)


class Command(msgspec.Struct, forbid_unknown_fields=True):
    """A shell command."""

    command: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT, description="For `sh -c`.")]
    timeout: Annotated[
        int, Meta(ge=1, le=MAX_RUN_SECONDS, description="Seconds after which it is killed.")
    ] = 10


@operation(
    "POST /sessions/{name}/run",
    answer=CommandResult,
    problems=("not-found", "forbidden", "conflict", *_TAKEN),
    drives=True,
)
async def run_in_session(call: Call[Empty, Command]) -> CommandResult:
    """Run a command as the desktop's user, if its template allows that."""
    command, seconds = call.body.command, call.body.timeout
    return await call.api.computer.run(
        call.actor, call.path("name"), command, seconds, call.until_read
    )


class HumanRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A request for a person."""

    reason: Annotated[
        str, Meta(min_length=1, max_length=MAX_REASON, description="What the person is to do.")
    ]


@operation(
    "POST /sessions/{name}/human-request",
    problems=("not-found", "forbidden", "conflict", *_TAKEN),
    drives=True,
)
async def request_human(call: Call[Empty, HumanRequest]) -> None:
    """Ask a person to act; actions of programs are refused until they give the desktop back."""
    await call.api.computer.request_human(call.actor, call.path("name"), call.body.reason)


class EventsQuery(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """Sessions to follow."""

    session: Annotated[
        Annotated[str, Meta(max_length=253)] | None,
        Meta(description="Only this session. Default: all of yours."),
    ] = None


class Gone(msgspec.Struct):
    """A session that has ended, or is no longer visible to this user."""

    name: str
    uid: str


@operation("GET /events", media="text/event-stream", problems=("not-found",))
async def follow_sessions(call: Call[EventsQuery, None]) -> Response:
    """Changes of your desktops and of those shared with you, as Server-Sent Events.

    `event: session` has a session as data (first all current sessions, then each one that changes),
    `event: ready` ends the first list, `event: gone` has `name` and `uid` of a session that has
    ended or is no longer shared. A comment every 20 s keeps the connection open.
    """
    if call.query.session is not None:
        find_session(call.api.context, call.user, call.query.session)
    return call.api.streams.response(call.api.context, call.user.email, _events(call))


async def _events(call: Call[EventsQuery, None]) -> AsyncIterator[bytes]:
    """Compares what the client has been sent with the cluster cache, at each change and every
    CHECK_SECONDS.

    A change only wakes the stream, so changes that come faster than the client reads are sent as
    one.
    """
    name, loop, is_first = call.query.session, asyncio.get_running_loop(), True
    if name is None:
        topic = user_topic(call.user.email)
    else:
        topic = session_topic(name)
    sent: dict[str, VDISession] = {}
    checked = loop.time()
    with call.api.subscriptions.subscribe(None, {topic}) as subscription:
        while True:
            visible = {session.metadata.uid: session for session in _visible(call)}
            for session in [old for uid, old in sent.items() if uid not in visible]:
                gone = Gone(session.metadata.name, session.metadata.uid)
                yield sse_event(msgspec.json.encode(gone).decode(), event="gone")
            for session in sorted(visible.values(), key=age):
                if sent.get(session.metadata.uid) is not session:
                    yield sse_event(
                        msgspec.json.encode(_shown(call, session)).decode(), event="session"
                    )
            sent = visible
            if is_first:
                yield sse_event("{}", event="ready")
                is_first = False
            await subscription.wait(max(0.0, checked + CHECK_SECONDS - loop.time()))
            if loop.time() >= checked + CHECK_SECONDS:
                if not await _login_holds(call):
                    return
                checked = loop.time()


async def _login_holds(call: Call[EventsQuery, None]) -> bool:
    """Whether the login has not ended, and has the rights of the stream's start."""
    return await call.api.guard.authenticate(call.request) == call.user


def _visible(call: Call[EventsQuery, None]) -> list[VDISession]:
    """The user's own sessions and those shared with them; a session requested by name also for
    administrators.
    """
    now, name = call.now(), call.query.session
    if name is None:
        mine = call.api.subscriptions.sessions_with(call.user)
        return [session for session in mine if role_in(session, call.user.email, now) is not None]
    session = call.cluster.session(name)
    if session is not None and knows_of(session, call.user, now):
        return [session]
    return []


class NewProbe(msgspec.Struct, forbid_unknown_fields=True):
    """A probe to start."""

    state: Annotated[
        str,
        Meta(
            description=(
                "SHA-256, in hexadecimal, of a secret that you choose: the ticket works only with"
                " the cookie `__Host-vdi-state` that contains the secret."
            ),
            pattern=r"^[0-9a-f]{64}$",
        ),
    ]


class ProbeResult(msgspec.Struct, forbid_unknown_fields=True):
    """Result of a probe: either figures or failed."""

    figures: Annotated[Measurements | None, Meta(description="The measured values.")] = None
    failed: Annotated[Stage | None, Meta(description="The stage in which it failed.")] = None


@operation("POST /sessions/{name}/probe", problems=("not-found", "forbidden", "conflict", *_TAKEN))
async def begin_probe(call: Call[Empty, NewProbe]) -> Begun:
    """Start to measure the latency of one of your desktops.

    Shows a small mark in a corner of the screen for one minute. The mark responds to two keys that
    no keyboard has. Also opens a connection to the desktop. `vdi session probe` does the rest. The
    idle timeout does not count it as activity.
    """
    return await call.api.agents.begin_probe(call.user, call.path("name"), call.body.state)


@operation("PUT /sessions/{name}/probe/{id}", problems=("not-found", "forbidden", *_TAKEN))
async def finish_probe(call: Call[Empty, ProbeResult]) -> None:
    """Submit the results of a probe; they count in the metrics."""
    result = call.body.figures or call.body.failed
    if result is None or (call.body.figures and call.body.failed):
        raise invalid("figures", UNSET, "either `figures` or `failed`, not both")
    await call.api.agents.finish_probe(call.user, call.path("name"), call.path("id"), result)
