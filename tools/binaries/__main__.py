"""Prints a line name=path for each NAME; `--older FOLDER` fills a folder for VDI_BINARIES."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.binaries import OLDER_KUBERNETES, RECIPES, BinaryUnavailable, ensure, link_older
from vdi.devcluster.build_cache import default_cache
from vdi.devcluster.progress import Progress


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0 ok, 1 a binary could not be had, 2 usage."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.binaries",
        description=(
            "Find, download or build programs of the embedded cluster and of the tests; print where"
            " they are."
        ),
        epilog="Example: python -m tools.binaries etcd kube-apiserver kubectl",
    )
    parser.add_argument("name", nargs="*", metavar="NAME", help=f"one of {', '.join(RECIPES)}")
    older = (
        f"link Kubernetes {OLDER_KUBERNETES} and the distribution's containerd into FOLDER:"
        " VDI_BINARIES=FOLDER"
    )
    parser.add_argument("--older", type=Path, metavar="FOLDER", help=older)
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.name if name not in RECIPES]:
        parser.error(f"NAME is {unknown[0]!r}; allowed: {', '.join(RECIPES)}")
    if bool(options.name) == bool(options.older):
        parser.error("pass names of programs, or --older FOLDER")
    try:
        with Progress(default_cache(os.environ) / "logs") as progress:
            paths = ensure(options.name, progress=progress)
            if options.older:
                link_older(options.older, progress=progress)
    except (BinaryUnavailable, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    sys.stdout.writelines(f"{name}={path}\n" for name, path in paths.items())
    return 0


if __name__ == "__main__":
    sys.exit(main())
