"""`vdi home migrate`: homes of one scope into those of another. The work is in `vdi.home_copy.migrate`."""

import sys
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vdi.api.template import HomeScope, VDITemplate
from vdi.cli.errors import FINDINGS, USAGE, CliError
from vdi.cli.home.homes import read_homes
from vdi.cli.home.sizes import size_in_words
from vdi.cli.kubectl import find_kubectl
from vdi.cli.long_work import INTERRUPTED
from vdi.cli.options import KubeConnection, examples, with_connection
from vdi.cli.output import PageOption, PageOutput, print_data
from vdi.cli.progress import ProgressView
from vdi.home_copy.errors import CopyFailedError, CopyRefusedError
from vdi.home_copy.migrate import ConflictError, migrate_home
from vdi.home_copy.migration import Migration, plan_migrations
from vdi.home_copy.runner import CopyRun
from vdi.kube.clock import SYSTEM_CLOCK
from vdi.operator.kinds import TEMPLATES

if TYPE_CHECKING:
    from vdi.kube.transport import Client

app = typer.Typer(rich_markup_mode=None)
_SHOWN = 20
"""Conflicts that are printed; JSON has a hundred."""


class Scope(StrEnum):
    """Values of `--to`: those of `persistence.scope` with a home that stays."""

    USER = HomeScope.USER.value
    USER_AND_TEMPLATE = HomeScope.USER_AND_TEMPLATE.value


@dataclass
class Result:
    """What became of one home."""

    user: str
    source: str
    target: str
    migrated: bool = False
    files: int = 0
    size: int = 0
    message: str = ""
    paths: tuple[str, ...] = ()
    count: int = 0
    left_out: tuple[str, ...] = field(default=())

    def report(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            "user": self.user,
            "from": self.source,
            "to": self.target,
            "migrated": self.migrated,
            "files": self.files,
            "bytes": self.size,
            "message": self.message,
            "paths": list(self.paths),
            "pathCount": self.count,
            "leftOut": list(self.left_out),
        }


@app.command(
    epilog=examples(
        "home migrate --template cad --to User --user alice@example.com",
        "home migrate --template cad --to User --into from-cad",
        "home migrate --template cad --to UserAndTemplate -o json",
    )
)
@with_connection
def migrate(
    connection: KubeConnection,
    *,
    template: Annotated[str, typer.Option("--template", "-t", help="Template whose homes are moved.")],
    to: Annotated[Scope, typer.Option("--to", help="The scope to which they move.")],
    user: Annotated[
        str | None,
        typer.Option("--user", help=("Only the home of this user; default: all homes, one after the other.")),
    ] = None,
    into: Annotated[str, typer.Option("--into", metavar="FOLDER", help="Copy into this folder of the new home.")] = "",
    image: Annotated[
        str | None, typer.Option("--image", help="Image with python3 for the pod; default: the image of the template.")
    ] = None,
    kubectl: Annotated[
        Path | None, typer.Option("--kubectl", metavar="PATH", help="kubectl; default: the one in PATH.")
    ] = None,
    output: PageOption = PageOutput.TABLE,
) -> None:
    """Copy homes into homes of another scope, verify the copies, and use the new homes from then on.

    Sessions must be suspended or ended. A file of the new home with different content is never overwritten: it is
    listed, and the old home stays in use. Old homes are kept until `vdi home rm`. After an interruption, run the
    same command again. Status 1: not all homes were moved; 130: interrupted.
    """
    if into and ("/" in into or into in (".", "..") or len(into.encode()) > 255):
        raise CliError(f"--into {into}: allowed: the name of one folder", USAGE)
    command = find_kubectl(kubectl, connection.kubeconfig, connection.context)
    results: list[Result] = []
    view = ProgressView()

    async def work(client: "Client") -> None:
        offered = {offer.metadata.name: offer for offer in await client.list(TEMPLATES, into=VDITemplate)}
        if template not in offered:
            allowed = ", ".join(sorted(offered))
            raise CliError(f"--template {template}: there is no such template; allowed: {allowed}", USAGE)
        homes, _ = await read_homes(client, connection.namespace)
        offer = offered[template]
        for migration in plan_migrations(homes, offer, HomeScope(to.value), user):
            run = _run_of(client, command, connection, view)
            results.append(await _migrate(run, migration, offer, into, image))

    try:
        with view:
            connection.run(work)
    except KeyboardInterrupt:
        view.say("Interrupted; the pod is removed, and the home that was being copied is unchanged.")
        _show(results, template, user, output)
        raise typer.Exit(INTERRUPTED) from None
    except CliError:
        if results:
            _show(results, template, user, output)
        raise
    _show(results, template, user, output)
    if not all(result.migrated for result in results):
        raise typer.Exit(FINDINGS)


def _run_of(client: "Client", command: list[str], connection: KubeConnection, view: ProgressView) -> CopyRun:
    def moved(count: int) -> None:
        if sys.stderr.isatty():
            view.waiting(f"{size_in_words(count)} copied")

    return CopyRun(client, SYSTEM_CLOCK, command, connection.namespace, view.waiting, moved, connection.flags)


async def _migrate(run: CopyRun, migration: Migration, template: VDITemplate, into: str, image: str | None) -> Result:
    result = Result(migration.user, migration.source, migration.target.claim)
    try:
        done = await migrate_home(run, migration, template, into=into, image=image)
    except ConflictError as error:
        result.message, result.paths, result.count = str(error), error.paths, error.count
    except (CopyRefusedError, CopyFailedError) as error:
        result.message = str(error)
    else:
        result.migrated = True
        if done:
            result.files, result.size, result.left_out = done.files, done.size, done.left_out
    return result


def _show(results: list[Result], template: str, user: str | None, output: PageOutput) -> None:
    """What was done, also where an error or Ctrl-C came after the first homes."""
    if output is PageOutput.JSON:
        print_data({"homes": [result.report() for result in results]}, output)
        return
    if not results:
        typer.echo(f"no homes{f' of {user}' if user else ''} to move for template {template}", err=True)
    for result in results:
        if result.migrated:
            words = f"{result.files} files, {size_in_words(result.size)}"
            typer.echo(f"{result.user}: {words} from {result.source} in {result.target}")
            continue
        typer.echo(f"Error: {result.user}: {result.message}. {result.source} is still the home.", err=True)
        for path in result.paths[:_SHOWN]:
            typer.echo(f"  {path.encode('utf-8', 'surrogateescape').decode('utf-8', 'replace')}", err=True)
        if result.count > _SHOWN:
            typer.echo(
                f"  and {result.count - _SHOWN} more; --into FOLDER puts the old home into a folder of its own",
                err=True,
            )
