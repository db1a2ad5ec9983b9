"""Entering and leaving a desktop: four routes, and the one-time ticket between the portal and the
desktop's host.

    desktop's host  /.vdi/start   sets a cookie that only this browser has; redirects to the portal
    portal          /enter        login and rights; a ticket: one use, 30 s, for this login, session and browser
    desktop's host  /.vdi/enter   checks the ticket against the cookie; a grant and its two cookies; on to the desktop
    desktop's host  /.vdi/leave   ends the grant

No one can plant another user's ticket in a browser: a ticket is bound to the cookie that
/.vdi/start has set there.
"""

import hmac
import logging
import re
import secrets
from dataclasses import dataclass

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from vdi.api.session import VDISession
from vdi.gateway.component import GatewayContext
from vdi.gateway.denied import ActionDenied, CrossSiteError
from vdi.gateway.desktop.access import find_to_act
from vdi.gateway.edge.absence import explain_absence
from vdi.gateway.edge.authorizer import Authorizer
from vdi.gateway.edge.headers import (
    DESKTOP_COOKIE,
    GRANT_COOKIE,
    LABEL,
    LAST_COOKIE,
    OURS,
    RELOAD_COOKIE,
    STATE_COOKIE,
    local_path,
    quoted,
)
from vdi.gateway.edge.revocation import Revoker
from vdi.gateway.edge.selkies import find_first_page
from vdi.gateway.edge.token_tables import TokenTablePublisher
from vdi.gateway.history.component import History
from vdi.gateway.login.guard import Guard
from vdi.gateway.login.logins import Logins, hash_of
from vdi.gateway.rights import ACTIONS, Action, User, refusal, role_in
from vdi.gateway.shared_state import SharedState
from vdi.gateway.store.audit import Audit, act_on
from vdi.gateway.web.credentials import cookies_in, drop_cookie, find_foreign_origin, set_cookie
from vdi.gateway.web.render import Renderer

log = logging.getLogger(__name__)

TICKET_SECONDS = 30
STATE_SECONDS = 300
RELOAD_SECONDS = 60
# The longest that browsers keep a cookie.
LAST_SECONDS = 400 * 24 * 3600
# 32 random bytes, as `secrets.token_urlsafe(32)` writes them: of the state cookie, and a ticket.
_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")
_STATE_HASH = re.compile(r"[0-9a-f]{64}")
_AGAIN = "Nothing is lost. Open the desktop again."


class Ticket(msgspec.Struct, frozen=True):
    """The portal's message to the desktop's host, in `SharedState`. `state`: SHA-256 of the state
    cookie.
    """

    session_uid: str
    user: str
    groups: list[str]
    login_id: str
    state: str


async def issue_ticket(shared: SharedState, user: User, session: VDISession, state: str) -> str:
    """A ticket into this session for a user whose rights in it were just checked."""
    ticket = secrets.token_urlsafe(32)
    content = Ticket(session.metadata.uid, user.email, sorted(user.groups), user.login_id, state)
    await shared.put(_key(ticket), msgspec.json.encode(content).decode(), TICKET_SECONDS)
    return ticket


