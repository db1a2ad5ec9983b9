"""The images of the demo and the tests: the base, the desktop, operator and gateway, and the cluster's add-ons.

Each is an image archive in the cache, under a digest of all that goes into it, and is built again only when that
changes. Called by the cluster, the demo and the end-to-end tests; docs/images.md says how people build their own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vdi.devcluster import images_machine
from vdi.devcluster.images_archive import ImageConfig, find_leaks, image_id, write_archive, write_program_layer
from vdi.devcluster.images_base import BASE, RECIPE, SUITE, from_registry, make_base
from vdi.devcluster.images_builder import clean_storage, mount_words, require_builder
from vdi.devcluster.progress import Progress, Step, StepFailed
from vdi.devcluster.sources import Workshop, default_cache

DESKTOP = "localhost/vdi/desktop:dev"
VDI = "localhost/vdi/vdi:dev"
POSTGRESQL = "localhost/vdi/postgresql:dev"
REDIS = "localhost/vdi/redis:dev"
COTURN = "localhost/vdi/coturn:dev"
_ROOT = Path(__file__).resolve().parents[3]


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
class Recipe:
    """An image of ours: which files of the project its build sees, and its Containerfile among them."""

    title: str
    tag: str
    containerfile: str
    context: str
    files: tuple[str, ...]


_DESKTOP = Recipe("Build the desktop image", DESKTOP, "Containerfile", "images/desktop", ("images/desktop",))
_VDI = Recipe(
    "Build the image of operator and gateway",
    VDI,
    "images/vdi/Containerfile",
    ".",
    ("images/vdi", "requirements/run.txt", "pyproject.toml", "README.md", "LICENSE", "src"),
)

_SERVERS = [
    Recipe(f"Build the {title} image", tag, "Containerfile", f"images/{name}", (f"images/{name}",))
    for name, title, tag in (
        ("postgresql", "PostgreSQL", POSTGRESQL),
        ("redis", "Redis", REDIS),
        ("coturn", "coturn", COTURN),
    )
]


def ensure_base(*, progress: Progress, cache: Path | None = None) -> Path:
    """The archive of Debian 13 slim. Raises StepFailed, NoBuilder."""
    return _base(_workshop(progress, cache)) / "image.tar"


def ensure_desktop(*, progress: Progress, cache: Path | None = None) -> Path:
    """The archive of the desktop. Raises StepFailed, NoBuilder, ImageFailed."""
    return _ensure(_DESKTOP, _workshop(progress, cache))


def ensure_vdi(*, progress: Progress, cache: Path | None = None) -> Path:
    """The archive of operator and gateway. Raises StepFailed, NoBuilder, ImageFailed."""
    return _ensure(_VDI, _workshop(progress, cache))


def ensure_servers(*, progress: Progress, cache: Path | None = None) -> list[Path]:
    """The archives of PostgreSQL, Redis and coturn, as the chart's sub-charts run them. Raises like `ensure_vdi`."""
    workshop = _workshop(progress, cache)
    return [_ensure(recipe, workshop) for recipe in _SERVERS]


def ensure_addons(binaries: Mapping[str, Path], *, progress: Progress, cache: Path | None = None) -> list[Path]:
    """The archives of the add-ons, made around `binaries` (name -> program). Raises KeyError, BadProgram."""
    workshop = _workshop(progress, cache)
    return [_addon(addon, binaries[name], workshop) for name, addon in ADDONS.items()]


