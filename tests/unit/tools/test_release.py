"""What a release refuses, what its files say, and that one changed byte is found and named."""

import json
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from support.releases import TAG, VERSION, git, make_image, sbom_names
from tools.release import oci, sbom, signing
from tools.release.__main__ import main
from tools.release.build import Release, ReleaseError, find_release, provenance, write_references

RELEASE = Release("0.2.0rc1", VERSION, "0" * 40, 1_790_000_000, "registry.example.com/vdi")
DIGEST = f"sha256:{'1' * 64}"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "CHANGELOG.md").write_text(f"# Changelog\n\n## {VERSION} - 2026-11-22\n- A\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=A")
    git(folder, "tag", TAG)
    return folder


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    """A release of three files, its key beside the folder."""
    folder = tmp_path / "dist"
    folder.mkdir()
    for name in ("vdi-image-vdi-0.2.0-amd64.tar", "vdi-0.2.0.tgz", "vdi_kubernetes-0.2.0-py3-none-any.whl"):
        (folder / name).write_bytes(name.encode() * 100)
    signing.new_key(tmp_path / "key")
    signing.sign(folder, signing.load_key(tmp_path / "key"), provenance(RELEASE, datetime.now(UTC)))
    return folder


def test_a_release_is_the_commit_with_its_tag(repository: Path) -> None:
    release = find_release(VERSION, "", repository)
    assert (release.version, release.python_version) == (VERSION, "0.2.0rc1")
    assert release.commit == git(repository, "rev-parse", "HEAD")
    assert release.reference("vdi") == f"localhost/vdi/vdi:{VERSION}"


def test_a_dirty_checkout_is_refused_with_the_file(repository: Path) -> None:
    (repository / "new.txt").write_text("a")
    with pytest.raises(ReleaseError, match=r"not committed(.|\n)*new\.txt"):
        find_release(VERSION, "", repository)


def test_a_version_without_a_tag_is_refused_with_the_command(repository: Path) -> None:
    with pytest.raises(ReleaseError, match=r"no tag v0\.3\.0.*git tag --annotate --message=v0\.3\.0 v0\.3\.0"):
        find_release("0.3.0", "", repository)


def test_a_tag_of_another_commit_is_refused(repository: Path) -> None:
    git(repository, "commit", "--quiet", "--allow-empty", "--message=B")
    with pytest.raises(ReleaseError, match=r"not at this commit.*git checkout v0"):
        find_release(VERSION, "", repository)


def test_a_version_that_the_changelog_lacks_is_refused(repository: Path) -> None:
    git(repository, "tag", "v0.2.0")
    with pytest.raises(ReleaseError, match=r'no section "## 0\.2\.0 - YYYY-MM-DD"'):
        find_release("0.2.0", "", repository)


@pytest.mark.parametrize("version", ["", "v0.2.0", "0.2.0rc1", "next"])
def test_a_version_in_another_style_is_refused(repository: Path, version: str) -> None:
    with pytest.raises(ReleaseError, match=f"VERSION={version}: allowed: versions such as 0.2.0 and 0.2.0-rc.1"):
        find_release(version, "", repository)


def test_commands_without_key_or_registry_say_what_is_allowed(signed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["build", "--version", VERSION, "--key", ""])
    assert ended.value.code == 2
    assert "argument --key: '' is no file" in capsys.readouterr().err
    assert main(["publish", "--dist", str(signed), "--registry", ""]) == 1
    assert "REGISTRY=: allowed: HOST[:PORT]/PATH" in capsys.readouterr().err


def test_a_registry_that_is_an_address_is_refused(repository: Path) -> None:
    with pytest.raises(ReleaseError, match=r"REGISTRY=https://r\.example\.com/: allowed: HOST"):
        find_release(VERSION, "https://r.example.com/", repository)


VALUES = """image:
  repository: ""
  tag: ""
  # A comment.
  digest: ""
templates:
  small:
    image: ""
postgresql:
  image:
    digest: ""
"""


@pytest.mark.parametrize(
    ("registry", "image", "desktop"),
    [
        (
            "",
            {"repository": "localhost/vdi/vdi", "tag": VERSION, "digest": ""},
            f"localhost/vdi/desktop:{VERSION}",
        ),
        (
            "r.example.com/vdi",
            {"repository": "r.example.com/vdi/vdi", "tag": VERSION, "digest": DIGEST},
            f"r.example.com/vdi/desktop:{VERSION}@{DIGEST}",
        ),
    ],
)
def test_the_chart_names_the_images_of_the_release(
    tmp_path: Path, registry: str, image: dict[str, str], desktop: str
) -> None:
    (values := tmp_path / "values.yaml").write_text(VALUES)
    release = Release("0.2.0rc1", VERSION, "0" * 40, 0, registry)
    write_references(values, release, {"vdi": DIGEST, "desktop": DIGEST})
    found = yaml.safe_load(values.read_text())
    assert found["image"] == image and found["templates"]["small"]["image"] == desktop
    assert found["postgresql"]["image"]["digest"] == "", "the images of others stay as they are"
    with pytest.raises(ReleaseError, match=r"values\.yaml has no empty repository"):
        write_references(values, release, {"vdi": DIGEST, "desktop": DIGEST})


