"""What a release refuses, and what its chart names."""

from io import StringIO
from pathlib import Path

import pytest
import yaml

from support.releases import TAG, VERSION, git
from tools.release.__main__ import main
from tools.release.build import Release, ReleaseError, find_release, write_references

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


def test_a_release_is_the_commit_with_its_tag(repository: Path) -> None:
    release = find_release(VERSION, "", repository)
    assert (release.version, release.python_version) == (VERSION, "0.2.0rc1")
    assert release.commit == git(repository, "rev-parse", "HEAD")
    assert release.reference("vdi") == f"localhost/vdi/vdi:{VERSION}"


def test_a_dirty_checkout_is_refused_with_the_file(repository: Path) -> None:
    (repository / "new.txt").write_text("a")
    with pytest.raises(ReleaseError, match=r"not committed(.|\n)*new\.txt"):
        find_release(VERSION, "", repository)


@pytest.mark.parametrize(
    ("words", "version", "registry", "reason"),
    [
        ((), "0.3.0", "", r"no tag v0\.3\.0.*git tag --annotate --message=v0\.3\.0 v0\.3\.0"),
        (
            ("commit", "--quiet", "--allow-empty", "--message=B"),
            VERSION,
            "",
            "not at this commit.*git checkout v0",
        ),
        (("tag", "v0.2.0"), "0.2.0", "", r'no section "## 0\.2\.0 - YYYY-MM-DD"'),
        (
            (),
            VERSION,
            "https://r.example.com/",
            r"REGISTRY=https://r\.example\.com/: allowed: HOST",
        ),
        *(
            ((), version, "", f"VERSION={version}: allowed: versions such as 0.2.0 and 0.2.0-rc.1")
            for version in ("", "v0.2.0", "0.2.0rc1", "next")
        ),
    ],
)
def test_a_refusal_says_what_is_allowed_or_to_do(
    repository: Path, words: tuple[str, ...], version: str, registry: str, reason: str
) -> None:
    if words:
        git(repository, *words)
    with pytest.raises(ReleaseError, match=reason):
        find_release(version, registry, repository)


def test_commands_without_key_or_registry_say_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COSIGN_PASSWORD", raising=False)
    monkeypatch.setattr("sys.stdin", StringIO())
    with pytest.raises(SystemExit):
        main(["publish", "--key", __file__, "--registry", ""])
    assert "COSIGN_PASSWORD is not set: the password of" in capsys.readouterr().err
    monkeypatch.setenv("COSIGN_PASSWORD", "")
    with pytest.raises(SystemExit) as ended:
        main(["build", "--version", VERSION, "--key", ""])
    assert ended.value.code == 2
    assert "argument --key: '' is no file" in capsys.readouterr().err
    assert main(["publish", "--key", __file__, "--registry", ""]) == 1
    assert "REGISTRY=: allowed: HOST[:PORT]/PATH" in capsys.readouterr().err


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
