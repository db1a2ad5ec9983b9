"""`/sessions` and `/templates`: what a person has, may start, and does with it. What is done, `Actions` does."""

from datetime import datetime

import msgspec
from starlette.responses import Response

from vdi.api.session import VDISession
from vdi.gateway.api.operation import JSON, PREFIX, Call, Empty, Operation
from vdi.gateway.api.paging import Key, cut
from vdi.gateway.api.schemas import (
    EndQuery,
    Extend,
    NewSession,
    Schedule,
    Session,
    SessionList,
    SessionQuery,
    Share,
    Template,
    TemplateList,
    WishedHome,
    WishedResources,
)
from vdi.gateway.api.serializers import session_of, template_of
from vdi.gateway.api.services import ApiServices
from vdi.gateway.denied import ActionDenied
from vdi.gateway.rights import Action, may_use, refusal, role_in
from vdi.gateway.startup_scripts import StartupScriptList
from vdi.gateway.users import User
from vdi.session.request import SessionRequest


def age(session: VDISession) -> Key:
    """Oldest first."""
    return session.metadata.creation_timestamp, session.metadata.name


def seen(api: ApiServices, user: User, name: str) -> VDISession:
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
    session = seen(call.api, call.user, call.path("name"))
    return session_of(session, call.user, call.now())


async def create_session(call: Call[Empty, NewSession]) -> Response:
    """A new desktop."""
    made = await call.api.actions.start(call.user, _session_request(call.user, call.body))
    body = msgspec.json.encode(session_of(made, call.user, call.now()))
    headers = {"Location": f"{PREFIX}/sessions/{made.metadata.name}"}
    return Response(body, 201, headers=headers, media_type=JSON)


def _session_request(user: User, asked: NewSession) -> SessionRequest:
    resources = asked.resources or WishedResources()
    home = asked.persistence or WishedHome()
    return SessionRequest(
        user=asked.user or user.email,
        template=asked.template,
        name=asked.name,
        gpu=resources.gpu,
        memory=resources.memory,
        cpu=resources.cpu,
        ephemeral_storage=resources.ephemeral_storage,
        timeout=asked.timeout,
        idle_timeout=asked.idle_timeout,
        priority=asked.priority,
        hostname=asked.hostname,
        home=home.enabled,
        home_size=home.size,
        retain=home.retain,
    )


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
        body=NewSession, answer=Session, status=201, problems=("conflict", "over-limit", "forbidden", "not-found"),
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
