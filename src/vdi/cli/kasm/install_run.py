"""What install, upgrade, backup and uninstall of a Kasm share: options, and errors as one error of the command."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from vdi.cli.errors import FINDINGS, CliError
from vdi.cli.kasm.files import read_values
from vdi.cli.long_work import INTERRUPTED
from vdi.cli.release.options import ReleaseOptions
from vdi.cli.release.run import ReleaseView
from vdi.helm.errors import HelmError, HelmInterrupted
from vdi.kasm.errors import KasmError, KasmFailedError
from vdi.kasm.generations import Generation, Version
from vdi.kasm.install.chart import KasmChart, merged, read_chart, source_of
from vdi.kasm.install.run import Running
from vdi.kube.transport import Client

T = TypeVar("T")

ChartOption = Annotated[
    str, typer.Option("--chart", metavar="CHART", help="Folder, archive or address.", show_default="the published one")
]
ReleaseOption = Annotated[str, typer.Option("--release", metavar="NAME", help="Name of the Helm release.")]


def work(at: ReleaseOptions, do: Callable[[Running], Awaitable[T]]) -> T:
    """Do it on the cluster with a view on stderr, and what goes wrong in words."""

    async def with_view(client: Client) -> T:
        with ReleaseView() as view:
            return await do(Running(client, at.helm, view, at.release, at.place, at.seconds))

    with in_words():
        return at.connection.run(with_view)


@contextmanager
def in_words() -> Iterator[None]:
    """Errors of Kasm's installation and of helm as `CliError`."""
    try:
        yield
    except KasmFailedError as error:
        raise CliError(str(error), INTERRUPTED if error.interrupted else FINDINGS) from error
    except HelmInterrupted as error:
        raise CliError(str(error), INTERRUPTED) from error
    except (KasmError, HelmError, ValueError) as error:
        raise CliError(str(error), FINDINGS) from error
    except KeyboardInterrupt:
        typer.echo("Interrupted; nothing was changed since the last line above.", err=True)
        raise typer.Exit(INTERRUPTED) from None


async def chart_of(at: ReleaseOptions, generation: Generation, version: Version | None, given: str) -> KasmChart:
    """The chart that is meant, read by helm."""
    return await read_chart(at.helm, *source_of(generation, version, given))


def values_of_files(files: list[Path] | None) -> dict[str, Any] | None:
    """All files together, the last winning; None without files."""
    return merged(*(read_values(file) for file in files)) if files else None
