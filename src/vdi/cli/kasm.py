"""`vdi kasm`: Kasm Workspaces on K3s: preflight, values, install, validate and diagnose.

The judgement is in `vdi.kasm`; the diagnosis also uses the doctor's snapshot and bundles.
"""

import asyncio
import difflib
import ipaddress
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from vdi.cli.doctor import read_bundle, save_bundle
from vdi.cli.errors import FINDINGS, INTERRUPTED, USAGE, CliError
from vdi.cli.findings import FindingsOption, FindingsOutput, print_report
from vdi.cli.helm_options import Timeout, ValuesFiles, existing_files, release_options
from vdi.cli.options import (
    CLUSTER_OPTIONS,
    PROGRAM,
    DryRun,
    KubeConnection,
    examples,
    new_app,
    read_yaml,
    replace_parameter,
)
from vdi.doctor.checks.infrastructure import nodes_unwell
from vdi.doctor.checks.run import run_checks
from vdi.doctor.collect import collect
from vdi.findings.model import Finding, Severity, errors, exit_code
from vdi.findings.render import Report, count_findings
from vdi.helm import arguments
from vdi.helm.arguments import Change, Values
from vdi.helm.errors import HelmFailedError, HelmInterruptedError
from vdi.helm.run import run_helm
from vdi.kasm.collect import collect_preflight, collect_validate
from vdi.kasm.diagnosis.chains import all_links, kasm_chains
from vdi.kasm.generations import ALL, by_letter, parse_version
from vdi.kasm.generations.model import Generation, Version
from vdi.kasm.install import after_failure, source_of, version_in_folder
from vdi.kasm.installation import Installation, find_kasm, is_kasms
from vdi.kasm.preflight.checks import run_checks as run_preflight
from vdi.kasm.preflight.needs import PlannedRelease, plan_of_values
from vdi.kasm.validate import notes
from vdi.kasm.validate import validate as validate_installation
from vdi.kasm.values.check import Subject, check_values
from vdi.kasm.values.render import (
    CHART,
    PROFILES,
    BadOptionsError,
    Ingress,
    InstallOptions,
    merged,
    profile_of,
    render,
)
from vdi.kube.clock import SYSTEM_CLOCK
from vdi.new_file import NewFileError, new_file
from vdi.snapshot.dns import dns_down
from vdi.snapshot.model import Scope, Snapshot
from vdi.snapshot.redact import redact

app = new_app(
    "Kasm Workspaces on K3s: check the cluster, create values, install, validate, diagnose."
)
values_commands = new_app(
    "Values for Kasm's chart: create a file from a few options, or check your own."
)
app.add_typer(values_commands, name="values")

CHECKS = (nodes_unwell, dns_down, kasm_chains)
_PROFILES = ", ".join(
    f"{each.name} ({each.node or 'the presets of the chart'})" for each in PROFILES
)
NEWEST = ALL[-1].letter
CHARTS = ", ".join(f"{generation.letter} ({generation.chart})" for generation in ALL)
GenerationOption = Annotated[
    str, typer.Option("--generation", "-g", help=f"Generation of the chart: {CHARTS}.")
]
VersionOption = Annotated[
    str | None,
    typer.Option(
        "--chart-version",
        metavar="VERSION",
        help="Version of the chart.",
        show_default="newest known",
    ),
]
ReleaseOption = Annotated[
    str, typer.Option("--release", metavar="NAME", help="Name of the Helm release.")
]
KasmNamespace = Annotated[
    str,
    typer.Option(
        "--namespace", "-n", envvar="VDI_KASM_NAMESPACE", help="Namespace of Kasm Workspaces."
    ),
]
with_kasm = replace_parameter(
    {"namespace": (KasmNamespace, "kasm"), **CLUSTER_OPTIONS}, KubeConnection
)
KasmValues = Annotated[
    list[Path] | None,
    typer.Option(
        "--values",
        "-f",
        metavar="FILE",
        help="Your values; the last file takes precedence. - is stdin.",
    ),
]
Hostname = Annotated[
    str | None,
    typer.Option(help="Host name for browsers.", show_default="the host name that is configured"),
]


def generation_of(letter: str) -> Generation:
    """The generation that was typed, by letter or by its chart's name."""
    try:
        return by_letter(letter)
    except ValueError as error:
        raise CliError(str(error), USAGE) from error


def version_of(text: str | None) -> Version | None:
    """The version that was typed; None for none."""
    try:
        return parse_version(text) if text else None
    except ValueError as error:
        raise CliError(f"--chart-version: {error}", USAGE) from error


def read_values(files: list[Path] | None) -> dict[str, Any]:
    """All files together, as helm merges them."""
    return merged(*(read_yaml(file) for file in files or ()))


