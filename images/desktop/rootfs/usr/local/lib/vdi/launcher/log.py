"""The container's log, which is stderr. Its last line is why the desktop ended."""

import sys
from typing import NoReturn


def log(text: str) -> None:
    print(f"[vdi-desktop] {text}", file=sys.stderr, flush=True)  # noqa: T201 - the log


def refuse(reason: str) -> NoReturn:
    """End with status 1 and write the reason once everything has ended: the operator quotes it."""
    raise SystemExit(f"[vdi-desktop] {reason}")


def last_line(output: str) -> str:
    """The last line that is not empty."""
    for line in reversed(output.splitlines()):
        if line.strip():
            return line.strip()
    return ""
