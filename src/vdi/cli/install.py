"""`vdi install`: operator and gateway on a cluster, by our own chart.

Without values it asks for domain, certificate and administrators, and makes values of the chart of them. The checks and
the work are in `vdi.release`.
"""

import re
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import typer

from vdi.cli.errors import USAGE, CliError
from vdi.cli.helm_options import (
    ChartFolder,
    DryRun,
    ReleaseOptions,
    Sets,
    ValuesFiles,
    VerifyKey,
    Yes,
    files_that_are,
    key_that_is,
    on_checked_release,
)
from vdi.cli.options import examples
from vdi.cli.release import change_release
from vdi.helm.arguments import Values
from vdi.session.users import check_address
from vdi.settings import SUBDOMAIN

_CERTIFICATE_KINDS = {
    "secret": "traefik.tlsSecret",
    "issuer": "traefik.certManager.issuer",
    "resolver": "traefik.certResolver",
}
_CERTIFICATES = (
    "none (Traefik's own), secret:NAME (a TLS Secret), issuer:NAME (a ClusterIssuer of cert-manager),"
    " resolver:NAME (a certificate resolver of Traefik)"
)


def domain_values(text: str) -> Mapping[str, Any]:
    """Raises ValueError."""

    domain = text.strip().lower().removeprefix("*.").rstrip(".")
    if not re.fullmatch(SUBDOMAIN, domain) or "." not in domain:
        raise ValueError(f"{text!r} is not a domain; allowed: names such as vdi.example.com")
    return {"domain": domain}


def certificate_values(text: str) -> Mapping[str, Any]:
    """Raises ValueError."""
    kind, separator, name = text.strip().partition(":")
    if kind == "none" and not separator:
        return {}
    if kind not in _CERTIFICATE_KINDS or not re.fullmatch(SUBDOMAIN, name):
        raise ValueError(f"{text!r} is not a certificate; allowed: {_CERTIFICATES}")
    return {_CERTIFICATE_KINDS[kind]: name}


def admin_values(text: str) -> Mapping[str, Any]:
    """Addresses, separated by commas. Raises ValueError."""
    users = [check_address(address) for address in filter(None, map(str.strip, text.split(",")))]
    if not users:
        raise ValueError(f"{text!r} contains no administrator; allowed: e-mail addresses, separated by commas")
    return {"gateway.adminUsers": users}


class Question(NamedTuple):
    """One of them, as an option and as a question."""

    option: str
    text: str
    default: str | None
    # Raises ValueError.
    values: Callable[[str], Mapping[str, Any]]


_QUESTIONS = (
    Question("--domain", "Domain; desktops and portal have hosts below it", None, domain_values),
    Question(
        "--certificate",
        "Certificate of *.DOMAIN: none (Traefik's own), secret:NAME (a TLS Secret), issuer:NAME (of cert-manager),"
        " resolver:NAME (of Traefik)",
        "none",
        certificate_values,
    ),
    Question("--admin", "E-mail address of the administrator", None, admin_values),
)


def essential_values(domain: str | None, certificate: str | None, admin: str | None, *, ask: bool) -> dict[str, Any]:
    """Values of the options; with `ask`, what was not given is asked. Raises CliError."""
    given = dict(zip(_QUESTIONS, (domain, certificate, admin), strict=True))
    missing = [question.option for question, text in given.items() if text is None]
    if ask and missing and not sys.stdin.isatty():
        raise CliError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing, and there is no terminal for "
            "questions. Set them, or pass values with -f or --set",
            USAGE,
        )
    values: dict[str, Any] = {}
    for question, text in given.items():
        if text is not None:
            values |= _from_option(question, text)
        elif ask:
            values |= _from_prompt(question)
    return values


def _from_option(question: Question, text: str) -> Mapping[str, Any]:
    try:
        return question.values(text)
    except ValueError as error:
        raise CliError(f"{question.option}: {error}", USAGE) from error


def _from_prompt(question: Question) -> Mapping[str, Any]:
    def read(text: str) -> Mapping[str, Any]:
        try:
            return question.values(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    values: Mapping[str, Any] = typer.prompt(question.text, default=question.default, value_proc=read, err=True)
    return values


app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(
    epilog=examples(
        "install",
        "install --domain vdi.example.com --certificate secret:vdi-wildcard --admin you@example.com --yes",
        "install -f my-values.yaml --dry-run",
        "install -f my-values.yaml --verify release.pub",
    )
)
@on_checked_release
def install(
    at: ReleaseOptions,
    *,
    domain: Annotated[
        str | None, typer.Option("--domain", metavar="DOMAIN", help="Desktops and portal have hosts below it.")
    ] = None,
    certificate: Annotated[
        str | None,
        typer.Option(
            "--certificate", metavar="KIND", help="Of *.DOMAIN: none, secret:NAME, issuer:NAME or resolver:NAME."
        ),
    ] = None,
    admin: Annotated[
        str | None,
        typer.Option("--admin", metavar="EMAIL", help="Administrators of the portal, separated by commas."),
    ] = None,
    values: ValuesFiles = None,
    sets: Sets = None,
    chart: ChartFolder = None,
    verify: VerifyKey = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Check the cluster, show what would be created, ask, and install CRDs, operator, gateway and templates.

    Without values it asks for domain, certificate and administrator unless options set them. It waits until
    everything is ready and shows what it waits for. A failed installation is rolled back, and the reason is shown.
    Status 1: refused or failed, or a signature is wrong; 3: a signature could not be checked; 130: interrupted, and
    rolled back.
    """
    files = files_that_are(values)
    typed = essential_values(domain, certificate, admin, ask=not (files or sets))
    given = Values({}, files, tuple(sets or ()), typed)
    change_release(at, chart, given, upgrading=False, key=key_that_is(verify), dry_run=dry_run, yes=yes)
