"""Questions before something is changed."""

import sys

import typer

from vdi.cli.failures import USAGE, CommandFailedError


def agrees(question: str, *, untouched: str = "nothing was changed") -> bool:
    """Whether the person says yes. Raises CommandFailedError where there is nobody to ask, and `untouched` is so."""
    if not sys.stdin.isatty():
        raise CommandFailedError(f"{untouched}, because nobody can be asked here: say --yes", USAGE)
    return typer.confirm(question, err=True)