@values_commands.command(
    name="render",
    epilog=examples(
        "kasm values render --hostname kasm.example.com --profile 8gb --tls-secret kasm-tls",
        "kasm values render --hostname kasm.example.com --profile 4gb --tls-secret kasm-tls -w"
        " values.yaml",
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
            help="StorageClass of the database's volume.",
            show_default="cluster's default; with 4gb, 8gb local-path",
        ),
    ] = "",
    tls_secret: Annotated[str, typer.Option(help="Secret of type kubernetes.io/tls.")] = "",
    write: Annotated[
        Path | None,
        typer.Option("--write", "-w", metavar="FILE", help="Write here.", show_default="print it"),
    ] = None,
) -> None:
    """Create a values file, ordered and commented, from a few options. It contains no passwords."""
    selected = generation_of(generation)
    try:
        options = InstallOptions(
            selected,
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
    typer.echo(
        f"Wrote {write}. Next: {PROGRAM} kasm preflight -g {selected.letter} -f {write}", err=True
    )


@values_commands.command(
    name="check",
    epilog=examples(
        "kasm values check my-values.yaml", "kasm values check my-values.yaml -g B -o json"
    ),
)
def check_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Your values; - is stdin.")],
    *,
    generation: GenerationOption = NEWEST,
    chart_version: VersionOption = None,
    output: FindingsOption = FindingsOutput.TEXT,
) -> None:
    """Check your values file against the chart: keys that it does not read, and values that do
    harm.

    Status 0: no problems, or only warnings; 1: errors.
    """
    selected, version = generation_of(generation), version_of(chart_version)
    subject = Subject(selected, version or selected.newest, read_values([file]))
    findings = check_values(subject)
    report = Report(
        tool="vdi kasm values check",
        findings=findings,
        summary=_summarize_values(findings, subject),
        context={"chart": subject.chart_words},
    )
    print_report(report, output)
    raise typer.Exit(exit_code(findings))


def _summarize_values(findings: Sequence[Finding], subject: Subject) -> str:
    if not findings:
        return f"These values have no problems for chart {subject.chart_words}."
    return f"{count_findings(findings)}, for chart {subject.chart_words}."


@app.command(
    epilog=examples(
        "kasm preflight --hostname kasm.example.com",
        "kasm preflight -f my-values.yaml",
        "kasm preflight --generation B -f my-values.yaml -o json",
    )
)
@with_kasm
def preflight(
    connection: KubeConnection,
    *,
    generation: GenerationOption = NEWEST,
    chart_version: VersionOption = None,
    values: KasmValues = None,
    hostname: Hostname = None,
    ingress: Annotated[
        Ingress | None,
        typer.Option(
            help="How browsers connect: the cluster's Traefik, or a LoadBalancer.",
            show_default="the values' setting",
        ),
    ] = None,
    output: FindingsOption = FindingsOutput.TEXT,
) -> None:
    """Check whether this cluster can run Kasm Workspaces; each item has observed and expected value
    and a fix.

    Requests are compared with the free capacity of the nodes. Status 0: it can (warnings included);
    1: it cannot; 3: an item could not be checked, which does not mean that it passed.
    """
    planned = _planned(generation, chart_version, read_values(values), connection.namespace)
    planned = replace(
        planned, hostname=hostname or planned.hostname, ingress=ingress or planned.ingress
    )
    findings, _ = _checked(connection, planned)
    _report("preflight", findings, planned, output)
    raise typer.Exit(exit_code(findings))


@app.command(
    epilog=examples(
        "kasm install -f values.yaml",
        "kasm install -f values.yaml --chart-version 1.1190.6 --dry-run",
        "kasm install -g A --chart ./kasm-helm/kasm-single-zone -f values.yaml",
    )
)
@with_kasm
def install(
    connection: KubeConnection,
    *,
    values: ValuesFiles = None,
    generation: GenerationOption = NEWEST,
    chart_version: VersionOption = None,
    chart: Annotated[
        str,
        typer.Option(
            metavar="CHART", help="Folder, archive or address.", show_default="the published one"
        ),
    ] = "",
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ITEM", help="Go on although this item of the preflight fails, such as dns."
        ),
    ] = None,
    release: ReleaseOption = "kasm",
    timeout: Timeout = "20m",
    dry_run: DryRun = False,
    output: FindingsOption = FindingsOutput.TEXT,
) -> None:
    """Install Kasm Workspaces, or upgrade it: check values and cluster, then run helm upgrade
    --install.

    Status 1: something stands in the way, or helm failed; 130: interrupted. Nothing is undone: the
    output names the command that does.
    """
    files = existing_files(values)
    if not files:
        raise CliError("-f is missing: values are needed; vdi kasm values render makes them", USAGE)
    at = release_options(connection, release, timeout, output)
    selected = generation_of(generation)
    try:
        chart_version = version_in_folder(chart) or chart_version
        source, more = source_of(selected, version_of(chart_version), chart)
    except ValueError as error:
        raise CliError(str(error), USAGE) from error
    chart_values = read_values(list(files))
    planned = _planned(generation, chart_version, chart_values, connection.namespace, release)
    wrong = check_values(Subject(selected, planned.version, chart_values))
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
        if isinstance(error, HelmInterruptedError):
            code = INTERRUPTED
        else:
            code = FINDINGS
        raise CliError(f"{error}\n{after_failure(change, was_there=was_there)}", code) from error
    typer.echo(
        f"Helm: everything is ready. Next: {PROGRAM} kasm validate {at.place.options}", err=True
    )


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
    collected = connection.run(lambda client: collect_preflight(client, planned))
    return run_preflight(collected), collected.installed is not None


