"""The question before something is changed."""

import sys

import typer

from vdi.cli.errors import USAGE, CliError


def confirm(question: str, *, untouched: str = "nothing was changed") -> bool:
    """Whether the user confirms. Raises CliError without a terminal; `untouched` says what is unchanged."""
    if not sys.stdin.isatty():
        raise CliError(f"{untouched}, because there is no terminal for the question: use --yes", USAGE)
    return typer.confirm(question, err=True)
