"""The pieces of pages that change by themselves: made for one person, from what that person may see now.

A view gives its pieces by the name of the event that brings them to the browser; None: there is nothing (any more)
that this person may see. The page and its stream are made by the same functions.
"""

import re
from collections.abc import Callable
from hashlib import sha256

from vdi.gateway.portal.desktop_view import DesktopView
from vdi.gateway.portal.pages import view_of
from vdi.gateway.portal.services import PortalServices
from vdi.gateway.rights import knows_of, role_in
from vdi.gateway.users import User, same_user
from vdi.gateway.web.render import macro

Pieces = dict[str, str]
"""Each is Markup, made by a macro: all that was put into it is escaped already."""
View = Callable[[], Pieces | None]
ITEM = "item-"
"""What names of pieces begin with that are members of a list."""
LIST = "list"
"""The event that replaces a whole list, with all of its members."""
_TIME_WORDS = re.compile(r"(<time [^>]*>)[^<]*")
EMPTY = {
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
    title, text = EMPTY[here]
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
    return _TIME_WORDS.sub(r"\1", piece)


def _members(pieces: Pieces) -> list[str]:
    return [name for name in pieces if name.startswith(ITEM)]