def _report(
    command: str, findings: list[Finding], planned: PlannedRelease, output: FindingsOutput
) -> None:
    about = {
        "chart": planned.needs.source,
        "hostname": planned.hostname,
        "ingress": planned.ingress,
    }
    print_report(Report(tool=f"vdi kasm {command}", findings=findings, context=about), output)


@app.command(
    epilog=examples(
        "kasm validate",
        "kasm validate --namespace kasm --hostname kasm.example.com -o json",
        "kasm validate --connect 192.0.2.10:443",
    )
)
@with_kasm
def validate(
    connection: KubeConnection,
    *,
    hostname: Hostname = None,
    connect: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS[:PORT]",
            help="Connect there instead of to the address of the host name.",
        ),
    ] = "",
    output: FindingsOption = FindingsOutput.TEXT,
) -> None:
    """Check an installation of Kasm Workspaces: release, pods, Services, volumes, database, way in,
    web UI.

    Each line has the expected and the observed value. Status 0: valid (warnings included); 1: not
    valid; 3: a line could not be checked, which does not mean that it passed.
    """
    if connect and not _is_address(connect):
        raise CliError(
            f"--connect is {connect!r}; allowed: an IP address, or one with a port (a.b.c.d:443)",
            USAGE,
        )
    namespace = connection.namespace
    validation = connection.run(
        lambda client: collect_validate(
            client, namespace=namespace, hostname=hostname or "", connect=connect
        )
    )
    findings = validate_installation(validation)
    installed = validation.kasm.installed
    noted = notes(validation) if installed else []
    about = {
        "namespace": namespace,
        "installed": installed.words if installed else "",
        "hostname": validation.hostname,
        "notes": noted,
    }
    print_report(
        Report(tool="vdi kasm validate", findings=findings, context=about, notes=noted), output
    )
    raise typer.Exit(exit_code(findings))


def _is_address(connect: str) -> bool:
    if connect.count(":") == 1:
        address, _, port = connect.rpartition(":")
    else:
        address, _, port = connect, "", "443"
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return port.isdigit() and 0 < int(port) < 65536


@app.command(
    epilog=examples(
        "kasm diagnose",
        "kasm diagnose kasm-proxy-default-deployment",
        "kasm diagnose --namespace kasm -o json",
        "kasm diagnose --bundle kasm.json",
        "kasm diagnose --from kasm.json",
    )
)
@with_kasm
def diagnose(
    connection: KubeConnection,
    pod: Annotated[
        str | None,
        typer.Argument(
            help="Only this pod, or the pods of this workload, and everything that they wait for."
        ),
    ] = None,
    *,
    output: FindingsOption = FindingsOutput.TEXT,
    bundle: Annotated[
        Path | None,
        typer.Option(
            "--bundle",
            metavar="FILE",
            help="Save the collected data in this file, without secrets and names.",
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="Check a bundle instead of a cluster."),
    ] = None,
) -> None:
    """Find out why pods of Kasm are stuck, as in Init:1/5: what each waits for, the cause, and how
    to fix it.

    Identify an init container by its name: the same number is a different one in another chart.
    Changes nothing. Status 0: no problems; 1: findings; 3: something could not be checked, which
    does not mean that it passed.
    """
    scope = Scope(connection.namespace, kasm=True)
    if source:
        snapshot = read_bundle(source)
    else:
        snapshot = connection.run(lambda client: collect(client, scope, SYSTEM_CLOCK, CHECKS))
    if bundle:
        save_bundle(redact(snapshot), bundle)
    places = find_kasm(snapshot)
    findings, starting = _findings(snapshot), _starting(snapshot)
    if "pods" not in snapshot.unreadable_kinds:
        _require_pods(snapshot, places, connection.namespace)
    if pod is not None:
        findings, starting = _about(places, pod, findings, starting)
    report = Report(
        tool="vdi kasm diagnose",
        findings=findings,
        summary=_summary(places, findings, starting),
        warnings_fail=True,
        context=_context(snapshot, places, starting),
        notes=[f"starting {finding.object}\n  {finding.message}" for finding in starting],
        timestamp=snapshot.taken_at,
    )
    print_report(report, output)
    raise typer.Exit(exit_code(findings, warnings_fail=report.warnings_fail))


