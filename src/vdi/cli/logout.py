"""`vdi logout`: revoke the token of a gateway, and forget it."""

import asyncio
from typing import Annotated

import typer

from vdi.cli.errors import FINDINGS, CliError
from vdi.cli.gateway_client import LoggedOutError
from vdi.cli.login import revoke_token
from vdi.cli.logins import read_logins, write_logins
from vdi.cli.options import examples
from vdi.cli.output import Output, OutputOption, print_data
from vdi.cli.session.target import server_url

app = typer.Typer()


@app.command(epilog=examples("logout", "logout https://portal.vdi.example.com -o json"))
def logout(
    server: Annotated[
        str | None, typer.Argument(help="Address of the portal; default: the one that commands use.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Log out of a gateway: its token is revoked there and removed here."""

    logins = read_logins()
    address = server_url(server) if server else logins.current
    login = logins.gateways.pop(address, None)
    if login is None:
        known = ", ".join(logins.gateways) or "none"
        raise CliError(f"you are not logged in{f' to {address}' if address else ''} (logged in to: {known})")
    if logins.current == address:
        logins.current = next(iter(logins.gateways), "")
    try:
        asyncio.run(revoke_token(address, login))
    except LoggedOutError:
        pass  # it had ended already
    except CliError as error:
        write_logins(logins)
        raise CliError(
            f"the token is removed here, but could not be revoked: {error.message}\nIt "
            f"expires{f' at {login.expires}' if login.expires else ''}; to revoke it earlier: {address}/account",
            FINDINGS,
        ) from error
    write_logins(logins)
    if output is not Output.TABLE:
        print_data({"server": address, "current": logins.current or None}, output)
        return
    typer.echo(f"logged out of {address}" + (f"; commands now use {logins.current}" if logins.current else ""))
