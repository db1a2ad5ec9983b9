"""`vdi login`: get a token from a gateway, with which the session commands work without access to the cluster."""

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from vdi.cli.browser import has_screen, opens_browser
from vdi.cli.errors import USAGE, CliError
from vdi.cli.options import PROGRAM, KubeConnection, examples
from vdi.cli.output import Output, OutputOption, print_data
from vdi.cli.remote.authorization import AuthorizationRequest, exchange_code, listen_on_loopback, revoke_token
from vdi.cli.remote.client import GatewayClient, tls
from vdi.cli.remote.logins import Login, Logins, read_logins, write_logins
from vdi.cli.session.gateway_backend import GatewayTarget
from vdi.cli.session.target import choose_target, server_url
from vdi.printable import escape

app = typer.Typer()

_BROWSER_SECONDS = 300.0


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
        typer.Argument(envvar="VDI_SERVER", help="Address of the portal; default: the one of the last login."),
    ] = None,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address, and ask for the code that it shows.")
    ] = False,
    ca_file: Annotated[
        Path | None,
        typer.Option(help="Certificate of your own authority (PEM), trusted for this gateway only."),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Log in to a gateway through the browser.

    The token is stored in ~/.config/vdi/login.json, readable only by you, and expires after 30 days or with
    `logout`. From then on the session commands use the gateway, unless an option, KUBECONFIG or a pod's own account
    names a cluster.
    """
    logins = read_logins()
    address = server_url(server or logins.current) if server or logins.current else ""
    if not address:
        raise CliError("no gateway is known; give its address, such as https://portal.vdi.example.com", USAGE)
    before = logins.gateways.get(address)
    ca = _read_authority(ca_file) if ca_file else (before.ca if before else "")
    made = _by_code(address, ca) if no_browser or not has_screen() else asyncio.run(_by_browser(address, ca))
    write_logins(Logins(address, {**read_logins().gateways, address: made}))
    if before:
        _end(address, before)
    if output is Output.TABLE:
        until = f" until {made.expires}" if made.expires else ""
        typer.echo(f"logged in to {address} as {escape(made.user)}{escape(until)}")
    else:
        print_data({"server": address, "user": made.user, "expires": made.expires or None}, output)
    _say_if_unused(address)


def _end(address: str, before: Login) -> None:
    """Revoke the token of the login before; one that cannot be revoked ends by itself."""
    with suppress(CliError):
        asyncio.run(revoke_token(address, before))


def _read_authority(path: Path) -> str:
    try:
        text = path.expanduser().read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not a PEM file"
        raise CliError(f"--ca-file {path}: {why}", USAGE) from error
    tls(text)
    return text


def _by_code(server: str, ca: str) -> Login:
    """Asks outside of an event loop, which would wait for the terminal after Ctrl-C."""

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
            typer.echo(f"Confirm in the browser; if it shows nothing, open\n  {request.url}", err=True)
            return await exchange_code(client, request, await waiting.code(request, _BROWSER_SECONDS), ca)


def _ask_for_code(address: str) -> str:
    typer.echo(f"Open this address in a browser, confirm, and enter the code that it shows:\n  {address}", err=True)
    code = typer.prompt("Code", err=True) if sys.stdin.isatty() else sys.stdin.readline()
    if not code.strip():
        raise CliError("no code was entered, so you are not logged in")
    return str(code).strip()


def _say_if_unused(address: str) -> None:
    """Whoever logs in and then sees the cluster's sessions would wonder."""
    target = choose_target(KubeConnection(), None, os.environ)
    if not (isinstance(target, GatewayTarget) and target.server == address):
        typer.echo(
            f"Session commands still use another target, because {target.why}: use --server {address}, or set "
            f"VDI_SERVER. See {PROGRAM} whoami",
            err=True,
        )
