"""`vdi kasm values`: render and check. What is right is decided in `vdi.kasm.values`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from vdi.cli.errors import USAGE, CliError
from vdi.cli.findings import FindingsOption, FindingsOutput, print_report
from vdi.cli.kasm.options import (
    NEWEST,
    GenerationOption,
    ReleaseOption,
    VersionOption,
    generation_of,
    read_values,
    version_of,
)
from vdi.cli.options import PROGRAM, examples
from vdi.findings.model import Finding, exit_code
from vdi.findings.render import Report, count_findings
from vdi.kasm.values.check import Subject, check_values
from vdi.kasm.values.profiles import CHART, PROFILES, profile_of
from vdi.kasm.values.render import BadOptionsError, Ingress, InstallOptions, render
from vdi.new_file import NewFileError, new_file

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Values for Kasm's chart: create a file from a few options, or check your own.",
)
_PROFILES = ", ".join(f"{each.name} ({each.node or 'the presets of the chart'})" for each in PROFILES)


@app.command(
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


@app.command(
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
