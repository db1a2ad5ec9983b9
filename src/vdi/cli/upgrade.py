"""`vdi upgrade`: a new chart or new values for a release that is there; `vdi.release` checks and does it."""

import typer

from vdi.cli.helm_options import (
    ChartFolder,
    DryRun,
    ReleaseOptions,
    Sets,
    ValuesFiles,
    VerifyKey,
    Yes,
    files_that_are,
    key_that_is,
    on_checked_release,
)
from vdi.cli.options import examples
from vdi.cli.release import change_release
from vdi.helm.arguments import Values

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "upgrade --dry-run",
        "upgrade -f my-values.yaml",
        "upgrade --set replicas=3 --yes",
    )
)
@on_checked_release
def upgrade(
    at: ReleaseOptions,
    *,
    values: ValuesFiles = None,
    sets: Sets = None,
    chart: ChartFolder = None,
    verify: VerifyKey = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Show what would change, field by field, ask, and upgrade. Running desktops are not affected.

    Without -f the release keeps its values, and --set changes single ones; with -f the files replace all of them. A
    failed upgrade is rolled back automatically, and the reason is shown. Status 1: refused or failed, or a
    signature is wrong; 3: a signature could not be checked; 130: interrupted.
    """

    given = Values({}, files_that_are(values), tuple(sets or ()))
    change_release(at, chart, given, upgrading=True, key=key_that_is(verify), dry_run=dry_run, yes=yes)
