"""Change of our own release for `vdi install` and `upgrade`: signatures, preflight, difference, question, helm.

`vdi uninstall` uses the same page, question and errors. The decisions and the work are in `vdi.release`.
"""

import shutil
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import typer
import yaml

from vdi.cli.cluster import INTERRUPTED
from vdi.cli.errors import COULD_NOT_LOOK, FINDINGS, USAGE, CliError
from vdi.cli.findings import FindingsOutput, print_report
from vdi.cli.helm_options import ReleaseOptions
from vdi.cli.output import now_utc
from vdi.cli.progress import PassedStage, ProgressView
from vdi.cli.terminal import confirm, style
from vdi.findings.model import Finding, errors
from vdi.findings.render import Report
from vdi.helm.arguments import Change, Values
from vdi.helm.errors import HelmError, HelmInterruptedError
from vdi.helm.releases import Revision, deployed, read_revisions
from vdi.kube.transport import Client
from vdi.release.apply import HelmRun, NotDoneError, install_or_upgrade
from vdi.release.chart import NAME, Chart, RefusedError, find_chart
from vdi.release.collect import collect_facts
from vdi.release.diff import ObjectChange, changes_between
from vdi.release.diff import ObjectChange as Difference
from vdi.release.facts import Facts
from vdi.release.needs import Plan, images_of, plan_install
from vdi.release.preflight import run_checks
from vdi.release.signatures import (
    BadSignatureError,
    CannotVerifyError,
    checksums,
    choose_images,
    find_cosign,
    verify_folder,
    verify_image,
)

_COLOURS = {"+": typer.colors.GREEN, "-": typer.colors.RED, "~": typer.colors.YELLOW}
# Of one object; a new schema has hundreds, and `-o json` has them all.
_FIELDS = 25


def summary_line(changes: Sequence[ObjectChange]) -> str:
    """`12 new, 3 changed, 1 removed`."""

    counted = Counter(change.action for change in changes)
    words = {"+": "new", "~": "changed", "-": "removed", "=": "remains on the cluster"}
    shown = ", ".join(f"{counted[sign]} {word}" for sign, word in words.items() if counted[sign])
    return shown or "chart and values are the same"


def plan_lines(plan: Plan) -> list[str]:
    """What an install brings about."""
    facts = {
        "Release": f"{plan.release} in namespace {plan.namespace} at {plan.server}",
        "Portal": plan.portal,
        "Desktops": f"{plan.desktops}, in namespace {', '.join(plan.sessions_namespaces)}",
        "Certificate": plan.certificate,
        "Administrators": ", ".join(plan.admins) or ("none" if plan.portal else ""),
        "New namespaces": ", ".join(plan.new_namespaces),
        "Images": f"\n{'':16}".join(plan.images),
    }
    return [f"{name:<16}{text}" for name, text in facts.items() if text]


def plan_data(plan: Plan) -> dict[str, Any]:
    """For programs."""
    return {
        "release": plan.release,
        "namespace": plan.namespace,
        "newNamespaces": plan.new_namespaces,
        "sessionsNamespace": plan.sessions_namespaces[0],
        "sessionsNamespaces": plan.sessions_namespaces,
        "portal": plan.portal,
        "certificate": plan.certificate,
        "administrators": plan.admins,
        "images": plan.images,
    }


def new_lines(changes: Sequence[ObjectChange]) -> Iterator[str]:
    """What a first install makes, by kind."""
    kinds: dict[str, list[str]] = {}
    for change in changes:
        kinds.setdefault(change.kind, []).append(change.title.partition(" ")[2])
    for kind, names in sorted(kinds.items()):
        yield style(f"+ {kind}", fg=typer.colors.GREEN) + f": {', '.join(names)}"


def change_lines(changes: Sequence[ObjectChange]) -> Iterator[str]:
    """Object by object, field by field."""
    for change in changes:
        yield style(f"{change.action} {change.title}", fg=_COLOURS.get(change.action), bold=True) + _AFTER.get(
            change.action, ""
        )
        lines = [line for field in change.fields for line in field.lines]
        for line in lines[:_FIELDS]:
            yield "    " + style(line, fg=_COLOURS.get(line.strip()[:1]))
        if len(lines) > _FIELDS:
            yield f"    ... and {len(lines) - _FIELDS} lines more (-o json has every field)"


