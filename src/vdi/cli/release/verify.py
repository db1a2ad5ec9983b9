"""`--verify KEY` of install and upgrade: the chart before it is read, its images before anything is applied."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
import yaml

from vdi.cli.errors import COULD_NOT_LOOK, FINDINGS, USAGE, CliError
from vdi.release.chart import NAME, Chart, find_chart
from vdi.release.facts import Facts
from vdi.release.needs import images_of
from vdi.release.signatures import (
    BadSignatureError,
    CannotVerifyError,
    checksums,
    choose_images,
    find_cosign,
    verify_folder,
    verify_image,
)

_OURS = ("operator", "gateway")
"""Containers that run our code."""


@contextmanager
def verified_copy(chart: Chart, key: Path) -> Iterator[Chart]:
    """A private copy of the chart, of which every file is proven. Raises CliError.

    Helm reads the chart again after the question, which may take hours. In the original folder someone else could
    change a file in that time.
    """
    if key.resolve().is_relative_to(chart.folder.resolve()):
        raise CliError(
            f"--verify {key}: the key is in the chart's own folder {chart.folder}: whoever changed the chart could "
            "have changed it, too; allowed: a public key from a place that you trust",
            USAGE,
        )
    with tempfile.TemporaryDirectory(prefix="vdi-chart-") as private:
        folder = Path(private) / NAME
        with _failures():
            cosign = find_cosign()
            checksums(chart.folder)  # refuses links and special files before they are copied
            try:
                shutil.copytree(chart.folder, folder, symlinks=True)
            except OSError as error:
                raise CannotVerifyError(f"{chart.folder} cannot be copied: {error}") from error
            files = verify_folder(cosign, folder, key)
        proven = find_chart(folder)
        typer.echo(f"Signed with {key}: chart {proven.words} ({len(files)} files)", err=True)
        yield proven


def verify_images(facts: Facts, key: Path) -> None:
    """Prove the images of the release, and name those of others. Raises CliError."""
    values = yaml.safe_load((facts.chart.folder / "values.yaml").read_text())
    containers = [container for pods in facts.pods for container in pods.spec["containers"]]
    required = [container["image"] for container in containers if container["name"] in _OURS]
    signed, others = choose_images(
        [image for image, _ in images_of(facts)], str(values["image"]["repository"]), required
    )
    with _failures():
        cosign = find_cosign()
        for image in signed:
            verify_image(cosign, image, key)
            typer.echo(f"Signed with {key}: image {image}", err=True)
    for image in others:
        typer.echo(f"Not of this release, so not verified: image {image}", err=True)


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except BadSignatureError as error:
        raise CliError(f"{error}; nothing was changed", FINDINGS) from error
    except CannotVerifyError as error:
        raise CliError(f"{error}; nothing was changed", COULD_NOT_LOOK) from error
