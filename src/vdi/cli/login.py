"""`vdi login`, `logout`, `whoami` and `usage`: a user at a gateway, whose token replaces access to
the cluster.

The login is an OAuth authorization code flow with PKCE: the user agrees in the browser, and a code
comes back. With a browser on this machine it comes to a port on the loopback address (RFC 8252,
7.3); otherwise the user types it. A code alone is useless: it needs the verifier, which this
process sends to the gateway only.
"""

import asyncio
import base64
import hashlib
import hmac
import os
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qs, urlencode, urlsplit

import typer

from vdi.cli.browser import has_screen, opens_browser
from vdi.cli.errors import FINDINGS, USAGE, CliError
from vdi.cli.gateway_client import GatewayClient, LoggedOutError, tls
from vdi.cli.logins import Login, Logins, read_logins, write_logins
from vdi.cli.options import PROGRAM, KubeConnection, examples, new_app
from vdi.cli.output import (
    Output,
    OutputOption,
    Raw,
    columns,
    fact_lines,
    print_data,
    print_lines,
    print_object,
)
from vdi.cli.session.backend import Target
from vdi.cli.session.gateway_backend import GatewayTarget
from vdi.cli.session.kube_backend import KubeTarget
from vdi.cli.session.target import choose_target, gateway_of, server_url, with_backend
from vdi.http_client import BadResponseError
from vdi.kube.config import load_config
from vdi.kube.resource import Resource
from vdi.kube.transport import Client
from vdi.printable import escape

T = TypeVar("T")
app = new_app()

_BROWSER_SECONDS = 300.0
# Limits of a request to the loopback address, where any program of this machine may connect.
_LONGEST_REQUEST = 8192
_REQUEST_SECONDS = 10.0
_REVIEWS = Resource(
    "authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", namespaced=False
)
# Amounts that `use` of `GET /me` counts.
_AMOUNTS = {
    "sessions": "desktops",
    "gpus": "GPUs",
    "hoursPerMonth": "hours this month",
    "gpuHoursPerMonth": "GPU hours this month",
    "homeStorage": "GiB of homes",
}
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="light dark">
<title>vdi login</title><p>%s</p></html>
"""


@app.command(
    epilog=examples(
        "login https://portal.vdi.example.com",
        "login https://portal.vdi.localhost:8443 --ca-file ~/.local/state/vdi/demo/pki/web-ca.crt",
        "login https://portal.vdi.example.com --no-browser -o json",
    )
)
def login(
    server: Annotated[
        str | None,
        typer.Argument(
            envvar="VDI_SERVER", help="Address of the portal; default: the one of the last login."
        ),
    ] = None,
    no_browser: Annotated[
        bool,
        typer.Option("--no-browser", help="Print the address, and ask for the code that it shows."),
    ] = False,
    ca_file: Annotated[
        Path | None,
        typer.Option(
            help="Certificate of your own authority (PEM), trusted for this gateway only."
        ),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Log in to a gateway through the browser.

    The token is stored in ~/.config/vdi/login.json, readable only by you, and expires after 30 days
    or with `logout`. From then on the session commands use the gateway, unless an option,
    KUBECONFIG or a pod's own account names a cluster.
    """
    logins = read_logins()
    address = ""
    if server or logins.current:
        address = server_url(server or logins.current)
    if not address:
        raise CliError(
            "no gateway is known; give its address, such as https://portal.vdi.example.com", USAGE
        )
    before = logins.gateways.get(address)
    ca = before.ca if before else ""
    if ca_file:
        ca = _read_authority(ca_file)
    if no_browser or not has_screen():
        made = _by_code(address, ca)
    else:
        made = asyncio.run(_by_browser(address, ca))
    # Read again: another login may have been stored while the browser was open.
    write_logins(Logins(address, {**read_logins().gateways, address: made}))
    if before:
        with suppress(CliError):  # a token that cannot be revoked expires by itself
            asyncio.run(revoke_token(address, before))
    line = f"logged in to {address} as {escape(made.user)}" + (
        f" until {escape(made.expires)}" if made.expires else ""
    )
    print_object(
        {"server": address, "user": made.user, "expires": made.expires or None},
        output,
        lambda: [line],
    )
    _say_if_unused(address)


