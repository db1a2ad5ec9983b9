"""Change of our own release for `vdi install` and `upgrade`: signatures, preflight, difference, question, helm.

`vdi uninstall` uses the same question and errors. The decisions and the work are in `vdi.release`.
"""

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import typer
import yaml

from vdi.cli.errors import COULD_NOT_LOOK, FINDINGS, INTERRUPTED, USAGE, CliError
from vdi.cli.findings import FindingsOutput, print_report
from vdi.cli.helm_options import ChangeOptions, ReleaseOptions
from vdi.cli.output import now_utc, print_lines
from vdi.cli.progress import ProgressView
from vdi.cli.terminal import confirm, end_on_interrupt, style
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
from vdi.release.facts import Facts
from vdi.release.needs import images_of, plan_install
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

T = TypeVar("T")
_COLOURS = {"+": typer.colors.GREEN, "-": typer.colors.RED, "~": typer.colors.YELLOW}
# Lines of one object that are shown: a new schema has hundreds, and `-o json` has them all.
_FIELDS = 25
# Containers that run our code.
_OURS = ("operator", "gateway")


def change_release(options: ChangeOptions, *, upgrading: bool, typed: Mapping[str, Any] | None = None) -> None:
    """Check, show, ask, and let helm do it. `typed`: values by their path. Raises CliError."""
    if options.at.output is FindingsOutput.JUNIT and not options.dry_run:
        raise CliError(f"-o {options.at.output} is for --dry-run: it prints the checks alone", USAGE)
    with failures_in_words():
        found = find_chart(options.chart)
        # The copy lasts until helm has ended: helm reads the chart again after the question.
        with verified_copy(found, options.key) if options.key else nullcontext(found) as chart:
            _change(options, options.at.located(), chart, typed or {}, upgrading=upgrading)


def _change(
    options: ChangeOptions, at: ReleaseOptions, chart: Chart, typed: Mapping[str, Any], *, upgrading: bool
) -> None:
    async def check(client: Client) -> tuple[Facts, list[Finding], Change]:
        before = deployed(await read_revisions(client, at.place.namespace, at.release))
        # Without a file the release's own values go on, over the new chart's defaults.
        kept = before.config or {} if upgrading and before and not options.files else {}
        change = Change(at.release, str(chart.folder), at.place, Values(kept, options.files, options.sets, typed))
        with ProgressView() as view:
            view.waiting("the cluster is being checked")
            facts = await collect_facts(client, at.helm, chart, change)
        return facts, run_checks(facts, now_utc(), upgrading=upgrading), change

    async def apply(client: Client) -> Revision:
        with ProgressView() as view:
            return await install_or_upgrade(HelmRun(client, at.helm, view, at.seconds), facts, change)

    output = FindingsOutput(at.output)
    facts, findings, change = at.connection.run(check)
    plan = plan_install(facts)
    changes = changes_between(facts.before.objects() if facts.before else [], facts.objects, facts.namespace)
    context = {"plan": plan, "changes": change_data(changes), "revision": None}
    report = Report(tool="vdi preflight", findings=findings, context=context)
    if options.key:
        verify_images(facts, options.key)
    refused = errors(findings)
    if output is FindingsOutput.TEXT:
        print_report(report, output)
        if not upgrading:
            print_lines(["", *plan_lines(plan)])
        before = f"revision {facts.before.version}" if facts.before else "nothing"
        typer.echo(f"\nFrom {before} to {facts.chart.words}: {summary_line(changes)}")
        print_lines(change_lines(changes) if facts.before else new_lines(changes))
    elif refused or options.dry_run:
        print_report(report, output)
    if refused:
        count = f"{len(refused)} problem{'s prevent' if len(refused) > 1 else ' prevents'} the change"
        raise CliError(f"{count}; nothing was changed: {refused[0].message}")
    if options.dry_run:
        return
    if upgrading:
        unchanged = "" if changes else "Objects that were changed or deleted by hand are restored. "
        old = f" from {facts.before.chart_words}" if facts.before else ""
        question = f"{unchanged}Upgrade{old} to {facts.chart.words}? Running desktops are not affected."
    else:
        question = f"Install {facts.chart.words} into namespace {facts.namespace}?"
    confirm_change(question, options.yes)
    revision = at.connection.run(apply)
    if output is not FindingsOutput.TEXT:
        context["revision"] = revision_data(revision)
        print_report(report, output)
        return
    where = f"revision {revision.version} of {revision.name} in the namespace {revision.namespace}"
    typer.echo(f"{'Upgraded' if upgrading else 'Installed'}: {where}, chart {revision.chart_words}.")
    if not upgrading and revision.info.notes.strip():
        typer.echo(f"\n{revision.info.notes.strip()}")


