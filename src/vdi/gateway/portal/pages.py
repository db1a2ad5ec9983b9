"""Common base of the portal's pages: rendering, messages after an action, paging of lists, and live fragments.

A fragment is a piece of a page that an event stream replaces, by the name of its event. The page and its stream call
the same functions, so both show the same, and only what this user may see.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Generic, TypeVar

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.gateway.portal.desktop_view import DesktopView, desktop_view
from vdi.gateway.rights import User, knows_of, role_in
from vdi.gateway.services import PortalServices
from vdi.gateway.web.render import Renderer, macro
from vdi.session.users import same_user

T = TypeVar("T")

# What is said on the page after an action; the name in it is escaped like all else.
DONE = {
    "start": "{name} is being started.",
    "extend": "The time limit of {name} was changed.",
    "suspend": "{name} is being suspended. Its address is kept.",
    "resume": "{name} is being resumed.",
    "restart": "{name} is being restarted.",
    "end": "{name} is being ended. Its files are kept.",
    "end-with-files": "{name} is being ended. Its files are deleted.",
    "delete-home": "The home {name} is being deleted.",
    "schedule": "The schedule of {name} is set.",
    "unschedule": "The schedule of {name} was removed.",
    "share": "{name} is shared. Send your guest its address.",
    "unshare": "Access to {name} was revoked.",
    "unshare-collaborator": (
        "Access to {name} was revoked. Programs that your guest started in it are still running. Restart the "
        "desktop to end them."
    ),
}


@dataclass(frozen=True, slots=True)
class Choice:
    """One entry of a list to choose from."""

    value: str
    words: str


@dataclass(frozen=True, slots=True)
class Pages(Generic[T]):
    """One page of a long list."""

    items: Sequence[T]
    number: int
    last: int
    total: int
    size: int

    @property
    def first_shown(self) -> int:
        """Number of the first item that is shown, from 1."""

        return (self.number - 1) * self.size + 1 if self.total else 0

    @property
    def last_shown(self) -> int:
        """Number of the last item that is shown."""
        return min(self.number * self.size, self.total)


def paged(items: Sequence[T], number: int, size: int) -> Pages[T]:
    """The page of this number, or the nearest there is."""
    last = max(1, -(-len(items) // size))
    number = min(max(number, 1), last)
    return Pages(items[(number - 1) * size : number * size], number, last, len(items), size)


def page_number(request: Request) -> int:
    """`?page=` of the address; 1 where it is no number."""
    text = request.query_params.get("page", "")
    return int(text) if text.isdecimal() and len(text) < 9 else 1


def said(request: Request) -> str:
    """What the address says has just been done; empty for nothing, and for a code that we do not know."""
    sentence = DONE.get(request.query_params.get("done", ""))
    name = request.query_params.get("name", "")
    return sentence.format(name=name) if sentence and 0 < len(name) <= 253 else ""


def done(where: str, action: str, name: str) -> Response:
    """On to a page that says what has been done (303: a reload sends nothing again)."""
    return RedirectResponse(f"{where}?done={action}&name={name}", 303)


def view_of(portal: PortalServices, session: VDISession, user: User) -> DesktopView:
    """One desktop as this person may see it."""
    template: VDITemplate | None = portal.context.cluster.template(session.spec.template)
    origins = portal.context.settings.icon_origins
    cluster = portal.context.settings.cluster
    return desktop_view(session, template, user, portal.context.clock(), cluster, icon_origins=origins)


class PortalPages:
    """What the groups of pages have in common."""

    def __init__(self, portal: PortalServices) -> None:
        self._portal = portal
        self._renderer = Renderer(portal.context.settings)

    async def _page(
        self, request: Request, user: User, template: str, *, status: int = 200, **context: Any
    ) -> Response:
        """A page of the portal for somebody who is logged in."""
        return self._renderer.render(request, template, status=status, user=user, **context)

    async def _posted(self, request: Request) -> tuple[User, dict[str, str]]:
        """Who has sent this form, and its fields; raises HTTPException for one that no page of ours has sent."""
        user = await self._portal.guard.require(request)
        await self._portal.guard.check_csrf(request)
        form = await request.form(max_files=0, max_fields=100)
        return user, {name: value.strip() for name, value in form.items() if isinstance(value, str)}

    def _not_found(self, request: Request, user: User, name: str) -> Response:
        """The answer to a name that no desktop has, or one that this user may not know of: both look the same."""
        return self._renderer.render(
            request,
            "error.html",
            status=404,
            user=user,
            title="Desktop not found",
            sentence=f"You have no desktop {name!r}, and no desktop with this name is shared with you.",
            back="/",
            back_label="My desktops",
        )


# Each is Markup, made by a macro: all that was put into it is escaped already.
Pieces = dict[str, str]
View = Callable[[], Pieces | None]
# What names of pieces begin with that are members of a list.
ITEM = "item-"
# The event that replaces a whole list, with all of its members.
LIST = "list"
_TIME_TEXT = re.compile(r"(<time [^>]*>)[^<]*")
EMPTY_LISTS = {
    "desktops": ("No desktop yet", "Choose one from the catalogue. It opens in this browser when it is ready."),
    "shared": ("Nothing is shared with you", "Desktops that others share with you appear here automatically."),
}


def my_desktops(portal: PortalServices, user: User) -> list[DesktopView]:
    """The person's own desktops: those that need attention, then the others, each newest first."""
    mine = [
        view_of(portal, session, user)
        for session in portal.subscriptions.sessions_with(user)
        if same_user(session.spec.user, user.email)
    ]
    return sorted(mine, key=lambda desktop: not desktop.needs_attention)


