"""Programs of the embedded cluster: found on this machine, downloaded, or built.

The order for each name: a folder the user names (VDI_BINARIES, KUBEBUILDER_ASSETS), our cache, the system's own
(containerd, runc and CNI only), the official release, a build from Go modules or a package. A source that fails says
why.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from vdi.devcluster.binaries.components import (
    CNI_PLUGINS,
    CNI_PROTOCOL,
    CONTAINERD_PROGRAMS,
    RECIPES,
    SUPPORTED,
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

_SYSTEM_NAMES = (*CONTAINERD_PROGRAMS, "runc", "cni")
# Programs in a folder made by setup-envtest.
ENVTEST_NAMES = ("etcd", "kube-apiserver", "kubectl")

SYSTEM_FOLDERS = ("/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin")
CNI_FOLDERS = ("/usr/lib/cni", "/opt/cni/bin")
_VERSION = re.compile(r"\bv?(\d+)\.(\d+)(?:\.\d+)?")


def from_named_folder(name: str, env: Mapping[str, str]) -> tuple[Path | None, list[str]]:
    """`name` in the folder that VDI_BINARIES or KUBEBUILDER_ASSETS names, or why it is not taken from there."""
    reasons = []
    for variable in ("VDI_BINARIES", "KUBEBUILDER_ASSETS"):
        folder = env.get(variable)
        if not folder or (variable == "KUBEBUILDER_ASSETS" and name not in ENVTEST_NAMES):
            continue
        path = Path(folder) / name
        missing = [plugin for plugin in CNI_PLUGINS if not _executable(path / plugin)] if name == "cni" else []
        if missing:
            reasons.append(f"{variable}={folder}: the folder {path} lacks the plugins {', '.join(missing)}")
        elif name == "cni" or _executable(path) or (path.is_file() and path.suffix == ".yaml"):
            return path.absolute(), []
        else:
            reasons.append(f"{variable}={folder}: contains no executable {name}")
    return None, reasons


def from_system(name: str, env: Mapping[str, str], folders: tuple[str, ...] = SYSTEM_FOLDERS + CNI_FOLDERS) -> Path:
    """containerd, runc or the CNI plugins as the system has them, if we support them. Raises SourceFailed."""
    part = "containerd" if name in CONTAINERD_PROGRAMS else name
    searched = [folder for folder in env.get("PATH", "").split(os.pathsep) if folder] + list(folders)
    programs = {"containerd": CONTAINERD_PROGRAMS, "runc": ("runc",), "cni": CNI_PLUGINS}[part]
    for folder in dict.fromkeys(Path(path) for path in searched):
        if not all(_executable(folder / program) for program in programs):
            continue
        if part == "cni":
            require_protocol(folder / "bridge", _answer(folder / "bridge"))
            return folder
        require_version(part, folder / part, _answer(folder / part))
        return folder / name
    raise SourceFailed(f"the system has no {', '.join(programs)} in PATH or in {', '.join(folders)}")


def require_version(part: str, program: Path, answer: str) -> None:
    """Raises SourceFailed when what `program --version` answered is not a version of `part` that we support."""
    found = _VERSION.search(answer)
    low, high = SUPPORTED[part]
    if found is None or not low <= (int(found[1]), int(found[2])) < high:
        shown = f"version {found[1]}.{found[2]}" if found else "an unknown version"
        allowed = f"{low[0]}.{low[1]} or newer, below {high[0]}.{high[1]}"
        raise SourceFailed(f"the system's {program} is {shown}, supported: {allowed}")


def require_protocol(plugin: Path, answer: str) -> None:
    """Raises SourceFailed when a CNI plugin doesn't speak our protocol. Its own version is not always built in."""
    if CNI_PROTOCOL not in answer.partition("supported:")[2].replace(",", " ").split():
        raise SourceFailed(f"the system's {plugin} does not report support for CNI {CNI_PROTOCOL}")


def _executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _answer(program: Path) -> str:
    try:  # a CNI plugin that gets no command in its environment names what it speaks, the others want --version
        said = subprocess.run(
            [program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceFailed(f"the system's {program} cannot be run: {error}") from error
    return said.stdout + said.stderr


def ensure(
    names: Iterable[str],
    *,
    progress: Progress,
    cache: Path | None = None,
    recipes: Mapping[str, tuple[Recipe, ...]] = RECIPES,
) -> dict[str, Path]:
    """The path of each name, after fetching what is missing: concurrently, but Go builds one at a time.

    Raises ValueError for a name that is not in `recipes`, BinaryUnavailable when all the sources of one failed; no
    further step of `progress` runs then.
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
    """Raised when no source could provide a binary: lists each source that was tried, with its reason."""

    def __init__(self, name: str, reasons: Iterable[str]) -> None:
        self.name, self.reasons = name, list(reasons)
        super().__init__(f"{name} is not available. Tried:" + "".join(f"\n  - {reason}" for reason in self.reasons))


class Finder:
    """Tries the sources of one name after the other. Shared by the threads of one `ensure`."""

    def __init__(self, build_cache: BuildCache, recipes: Mapping[str, tuple[Recipe, ...]]) -> None:
        self._build_cache = build_cache
        self._recipes = recipes
        self._downloader = Downloader(build_cache.progress, build_cache.env)
        self._noted: set[str] = set()  # for this run: many names share a reason, such as a host that is away
        self._lock = threading.Lock()

    def find(self, name: str) -> Path:
        """The path of `name`. Raises BinaryUnavailable with every source's reason."""
        reasons: list[str] = []
        path, missing = from_named_folder(name, self._build_cache.env)
        if path is not None:
            return path
        self._note(reasons, *missing)
        if not missing:
            reasons.append("a named folder: VDI_BINARIES is not set")
        for recipe in self._recipes[name]:
            entry = self._build_cache.entry(entry_key(recipe))
            if entry.is_dir():
                return entry / recipe.provides[name]
        reasons.append(f"cache: not in {self._build_cache.folder}")
        if name in _SYSTEM_NAMES:
            try:
                return from_system(name, self._build_cache.env)
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
        alone = self._build_cache.lock("go-build") if isinstance(recipe, GoBuild) else contextlib.nullcontext()
        try:
            with alone:
                return self._build_cache.obtain(key, recipe.title, fetch)
        except OSError as error:  # no right to write, or no room left
            raise SourceFailed(f"{error} (the cache is {self._build_cache.folder}; VDI_CACHE names another)") from error

    def _fetch(self, recipe: Recipe) -> Callable[[Step, Path], None]:
        build_cache = self._build_cache
        match recipe:
            case Download():
                sha256 = self._downloader.published_checksum(
                    recipe, build_cache.arch
                )  # before a step is shown: is it there?
                return lambda step, into: self._downloader.fetch(recipe, build_cache.arch, sha256, step, into)
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

    def _note(self, reasons: list[str], *new: str) -> None:
        reasons.extend(new)
        for reason in new:
            first_line = (
                reason.splitlines()[0].split(": ", 1)[-1] if "cannot be reached" in reason else reason.splitlines()[0]
            )
            with self._lock:
                if first_line in self._noted:
                    continue
                self._noted.add(first_line)
            self._build_cache.progress.say(f"  {first_line}")


def entry_key(recipe: Recipe) -> str:
    """The recipe's name in the cache: another one for an edited Go module, and for another distribution's package."""
    match recipe:
        case GoBuild():
            return f"{recipe.key}-{module_digest(recipe.modules / recipe.module)}"
        case DebianPackage():
            return f"{recipe.key}-{this_distribution().replace(' ', '-').replace('/', '-')}"
        case _:
            return recipe.key
