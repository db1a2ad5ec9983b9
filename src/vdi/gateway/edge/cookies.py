"""The cookies of a desktop's host. `__Host-`: this host alone, HTTPS, every path; no other desktop can plant one."""

from starlette.responses import Response

from vdi.gateway.edge.headers import DESKTOP_COOKIE, GRANT_COOKIE, LAST_COOKIE, RELOAD_COOKIE, STATE_COOKIE

STATE_SECONDS = 300
RELOAD_SECONDS = 60
LAST_SECONDS = 400 * 24 * 3600
"""The longest that browsers keep a cookie."""


def desktop_cookie(token: str, seconds: int) -> tuple[bytes, bytes]:
    """The Set-Cookie header with a token."""
    return b"set-cookie", _line(DESKTOP_COOKIE, token, seconds).encode()


def grant_cookie(handle: str, seconds: int) -> tuple[bytes, bytes]:
    """The Set-Cookie header with a grant's handle."""
    return b"set-cookie", _line(GRANT_COOKIE, handle, seconds).encode()


def state_cookie(state: str) -> tuple[bytes, bytes]:
    """The Set-Cookie header with what ties a ticket to this browser."""
    return b"set-cookie", _line(STATE_COOKIE, state, STATE_SECONDS).encode()


def reload_cookie(there: bool) -> tuple[bytes, bytes]:
    """The Set-Cookie header that remembers, or forgets, that a page has loaded itself again."""
    return b"set-cookie", _line(RELOAD_COOKIE, "1" if there else "", RELOAD_SECONDS if there else 0).encode()


def last_cookie(session: str) -> tuple[bytes, bytes]:
    """The Set-Cookie header that remembers which session was entered here."""
    return b"set-cookie", _line(LAST_COOKIE, session, LAST_SECONDS).encode()


def forget_cookies(response: Response) -> None:
    """Make the browser forget what lets it in."""
    for name in (DESKTOP_COOKIE, GRANT_COOKIE, STATE_COOKIE):
        add_header(response, (b"set-cookie", _line(name, "", 0).encode()))


def add_header(response: Response, header: tuple[bytes, bytes]) -> None:
    """One more header, beside others of its name."""
    response.raw_headers.append(header)


def _line(name: str, value: str, seconds: int) -> str:
    return f"{name}={value}; Path=/; Max-Age={seconds}; Secure; HttpOnly; SameSite=Lax"
