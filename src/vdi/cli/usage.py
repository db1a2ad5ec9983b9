"""`vdi usage`: hours of desktops in a month. The gateway counts them in its history."""

import asyncio
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from vdi.cli.errors import USAGE, CliError
from vdi.cli.gateway_client import GatewayClient
from vdi.cli.options import PROGRAM, examples
from vdi.cli.output import Output, Raw, columns, print_data
from vdi.cli.session.backend import Target
from vdi.cli.session.gateway_backend import GatewayTarget
from vdi.cli.session.target import with_backend

app = typer.Typer(rich_markup_mode=None)


class By(StrEnum):
    """`--by`."""

    USER = "user"
    TEMPLATE = "template"


class UsageOutput(StrEnum):
    """`-o`."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    CSV = "csv"


_ROWS = {By.USER: "users", By.TEMPLATE: "templates"}


@app.command(epilog=examples("usage", "usage --everyone --month 2026-11", "usage --everyone --by template -o csv"))
@with_backend
def usage(
    target: Target,
    *,
    month: Annotated[
        str | None, typer.Option("--month", help="Calendar month (UTC), such as 2026-11; default: this month.")
    ] = None,
    by: Annotated[By, typer.Option("--by", help="Rows of the table.")] = By.USER,
    everyone: Annotated[bool, typer.Option("--everyone", help="Usage of all users; for administrators.")] = False,
    output: Annotated[UsageOutput, typer.Option("--output", "-o", help="What to print.")] = UsageOutput.TABLE,
) -> None:
    """Show how many hours your desktops ran in a month."""

    if not isinstance(target, GatewayTarget):
        login = f"{PROGRAM} login https://portal.vdi.example.com"
        raise CliError(f"usage is kept by the gateway, and you are not logged in to one: {login}", USAGE)
    area, query = "/admin" if everyone else "", {"month": month} if month else {}
    if output is UsageOutput.CSV:
        text = _ask(target, f"{area}/export", {**query, "what": "usage", "format": "csv", "by": by}, as_text=True)
        typer.echo(text, nl=False)
        return
    report = _ask(target, f"{area}/usage", query)
    if output is not UsageOutput.TABLE:
        print_data(report, Output(output.value))
        return
    rows = report[_ROWS[by]]
    if not rows:
        typer.echo(f"no usage in {report['month']}", err=True)
        return
    for line in usage_table(rows, by):
        typer.echo(line)


def _ask(target: GatewayTarget, path: str, query: Mapping[str, str], *, as_text: bool = False) -> Any:
    async def ask() -> Any:
        async with GatewayClient(target.server, token=target.login.token, ca=target.login.ca) as client:
            return await (client.text(path, **query) if as_text else client.get(path, **query))

    return asyncio.run(ask())


def usage_table(rows: Sequence[Raw], by: By) -> list[str]:
    """The lines of users or templates."""
    cells = [
        [row["name"], f"{row['hours']:.1f}", f"{row['gpuHours']:.1f}", str(row["sessions"]), str(row["runs"])]
        for row in rows
    ]
    return columns([by.upper(), "HOURS", "GPU HOURS", "DESKTOPS", "RUNS"], cells)
