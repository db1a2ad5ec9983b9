"""`vdi kasm values`: render, check, migrate, secret. What is right is decided in `vdi.kasm`."""

import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
import yaml

from vdi.cli.errors import FINDINGS, USAGE, CliError
from vdi.cli.findings import FindingsOption, FindingsOutput, print_report
from vdi.cli.kasm.chart import CHARTS, NEWEST, GenerationOption, KasmNamespace, VersionOption, generation_of, version_of
from vdi.cli.kasm.files import read_values, write_new
from vdi.cli.options import PROGRAM, examples
from vdi.cli.output import PageOption, PageOutput, columns, print_data
from vdi.findings.model import Finding, exit_code
from vdi.findings.render import Report, count_findings
from vdi.kasm.generations import ALL, Generation
from vdi.kasm.values.check import check_values, looks_like
from vdi.kasm.values.migrate import CannotMigrateError, Migration, migrate
from vdi.kasm.values.migrate_table import Fate
from vdi.kasm.values.options import BadOptionsError, ExternalDatabase, Ingress, InstallOptions, Profile
from vdi.kasm.values.render import render
from vdi.kasm.values.rules import Subject
from vdi.kasm.values.secret import KEYS, secret_manifest

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Values for Kasm's chart: create a file from a few options, check your own, convert to the next generation.",
)


ReleaseOption = Annotated[str, typer.Option("--release", metavar="NAME", help="Name of the Helm release.")]
WriteOption = Annotated[
    Path | None, typer.Option("--write", "-w", metavar="FILE", help="Write here.", show_default="print it")
]
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Your values; - is stdin.")]


@app.command(
    name="render",
    epilog=examples(
        "kasm values render --hostname kasm.example.com --profile 8gb",
        "kasm values render --hostname kasm.example.com --profile 4gb --storage-class local-path -w values.yaml",
        "kasm values render -g B --hostname kasm.example.com --tls-secret kasm-tls --ingress loadbalancer",
        "kasm values render --hostname kasm.example.com --database-host pg.example.com --database-secret pg",
    ),
)
def render_command(
    *,
    hostname: Annotated[str, typer.Option(help="Host name for browsers.")],
    generation: GenerationOption = NEWEST,
    chart_version: VersionOption = None,
    release: ReleaseOption = "kasm",
    size: Annotated[str, typer.Option(help="deploymentSize: small, medium, large.")] = "small",
    profile: Annotated[Profile, typer.Option(help="Size of the machine: the chart's own presets, or one K3s node.")] = (
        Profile.CHART
    ),
    ingress: Annotated[Ingress, typer.Option(help="How browsers connect.")] = Ingress.TRAEFIK,
    storage_class: Annotated[
        str,
        typer.Option(
            help=("StorageClass of the database's volume."), show_default="cluster's default; with 4gb, 8gb local-path"
        ),
    ] = "",
    tls_secret: Annotated[str, typer.Option(help="Secret of type kubernetes.io/tls.")] = "",
    passwords_secret: Annotated[
        str, typer.Option(help="Existing Secret with Kasm's passwords.", show_default="created by the chart")
    ] = "",
    resolver: Annotated[
        str, typer.Option(metavar="ADDRESS", help="DNS of the cluster; required if the chart is only rendered.")
    ] = "",
    database_host: Annotated[str, typer.Option(help="PostgreSQL outside the chart.", show_default="bundled")] = "",
    database_port: Annotated[int, typer.Option(help="Its port.")] = 5432,
    database_secret: Annotated[str, typer.Option(help="Secret with its password, under --database-key.")] = "",
    database_key: Annotated[str, typer.Option(help="Key in that Secret.")] = "db-password",
    database_master_user: Annotated[str, typer.Option(help="User that may create database and user.")] = "",
    database_master_secret: Annotated[
        str, typer.Option(help=("Secret with the password of that user (key password)."))
    ] = "",
    write: WriteOption = None,
) -> None:
    """Create a values file, ordered and commented, from a few options. It contains no passwords."""
    database = ExternalDatabase(
        database_host,
        database_port,
        secret=database_secret,
        key=database_key,
        master_user=database_master_user,
        master_secret=database_master_secret,
    )
    if not database_host and database != ExternalDatabase(""):
        raise CliError("--database-host is missing; the other options of the database are about it", USAGE)
    found = generation_of(generation)
    options = InstallOptions(
        found,
        hostname,
        version=version_of(chart_version),
        release=release,
        size=size,
        profile=profile,
        ingress=ingress,
        storage_class=storage_class,
        database=database if database_host else None,
        tls_secret=tls_secret,
        passwords_secret=passwords_secret,
        resolver=resolver,
    )
    try:
        text = render(options)
    except BadOptionsError as error:
        raise CliError("\n".join(error.problems), USAGE) from error
    if write is None:
        typer.echo(text, nl=False)
        return
    write_new(write, text)
    typer.echo(f"Wrote {write}. Next: {PROGRAM} kasm preflight -g {found.letter} -f {write}", err=True)


