"""What the commands of this folder share: exit statuses, arguments, and a run on a control plane of
its own.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from bench.cluster import BINARIES
from tools.binaries import ensure
from vdi.devcluster.binaries import BinaryUnavailable
from vdi.devcluster.build_cache import SourceFailed, default_cache
from vdi.devcluster.progress import Progress, StepFailed

FINDINGS, COULD_NOT_LOOK, INTERRUPTED = 1, 3, 130

T = TypeVar("T")


def positive(text: str) -> int:
    """A whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: allowed: 1 or more")
    return number


def add_image_option(parser: argparse.ArgumentParser) -> None:
    """Let people choose which operator is measured."""
    text = (
        "the operator out of its image, with the image's Python (built where it is missing, which"
        " needs root)"
    )
    parser.add_argument("--image", action="store_true", help=text)


def add_demo_options(parser: argparse.ArgumentParser) -> None:
    """Let people choose the demo, and the template of the desktops that are measured."""
    parser.add_argument("--cluster", default="demo", help="name of the embedded cluster (demo)")
    text = "template of the desktops (small, which the chart brings)"
    parser.add_argument("--template", default="small", help=text)


def in_words(error: BaseException) -> str:
    """The first cause of a group of errors."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


def run_measurement(
    title: str, measure: Callable[[Mapping[str, Path]], Coroutine[Any, Any, T]]
) -> T:
    """What `measure` returns, given the programs of a control plane.

    Ends the program with 3 when a program is missing, with 1 when `measure` raises RuntimeError,
    both in words, and with 130 at Ctrl-C.
    """
    with Progress(default_cache(os.environ) / "logs") as progress:
        try:
            binaries = ensure(BINARIES, progress=progress)
        except (BinaryUnavailable, SourceFailed, StepFailed) as error:
            progress.say(str(error))
            raise SystemExit(COULD_NOT_LOOK) from error
        try:
            with progress.step(title), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(measure(binaries))
        except RuntimeError as error:
            progress.say(str(error))
            raise SystemExit(FINDINGS) from error
        except KeyboardInterrupt as error:
            raise SystemExit(INTERRUPTED) from error
