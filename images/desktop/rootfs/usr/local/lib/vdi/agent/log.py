"""The container's log, which is stderr."""

import sys


def log(text: str) -> None:
    print(f"[vdi-agent] {text}", file=sys.stderr, flush=True)  # noqa: T201 - the log
