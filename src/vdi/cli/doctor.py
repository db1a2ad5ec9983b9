"""`vdi doctor`: what is broken, where, and how to mend it. What is looked at and judged is in `vdi.doctor`."""

import difflib
import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from vdi.cli.failures import COULD_NOT_LOOK, FINDINGS, USAGE, CommandFailedError
from vdi.cli.options import Target, examples, on_cluster
from vdi.doctor.codes import CODES
from vdi.doctor.collect import collect
from vdi.doctor.examine import examine
from vdi.doctor.finding import Finding, Severity
from vdi.doctor.page import explain_code
from vdi.doctor.redact import redact
from vdi.doctor.render import as_data, as_junit, as_sarif, as_text
from vdi.doctor.snapshot import BadSnapshotError, Scope, Snapshot, load, save
from vdi.kube.clock import SYSTEM_CLOCK

app = typer.Typer(rich_markup_mode=None, add_completion=False)


class Output(StrEnum):
    """How findings are printed."""

    TEXT = "text"
    JSON = "json"
    JUNIT = "junit"
    SARIF = "sarif"


@app.command(
    epilog=examples(
        "doctor",
        "doctor alice-desktop",
        "doctor --all -o json",
        "doctor --bundle cluster.json",
        "doctor --from cluster.json",
        "doctor --explain gpu_config_not_read",
    )
)
@on_cluster
def doctor(
    target: Target,
    session: Annotated[str | None, typer.Argument(help="Only this session, and all that it hangs on.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Sessions of all namespaces.")] = False,
    output: Annotated[Output, typer.Option("--output", "-o", help="What to print.")] = Output.TEXT,
    bundle: Annotated[
        Path | None,
        typer.Option(
            "--bundle", metavar="FILE", help="Save what was looked at here, without secrets and people's names."
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="Look at a bundle in the place of a cluster."),
    ] = None,
    explain: Annotated[str | None, typer.Option("--explain", metavar="CODE", help="What a code means.")] = None,
) -> None:
    """What is broken, where, with the proof and the command that mends it. It changes nothing.

    Causes come first, what follows from them is folded under them.
    Status 0: nothing is wrong; 1: findings; 3: something could not be looked at, which is never a pass.
    """
    if explain is not None:
        _explain(explain)
        return
    if everything and session:
        raise CommandFailedError(f"--all cannot go with a session ({session}): name its namespace with -n", USAGE)
    scope = Scope("" if everything else target.namespace, session or "")
    snapshot = _replay(source, session) if source else target.run(lambda client: collect(client, scope, SYSTEM_CLOCK))
    if session and not snapshot.sessions and "vdisessions" not in snapshot.unread_kinds | set(snapshot.absent):
        raise CommandFailedError(f"there is no session {session} in namespace {snapshot.scope.namespace}")
    if bundle:
        _save(redact(snapshot), bundle)
    findings = examine(snapshot)
    _print(findings, snapshot, output)
    raise typer.Exit(_code_of(findings))


def _explain(code: str) -> None:
    if code not in CODES:
        near = difflib.get_close_matches(code, CODES, n=3)
        hint = f"; perhaps {' or '.join(near)} is meant" if near else f"; allowed: {', '.join(CODES)}"
        raise CommandFailedError(f"--explain: there is no code {code!r}{hint}", USAGE)
    typer.echo("\n".join([f"{code}", "", *explain_code(CODES[code])]))


def _replay(source: Path, session: str | None) -> Snapshot:
    try:
        snapshot = load(source.read_bytes())
    except (OSError, BadSnapshotError) as error:
        raise CommandFailedError(f"--from {source}: {error}", COULD_NOT_LOOK) from error
    if session is None:
        return snapshot
    return msgspec.structs.replace(snapshot, scope=Scope(snapshot.scope.namespace, session))


def _save(snapshot: Snapshot, file: Path) -> None:
    try:
        file.write_bytes(save(snapshot))
    except OSError as error:
        raise CommandFailedError(f"--bundle {file}: {error}", COULD_NOT_LOOK) from error


def _print(findings: list[Finding], snapshot: Snapshot, output: Output) -> None:
    match output:
        case Output.JSON:
            typer.echo(json.dumps(as_data(findings, snapshot), indent=2))
        case Output.JUNIT:
            typer.echo(as_junit(findings, snapshot))
        case Output.SARIF:
            typer.echo(as_sarif(findings))
        case Output.TEXT:
            colours = {"ERROR": typer.colors.RED, "WARNING": typer.colors.YELLOW, "UNKNOWN": typer.colors.MAGENTA}
            for line in as_text(findings, snapshot):
                colour = colours.get(line.split(" ", 1)[0])
                typer.echo(typer.style(line, fg=colour, bold=True) if colour else line)


def _code_of(findings: list[Finding]) -> int:
    severities = {one.severity for one in findings}
    if severities & {Severity.ERROR, Severity.WARNING}:
        return FINDINGS
    return COULD_NOT_LOOK if severities else 0