@app.command(
    name="check",
    epilog=examples("kasm values check my-values.yaml", "kasm values check my-values.yaml -g B -o json"),
)
def check_command(
    file: FileArgument,
    *,
    generation: GenerationOption = NEWEST,
    chart_version: VersionOption = None,
    rendered: Annotated[
        bool, typer.Option("--rendered", help="The values are used with helm template or GitOps, without a cluster.")
    ] = False,
    output: FindingsOption = FindingsOutput.TEXT,
) -> None:
    """Check your values file against the chart: keys that it does not read, invalid values, and conflicts.

    Status 0: no problems, or only warnings; 1: errors.
    """
    found, version = generation_of(generation), version_of(chart_version)
    subject = Subject(found, version or found.newest, read_values(file), rendered)
    findings = check_values(subject)
    other = looks_like(subject)
    report = Report(
        tool="vdi kasm values check",
        findings=findings,
        summary=_summary(findings, subject),
        context={"chart": _chart(subject), "looksLike": other.letter if other else None},
        notes=[_hint(other, found)] if other else [],
    )
    print_report(report, output)
    raise typer.Exit(exit_code(findings))


@app.command(
    name="migrate",
    epilog=examples(
        "kasm values migrate old.yaml --from A --to C -w new.yaml",
        "helm get values kasm -n kasm | vdi kasm values migrate - --from B --to C",
    ).replace("vdi helm get", "helm get"),
)
def migrate_command(
    file: FileArgument,
    *,
    source: Annotated[str, typer.Option("--from", metavar="GENERATION", help=f"Generation of the file: {CHARTS}.")],
    target: Annotated[
        str,
        typer.Option("--to", metavar="GENERATION", help="Generation of the target chart: a later one, or the same."),
    ] = NEWEST,
    chart_version: VersionOption = None,
    write: WriteOption = None,
    output: PageOption = PageOutput.TABLE,
) -> None:
    """Convert a values file from one generation of the chart to a later one. The report goes to stderr.

    Status 0: done; 1: done, and some values must be converted manually.
    """
    old, new, version = generation_of(source), generation_of(target), version_of(chart_version)
    try:
        done = migrate(read_values(file), old, new, version)
    except CannotMigrateError as error:
        raise CliError(str(error), USAGE) from error
    text = yaml.safe_dump(done.values, sort_keys=False, allow_unicode=True)
    if write is not None:
        write_new(write, text)
    if output is PageOutput.JSON:
        notes = [
            {"fate": note.fate.value, "path": note.path, "newPath": note.new_path, "why": note.why}
            for note in done.notes
        ]
        print_data({"values": done.values, "notes": notes}, output)
    else:
        for line in _migration_lines(done):
            typer.echo(line, err=True)
        if write is None:
            typer.echo(text, nl=False)
    raise typer.Exit(FINDINGS if done.of(Fate.PERSON) else 0)


@app.command(
    name="secret",
    epilog=examples(
        "kasm values secret -n kasm -w passwords.yaml",
        "kasm values secret -n kasm | kubectl apply -f -",
        "kasm values secret -n kasm --from mine.yaml -w passwords.yaml",
    ),
)
def secret_command(
    *,
    namespace: KasmNamespace = "kasm",
    release: ReleaseOption = "kasm",
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="YAML with some of the passwords; the others are generated."),
    ] = None,
    write: WriteOption = None,
) -> None:
    """Create the Secret with Kasm's passwords, as a manifest, for --passwords-secret. Never shown on a terminal."""
    given = read_values(source) if source else {}
    try:
        manifest = secret_manifest(f"{release}-secrets", namespace, given, secrets.choice)
    except ValueError as error:
        raise CliError(f"--from {source}: {error}", USAGE) from error
    text = yaml.safe_dump(manifest, sort_keys=False)
    if write is not None:
        write_new(write, text, private=True)
        typer.echo(f"Wrote {write} (only you can read it): {', '.join(KEYS)}.", err=True)
        typer.echo(f"Next: kubectl apply -f {write}, then --passwords-secret {release}-secrets", err=True)
    elif sys.stdout.isatty():
        raise CliError("passwords are not shown on a terminal: --write FILE, or pipe them into kubectl", USAGE)
    else:
        typer.echo(text, nl=False)


def _chart(subject: Subject) -> str:
    return f"{subject.generation.chart} {'.'.join(map(str, subject.version))}"


def _summary(findings: Sequence[Finding], subject: Subject) -> str:
    if not findings:
        return f"These values have no problems for chart {_chart(subject)}."
    return f"{count_findings(findings)}, for chart {_chart(subject)}."


def _hint(other: Generation, meant: Generation) -> str:
    """These are values of another generation."""
    carry = f", or convert them: {PROGRAM} kasm values migrate --from {other.letter} --to {meant.letter}"
    forward = ALL.index(other) < ALL.index(meant)
    return (
        f"These look like values of generation {other.letter} ({other.chart}): check them with -g {other.letter}"
        f"{carry if forward else ''}"
    )


def _migration_lines(done: Migration) -> list[str]:
    order = [Fate.PERSON, Fate.DROPPED, Fate.ADDED, Fate.RENAMED, Fate.KEPT]
    rows = [
        [note.fate.value, note.path, note.new_path if note.new_path != note.path else "", note.why]
        for fate in order
        for note in done.of(fate)
    ]
    counts = ", ".join(f"{len(done.of(fate))} {fate.value}" for fate in order if done.of(fate))
    return [*columns(["FATE", "VALUE", "NOW", "WHY"], rows), "", f"{counts or 'no values'}.", ""]
