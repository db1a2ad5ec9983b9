"""`make images`: what is built for which platforms, and how it is named. syft and oras are
stand-ins.
"""

import json
import os
import tarfile
from pathlib import Path

import pytest
import yaml

from support.releases import git, make_image
from tools.release import __main__ as command
from tools.release import build, images
from tools.release.build import (
    ReleaseError,
    find_snapshot,
    gallery_templates,
    source_address,
    write_images,
)
from tools.release.programs import Programs
from vdi.devcluster.images import GALLERY
from vdi.devcluster.images.builder import NoBuilder

DIGEST = f"sha256:{'1' * 64}"


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


def test_a_snapshot_is_the_checkout_as_it_is(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = find_snapshot("", checkout)
    assert (snapshot.python_version, snapshot.version) == (
        "0.2.1.dev5+g1234567",
        "0.2.1-dev.5.g1234567",
    )
    assert snapshot.commit == git(checkout, "rev-parse", "HEAD")
    assert snapshot.epoch == int(git(checkout, "show", "-s", "--format=%ct"))
    (checkout / "file").write_text("b")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1790000000")
    changed = find_snapshot("registry.example.com/vdi", checkout)
    assert changed.commit == f"{snapshot.commit}-dirty" and changed.epoch == 1790000000
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(
        ReleaseError, match="SOURCE_DATE_EPOCH=yesterday: allowed: seconds, such as"
    ):
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
def test_the_source_is_the_address_of_origin_without_credentials(
    checkout: Path, remote: str, address: str
) -> None:
    assert source_address(checkout) == ""
    git(checkout, "remote", "add", "origin", remote)
    assert source_address(checkout) == address
    annotations = find_snapshot("", checkout).annotations("vdi")
    assert annotations.get("org.opencontainers.image.source", "") == address


@pytest.mark.parametrize(
    ("names", "chosen"),
    [("", ()), ("kiosk", ("kiosk",)), ("office  science", ("office", "science")), ("all", GALLERY)],
)
def test_images_of_the_gallery_are_named_or_all(
    monkeypatch: pytest.MonkeyPatch, names: str, chosen: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COSIGN_PASSWORD", "")
    for words in (["images"], ["build", "--version", "1", "--key", __file__]):
        assert command.parser().parse_args([*words, "--gallery", names]).gallery == chosen
        assert command.parser().parse_args(words).gallery == ()


BILL = {"bomFormat": "CycloneDX", "components": [{"name": "bash"}, {"name": "gcc-14"}]}


class StandIns(Programs):
    """syft reports a compiler; oras makes an index of one entry."""

    def __init__(self) -> None:
        pass

    def run(self, name: str, *words: str | Path, cwd: Path | None = None) -> str:
        match name, words[0]:
            case "syft", _:
                Path(str(words[-1]).removeprefix("cyclonedx-json=")).write_text(json.dumps(BILL))
            case "oras", "push":
                layout = Path(str(words[2]).rpartition(":")[0])
                (layout / "blobs").mkdir(parents=True)
                (layout / "oci-layout").write_text("{}")
                tag = {"annotations": {images.TAG: "0.2.1-dev.5.g1234567"}, "digest": DIGEST}
                (layout / "index.json").write_text(json.dumps({"manifests": [tag]}))
            case _:
                pass
        return DIGEST


def test_only_an_image_of_the_gallery_may_have_build_tools(checkout: Path, tmp_path: Path) -> None:
    snapshot = find_snapshot("", checkout)
    archives = {"developer": {"amd64": make_image(tmp_path, "developer")}}
    assert write_images(StandIns(), snapshot, tmp_path, archives) == {"developer": DIGEST}
    with pytest.raises(ReleaseError, match=r"vdi\.tar has build tools: gcc-14"):
        write_images(
            StandIns(), snapshot, tmp_path, {"vdi": {"amd64": make_image(tmp_path, "vdi")}}
        )
    layout = tmp_path / "vdi-image-developer-0.2.1-dev.5.g1234567-amd64.tar"
    with tarfile.open(layout) as packed:
        entries = images.read_json(packed, "index.json")["manifests"]
    names = [entry["annotations"]["io.containerd.image.name"] for entry in entries]
    assert names == [
        snapshot.reference("developer"),
        f"localhost/vdi/developer@{DIGEST}",
    ], "nodes find it by both"


@pytest.mark.parametrize("registry", ["", "r.example.com/vdi"])
def test_templates_of_the_gallery_name_their_images(checkout: Path, registry: str) -> None:
    snapshot = find_snapshot(registry, checkout)
    (template,) = yaml.safe_load_all(gallery_templates(snapshot, {"vdi": DIGEST, "kiosk": DIGEST}))
    named = (
        f"{registry}/kiosk:{snapshot.version}@{DIGEST}"
        if registry
        else f"localhost/vdi/kiosk:{snapshot.version}"
    )
    assert template["spec"]["image"] == named


def test_without_a_builder_the_status_is_3(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def build_images(*_: object) -> None:
        raise NoBuilder("no image can be built here without podman or buildah: no apt-get here")

    monkeypatch.setattr(command, "build_images", build_images)
    monkeypatch.setattr(command, "Programs", lambda *_: StandIns())
    monkeypatch.setattr(build, "find_snapshot", lambda registry: find_snapshot(registry, checkout))
    assert command.main(["images", "--into", os.devnull]) == 3
    assert capsys.readouterr().err.startswith(
        "Error: no image can be built here without podman or buildah"
    )