@dataclass(eq=False, kw_only=True)
class TicketHandoff:
    """The four routes."""

    context: GatewayContext
    logins: Logins
    guard: Guard
    authorizer: Authorizer
    revoker: Revoker
    tables: TokenTablePublisher
    history: History
    audit: Audit

    async def start(self, request: Request) -> Response:
        """Send the browser to the portal. Does not tell whether there is a desktop here."""
        label = self._label(request)
        # An existing state stays: with a new one, the ticket of a second tab would make the first
        # tab's ticket invalid.
        state = _cookies(request).get(STATE_COOKIE, "")
        if not _SECRET.fullmatch(state):
            state = secrets.token_urlsafe(32)
        query = f"host={label}&state={hash_of(state)}&next={_quoted_next(request)}"
        # With an empty fragment of its own: browsers carry the old one over a redirect, and there
        # may be a token in it.
        response = RedirectResponse(f"{self.context.settings.portal_url}/enter?{query}#", 302, OURS)
        set_cookie(response, STATE_COOKIE, state, STATE_SECONDS)
        if request.headers.get("sec-fetch-site") == "same-origin":
            set_cookie(response, RELOAD_COOKIE, "1", RELOAD_SECONDS)
        return response

    async def portal_enter(self, request: Request) -> Response:
        """On the portal: a ticket for a user who is logged in and may enter."""
        user = await self.guard.require_browser(request)
        label, state = request.query_params.get("host", ""), request.query_params.get("state", "")
        if not LABEL.fullmatch(label) or not _STATE_HASH.fullmatch(state):
            return self._page(
                request,
                "This is not a link to a desktop.",
                "Open the desktop from the portal.",
                400,
            )
        session = self.context.cluster.by_host(label)
        now = self.context.clock()
        if session and user.admin and (refused := refusal(user, Action.OPEN, session, now)):
            code, why = refused
            act = act_on(session, user.email, "session.open", {})
            await self.audit.refuse(act, code, user.login_id)
            sentence = f"{why} To help, request access on the desktop's page in the portal."
            return self._page(request, "This desktop is not yours", sentence, 403)
        if session is None or role_in(session, user.email, now) is None:
            cluster, grants = self.context.cluster, self.authorizer.store
            if absence := await explain_absence(
                cluster, self.history, grants, user, label, session
            ):
                return self._page(request, *absence[:2], 403, start=absence[2])
            # One sentence for both: others must not learn whether a desktop exists.
            return self._page(
                request,
                "You have no desktop here",
                f"You have no desktop at {self.context.settings.host(label)}, and none at this"
                f" address is shared with {user.email}. It may have ended, or it is no longer"
                " shared with you.",
                403,
            )
        ticket = await issue_ticket(self.context.shared, user, session, state)
        host = self.context.settings.url(self.context.settings.host(label))
        return RedirectResponse(
            f"{host}/.vdi/enter?ticket={ticket}&next={_quoted_next(request)}", 302
        )

    async def enter(self, request: Request) -> Response:
        """On the desktop's host: exchange a ticket for a grant."""
        if request.method != "GET":
            raise HTTPException(405, "A ticket can be used only with GET.")
        session = self.context.cluster.by_host(self._label(request))
        next_path = local_path(request.query_params.get("next"))
        ticket = await self._take_ticket(request)
        if ticket is None:
            # The back button, or a page that was loaded twice: a user who is already in just goes
            # on.
            if await self.authorizer.admit_request(request) is not None:
                return RedirectResponse(next_path, 302, OURS)
            return self._page(
                request, "This link was already used, or it has expired", _AGAIN, 403, next_path
            )
        if not hmac.compare_digest(hash_of(_cookies(request).get(STATE_COOKIE, "")), ticket.state):
            return self._page(
                request, "This link was created for another browser", _AGAIN, 403, next_path
            )
        if session is None or session.metadata.uid != ticket.session_uid:
            return self._page(request, "This link is for another desktop", _AGAIN, 403, next_path)
        if not await self.logins.touch(ticket.login_id):
            return self._signed_out(request, next_path)
        return await self._let_in(request, session, ticket, next_path)

    async def leave(self, request: Request) -> Response:
        """On the desktop's host: end this login's grants here, and go back to the portal."""
        self.check_own_page(request)
        session = self.context.cluster.by_host(self._label(request))
        if session is not None:
            grant = await self.authorizer.grant_of(session, request.headers.get("cookie", ""))
            if grant is not None:
                await self.revoker.end(
                    session_uid=grant.session_uid, login_id=grant.login_id, reason="left"
                )
        response = RedirectResponse(f"{self.context.settings.portal_url}/", 303, OURS)
        # Not LAST_COOKIE: see _clear_former_session.
        for name in (
            DESKTOP_COOKIE,
            GRANT_COOKIE,
            STATE_COOKIE,
        ):
            drop_cookie(response, name)
        return response

    def check_own_page(self, request: Request) -> None:
        """Refuse (403) a change that was not sent by a page of this very host."""
        origin = self.authorizer.hosts.origin_of(request)
        why = find_foreign_origin(request.headers, origin)
        if why:
            raise CrossSiteError(f"This request did not come from a page of {origin}: {why}.")

    async def _take_ticket(self, request: Request) -> Ticket | None:
        ticket = request.query_params.get("ticket", "")
        if not _SECRET.fullmatch(ticket):
            return None
        text = await self.context.shared.pop(_key(ticket))
        if text is not None:
            return msgspec.json.decode(text, type=Ticket)
        return None

    async def _let_in(
        self, request: Request, session: VDISession, ticket: Ticket, next_path: str
    ) -> Response:
        role = role_in(session, ticket.user, self.context.clock())
        if role is None or Action.OPEN not in ACTIONS[role]:
            return self._page(
                request, "This desktop is no longer shared with you", _AGAIN, 403, next_path
            )
        user = User(ticket.user, login_id=ticket.login_id)
        try:
            await find_to_act(self.context, user, Action.OPEN, session.metadata.name)
        except ActionDenied as why:
            title = "This desktop cannot be opened now"
            return self._page(request, title, why.sentence, why.status, next_path)
        grant = await self.authorizer.grant_of(session, request.headers.get("cookie", ""))
        handle = ""
        if grant is None or (grant.user, grant.login_id) != (ticket.user, ticket.login_id):
            made = await self.authorizer.grant(
                session, user=ticket.user, groups=ticket.groups, role=role, login_id=ticket.login_id
            )
            if made is None:
                return self._signed_out(request, next_path)
            grant, handle = made
            self.tables.touch(session.metadata.uid)
            log.info("%s entered session %s as %s", grant.user, session.metadata.name, role)
        # The redirect with which the edge would respond to a request for that page, one step
        # sooner.
        template = self.context.cluster.template(session.spec.template)
        where = find_first_page(
            session, template, grant_id=grant.id, uri=next_path, now=self.context.clock()
        )
        response = RedirectResponse(where or next_path, 302, OURS)
        if handle:
            set_cookie(
                response, GRANT_COOKIE, handle, int(self.context.settings.login_max.total_seconds())
            )
        self.authorizer.send_token(response, grant)
        self._clear_former_session(request, response, session)
        return response

    def _clear_former_session(
        self, request: Request, response: Response, session: VDISession
    ) -> None:
        """Clear what another session at this host has left in the browser: service workers, cached
        scripts, storage.
        """
        # A browser without the cookie counts as having been in another session: pages of other
        # hosts can push the cookie out, and pages of the former session can change it, but they do
        # not know the uid of the next session.
        entered = hash_of(session.metadata.uid)
        if _cookies(request).get(LAST_COOKIE) != entered:
            # Not "cookies": browsers forget those of the whole domain, the login at the portal
            # among them.
            response.headers["Clear-Site-Data"] = '"cache", "storage"'
        set_cookie(response, LAST_COOKIE, entered, LAST_SECONDS)

    def _signed_out(self, request: Request, next_path: str) -> Response:
        return self._page(request, "Your sign-in has ended", _AGAIN, 403, next_path)

    def _page(
        self,
        request: Request,
        title: str,
        message: str,
        status: int,
        again: str = "",
        start: str = "",
    ) -> Response:
        """A refusal for people. `again`: path of the button on this host; `start`: template of a
        new desktop.
        """
        shown = {"title": title, "message": message, "again": again, "start": start}
        response = Renderer(self.context.settings).render(
            request, "door.html", status=status, now=self.context.clock(), **shown
        )
        response.headers.update(OURS)
        return response

    def _label(self, request: Request) -> str:
        label = self.authorizer.hosts.label_of(request)
        if label is None:
            raise HTTPException(421, "There is no desktop at this host.")
        return label


def _cookies(request: Request) -> dict[str, str]:
    return cookies_in(request.headers.get("cookie", ""))


def _quoted_next(request: Request) -> str:
    return quoted(local_path(request.query_params.get("next")))


def _key(ticket: str) -> str:
    return f"ticket/{hash_of(ticket)}"
