"""`vdi install`: operator and gateway on a cluster, by our own chart. What is checked and done is in `vdi.release`."""

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
    files_that_are,
    where,
)
from vdi.cli.release_run import change_release
from vdi.helm.arguments import Values

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "install -f my-values.yaml --dry-run",
        "install -f my-values.yaml",
        "install -f charts/vdi/values-k3s-small.yaml --set domain=vdi.example.com",
    )
)
def install(
    *,
    values: ValuesFiles = None,
    sets: Sets = None,
    namespace: Namespace = NAMESPACE,
    release: ReleaseName = RELEASE,
    chart: ChartFolder = None,
    helm: HelmPath = None,
    timeout: Timeout = "10m",
    dry_run: DryRun = False,
    output: PageOption = PageOutput.TABLE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Check the cluster, then install CRDs, operator and gateway, templates and pools, in one run.

    It waits until everything is ready and shows what it waits for; what fails is taken back, with the reason in words.
    Status 1: refused or failed; 130: interrupted, and taken back.
    """
    at = where(Target(namespace, kubeconfig, context), release, helm, timeout, output)
    given = Values({}, files_that_are(values), tuple(sets or ()))
    change_release(at, chart, given, upgrading=False, dry_run=dry_run, yes=True)
