"""What install and upgrade share: preflight, difference, question, and carrying it out with progress on stderr."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import typer

from vdi.cli.confirm import confirm
from vdi.cli.errors import FINDINGS, USAGE, CliError
from vdi.cli.findings import FindingsOutput, print_report
from vdi.cli.long_work import INTERRUPTED
from vdi.cli.output import now_utc
from vdi.cli.progress import PassedStage, ProgressView
from vdi.cli.release.options import ReleaseOptions
from vdi.cli.release.page import (
    change_data,
    change_lines,
    new_lines,
    plan_data,
    plan_lines,
    revision_data,
    summary_line,
)
from vdi.cli.release.verify import verified_copy, verify_images
from vdi.findings.model import Finding, errors
from vdi.findings.render import Report
from vdi.helm.arguments import Change, Values
from vdi.helm.errors import HelmError, HelmInterrupted
from vdi.helm.releases import Revision, deployed, read_revisions
from vdi.kube.transport import Client
from vdi.release.carry_out import NotDoneError, Running, install_or_upgrade
from vdi.release.chart import Chart, find_chart
from vdi.release.diff import Change as Difference
from vdi.release.diff import changes_between
from vdi.release.errors import RefusedError
from vdi.release.facts import Facts
from vdi.release.gather import gather
from vdi.release.plan import plan_install
from vdi.release.preflight import run_checks

T = TypeVar("T")


class ReleaseView(ProgressView):
    """Stages, what is waited for, and what goes wrong, on stderr."""

    def stage(self, text: str, seconds: float) -> None:
        """One stage is over."""
        self.passed(PassedStage(text, seconds))


def run(at: ReleaseOptions, work: Callable[[Client], Awaitable[T]]) -> T:
    """`KubeConnection.run`, with what helm and the release refuse in words, and Ctrl-C that says what was left."""
    with failures_in_words():
        return at.connection.run(work)


@contextmanager
def failures_in_words() -> Iterator[None]:
    """Errors of helm and of the release as one error of the command."""
    try:
        yield
    except NotDoneError as error:
        raise CliError(str(error), INTERRUPTED if error.interrupted else FINDINGS) from error
    except HelmInterrupted as error:
        raise CliError(str(error), INTERRUPTED) from error
    except (HelmError, RefusedError) as error:
        raise CliError(str(error), FINDINGS) from error
    except KeyboardInterrupt:
        typer.echo("Interrupted; nothing was changed since the last line above.", err=True)
        raise typer.Exit(INTERRUPTED) from None


def confirm_change(question: str, yes: bool) -> None:
    """Ask, unless it was said already. Raises CliError."""
    if not yes and not confirm(question):
        raise CliError("nothing was changed")


def change_release(
    at: ReleaseOptions,
    chart: Path | None,
    values: Values,
    *,
    upgrading: bool,
    key: Path | None,
    dry_run: bool,
    yes: bool,
) -> None:
    """Signatures with `key`, preflight, plan or difference, question, helm. Raises CliError."""
    if at.output is FindingsOutput.JUNIT and not dry_run:
        raise CliError(f"-o {at.output} is for --dry-run: it prints the checks alone", USAGE)
    with failures_in_words():
        found = find_chart(chart)
        with verified_copy(found, key) if key else nullcontext(found) as trusted:
            _change_release(at.located(), trusted, values, upgrading=upgrading, key=key, dry_run=dry_run, yes=yes)


def _change_release(
    at: ReleaseOptions, chart: Chart, values: Values, *, upgrading: bool, key: Path | None, dry_run: bool, yes: bool
) -> None:
    output = FindingsOutput(at.output)
    facts, findings, changes, change = run(at, lambda client: _prepare(client, at, chart, values, upgrading))
    if key:
        verify_images(facts, key)
    refused = errors(findings)
    if output is FindingsOutput.TEXT:
        _show(facts, findings, changes, upgrading=upgrading)
    elif refused or dry_run:
        print_report(_report(facts, findings, changes, None), output)
    if refused:
        count = f"{len(refused)} problem{'s prevent' if len(refused) > 1 else ' prevents'} the change"
        raise CliError(f"{count}; nothing was changed: {refused[0].message}")
    if dry_run:
        return
    if upgrading:
        unchanged = "" if changes else "Objects that were changed or deleted by hand are restored. "
        old = f" from {facts.before.chart_words}" if facts.before else ""
        confirm_change(f"{unchanged}Upgrade{old} to {facts.chart.words}? Running desktops are not affected.", yes)
    else:
        confirm_change(f"Install {facts.chart.words} into namespace {facts.namespace}?", yes)
    revision = run(at, lambda client: _apply(client, at, facts, change))
    if output is FindingsOutput.TEXT:
        _say_done(revision, upgrading)
    else:
        print_report(_report(facts, findings, changes, revision), output)


async def _prepare(
    client: Client, at: ReleaseOptions, chart: Chart, values: Values, upgrading: bool
) -> tuple[Facts, list[Finding], list[Difference], Change]:
    before = deployed(await read_revisions(client, at.place.namespace, at.release))
    if upgrading and before and not values.files:
        # Without a file the release's own values go on, over the new chart's defaults.
        values = replace(values, kept=before.config or {})
    change = Change(at.release, str(chart.folder), at.place, values)
    with ReleaseView() as view:
        view.waiting("the cluster is being checked")
        facts = await gather(client, at.helm, chart, change)
    findings = run_checks(facts, now_utc(), upgrading=upgrading)
    old = facts.before.objects() if facts.before else []
    return facts, findings, changes_between(old, facts.objects, at.place.namespace), change


async def _apply(client: Client, at: ReleaseOptions, facts: Facts, change: Change) -> Revision:
    with ReleaseView() as view:
        return await install_or_upgrade(Running(client, at.helm, view, at.seconds), facts, change)


def _show(facts: Facts, findings: list[Finding], changes: list[Difference], *, upgrading: bool) -> None:
    print_report(_report(facts, findings, changes, None), FindingsOutput.TEXT)
    if not upgrading:
        typer.echo("")
        for line in plan_lines(plan_install(facts)):
            typer.echo(line)
    typer.echo("")
    before = f"revision {facts.before.version}" if facts.before else "nothing"
    typer.echo(f"From {before} to {facts.chart.words}: {summary_line(changes)}")
    for line in change_lines(changes) if facts.before else new_lines(changes):
        typer.echo(line)


def _say_done(revision: Revision, upgrading: bool) -> None:
    where = f"revision {revision.version} of {revision.name} in the namespace {revision.namespace}"
    typer.echo(f"{'Upgraded' if upgrading else 'Installed'}: {where}, chart {revision.chart_words}.")
    if not upgrading and revision.info.notes.strip():
        typer.echo(f"\n{revision.info.notes.strip()}")


def _report(facts: Facts, findings: list[Finding], changes: list[Difference], revision: Revision | None) -> Report:
    plan = {"plan": plan_data(plan_install(facts))}
    context = {**plan, "changes": change_data(changes), "revision": revision_data(revision)}
    return Report(tool="vdi preflight", findings=findings, context=context)
