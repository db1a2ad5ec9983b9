"""Selkies, the program in the desktop, as the edge uses it: page addresses, token tables, and paths by role. Pure.

Each desktop has a master token (`desktop_agent.DesktopKey`), which only the gateway uses. The token of a grant is
derived from it, so nothing is stored. The edge puts it into each request to the desktop, in place of the browser's own:
no one can pass for someone else, or for more than the grant says. Over WebRTC alone a browser sees its own token
(`edge/webrtc.py`).
"""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import unquote

from vdi.api.session import FULL_CONTROL, Role
from vdi.gateway.rights import ACTIONS, Action
from vdi.gateway.store.grants import Grant
from vdi.session.credentials import grant_token

_ALL = frozenset(role for role in Role if Action.OPEN in ACTIONS[role])
_OWNER = frozenset({Role.OWNER})
_NO_ONE: frozenset[Role] = frozenset()


class Rule(NamedTuple):
    """Who may request a path, and everything below it."""

    path: str
    roles: frozenset[str]


# The first rule whose path fits decides.
RULES = (
    # Who is connected, and disconnecting them.
    Rule("/api/sessions", _OWNER),
    # Connections and people among other measurements.
    Rule("/api/metrics", _OWNER),
    # What Selkies' page needs in order to show the picture.
    Rule("/api/health", _ALL),
    Rule("/api/status", _ALL),
    Rule("/api/turn", _ALL),
    Rule("/api/websockets", _ALL),
    Rule("/api/webrtc/signaling", _ALL),
    Rule("/api/ws", _ALL),
    # Files, prints, the apps' catalogue, and the transport of all.
    Rule("/api/files", FULL_CONTROL),
    Rule("/api/upload", FULL_CONTROL),
    Rule("/api/print", FULL_CONTROL),
    Rule("/api/apps", FULL_CONTROL),
    Rule("/api/switch", FULL_CONTROL),
    # The rest is not for browsers: the token table, recordings and screenshots, which leave no trace for the others in
    # the desktop and pass `fileTransfer`, and what a later version adds.
    Rule("/api", _NO_ONE),
    # The page itself.
    Rule("/", _ALL),
)

# Methods without full control; a WebSocket handshake is a GET.
WATCHING = frozenset({"GET", "HEAD"})
# More layers of percent-encoding than that are not followed, but refused.
_DECODINGS = 4
_PARAMETERS = re.compile(r";[^/]*")
_PLAIN = re.compile(r"(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*/?")


def may_request(role: Role, method: str, path: str) -> bool:
    """Whether somebody with this role may send this request to the desktop. `path`: as Traefik cleaned it."""
    if role not in FULL_CONTROL and method not in WATCHING:
        return False
    spellings = _spellings(path)
    return spellings is not None and all(role in _roles(spelling) for spelling in spellings)


def _roles(path: str) -> frozenset[str]:
    return next(roles for prefix, roles in RULES if f"{path}/".startswith(f"{prefix.rstrip('/')}/"))


def _spellings(path: str) -> set[str] | None:
    """What servers may understand by this path: they decode, fold case and clean up more or less of it.

    None: it is encoded so often that no honest page has written it.
    """
    if _PLAIN.fullmatch(path):
        return {path.rstrip("/").lower() or "/"}
    found = set()
    for _ in range(_DECODINGS):
        text = path.lower().replace("\\", "/")
        for spelling in (text, _PARAMETERS.sub("", text)):
            segments = [segment.partition("\0")[0].strip() for segment in spelling.split("/")]
            found |= {_joined(segments), _joined(_resolved(segments))}
        decoded = unquote(path)
        if decoded == path:
            return found
        path = decoded
    return None


def _joined(segments: list[str]) -> str:
    return "/" + "/".join(segment for segment in segments if segment not in ("", "."))


def _resolved(segments: list[str]) -> list[str]:
    kept: list[str] = []
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment not in ("", "."):
            kept.append(segment)
    return kept


# Selkies' page offers a subprotocol for its token only when it finds one in its address's fragment; over WebSocket it
# does not matter which, since the edge puts the right one there.
PAGE_FRAGMENT = "#token=edge"
# Servers do not see fragments: this value of our parameter tells that there is one.
PAGE_MARK = "1"
_PARAMETER = re.compile(r"v=(1|[0-9a-f]{12})")
# Gamepads of one desktop (GAMEPAD_SLOTS of Selkies' `sessions.py`).
SLOTS = 4


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
