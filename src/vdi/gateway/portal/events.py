"""`GET /events`: one stream per open page, with the pieces of that page that have changed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from vdi.gateway.portal import fragments
from vdi.gateway.portal.admin.sessions import admin_pieces, overview_pieces
from vdi.gateway.portal.fragments import Pieces, View, digest, news
from vdi.gateway.portal.pages import PortalPages
from vdi.gateway.portal.subscriptions import EVERYTHING, Subscription, Subscriptions, session_topic, user_topic
from vdi.gateway.users import User
from vdi.gateway.web.streams import sse_event, sse_response

LOOK_AGAIN = 15.0
"""Seconds until what is shown is looked at without a change: a share may have run out."""
ASK_LOGIN = 60.0
"""Seconds between two questions to the database whether the login still holds for the same rights; each page that is
opened asks anyway.
"""
QUIET = 0.25
"""Seconds between two messages to one browser; what changes several times in between is sent once."""
QUIET_ALL = 1.0
"""The same for pages on which everybody's sessions are."""
BYE = sse_event("", event="bye")
"""The page closes its stream and does not come back: it would only be ended again."""


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
                view = partial(fragments.list_of, here, self._portal, user)
            case "desktop" if query.get("name"):
                view = partial(fragments.page_of, self._portal, user, query["name"])
                gone = fragments.ended_pieces(query["name"])
                topics.add(session_topic(query["name"]))
            case "admin" if user.admin:
                view = partial(admin_pieces, self._portal, user, dict(query))
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
