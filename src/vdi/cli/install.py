"""`vdi install` and `vdi upgrade`: operator and gateway on a cluster, by our own chart.

Signatures, preflight, difference, question, helm: the decisions and the work are in `vdi.release`.
Without values an install asks for domain, certificate and administrators, and makes values of the
chart of them. `vdi uninstall` uses the same question and errors.
"""

import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
import yaml

from vdi.cli.errors import COULD_NOT_LOOK, FINDINGS, INTERRUPTED, USAGE, CliError
from vdi.cli.findings import FindingsOutput, print_report
from vdi.cli.helm_options import ChangeOptions, ReleaseOptions, with_change
from vdi.cli.options import examples, new_app
from vdi.cli.output import print_lines
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
from vdi.release.facts import Facts, images_of, plan_install
from vdi.release.history_move import Steps, choose_steps, move_history, without_choice
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
from vdi.session.users import check_address
from vdi.settings import SUBDOMAIN

app = new_app()
_COLOURS = {"+": typer.colors.GREEN, "-": typer.colors.RED, "~": typer.colors.YELLOW}
# Lines of one object that are shown: a new schema has hundreds, and `-o json` has them all.
_FIELDS = 25
# Containers that run our code.
_OURS = ("operator", "gateway")
_CERTIFICATE_KINDS = {
    "secret": "traefik.tlsSecret",
    "issuer": "traefik.certManager.issuer",
    "resolver": "traefik.certResolver",
}
_CERTIFICATES = (
    "none (Traefik's own), secret:NAME (a TLS Secret), issuer:NAME (a ClusterIssuer of"
    " cert-manager), resolver:NAME (a certificate resolver of Traefik)"
)


def change_release(
    options: ChangeOptions,
    *,
    upgrading: bool,
    typed: Mapping[str, Any] | None = None,
    sqlite: str = "",
) -> None:
    """Check, show, ask, and let helm do it. Raises CliError.

    `typed`: values by their path. `sqlite`: `move` or `leave` what a gateway has that uses SQLite
    until now.
    """
    if options.at.output is FindingsOutput.JUNIT and not options.dry_run:
        raise CliError(
            f"-o {options.at.output} is for --dry-run: it prints the checks alone", USAGE
        )
    with failures_in_words():
        given = find_chart(options.chart)
        # The copy lasts until helm has ended: helm reads the chart again after the question.
        with verified_copy(given, options.key) if options.key else nullcontext(given) as chart:
            _change(
                options,
                options.at.located(),
                chart,
                typed or {},
                upgrading=upgrading,
                sqlite=sqlite,
            )


def _change(
    options: ChangeOptions,
    at: ReleaseOptions,
    chart: Chart,
    typed: Mapping[str, Any],
    *,
    upgrading: bool,
    sqlite: str,
) -> None:
    async def check(client: Client) -> tuple[Facts, list[Finding], Steps]:
        before = deployed(await read_revisions(client, at.place.namespace, at.release))
        # Without a file the release's own values go on, over the new chart's defaults.
        if upgrading and before and not options.files:
            kept = without_choice(before.config or {})
        else:
            kept = {}
        change = Change(
            at.release,
            str(chart.folder),
            at.place,
            Values(kept, options.files, options.sets, typed),
        )
        steps = choose_steps(change, before, sqlite)
        if sqlite and steps.change is change:
            typer.echo(
                "The gateway does not use SQLite: there is no history to move or to leave.",
                err=True,
            )
        with ProgressView() as view:
            view.waiting("the cluster is being checked")
            facts = await collect_facts(client, at.helm, chart, steps.change)
        return facts, run_checks(facts, upgrading=upgrading), steps

    async def apply(client: Client) -> Revision:
        with ProgressView() as view:
            run = HelmRun(client, at.helm, view, at.seconds)
            if steps.after_move is None:
                return await install_or_upgrade(run, facts, steps.change)
            context["moved"] = await move_history(run, facts, steps.change)
            return await install_or_upgrade(run, facts, steps.after_move)

    output = FindingsOutput(at.output)
    facts, findings, steps = at.connection.run(check)
    plan = plan_install(facts)
    changes = changes_between(
        facts.before.objects() if facts.before else [], facts.objects, facts.namespace
    )
    context: dict[str, Any] = {"plan": plan, "changes": change_data(changes), "revision": None}
    report = Report(tool="vdi preflight", findings=findings, context=context)
    if options.key:
        verify_images(facts, options.key)
    refused = errors(findings)
    if output is FindingsOutput.TEXT:
        print_report(report, output)
        if not upgrading:
            print_lines(["", *plan_lines(plan)])
        _print_changes(facts, changes, steps)
    elif refused or options.dry_run:
        print_report(report, output)
    if refused:
        count = (
            f"{len(refused)} problem{'s prevent' if len(refused) > 1 else ' prevents'} the change"
        )
        raise CliError(f"{count}; nothing was changed: {refused[0].message}")
    if options.dry_run:
        return
    confirm_change(_question(facts, changes, steps, upgrading=upgrading), options.yes)
    revision = at.connection.run(apply)
    if output is not FindingsOutput.TEXT:
        context["revision"] = revision_data(revision)
        print_report(report, output)
        return
    where = f"revision {revision.version} of {revision.name} in the namespace {revision.namespace}"
    typer.echo(
        f"{'Upgraded' if upgrading else 'Installed'}: {where}, chart {revision.chart_words}."
    )
    if not upgrading and revision.info.notes.strip():
        typer.echo(f"\n{revision.info.notes.strip()}")


