"""A gateway that waits for its database at start, and its page that says so.

No replica is ready then: Traefik answers with its own text, on desktops' hosts with an empty 500.
So a replica that waits becomes ready for its page, but only while the gateway's Service leads to no
replica that has started. Beside one, Traefik would send it half of the users, and a rollout to a
wrong URL would replace the replicas that work.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.types import Receive, Scope, Send

from vdi.http_client import HTTP_ERRORS, is_refused_connection, open_client

# First line of /readyz of a replica that is ready for its page alone.
WAITING = "waiting"
# Responses of the Service in a row without a replica that has started, before the page: one that
# restarts is back then.
_LOOKS = 5
_SECONDS = 2.0
_MAX_BYTES = 65536
_RELOAD_SECONDS = 5
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<meta http-equiv="refresh" content="{seconds}">
<link rel="icon" href="data:,">
<title>Not available right now</title>
</head>
<body>
<h1>Not available right now</h1>
<p>{sentence}</p>
<p>This page loads again by itself.</p>
</body>
</html>
"""


@dataclass(slots=True)
class DatabaseWait:
    """State of the wait, and the ASGI app that answers browsers meanwhile."""

    # When the database did not respond for the first time; None: it has responded, or was not asked
    # yet.
    since: datetime | None = None
    looks: int = 0

    @property
    def shows_page(self) -> bool:
        return self.looks >= _LOOKS

    @property
    def sentence(self) -> str:
        if self.since is None:
            return "The gateway is starting. Try again in a moment."
        since = self.since.astimezone(UTC)
        return (
            f"The gateway's database has not responded since {since:%Y-%m-%d %H:%M:%S} UTC. No one"
            " can log in or open a desktop until it does. Open desktops are not affected."
        )

    async def look(self, url: str) -> None:
        """Ask the gateway's Service, at `url`, whether another replica has started."""
        self.looks = self.looks + 1 if await _is_alone(url) else 0

    def end(self) -> None:
        self.since, self.looks = None, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wants_page = "text/html" in Request(scope).headers.get("accept", "")
        headers = {"Retry-After": str(_RELOAD_SECONDS)}
        if wants_page:
            page = _PAGE.format(seconds=_RELOAD_SECONDS, sentence=escape(self.sentence))
            await HTMLResponse(page, 503, headers)(scope, receive, send)
        else:
            await PlainTextResponse(f"{self.sentence}\n", 503, headers)(scope, receive, send)


async def _is_alone(url: str) -> bool:
    """Whether the Service leads to no replica that has started. False where that is unknown."""
    if not url:
        return False
    try:
        async with open_client(url, seconds=_SECONDS, use_proxy=False) as client:
            response = await client.request(
                "GET", f"{url}/readyz", seconds=_SECONDS, max_bytes=_MAX_BYTES
            )
    except HTTP_ERRORS as error:
        # A Service without a ready pod refuses connections.
        return is_refused_connection(error)
    return response.body.startswith(WAITING.encode())
