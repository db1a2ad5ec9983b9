"""`vdi rollback`: back to a revision of the release that was in place before."""

from typing import Annotated

import typer

from vdi.cli.options import examples
from vdi.cli.output import PageOutput, print_data
from vdi.cli.release.options import DryRun, ReleaseOptions, Yes, with_release
from vdi.cli.release.page import change_data, change_lines, revision_data, revision_lines, summary_line
from vdi.cli.release.run import ReleaseView, confirm_change, run
from vdi.helm.releases import Revision, deployed, read_revisions
from vdi.kube.transport import Client
from vdi.release.carry_out import Running, crd_losses, roll_back, rollback_target
from vdi.release.database import Downgrade, find_downgrade
from vdi.release.diff import Change, changes_between

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog=examples("rollback --dry-run", "rollback", "rollback 3 --yes"))
@with_release
def rollback(
    at: ReleaseOptions,
    revision: Annotated[int | None, typer.Argument(help="Target revision; default: the previous one.", min=1)] = None,
    *,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Show the revisions and what going back would change, ask, and go back. Running desktops are not affected.

    The database is downgraded for an older gateway; columns that it does not know are listed first, and their data
    is lost. Status 1: refused or failed; 130: interrupted.
    """
    at = at.located()
    revisions, target, changes, losses, downgrade = run(at, lambda client: _prepare(client, at, revision))
    if at.output is PageOutput.TABLE:
        for line in revision_lines(revisions):
            typer.echo(line)
        typer.echo(f"\nBack to revision {target.version}: {summary_line(changes)}")
        for line in [*change_lines(changes), *(f"! {loss}" for loss in losses)]:
            typer.echo(line)
    done = None
    if not dry_run:
        confirm_change(f"Go back to revision {target.version}? Running desktops are not affected.", yes)
        done = run(at, lambda client: _apply(client, at, target, downgrade))
    if at.output is PageOutput.JSON:
        data = {"revisions": list(map(revision_data, revisions)), "target": target.version, "losses": losses}
        print_data({**data, "changes": change_data(changes), "revision": revision_data(done)}, at.output)
    elif done:
        typer.echo(
            f"Revision {done.version} of {at.release} is deployed, with the content of revision {target.version}."
        )


async def _prepare(
    client: Client, at: ReleaseOptions, revision: int | None
) -> tuple[list[Revision], Revision, list[Change], list[str], Downgrade | None]:
    revisions = await read_revisions(client, at.place.namespace, at.release)
    target = rollback_target(at.release, revisions, revision)
    current = deployed(revisions) or revisions[0]
    changes = changes_between(current.objects(), target.objects(), at.place.namespace)
    losses = await crd_losses(client, target)
    downgrade = await find_downgrade(client, at.place.namespace, target.objects())
    return revisions, target, changes, [*losses, *([downgrade.words] if downgrade else ())], downgrade


async def _apply(client: Client, at: ReleaseOptions, target: Revision, downgrade: Downgrade | None) -> Revision:
    with ReleaseView() as view:
        return await roll_back(Running(client, at.helm, view, at.seconds), at.release, at.place, target, downgrade)
