"""`vdi upgrade`: a new chart or new values for a release that is there; `vdi.release` checks and does it."""

import typer

from vdi.cli.options import Context, Kubeconfig, Target, examples
from vdi.cli.output import PageOption, PageOutput
from vdi.cli.release_options import (
    NAMESPACE,
    RELEASE,
    ChartFolder,
    DryRun,
    HelmPath,
    Namespace,
    ReleaseName,
    Sets,
    Timeout,
    ValuesFiles,
    Yes,
    files_that_are,
    where,
)
from vdi.cli.release_run import change_release
from vdi.helm.arguments import Values

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "upgrade --dry-run",
        "upgrade -f my-values.yaml",
        "upgrade --set replicas=3 --yes",
    )
)
def upgrade(
    *,
    values: ValuesFiles = None,
    sets: Sets = None,
    namespace: Namespace = NAMESPACE,
    release: ReleaseName = RELEASE,
    chart: ChartFolder = None,
    helm: HelmPath = None,
    timeout: Timeout = "10m",
    dry_run: DryRun = False,
    yes: Yes = False,
    output: PageOption = PageOutput.TABLE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show what would change, field by field, ask, and change it. Running desktops go on.

    Without -f the release keeps its values, and --set changes single ones; with -f the files say them all. An upgrade
    that fails is rolled back by itself, with the reason in words. Status 1: refused or failed; 130: interrupted.
    """
    at = where(Target(namespace, kubeconfig, context), release, helm, timeout, output)
    given = Values({}, files_that_are(values), tuple(sets or ()))
    change_release(at, chart, given, upgrading=True, dry_run=dry_run, yes=yes)
