"""Images as a whole: keys that follow their inputs, contexts, add-ons, and a build with a builder
that is named.
"""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unit.devcluster.binaries_servers import script
from unit.devcluster.images_elf import a_static_program
from vdi.devcluster import host_settings, images
from vdi.devcluster.binaries import packages
from vdi.devcluster.build_cache import ARCHITECTURES, architecture
from vdi.devcluster.images import ImageRecipe, context_files, digest
from vdi.devcluster.images.archive import ImageConfig, write_archive, write_program_layer
from vdi.devcluster.images.base import BASE
from vdi.devcluster.images.builder import require_builder
from vdi.devcluster.progress import Progress, StepFailed

Build = Callable[..., Path]
RECIPE = ImageRecipe(
    "Build it", "localhost/vdi/it:dev", "Containerfile", "images/it", ("images/it",)
)


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


def test_each_containerfile_pins_the_base_and_ends_as_a_user() -> None:
    root = Path(images.__file__).parents[4]
    line = f"ARG BASE={BASE}@{images.base_digest()}"
    gallery = {*root.glob("images/gallery/*/Containerfile")}
    assert {file.parent.name for file in gallery} == set(images.GALLERY)
    on_debian = {
        *root.glob("images/*/Containerfile"),
        root / "images/gallery/notebook/Containerfile",
    }
    files = {file for file in gallery | on_debian if file.parent.name != "desktop-lavapipe"}
    assert len(files) == 6 + len(gallery)
    for file in files:
        text = file.read_text().splitlines()
        assert text.count(line if file in on_debian else f"ARG BASE={images.DESKTOP}") == 1, file
        stages = [index for index, words in enumerate(text) if words.startswith("FROM")]
        assert all(text[index].startswith("FROM ${BASE}") for index in stages), file
        assert all(text[index + 1] == "ARG SOURCE_DATE_EPOCH" for index in stages), file
        *_, user = [words.split()[1] for words in text if words.startswith("USER ")]
        assert user.partition(":")[0].isdecimal() and int(user.partition(":")[0]) > 0, file


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


class Pretender:
    """A builder whose commands copy prepared archives, and remember what they were asked."""

    name = "pretender"
    storage = True

    def __init__(self, result: Path) -> None:
        self.result = result
        self.asked: list[tuple[str, object]] = []

    def pull(self, tag: str) -> list[str]:
        raise AssertionError(f"{tag} is not to be pulled")

    def tag(self, image: str, tag: str) -> list[str]:
        raise AssertionError(f"{image} is not to be named {tag}")

    def load(self, archive: Path) -> list[str]:
        self.asked.append(("load", archive.name))
        return ["true"]

    def build(
        self,
        context: Path,
        containerfile: Path,
        tag: str,
        mounts: object,
        arguments: dict[str, str],
    ) -> list[str]:
        self.arguments = arguments
        self.asked.append(
            ("build", (sorted(str(p.relative_to(context)) for p in context.rglob("*")), tag))
        )
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
    write_archive(
        base / "image.tar", name="b:1", layer=layer, config=ImageConfig(), arch="amd64", comment=""
    )
    (base / "origin").write_text("registry\n")
    builder = Pretender(base / "image.tar")
    monkeypatch.setitem(images._RECIPES, "desktop", RECIPE)
    monkeypatch.setattr(images, "_base", lambda _build_cache: base)
    monkeypatch.setattr(images, "require_builder", lambda *_args, **_named: builder)
    return builder


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """Ensure an image, in a cache of the test's own."""
    with Progress(tmp_path / "logs") as progress:
        yield partial(images.ensure_image, progress=progress, cache=tmp_path / "cache")


def test_image_is_built_once_until_its_files_change(
    pretender: Pretender, checkout: Path, build: Build
) -> None:
    first = build("desktop")
    assert build("desktop") == first
    assert pretender.asked == [
        ("load", "image.tar"),
        ("build", (["Containerfile", "rootfs", "rootfs/file"], "localhost/vdi/it:dev")),
        ("save", "localhost/vdi/it:dev"),
    ]
    (checkout / "images/it/rootfs/file").write_text("two")
    second = build("desktop")
    assert second != first and second.exists()
    assert first.exists(), "another checkout may use it now"


