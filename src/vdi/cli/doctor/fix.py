"""`vdi doctor --fix`: shows each change that fixes a finding, asks, and makes that change alone."""

import asyncio
from collections.abc import Sequence
from functools import partial

import typer

from vdi.cli.confirm import confirm
from vdi.cli.options import PROGRAM, KubeConnection
from vdi.cli.terminal import style
from vdi.diagnosis.snapshot import Snapshot
from vdi.doctor.fix.apply import carry_out, prepare
from vdi.doctor.fix.fixes import FIXES
from vdi.findings.model import Finding, roots
from vdi.gpu.sharing.changes import Change, diff_lines
from vdi.kube.errors import Conflict, NotFound
from vdi.kube.transport import Client

_MADE = "Done."
_COLOURS = {"+": typer.colors.GREEN, "-": typer.colors.RED}


def apply_fixes(connection: KubeConnection, findings: Sequence[Finding], snapshot: Snapshot, *, yes: bool) -> None:
    """Fix the causes that have a fix, one question each unless `yes`. What follows from a cause goes with it.

    Raises CliError where no one can be asked, or a change is refused; those before it are made then.
    """
    prepared = connection.run(lambda client: _prepare_all(client, findings, snapshot))
    if not prepared:
        typer.echo("--fix: none of these findings can be fixed automatically. The remedies are above.")
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
    left = "" if made == len(prepared) else f", {len(prepared) - made} skipped"
    typer.echo(f"\n{made} change{'' if made == 1 else 's'} made{left}. Check again: {PROGRAM} doctor{connection.flags}")


async def _prepare_all(client: Client, findings: Sequence[Finding], snapshot: Snapshot) -> list[tuple[Finding, Change]]:
    causes = [finding for finding in roots(list(findings)) if finding.code in FIXES]
    changes = await asyncio.gather(*(prepare(client, cause, snapshot) for cause in causes))
    return [(cause, change) for cause, change in zip(causes, changes, strict=True) if change]


async def _apply(client: Client, step: Change) -> str:
    try:
        await carry_out(client, step)
    except (Conflict, NotFound):
        return "It was changed by someone else in the meantime, and was skipped."
    return _MADE
