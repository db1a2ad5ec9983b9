"""The question before something is changed."""

import sys

import typer

from vdi.cli.failures import USAGE, CommandFailedError


def confirm(question: str, *, untouched: str = "nothing was changed") -> bool:
    """Whether the user confirms. Raises CommandFailedError without a terminal; `untouched` says what is unchanged."""
    if not sys.stdin.isatty():
        raise CommandFailedError(f"{untouched}, because nobody can be asked here: say --yes", USAGE)
    return typer.confirm(question, err=True)
