"""Selkies, the program in the desktop, as the edge uses it: page addresses, token tables, and paths
by role. Pure.

Each desktop has a master token (`desktop.agent.DesktopKey`), which only the gateway uses. The token
of a grant is derived from it, so nothing is stored. The edge puts it into each request to the
desktop, in place of the browser's own: no one can pass for someone else, or for more than the grant
says. Over WebRTC alone a browser sees its own token (`edge/webrtc.py`).
"""

import hashlib
import hmac
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any
from urllib.parse import unquote

from vdi.api.session import FULL_CONTROL, Role, VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.units import parse_time
from vdi.gateway.edge.headers import quoted
from vdi.gateway.rights import ACTIONS, Action
from vdi.gateway.store.logins import Grant
from vdi.session.credentials import grant_token
from vdi.session.recording import refuse_picture
from vdi.session.status import is_running
from vdi.session.template_image import takes_tokens, uses_webrtc

TRANSPORT_PATH = "/.vdi/transport"
# Selkies' page offers a subprotocol for its token only when it finds a token in the fragment of its
# address. Over WebSocket any token does: the edge replaces it.
PAGE_FRAGMENT = "#token=edge"
# Servers do not see fragments. This value of our parameter `v` says that the address has one.
PAGE_MARK = "1"
_MARK_PARAMETER = re.compile(r"v=(1|[0-9a-f]{12})")
# Over WebRTC the mark of an address counts for one to two of these; a page that reloads later is
# tested again.
WINDOW_SECONDS = 30
# A pool's desktop is Running in a moment, but Traefik reads new routes every 2 s at most (its
# providersThrottleDuration). For so long after its start a desktop is opened through a page that
# asks it first.
NEW_SECONDS = 5
# Gamepads of one desktop (GAMEPAD_SLOTS of Selkies' `sessions.py`).
SLOTS = 4
_ALL = frozenset(role for role in Role if Action.OPEN in ACTIONS[role])
_OWNER = frozenset({Role.OWNER})
_NO_ONE: frozenset[Role] = frozenset()
# Roles that may request a path of Selkies' HTTP API (`stream_server.py`, `websockets_mode.py` and
# `webrtc_mode.py` of Selkies 2.1), and everything below it. The first path that fits decides. A
# desktop itself refuses what a viewer may not change, but it lets every collaborator disconnect the
# owner, record the screen and take screenshots. So the edge decides, and no role may request a path
# of the API that is not listed, such as one that a later version adds.
RULES: tuple[tuple[str, frozenset[str]], ...] = (
    # The list of connections, and disconnecting people.
    ("/api/sessions", _OWNER),
    # Connections and people among other measurements.
    ("/api/metrics", _OWNER),
    # Requests with which Selkies' page shows the picture.
    ("/api/health", _ALL),
    ("/api/status", _ALL),
    ("/api/turn", _ALL),
    ("/api/websockets", _ALL),
    ("/api/webrtc/signaling", _ALL),
    ("/api/ws", _ALL),
    # Files, prints, the apps' catalogue, and the transport of all.
    ("/api/files", FULL_CONTROL),
    ("/api/upload", FULL_CONTROL),
    ("/api/print", FULL_CONTROL),
    ("/api/apps", FULL_CONTROL),
    ("/api/switch", FULL_CONTROL),
    # The rest is not for browsers: the token table, recordings and screenshots, which leave no
    # trace for the others in the desktop and pass `fileTransfer`, and what a later version adds.
    ("/api", _NO_ONE),
    # The page itself.
    ("/", _ALL),
)
# Methods of a role without full control; a WebSocket handshake is a GET.
WATCHING = frozenset({"GET", "HEAD"})
# A path with more layers of percent-encoding is refused.
_DECODINGS = 4
_PARAMETERS = re.compile(r";[^/]*")
_PLAIN = re.compile(r"(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*/?")


def find_first_page(
    session: VDISession, template: VDITemplate | None, *, grant_id: str, uri: str, now: datetime
) -> str:
    """The address that a page load of `uri` is redirected to; empty: the desktop itself
    responds.
    """
    page = page_of(uri)
    status = session.status
    if not is_running(session) or refuse_picture(session):
        return f"/.vdi/wait?next={quoted(page)}"
    if uri.partition("?")[0] != "/":
        return ""
    if streams_webrtc(template):
        if is_fresh(mark_of(uri), grant_id, now):
            return ""
        return f"{TRANSPORT_PATH}?next={quoted(page)}"
    if mark_of(uri) == PAGE_MARK:
        return ""
    if status.ready_time and (now - parse_time(status.ready_time)).total_seconds() < NEW_SECONDS:
        return f"/.vdi/open?next={quoted(page)}"
    if template is None or takes_tokens(template.spec):
        return opened(page)
    return ""


