"""`make images`: layouts, bills of materials and values of what is built. The archives are small stand-ins."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from support.releases import ROOT, git, make_image
from tools.release import __main__ as command
from tools.release import images, oci
from tools.release.build import ReleaseError, find_snapshot, source_address, write_images
from vdi.devcluster.images import GALLERY
from vdi.devcluster.images.builder import NoBuilder
from vdi.devcluster.images.platforms import Platforms
from vdi.devcluster.progress import Progress


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one commit; this package's version is 0.2.1.dev5+g1234567."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "file").write_text("a")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=A", "--date=2026-01-01T00:00:00Z")
    monkeypatch.setattr("tools.release.build.metadata.version", lambda _: "0.2.1.dev5+g1234567")
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    return folder


def test_a_snapshot_is_the_checkout_as_it_is(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = find_snapshot("", checkout)
    assert (snapshot.python_version, snapshot.version) == ("0.2.1.dev5+g1234567", "0.2.1-dev.5.g1234567")
    assert snapshot.commit == git(checkout, "rev-parse", "HEAD")
    assert snapshot.epoch == int(git(checkout, "show", "-s", "--format=%ct"))
    (checkout / "file").write_text("b")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1790000000")
    changed = find_snapshot("registry.example.com/vdi", checkout)
    assert changed.commit == f"{snapshot.commit}-dirty" and changed.epoch == 1790000000
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(ReleaseError, match="SOURCE_DATE_EPOCH=yesterday: allowed: seconds, such as"):
        find_snapshot("", checkout)


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("https://git.example.com/a/vdi.git", "https://git.example.com/a/vdi"),
        ("https://user:secret@git.example.com/a/vdi", "https://git.example.com/a/vdi"),
        ("git@git.example.com:a/vdi.git", "https://git.example.com/a/vdi"),
        ("/srv/git/vdi", ""),
    ],
)
def test_the_source_is_the_address_of_origin_without_credentials(checkout: Path, remote: str, address: str) -> None:
    assert source_address(checkout) == ""
    git(checkout, "remote", "add", "origin", remote)
    assert source_address(checkout) == address
    labels = find_snapshot("", checkout).labels("vdi")
    assert labels.get("org.opencontainers.image.source", "") == address


def small_images(folder: Path, *more: str) -> dict[str, dict[str, Path]]:
    return {name: {"amd64": make_image(folder, name)} for name in ("vdi", "desktop", *more)}


def test_layouts_and_values_name_the_images(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "build_images", lambda *_: small_images(tmp_path))
    monkeypatch.setattr(command, "find_snapshot", lambda registry: find_snapshot(registry, checkout))
    into = tmp_path / "build/images"
    assert command.main(["images", "--into", str(into)]) == 0
    assert sorted(path.name for path in into.iterdir()) == [
        "values.yaml",
        *(
            f"vdi-image-{name}-0.2.1-dev.5.g1234567-amd64.{end}"
            for name in ("desktop", "vdi")
            for end in ("cdx.json", "tar")
        ),
    ]
    tag = "0.2.1-dev.5.g1234567"
    assert yaml.safe_load((into / "values.yaml").read_text()) == {
        "image": {"repository": "localhost/vdi/vdi", "tag": tag, "digest": ""},
        "templates": {"small": {"image": f"localhost/vdi/desktop:{tag}"}},
    }
    printed = capsys.readouterr().out
    assert f"localhost/vdi/vdi:{tag}@{oci.digest_of(into / f'vdi-image-vdi-{tag}-amd64.tar')}" in printed
    assert "vdi images load " in printed and f"vdi install -f {into}/values.yaml" in printed


@pytest.mark.parametrize("registry", ["", "r.example.com/vdi"])
def test_images_of_the_gallery_have_layouts_bills_and_templates_that_name_them(
    checkout: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    registry: str,
) -> None:
    asked: list[object] = []

    def build_images(*words: object) -> dict[str, dict[str, Path]]:
        asked.append(words[-1])
        return small_images(tmp_path, "developer", "kiosk")

    monkeypatch.setattr(command, "build_images", build_images)
    monkeypatch.setattr(command, "find_snapshot", lambda registry: find_snapshot(registry, checkout))
    pushed: list[str] = []
    monkeypatch.setattr(command, "publish", lambda folder, *_: pushed.extend(a.target for a in oci.artifacts(folder)))
    monkeypatch.setattr("tools.release.__main__.binaries.ensure", lambda *_, **__: {"crane": tmp_path})
    into, tag = tmp_path / "build/images", "0.2.1-dev.5.g1234567"
    words = ["images", "--into", str(into), "--gallery", "kiosk developer", "--registry", registry]
    assert command.main(words) == 0

    assert asked == [("kiosk", "developer")]
    templates = {found["metadata"]["name"]: found for found in yaml.safe_load_all((into / "gallery.yaml").read_text())}
    assert set(templates) == {"developer", "kiosk"}
    for name, template in templates.items():
        digest = oci.digest_of(into / f"vdi-image-{name}-{tag}-amd64.tar")
        named = f"{registry}/{name}:{tag}@{digest}" if registry else f"localhost/vdi/{name}:{tag}"
        assert template["spec"]["image"] == named
        assert (into / f"vdi-image-{name}-{tag}-amd64.cdx.json").exists()
        given = yaml.safe_load((ROOT / f"docs/examples/gallery/{name}.yaml").read_text())
        assert {**template["spec"], "image": ""} == {**given["spec"], "image": ""}
    assert set(yaml.safe_load((into / "values.yaml").read_text())) == {"image", "templates"}, "the chart has no gallery"
    assert pushed == ([f"{name}:{tag}" for name in ("desktop", "developer", "kiosk", "vdi")] if registry else [])
    printed = capsys.readouterr().out
    assert f"kubectl apply -f {into}/gallery.yaml" in printed and "vdi image check kiosk" in printed


@pytest.mark.parametrize(
    ("names", "chosen"),
    [("", ()), ("kiosk", ("kiosk",)), ("office  science", ("office", "science")), ("all", GALLERY)],
)
def test_images_of_the_gallery_are_named_or_all(names: str, chosen: tuple[str, ...]) -> None:
    for words in (["images"], ["build", "--version", "1", "--key", __file__]):
        assert command.parser().parse_args([*words, "--gallery", names]).gallery == chosen
        assert command.parser().parse_args(words).gallery == ()


def test_an_image_that_the_gallery_lacks_is_refused_with_those_that_it_has(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.parser().parse_args(["images", "--gallery", "kiosk browser"])
    assert (
        "allowed: all, or of office developer science graphics kiosk notebook; not 'browser'" in capsys.readouterr().err
    )


def test_only_an_image_of_the_gallery_may_have_build_tools(checkout: Path, tmp_path: Path) -> None:
    archives = {"developer": {"amd64": make_image(tmp_path, "developer", package="gcc-14")}}
    assert list(write_images(find_snapshot("", checkout), tmp_path, archives)) == ["developer"]


def test_an_image_with_build_tools_is_refused(checkout: Path, tmp_path: Path) -> None:
    archives = {"vdi": {"amd64": make_image(tmp_path, "vdi", package="gcc-14")}}
    with pytest.raises(ReleaseError, match=r"vdi\.tar has build tools: gcc-14"):
        write_images(find_snapshot("", checkout), tmp_path, archives)


def test_builder_and_platforms_are_reported_with_the_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Platforms("podman", ("amd64", "arm64"), ("docker: not in PATH",))
    asked: list[str] = []

    def ensure(name: str) -> Callable[..., Path]:
        def obtain(*, arch: str, **_: object) -> Path:
            asked.append(f"{name}-{arch}")
            return tmp_path / f"{name}-{arch}"

        return obtain

    monkeypatch.setattr(images, "is_base_from_registry", lambda *, progress: True)
    monkeypatch.setattr(images, "find_platforms", lambda _env, *, docker: found)
    monkeypatch.setattr(images, "ensure_vdi", ensure("vdi"))
    monkeypatch.setattr(images, "ensure_desktop", ensure("desktop"))
    monkeypatch.setattr(images, "ensure_gallery", lambda name, **words: ensure(name)(**words))
    lines: list[str] = []
    with Progress(tmp_path / "logs") as progress:
        built = images.build_images("0.2.0", 5, lines.append, progress, ["kiosk"])
    assert lines == ["podman builds linux/amd64, linux/arm64", "  left out: docker: not in PATH"]
    assert asked == ["vdi-amd64", "vdi-arm64", "desktop-amd64", "desktop-arm64", "kiosk-amd64", "kiosk-arm64"]
    assert built["desktop"]["arm64"] == tmp_path / "desktop-arm64"


def test_without_a_builder_the_status_is_3_and_says_what_was_looked_for(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def build_images(*_: object) -> None:
        raise NoBuilder("no image can be built here without podman or buildah: no apt-get here")

    monkeypatch.setattr(command, "build_images", build_images)
    monkeypatch.setattr(command, "find_snapshot", lambda registry: find_snapshot(registry, checkout))
    assert command.main(["images", "--into", os.devnull]) == 3
    assert capsys.readouterr().err.startswith("Error: no image can be built here without podman or buildah")