@app.command(epilog=examples("logout", "logout https://portal.vdi.example.com -o json"))
def logout(
    server: Annotated[
        str | None,
        typer.Argument(help="Address of the portal; default: the one that commands use."),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Log out of a gateway: its token is revoked there and removed here."""
    logins = read_logins()
    address = server_url(server) if server else logins.current
    login = logins.gateways.pop(address, None)
    if login is None:
        known = ", ".join(logins.gateways) or "none"
        raise CliError(
            f"you are not logged in{f' to {address}' if address else ''} (logged in to: {known})"
        )
    if logins.current == address:
        logins.current = next(iter(logins.gateways), "")
    try:
        asyncio.run(revoke_token(address, login))
    except LoggedOutError:
        pass  # it had ended already
    except CliError as error:
        write_logins(logins)
        raise CliError(
            f"the token is removed here, but could not be revoked: {error.message}\nIt"
            f" expires{f' at {login.expires}' if login.expires else ''}; to revoke it earlier:"
            f" {address}/account",
            FINDINGS,
        ) from error
    write_logins(logins)
    line = f"logged out of {address}" + (
        f"; commands now use {logins.current}" if logins.current else ""
    )
    print_object({"server": address, "current": logins.current or None}, output, lambda: [line])


def _read_authority(path: Path) -> str:
    try:
        text = path.expanduser().read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not a PEM file"
        raise CliError(f"--ca-file {path}: {why}", USAGE) from error
    tls(text)
    return text


def _by_code(server: str, ca: str) -> Login:
    # The question stands outside of an event loop, which would wait for the terminal after Ctrl-C.

    async def check() -> None:
        async with GatewayClient(server, ca=ca) as client:
            await client.check()

    async def exchange(code: str) -> Login:
        async with GatewayClient(server, ca=ca) as client:
            return await exchange_code(client, request, code, ca)

    asyncio.run(check())
    request = AuthorizationRequest(server)
    return asyncio.run(exchange(_ask_for_code(request.url)))


async def _by_browser(server: str, ca: str) -> Login:
    async with GatewayClient(server, ca=ca) as client:
        await client.check()
        async with listen_on_loopback() as waiting:
            request = AuthorizationRequest(server, waiting.uri)
            if not opens_browser(request.url, urlsplit(server).hostname or ""):
                typer.echo("The browser did not open automatically.", err=True)
            typer.echo(
                f"Confirm in the browser; if it shows nothing, open\n  {request.url}", err=True
            )
            return await exchange_code(
                client, request, await waiting.code(request, _BROWSER_SECONDS), ca
            )


def _ask_for_code(address: str) -> str:
    typer.echo(
        f"Open this address in a browser, confirm, and enter the code that it shows:\n  {address}",
        err=True,
    )
    if sys.stdin.isatty():
        code = typer.prompt("Code", err=True)
    else:
        code = sys.stdin.readline()
    if not code.strip():
        raise CliError("no code was entered, so you are not logged in")
    return str(code).strip()


def _say_if_unused(address: str) -> None:
    """Tell a user whose commands still go to a cluster, in spite of the login."""
    target = choose_target(KubeConnection(), None, os.environ)
    if not (isinstance(target, GatewayTarget) and target.server == address):
        typer.echo(
            f"Session commands still use another target, because {target.why}: use --server"
            f" {address}, or set VDI_SERVER. See {PROGRAM} whoami",
            err=True,
        )


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """One login in progress."""

    server: str
    # Empty: the portal shows the code, and the user types it.
    redirect_uri: str = ""
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


async def exchange_code(
    client: GatewayClient, request: AuthorizationRequest, code: str, ca: str
) -> Login:
    """Exchange the code for a token. Raises CliError with the gateway's reason."""
    given = {"code": code, "code_verifier": request.verifier, "redirect_uri": request.redirect_uri}
    response = await client.post_form("/cli/token", given)
    try:
        answer = response.json(dict[str, Any])
        if response.status == 200:
            return Login(answer["user"], answer["token"], answer.get("expires", ""), ca)
        why = str(answer["error_description"])
    except (BadResponseError, KeyError) as error:
        message = (
            f"{request.server} responds with {response.status} to the code, which a gateway of VDI"
            " does not do"
        )
        raise CliError(message) from error
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
                f"the request was not confirmed in the browser within {seconds:.0f} s; try again,"
                " or use --no-browser"
            )
            raise CliError(said) from error
        # Any page in the browser can send a code to this port. Without the state of this request, a
        # stranger's code would log the user in to the stranger's account.
        if not hmac.compare_digest(answer.get("state", ""), request.state):
            raise CliError("the response from the browser belongs to another login; try again")
        if not answer.get("code"):
            raise CliError(
                f"the gateway sent no code back: {answer.get('error', 'no reason was given')}"
            )
        return answer["code"]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request of a browser: the code, or something else (an icon, a scanner)."""
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                line = await reader.readline()
                while (await reader.readline()).strip():
                    pass
            request_line = line.decode("latin-1").split(" ")
            url = urlsplit(
                request_line[1] if len(request_line) == 3 and request_line[0] == "GET" else ""
            )
            found = {name: values[0] for name, values in parse_qs(url.query).items()}
            ours = url.path == "/callback" and "state" in found
            if ours:
                page = "Logged in. Return to the terminal. You can close this page."
            else:
                page = "Not found."
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
        f"HTTP/1.1 {status} {'OK' if status == 200 else 'Not Found'}\r\nContent-Type: text/html;"
        f" charset=utf-8\r\nContent-Length: {len(body)}\r\nContent-Security-Policy: default-src"
        " 'none'\r\nReferrer-Policy: no-referrer\r\nCache-Control: no-store\r\nConnection:"
        " close\r\n\r\n"
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


class By(StrEnum):
    USER = "user"
    TEMPLATE = "template"


class UsageOutput(StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    CSV = "csv"


@app.command(epilog=examples("whoami", "whoami -o json"))
@with_backend
def whoami(
    target: Target,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show who you are, which target the session commands use, and why."""
    if isinstance(target, GatewayTarget):
        known = _at_gateway(target)
    else:
        known = _at_cluster(target)
    facts = {
        "User": known["user"],
        "Groups": ", ".join(known["groups"]),
        "Way": f"{known['way']}, because {known['why']}",
        "Server": known["server"],
        "Namespace": known["namespace"],
        "Until": known.get("expires", ""),
        "Use": describe_use(known.get("use", {})),
    }
    print_object(known, output, lambda: fact_lines(facts))


def describe_use(use: Mapping[str, Any]) -> str:
    """Limited amounts, such as `1 of 3 desktops, 12.5 of 100 GPU hours this month`."""
    known = [(use[field], what) for field, what in _AMOUNTS.items() if field in use]
    return ", ".join(
        f"{amount['used']:g} of {amount['limit']:g} {what}"
        for amount, what in known
        if amount["limit"] is not None
    )


def _at_gateway(target: GatewayTarget) -> dict[str, Any]:
    me: dict[str, Any] = target.run(lambda backend: backend.client.get("/me"))
    return {
        **{field: me[field] for field in ("user", "groups", "admin")},
        "way": "through the gateway",
        "why": target.why,
        "server": target.server,
        "namespace": me["namespace"],
        "expires": target.login.expires,
        "use": me["use"],
    }


def _at_cluster(target: Target) -> dict[str, Any]:
    assert isinstance(target, KubeTarget)  # noqa: S101 -- there are two kinds
    connection: KubeConnection = target.connection

    async def ask(client: Client) -> dict[str, Any]:
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        answer = await client.create(_REVIEWS, review, into=dict[str, Any])
        info: dict[str, Any] = answer["status"]["userInfo"]
        return info

    who = connection.run(ask)
    return {
        "user": who.get("username", ""),
        "groups": who.get("groups", []),
        "way": "to the cluster",
        "why": target.why,
        "server": load_config(connection.kubeconfig, connection.context).server,
        "namespace": connection.namespace,
    }


@app.command(
    epilog=examples(
        "usage", "usage --everyone --month 2026-11", "usage --everyone --by template -o csv"
    )
)
@with_backend
def usage(
    target: Target,
    *,
    month: Annotated[
        str | None,
        typer.Option("--month", help="Calendar month (UTC), such as 2026-11; default: this month."),
    ] = None,
    by: Annotated[By, typer.Option("--by", help="Rows of the table.")] = By.USER,
    everyone: Annotated[
        bool, typer.Option("--everyone", help="Usage of all users; for administrators.")
    ] = False,
    output: Annotated[
        UsageOutput, typer.Option("--output", "-o", help="What to print.")
    ] = UsageOutput.TABLE,
) -> None:
    """Show how many hours your desktops ran in a month."""
    area, query = "/admin" if everyone else "", {"month": month} if month else {}
    gateway = gateway_of(target, "usage is kept by the gateway")
    if output is UsageOutput.CSV:
        query |= {"what": "usage", "format": "csv", "by": by}
        typer.echo(
            gateway.run(lambda backend: backend.client.text(f"{area}/export", **query)), nl=False
        )
        return
    report = gateway.run(lambda backend: backend.client.get(f"{area}/usage", **query))
    if output is not UsageOutput.TABLE:
        print_data(report, Output(output.value))
        return
    rows = report[f"{by}s"]
    if not rows:
        typer.echo(f"no usage in {report['month']}", err=True)
        return
    print_lines(usage_table(rows, by))


def usage_table(rows: Sequence[Raw], by: By) -> list[str]:
    """The lines of users or templates."""
    hours = ("hours", "gpuHours", "agentHours")
    cells = [
        [
            row["name"],
            *(f"{row[name]:.1f}" for name in hours),
            str(row["sessions"]),
            str(row["runs"]),
        ]
        for row in rows
    ]
    return columns([by.upper(), "HOURS", "GPU HOURS", "AGENT HOURS", "DESKTOPS", "RUNS"], cells)
