"""Images as a whole: keys that follow their inputs, contexts, add-ons, and a build with a builder that is told."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unit.devcluster.images_elf import a_static_program
from vdi.devcluster import host_settings, images
from vdi.devcluster.images import ADDONS, ImageFailed, ImageRecipe, context_files, digest, ensure_addons
from vdi.devcluster.images.archive import ImageConfig, write_archive, write_program_layer
from vdi.devcluster.progress import Progress, StepFailed

RECIPE = ImageRecipe("Build it", "localhost/vdi/it:dev", "Containerfile", "images/it", ("images/it",))


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one image."""
    root = tmp_path / "project"
    (root / "images/it/rootfs/__pycache__").mkdir(parents=True)
    (root / "images/it/Containerfile").write_text("FROM base\n")
    (root / "images/it/rootfs/file").write_text("one")
    (root / "images/it/rootfs/__pycache__/x.pyc").write_text("never")
    monkeypatch.setattr(images, "_ROOT", root)
    return root


def test_context_is_what_the_build_may_see(checkout: Path) -> None:
    assert sorted(context_files(RECIPE, checkout)) == ["Containerfile", "rootfs/file"]


def test_context_outside_a_checkout_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ImageFailed, match="images are built from a checkout"):
        context_files(RECIPE, tmp_path)


def test_our_own_recipes_name_files_that_exist() -> None:
    root = Path(images.__file__).parents[4]
    for recipe in (images._DESKTOP, images._VDI):
        assert recipe.containerfile in context_files(recipe, root)


def test_digest_follows_content_name_and_executable_bit(checkout: Path) -> None:
    def now() -> str:
        return digest(["tag"], context_files(RECIPE, checkout))

    seen = [now()]
    file = checkout / "images/it/rootfs/file"
    file.write_text("two")
    seen.append(now())
    file.chmod(0o755)
    seen.append(now())
    file.rename(file.with_name("other"))
    seen.append(now())

    assert len(set(seen)) == 4
    assert now() == seen[-1]


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_parts_never_run_into_each_other(one: list[str], two: list[str]) -> None:
    assert (digest(one, {}) == digest(two, {})) == (one == two)


def test_addons_are_made_once_under_their_public_names(tmp_path: Path) -> None:
    binaries = {name: a_static_program(tmp_path / name) for name in ADDONS}
    with Progress(tmp_path / "logs") as progress:
        first = ensure_addons(binaries, progress=progress, cache=tmp_path / "cache")
        times = [path.stat().st_mtime_ns for path in first]
        again = ensure_addons(binaries, progress=progress, cache=tmp_path / "cache")

    assert [path.stat().st_mtime_ns for path in again] == times and again == first
    assert [addon.name for addon in ADDONS.values()] == [
        "registry.k8s.io/pause:3.10",
        "docker.io/coredns/coredns:1.14.6",
        "docker.io/rancher/local-path-provisioner:v0.0.30",
    ]


def test_addon_with_another_program_is_another_archive(tmp_path: Path) -> None:
    binaries = {name: a_static_program(tmp_path / name) for name in ADDONS}
    with Progress(tmp_path / "logs") as progress:
        first = ensure_addons(binaries, progress=progress, cache=tmp_path / "cache")
        a_static_program(tmp_path / "pause", extra=b"newer")
        second = ensure_addons(binaries, progress=progress, cache=tmp_path / "cache")

    assert first[0] != second[0] and first[1:] == second[1:]


class Pretender:
    """A builder whose commands copy prepared archives, and remember what they were asked."""

    name = "pretender"
    own_storage = True

    def __init__(self, result: Path) -> None:
        self.result = result
        self.asked: list[tuple[str, object]] = []

    def pull(self, tag: str) -> list[str]:
        raise AssertionError(f"{tag} is not to be pulled")

    def load(self, archive: Path) -> list[str]:
        self.asked.append(("load", archive.name))
        return ["true"]

    def build(
        self, context: Path, containerfile: Path, tag: str, mounts: object, arguments: dict[str, str]
    ) -> list[str]:
        self.arguments = arguments
        self.asked.append(("build", (sorted(str(p.relative_to(context)) for p in context.rglob("*")), tag)))
        return ["true"]

    def save(self, tag: str, archive: Path) -> list[str]:
        self.asked.append(("save", tag))
        return ["cp", str(self.result), str(archive)]


@pytest.fixture
def pretender(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretender:
    """A builder for the project's image, on a base that came from its registry."""
    layer, base = tmp_path / "layer.tar", tmp_path / "base"
    base.mkdir()
    write_program_layer({"/it": a_static_program(tmp_path / "it")}, layer)
    write_archive(base / "image.tar", name="b:1", layer=layer, config=ImageConfig(), arch="amd64", comment="")
    (base / "origin").write_text("registry\n")
    builder = Pretender(base / "image.tar")
    monkeypatch.setattr(images, "_DESKTOP", RECIPE)
    monkeypatch.setattr(images, "_base", lambda _build_cache: base)
    monkeypatch.setattr(images, "require_builder", lambda *_args, **_named: builder)
    return builder


def test_image_is_built_once_until_its_files_change(pretender: Pretender, checkout: Path, tmp_path: Path) -> None:
    with Progress(tmp_path / "logs") as progress:
        first = images.ensure_desktop(progress=progress, cache=tmp_path / "cache")
        assert images.ensure_desktop(progress=progress, cache=tmp_path / "cache") == first
        assert pretender.asked == [
            ("load", "image.tar"),
            ("build", (["Containerfile", "rootfs", "rootfs/file"], "localhost/vdi/it:dev")),
            ("save", "localhost/vdi/it:dev"),
        ]
        (checkout / "images/it/rootfs/file").write_text("two")
        second = images.ensure_desktop(progress=progress, cache=tmp_path / "cache")

    assert second != first and second.exists()
    assert not first.exists(), "the archive that nothing can want any more is gone"


def test_the_image_of_a_release_gets_its_version_and_leaves_that_of_the_demo(
    pretender: Pretender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_VDI", RECIPE)
    with Progress(tmp_path / "logs") as progress:
        demo = images.ensure_vdi(progress=progress, cache=tmp_path / "cache")
        assert pretender.arguments == {}
        release = images.ensure_vdi(progress=progress, cache=tmp_path / "cache", version="0.2.0")
        assert pretender.arguments == {"VERSION": "0.2.0"}
    assert release != demo
    assert demo.exists()


def test_an_image_that_holds_something_of_the_machine_is_not_kept(
    pretender: Pretender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_settings, "LEFTOVERS", ("it",))

    with Progress(tmp_path / "logs") as progress, pytest.raises(StepFailed, match="holds something of this machine"):
        images.ensure_desktop(progress=progress, cache=tmp_path / "cache")

    assert not list((tmp_path / "cache").glob("image-*"))
    assert not list((tmp_path / "cache" / "unfinished").iterdir())
