"""kubectl as a program: what carries a stream into a pod and out of it."""

import shutil
from pathlib import Path

from vdi.cli.errors import COULD_NOT_LOOK, USAGE, CliError


def find_kubectl(given: Path | None, kubeconfig: Path | None, context: str | None) -> list[str]:
    """The first words of a command line, with the options that choose the cluster. Raises CliError without kubectl."""
    program = shutil.which(given or "kubectl")
    if program is None:
        missing = f"--kubectl {given}: is no program" if given else "kubectl is not in PATH"
        raise CliError(f"{missing}; allowed: --kubectl PATH", USAGE if given else COULD_NOT_LOOK)
    return [program, *cluster_options(kubeconfig, context)]


def cluster_options(kubeconfig: Path | None, context: str | None) -> list[str]:
    """The options that choose the cluster."""
    chosen = ["--kubeconfig", str(kubeconfig)] if kubeconfig else []
    return [*chosen, *(["--context", context] if context else [])]
