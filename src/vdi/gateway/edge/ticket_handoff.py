"""The way into a desktop, and out of it.

    desktop's host  /.vdi/start   a cookie that only this browser has; on to the portal
    portal          /enter        login, rights; a ticket: one use, half a minute, for this login, session and browser
    desktop's host  /.vdi/enter   the ticket against the cookie; a grant, and its two cookies; on to the desktop
    desktop's host  /.vdi/leave   the grant ends

No one can put another user's ticket into a browser: it is bound to the cookie that /.vdi/start has set there.
"""

import hashlib
import hmac
import logging
import re
import secrets

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from vdi.api.session import VDISession
from vdi.gateway.component import GatewayContext
from vdi.gateway.denied import CrossSiteError
from vdi.gateway.edge.authorizer import Authorizer
from vdi.gateway.edge.headers import (
    LABEL,
    LAST_COOKIE,
    MARK,
    STATE_COOKIE,
    Hosts,
    add_header,
    desktop_cookie,
    forget_cookies,
    grant_cookie,
    last_cookie,
    local_path,
    quoted,
    reload_cookie,
    state_cookie,
)
from vdi.gateway.edge.revocation import Revoker
from vdi.gateway.edge.token_tables import TokenTablePublisher
from vdi.gateway.edge.webrtc import find_first_page
from vdi.gateway.login.guard import Guard
from vdi.gateway.login.logins import Logins
from vdi.gateway.rights import ACTIONS, Action, User, role_in
from vdi.gateway.web.credentials import cookies_in, find_foreign_origin
from vdi.gateway.web.render import Renderer

log = logging.getLogger(__name__)

TICKET_SECONDS = 30
_STATE = re.compile(r"[A-Za-z0-9_-]{43}")
_STATE_HASH = re.compile(r"[0-9a-f]{64}")
_TICKET = re.compile(r"[A-Za-z0-9_-]{43}")
_OURS = {MARK: "1"}
# Not "cookies": browsers forget those of the whole domain, the login at the portal among them.
_CLEAR = (b"clear-site-data", b'"cache", "storage"')


class Ticket(msgspec.Struct, frozen=True):
    """What the portal tells the desktop's host, by way of `SharedState`."""

    session_uid: str
    user: str
    groups: list[str]
    login_id: str
    state: str