_AFTER = {"=": "  (leaves the release, remains on the cluster)"}


def change_data(changes: Sequence[ObjectChange]) -> list[dict[str, Any]]:
    """For programs."""
    return [
        {
            "action": {"+": "create", "~": "change", "-": "delete", "=": "keep"}[change.action],
            "kind": change.kind,
            "namespace": change.namespace,
            "name": change.name,
            "fields": [{"path": field.path, "before": field.before, "after": field.after} for field in change.fields],
        }
        for change in changes
    ]


def revision_data(revision: Revision | None) -> dict[str, Any] | None:
    """For programs."""
    if revision is None:
        return None
    return {
        "release": revision.name,
        "namespace": revision.namespace,
        "revision": revision.version,
        "status": revision.status,
        "chart": revision.chart_words,
        "appVersion": revision.chart.metadata.app_version,
        "updated": revision.info.last_deployed,
        "description": revision.info.description,
    }


# Containers that run our code.
_OURS = ("operator", "gateway")


@contextmanager
def verified_copy(chart: Chart, key: Path) -> Iterator[Chart]:
    """A private copy of the chart, of which every file is proven. Raises CliError.

    Helm reads the chart again after the question, which may take hours. In the original folder someone else could
    change a file in that time.
    """
    if key.resolve().is_relative_to(chart.folder.resolve()):
        raise CliError(
            f"--verify {key}: the key is in the chart's own folder {chart.folder}: whoever changed the chart could "
            "have changed it, too; allowed: a public key from a place that you trust",
            USAGE,
        )
    with tempfile.TemporaryDirectory(prefix="vdi-chart-") as private:
        folder = Path(private) / NAME
        with _signature_failures():
            cosign = find_cosign()
            checksums(chart.folder)  # refuses links and special files before they are copied
            try:
                shutil.copytree(chart.folder, folder, symlinks=True)
            except OSError as error:
                raise CannotVerifyError(f"{chart.folder} cannot be copied: {error}") from error
            files = verify_folder(cosign, folder, key)
        proven = find_chart(folder)
        typer.echo(f"Signed with {key}: chart {proven.words} ({len(files)} files)", err=True)
        yield proven


def verify_images(facts: Facts, key: Path) -> None:
    """Prove the images of the release, and name those of others. Raises CliError."""
    values = yaml.safe_load((facts.chart.folder / "values.yaml").read_text())
    containers = [container for pods in facts.pods for container in pods.spec["containers"]]
    required = [container["image"] for container in containers if container["name"] in _OURS]
    signed, others = choose_images(
        [image for image, _ in images_of(facts)], str(values["image"]["repository"]), required
    )
    with _signature_failures():
        cosign = find_cosign()
        for image in signed:
            verify_image(cosign, image, key)
            typer.echo(f"Signed with {key}: image {image}", err=True)
    for image in others:
        typer.echo(f"Not of this release, so not verified: image {image}", err=True)


@contextmanager
def _signature_failures() -> Iterator[None]:
    try:
        yield
    except BadSignatureError as error:
        raise CliError(f"{error}; nothing was changed", FINDINGS) from error
    except CannotVerifyError as error:
        raise CliError(f"{error}; nothing was changed", COULD_NOT_LOOK) from error


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
    except HelmInterruptedError as error:
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
        facts = await collect_facts(client, at.helm, chart, change)
    findings = run_checks(facts, now_utc(), upgrading=upgrading)
    old = facts.before.objects() if facts.before else []
    return facts, findings, changes_between(old, facts.objects, at.place.namespace), change


async def _apply(client: Client, at: ReleaseOptions, facts: Facts, change: Change) -> Revision:
    with ReleaseView() as view:
        return await install_or_upgrade(HelmRun(client, at.helm, view, at.seconds), facts, change)


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