def test_a_good_release_is_proven_with_the_key_that_is_trusted(signed: Path) -> None:
    assert signing.verify(signed, signed.parent / "key.pub") == [
        signing.PROVENANCE,
        "vdi-0.2.0.tgz",
        "vdi-image-vdi-0.2.0-amd64.tar",
        "vdi_kubernetes-0.2.0-py3-none-any.whl",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "vdi-image-vdi-0.2.0-amd64.tar",
        "vdi-0.2.0.tgz",
        "vdi_kubernetes-0.2.0-py3-none-any.whl",
        signing.SUMS,
        signing.SIGNATURE,
        signing.PROVENANCE,
    ],
)
def test_a_file_with_one_changed_byte_is_named(signed: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    content = bytearray((signed / name).read_bytes())
    content[10] ^= 1
    (signed / name).write_bytes(content)
    assert main(["verify", "--dist", str(signed), "--key", str(signed.parent / "key.pub")]) == 1
    assert name in capsys.readouterr().err


def test_files_that_are_missing_or_new_are_named(signed: Path) -> None:
    (signed / "extra.whl").write_text("a")
    with pytest.raises(signing.VerificationError, match=r"extra\.whl: it is not a file of the release"):
        signing.verify(signed, signed.parent / "key.pub")
    (signed / "extra.whl").unlink()
    (signed / "vdi-0.2.0.tgz").unlink()
    with pytest.raises(signing.VerificationError, match=r"vdi-0\.2\.0\.tgz: it is missing"):
        signing.verify(signed, signed.parent / "key.pub")


def test_a_release_that_somebody_else_has_signed_is_refused(signed: Path, tmp_path: Path) -> None:
    signing.new_key(tmp_path / "other")
    with pytest.raises(signing.VerificationError, match="another key"):
        signing.verify(signed, tmp_path / "other.pub")


def test_openssl_proves_the_signature_too(signed: Path, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl in PATH")
    script = "base64 -d SHA256SUMS.sig > ../sig && openssl dgst -sha256 -verify ../key.pub -signature ../sig SHA256SUMS"
    done = subprocess.run(["sh", "-c", script], cwd=signed, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout == "Verified OK\n", done.stderr
    subprocess.run(["sha256sum", "--check", "--quiet", signing.SUMS], cwd=signed, check=True, timeout=30)


def test_a_private_key_is_readable_by_its_owner_alone_and_never_overwritten(tmp_path: Path) -> None:
    signing.new_key(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o077 == 0
    with pytest.raises(FileExistsError):
        signing.new_key(tmp_path / "key")


def test_an_image_layout_has_the_same_bytes_each_time_and_the_labels(tmp_path: Path) -> None:
    archive = make_image(tmp_path, "vdi")
    made = [tmp_path / name for name in ("one.tar", "two.tar")]
    digests = {
        oci.write_image(
            {"amd64": archive}, target, name=RELEASE.reference("vdi"), labels=RELEASE.labels("vdi"), epoch=RELEASE.epoch
        )
        for target in made
    }
    assert made[0].read_bytes() == made[1].read_bytes()
    assert digests == {oci.digest_of(made[0])}
    oci.unpack(made[0], tmp_path / "layout")
    manifest = json.loads(
        (tmp_path / "layout/blobs/sha256" / oci.digest_of(made[0]).removeprefix("sha256:")).read_text()
    )
    config = json.loads(
        (tmp_path / "layout/blobs/sha256" / manifest["config"]["digest"].removeprefix("sha256:")).read_text()
    )
    assert config["config"]["Labels"]["org.opencontainers.image.version"] == VERSION
    assert config["config"]["Labels"]["org.opencontainers.image.revision"] == "0" * 40


def test_the_bill_of_materials_of_an_image_lists_what_is_installed(tmp_path: Path) -> None:
    document = tmp_path / "a.cdx.json"
    document.write_text(sbom.render("a", "1", sbom.image_components(make_image(tmp_path, "vdi"))))
    assert sbom_names(document) == ["pkg:deb/debian/bash@5.2.37-2?arch=amd64", "pkg:pypi/httpx@0.28.1"]
    assert json.loads(document.read_text())["bomFormat"] == "CycloneDX"


def test_the_bill_of_materials_of_the_wheel_lists_the_locked_requirements() -> None:
    locked = "a==1.0 \\\n    --hash=sha256:12 \\\n    --hash=sha256:34\n    # via b\nb==2\n"
    found = sbom.locked_components(locked)
    assert [str(component.purl) for component in found] == ["pkg:pypi/a@1.0", "pkg:pypi/b@2"]
    assert sorted(value.content for value in found[0].hashes) == ["12", "34"]
