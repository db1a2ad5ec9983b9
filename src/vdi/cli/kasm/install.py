"""`vdi kasm install` and `vdi kasm upgrade`. What is checked, refused and done is in `vdi.kasm`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from vdi.cli.errors import USAGE, CliError
from vdi.cli.kasm.chart import NEWEST, GenerationOption, KasmNamespace, VersionOption, generation_of, version_of
from vdi.cli.kasm.install_run import (
    ChartOption,
    ReleaseOption,
    chart_of,
    in_words,
    values_of_files,
    work,
)
from vdi.cli.options import PROGRAM, Context, Kubeconfig, KubeConnection, examples
from vdi.cli.output import PageOption, PageOutput, now_utc, print_data
from vdi.cli.release.options import DryRun, HelmPath, ReleaseOptions, Timeout, ValuesFiles, Yes, where
from vdi.cli.release.run import confirm_change
from vdi.cli.terminal import style
from vdi.helm.releases import Revision
from vdi.kasm.backup import Backup, find_kubectl
from vdi.kasm.generations import ALL
from vdi.kasm.install.run import (
    Plan,
    Running,
    apply,
    installed_generation,
    passwords_secret,
    plan_install,
    plan_upgrade,
    save_database,
)

app = typer.Typer(rich_markup_mode=None, add_completion=False)
_LONG = "20m"
_TARGETS = " or ".join(generation.letter for generation in ALL[1:])


@app.command(
    epilog=examples(
        "kasm install -f values.yaml",
        "kasm install -f values.yaml --chart-version 1.1190.6 --dry-run",
        "kasm install -g A --chart ./kasm-helm/kasm-single-zone -f values.yaml",
    )
)
def install(
    *,
    values: ValuesFiles = None,
    generation: GenerationOption = NEWEST,
    chart_version: VersionOption = None,
    chart: ChartOption = "",
    release: ReleaseOption = "kasm",
    namespace: KasmNamespace = "kasm",
    helm: HelmPath = None,
    timeout: Timeout = _LONG,
    dry_run: DryRun = False,
    output: PageOption = PageOutput.TABLE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Install Kasm Workspaces: check the values, run helm, and show what each component waits for.

    A failed installation is removed again. Before it: vdi kasm preflight; after it: vdi kasm validate. Status 1:
    refused or failed; 130: interrupted.
    """
    selected, version = generation_of(generation), version_of(chart_version)
    given = values_of_files(values)
    if given is None:
        raise CliError("-f is missing: values are needed; vdi kasm values render makes them", USAGE)
    at = where(KubeConnection(namespace, kubeconfig, context), release, helm, timeout, output)

    async def plan(run: Running) -> Plan:
        run.view.waiting("the chart is being read")
        return await plan_install(run, await chart_of(at, selected, version, chart), given)

    planned = work(at, plan)
    _tell(planned, at)
    revision = None if dry_run else work(at, lambda run: apply(run, planned))
    _done(at, planned, revision, None)


@app.command(
    epilog=examples(
        "kasm upgrade -f values.yaml --chart-version 1.1190.6 --dry-run",
        "kasm upgrade -f values.yaml",
        "kasm upgrade -g C -f new.yaml --backup-to /backups/kasm.dump --yes",
    )
)
def upgrade(
    *,
    values: ValuesFiles = None,
    generation: Annotated[
        str | None,
        typer.Option(
            "--generation", "-g", help=f"The target generation: {_TARGETS}.", show_default="the release's own"
        ),
    ] = None,
    chart_version: VersionOption = None,
    chart: ChartOption = "",
    backup_to: Annotated[
        Path | None,
        typer.Option("--backup-to", metavar="FILE", help="File for the database dump.", show_default="a file here"),
    ] = None,
    release: ReleaseOption = "kasm",
    namespace: KasmNamespace = "kasm",
    helm: HelmPath = None,
    timeout: Timeout = _LONG,
    dry_run: DryRun = False,
    yes: Yes = False,
    output: PageOption = PageOutput.TABLE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Upgrade Kasm Workspaces. Saves the database to a local file first; refuses to lose it.

    Without -f the release keeps its values. A failed upgrade is rolled back. Status 1: refused or failed; 130:
    interrupted.
    """
    selected, version = generation_of(generation) if generation else None, version_of(chart_version)
    given = values_of_files(values)
    at = where(KubeConnection(namespace, kubeconfig, context), release, helm, timeout, output)

    async def plan(run: Running) -> Plan:
        run.view.waiting("the chart is being read")
        meant = selected or await installed_generation(run)
        return await plan_upgrade(run, await chart_of(at, meant, version, chart), given)

    planned = work(at, plan)
    _tell(planned, at)
    if dry_run:
        _done(at, planned, None, None)
        return
    with in_words():
        kubectl = find_kubectl(at.place) if planned.backup else None
    confirm_change("Upgrade? Sessions may be disconnected while Kasm restarts.", yes)
    file = backup_to or default_file(namespace, release)

    async def carry(run: Running) -> tuple[Backup | None, Revision]:
        saved = await save_database(run, planned, kubectl, file.absolute()) if kubectl else None
        return saved, await apply(run, planned)

    saved, revision = work(at, carry)
    _done(at, planned, revision, saved)


def default_file(namespace: str, release: str) -> Path:
    """A name for a dump that tells what it is and when it was made."""
    return Path(f"kasm-{namespace}-{release}-{now_utc():%Y%m%dT%H%M%SZ}.dump")


def _tell(plan: Plan, at: ReleaseOptions) -> None:
    if at.output is not PageOutput.TABLE:
        return
    before = f"{plan.before.chart_words} -> " if plan.before else ""
    typer.echo(f"{before}{plan.chart.words} as release {at.release} in namespace {at.connection.namespace}")
    for warning in plan.warnings:
        typer.echo(f"{style('warning', fg=typer.colors.YELLOW)}  {warning}")


def _done(at: ReleaseOptions, plan: Plan, revision: Revision | None, saved: Backup | None) -> None:
    if at.output is PageOutput.JSON:
        print_data(_data(plan, revision, saved), at.output)
        return
    if revision is None:
        typer.echo("Nothing was changed." + (" The database would be saved first." if plan.backup else ""))
        return
    typer.echo(f"Revision {revision.version} of {revision.name} is deployed: {revision.chart_words}.")
    if saved is not None:
        typer.echo(f"The database before the upgrade: {saved.file}")
    secret = passwords_secret(plan.chart.generation, at.release, plan.values)
    where_to = at.place.options
    typer.echo(f"The password of admin@kasm.local is in Secret {secret}, key admin-password:")
    template = "{.data.admin-password}"
    typer.echo(f"  kubectl {where_to} get secret {secret} -o jsonpath='{template}' | base64 -d")
    typer.echo(f"Next: {PROGRAM} kasm validate {where_to}")


def _data(plan: Plan, revision: Revision | None, saved: Backup | None) -> dict[str, Any]:
    return {
        "chart": {
            "name": plan.chart.generation.chart,
            "version": ".".join(map(str, plan.chart.version)),
            "kasm": plan.chart.app_version,
        },
        "before": plan.before.chart_words if plan.before else None,
        "warnings": list(plan.warnings),
        "backup": {"file": str(saved.file), "bytes": saved.size, "tables": saved.tables} if saved else None,
        "revision": revision.version if revision else None,
    }
