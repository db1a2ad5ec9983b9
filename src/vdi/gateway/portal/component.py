"""The portal as a component of the gateway: the routes of all pages, and the event stream that
keeps a page live.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from vdi.gateway.cluster_cache import EVERYTHING, Subscriptions, session_topic, user_topic
from vdi.gateway.component import Component
from vdi.gateway.portal import pages
from vdi.gateway.portal.admin import AdminPages, overview_pieces, sessions_page_pieces
from vdi.gateway.portal.catalogue import CataloguePages
from vdi.gateway.portal.desktops import DesktopPages, HomePages
from vdi.gateway.portal.files import FilePages
from vdi.gateway.portal.help import HelpPages
from vdi.gateway.portal.history import HistoryPages
from vdi.gateway.portal.pages import Pieces, View, digest, news
from vdi.gateway.rights import User
from vdi.gateway.services import Services
from vdi.gateway.web.assets import asset_routes
from vdi.gateway.web.streams import sse_event, sse_response

# Seconds after which a page is rendered again without a change: a share may have expired.
LOOK_AGAIN = 15.0
# Seconds between two looks at the database whether the login still holds for the same rights; each
# page that is opened looks anyway.
ASK_LOGIN = 60.0
# Seconds between two messages to one browser: several changes in between are sent as one.
QUIET = 0.25
# The same for pages that show everybody's sessions.
QUIET_ALL = 1.0
# The page closes its stream and does not open another: that would only be ended again.
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
    """Messages for one page, until `allowed` says no, its object is gone, or a newer page of the
    user displaces it.
    """
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
                if not subscription.displaced:
                    await asyncio.sleep(quiet)
        if pieces is None and gone:
            yield message(gone)
        yield BYE


def message(pieces: Pieces, mark: str = "") -> bytes:
    """The pieces as events, in one write.

    The id of the last one is the mark of what the page shows then: a browser that reconnects sends
    it as `Last-Event-ID`.
    """
    last = next(reversed(pieces), "")
    return b"".join(
        sse_event(text, event=name, id=mark if name == last else "")
        for name, text in pieces.items()
    )


class PageEvents:
    """Live streams of open pages."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def events(self, request: Request) -> Response:
        """The stream of one page. `view` is the page, `seen` the mark of what it shows already.

        A browser that reconnects sends a newer mark. It does so by itself, also for a page that
        nobody looks at, so the stream is no use of the login.
        """
        user, services = await self._services.guard.require_unattended(request), self._services
        query = request.query_params
        quiet, topics = QUIET, {user_topic(user.email)}
        gone: Pieces = {}
        view: View
        match query.get("view"):
            case "desktops" | "shared" as here:
                view = partial(pages.list_of, here, services, user)
            case "desktop" if query.get("name"):
                view = partial(pages.page_of, services, user, query["name"])
                gone = pages.ended_pieces(query["name"])
                topics.add(session_topic(query["name"]))
            case "admin" if user.admin:
                view = partial(sessions_page_pieces, services, user, dict(query))
                quiet, topics = QUIET_ALL, {EVERYTHING}
            case "overview" if user.admin:
                view = partial(overview_pieces, services, user)
                quiet, topics = QUIET_ALL, {EVERYTHING}
            case other:
                return PlainTextResponse(
                    f"view: {other!r} is not one of desktops, shared, desktop (with a name), admin,"
                    " overview",
                    400,
                )

        async def allowed() -> bool:
            return await services.logins.person_by_id(user.login_id) == user

        stream = stream_pieces(
            services.subscriptions,
            user,
            topics,
            view,
            allowed,
            seen=request.headers.get("last-event-id") or query.get("seen", ""),
            quiet=quiet,
            gone=gone,
        )
        return sse_response(services.context, stream)


class Portal(Component):
    """Pages, static files and live streams on the portal's host."""

    def __init__(self, services: Services) -> None:
        self.services = services

    def portal_routes(self) -> Sequence[BaseRoute]:
        """All pages, the live stream, and the static files."""
        groups = (
            FilePages,
            DesktopPages,
            CataloguePages,
            HistoryPages,
            HomePages,
            HelpPages,
            AdminPages,
        )
        return (
            *asset_routes(self.services.context.settings.brand, "/static"),
            Route("/events", PageEvents(self.services).events, methods=["GET"]),
            *(route for group in groups for route in group(self.services).routes()),
        )