def _print_changes(facts: Facts, changes: Sequence[ObjectChange], steps: Steps) -> None:
    if facts.before:
        before = f"revision {facts.before.version}"
    else:
        before = "nothing"
    typer.echo(f"\nFrom {before} to {facts.chart.words}: {summary_line(changes)}")
    print_lines(change_lines(changes) if facts.before else new_lines(changes))
    if steps.after_move:
        typer.echo(
            "After the move, a second revision releases SQLite's volume and starts all replicas."
        )


def _question(
    facts: Facts, changes: Sequence[ObjectChange], steps: Steps, *, upgrading: bool
) -> str:
    if not upgrading:
        return f"Install {facts.chart.words} into namespace {facts.namespace}?"
    if changes:
        unchanged = ""
    else:
        unchanged = "Objects that were changed or deleted by hand are restored. "
    old = f" from {facts.before.chart_words}" if facts.before else ""
    during_move = ""
    if steps.after_move:
        during_move = " While the history is moved, no one can log in."
    return (
        f"{unchanged}Upgrade{old} to {facts.chart.words}? Running desktops are not"
        f" affected.{during_move}"
    )


@contextmanager
def failures_in_words() -> Iterator[None]:
    """Errors of helm and of the release as one error of the command; Ctrl-C says what was left."""
    try:
        with end_on_interrupt("Interrupted; nothing was changed since the last line above."):
            yield
    except (NotDoneError, HelmError, RefusedError) as error:
        stopped = isinstance(error, HelmInterruptedError) or (
            isinstance(error, NotDoneError) and error.interrupted
        )
        raise CliError(str(error), INTERRUPTED if stopped else FINDINGS) from error


def confirm_change(question: str, yes: bool) -> None:
    """Ask, unless --yes was given. Raises CliError."""
    if not yes and not confirm(question):
        raise CliError("nothing was changed")


@contextmanager
def verified_copy(chart: Chart, key: Path) -> Iterator[Chart]:
    """A private copy of the chart, of which every file is proven. Raises CliError.

    Helm reads the chart again after the question, which may take hours. In the original folder
    someone else could change a file in that time.
    """
    if key.resolve().is_relative_to(chart.folder.resolve()):
        raise CliError(
            f"--verify {key}: the key is in the chart's own folder {chart.folder}: whoever changed"
            " the chart could have changed it, too; allowed: a public key from a place that you"
            " trust",
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
    required = []
    for pods in facts.pods:
        required += [each["image"] for each in pods.spec["containers"] if each["name"] in _OURS]
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
        if isinstance(error, BadSignatureError):
            code = FINDINGS
        else:
            code = COULD_NOT_LOOK
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
    names = {"+": "new", "~": "changed", "-": "removed", "=": "remains on the cluster"}
    shown = ", ".join(f"{counted[sign]} {word}" for sign, word in names.items() if counted[sign])
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
        after = ""
        if change.action == "=":
            after = "  (leaves the release, remains on the cluster)"
        yield (
            style(f"{change.action} {change.title}", fg=_COLOURS.get(change.action), bold=True)
            + after
        )
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
            "fields": [
                {"path": field.path, "before": field.before, "after": field.after}
                for field in change.fields
            ],
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


def domain_values(text: str) -> Mapping[str, Any]:
    """The value of a domain, also of `*.DOMAIN`. Raises ValueError."""
    domain = text.strip().lower().removeprefix("*.").rstrip(".")
    if not re.fullmatch(SUBDOMAIN, domain) or "." not in domain:
        raise ValueError(f"{text!r} is not a domain; allowed: names such as vdi.example.com")
    return {"domain": domain}


def certificate_values(text: str) -> Mapping[str, Any]:
    """The value of `none`, `secret:NAME`, `issuer:NAME` or `resolver:NAME`. Raises ValueError."""
    kind, separator, name = text.strip().partition(":")
    if kind == "none" and not separator:
        return {}
    if kind not in _CERTIFICATE_KINDS or not re.fullmatch(SUBDOMAIN, name):
        raise ValueError(f"{text!r} is not a certificate; allowed: {_CERTIFICATES}")
    return {_CERTIFICATE_KINDS[kind]: name}


def admin_values(text: str) -> Mapping[str, Any]:
    """The value of e-mail addresses that are separated by commas. Raises ValueError."""
    users = [check_address(address) for address in filter(None, map(str.strip, text.split(",")))]
    if not users:
        raise ValueError(
            f"{text!r} contains no administrator; allowed: e-mail addresses, separated by commas"
        )
    return {"gateway.adminUsers": users}


class Question(NamedTuple):
    """A value that only the administrator knows, as an option and as a question."""

    option: str
    text: str
    default: str | None
    # From what was typed to values of the chart. Raises ValueError.
    values: Callable[[str], Mapping[str, Any]]


_QUESTIONS = (
    Question("--domain", "Domain; desktops and portal have hosts below it", None, domain_values),
    Question(
        "--certificate",
        "Certificate of *.DOMAIN: none (Traefik's own), secret:NAME (a TLS Secret), issuer:NAME (of"
        " cert-manager), resolver:NAME (of Traefik)",
        "none",
        certificate_values,
    ),
    Question("--admin", "E-mail address of the administrator", None, admin_values),
)


def essential_values(
    domain: str | None, certificate: str | None, admin: str | None, *, ask: bool
) -> dict[str, Any]:
    """Values of the options; with `ask`, what was not given is asked. Raises CliError."""
    given = dict(zip(_QUESTIONS, (domain, certificate, admin), strict=True))
    missing = [question.option for question, text in given.items() if text is None]
    if ask and missing and not sys.stdin.isatty():
        raise CliError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing, and there is"
            " no terminal for questions. Set them, or pass values with -f or --set",
            USAGE,
        )
    values: dict[str, Any] = {}
    for question, text in given.items():
        try:
            if text is not None:
                values |= question.values(text)
            elif ask:
                values |= _ask(question)
        except ValueError as error:
            raise CliError(f"{question.option}: {error}", USAGE) from error
    return values


