"""The programs that the embedded cluster is made of: found, downloaded or built.

For each name the sources are tried in this order, and the first that works is taken:
a folder the user names (VDI_BINARIES, KUBEBUILDER_ASSETS), our cache, the system's own (containerd, runc and CNI only),
the official release, and last a build from Go modules or a package. A source that fails says why.

`python -m vdi.devcluster.binaries NAME...` prints a line name=path for each.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from vdi.devcluster.progress import Progress, Step, StepFailed
from vdi.devcluster.sources import BinaryUnavailable, SourceFailed, Workshop, default_cache
from vdi.devcluster.sources_download import Downloader
from vdi.devcluster.sources_folder import from_named_folder, from_system
from vdi.devcluster.sources_go import MODULES, build, module_digest, take_file
from vdi.devcluster.sources_packages import install_wheel, this_distribution, unpack_debian_package
from vdi.devcluster.sources_table import (
    CONTAINERD_PROGRAMS,
    RECIPES,
    DebianPackage,
    Download,
    GoBuild,
    GoFile,
    PythonPackage,
    Recipe,
)

__all__ = ["NAMES", "BinaryUnavailable", "ensure"]

NAMES = tuple(RECIPES)
"""What can be asked for. `cni` is a folder of plugins, `traefik-crds.yaml` a file, the others are programs."""

_SYSTEM_NAMES = (*CONTAINERD_PROGRAMS, "runc", "cni")


def ensure(names: Iterable[str], *, progress: Progress, cache: Path | None = None) -> dict[str, Path]:
    """The path of each name, getting first what is not there. Independent ones side by side, Go builds one at a time.

    Raises ValueError for a name that is not in `NAMES`, BinaryUnavailable when all the sources of one failed; no
    further step of `progress` runs then.
    """
    wanted = list(dict.fromkeys(names))
    unknown = [name for name in wanted if name not in RECIPES]
    if unknown:
        raise ValueError(f"no such binary: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    finder = Finder(Workshop(progress, cache or default_cache(os.environ)))
    paths = progress.side_by_side([functools.partial(finder.find, name) for name in wanted], at_once=len(wanted) or 1)
    return dict(zip(wanted, paths, strict=True))


class Finder:
    """Tries the sources of one name after the other. Shared by the threads of one `ensure`."""

    def __init__(self, workshop: Workshop, recipes: dict[str, tuple[Recipe, ...]] | None = None) -> None:
        self._workshop = workshop
        self._recipes = recipes if recipes is not None else dict(RECIPES)
        self._downloader = Downloader(workshop.progress, workshop.env)
        self._said: set[str] = set()  # for this run: many names share a reason, such as a host that is away
        self._lock = threading.Lock()

    def find(self, name: str) -> Path:
        """Where `name` is now. Raises BinaryUnavailable with every source's reason."""
        reasons: list[str] = []
        path, missing = from_named_folder(name, self._workshop.env)
        if path is not None:
            return path
        self._note(reasons, *missing)
        if not missing:
            reasons.append("a named folder: VDI_BINARIES is not set")
        for recipe in self._recipes[name]:
            entry = self._workshop.entry(entry_key(recipe))
            if entry.is_dir():
                return entry / recipe.provides[name]
        reasons.append(f"cache: not in {self._workshop.cache}")
        if name in _SYSTEM_NAMES:
            try:
                return from_system(name, self._workshop.env)
            except SourceFailed as error:
                self._note(reasons, str(error))
        for recipe in self._recipes[name]:
            try:
                return self._make(recipe) / recipe.provides[name]
            except (SourceFailed, StepFailed) as error:
                self._note(reasons, f"{recipe.title}: {error}" if isinstance(error, SourceFailed) else str(error))
        raise BinaryUnavailable(name, reasons)

    def _make(self, recipe: Recipe) -> Path:
        key, fetch = entry_key(recipe), self._fetch(recipe)
        # A Go build keeps all cores busy by itself; a second one beside it would only make both late.
        alone = self._workshop.lock("go-build") if isinstance(recipe, GoBuild) else contextlib.nullcontext()
        try:
            with alone:
                return self._workshop.obtain(key, recipe.title, fetch)
        except OSError as error:  # no right to write, or no room left
            raise SourceFailed(f"{error} (the cache is {self._workshop.cache}; VDI_CACHE names another)") from error

    def _fetch(self, recipe: Recipe) -> Callable[[Step, Path], None]:
        workshop = self._workshop
        match recipe:
            case Download():
                sha256 = self._downloader.published_checksum(
                    recipe, workshop.arch
                )  # before a step is shown: is it there?
                return lambda step, into: self._downloader.fetch(recipe, workshop.arch, sha256, step, into)
            case GoBuild():
                return lambda step, into: build(recipe, workshop, step, into)
            case GoFile():
                return lambda step, into: take_file(recipe, workshop, step, into)
            case DebianPackage():
                return lambda step, into: unpack_debian_package(recipe, workshop, step, into)
            case PythonPackage():
                return lambda step, into: install_wheel(recipe, workshop, step, into)
        raise TypeError(f"{type(recipe).__name__} is not a recipe that can be made")

    def _note(self, reasons: list[str], *new: str) -> None:
        reasons.extend(new)
        for reason in new:
            first_line = (
                reason.splitlines()[0].split(": ", 1)[-1] if "cannot be reached" in reason else reason.splitlines()[0]
            )
            with self._lock:
                if first_line in self._said:
                    continue
                self._said.add(first_line)
            self._workshop.progress.say(f"  {first_line}")


def entry_key(recipe: Recipe) -> str:
    """The recipe's name in the cache: another one for an edited Go module, and for another distribution's package."""
    match recipe:
        case GoBuild():
            return f"{recipe.key}-{module_digest(MODULES / recipe.module)}"
        case DebianPackage():
            return f"{recipe.key}-{this_distribution().replace(' ', '-').replace('/', '-')}"
    return recipe.key


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0 ok, 1 a binary could not be had, 2 usage."""
    parser = argparse.ArgumentParser(
        prog="python -m vdi.devcluster.binaries",
        description="Find, download or build the embedded cluster's programs and print where they are.",
        epilog="Example: python -m vdi.devcluster.binaries etcd kube-apiserver kubectl",
    )
    parser.add_argument("name", nargs="+", choices=NAMES, metavar="NAME", help=f"one of {', '.join(NAMES)}")
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