def digest(parts: Sequence[str], files: Mapping[str, Path]) -> str:
    """16 hex digits that change with every part and with each file's name, content and executable bit."""
    total = hashlib.sha256()
    for part in parts:
        total.update(f"{len(part)}:{part}".encode())
    for name, path in sorted(files.items()):
        mark = "x" if path.stat().st_mode & 0o100 else "-"
        total.update(f"{name} {mark} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()[:16]


def context_files(recipe: Recipe, root: Path) -> dict[str, Path]:
    """What the build sees: path in the context -> file. Raises ImageFailed outside a checkout of the project."""
    found: dict[str, Path] = {}
    for name in recipe.files:
        start = root / name
        if not start.exists():
            raise ImageFailed(f"{recipe.title}: {start} is not there; images are built from a checkout of the project")
        for path in [start] if start.is_file() else start.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                found[str(path.relative_to(root / recipe.context))] = path
    return found


def _workshop(progress: Progress, cache: Path | None) -> Workshop:
    return Workshop(progress, cache or default_cache(os.environ))


def _base(workshop: Workshop) -> Path:
    key = f"image-base-{SUITE}-{RECIPE}"
    entry = workshop.obtain(key, f"Get {BASE}", lambda step, into: make_base(workshop, step, into))
    _forget_older(entry, f"image-base-*-{workshop.arch}")
    return entry


def _ensure(recipe: Recipe, workshop: Workshop) -> Path:
    base = _base(workshop)
    files = context_files(recipe, _ROOT)
    name = recipe.tag.rpartition("/")[2].partition(":")[0]
    key = f"image-{name}-{digest([recipe.tag, image_id(base / 'image.tar')], files)}"

    def build(step: Step, into: Path) -> None:
        _build(recipe, files, base, workshop, step, into)

    entry = workshop.obtain(key, recipe.title, build)
    _forget_older(entry, f"image-{name}-*-{workshop.arch}")
    return entry / "image.tar"


def _forget_older(entry: Path, pattern: str) -> None:
    """Remove what no input makes any more: an archive is large, and each edit makes a new one."""
    for old in entry.parent.glob(pattern):
        if old != entry:
            shutil.rmtree(old, ignore_errors=True)


def _build(recipe: Recipe, files: Mapping[str, Path], base: Path, workshop: Workshop, step: Step, into: Path) -> None:
    archive = into / "image.tar"
    with workshop.scratch() as scratch, clean_storage(into.with_name(f"{into.name}-storage")) as storage:
        context = scratch / "context"
        for name, source in files.items():
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, context / name)
        folders = [images_machine.prepare_home(scratch / "home", workshop.env, Path.home())]
        if not from_registry(base):  # such a base has no package sources of its own
            ca = images_machine.find_ca(workshop.env, {})
            sources = images_machine.debian_sources(images_machine.apt_targets(), SUITE)
            folders.append(images_machine.prepare_apt(scratch / "apt", sources, images_machine.apt_dump(), ca))
        builder = require_builder(step, storage, workshop.env, docker=from_registry(base))
        if builder.own_storage:
            step.run(builder.load(base / "image.tar"), env=workshop.env)
        step.run(
            builder.build(context, context / recipe.containerfile, recipe.tag, mount_words(folders)), env=workshop.env
        )
        step.update("writing the archive")
        step.run(builder.save(recipe.tag, archive), env=workshop.env)
    leaks = find_leaks(archive, [text for each in folders for text in each.private], images_machine.LEFTOVERS)
    if leaks:
        raise StepFailed(recipe.title, f"the image holds something of this machine: {'; '.join(leaks)}", step.log_path)


def _addon(addon: Addon, program: Path, workshop: Workshop) -> Path:
    name = addon.program.rpartition("/")[2]
    parts = [addon.name, addon.program, *addon.entrypoint, addon.user]

    def write(step: Step, into: Path) -> None:
        """Write the image's archive into that folder."""
        step.update(addon.name)
        layer = into / "layer.tar"
        write_program_layer({addon.program: program}, layer)
        config = ImageConfig(entrypoint=addon.entrypoint, user=addon.user)
        comment = f"{addon.program}, and nothing else"
        write_archive(
            into / "image.tar", name=addon.name, layer=layer, config=config, arch=workshop.arch, comment=comment
        )
        layer.unlink()

    return workshop.obtain(f"image-{name}-{digest(parts, {name: program})}", f"Image of {name}", write) / "image.tar"
