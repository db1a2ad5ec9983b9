"""The bar over a desktop: its state for one visitor, and the changes that its buttons request.

`static/bar.js` draws it in Selkies' page; `images/desktop/stream-watch.js` loads that script from
the address in the state. A program in the desktop may put a page on the same host, so nothing here
is about any other session, and each request has the rights of its visitor.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from vdi.api.meta import find_condition
from vdi.api.session import FULL_CONTROL, Role, VDISession
from vdi.api.template import VDITemplate
from vdi.gateway.actions import message_key
from vdi.gateway.brand import stylesheet
from vdi.gateway.cluster_cache import Subscriptions, session_topic
from vdi.gateway.component import GatewayContext
from vdi.gateway.denied import BusyError, CrossSiteError
from vdi.gateway.desktop.agent import NO_AUTHORITIES, DesktopAgent, DesktopKeyError
from vdi.gateway.desktop.agent_requests import ask_memory
from vdi.gateway.desktop.view import desktop_view, extensions
from vdi.gateway.edge.authorizer import Admitted, Authorizer
from vdi.gateway.edge.headers import OURS
from vdi.gateway.edge.ticket_handoff import TicketHandoff
from vdi.gateway.edge.token_tables import TokenTablePublisher
from vdi.gateway.in_flight import PAGES, SMALL_ANSWER_BYTES
from vdi.gateway.rights import Action, User, taken_by
from vdi.gateway.session_actions import SessionActions
from vdi.gateway.store.banner import read_banner
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.gateway.store.logins import Grant
from vdi.gateway.web.assets import asset_url
from vdi.gateway.web.streams import StreamLimit, sse_event
from vdi.http_client import HTTP_ERRORS, open_client
from vdi.session.actions import is_expired, pending_request
from vdi.session.conditions import PLANNED_END
from vdi.session.recording import is_recorded, recording_note
from vdi.session.status import is_running
from vdi.session.template_image import takes_tokens

CHANGES = (
    *(Action.SUSPEND, Action.RESTART, Action.RECORD, Action.RESIZE),
    *(Action.UNSHARE, Action.ANSWER_ACCESS, Action.REQUEST_ACCESS, Action.DRIVE, Action.EXTEND),
)
# A page of another host cannot send it without a preflight, to which no one here consents.
HEADER = "x-vdi-bar"
_NOT_ENTERED = "You have not opened this desktop."
# Selkies measures the round trip of each connection first, for at most 1 s.
_SECONDS = 3.0
# Between two questions to a desktop that has guests, while its owner's page is open.
_PRESENCE_SECONDS = 1.0


class Connection(msgspec.Struct):
    """One connected page, as Selkies' `GET /api/sessions` lists it."""

    role: str = ""
    # Gamepad: 1 for the owner; see `selkies.gamepads`.
    slot: int | None = None


class _Connections(msgspec.Struct):
    sessions: tuple[Connection, ...]


