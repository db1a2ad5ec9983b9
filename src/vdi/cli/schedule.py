"""`vdi schedule`: ls, add and rm: desktops that are to be ready at a time. The gateway keeps and starts them."""

import asyncio
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vdi.cli.errors import USAGE, CliError
from vdi.cli.options import PROGRAM, examples, of_kind
from vdi.cli.output import ListOutput, ListOutputOption, Output, OutputOption, Raw, columns, print_data, print_objects
from vdi.cli.remote.client import GatewayClient, quote
from vdi.cli.session.backend import Target
from vdi.cli.session.gateway_backend import GatewayTarget
from vdi.cli.session.target import with_backend

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Desktops that are started in time to be ready at a given time."
)

_DAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_LOCAL_TIME = Path("/etc/localtime")
_PATH = "/scheduled-starts"


@app.command("ls", epilog=examples("schedule ls", "schedule ls -o json"))
@with_backend
def list_(
    target: Target,
    output: ListOutputOption = ListOutput.TABLE,
) -> None:
    """List your scheduled starts: time, desktop, and the last result of each."""
    found = _send(target, "GET", _PATH)["items"]
    if not found and output in (ListOutput.TABLE, ListOutput.WIDE):
        typer.echo("no scheduled starts", err=True)
        return
    print_objects(found, output, name=lambda raw: f"scheduledstart/{raw['id']}", table=schedule_table)


@app.command(
    epilog=examples(
        "schedule add --template cad --at 08:30",
        "schedule add --template cad --at 13:00 --days MON,WED,FRI --time-zone Europe/Berlin -o json",
    )
)
@with_backend
def add(
    target: Target,
    *,
    template: Annotated[str, typer.Option("--template", "-t", help="The template of the desktop.")],
    at: Annotated[str, typer.Option("--at", help="Hour and minute at which it should be ready, such as 08:30.")],
    days: Annotated[str, typer.Option("--days", help="Days of the week, such as MON-FRI or SAT,SUN.")] = "MON-FRI",
    time_zone: Annotated[
        str | None,
        typer.Option("--time-zone", help="Time zone, such as Europe/Berlin. Default: that of this machine."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="The session to start or resume. Default: USER-TEMPLATE.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Have a desktop ready at a given time on given days of the week. It is started 5 minutes earlier."""
    body = {
        "template": template,
        "time": parse_time_of_day(at),
        "days": parse_days(days),
        "timeZone": time_zone or local_time_zone(os.environ, _LOCAL_TIME),
    }
    made = _send(target, "POST", _PATH, body | ({"session": name} if name else {}))
    if output is not Output.TABLE:
        print_data(made, output)
        return
    when = f"{made['time']} {made['timeZone']} on {', '.join(made['days'])}"
    typer.echo(f"{made['session']} will be ready at {when}; next: {made['nextTime']}")
    typer.echo(f"to delete it: {PROGRAM} schedule rm {made['id']}{target.flags}")


@app.command(
    epilog=examples(
        "schedule rm 6f1c2a9e0b7d4c58a1e3f20d9b8c7a65", "schedule rm 6f1c2a9e0b7d4c58a1e3f20d9b8c7a65 -o json"
    )
)
@with_backend
def rm(
    target: Target,
    ids: Annotated[list[str], typer.Argument(help="Ids, as `ls` shows them.", callback=of_kind("scheduledstart"))],
    output: OutputOption = Output.TABLE,
) -> None:
    """Delete scheduled starts. Desktops that they have started keep running."""
    chosen = list(dict.fromkeys(ids))
    for start_id in chosen:
        _send(target, "DELETE", f"{_PATH}/{quote(start_id)}")
    if output is not Output.TABLE:
        print_data({"deleted": chosen}, output)
        return
    for start_id in chosen:
        typer.echo(f"scheduled start {start_id} is deleted")


def _send(target: Target, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
    if not isinstance(target, GatewayTarget):
        login = f"{PROGRAM} login https://portal.vdi.example.com"
        raise CliError(f"scheduled starts are kept by the gateway, and you are not logged in to one: {login}", USAGE)

    async def send() -> Any:
        async with GatewayClient(target.server, token=target.login.token, ca=target.login.ca) as client:
            return await client.send(method, path, body=body)

    return asyncio.run(send())


def parse_time_of_day(text: str) -> str:
    """`8:30` as `08:30`. Raises CliError."""
    found = re.fullmatch(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", text)
    if not found:
        raise CliError(f"--at: {text!r} is not a time of day; allowed: 00:00 to 23:59", USAGE)
    return f"{int(found[1]):02}:{found[2]}"


def parse_days(text: str) -> list[str]:
    """`MON-WED,SAT` as the days one by one. Raises CliError."""
    chosen: set[str] = set()
    for part in text.upper().replace(" ", "").split(","):
        first, _, last = part.partition("-") if "-" in part else (part, "", part)
        if first not in _DAYS or last not in _DAYS:
            allowed = f"{', '.join(_DAYS)}, and ranges such as MON-FRI"
            raise CliError(f"--days: {part!r} is not a day of the week; allowed: {allowed}", USAGE)
        begin, end = _DAYS.index(first), _DAYS.index(last)
        chosen.update(_DAYS[begin : end + 1] if begin <= end else (*_DAYS[begin:], *_DAYS[: end + 1]))
    return [day for day in _DAYS if day in chosen]


def local_time_zone(environment: Mapping[str, str], link: Path) -> str:
    """The name of this machine's time zone. Raises CliError where it is not known."""
    if zone := environment.get("TZ", "").removeprefix(":"):
        return zone
    target = os.path.realpath(link)
    _, found, zone = target.partition("/zoneinfo/")
    if not found:
        words = "the time zone of this machine is not known; name one, such as Europe/Berlin"
        raise CliError(f"--time-zone: {words}", USAGE)
    return zone


def schedule_table(items: Sequence[Raw], wide: bool) -> list[str]:
    """The lines of `ls`."""
    rows = []
    for start in items:
        row = [start["id"], start["session"], start["template"], start["time"], ",".join(start["days"])]
        row += [start["timeZone"], start["nextTime"], start.get("lastResult") or "-"]
        rows.append([*row, start.get("lastMessage") or "-"] if wide else row)
    header = ["ID", "SESSION", "TEMPLATE", "TIME", "DAYS", "TIME ZONE", "NEXT", "LAST RESULT"]
    return columns([*header, "MESSAGE"] if wide else header, rows)