def _ask(question: Question) -> Mapping[str, Any]:
    """Ask until the answer can be used."""

    def read(text: str) -> Mapping[str, Any]:
        try:
            return question.values(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    values: Mapping[str, Any] = typer.prompt(
        question.text, default=question.default, value_proc=read, err=True
    )
    return values


@app.command(
    epilog=examples(
        "install",
        "install --domain vdi.example.com --certificate secret:vdi-wildcard --admin you@example.com"
        " --yes",
        "install -f my-values.yaml --dry-run",
        "install -f my-values.yaml --verify release.pub",
    )
)
@with_change
def install(
    options: ChangeOptions,
    *,
    domain: Annotated[
        str | None,
        typer.Option("--domain", metavar="DOMAIN", help="Desktops and portal have hosts below it."),
    ] = None,
    certificate: Annotated[
        str | None,
        typer.Option(
            "--certificate",
            metavar="KIND",
            help="Of *.DOMAIN: none, secret:NAME, issuer:NAME or resolver:NAME.",
        ),
    ] = None,
    admin: Annotated[
        str | None,
        typer.Option(
            "--admin", metavar="EMAIL", help="Administrators of the portal, separated by commas."
        ),
    ] = None,
) -> None:
    """Check the cluster, show what would be created, ask, and install CRDs, operator, gateway and
    templates.

    Without values it asks for domain, certificate and administrator unless options set them. It
    waits until everything is ready and shows what it waits for. A failed installation is rolled
    back, and the reason is shown. Status 1: refused or failed, or a signature is wrong; 3: a
    signature could not be checked; 130: interrupted, and rolled back.
    """
    typed = essential_values(domain, certificate, admin, ask=not (options.files or options.sets))
    change_release(options, upgrading=False, typed=typed)


@app.command(
    epilog=examples(
        "upgrade --dry-run",
        "upgrade -f my-values.yaml",
        "upgrade --set replicas=3 --yes",
        "upgrade -f my-values.yaml --move-history",
    )
)
@with_change
def upgrade(
    options: ChangeOptions,
    *,
    move_history: Annotated[
        bool,
        typer.Option(
            "--move-history",
            help="From SQLite to PostgreSQL: move logins, API tokens, history and audit.",
        ),
    ] = False,
    leave_history_behind: Annotated[
        bool,
        typer.Option(
            "--leave-history-behind",
            help="From SQLite to PostgreSQL: begin with an empty database.",
        ),
    ] = False,
) -> None:
    """Show what would change, field by field, ask, and upgrade. Running desktops are not affected.

    Without -f the release keeps its values, and --set changes single ones; with -f the files
    replace all of them. A failed upgrade is rolled back automatically, and the reason is shown.
    Status 1: refused or failed, or a signature is wrong; 3: a signature could not be checked; 130:
    interrupted.
    """
    if move_history and leave_history_behind:
        raise CliError("--move-history, --leave-history-behind: give one of them", USAGE)
    sqlite = "move" if move_history else ""
    if leave_history_behind:
        sqlite = "leave"
    change_release(options, upgrading=True, sqlite=sqlite)