def shared_desktops(portal: PortalServices, user: User) -> list[DesktopView]:
    """The desktops that others share with this person now, in the order of `my_desktops`."""
    now = portal.context.clock()
    shared = [
        view_of(portal, session, user)
        for session in portal.subscriptions.sessions_with(user)
        if not same_user(session.spec.user, user.email) and role_in(session, user.email, now) is not None
    ]
    return sorted(shared, key=lambda desktop: not desktop.needs_attention)


def desktop_of(portal: PortalServices, user: User, name: str) -> DesktopView | None:
    """The desktop of this name, if the person may know of it."""
    session = portal.context.cluster.session(name)
    if session is None or not knows_of(session, user, portal.context.clock()):
        return None
    return view_of(portal, session, user)


def list_pieces(desktops: list[DesktopView], here: str) -> Pieces:
    """A list of desktops: each card, and the whole for when members come or go."""
    card, card_list = macro("parts.html", "card"), macro("parts.html", "card_list")
    title, text = EMPTY_LISTS[here]
    cards = {f"{ITEM}{desktop.uid}": card(desktop) for desktop in desktops}
    return cards | {LIST: card_list(cards, title, text, here == "desktops")}


def list_of(here: str, portal: PortalServices, user: User) -> Pieces:
    """The pieces of `My desktops` or `Shared with me`."""
    found = my_desktops if here == "desktops" else shared_desktops
    return list_pieces(found(portal, user), here)


def page_of(portal: PortalServices, user: User, name: str) -> Pieces | None:
    """The live pieces of the page of this desktop, if the person may know of it."""
    desktop = desktop_of(portal, user, name)
    return desktop_pieces(desktop) if desktop else None


def desktop_pieces(desktop: DesktopView) -> Pieces:
    """The live pieces of one desktop's own page."""
    return {
        name: macro("parts.html", made_by)(desktop)
        for name, made_by in (
            ("head", "desktop_head"),
            ("facts", "desktop_facts"),
            ("guests", "guest_list"),
            ("end", "desktop_end"),
        )
    }


def ended_pieces(name: str) -> Pieces:
    """What the page of a desktop shows when it no longer exists."""
    return {"head": macro("parts.html", "desktop_gone")(name), "facts": "", "guests": "", "end": ""}


def digest(pieces: Pieces) -> str:
    """A mark of what a page shows; the stream that belongs to it begins with news only if there are any."""
    return sha256("\0".join(f"{name}\0{_still(pieces[name])}" for name in sorted(pieces)).encode()).hexdigest()[:16]


def news(before: Pieces, now: Pieces) -> Pieces:
    """What has to be sent to bring a page from one state to the other.

    While a list has the same members in the same order, only those that differ go out: whoever reads or has the focus
    in another one is left alone.
    """
    same_members = _members(before) == _members(now) and LIST in before
    left_out = LIST if same_members else ITEM
    return {
        name: text
        for name, text in now.items()
        if not name.startswith(left_out) and (name not in before or _still(before[name]) != _still(text))
    }


def _still(piece: str) -> str:
    """Without the words of times, which the browser keeps up by itself: a minute that passes is no news."""
    return _TIME_TEXT.sub(r"\1", piece)


def _members(pieces: Pieces) -> list[str]:
    return [name for name in pieces if name.startswith(ITEM)]
