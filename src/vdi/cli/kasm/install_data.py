"""`vdi kasm backup` and `vdi kasm uninstall`: what becomes of the data. What is done is in `vdi.kasm`."""

from pathlib import Path
from typing import Annotated

import typer

from vdi.cli.kasm.chart import KasmNamespace
from vdi.cli.kasm.install import default_file
from vdi.cli.kasm.install_run import ReleaseOption, in_words, work
from vdi.cli.options import Context, Kubeconfig, KubeConnection, examples
from vdi.cli.output import PageOption, PageOutput, print_data
from vdi.cli.release.options import DryRun, HelmPath, Timeout, Yes, where
from vdi.cli.release.run import confirm_change
from vdi.helm.place import Place
from vdi.helm.releases import deployed, read_revisions
from vdi.kasm.backup import Backup, back_up, find_kubectl
from vdi.kasm.errors import KasmRefusedError
from vdi.kasm.install.run import generation_of_release, take_passwords
from vdi.kasm.uninstall import Removal, check_agents, plan_removal, remove
from vdi.kube.transport import Client

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog=examples("kasm backup", "kasm backup --to /backups/kasm.dump", "kasm backup -n desks -o json"))
def backup(
    *,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FILE", help=("File for the dump; an existing file is never overwritten.")),
    ] = None,
    release: ReleaseOption = "kasm",
    namespace: KasmNamespace = "kasm",
    output: PageOption = PageOutput.TABLE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Save the bundled database to a file that only you can read, and verify the file completely.

    The file has the custom format of pg_dump. It does not contain the passwords (Secret RELEASE-secrets): save
    those too. Status 1: the database was not saved.
    """
    connection = KubeConnection(namespace, kubeconfig, context)
    file = (to or default_file(namespace, release)).absolute()

    async def save(client: Client) -> Backup:
        revision = deployed(await read_revisions(client, namespace, release))
        if revision is None:
            raise KasmRefusedError(f"there is no release {release} in namespace {namespace}; allowed: an existing one")
        return await back_up(client, kubectl, generation_of_release(revision), release, file)

    with in_words():
        kubectl = find_kubectl(Place(namespace, kubeconfig, context))
        done = connection.run(save)
    if output is PageOutput.JSON:
        print_data({"file": str(done.file), "bytes": done.size, "tables": done.tables}, output)
        return
    typer.echo(f"Saved {done.file}: {done.size:,} bytes, tables with data: {done.tables}; verified completely.")


@app.command(epilog=examples("kasm uninstall --dry-run", "kasm uninstall", "kasm uninstall --delete-data"))
def uninstall(
    *,
    delete_data: Annotated[
        bool, typer.Option("--delete-data", help="Also delete the volumes and the passwords: nothing remains.")
    ] = False,
    release: ReleaseOption = "kasm",
    namespace: KasmNamespace = "kasm",
    helm: HelmPath = None,
    timeout: Timeout = "10m",
    dry_run: DryRun = False,
    yes: Yes = False,
    output: PageOption = PageOutput.TABLE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Remove Kasm Workspaces. The database's volume is kept, also where the chart would delete it. Asks first.

    Status 1: refused or failed; 130: interrupted.
    """
    at = where(KubeConnection(namespace, kubeconfig, context), release, helm, timeout, output)
    plan = work(at, lambda run: plan_removal(run.client, release, namespace))
    with in_words():
        check_agents(plan, at.place)
    if output is PageOutput.TABLE:
        for line in removal_lines(plan, at.place, delete_data=delete_data):
            typer.echo(line)
    if not dry_run:
        confirm_change("Uninstall?", yes)
        if delete_data and plan.claims:
            confirm_change("Delete the database with all data? This cannot be undone.", yes)
        work(at, lambda run: remove(run, plan, delete_data=delete_data))
    if output is PageOutput.JSON:
        kept = [] if delete_data else [*plan.claims, *plan.secrets]
        print_data(
            {"release": release, "chart": plan.revision.chart_words, "removed": not dry_run, "kept": kept}, output
        )


def removal_lines(plan: Removal, place: Place, *, delete_data: bool) -> list[str]:
    """What goes and what stays."""
    lines = [f"Release {plan.release} in namespace {plan.namespace}: {plan.revision.chart_words}"]
    if delete_data:
        lines += [f"DELETED: volume {name} with all data" for name in plan.claims]
        lines += [f"DELETED: Secret {name} with the passwords" for name in plan.secrets]
        return lines
    lines += [f"kept: volume {name}; the next installation uses it again" for name in plan.claims]
    lines += [f"kept: Secret {name}, whose password opens that database" for name in plan.secrets]
    if plan.claims and plan.generation.new_passwords:
        lines.append("The next installation creates new passwords unless its values (-f passwords.yaml) have these:")
        lines += [f"  {take_passwords(plan.generation, place, name)}" for name in plan.secrets]
    return lines
