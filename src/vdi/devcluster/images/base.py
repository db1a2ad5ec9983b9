"""The base image, Debian 13 slim: from its registry, else made from Debian's own packages with
mmdebstrap.
"""

import shutil
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from vdi.devcluster import host_settings
from vdi.devcluster.binaries import packages
from vdi.devcluster.build_cache import BuildCache
from vdi.devcluster.images.archive import ImageConfig, write_archive
from vdi.devcluster.images.builder import clean_storage, require_builder
from vdi.devcluster.progress import Step, StepFailed

BASE = "docker.io/library/debian:13-slim"
SUITE = "trixie"
# Counts up when what is made here changes.
RECIPE = "2"

_REGISTRY = "https://registry-1.docker.io/v2/"
_REGISTRY_SECONDS = 4.0
# Folders of /usr/share that the slim image leaves out too.
_UNWANTED = ("man", "locale", "info", "groff", "lintian", "linda", "doc")


def make_base(build_cache: BuildCache, step: Step, into: Path, digest: str) -> None:
    """Write `image.tar`, and `origin`: `registry`, or `mmdebstrap` with the reason. Raises
    StepFailed, NoBuilder.

    `digest` is what the registry must have.
    """
    problem = registry_problem()
    if problem is None:
        try:
            _pull(build_cache, step, into / "image.tar", digest)
        except StepFailed as error:
            problem = error.message
    if problem is None:
        (into / "origin").write_text("registry\n")
        return
    build_cache.progress.say(f"  {BASE}: {problem}; it is built from Debian's packages instead")
    _bootstrap(build_cache, step, into / "image.tar")
    (into / "origin").write_text(f"mmdebstrap, because {problem}\n")


def from_registry(entry: Path) -> bool:
    """Whether the base in `entry` came from its registry."""
    return (entry / "origin").read_text().startswith("registry")


def registry_problem(address: str = _REGISTRY, seconds: float = _REGISTRY_SECONDS) -> str | None:
    """The reason why the registry cannot be used; None when it responds (401 means: not logged
    in).
    """
    try:
        with urllib.request.urlopen(address, timeout=seconds):  # noqa: S310 - https, a constant
            return None
    except urllib.error.HTTPError as error:
        if error.code == 401:
            return None
        return f"its registry responded with {error.code} {error.reason}"
    except OSError as error:
        return f"its registry cannot be reached ({getattr(error, 'reason', error)})"


def _pull(build_cache: BuildCache, step: Step, target: Path, digest: str) -> None:
    pinned = f"{BASE.rpartition(':')[0]}@{digest}"
    with clean_storage(build_cache.folder / "unfinished" / "base-storage") as storage:
        builder = require_builder(
            step, storage, build_cache.env, docker=True, arch=build_cache.arch
        )
        step.run(builder.pull(pinned), env=build_cache.env)
        step.run(builder.tag(pinned, BASE), env=build_cache.env)
        step.run(builder.save(BASE, target), env=build_cache.env)


def _bootstrap(build_cache: BuildCache, step: Step, target: Path) -> None:
    if shutil.which("mmdebstrap", path=build_cache.env.get("PATH", "")) is None:
        packages.install(step, ["mmdebstrap", "debian-archive-keyring"])
    sources = host_settings.debian_sources(host_settings.apt_targets(), SUITE)
    layer, settings = target.with_name("layer.tar"), target.with_name("apt.conf")
    settings.write_text(
        "".join(f"{line}\n" for line in host_settings.apt_settings(host_settings.apt_dump()))
    )
    try:
        step.run(
            [
                *packages.root_rights(),
                *bootstrap_command(layer, sources, settings, build_cache.arch),
            ],
            env=build_cache.env,
        )
        step.update("writing the archive")
        comment = "mmdebstrap --variant=minbase, trimmed like the slim image"
        config = ImageConfig(cmd=("bash",))
        write_archive(
            target, name=BASE, layer=layer, config=config, arch=build_cache.arch, comment=comment
        )
    finally:
        layer.unlink(missing_ok=True)
        settings.unlink()


def bootstrap_command(layer: Path, sources: Sequence[str], settings: Path, arch: str) -> list[str]:
    """mmdebstrap's command line. Without `sources` it takes Debian's default server. Nothing of the
    machine stays.
    """
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in _UNWANTED]
    machine_files = " ".join(
        f'"$1"/etc/{name}'
        for name in ("hostname", "resolv.conf", "apt/sources.list*", "apt/apt.conf.d/99mmdebstrap")
    )
    return [
        "mmdebstrap", "--variant=minbase", "--mode=root", "--format=tar", f"--architectures={arch}",
        "--include=usr-is-merged", "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
        f"--aptopt={settings}", *excluded, "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        f'--customize-hook=rm -rf {machine_files}',
        '--customize-hook=mkdir "$1"/etc/apt/sources.list.d', '--customize-hook=find "$1"/var/log -type f -delete',
        SUITE, str(layer), *sources,
    ]  # fmt: skip
