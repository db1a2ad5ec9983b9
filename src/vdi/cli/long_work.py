"""What commands that work for minutes share: the display of their steps, and their errors in words."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from vdi.cli.console import SafeConsole
from vdi.cli.errors import CliError
from vdi.devcluster.binaries import BinaryUnavailable
from vdi.devcluster.images import ImageFailed
from vdi.devcluster.images.archive import BadProgram
from vdi.devcluster.images.builder import NoBuilder
from vdi.devcluster.layout import ClusterError
from vdi.devcluster.packages import PackagesUnavailable
from vdi.devcluster.progress import Progress, StepFailed

INTERRUPTED = 130
_EXPECTED = (ClusterError, StepFailed, BinaryUnavailable, NoBuilder, ImageFailed, BadProgram, PackagesUnavailable)


@contextmanager
def progress_of(name: str) -> Iterator[Progress]:
    """Show steps. Their logs go to a folder that is kept only when something failed."""
    folder = Path(tempfile.mkdtemp(prefix=f"vdi-{name}-"))
    with Progress(folder, SafeConsole(stderr=True)) as progress:
        yield progress
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


@contextmanager
def errors_in_words(*more: type[Exception], interrupted: str = "") -> Iterator[None]:
    """Turn what building and running a cluster may raise, and `more`, into one sentence and an exit code.

    `interrupted` is said after Ctrl-C: what is left, and how to go on.
    """
    expected: tuple[type[Exception], ...] = (*_EXPECTED, *more)
    try:
        yield
    except expected as error:
        raise CliError(str(error)) from error
    except KeyboardInterrupt:
        print(" ".join(["Interrupted.", interrupted]).strip(), file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