@dataclass(eq=False, kw_only=True)
class DesktopBar:
    """The three handlers."""

    context: GatewayContext
    agent: DesktopAgent
    actions: SessionActions
    authorizer: Authorizer
    handoff: TicketHandoff
    tables: TokenTablePublisher
    subscriptions: Subscriptions
    _streams: StreamLimit = field(default_factory=StreamLimit, init=False)

    async def show(self, request: Request) -> Response:
        """`/.vdi/bar`: the state of the bar."""
        admitted, template = await self._admit(request)
        body = msgspec.json.encode(await self._state(admitted, template))
        response = Response(body, headers=OURS, media_type="application/json")
        self.authorizer.renew_cookie(response, admitted.token)
        return response

    async def presence(self, request: Request) -> Response:
        """`/.vdi/presence`: an event whenever the state of the bar has changed."""
        admitted, _ = await self._admit(request)
        return self._streams.response(
            self.context, admitted.claims.sub, self._follow(admitted), OURS
        )

    async def change(self, request: Request) -> Response:
        """`/.vdi/suspend`, `/.vdi/extend?timeout=10h`, `/.vdi/record?on=true` and the
        like.
        """
        self.handoff.check_own_page(request)
        if request.headers.get(HEADER) != "1":
            raise CrossSiteError(
                "This request did not come from the bar: it has no header X-VDI-Bar."
            )
        admitted, _ = await self._admit(request)
        grant = await self.authorizer.grant_of(admitted.session, request.headers.get("cookie", ""))
        if grant is None:
            raise HTTPException(401, _NOT_ENTERED, OURS)
        user = User(grant.user, groups=grant.groups, login_id=grant.login_id)
        action = request.url.path.rpartition("/")[2]
        name = admitted.session.metadata.name
        await self.actions.carry_out_form(user, name, action, request.query_params)
        return Response(status_code=204, headers=OURS)

    async def _admit(self, request: Request) -> tuple[Admitted, VDITemplate | None]:
        """The visitor, and the desktop's template. Raises HTTPException."""
        admitted = await self.authorizer.admit_request(request)
        if admitted is None:
            raise HTTPException(401, _NOT_ENTERED, OURS)
        template = self.context.cluster.template(admitted.session.spec.template)
        # An image's own page has no bar, and may hold anything.
        if template is not None and not takes_tokens(template.spec):
            raise HTTPException(404, "The page of this desktop has no bar.", OURS)
        return admitted, template

    async def _state(self, admitted: Admitted, template: VDITemplate | None) -> dict[str, object]:
        session, role = admitted.session, admitted.claims.role
        settings, now = self.context.settings, self.context.clock()
        user = User(admitted.claims.sub, login_id=admitted.claims.lid)
        view = desktop_view(session, template, user, now, settings.cluster)
        driver = await self.actions.computer.driver(session)
        lengths = []
        if Action.EXTEND in view.actions:
            lengths = extensions(session, template, settings.cluster, now)
        notices = []
        for notice in view.notices:
            if notice.kind != "info":
                words = notice.title if notice.failure else f"{notice.title}. {notice.text}"
                notices.append(words)
        if view.files_note:
            notices.append(view.files_note)
        guests = []
        if view.mine:
            guests = [access.user for access in view.spec.access if not is_expired(access, now)]
        return {
            "script": asset_url(settings.brand, "/.vdi/static", "bar.js"),
            "font": asset_url(settings.brand, "/.vdi/static", "fonts/inter.woff2"),
            "colours": stylesheet(settings.brand).replace(":root", ":host"),
            "portal": settings.portal_url,
            "name": view.name,
            "owner": "" if view.mine else session.spec.user,
            "viewOnly": role not in FULL_CONTROL,
            "running": is_running(session),
            "expires": view.expires,
            "accessEnds": view.access_ends,
            "notices": notices,
            "messages": await self._messages(session),
            "actions": sorted(view.actions),
            # null: no program may drive it, or none has lately.
            "driver": driver and {"line": driver.line, "state": driver.state},
            "recorded": is_recorded(session),
            "recording": recording_note(template),
            "extensions": lengths,
            "memory": await ask_memory(self.agent, session, template) if view.mine else None,
            # Selkies enforces these; the bar hides buttons.
            "streaming": template.spec.streaming if template else None,
            "request": pending_request(session, now) if view.mine else None,
            "guests": guests,
            # null: not known, or not for guests.
            "watching": await self._watching(session) if view.mine else None,
        }

    async def _messages(self, session: VDISession) -> list[str]:
        """Texts of administrators: the banner, one for this desktop, and its announced end."""
        texts = [await self.context.shared.get(message_key(session))]
        with suppress(DatabaseUnavailableError):
            texts.insert(0, await read_banner(self.context.database))
        end = find_condition(session.status.conditions, PLANNED_END)
        if end and end.status == "True":
            texts.append(end.message)
        return [text for text in texts if text]

    async def _follow(self, admitted: Admitted) -> AsyncIterator[bytes]:
        """An event at each change of what the bar shows of the session, for the owner with the
        guests who are connected.
        """
        meta, is_owner, before = admitted.session.metadata, admitted.claims.role is Role.OWNER, None
        with self.subscriptions.subscribe(None, {session_topic(meta.name)}) as subscription:
            while True:
                session = self.context.cluster.by_uid(meta.uid)
                if session is None or not self.authorizer.still_holds(session, admitted.claims):
                    return
                watching = await self._watching(session) if is_owner else None
                shown = (session.spec, session.status.conditions, taken_by(session), watching)
                if shown != before:
                    yield sse_event(msgspec.json.encode(watching).decode(), event="presence")
                    before = shown
                # No change of the cluster tells that a guest has connected.
                has_guests = is_owner and bool(session.spec.access)
                await subscription.wait(_PRESENCE_SECONDS if has_guests else None)

    async def _watching(self, session: VDISession) -> tuple[str, ...] | None:
        if not session.spec.access or not is_running(session):
            return ()
        url = f"{self.tables.selkies_url(session)}/api/sessions"
        try:
            master = (await self.tables.key.tokens(session)).password
            headers = {"Authorization": f"Bearer {master}"}
            with self.agent.enter(PAGES, session):
                async with open_client(
                    url, seconds=_SECONDS, tls=NO_AUTHORITIES, use_proxy=False
                ) as http:
                    answer = await http.request(
                        "GET", url, headers=headers, max_bytes=SMALL_ANSWER_BYTES, seconds=_SECONDS
                    )
            connections = answer.json(_Connections).sessions
        except (BusyError, DesktopKeyError, *HTTP_ERRORS):
            return None
        return tuple(describe_guests(await self.tables.holding(session), connections))


def describe_guests(grants: Sequence[Grant], connections: Sequence[Connection]) -> Iterator[str]:
    """Guests who are connected now. Selkies lists the roles of connections and no names, so names
    are those of grants.

    With fewer connections than guests of a role it is not known which of them are connected.
    """
    for kind, access in (("viewer", "view only"), ("controller", "full control")):
        guests = set()
        for grant in grants:
            controls = grant.role in FULL_CONTROL
            if grant.role is not Role.OWNER and controls == (kind == "controller"):
                guests.add(grant.user)
        users = sorted(guests)
        count = sum(connection.role == kind and connection.slot != 1 for connection in connections)
        if 0 < count < len(users):
            yield f"{count} of {', '.join(users)} ({access})"
        elif count:
            yield from (f"{user} ({access})" for user in users)
