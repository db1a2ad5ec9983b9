"""The three things that `vdi install` asks where no values are given: domain, certificate, administrators."""

import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import typer

from vdi.cli.errors import USAGE, CliError
from vdi.release.essentials import admin_values, certificate_values, domain_values


class Question(NamedTuple):
    """One of them, as an option and as a question."""

    option: str
    text: str
    default: str | None
    values: Callable[[str], Mapping[str, Any]]
    """Raises ValueError."""


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
