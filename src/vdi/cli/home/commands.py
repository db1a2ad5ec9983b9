"""`vdi home`: ls, show and rm, for administrators of the cluster; `archive` has the others."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
import typer

from vdi.cli.confirm import confirm
from vdi.cli.errors import CliError
from vdi.cli.home.archive import Name
from vdi.cli.home.archive import app as archive_commands
from vdi.cli.home.homes import find_home, read_homes
from vdi.cli.options import KubeConnection, examples, of_kind, with_connection
from vdi.cli.output import (
    ListOutput,
    ListOutputOption,
    Output,
    OutputOption,
    Raw,
    age,
    columns,
    fact_lines,
    now_utc,
    print_data,
    print_objects,
)
from vdi.kube.errors import NotFound, Replaced
from vdi.kube.resource import CLAIMS
from vdi.kube.transport import Client
from vdi.session.home_list import HomeSummary, why_not_deleted

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The volumes with users' files.")
app.add_typer(archive_commands)


@app.command("ls", epilog=examples("home ls", "home ls --user alice@example.com -o wide"))
@with_connection
def list_(
    connection: KubeConnection,
    user: Annotated[str | None, typer.Option("--user", help="Only homes of this user.")] = None,
    output: ListOutputOption = ListOutput.TABLE,
) -> None:
    """List the homes: owner, size, the desktop that uses each, and last use."""
    homes, _ = connection.run(lambda client: read_homes(client, connection.namespace))
    found = [msgspec.to_builtins(home) for home in homes if user is None or home.user == user]
    if not found and output in (ListOutput.TABLE, ListOutput.WIDE):
        typer.echo(f"no homes{f' of {user}' if user else ''} in namespace {connection.namespace}", err=True)
        return
    print_objects(found, output, name=lambda raw: f"persistentvolumeclaim/{raw['name']}", table=home_table)


@app.command(epilog=examples("home show home-alice-cad-7sm2vbl3pgql", "home show home-alice-7qcryou77eog -o json"))
@with_connection
def show(
    connection: KubeConnection,
    name: Name,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show one home: owner, size, the sessions that use it, and last use."""
    homes, _ = connection.run(lambda client: read_homes(client, connection.namespace))
    home = find_home(homes, name, connection)
    if output is not Output.TABLE:
        print_data(msgspec.to_builtins(home), output)
        return
    for line in home_lines(home):
        typer.echo(line)


@app.command(epilog=examples("home rm home-alice-cad-7sm2vbl3pgql", "home rm home-alice-7qcryou77eog --yes -o json"))
@with_connection
def rm(
    connection: KubeConnection,
    names: Annotated[list[str], typer.Argument(help="Names of the homes.", callback=of_kind("persistentvolumeclaim"))],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask before files are deleted.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Delete homes with all files in them. A home that a session uses is not deleted: end the session first."""
    homes, sessions = connection.run(lambda client: read_homes(client, connection.namespace))
    chosen = [find_home(homes, name, connection) for name in dict.fromkeys(names)]
    if refused := [why for home in chosen if (why := why_not_deleted(home, sessions))]:
        raise CliError("\n".join([*refused, "Nothing was deleted."]))
    if not yes:
        lines = [f"  {home.name}: {home.size or '?'} of {home.user or 'an unknown user'}" for home in chosen]
        typer.echo("This deletes all files in these homes:\n" + "\n".join(lines), err=True)
        if not confirm("Delete them?", untouched="nothing was deleted"):
            raise CliError("nothing was deleted")
    connection.run(lambda client: _delete(client, connection.namespace, chosen))
    if output is not Output.TABLE:
        print_data({"deleted": [home.name for home in chosen]}, output)
        return
    for home in chosen:
        typer.echo(f"home {home.name} is being deleted")


async def _delete(client: Client, namespace: str, homes: Sequence[HomeSummary]) -> None:
    for home in homes:
        try:
            await client.delete(CLAIMS, home.name, namespace=namespace, uid=home.uid, into=msgspec.Raw)
        except (NotFound, Replaced):
            continue


def home_table(items: Sequence[Raw], wide: bool) -> list[str]:
    """The lines of `ls`."""
    rows = []
    for home in (msgspec.convert(raw, HomeSummary) for raw in items):
        used = ", ".join(home.used_by) or "-"
        whose = [home.name, home.user or "-", home.scope, home.template or "-"]
        row = [*whose, home.size or "-", used, _last_used(home)]
        rows.append([*row, home.access_mode, home.storage_class, home.phase] if wide else row)
    more = ["ACCESS MODE", "STORAGE CLASS", "PHASE"] if wide else []
    return columns(["NAME", "USER", "SCOPE", "TEMPLATE", "SIZE", "USED BY", "LAST USED", *more], rows)


def home_lines(home: HomeSummary) -> list[str]:
    """The lines of `show`."""
    facts = {
        "Home": home.name,
        "User": home.user,
        "Scope": home.scope,
        "Template": home.template,
        "Size": home.size,
        "Volume": f"{home.phase or 'Unknown'}, {home.access_mode}, class {home.storage_class or '(default)'}",
        "Used by": ", ".join(home.used_by) or "no desktop",
        "Sessions": ", ".join(home.sessions),
        "Copied by": home.copying,
        "Last used": "" if home.used_by else _last_used(home),
        "Created": f"{home.created} ({age(home.created, now_utc())} ago)",
        "Deleted": f"since {home.deleted}" if home.deleted else "",
    }
    return fact_lines(facts)


def _last_used(home: HomeSummary) -> str:
    if home.used_by:
        return "now"
    return f"{age(home.last_used, now_utc())} ago" if home.last_used else "-"
