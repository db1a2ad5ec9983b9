"""Guarded stdout and stderr, styles, and the question before a change.

Objects of the cluster, answers of a gateway and logs hold text of other people. Control characters
in it could change the window's title, the clipboard or lines above; direction marks could reverse
what is read. So `main` runs every command within `guarded_output`, which escapes them in all that
is written to stdout and stderr. Only styles of `style` pass: they carry a key of this process that
text from outside cannot know. rich makes its own control sequences, so `SafeConsole` (in `console`)
escapes text before rich styles it.
"""

import codecs
import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

import typer

from vdi.cli.errors import INTERRUPTED, USAGE, CliError
from vdi.printable import escape

_KEY = str(int.from_bytes(os.urandom(8), "big"))
_STYLE = re.compile(rf"\x1b\[([0-9]+);{_KEY}m")
_RESET, _BOLD = 0, 1
_FOREGROUND = {
    typer.colors.RED: 31,
    typer.colors.GREEN: 32,
    typer.colors.YELLOW: 33,
    typer.colors.BLUE: 34,
    typer.colors.MAGENTA: 35,
}
_LAYOUT = "\n\t"


def style(text: str, fg: str | None = None, *, bold: bool = False) -> str:
    """The text in a colour, for a terminal; elsewhere the colour is left out."""
    codes = ([_FOREGROUND[fg]] if fg else []) + ([_BOLD] if bold else [])
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"  # as rich has it
    if codes and not is_plain:
        return "".join(map(_sequence, codes)) + text + _sequence(_RESET)
    return text


def _sequence(code: int) -> str:
    return f"\x1b[{code};{_KEY}m"


class GuardedStream:
    """A text stream that writes only printable characters, new lines, tabs and styles of
    `style`.
    """

    buffer = (
        None  # click would write UTF-8 there, past the guard, where the stream is declared as ASCII
    )

    def __init__(self, stream: TextIO) -> None:
        self.unguarded = stream
        if isinstance(stream, io.TextIOWrapper) and codecs.lookup(stream.encoding).name == "ascii":
            stream.reconfigure(encoding="utf-8")

    def write(self, text: str) -> int:
        """Write, escaped. Returns the length of what was given."""
        if "\x1b" not in text:  # nearly all of a log
            self.unguarded.write(escape(text, _LAYOUT))
            return len(text)
        # Only our own styles carry the key. Any other sequence stays in the text parts and is
        # escaped there.
        parts = _STYLE.split(text)  # text and the codes of styles take turns
        self.unguarded.write(
            "".join(
                f"\x1b[{part}m" if at % 2 else escape(part, _LAYOUT)
                for at, part in enumerate(parts)
            )
        )
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write each, escaped."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unguarded, name)


@contextmanager
def guarded_output() -> Iterator[None]:
    """Guard stdout and stderr until the context ends."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, GuardedStream(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


@contextmanager
def end_on_interrupt(message: str) -> Iterator[None]:
    """After Ctrl-C, print what is left and end with the status that shells report for SIGINT."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(message, err=True)
        raise typer.Exit(INTERRUPTED) from None


def confirm(question: str, *, untouched: str = "nothing was changed") -> bool:
    """Whether the user confirms. Raises CliError without a terminal; `untouched` says what is
    unchanged.
    """
    if not sys.stdin.isatty():
        raise CliError(
            f"{untouched}, because there is no terminal for the question: use --yes", USAGE
        )
    return typer.confirm(question, err=True)