class TicketHandoff:
    """The four routes."""

    def __init__(
        self,
        context: GatewayContext,
        *,
        logins: Logins,
        guard: Guard,
        authorizer: Authorizer,
        revoker: Revoker,
        tables: TokenTablePublisher,
    ) -> None:
        self._settings = context.settings
        self._hosts = Hosts(context.settings)
        self._renderer = Renderer(context.settings)
        self._cluster = context.cluster
        self._shared = context.shared
        self._clock = context.clock
        self._logins = logins
        self._guard = guard
        self._authorizer = authorizer
        self._revoker = revoker
        self._tables = tables

    async def start(self, request: Request) -> Response:
        """Send the browser to the portal. Says nothing about whether there is a desktop here."""

        label = self._label(request)
        # One that is there already stays: a second tab must not spoil the first one's way.
        state = cookies_in(request.headers.get("cookie", "")).get(STATE_COOKIE, "")
        if not _STATE.fullmatch(state):
            state = secrets.token_urlsafe(32)
        next_path = local_path(request.query_params.get("next"))
        query = f"host={label}&state={_hash(state)}&next={quoted(next_path)}"
        # A fragment of its own, an empty one: browsers carry the old one over, and there may be a token in it.
        response = RedirectResponse(f"{self._settings.portal_url}/enter?{query}#", 302, _OURS)
        add_header(response, state_cookie(state))
        if request.headers.get("sec-fetch-site") == "same-origin":
            add_header(response, reload_cookie(True))
        return response

    async def portal_enter(self, request: Request) -> Response:
        """On the portal: who is logged in and may enter gets a ticket."""
        user = await self._guard.require_browser(request)
        label, state = request.query_params.get("host", ""), request.query_params.get("state", "")
        if not LABEL.fullmatch(label) or not _STATE_HASH.fullmatch(state):
            return self._page(request, "This is not a link to a desktop.", "Open the desktop from the portal.", 400)
        session = self._cluster.by_host(label)
        if session is None or role_in(session, user.email, self._clock()) is None:
            # The same words for both: whether there is a desktop is not for others to know.
            return self._page(
                request,
                "You have no desktop here",
                f"You have no desktop at {self._settings.host(label)}, and none at this address is shared with "
                f"{user.email}. It may have ended, or it is no longer shared with you.",
                403,
            )
        ticket = await self.issue_ticket(user, session, state)
        next_path = quoted(local_path(request.query_params.get("next")))
        host = self._settings.url(self._settings.host(label))
        return RedirectResponse(f"{host}/.vdi/enter?ticket={ticket}&next={next_path}", 302)

    async def issue_ticket(self, user: User, session: VDISession, state: str) -> str:
        """A ticket into this session for who was just found to have rights in it. `state`: SHA-256 of the cookie."""
        ticket = secrets.token_urlsafe(32)
        content = Ticket(session.metadata.uid, user.email, sorted(user.groups), user.login_id, state)
        await self._shared.put(_key(ticket), msgspec.json.encode(content).decode(), TICKET_SECONDS)
        return ticket

    async def enter(self, request: Request) -> Response:
        """On the desktop's host: a ticket becomes a grant."""
        if request.method != "GET":
            raise HTTPException(405, "A ticket can be used only with GET.")
        session = self._cluster.by_host(self._label(request))
        next_path = local_path(request.query_params.get("next"))
        ticket = await self._take_ticket(request)
        cookie_header = request.headers.get("cookie", "")
        if ticket is None:
            # The back button, or a page that was loaded twice: who is in already just goes on.
            if session is not None and await self._authorizer.admit(session, cookie_header) is not None:
                return RedirectResponse(next_path, 302, _OURS)
            return self._page(request, "This link was already used, or it has expired", _AGAIN, 403, next_path)
        state = cookies_in(cookie_header).get(STATE_COOKIE, "")
        if not hmac.compare_digest(_hash(state), ticket.state):
            return self._page(request, "This link was created for another browser", _AGAIN, 403, next_path)
        if session is None or session.metadata.uid != ticket.session_uid:
            return self._page(request, "This link is for another desktop", _AGAIN, 403, next_path)
        if not await self._logins.touch(ticket.login_id):
            return self._signed_out(request, next_path)
        return await self._let_in(request, session, ticket, next_path)

    async def leave(self, request: Request) -> Response:
        """On the desktop's host: end this login's grants here, and go back to the portal."""
        self.check_own_page(request)
        session = self._cluster.by_host(self._label(request))
        if session is not None:
            grant = await self._authorizer.grant_of(session, request.headers.get("cookie", ""))
            if grant is not None:
                await self._revoker.end(session_uid=grant.session_uid, login_id=grant.login_id, reason="left")
        response = RedirectResponse(f"{self._settings.portal_url}/", 303, _OURS)
        forget_cookies(response)
        return response

    def check_own_page(self, request: Request) -> None:
        """Refuse (403) a change that was not sent by a page of this very host."""
        origin = self._settings.url(self._settings.host(self._label(request)))
        why = find_foreign_origin(request.headers, origin)
        if why:
            raise CrossSiteError(f"This request did not come from a page of {origin}: {why}.")

    async def _take_ticket(self, request: Request) -> Ticket | None:
        ticket = request.query_params.get("ticket", "")
        if not _TICKET.fullmatch(ticket):
            return None
        text = await self._shared.pop(_key(ticket))
        return msgspec.json.decode(text, type=Ticket) if text is not None else None

    async def _let_in(self, request: Request, session: VDISession, ticket: Ticket, next_path: str) -> Response:
        role = role_in(session, ticket.user, self._clock())
        if role is None or Action.OPEN not in ACTIONS[role]:
            return self._page(request, "This desktop is no longer shared with you", _AGAIN, 403, next_path)
        grant = await self._authorizer.grant_of(session, request.headers.get("cookie", ""))
        cookies = []
        if grant is None or (grant.user, grant.login_id) != (ticket.user, ticket.login_id):
            made = await self._authorizer.grant(
                session, user=ticket.user, groups=ticket.groups, role=role, login_id=ticket.login_id
            )
            if made is None:
                return self._signed_out(request, next_path)
            grant, handle = made
            self._tables.touch(session.metadata.uid)
            log.info("%s entered session %s as %s", grant.user, session.metadata.name, role)
            cookies.append(grant_cookie(handle, int(self._settings.login_max.total_seconds())))
        cookies.append(desktop_cookie(self._authorizer.mint(grant), self._settings.token_seconds))
        # What the edge would say to a request for that page, one redirect sooner.
        template = self._cluster.template(session.spec.template)
        where = find_first_page(session, template, grant_id=grant.id, uri=next_path, now=self._clock())
        response = RedirectResponse(where or next_path, 302, _OURS)
        for cookie in cookies:
            add_header(response, cookie)
        self._part_from_last(request, response, session)
        return response

    def _part_from_last(self, request: Request, response: Response, session: VDISession) -> None:
        """Where this browser entered another session at this host before: clear what that one's pages left behind.

        Its service workers, cached scripts and storage would otherwise be this desktop's. A browser without the cookie
        counts as having been elsewhere: pages of other hosts can push it out, and those of the last session can change
        it, but they do not know the uid of the next one.
        """
        entered = _hash(session.metadata.uid)
        if cookies_in(request.headers.get("cookie", "")).get(LAST_COOKIE) != entered:
            add_header(response, _CLEAR)
        add_header(response, last_cookie(entered))

    def _signed_out(self, request: Request, next_path: str) -> Response:
        return self._page(request, "Your sign-in has ended", _AGAIN, 403, next_path)

    def _page(self, request: Request, title: str, message: str, status: int, again: str = "") -> Response:
        """A refusal for people. `again`: where the button leads, on this host."""
        portal = self._settings.portal_url
        response = self._renderer.render(
            request, "door.html", status=status, title=title, message=message, again=again, portal=portal
        )
        response.headers.update(_OURS)
        return response

    def _label(self, request: Request) -> str:
        label = self._hosts.label(request.headers.get("host", ""))
        if label is None:
            raise HTTPException(421, "There is no desktop at this host.")
        return label


_AGAIN = "Nothing is lost. Open the desktop again."


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _key(ticket: str) -> str:
    return f"ticket/{_hash(ticket)}"
