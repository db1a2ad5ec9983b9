"""`vdi install`: operator and gateway on a cluster, by our own chart. What is checked and done is in `vdi.release`."""

import typer

from vdi.cli.options import examples
from vdi.cli.release.options import (
    ChartFolder,
    DryRun,
    ReleaseOptions,
    Sets,
    ValuesFiles,
    files_that_are,
    on_checked_release,
)
from vdi.cli.release.run import change_release
from vdi.helm.arguments import Values

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "install -f my-values.yaml --dry-run",
        "install -f my-values.yaml",
        "install -f charts/vdi/values-k3s-small.yaml --set domain=vdi.example.com",
    )
)
@on_checked_release
def install(
    at: ReleaseOptions,
    *,
    values: ValuesFiles = None,
    sets: Sets = None,
    chart: ChartFolder = None,
    dry_run: DryRun = False,
) -> None:
    """Check the cluster, then install CRDs, operator and gateway, templates and pools, in one run.

    It waits until everything is ready and shows what it waits for; what fails is taken back, with the reason in words.
    Status 1: refused or failed; 130: interrupted, and taken back.
    """
    given = Values({}, files_that_are(values), tuple(sets or ()))
    change_release(at, chart, given, upgrading=False, dry_run=dry_run, yes=True)
