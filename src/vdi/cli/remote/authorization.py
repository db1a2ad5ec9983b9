"""The OAuth authorization code flow of `vdi login`, with PKCE: the user agrees in the browser, and a code comes back.

With a browser on this machine the code comes to a port on the loopback address (RFC 8252, 7.3); otherwise the user
types it. A code alone is useless: it needs the verifier, which this process sends to the gateway only.
"""

import asyncio
import base64
import hashlib
import hmac
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from vdi.cli.errors import CliError
from vdi.cli.remote.client import GatewayClient
from vdi.cli.remote.logins import Login
from vdi.http_client import BadResponseError

_LONGEST_REQUEST = 8192
_REQUEST_SECONDS = 10.0
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="light dark">
<title>vdi login</title><p>%s</p></html>
"""


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """One login in progress."""

    server: str
    redirect_uri: str = ""
    """Empty: the portal shows the code, and the user types it."""
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48), repr=False)
    state: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)

    @property
    def url(self) -> str:
        """The page where the user agrees."""
        digest = hashlib.sha256(self.verifier.encode()).digest()
        query = {
            "state": self.state,
            "code_challenge": base64.urlsafe_b64encode(digest).decode().rstrip("="),
            "code_challenge_method": "S256",
            "client": f"vdi on {socket.gethostname()}"[:60],
        } | ({"redirect_uri": self.redirect_uri} if self.redirect_uri else {})
        return f"{self.server}/cli/authorize?{urlencode(query)}"


async def exchange_code(client: GatewayClient, request: AuthorizationRequest, code: str, ca: str) -> Login:
    """Exchange the code for a token. Raises CliError with the gateway's reason."""
    given = {"code": code, "code_verifier": request.verifier, "redirect_uri": request.redirect_uri}
    response = await client.post_form("/cli/token", given)
    try:
        answer = response.json(dict[str, Any])
        if response.status == 200:
            return Login(answer["user"], answer["token"], answer.get("expires", ""), ca)
        why = str(answer["error_description"])
    except (BadResponseError, KeyError) as error:
        words = f"{request.server} responds with {response.status} to the code, which a gateway of VDI does not do"
        raise CliError(words) from error
    raise CliError(f"{request.server} issues no token for this code: {why}")


async def revoke_token(server: str, login: Login) -> None:
    """Revoke a login's token. Raises CliError; LoggedOutError for one that has expired."""
    async with GatewayClient(server, token=login.token, ca=login.ca) as client:
        await client.send("DELETE", "/tokens/current")


class LoopbackReceiver:
    """Receives the code from the browser on the loopback address."""

    def __init__(self) -> None:
        self.uri = ""
        self._answer: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()

    async def code(self, request: AuthorizationRequest, seconds: float) -> str:
        """Wait for the code. Raises CliError when none comes, or the code of another login."""
        try:
            async with asyncio.timeout(seconds):
                answer = await self._answer
        except TimeoutError as error:
            said = (
                f"the request was not confirmed in the browser within {seconds:.0f} s; try again, or use --no-browser"
            )
            raise CliError(said) from error
        if not hmac.compare_digest(answer.get("state", ""), request.state):
            raise CliError("the response from the browser belongs to another login; try again")
        if not answer.get("code"):
            raise CliError(f"the gateway sent no code back: {answer.get('error', 'no reason was given')}")
        return answer["code"]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request of a browser: the code, or something else (an icon, a scanner)."""
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                line = await reader.readline()
                while (await reader.readline()).strip():
                    pass
            words = line.decode("latin-1").split(" ")
            url = urlsplit(words[1] if len(words) == 3 and words[0] == "GET" else "")
            found = {name: values[0] for name, values in parse_qs(url.query).items()}
            ours = url.path == "/callback" and "state" in found
            page = "Logged in. Return to the terminal. You can close this page." if ours else "Not found."
            writer.write(_response(200 if ours else 404, page))
            await writer.drain()
            if ours and not self._answer.done():
                self._answer.set_result(found)
        except (TimeoutError, OSError, ValueError):
            return  # the browser may still come
        finally:
            writer.close()


def _response(status: int, text: str) -> bytes:
    body = (_PAGE % text).encode()
    head = (
        f"HTTP/1.1 {status} {'OK' if status == 200 else 'Not Found'}\r\nContent-Type: text/html; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nContent-Security-Policy: default-src 'none'\r\n"
        "Referrer-Policy: no-referrer\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


@asynccontextmanager
async def listen_on_loopback() -> AsyncIterator[LoopbackReceiver]:
    """Listen on a free port of the loopback address until the context ends."""
    waiting = LoopbackReceiver()
    server = await asyncio.start_server(waiting.serve, "127.0.0.1", 0, limit=_LONGEST_REQUEST)
    waiting.uri = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/callback"
    try:
        yield waiting
    finally:
        server.close()
