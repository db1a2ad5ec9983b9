"""The images of the demo and the tests: the base, the desktop, operator and gateway, and the
cluster's add-ons.

Each is an image archive in the cache, under a digest of all that goes into it, and is built again
only when that changes. docs/images.md says how users build their own.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from vdi.devcluster import host_settings
from vdi.devcluster.build_cache import BuildCache, architecture, default_cache
from vdi.devcluster.images.archive import (
    ImageConfig,
    find_leaks,
    image_id,
    write_archive,
    write_program_layer,
)
from vdi.devcluster.images.base import BASE, RECIPE, SUITE, from_registry, make_base
from vdi.devcluster.images.builder import clean_storage, require_builder
from vdi.devcluster.progress import Progress, Step, StepFailed

DESKTOP = "localhost/vdi/desktop:dev"
VDI = "localhost/vdi/vdi:dev"
POSTGRESQL = "localhost/vdi/postgresql:dev"
REDIS = "localhost/vdi/redis:dev"
COTURN = "localhost/vdi/coturn:dev"
_ROOT = Path(__file__).resolve().parents[4]
# Builds of one image that stay in the cache: two checkouts and an edit do not delete each other's.
_KEPT = 3


class ImageFailed(Exception):  # noqa: N818 - named for what happened
    """Raised when an image cannot be made for a reason other than a program's failure."""


@dataclass(frozen=True)
class Addon:
    """An image around one static program, under the name it has in public."""

    name: str
    program: str
    entrypoint: tuple[str, ...]
    user: str = ""


ADDONS = {
    "pause": Addon("registry.k8s.io/pause:3.10", "/pause", ("/pause",), "65535:65535"),
    "coredns": Addon("docker.io/coredns/coredns:1.14.6", "/coredns", ("/coredns",)),
    "local-path-provisioner": Addon(
        "docker.io/rancher/local-path-provisioner:v0.0.30",
        "/usr/bin/local-path-provisioner",
        ("local-path-provisioner",),
    ),
}


@dataclass(frozen=True)
class ImageRecipe:
    """An image of ours: the files of the project that its build sees, its Containerfile among
    them.
    """

    title: str
    tag: str
    containerfile: str
    context: str
    files: tuple[str, ...]
    # Built from the desktop's image; the others are built from Debian's.
    on_desktop: bool = False
    # Of the package, which the build gets as its argument VERSION; empty for the demo and the
    # tests.
    version: str = ""
    # SOURCE_DATE_EPOCH of the build: seconds, of an image that is for others; 0 for the demo and
    # the tests.
    epoch: int = 0


def _own(title: str, name: str, *, on_desktop: bool = False) -> ImageRecipe:
    """An image whose folder has its name."""
    folder = f"images/{name}"
    return ImageRecipe(
        f"Build {title}",
        f"localhost/vdi/{name}:dev",
        "Containerfile",
        folder,
        (folder,),
        on_desktop,
    )


def _of_gallery(name: str, *shared: str, on_desktop: bool = True) -> ImageRecipe:
    """`shared`: files of the gallery that more than one of its images has."""
    folder = "images/gallery"
    files = tuple(f"{folder}/{file}" for file in (name, *shared))
    title, tag = f"Build the gallery's image {name}", f"localhost/vdi/{name}:dev"
    return ImageRecipe(title, tag, f"{name}/Containerfile", folder, files, on_desktop)


_JUPYTER = ("jupyter.txt", "jupyter-overrides.json")
_GALLERY = {
    "office": _of_gallery("office", "install-packages"),
    "developer": _of_gallery("developer", "install-packages"),
    "science": _of_gallery("science", "install-packages", *_JUPYTER),
    "graphics": _of_gallery("graphics", "install-packages"),
    "kiosk": _of_gallery("kiosk"),
    "notebook": _of_gallery("notebook", "install-packages", *_JUPYTER, on_desktop=False),
}
# The images of docs/gallery.md, by name.
GALLERY = tuple(_GALLERY)
# As the chart's sub-charts run them.
SERVERS = ("postgresql", "redis", "coturn")
_VDI_FILES = (
    "images/vdi",
    "requirements/run.txt",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "src",
    "docs/use",
)
_VDI = ImageRecipe(
    "Build the image of operator and gateway", VDI, "images/vdi/Containerfile", ".", _VDI_FILES
)
_RECIPES = {
    "vdi": _VDI,
    "desktop": _own("the desktop image", "desktop"),
    **_GALLERY,
    "postgresql": _own("the PostgreSQL image", "postgresql"),
    "redis": _own("the Redis image", "redis"),
    "coturn": _own("the coturn image", "coturn"),
    # For tests: OpenGL on Vulkan without a GPU, and images that people bring.
    "desktop-lavapipe": _own(
        "the desktop image with a Vulkan driver that runs on the CPU",
        "desktop-lavapipe",
        on_desktop=True,
    ),
    "web-stand-ins": _own("the image of stand-ins for images that people bring", "web-stand-ins"),
}