@contextmanager
def failures_in_words() -> Iterator[None]:
    """Errors of helm and of the release as one error of the command; Ctrl-C says what was left."""
    try:
        with end_on_interrupt("Interrupted; nothing was changed since the last line above."):
            yield
    except (NotDoneError, HelmError, RefusedError) as error:
        stopped = isinstance(error, HelmInterruptedError) or (isinstance(error, NotDoneError) and error.interrupted)
        raise CliError(str(error), INTERRUPTED if stopped else FINDINGS) from error


def confirm_change(question: str, yes: bool) -> None:
    """Ask, unless --yes was given. Raises CliError."""
    if not yes and not confirm(question):
        raise CliError("nothing was changed")


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
    except (BadSignatureError, CannotVerifyError) as error:
        code = FINDINGS if isinstance(error, BadSignatureError) else COULD_NOT_LOOK
        raise CliError(f"{error}; nothing was changed", code) from error


def plan_lines(plan: Mapping[str, Any]) -> list[str]:
    """The plan of an install, for people."""
    facts = {
        "Release": f"{plan['release']} in namespace {plan['namespace']} at {plan['server']}",
        "Portal": plan["portal"],
        "Desktops": f"{plan['desktops']}, in namespace {', '.join(plan['sessionsNamespaces'])}",
        "Certificate": plan["certificate"],
        "Administrators": ", ".join(plan["administrators"]) or ("none" if plan["portal"] else ""),
        "New namespaces": ", ".join(plan["newNamespaces"]),
        "Images": f"\n{'':16}".join(plan["images"]),
    }
    return [f"{name:<16}{text}" for name, text in facts.items() if text]


def summary_line(changes: Sequence[ObjectChange]) -> str:
    """`12 new, 3 changed, 1 removed`."""
    counted = Counter(change.action for change in changes)
    words = {"+": "new", "~": "changed", "-": "removed", "=": "remains on the cluster"}
    shown = ", ".join(f"{counted[sign]} {word}" for sign, word in words.items() if counted[sign])
    return shown or "chart and values are the same"


def new_lines(changes: Sequence[ObjectChange]) -> Iterator[str]:
    """Objects of a first install, by kind."""
    kinds: dict[str, list[str]] = {}
    for change in changes:
        kinds.setdefault(change.kind, []).append(change.title.partition(" ")[2])
    for kind, names in sorted(kinds.items()):
        yield style(f"+ {kind}", fg=typer.colors.GREEN) + f": {', '.join(names)}"


def change_lines(changes: Sequence[ObjectChange]) -> Iterator[str]:
    """Changed objects, each with its changed fields."""
    for change in changes:
        after = "  (leaves the release, remains on the cluster)" if change.action == "=" else ""
        yield style(f"{change.action} {change.title}", fg=_COLOURS.get(change.action), bold=True) + after
        lines = [line for field in change.fields for line in field.lines]
        for line in lines[:_FIELDS]:
            yield "    " + style(line, fg=_COLOURS.get(line.strip()[:1]))
        if len(lines) > _FIELDS:
            yield f"    ... and {len(lines) - _FIELDS} lines more (-o json has every field)"


def change_data(changes: Sequence[ObjectChange]) -> list[dict[str, Any]]:
    """The changes, for `-o json`."""
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
    """The revision, for `-o json`."""
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
