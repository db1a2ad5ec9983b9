"""`vdi kasm`: values, preflight, install and validate. `diagnose` has a module of its own.

The judgement is in `vdi.kasm.preflight`, `vdi.kasm.validate` and `vdi.kasm.values`.
"""

import asyncio
import ipaddress
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from vdi.cli.cluster import INTERRUPTED
from vdi.cli.errors import FINDINGS, USAGE, CliError
from vdi.cli.findings import FindingsOption, FindingsOutput, print_report
from vdi.cli.helm_options import DryRun, Timeout, ValuesFiles, files_that_are, where
from vdi.cli.kasm.diagnose import app as diagnose_command
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
from vdi.cli.options import PROGRAM, Context, Kubeconfig, KubeConnection, examples
from vdi.findings.model import Finding, errors, exit_code
from vdi.findings.render import Report, count_findings
from vdi.helm import arguments
from vdi.helm.arguments import Change, Values
from vdi.helm.errors import HelmFailedError, HelmInterruptedError
from vdi.helm.run import run_helm
from vdi.kasm.collect import collect_preflight, collect_validate
from vdi.kasm.install import after_failure, source_of, version_in_folder
from vdi.kasm.preflight.checks import find_installed, run_checks
from vdi.kasm.preflight.needs import PlannedRelease, plan_of_values
from vdi.kasm.validate import notes
from vdi.kasm.validate import validate as validate_installation
from vdi.kasm.values.check import Subject, check_values
from vdi.kasm.values.render import CHART, PROFILES, BadOptionsError, Ingress, InstallOptions, profile_of, render
from vdi.new_file import NewFileError, new_file

checklist_commands = typer.Typer(rich_markup_mode=None, add_completion=False)


@checklist_commands.command(
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


@checklist_commands.command(
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
    except (HelmFailedError, HelmInterruptedError) as error:
        code = INTERRUPTED if isinstance(error, HelmInterruptedError) else FINDINGS
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


@checklist_commands.command(
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


values_commands = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Values for Kasm's chart: create a file from a few options, or check your own.",
)
_PROFILES = ", ".join(f"{each.name} ({each.node or 'the presets of the chart'})" for each in PROFILES)


@values_commands.command(
    name="render",
    epilog=examples(
        "kasm values render --hostname kasm.example.com --profile 8gb --tls-secret kasm-tls",
        "kasm values render --hostname kasm.example.com --profile 4gb --tls-secret kasm-tls -w values.yaml",
        "kasm values render -g A --hostname kasm.example.com --storage-class local-path",
    ),
)
def render_command(
    *,
    hostname: Annotated[str, typer.Option(help="Host name for browsers.")],
    generation: GenerationOption = NEWEST,
    chart_version: VersionOption = None,
    release: ReleaseOption = "kasm",
    size: Annotated[str, typer.Option(help="deploymentSize: small, medium, large.")] = "small",
    profile: Annotated[str, typer.Option(help=f"The machine: {_PROFILES}.")] = CHART.name,
    ingress: Annotated[Ingress, typer.Option(help="How browsers connect.")] = Ingress.TRAEFIK,
    storage_class: Annotated[
        str,
        typer.Option(
            help="StorageClass of the database's volume.", show_default="cluster's default; with 4gb, 8gb local-path"
        ),
    ] = "",
    tls_secret: Annotated[str, typer.Option(help="Secret of type kubernetes.io/tls.")] = "",
    write: Annotated[
        Path | None, typer.Option("--write", "-w", metavar="FILE", help="Write here.", show_default="print it")
    ] = None,
) -> None:
    """Create a values file, ordered and commented, from a few options. It contains no passwords."""
    found = generation_of(generation)
    try:
        options = InstallOptions(
            found,
            hostname,
            version=version_of(chart_version),
            release=release,
            size=size,
            profile=profile_of(profile),
            ingress=ingress,
            storage_class=storage_class,
            tls_secret=tls_secret,
        )
        text = render(options)
    except (BadOptionsError, ValueError) as error:
        raise CliError(str(error), USAGE) from error
    if write is None:
        typer.echo(text, nl=False)
        return
    if write.exists():
        raise CliError(f"{write} already exists; name another file, or remove it", USAGE)
    try:
        with new_file(write) as stream:
            stream.write(text.encode())
    except (NewFileError, OSError) as error:
        raise CliError(f"{error}; name another file") from error
    typer.echo(f"Wrote {write}. Next: {PROGRAM} kasm preflight -g {found.letter} -f {write}", err=True)


@values_commands.command(
    name="check", epilog=examples("kasm values check my-values.yaml", "kasm values check my-values.yaml -g B -o json")
)
def check_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Your values; - is stdin.")],
    *,
    generation: GenerationOption = NEWEST,
    chart_version: VersionOption = None,
    output: FindingsOption = FindingsOutput.TEXT,
) -> None:
    """Check your values file against the chart: keys that it does not read, and values that do harm.

    Status 0: no problems, or only warnings; 1: errors.
    """
    found, version = generation_of(generation), version_of(chart_version)
    subject = Subject(found, version or found.newest, read_values([file]))
    findings = check_values(subject)
    report = Report(
        tool="vdi kasm values check",
        findings=findings,
        summary=_summary(findings, subject),
        context={"chart": subject.chart_words},
    )
    print_report(report, output)
    raise typer.Exit(exit_code(findings))


def _summary(findings: Sequence[Finding], subject: Subject) -> str:
    if not findings:
        return f"These values have no problems for chart {subject.chart_words}."
    return f"{count_findings(findings)}, for chart {subject.chart_words}."


app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Kasm Workspaces on K3s: check the cluster, create values, install, validate, diagnose.",
)
app.add_typer(values_commands, name="values")
app.add_typer(checklist_commands)
app.add_typer(diagnose_command)
