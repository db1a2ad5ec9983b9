"""`vdi usage`: what was used in a month, and what it cost. The gateway reckons it from its history."""

import asyncio
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from vdi.cli.errors import USAGE, CliError
from vdi.cli.options import PROGRAM, examples
from vdi.cli.output import Output, Raw, columns, print_data
from vdi.cli.remote.client import GatewayClient
from vdi.cli.session.backend import Target
from vdi.cli.session.gateway_backend import GatewayTarget
from vdi.cli.session.target import with_backend

app = typer.Typer(rich_markup_mode=None)


class By(StrEnum):
    """`--by`."""

    USER = "user"
    TEMPLATE = "template"
    GROUP = "group"
    POOL = "pool"


class UsageOutput(StrEnum):
    """`-o`."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    CSV = "csv"


_ITEMS = {By.USER: "items", By.TEMPLATE: "templates", By.GROUP: "groups", By.POOL: "pools"}


@app.command(
    epilog=examples("usage", "usage --everyone --by group --month 2026-11", "usage --everyone --by template -o csv")
)
@with_backend
def usage(
    target: Target,
    *,
    month: Annotated[
        str | None, typer.Option("--month", help="Calendar month (UTC), such as 2026-11; default: this month.")
    ] = None,
    by: Annotated[By, typer.Option("--by", help="Rows of the table; group and pool need --everyone.")] = By.USER,
    everyone: Annotated[bool, typer.Option("--everyone", help="Usage of all users; for administrators.")] = False,
    output: Annotated[UsageOutput, typer.Option("--output", "-o", help="What to print.")] = UsageOutput.TABLE,
) -> None:
    """Show what your desktops used in a month; with prices also what it cost."""
    if by in (By.GROUP, By.POOL) and not everyone:
        raise CliError(f"--by: {by} goes with --everyone; allowed without it: user, template", USAGE)
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
    rows = report.get(_ITEMS[by], [])
    if not rows:
        typer.echo(f"no usage in {report['month']}", err=True)
    else:
        table = pool_table if by is By.POOL else usage_table
        for line in table(rows, by, report.get("currency", "")):
            typer.echo(line)
    typer.echo(idle_line(report), err=True)


def _ask(target: GatewayTarget, path: str, query: Mapping[str, str], *, as_text: bool = False) -> Any:
    async def ask() -> Any:
        async with GatewayClient(target.server, token=target.login.token, ca=target.login.ca) as client:
            return await (client.text(path, **query) if as_text else client.get(path, **query))

    return asyncio.run(ask())


def usage_table(rows: Sequence[Raw], by: By, currency: str) -> list[str]:
    """The lines of users, templates or groups."""
    header = [by.upper(), "HOURS", "GPU HOURS", "IDLE GPU HOURS", "DESKTOPS", "RUNS", "HOME GIB-MONTHS"]
    cells = [
        [
            row.get("user") or row.get("name") or "-",
            f"{row['hours']:.1f}",
            f"{row['gpuHours']:.1f}",
            f"{row['idleGpuHours']:.1f}",
            str(row["sessions"]),
            str(row["runs"]),
            f"{row['homeGibMonths']:.1f}",
            *([f"{row['cost']:.2f} {currency}"] if currency else []),
        ]
        for row in rows
    ]
    return columns([*header, "COST"] if currency else header, cells)


def pool_table(rows: Sequence[Raw], _: By, currency: str) -> list[str]:
    """The lines of pools."""
    header = ["POOL", "TEMPLATE", "PLACE HOURS", "GPU HOURS"]
    cells = [
        [
            row["name"],
            row["template"],
            f"{row['placeHours']:.1f}",
            f"{row['gpuHours']:.1f}",
            *([f"{row['cost']:.2f} {currency}"] if currency else []),
        ]
        for row in rows
    ]
    return columns([*header, "COST"] if currency else header, cells)


def idle_line(report: Raw) -> str:
    """What was paid for GPUs that no one used."""
    idle, currency = report["idle"], report.get("currency", "")
    cost = f", {idle.get('cost', 0.0):.2f} {currency}" if currency else ""
    desktops, pools = idle["desktopGpuHours"], idle["poolGpuHours"]
    return f"idle GPUs: {desktops:.1f} GPU hours of desktops, {pools:.1f} of free places of pools{cost}"
