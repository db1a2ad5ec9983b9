"""The waiting page on a desktop's own host: while the desktop starts, is queued or suspended, or
has failed.

The page is live (server-sent events) and opens the desktop by itself. Without scripts it reloads
itself. A person who opens the address of a suspended desktop by hand resumes it, if their role
allows it; a page that reloads does not.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from vdi.api.session import FULL_CONTROL, Role, VDISession
from vdi.api.template import DEFAULT_HEALTH_PATH
from vdi.gateway.cluster_cache import Subscriptions, session_topic
from vdi.gateway.component import GatewayContext
from vdi.gateway.denied import ActionDenied
from vdi.gateway.desktop.stage import AGAIN, GONE, Stage, describe_stage
from vdi.gateway.edge.authorizer import Admitted, Authorizer
from vdi.gateway.edge.headers import (
    OURS,
    RELOAD_COOKIE,
    is_by_hand,
    is_navigation,
    local_path,
    quoted,
)
from vdi.gateway.edge.selkies import opened, page_of, streams_webrtc
from vdi.gateway.edge.ticket_handoff import TicketHandoff
from vdi.gateway.edge.token_tables import TokenTablePublisher
from vdi.gateway.rights import ACTIONS, Action, User
from vdi.gateway.session_actions import SessionActions
from vdi.gateway.web.credentials import cookies_in, drop_cookie
from vdi.gateway.web.middleware import content_security_policy
from vdi.gateway.web.render import Renderer
from vdi.gateway.web.streams import StreamLimit, sse_event
from vdi.session.actions import Resume
from vdi.session.homes import files_note
from vdi.session.recording import recording_note
from vdi.session.template_image import health_path, refuse_view_only, takes_tokens

# The script of `/.vdi/open` is in the page itself: its Content-Security-Policy names the script by
# its hash.
OPEN_SCRIPT = (Path(__file__).parent / "static" / "open.js").read_text()
_CONFIRMATION_SECONDS = 1.0


@dataclass(eq=False, kw_only=True)
class WaitingPage:
    """The page, its stream of events, and its button."""

    context: GatewayContext
    actions: SessionActions
    authorizer: Authorizer
    handoff: TicketHandoff
    tables: TokenTablePublisher
    subscriptions: Subscriptions
    _streams: StreamLimit = field(default_factory=StreamLimit, init=False)
    _renderer: Renderer = field(init=False)

    def __post_init__(self) -> None:
        self._renderer = Renderer(self.context.settings)

    async def page(self, request: Request) -> Response:
        """`/.vdi/wait`, sent here by the edge."""
        return await self._serve(request, local_path(request.query_params.get("next")))

    async def opening(self, request: Request) -> Response:
        """`/.vdi/open`, sent here by the edge: asks a desktop that has just become ready whether it
        responds.
        """
        next_path = local_path(request.query_params.get("next"))
        waits = f"/.vdi/wait?next={quoted(next_path)}"
        admitted = await self.authorizer.admit_request(request)
        if admitted is None or self._stage(admitted.session, admitted).key != "opening":
            return RedirectResponse(waits, 302, OURS)
        self._request_table(admitted.session, admitted)
        # A page of one file: a browser would load style, font and scripts of the waiting page
        # before the desktop's own.
        response = self._renderer.render(
            request,
            "open.html",
            name=admitted.session.metadata.name,
            waits=waits,
            script=Markup(OPEN_SCRIPT),  # noqa: S704 - a file of ours
            **self._way_in(admitted.session, next_path),
        )
        response.headers.update(OURS)
        response.headers["Content-Security-Policy"] = content_security_policy(
            self.context.settings, OPEN_SCRIPT
        )
        self.authorizer.renew_cookie(response, admitted.token)
        return response

    async def anywhere(self, request: Request) -> Response:
        """Every other path of a desktop's host without a live route."""
        if request.url.path.startswith("/.vdi/"):
            raise HTTPException(404, "Not found.")
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return await self._serve(request, local_path(page_of(target)))

    async def events(self, request: Request) -> Response:
        """`/.vdi/events`: the stages to come, as server-sent events."""
        admitted = await self.authorizer.admit_request(request)
        if admitted is None:
            return PlainTextResponse("You have not opened this desktop.\n", 401, OURS)
        try:
            return self._streams.response(
                self.context, admitted.claims.sub, self._stages(request, admitted), OURS
            )
        except HTTPException as error:
            return PlainTextResponse(
                f"{error.detail}\n", error.status_code, {**OURS, **(error.headers or {})}
            )

    async def resume(self, request: Request) -> Response:
        """`/.vdi/resume`: the buttons: resume the session, or let a waiting one start with fewer
        GPUs (`gpu`).
        """
        self.handoff.check_own_page(request)
        admitted = await self.authorizer.admit_request(request)
        if admitted is None:
            return RedirectResponse("/.vdi/start", 303, OURS)
        next_path = local_path(request.query_params.get("next"))
        why = await self._resume(request, admitted, request.query_params.get("gpu", ""))
        if why:
            return self._show(request, admitted, next_path, why, 409)
        return RedirectResponse(f"/.vdi/wait?next={quoted(next_path)}", 303, OURS)

    async def _serve(self, request: Request, next_path: str) -> Response:
        navigation = is_navigation(request.method, dict(request.headers.raw))
        admitted = await self.authorizer.admit_request(request)
        if admitted is None and navigation:
            return RedirectResponse(f"/.vdi/start?next={quoted(next_path)}", 302, OURS)
        if admitted is None:
            return PlainTextResponse("You have not opened this desktop.\n", 401, OURS)
        if not navigation:  # a request of a desktop's page that is still open
            return PlainTextResponse(
                "The desktop is not available now.\n", 503, {**OURS, "Retry-After": "2"}
            )
        why = ""
        cookies = cookies_in(request.headers.get("cookie", ""))
        if (
            is_by_hand(request.headers, cookies)
            and admitted.session.spec.suspended
            and Action.RESUME in ACTIONS[admitted.claims.role]
        ):
            why = await self._resume(request, admitted)
        response = self._show(request, admitted, next_path, why, 200)
        if RELOAD_COOKIE in cookies:
            drop_cookie(response, RELOAD_COOKIE)
        return response

    def _show(
        self, request: Request, admitted: Admitted, next_path: str, why: str, status: int
    ) -> Response:
        session = self.context.cluster.by_uid(admitted.session.metadata.uid)
        self._request_table(session, admitted)
        stage = self._stage(session, admitted)
        response = self._renderer.render(
            request,
            "wait.html",
            status=status,
            next=next_path,
            why=why,
            owner=admitted.session.spec.user if admitted.claims.role is not Role.OWNER else "",
            **self._way_in(admitted.session, next_path),
            **self._shown(admitted.session.metadata.name, session, stage, next_path),
        )
        response.headers.update(OURS)
        self.authorizer.renew_cookie(response, admitted.token)
        return response

    async def _resume(self, request: Request, admitted: Admitted, gpu: str = "") -> str:
        """Resume the session, or start it with fewer GPUs; returns why not, or an empty text."""
        grant = await self.authorizer.grant_of(admitted.session, request.headers.get("cookie", ""))
        if grant is None:
            return "Your connection to this desktop has ended. Open it again from the portal."
        user = User(email=grant.user, groups=grant.groups, login_id=grant.login_id)
        try:
            name = admitted.session.metadata.name
            if gpu:
                await self.actions.carry_out_form(user, name, Action.RESIZE, {"gpu": gpu})
            else:
                await self.actions.carry_out(user, name, Resume())
        except ActionDenied as error:
            return error.sentence
        return ""

    async def _stages(self, request: Request, admitted: Admitted) -> AsyncIterator[bytes]:
        uid, next_path = admitted.session.metadata.uid, local_path(request.query_params.get("next"))
        before: Stage | None = None
        self._request_table(self.context.cluster.by_uid(uid), admitted)
        topic = session_topic(admitted.session.metadata.name)
        with self.subscriptions.subscribe(None, {topic}) as subscription:
            while True:
                session = self.context.cluster.by_uid(uid)
                stage = self._stage(session, admitted)
                if stage != before:
                    shown = self._shown(admitted.session.metadata.name, session, stage, next_path)
                    fragments = {
                        name: self._renderer.fill(request, f"wait_{name}.html", **shown)
                        for name in ("summary", "steps")
                    }
                    yield sse_event(
                        msgspec.json.encode({"stage": stage.key, **fragments}).decode(),
                        event="stage",
                    )
                    before = stage
                if stage in (GONE, AGAIN):
                    return
                # Nothing in the cluster changes when a desktop takes a token table, so a viewer's
                # stream looks itself.
                await subscription.wait(
                    None if admitted.claims.role in FULL_CONTROL else _CONFIRMATION_SECONDS
                )

    def _request_table(self, session: VDISession | None, admitted: Admitted) -> None:
        """Have the token table posted to a desktop that has not confirmed this viewer to this
        replica.
        """
        if (
            session is not None
            and admitted.claims.role not in FULL_CONTROL
            and not self.tables.has_taken(session, admitted.claims.gid)
        ):
            self.tables.touch(session.metadata.uid)

    def _stage(self, session: VDISession | None, admitted: Admitted) -> Stage:
        if session is None:
            return GONE
        role = admitted.claims.role
        holds = self.authorizer.still_holds(session, admitted.claims)
        return describe_stage(session, role if holds else None, self._why_denied(session, role))

    def _why_denied(self, session: VDISession, role: Role) -> str:
        """The reason why this role gets no picture of a running desktop; empty: it gets one."""
        if role in FULL_CONTROL:
            return ""
        if why := refuse_view_only(self.context.cluster.template(session.spec.template)):
            return why
        if not self.tables.is_refused(session):
            return ""
        return (
            "View only is not possible: this desktop does not confirm that it restricts you to"
            f" viewing. Ask {session.spec.user} to share it with full control, or to restart it. It"
            " opens here once it confirms."
        )

    def _way_in(self, session: VDISession, next_path: str) -> dict[str, Any]:
        """Path that asks the desktop whether it responds, and address at which it then opens."""
        template = self.context.cluster.template(session.spec.template)
        if streams_webrtc(template):
            opens = next_path
        else:
            opens = opened(next_path, with_token=template is None or takes_tokens(template.spec))
        return {
            "health": health_path(template.spec) if template else DEFAULT_HEALTH_PATH,
            "opens": opens,
        }

    def _shown(
        self, name: str, session: VDISession | None, stage: Stage, next_path: str
    ) -> dict[str, Any]:
        if session:
            template = self.context.cluster.template(session.spec.template)
        else:
            template = None
        return {
            "name": name,
            "stage": stage,
            "files_note": (
                files_note(session, template)
                if session and stage.key in ("queued", "starting")
                else ""
            ),
            "recording_note": recording_note(template),
            "now": self.context.clock(),
            "resume": f"/.vdi/resume?next={quoted(next_path)}",
        }
