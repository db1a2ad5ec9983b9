"""`vdi install`: operator and gateway on a cluster, by our own chart. What is checked and done is in `vdi.release`."""

from typing import Annotated

import typer

from vdi.cli.options import examples
from vdi.cli.release.options import (
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
from vdi.cli.release.questions import essential_values
from vdi.cli.release.run import change_release
from vdi.helm.arguments import Values

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "install",
        "install --domain vdi.example.com --certificate secret:vdi-wildcard --admin you@example.com --yes",
        "install -f my-values.yaml --dry-run",
        "install -f my-values.yaml --verify release.pub",
    )
)
@on_checked_release
def install(
    at: ReleaseOptions,
    *,
    domain: Annotated[
        str | None, typer.Option("--domain", metavar="DOMAIN", help="Desktops and portal have hosts below it.")
    ] = None,
    certificate: Annotated[
        str | None,
        typer.Option(
            "--certificate", metavar="KIND", help="Of *.DOMAIN: none, secret:NAME, issuer:NAME or resolver:NAME."
        ),
    ] = None,
    admin: Annotated[
        str | None,
        typer.Option("--admin", metavar="EMAIL", help="Administrators of the portal, separated by commas."),
    ] = None,
    values: ValuesFiles = None,
    sets: Sets = None,
    chart: ChartFolder = None,
    verify: VerifyKey = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Check the cluster, show what would be created, ask, and install CRDs, operator, gateway and templates.

    Without values it asks for domain, certificate and administrator unless options set them. It waits until
    everything is ready and shows what it waits for. A failed installation is rolled back, and the reason is shown.
    Status 1: refused or failed, or a signature is wrong; 3: a signature could not be checked; 130: interrupted, and
    rolled back.
    """
    files = files_that_are(values)
    typed = essential_values(domain, certificate, admin, ask=not (files or sets))
    given = Values({}, files, tuple(sets or ()), typed)
    change_release(at, chart, given, upgrading=False, key=key_that_is(verify), dry_run=dry_run, yes=yes)
