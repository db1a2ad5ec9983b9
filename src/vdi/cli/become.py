"""A command that becomes a program of its own: the operator, the gateway."""

import os
import sys
from pathlib import Path
from typing import NoReturn


def become(module: str, kubeconfig: Path | None, context: str | None) -> NoReturn:
    """Run `python -m MODULE` in the place of this process.

    What reads the command line would stay in memory for as long as the program runs.
    """
    given = {"VDI_KUBECONFIG": kubeconfig and str(kubeconfig), "VDI_CONTEXT": context}
    environment = os.environ | {name: value for name, value in given.items() if value}
    os.execve(sys.executable, [sys.executable, "-P", "-m", module], environment)  # noqa: S606 - no shell is wanted
