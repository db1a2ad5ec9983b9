"""The sources in their order: the first that works is taken, and one that fails says why."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.binaries import RECIPES
from unit.devcluster.binaries_servers import Server, build_cache_in, script, serving
from vdi.devcluster import binaries
from vdi.devcluster.binaries import BinaryUnavailable, Finder, entry_key, from_named_folder
from vdi.devcluster.binaries.components import CNI_PLUGINS, Download, GoBuild, Recipe
from vdi.devcluster.build_cache import BuildCache
from vdi.devcluster.progress import Step, StepFailed

DOWNLOAD = Download(
    key="pause-v1",
    title="download pause",
    provides={"pause": "pause"},
    url="https://x/pause",
    checksum="https://x/sum",
)
BUILD = GoBuild(key="pause-v1", title="build pause", provides={"pause": "pause"}, module="pause")
BOTH: dict[str, tuple[Recipe, ...]] = {"pause": (DOWNLOAD, BUILD)}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The Go builds that took place; each only writes its file."""
    builds: list[str] = []

    def build(recipe: GoBuild, build_cache: BuildCache, step: Step, into: Path) -> None:
        builds.append(recipe.module)
        for place in recipe.provides.values():
            script(into / place, "true")

    monkeypatch.setattr(binaries, "build", build)
    return builds


def test_build_follows_a_failed_download_and_shows_why(
    tmp_path: Path, server: Server, built: list[str]
) -> None:
    with build_cache_in(tmp_path, VDI_DOWNLOAD_MIRROR=server.url) as (build_cache, shown):
        path = Finder(build_cache, BOTH).find("pause")
        assert path.parent == build_cache.entry(entry_key(BUILD))
    assert built == ["pause"]
    assert (
        f"download pause: {server.url}/x/sum: the server responded with 404 Not Found"
        in shown.getvalue()
    )


def test_cached_build_is_taken_before_the_network_is_asked(
    tmp_path: Path, server: Server, built: list[str]
) -> None:
    with build_cache_in(tmp_path, VDI_DOWNLOAD_MIRROR=server.url) as (build_cache, _):
        first = Finder(build_cache, BOTH).find("pause")
        server.asked.clear()
        assert Finder(build_cache, BOTH).find("pause") == first
    assert (server.asked, built) == ([], ["pause"])


def test_named_folder_comes_before_everything(
    tmp_path: Path, server: Server, built: list[str]
) -> None:
    own = script(tmp_path / "own" / "pause", "true")
    with build_cache_in(tmp_path, VDI_BINARIES=str(own.parent), VDI_DOWNLOAD_MIRROR=server.url) as (
        build_cache,
        _,
    ):
        assert Finder(build_cache, BOTH).find("pause") == own
    assert (server.asked, built) == ([], [])


def test_when_all_fail_one_error_lists_every_source(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(recipe: GoBuild, build_cache: BuildCache, step: Step, into: Path) -> None:
        raise StepFailed(step.title, "go ended with status 1", step.log_path, "main.go:1: no")

    monkeypatch.setattr(binaries, "build", build)
    with (
        build_cache_in(tmp_path, VDI_DOWNLOAD_MIRROR=server.url) as (build_cache, _),
        pytest.raises(BinaryUnavailable) as failure,
    ):
        Finder(build_cache, BOTH).find("pause")
    assert failure.value.name == "pause"
    folder, cache, download, built_one = failure.value.reasons
    assert folder == "a named folder: VDI_BINARIES is not set"
    assert cache == f"cache: not in {tmp_path / 'cache'}"
    assert download.startswith("download pause: ")
    assert built_one.startswith(
        "build pause: go ended with status 1\n  | main.go:1: no\n  full log: "
    )


def test_edited_go_module_is_built_again(tmp_path: Path, built: list[str]) -> None:
    modules = tmp_path / "go"
    (modules / "pause").mkdir(parents=True)
    recipe = dataclasses.replace(BUILD, modules=modules)
    with build_cache_in(tmp_path) as (build_cache, _):
        for text in ("one", "two", "two"):
            (modules / "pause" / "main.go").write_text(text)
            Finder(build_cache, {"pause": (recipe,)}).find("pause")
    assert built == ["pause", "pause"]


def test_every_name_has_a_source_that_needs_no_release_download() -> None:
    for name in RECIPES:
        assert any(not isinstance(recipe, Download) for recipe in RECIPES[name]), name
        assert all(name in recipe.provides for recipe in RECIPES[name]), name


def test_different_recipes_never_share_a_cache_entry() -> None:
    recipes = {id(recipe): recipe for each in RECIPES.values() for recipe in each}.values()
    keys = [entry_key(recipe) for recipe in recipes]
    assert len(keys) == len(set(keys))


def test_only_an_executable_in_the_named_folder_is_taken(tmp_path: Path) -> None:
    env = {"VDI_BINARIES": str(tmp_path)}
    (tmp_path / "etcd").touch()
    assert from_named_folder("etcd", env) == (
        None,
        f"VDI_BINARIES={tmp_path}: contains no executable etcd",
    )
    tool = script(tmp_path / "etcd", "")
    assert from_named_folder("etcd", env) == (tool, "")


def test_plugin_folder_must_be_whole(tmp_path: Path) -> None:
    for plugin in CNI_PLUGINS[:-1]:
        script(tmp_path / "cni" / plugin, "")
    env = {"VDI_BINARIES": str(tmp_path)}
    lacks = f"VDI_BINARIES={tmp_path}: the folder {tmp_path / 'cni'} lacks the plugins portmap"
    assert from_named_folder("cni", env) == (None, lacks)
    script(tmp_path / "cni" / "portmap", "")
    assert from_named_folder("cni", env) == (tmp_path / "cni", "")