def ensure_base(*, progress: Progress) -> Path:
    """The archive of Debian 13 slim. Raises StepFailed, NoBuilder, ImageFailed."""
    return _base(_build_cache(progress)) / "image.tar"


def ensure_image(
    name: str,
    *,
    progress: Progress,
    cache: Path | None = None,
    version: str = "",
    epoch: int = 0,
    arch: str | None = None,
) -> Path:
    """The archive of an image of ours, for `arch` or this machine. Raises StepFailed, NoBuilder,
    ImageFailed.
    """
    build_cache, recipe = _build_cache(progress, cache, arch), _RECIPES[name]
    desktop = None
    if recipe.on_desktop:
        desktop = _ensure(replace(_RECIPES["desktop"], epoch=epoch), build_cache).parent
    return _ensure(replace(recipe, version=version, epoch=epoch), build_cache, desktop)


def ensure_addons(binaries: Mapping[str, Path], *, progress: Progress) -> list[Path]:
    """The archives of the add-ons, made around `binaries` (name -> program). Raises KeyError,
    BadProgram.
    """
    build_cache = _build_cache(progress)
    return [_addon(addon, binaries[name], build_cache) for name, addon in ADDONS.items()]


def digest(parts: Sequence[str], files: Mapping[str, Path]) -> str:
    """16 hex digits that change with every part and with each file's name, content and executable
    bit.
    """
    total = hashlib.sha256()
    for part in parts:
        total.update(f"{len(part)}:{part}".encode())
    for name, path in sorted(files.items()):
        mark = "x" if path.stat().st_mode & 0o100 else "-"
        total.update(f"{name} {mark} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()[:16]


def context_files(recipe: ImageRecipe, root: Path) -> dict[str, Path]:
    """Files of a build: path in the context -> file. Raises ImageFailed outside a checkout of the
    project.
    """
    by_name: dict[str, Path] = {}
    for name in recipe.files:
        start = root / name
        if not start.exists():
            raise ImageFailed(
                f"{recipe.title}: {start} does not exist; images are built from a checkout of the"
                " project"
            )
        for path in [start] if start.is_file() else start.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                by_name[str(path.relative_to(root / recipe.context))] = path
    return by_name


def base_digest() -> str:
    """The digest of Debian's image that the Containerfiles name. Raises ImageFailed outside a
    checkout.
    """
    file = _ROOT / _VDI.containerfile
    if not file.is_file():
        raise ImageFailed(f"{file} does not exist; images are built from a checkout of the project")
    match = re.search(
        rf"^ARG BASE={re.escape(BASE)}@(sha256:[0-9a-f]{{64}})$", file.read_text(), re.MULTILINE
    )
    if match is None:
        raise ImageFailed(f"{file} has no line ARG BASE={BASE}@sha256:...")
    return match[1]


def is_base_from_registry(*, progress: Progress) -> bool:
    """Whether Debian's image came from its registry, and so Docker may build. Raises like
    `ensure_base`.
    """
    return from_registry(_base(_build_cache(progress)))


def _build_cache(
    progress: Progress, cache: Path | None = None, arch: str | None = None
) -> BuildCache:
    return BuildCache(progress, cache or default_cache(os.environ), arch=arch or architecture())


def _base(build_cache: BuildCache) -> Path:
    digest = base_digest()
    key = f"image-base-{SUITE}-{RECIPE}-{digest.removeprefix('sha256:')[:12]}"
    entry = build_cache.obtain(
        key, f"Get {BASE}", lambda step, into: make_base(build_cache, step, into, digest)
    )
    _forget_older(entry, f"image-base-*-{build_cache.arch}")
    return entry


def _ensure(recipe: ImageRecipe, build_cache: BuildCache, parent: Path | None = None) -> Path:
    """`parent`: the entry of the image that it is built from, when that is one of ours."""
    debian = _base(build_cache)
    base = parent or debian
    files = context_files(recipe, _ROOT)
    name = recipe.tag.rpartition("/")[2].partition(":")[0]
    kind = "release-image" if recipe.epoch else "image"
    parts = [
        recipe.tag,
        image_id(base / "image.tar"),
        *(f"{name}={value}" for name, value in _arguments(recipe)),
    ]
    key = f"{kind}-{name}-{digest(parts, files)}"

    def build(step: Step, into: Path) -> None:
        _build(
            recipe, files, base / "image.tar", build_cache, step, into, online=from_registry(debian)
        )

    entry = build_cache.obtain(key, recipe.title, build)
    _forget_older(entry, f"{kind}-{name}-*-{build_cache.arch}")
    return entry / "image.tar"


def _arguments(recipe: ImageRecipe) -> list[tuple[str, str]]:
    """Arguments of the build that are the same on each machine."""
    given = (("VERSION", recipe.version), ("SOURCE_DATE_EPOCH", str(recipe.epoch or "")))
    return [(name, value) for name, value in given if value]


def _forget_older(entry: Path, pattern: str) -> None:
    """Keep the entries that were used last: each edit makes a large archive, and checkouts share
    the cache.
    """
    os.utime(entry)
    for old in sorted(entry.parent.glob(pattern), key=_last_use, reverse=True)[_KEPT:]:
        shutil.rmtree(old, ignore_errors=True)


def _last_use(entry: Path) -> float:
    try:
        return entry.stat().st_mtime
    except FileNotFoundError:  # another process has removed it meanwhile
        return 0


def _build(
    recipe: ImageRecipe,
    files: Mapping[str, Path],
    base: Path,
    build_cache: BuildCache,
    step: Step,
    into: Path,
    *,
    online: bool,
) -> None:
    """`online`: Debian's image came from its registry, with package sources of its own."""
    archive = into / "image.tar"
    with (
        build_cache.scratch() as scratch,
        clean_storage(into.with_name(f"{into.name}-storage")) as storage,
    ):
        context = scratch / "context"
        for name, source in files.items():
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, context / name)
        folders = [host_settings.prepare_home(scratch / "home", build_cache.env, Path.home())]
        if not online:
            ca = host_settings.find_ca(build_cache.env, {})
            sources = host_settings.debian_sources(host_settings.apt_targets(), SUITE)
            folders.append(
                host_settings.prepare_apt(scratch / "apt", sources, host_settings.apt_dump(), ca)
            )
        builder = require_builder(
            step, storage, build_cache.env, docker=online, arch=build_cache.arch
        )
        arguments = dict(_arguments(recipe))
        if builder.storage or recipe.on_desktop:  # no registry has our desktop
            step.run(builder.load(base), env=build_cache.env)
            # An archive has no digest; Debian's was pulled by digest.
            arguments["BASE"] = DESKTOP if recipe.on_desktop else BASE
        step.run(
            builder.build(
                context,
                context / recipe.containerfile,
                recipe.tag,
                [*chain.from_iterable(folder.mounts for folder in folders)],
                arguments,
            ),
            env=build_cache.env,
        )
        step.update("writing the archive")
        step.run(builder.save(recipe.tag, archive), env=build_cache.env)
    private = [*chain.from_iterable(folder.private for folder in folders)]
    leaks = find_leaks(archive, private, host_settings.LEFTOVERS)
    if leaks:
        raise StepFailed(
            recipe.title,
            f"the image contains data of this machine: {'; '.join(leaks)}",
            step.log_path,
        )


def _addon(addon: Addon, program: Path, build_cache: BuildCache) -> Path:
    name = addon.program.rpartition("/")[2]
    parts = [addon.name, addon.program, *addon.entrypoint, addon.user]

    def write(step: Step, into: Path) -> None:
        step.update(addon.name)
        layer = into / "layer.tar"
        write_program_layer({addon.program: program}, layer)
        config = ImageConfig(entrypoint=addon.entrypoint, user=addon.user)
        comment = f"{addon.program} only"
        write_archive(
            into / "image.tar",
            name=addon.name,
            layer=layer,
            config=config,
            arch=build_cache.arch,
            comment=comment,
        )
        layer.unlink()

    return (
        build_cache.obtain(
            f"image-{name}-{digest(parts, {name: program})}", f"Image of {name}", write
        )
        / "image.tar"
    )
