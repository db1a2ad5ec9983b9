"""Which paths of a desktop each role may request. Pure.

A desktop refuses by itself what a viewer may not change, but not all that concerns the other people in it: Selkies lets
every collaborator disconnect the owner, record the screen and take screenshots. So the edge decides first, by the HTTP
API of Selkies 2.1 (`stream_server.py`, `websockets_mode.py`, `webrtc_mode.py`): no role may request what is not listed,
such as an API that a later version adds.
"""

import re
from typing import NamedTuple
from urllib.parse import unquote

from vdi.api.session import FULL_CONTROL, Role
from vdi.gateway.rights import ACTIONS, Action

_ALL = frozenset(role for role in Role if Action.OPEN in ACTIONS[role])
_OWNER = frozenset({Role.OWNER})
_NO_ONE: frozenset[Role] = frozenset()


class Rule(NamedTuple):
    """Who may request a path, and everything below it."""

    path: str
    roles: frozenset[str]


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
"""The first rule whose path fits decides."""
WATCHING = frozenset({"GET", "HEAD"})
"""Methods without full control; a WebSocket handshake is a GET."""
_DECODINGS = 4
"""More layers of percent-encoding than that are not followed, but refused."""
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
