"""`vdi install` and `vdi upgrade`: operator and gateway on a cluster, by our own chart.

Without values an install asks for domain, certificate and administrators, and makes values of the chart of them. The
checks and the work are in `vdi.release`.
"""

import re
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import typer

from vdi.cli.errors import USAGE, CliError
from vdi.cli.helm_options import ChangeOptions, with_change
from vdi.cli.options import examples, new_app
from vdi.cli.release import change_release
from vdi.session.users import check_address
from vdi.settings import SUBDOMAIN

app = new_app()
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
        raise ValueError(f"{text!r} contains no administrator; allowed: e-mail addresses, separated by commas")
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

    values: Mapping[str, Any] = typer.prompt(question.text, default=question.default, value_proc=read, err=True)
    return values


@app.command(
    epilog=examples(
        "install",
        "install --domain vdi.example.com --certificate secret:vdi-wildcard --admin you@example.com --yes",
        "install -f my-values.yaml --dry-run",
        "install -f my-values.yaml --verify release.pub",
    )
)
@with_change
def install(
    options: ChangeOptions,
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
) -> None:
    """Check the cluster, show what would be created, ask, and install CRDs, operator, gateway and templates.

    Without values it asks for domain, certificate and administrator unless options set them. It waits until
    everything is ready and shows what it waits for. A failed installation is rolled back, and the reason is shown.
    Status 1: refused or failed, or a signature is wrong; 3: a signature could not be checked; 130: interrupted, and
    rolled back.
    """
    typed = essential_values(domain, certificate, admin, ask=not (options.files or options.sets))
    change_release(options, upgrading=False, typed=typed)


@app.command(
    epilog=examples(
        "upgrade --dry-run",
        "upgrade -f my-values.yaml",
        "upgrade --set replicas=3 --yes",
    )
)
@with_change
def upgrade(options: ChangeOptions) -> None:
    """Show what would change, field by field, ask, and upgrade. Running desktops are not affected.

    Without -f the release keeps its values, and --set changes single ones; with -f the files replace all of them. A
    failed upgrade is rolled back automatically, and the reason is shown. Status 1: refused or failed, or a
    signature is wrong; 3: a signature could not be checked; 130: interrupted.
    """
    change_release(options, upgrading=True)
