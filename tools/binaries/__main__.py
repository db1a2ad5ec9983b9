"""`python -m tools.binaries NAME...` prints a line name=path for each."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from tools.binaries import RECIPES, BinaryUnavailable, ensure
from vdi.devcluster.build_cache import default_cache
from vdi.devcluster.progress import Progress


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0 ok, 1 a binary could not be had, 2 usage."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.binaries",
        description="Find, download or build programs of the embedded cluster and of the tests; print where they are.",
        epilog="Example: python -m tools.binaries etcd kube-apiserver kubectl",
    )
    parser.add_argument("name", nargs="+", choices=RECIPES, metavar="NAME", help=f"one of {', '.join(RECIPES)}")
    names = parser.parse_args(arguments).name
    try:
        with Progress(default_cache(os.environ) / "logs") as progress:
            paths = ensure(names, progress=progress)
    except (BinaryUnavailable, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    sys.stdout.writelines(f"{name}={path}\n" for name, path in paths.items())
    return 0


if __name__ == "__main__":
    sys.exit(main())
