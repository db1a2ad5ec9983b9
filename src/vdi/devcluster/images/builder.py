"""Image builders available here (Docker, Podman, Buildah) and their command lines."""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vdi.devcluster.binaries import packages
from vdi.devcluster.binaries.packages import PackagesUnavailable
from vdi.devcluster.build_cache import architecture
from vdi.devcluster.host_settings import PROXY_VARIABLES
from vdi.devcluster.progress import Step

Argv = list[str]

_DOCKER_SECONDS = 10.0


class NoBuilder(Exception):  # noqa: N818 - named for what is missing
    """Raised when nothing here can build an image: says what was looked for and what to install."""


@dataclass(frozen=True)
class Storage:
    """Folders of Podman and Buildah. `run` must be short: Podman refuses more than 50
    characters.
    """

    root: Path
    run: Path


@dataclass(frozen=True)
class Builder:
    """The command lines of docker, podman or buildah. `archive` is an image archive, `tag` an
    image's whole name.

    Docker's engine has its own storage and network settings, so it takes no mounts. The others get
    a storage that goes with the build; a base must be loaded into it first.
    """

    name: str
    # Such as linux/arm64; empty: this machine's.
    platform: str = ""
    storage: Storage | None = None
    # Before each command.
    sudo: tuple[str, ...] = ()

    @property
    def _command(self) -> Argv:
        command = [*self.sudo, self.name]
        if self.storage:
            return [*command, "--root", str(self.storage.root), "--runroot", str(self.storage.run)]
        return command

    @property
    def _platform_option(self) -> Argv:
        if self.platform:
            return ["--platform", self.platform]
        return []

    def pull(self, tag: str) -> Argv:
        return [
            *self._command,
            "pull",
            *self._platform_option,
            f"docker://{tag}" if self.storage else tag,
        ]

    def tag(self, image: str, tag: str) -> Argv:
        return [*self._command, "tag", image, tag]

    def load(self, archive: Path) -> Argv:
        if self.name == "buildah":
            return [*self._command, "pull", f"docker-archive:{archive}"]
        return [*self._command, "load", "--input", str(archive)]

    def build(
        self,
        context: Path,
        containerfile: Path,
        tag: str,
        mounts: Sequence[tuple[Path, str]],
        arguments: Mapping[str, str],
    ) -> Argv:
        """Build `tag`; `mounts` are (folder here, folder in the build), read-only; `arguments` are
        of the build.
        """
        if self.storage is None:
            # Named only: their values come from the environment.
            options = _each("--build-arg", PROXY_VARIABLES)
        else:
            # In a chroot: that needs no container runtime and works in a virtual machine.
            options = ["--isolation", "chroot", "--pull=false"]
            options += _each("--volume", [f"{source}:{target}:ro" for source, target in mounts])
        options += _each("--build-arg", [f"{name}={value}" for name, value in arguments.items()])
        options += [*self._platform_option, "--tag", tag, "--file", str(containerfile)]
        return [*self._command, "build", *options, str(context)]

    def save(self, tag: str, archive: Path) -> Argv:
        match self.name:
            case "docker":
                return [*self._command, "save", "--output", str(archive), tag]
            case "podman":
                options = ["--quiet", "--format", "docker-archive", "--output", str(archive)]
                return [*self._command, "save", *options, tag]
            case _:
                return [*self._command, "push", "--quiet", tag, f"docker-archive:{archive}:{tag}"]


def _each(option: str, values: Sequence[str]) -> Argv:
    """The option before each value."""
    options: Argv = []
    for value in values:
        options += [option, value]
    return options


def find_builder(
    storage: Storage, env: Mapping[str, str], *, docker: bool, arch: str | None = None
) -> tuple[Builder | None, list[str]]:
    """The first program that can build here, and why the ones before it cannot. Rootless Podman
    needs no sudo.
    """
    path = env.get("PATH", "")
    platform = _foreign_platform(arch)
    reasons: list[str] = []
    if not docker:
        reasons.append(
            "docker: not used, because it would keep a base image that came from no registry"
        )
    elif shutil.which("docker", path=path) is None:
        reasons.append("docker: not in PATH")
    elif (problem := docker_problem()) is not None:
        reasons.append(f"docker: {problem}")
    else:
        return Builder("docker", platform), reasons
    if shutil.which("podman", path=path):
        return Builder("podman", platform, storage), reasons
    reasons.append("podman: not in PATH")
    if shutil.which("buildah", path=path):
        return Builder("buildah", platform, storage, packages.root_rights()), reasons
    return None, [*reasons, "buildah: not in PATH"]


def require_builder(
    step: Step, storage: Storage, env: Mapping[str, str], *, docker: bool, arch: str | None = None
) -> Builder:
    """The first program that can build here; Debian's Buildah is installed if needed. Raises
    NoBuilder.

    `arch`: what to build for; None: this machine's architecture.
    """
    builder, reasons = find_builder(storage, env, docker=docker, arch=arch)
    if builder is None:
        try:
            packages.install(step, ["buildah"])
        except PackagesUnavailable as error:
            because = "".join(f"\n  - {reason}" for reason in reasons)
            raise NoBuilder(
                f"no image can be built here without podman or buildah: {error}. Found:{because}"
            ) from error
        builder = Builder("buildah", _foreign_platform(arch), storage, packages.root_rights())
    step.update(f"with {builder.name}")
    return builder


def docker_problem() -> str | None:
    """The reason why the Docker engine cannot be used now; None when it responds."""
    try:
        done = subprocess.run(
            ["docker", "info", "--format", "{{.ServerVersion}}"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_DOCKER_SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0 and done.stdout.strip():
        return None
    lines = done.stderr.strip().splitlines() or ["it does not respond"]
    return lines[-1]


@contextlib.contextmanager
def clean_storage(root: Path) -> Iterator[Storage]:
    """A storage for the body, gone afterwards with everything still mounted in it, also after
    Ctrl-C.
    """
    remove_storage(root)
    root.mkdir(parents=True)
    storage = Storage(root, Path(tempfile.mkdtemp(prefix="vdi-")))
    try:
        yield storage
    finally:
        remove_storage(storage.root)
        remove_storage(storage.run)


def remove_storage(storage: Path) -> None:
    """Unmount and delete a folder that a build has left. What a build made as root only root can
    delete.
    """
    for mount in mounts_below(storage, Path("/proc/self/mounts").read_text()):
        subprocess.run(
            [*packages.root_rights(), "umount", "--lazy", mount],
            stdin=subprocess.DEVNULL,
            check=False,
        )
    shutil.rmtree(storage, ignore_errors=True)
    if storage.exists():
        subprocess.run(
            [*packages.root_rights(), "rm", "-rf", "--one-file-system", str(storage)], check=False
        )


def mounts_below(folder: Path, mounts: str) -> list[str]:
    """The mount points below `folder` in the text of /proc/mounts, the last mounted first."""
    points = [line.split()[1].replace("\\040", " ") for line in mounts.splitlines() if line]
    return [point for point in reversed(points) if Path(point).is_relative_to(folder)]


def _foreign_platform(arch: str | None) -> str:
    """Empty for this machine's architecture: a builder needs no option for it."""
    if arch in (None, architecture()):
        return ""
    return f"linux/{arch}"