def streams_webrtc(template: VDITemplate | None) -> bool:
    """Whether desktops of this template begin with WebRTC."""
    return template is not None and uses_webrtc(template.spec)


def marked(uri: str, mark: str = PAGE_MARK) -> str:
    """The address of Selkies' page with our parameter."""
    return f"{uri}{'&' if '?' in uri else '?'}v={mark}"


def opened(page: str, *, with_token: bool = True) -> str:
    """The address that opens a page of the desktop at once, over WebSocket; only Selkies' own page,
    `/`, has a mark.

    An image that takes no tokens gets the mark alone: the edge then knows that the waiting page was
    shown.
    """
    if page.partition("?")[0] != "/":
        return page
    return f"{marked(page)}{PAGE_FRAGMENT if with_token else ''}"


def mark_of(uri: str) -> str:
    """The value of our parameter in an address; empty without it."""
    for part in uri.partition("?")[2].split("&"):
        if mark := _MARK_PARAMETER.fullmatch(part):
            return mark[1]
    return ""


def page_of(uri: str) -> str:
    """The address without our parameter: for redirects on which the fragment may get lost."""
    if not mark_of(uri):
        return uri
    path, _, query = uri.partition("?")
    kept = "&".join(part for part in query.split("&") if not _MARK_PARAMETER.fullmatch(part))
    return f"{path}?{kept}" if kept else path


def page_mark(grant_id: str, now: datetime) -> str:
    """The mark of an address with the token of this grant in its fragment, for WINDOW_SECONDS."""
    return _mark(grant_id, int(now.timestamp()) // WINDOW_SECONDS)


def is_fresh(mark: str, grant_id: str, now: datetime) -> bool:
    """Whether an address with this mark was made just now for this grant: the token in its fragment
    is then its own.
    """
    window = int(now.timestamp()) // WINDOW_SECONDS
    return any(
        hmac.compare_digest(mark, _mark(grant_id, recent)) for recent in (window, window - 1)
    )


def _mark(grant_id: str, window: int) -> str:
    return hashlib.sha256(f"vdi-page/{grant_id}/{window}".encode()).hexdigest()[:12]


def token_table(master: str, grants: Iterable[Grant]) -> dict[str, dict[str, Any]]:
    """The body of POST /api/tokens: everyone who may be connected. Selkies disconnects everyone
    else.
    """
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
    """Slot of Selkies' gamepads by user with full control: the owner has the first, collaborators
    by arrival.
    """
    controls = sorted(
        (grant for grant in grants if grant.role in FULL_CONTROL),
        key=lambda grant: (grant.created, grant.id),
    )
    owners = dict.fromkeys((grant.user for grant in controls if grant.role is Role.OWNER), 1)
    players = dict.fromkeys(grant.user for grant in controls if grant.role is not Role.OWNER)
    return {user: slot for slot, user in enumerate(players, start=2) if slot <= SLOTS} | owners


def may_request(role: Role, method: str, path: str) -> bool:
    """Whether this role may send this request to the desktop. `path`: as Traefik cleaned it."""
    if role not in FULL_CONTROL and method not in WATCHING:
        return False
    spellings = _spellings(path)
    return spellings is not None and all(role in _roles(spelling) for spelling in spellings)


def _roles(path: str) -> frozenset[str]:
    return next(roles for prefix, roles in RULES if f"{path}/".startswith(f"{prefix.rstrip('/')}/"))


def _spellings(path: str) -> set[str] | None:
    """All paths that servers may read this one as; None: encoded so often that no honest page has
    written it.
    """
    # Servers differ in how much they decode, fold case and clean up. A path passes only if every
    # reading of it does.
    if _PLAIN.fullmatch(path):
        return {path.rstrip("/").lower() or "/"}
    spellings = set()
    for _ in range(_DECODINGS):
        text = path.lower().replace("\\", "/")
        for spelling in (text, _PARAMETERS.sub("", text)):
            segments = [segment.partition("\0")[0].strip() for segment in spelling.split("/")]
            spellings |= {_joined(segments), _joined(_resolved(segments))}
        decoded = unquote(path)
        if decoded == path:
            return spellings
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
