"""`vdi doctor`: options, report and fixes on request. The checks are in `vdi.doctor`.

`--fix` shows each change that fixes a finding, asks, and makes that change alone.
"""

import asyncio
import difflib
import re
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from vdi.cli.errors import COULD_NOT_LOOK, USAGE, CliError
from vdi.cli.findings import FindingsOption, FindingsOutput, print_report
from vdi.cli.options import PROGRAM, KubeConnection, examples, new_app, with_connection
from vdi.cli.terminal import confirm, style
from vdi.doctor.checks.run import CHECKS, UNPRIVILEGED, rank, run_checks
from vdi.doctor.codes import CODES
from vdi.doctor.collect import collect, prepare_fix
from vdi.doctor.fixes import FIXES
from vdi.doctor.probe.run import probe
from vdi.doctor.report import explain_code, make_report, record_of, to_patch
from vdi.findings.model import Finding, exit_code, roots
from vdi.gpu.cluster import apply_change
from vdi.gpu.sharing.changes import Change, diff_lines
from vdi.kube.clock import SYSTEM_CLOCK
from vdi.kube.errors import Conflict, NotFound
from vdi.kube.resource import CONFIG_MAPS
from vdi.kube.transport import Client
from vdi.snapshot.model import BadSnapshotError, Scope, Snapshot, load, save
from vdi.snapshot.redact import redact

app = new_app()
_MADE = "Done."
_COLOURS = {"+": typer.colors.GREEN, "-": typer.colors.RED}


@app.command(
    epilog=examples(
        "doctor",
        "doctor alice-desktop",
        "doctor --all -o json",
        "doctor --bundle cluster.json",
        "doctor --from cluster.json",
        "doctor --explain gpu_config_not_read",
        "doctor --fix",
        "doctor --probe alice-desktop",
        "doctor --all --record vdi-system/vdi-doctor",
    )
)
@with_connection
def doctor(
    connection: KubeConnection,
    session: Annotated[
        str | None, typer.Argument(help="Only this session and its dependencies.")
    ] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Sessions of all namespaces.")] = False,
    output: FindingsOption = FindingsOutput.TEXT,
    bundle: Annotated[
        Path | None,
        typer.Option(
            "--bundle",
            metavar="FILE",
            help="Save the collected data in this file, without secrets and user names.",
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="Check a bundle instead of a cluster."),
    ] = None,
    explain: Annotated[
        str | None, typer.Option("--explain", metavar="CODE", help="Explain a code.")
    ] = None,
    fix: Annotated[
        bool,
        typer.Option(
            "--fix", help="Fix problems that need no decision: shows each change and asks."
        ),
    ] = False,
    tries: Annotated[
        bool,
        typer.Option(
            "--probe",
            help=(
                "Try the connection to a desktop, TURN, and a pod with a volume, which is created"
                " and removed; up "
                "to 2 minutes."
            ),
        ),
    ] = False,
    record: Annotated[
        str | None,
        typer.Option(
            "--record",
            metavar="NAMESPACE/NAME",
            help=(
                "Store the counts in this existing ConfigMap: the gateway's metrics show them. The"
                " exit status is "
                "then 0."
            ),
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Don't ask before changes of --fix.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print evidence in full.")
    ] = False,
) -> None:
    """Find what is broken and where, with evidence and the command that fixes it. Changes nothing
    without --fix.

    Each cause is listed first, with its consequences below it. Status 0: no problems; 1: findings;
    3: something could not be checked, which does not mean that it passed.
    """
    if explain is not None:
        _explain(explain)
        return
    _refuse_together(
        (
            everything and session,
            f"--all cannot go with a session ({session}): name its namespace with -n",
        ),
        (
            fix and (source or output is not FindingsOutput.TEXT),
            "--fix cannot go with --from or -o: it asks a person",
        ),
        (
            record is not None and not re.fullmatch(r"[^/]+/[^/]+", record),
            f"--record {record}: allowed: NAMESPACE/NAME",
        ),
        (
            record is not None and source,
            "--record cannot go with --from: it is about a cluster as it is now",
        ),
        (tries and source, "--probe cannot go with --from: it tries a cluster"),
        (yes and not fix, "--yes is for --fix"),
    )
    scope = Scope("" if everything else connection.namespace, session or "")
    if source:
        snapshot = _replay(source, session)
    else:
        checks = CHECKS if record is None else UNPRIVILEGED
        snapshot = connection.run(lambda client: collect(client, scope, SYSTEM_CLOCK, checks))
    if (
        session
        and not snapshot.sessions
        and "vdisessions" not in snapshot.unreadable_kinds | set(snapshot.absent)
    ):
        raise CliError(f"there is no session {session} in namespace {snapshot.scope.namespace}")
    if bundle:
        save_bundle(redact(snapshot), bundle)
    findings = run_checks(snapshot)
    if tries:
        probed = connection.run(lambda client: _probe(client, snapshot))
        findings = rank([*findings, *probed])
    report = make_report(findings, snapshot, verbose=verbose)
    print_report(report, output)
    if fix:
        apply_fixes(connection, findings, snapshot, yes=yes)
    if record is not None:
        _keep(connection, record, findings, snapshot)
        return
    raise typer.Exit(exit_code(findings, warnings_fail=report.warnings_fail))


def _refuse_together(*refused: tuple[object, str]) -> None:
    """Raise CliError for the first that holds."""
    for holds, message in refused:
        if holds:
            raise CliError(message, USAGE)


async def _probe(client: Client, snapshot: Snapshot) -> list[Finding]:
    # The end of a terminal, or of the process, cancels the run as Ctrl-C does: the probe removes
    # what it has created.
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, signal.raise_signal, signal.SIGINT)
    return await probe(client, snapshot, SYSTEM_CLOCK)