def _findings(snapshot: Snapshot) -> list[Finding]:
    """Findings of the checks. Kinds that no check of Kasm reads need not be readable."""
    needed = {f"kind/{kind}" for check in CHECKS for kind in check.needs}
    return [
        finding
        for finding in run_checks(snapshot, CHECKS)
        if finding.code != "not_readable" or finding.object in needed
    ]


def _starting(snapshot: Snapshot) -> list[Finding]:
    """Pods that are not ready, with which nothing is wrong yet."""
    if snapshot.unreadable_kinds & kasm_chains.needs:
        return []
    return [
        link.finding
        for link in all_links(snapshot)
        if link.is_starting and link.finding.object.startswith("pod/")
    ]


def _require_pods(snapshot: Snapshot, places: Iterable[Installation], namespace: str) -> None:
    if any(place.pods or place.workloads for place in places):
        return
    elsewhere = {pod.metadata.namespace for pod in snapshot.pods if is_kasms(pod)}
    hint = ""
    if elsewhere:
        hint = f"; it is in {', '.join(sorted(elsewhere))}: name it with --namespace"
    raise CliError(f"there is no Kasm in namespace {namespace}{hint}")


def _about(
    places: Iterable[Installation], pod: str, findings: list[Finding], starting: list[Finding]
) -> tuple[list[Finding], list[Finding]]:
    """Findings about this pod with their causes, and its starting containers. Raises CliError for
    an unknown pod.
    """
    chosen = _choose_pods(places, pod)
    by_key = {finding.key: finding for finding in findings}
    kept: set[str] = set()
    for finding in findings:
        if _name(finding) in chosen or _name(finding) == pod:
            key = finding.key
            while key in by_key and key not in kept:
                kept.add(key)
                key = by_key[key].caused_by
    related = [
        finding
        for finding in findings
        if finding.key in kept or finding.severity is Severity.UNKNOWN
    ]
    return related, [finding for finding in starting if _name(finding) in chosen]


def _name(finding: Finding) -> str:
    """The name of its object."""
    return finding.object.rpartition("/")[2]


def _choose_pods(places: Iterable[Installation], pod: str) -> list[str]:
    """Names of the pods that were meant: this one, or those of the workload of this name."""
    pods, workloads = [], []
    for kasm in places:
        pods += [each.name for each in kasm.pods]
        workloads += [each.name for each in kasm.workloads]
    if pod in workloads:
        return [name for name in pods if name == pod or name.startswith(f"{pod}-")]
    if pod in pods:
        return [pod]
    near = difflib.get_close_matches(pod, [*pods, *workloads], n=2)
    hint = f"; available: {', '.join(pods) or 'none'}"
    if near:
        hint = f"; did you mean {' or '.join(near)}?"
    raise CliError(f"Kasm has no pod or workload {pod}{hint}")


def _summary(
    places: Iterable[Installation], findings: list[Finding], starting: list[Finding]
) -> str:
    checked = "; ".join(_words(place) for place in places)
    result = "no problems found"
    if findings:
        result = count_findings(findings)
    elif starting:
        result = f"{len(starting)} pods are starting, and they have no problems so far"
    return f"Checked {checked}: {result}."


def _words(kasm: Installation) -> str:
    ready = sum(pod.ready for pod in kasm.pods)
    if kasm.generation:
        generation = f", generation {kasm.generation.letter}"
    else:
        generation = ", an unknown chart"
    return (
        f"{len(kasm.pods)} pods in {kasm.namespace} ({kasm.chart or 'no chart label'}{generation}),"
        f" {ready} ready"
    )


def _context(
    snapshot: Snapshot, places: Iterable[Installation], starting: list[Finding]
) -> dict[str, Any]:
    return {
        "takenAt": snapshot.taken_at,
        "namespaces": [
            {
                "namespace": place.namespace,
                "chart": place.chart,
                "generation": place.generation.letter if place.generation else "",
                "pods": len(place.pods),
                "ready": sum(pod.ready for pod in place.pods),
            }
            for place in places
        ],
        "starting": [
            {"object": finding.object, "message": finding.message} for finding in starting
        ],
    }
