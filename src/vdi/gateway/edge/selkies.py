"""What Selkies, the program in the desktop, gets to know: who may connect, and as what (its secure mode).

Each desktop has a master token (`desktop_key.py`), which the gateway alone uses. A grant's own token is derived from
it, so there is nothing to store: the edge puts it into each request on its way to the desktop, in place of whatever
came from the browser. So no one can pass for someone else, or for more than the grant says. Over WebRTC alone a browser
gets to know its own one (`edge/transport.py`).
"""

import re
from collections.abc import Iterable
from typing import Any

from vdi.api.session import FULL_CONTROL, Role
from vdi.gateway.store.grants import Grant
from vdi.session.selkies_tokens import grant_token

PAGE_FRAGMENT = "#token=edge"
"""Selkies' page offers a subprotocol for its token only when it finds one in its address's fragment; over WebSocket it
does not matter which, since the edge puts the right one there."""
PAGE_MARK = "1"
"""Servers do not see fragments: this value of our parameter tells that there is one."""
_PARAMETER = re.compile(r"v=(1|[0-9a-f]{12})")
SLOTS = 4
"""Gamepads of one desktop (GAMEPAD_SLOTS of Selkies' `sessions.py`)."""


def marked(uri: str, mark: str = PAGE_MARK) -> str:
    """The address of Selkies' page with our parameter."""
    return f"{uri}{'&' if '?' in uri else '?'}v={mark}"


def opened(page: str, *, takes_tokens: bool = True) -> str:
    """Where a browser has Selkies' page at once, over WebSocket: another page of the desktop is itself.

    An image that takes no tokens gets the mark alone, by which the edge knows that the waiting page was there.
    """
    if page.partition("?")[0] != "/":
        return page
    return f"{marked(page)}{PAGE_FRAGMENT if takes_tokens else ''}"


def mark_of(uri: str) -> str:
    """The value of our parameter in it; empty: it has none."""
    for part in uri.partition("?")[2].split("&"):
        if found := _PARAMETER.fullmatch(part):
            return found[1]
    return ""


def page_of(uri: str) -> str:
    """The address without our parameter: where a person wants to be, when the fragment may get lost on the way."""
    if not mark_of(uri):
        return uri
    path, _, query = uri.partition("?")
    kept = "&".join(part for part in query.split("&") if not _PARAMETER.fullmatch(part))
    return f"{path}?{kept}" if kept else path


def token_table(master: str, grants: Iterable[Grant]) -> dict[str, dict[str, Any]]:
    """The body of POST /api/tokens: everybody who may be connected. Who is not in it is cut off."""
    known = list(grants)
    slots = gamepads(known)
    return {
        grant_token(master, grant.id): {
            "role": "controller" if grant.role in FULL_CONTROL else "viewer",
            "slot": slots.get(grant.user),
        }
        for grant in known
    }


def gamepads(grants: Iterable[Grant]) -> dict[str, int]:
    """The player's slot of each user who controls: of Selkies' four gamepads, the one that their own one drives.

    The owner has the first; collaborators have the others, by who came first, and the fourth has none.
    """
    controls = sorted(
        (grant for grant in grants if grant.role in FULL_CONTROL), key=lambda grant: (grant.created, grant.id)
    )
    owners = dict.fromkeys((grant.user for grant in controls if grant.role is Role.OWNER), 1)
    players = dict.fromkeys(grant.user for grant in controls if grant.role is not Role.OWNER)
    return {user: slot for slot, user in enumerate(players, start=2) if slot <= SLOTS} | owners
