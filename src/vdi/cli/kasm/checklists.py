"""`vdi kasm preflight`, `install` and `validate`: a checklist before, helm, a checklist afterwards.

What is judged is in `vdi.kasm.preflight` and `vdi.kasm.validate`.
"""

import asyncio
import ipaddress
import shlex
from dataclasses import replace
from typing import Annotated, Any

import typer

from vdi.cli.errors import FINDINGS, USAGE, CliError
from vdi.cli.findings import FindingsOption, FindingsOutput, print_report
from vdi.cli.kasm.options import (
    NEWEST,
    GenerationOption,
    Hostname,
    KasmNamespace,
    KasmValues,
    ReleaseOption,
    VersionOption,
    generation_of,
    read_values,
    version_of,
)
from vdi.cli.long_work import INTERRUPTED
from vdi.cli.options import PROGRAM, Context, Kubeconfig, KubeConnection, examples
from vdi.cli.release.options import DryRun, Timeout, ValuesFiles, files_that_are, where
from vdi.findings.model import Finding, errors, exit_code
from vdi.findings.render import Report
from vdi.helm import arguments
from vdi.helm.arguments import Change, Values
from vdi.helm.errors import HelmFailed, HelmInterrupted
from vdi.helm.run import run_helm
from vdi.kasm.collect.cluster import collect_preflight, collect_validate
from vdi.kasm.install import after_failure, source_of, version_in_folder
from vdi.kasm.preflight.checks import find_installed, run_checks
from vdi.kasm.preflight.needs import PlannedRelease, plan_of_values
from vdi.kasm.validate.checks import notes
from vdi.kasm.validate.checks import validate as validate_installation
from vdi.kasm.values.check import Subject, check_values
from vdi.kasm.values.render import Ingress

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "kasm preflight --hostname kasm.example.com",
        "kasm preflight -f my-values.yaml",
        "kasm preflight --generation B -f my-values.yaml -o json",
    )
)
def preflight(
    *,
    generation: GenerationOption = NEWEST,
    chart_version: VersionOption = None,
    values: KasmValues = None,
    hostname: Hostname = None,
    ingress: Annotated[
        Ingress | None,
        typer.Option(
            help="How browsers connect: the cluster's Traefik, or a LoadBalancer.", show_default="the values' setting"
        ),
    ] = None,
    namespace: KasmNamespace = "kasm",
    output: FindingsOption = FindingsOutput.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Check whether this cluster can run Kasm Workspaces; each item has observed and expected value and a fix.

    Requests are compared with the free capacity of the nodes. Status 0: it can (warnings included); 1: it cannot;
    3: an item could not be checked, which does not mean that it passed.
    """
    planned = _planned(generation, chart_version, read_values(values), namespace)
    planned = replace(planned, hostname=hostname or planned.hostname, ingress=ingress or planned.ingress)
    findings, _ = _checked(KubeConnection(namespace, kubeconfig, context), planned)
    _report("preflight", findings, planned, output)
    raise typer.Exit(exit_code(findings))


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
    chart: Annotated[
        str, typer.Option(metavar="CHART", help="Folder, archive or address.", show_default="the published one")
    ] = "",
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="ITEM", help="Go on although this item of the preflight fails, such as dns."),
    ] = None,
    release: ReleaseOption = "kasm",
    namespace: KasmNamespace = "kasm",
    timeout: Timeout = "20m",
    dry_run: DryRun = False,
    output: FindingsOption = FindingsOutput.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Install Kasm Workspaces, or upgrade it: check values and cluster, then run helm upgrade --install.

    Status 1: something stands in the way, or helm failed; 130: interrupted. Nothing is undone: the output names the
    command that does.
    """
    files = files_that_are(values)
    if not files:
        raise CliError("-f is missing: values are needed; vdi kasm values render makes them", USAGE)
    at = where(KubeConnection(namespace, kubeconfig, context), release, None, timeout, output)
    selected = generation_of(generation)
    try:
        chart_version = version_in_folder(chart) or chart_version
        source, more = source_of(selected, version_of(chart_version), chart)
    except ValueError as error:
        raise CliError(str(error), USAGE) from error
    given = read_values(list(files))
    planned = _planned(generation, chart_version, given, namespace, release)
    wrong = check_values(Subject(selected, planned.version, given))
    measured, was_there = _checked(at.connection, planned)
    findings = [*wrong, *measured]
    _report("install", findings, planned, output)
    if [finding for finding in errors(findings) if finding.code not in (ignore or ())]:
        raise typer.Exit(FINDINGS)
    change = Change(release, source, at.place, Values(files=files), more)
    command = arguments.upgrade(at.helm, change, seconds=at.seconds, undo_on_failure=False)
    typer.echo(f"$ {shlex.join([str(at.helm.path), *command])}", err=True)
    if dry_run:
        return
    try:
        asyncio.run(run_helm(at.helm, command, say=lambda text: typer.echo(text, err=True)))
    except (HelmFailed, HelmInterrupted) as error:
        code = INTERRUPTED if isinstance(error, HelmInterrupted) else FINDINGS
        raise CliError(f"{error}\n{after_failure(change, was_there=was_there)}", code) from error
    typer.echo(f"Helm: everything is ready. Next: {PROGRAM} kasm validate {at.place.options}", err=True)


def _planned(
    letter: str, version: str | None, values: dict[str, Any], namespace: str, release: str = "kasm"
) -> PlannedRelease:
    generation, number = generation_of(letter), version_of(version)
    try:
        return plan_of_values(generation, number or generation.newest, values, namespace, release)
    except ValueError as error:
        raise CliError(str(error), USAGE) from error


def _checked(connection: KubeConnection, planned: PlannedRelease) -> tuple[list[Finding], bool]:
    """The preflight's findings, and whether a Kasm is there already."""
    facts = connection.run(
        lambda client: collect_preflight(client, namespace=planned.namespace, hostname=planned.hostname)
    )
    return run_checks(facts, planned), find_installed(facts, planned.namespace) is not None


def _report(command: str, findings: list[Finding], planned: PlannedRelease, output: FindingsOutput) -> None:
    about = {"chart": planned.needs.source, "hostname": planned.hostname, "ingress": planned.ingress}
    print_report(Report(tool=f"vdi kasm {command}", findings=findings, context=about), output)


@app.command(
    epilog=examples(
        "kasm validate",
        "kasm validate --namespace kasm --hostname kasm.example.com -o json",
        "kasm validate --connect 192.0.2.10:443",
    )
)
def validate(
    *,
    hostname: Hostname = None,
    connect: Annotated[
        str, typer.Option(metavar="ADDRESS[:PORT]", help="Connect there instead of to the address of the host name.")
    ] = "",
    namespace: KasmNamespace = "kasm",
    output: FindingsOption = FindingsOutput.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Check an installation of Kasm Workspaces: release, pods, Services, volumes, database, way in, web UI.

    Each line has the expected and the observed value. Status 0: valid (warnings included); 1: not valid; 3: a line
    could not be checked, which does not mean that it passed.
    """
    if connect and not _is_address(connect):
        raise CliError(f"--connect is {connect!r}; allowed: an IP address, or one with a port (a.b.c.d:443)", USAGE)
    found = KubeConnection(namespace=namespace, kubeconfig=kubeconfig, context=context).run(
        lambda client: collect_validate(client, namespace=namespace, hostname=hostname or "", connect=connect)
    )
    findings = validate_installation(found)
    installed = find_installed(found, namespace)
    noted = notes(found) if installed else []
    about = {
        "namespace": namespace,
        "installed": installed.words if installed else "",
        "hostname": found.hostname,
        "notes": noted,
    }
    print_report(Report(tool="vdi kasm validate", findings=findings, context=about, notes=noted), output)
    raise typer.Exit(exit_code(findings))


def _is_address(connect: str) -> bool:
    address, _, port = connect.rpartition(":") if connect.count(":") == 1 else (connect, "", "443")
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return port.isdigit() and 0 < int(port) < 65536
