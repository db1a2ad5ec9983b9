"""`--verify KEY` of install and upgrade: the chart before it is read, its images before anything is applied."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
import yaml

from vdi.cli.errors import COULD_NOT_LOOK, FINDINGS, CliError
from vdi.release.chart import Chart
from vdi.release.facts import Facts
from vdi.release.needs import images_of
from vdi.release.signatures import (
    BadSignatureError,
    CannotVerifyError,
    choose_images,
    find_cosign,
    verify_folder,
    verify_image,
)

_OURS = ("operator", "gateway")
"""Containers that run our code."""


def verify_chart(chart: Chart, key: Path) -> None:
    """Prove every file of the chart. Raises CliError."""
    with _failures():
        files = verify_folder(find_cosign(), chart.folder, key)
    typer.echo(f"Signed with {key}: chart {chart.folder.name}-{chart.version} ({len(files)} files)", err=True)


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
