"""The portal as a component of the gateway: the routes of all pages, and the event stream that keeps a page live."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from vdi.gateway.component import Component
from vdi.gateway.portal import pages
from vdi.gateway.portal.admin import AdminPages, overview_pieces, sessions_page_pieces
from vdi.gateway.portal.catalogue import CataloguePages
from vdi.gateway.portal.desktops import DesktopPages
from vdi.gateway.portal.history import HistoryPages
from vdi.gateway.portal.homes import HomePages
from vdi.gateway.portal.pages import Pieces, PortalPages, View, digest, news
from vdi.gateway.rights import User
from vdi.gateway.services import PortalServices
from vdi.gateway.subscriptions import EVERYTHING, Subscription, Subscriptions, session_topic, user_topic
from vdi.gateway.web.assets import asset_routes
from vdi.gateway.web.streams import sse_event, sse_response

# Seconds until what is shown is looked at without a change: a share may have run out.
LOOK_AGAIN = 15.0

# Seconds between two questions to the database whether the login still holds for the same rights; each page that is
# opened asks anyway.
ASK_LOGIN = 60.0
# Seconds between two messages to one browser; what changes several times in between is sent once.
QUIET = 0.25
# The same for pages on which everybody's sessions are.
QUIET_ALL = 1.0
# The page closes its stream and does not come back: it would only be ended again.
BYE = sse_event("", event="bye")


async def stream_pieces(
    subscriptions: Subscriptions,
    user: User,
    topics: set[str],
    view: View,
    allowed: Callable[[], Awaitable[bool]],
    *,
    seen: str,
    gone: Pieces | None = None,
    quiet: float = QUIET,
    look_again: float = LOOK_AGAIN,
    ask_login: float = ASK_LOGIN,
) -> AsyncIterator[bytes]:
    """Messages for one browser, until `allowed` says no, what it shows is gone, or it has to make room."""
    loop = asyncio.get_running_loop()
    with subscriptions.subscribe(user.email, topics) as subscription:
        pieces = view()
        if pieces is not None and digest(pieces) != seen:
            yield message(news({}, pieces), digest(pieces))
        checked = loop.time()
        while pieces is not None:
            await subscription.wait(look_again)
            if subscription.displaced:
                break
            if loop.time() - checked >= ask_login:
                if not await allowed():
                    break
                checked = loop.time()
            before, pieces = pieces, view()
            if pieces is not None and (changed := news(before, pieces)):
                yield message(changed, digest(pieces))
                await _rest(subscription, quiet)
        if pieces is None and gone:
            yield message(gone)
        yield BYE


async def _rest(subscription: Subscription, seconds: float) -> None:
    if not subscription.displaced:
        await asyncio.sleep(seconds)


def message(pieces: Pieces, mark: str = "") -> bytes:
    """The pieces as events, in one write. The last one has the mark of what the page shows then, as its id: a browser
    that reconnects sends it as `Last-Event-ID`.
    """
    last = next(reversed(pieces), "")
    return b"".join(sse_event(text, event=name, id=mark if name == last else "") for name, text in pieces.items())


class PageEvents(PortalPages):
    """`GET /events`."""

    async def events(self, request: Request) -> Response:
        """The stream of one page. `view` is the page, `seen` the mark of what it shows already, unless the browser
        reconnects and sends a newer one. Browsers do so by themselves, on pages that no one looks at, too.
        """
        user = await self._portal.guard.require_unattended(request)
        query = request.query_params
        quiet, topics = QUIET, {user_topic(user.email)}
        gone: Pieces = {}
        view: View
        match query.get("view"):
            case "desktops" | "shared" as here:
                view = partial(pages.list_of, here, self._portal, user)
            case "desktop" if query.get("name"):
                view = partial(pages.page_of, self._portal, user, query["name"])
                gone = pages.ended_pieces(query["name"])
                topics.add(session_topic(query["name"]))
            case "admin" if user.admin:
                view = partial(sessions_page_pieces, self._portal, user, dict(query))
                quiet, topics = QUIET_ALL, {EVERYTHING}
            case "overview" if user.admin:
                view = partial(overview_pieces, self._portal, user)
                quiet, topics = QUIET_ALL, {EVERYTHING}
            case other:
                return PlainTextResponse(
                    f"view: {other!r} is not one of desktops, shared, desktop (with a name), admin, overview", 400
                )

        async def allowed() -> bool:
            return await self._portal.logins.person_by_id(user.login_id) == user

        stream = stream_pieces(
            self._portal.subscriptions,
            user,
            topics,
            view,
            allowed,
            seen=request.headers.get("last-event-id") or query.get("seen", ""),
            quiet=quiet,
            gone=gone,
        )
        return sse_response(self._portal.context, stream)


class Portal(Component):
    """What people see in the browser."""

    def __init__(self, services: PortalServices) -> None:
        self.services = services

    def portal_routes(self) -> Sequence[BaseRoute]:
        """All pages, the live stream, and the files they need."""
        return (
            *asset_routes(self.services.context.settings.brand, "/static"),
            Route("/events", PageEvents(self.services).events, methods=["GET"]),
            *DesktopPages(self.services).routes(),
            *CataloguePages(self.services).routes(),
            *HistoryPages(self.services).routes(),
            *HomePages(self.services).routes(),
            *AdminPages(self.services).routes(),
        )