def test_the_cache_keeps_the_three_builds_that_were_used_last(
    pretender: Pretender, checkout: Path, build: Build
) -> None:
    assert pretender.asked == []
    made: dict[str, Path] = {}
    for used, content in enumerate(("one", "two", "three", "one", "four")):
        (checkout / "images/it/rootfs/file").write_text(content)
        made[content] = build("desktop")
        os.utime(made[content].parent, (used, used))
    assert {content for content, archive in made.items() if archive.exists()} == {
        "three",
        "one",
        "four",
    }


def test_the_image_of_a_release_is_not_that_of_the_demo(
    pretender: Pretender, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(images._RECIPES, "vdi", RECIPE)
    demo = build("vdi")
    assert pretender.arguments == {"BASE": BASE}, (
        "the base was pulled by digest, its archive has none"
    )
    release = build("vdi", version="0.2.0", epoch=5)
    assert pretender.arguments == {"BASE": BASE, "VERSION": "0.2.0", "SOURCE_DATE_EPOCH": "5"}
    assert release != demo
    assert demo.exists()


@pytest.fixture
def gallery(pretender: Pretender, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Pretender:
    """A gallery of one image on the desktop."""
    (checkout / "images/gallery/a").mkdir(parents=True)
    (checkout / "images/gallery/a/Containerfile").write_text("FROM desktop\n")
    (checkout / "images/gallery/shared").write_text("one")
    monkeypatch.setitem(images._RECIPES, "a", images._of_gallery("a", "shared"))
    return pretender


def test_an_image_of_the_gallery_is_built_from_its_desktop(
    gallery: Pretender, checkout: Path, build: Build
) -> None:
    first = build("a", epoch=5)
    assert gallery.arguments == {"BASE": images.DESKTOP, "SOURCE_DATE_EPOCH": "5"}
    assert [what for name, what in gallery.asked if name == "save"] == [
        RECIPE.tag,
        "localhost/vdi/a:dev",
    ]
    assert gallery.asked[-2] == (
        "build",
        (["a", "a/Containerfile", "shared"], "localhost/vdi/a:dev"),
    )
    (checkout / "images/gallery/shared").write_text("two")
    assert build("a", epoch=5) != first


STAND_IN = """
# A stand-in for docker, podman or buildah: it notes how it was called, and saves an archive that was prepared.
echo "$@" >> {log}
for word; do case "$word" in docker-archive:*) target=${{word#docker-archive:}}; target=${{target%%:*}} ;; esac; done
while [ $# -gt 0 ]; do [ "$1" = --output ] && target=$2; shift; done
[ -z "$target" ] || [ -e "$target" ] || exec /bin/cp {archive} "$target"
echo 27.1
"""


@pytest.mark.parametrize("name", ["docker", "podman", "buildah"])
def test_each_builder_builds_for_another_platform(
    pretender: Pretender, build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The programs are stand-ins in PATH."""
    program = script(
        tmp_path / "bin" / name, STAND_IN.format(log=tmp_path / "log", archive=pretender.result)
    )
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setattr(packages, "root_rights", lambda: ())
    monkeypatch.setattr(images, "require_builder", require_builder)
    foreign = next(arch for arch in ARCHITECTURES if arch != architecture())

    made = build("desktop", epoch=5, arch=foreign)

    assert made.read_bytes() == pretender.result.read_bytes() and made.parent.name.endswith(
        f"-{foreign}"
    )
    (built,) = [
        line
        for line in (tmp_path / "log").read_text().splitlines()
        if f"--platform linux/{foreign}" in line
    ]
    assert "build " in built and "--build-arg SOURCE_DATE_EPOCH=5" in built
    assert (f"--build-arg BASE={BASE} " in built) == (name != "docker"), (
        "Docker pulls the base by digest itself"
    )


def test_an_image_with_data_of_the_machine_is_not_kept(
    pretender: Pretender, build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_settings, "LEFTOVERS", ("it",))

    with pytest.raises(StepFailed, match="contains data of this machine"):
        build("desktop")

    assert not list((tmp_path / "cache").glob("image-*"))
    assert not list((tmp_path / "cache" / "unfinished").iterdir())