def _keep(
    connection: KubeConnection, where: str, findings: list[Finding], snapshot: Snapshot
) -> None:
    namespace, _, name = where.partition("/")
    patch = to_patch(record_of(findings, snapshot.taken_at))
    connection.run(
        lambda client: client.patch(CONFIG_MAPS, name, patch, namespace=namespace, into=msgspec.Raw)
    )


def _explain(code: str) -> None:
    if code not in CODES:
        near = difflib.get_close_matches(code, CODES, n=3)
        if near:
            hint = f"; did you mean {' or '.join(near)}?"
        else:
            hint = f"; allowed: {', '.join(CODES)}"
        raise CliError(f"--explain: there is no code {code!r}{hint}", USAGE)
    typer.echo("\n".join([f"{code}", "", *explain_code(CODES[code])]))


def read_bundle(source: Path) -> Snapshot:
    """The snapshot in a file that --bundle has written. Raises CliError."""
    try:
        return load(source.read_bytes())
    except (OSError, BadSnapshotError) as error:
        raise CliError(f"--from {source}: {error}", COULD_NOT_LOOK) from error


def _replay(source: Path, session: str | None) -> Snapshot:
    snapshot = read_bundle(source)
    if session is None:
        return snapshot
    return msgspec.structs.replace(snapshot, scope=Scope(snapshot.scope.namespace, session))


def save_bundle(snapshot: Snapshot, file: Path) -> None:
    """Write a snapshot to a file. Raises CliError."""
    try:
        file.write_bytes(save(snapshot))
    except OSError as error:
        raise CliError(f"--bundle {file}: {error}", COULD_NOT_LOOK) from error


def apply_fixes(
    connection: KubeConnection, findings: Sequence[Finding], snapshot: Snapshot, *, yes: bool
) -> None:
    """Fix the causes that have a fix, one question each unless `yes`. What follows from a cause
    goes with it.

    Raises CliError where no one can be asked, or a change is refused; those before it are made
    then.
    """
    prepared = connection.run(lambda client: _prepare_all(client, findings, snapshot))
    if not prepared:
        typer.echo(
            "--fix: none of these findings can be fixed automatically. The remedies are above."
        )
        return
    made = 0
    for finding, step in prepared:
        typer.echo(f"\n{finding.code}: {step.title}. It {FIXES[finding.code].words}.")
        for line in diff_lines(step):
            typer.echo(style(line, fg=_COLOURS.get(line[:1])))
        if yes or confirm("Do it?"):
            said = connection.run(partial(_apply, step=step))
            typer.echo(said)
            made += said == _MADE
    if made == len(prepared):
        left = ""
    else:
        left = f", {len(prepared) - made} skipped"
    typer.echo(
        f"\n{made} change{'' if made == 1 else 's'} made{left}. Check again: {PROGRAM}"
        f" doctor{connection.flags}"
    )


async def _prepare_all(
    client: Client, findings: Sequence[Finding], snapshot: Snapshot
) -> list[tuple[Finding, Change]]:
    causes = [finding for finding in roots(list(findings)) if finding.code in FIXES]
    changes = await asyncio.gather(*(prepare_fix(client, cause, snapshot) for cause in causes))
    return [(cause, change) for cause, change in zip(causes, changes, strict=True) if change]


async def _apply(client: Client, step: Change) -> str:
    try:
        await apply_change(client, step, only_as_seen=True)
    except (Conflict, NotFound):
        return "It was changed by someone else in the meantime, and was skipped."
    return _MADE
