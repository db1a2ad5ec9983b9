"""What a signature covers, and what the words of cosign mean. cosign is a stand-in; the real one:
tests/cluster.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vdi.release.signatures import (
    BUNDLE,
    PUBLIC_KEY,
    SUMS,
    BadSignatureError,
    CannotVerifyError,
    checksums,
    choose_images,
    find_cosign,
    verify_folder,
    verify_image,
)

DIGEST = f"sha256:{'1' * 64}"
IMAGE = f"r.example.com/vdi/vdi@{DIGEST}"
KEY = Path("release.pub")


def a_cosign(folder: Path, stderr: str = "", status: int = 0) -> Path:
    """It writes its arguments to `words` beside it."""
    path = folder / "cosign"
    path.write_text(
        f"#!/bin/sh\nprintf '%s\\n' \"$*\" > {folder}/words\necho '{stderr}' >&2\nexit {status}\n"
    )
    path.chmod(0o755)
    return path


def a_signed_folder(folder: Path, **contents: str) -> Path:
    """A chart of three files, one of them below."""
    (folder / "templates").mkdir(parents=True)
    for name in ("Chart.yaml", "values.yaml", "templates/a.yaml"):
        (folder / name).write_text(contents.get(Path(name).stem, "a: b\n"))
    (folder / SUMS).write_text(
        "".join(f"{digest}  {name}\n" for name, digest in checksums(folder).items())
    )
    for name in (BUNDLE, PUBLIC_KEY):
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    return a_signed_folder(tmp_path / "chart")


def test_each_file_of_a_signed_folder_is_proven(signed: Path, tmp_path: Path) -> None:
    assert verify_folder(a_cosign(tmp_path), signed, KEY) == [
        "Chart.yaml",
        "templates/a.yaml",
        "values.yaml",
    ]
    words = (tmp_path / "words").read_text()
    assert words.startswith("verify-blob --key release.pub --insecure-ignore-tlog=true --bundle ")
    assert words.split()[-2:] == ["--", str(signed / SUMS)]


NEW = "templates/b.yaml"
CHANGED = r"it was changed: its SHA-256 is \w+, signed is \w+"
LINK = r"^templates/b\.yaml: it is a symbolic link; allowed: regular files"


def link_the_checksums(folder: Path) -> None:
    (folder / SUMS).rename(folder.parent / SUMS)
    (folder / SUMS).symlink_to(folder.parent / SUMS)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: (folder / "Chart.yaml").write_text("b: b\n"), rf"Chart\.yaml: {CHANGED}"),
        (
            lambda folder: (folder / "templates/a.yaml").write_text("b: b\n"),
            rf"templates/a\.yaml: {CHANGED}",
        ),
        (
            lambda folder: (folder / NEW).write_text("a: b"),
            r"templates/b\.yaml: it is not a file of the release",
        ),
        (lambda folder: (folder / "values.yaml").unlink(), r"values\.yaml: it is missing"),
        (
            lambda folder: (folder / BUNDLE).unlink(),
            r"it is not signed: SHA256SUMS\.bundle is missing",
        ),
        (lambda folder: (folder / NEW).symlink_to("a.yaml"), LINK),
        (lambda folder: (folder / NEW).symlink_to(".."), LINK),
        (lambda folder: (folder / NEW).symlink_to("nowhere"), LINK),
        (lambda folder: (folder / NEW).symlink_to("/dev/zero"), LINK),
        (
            lambda folder: os.mkfifo(folder / NEW),
            r"^templates/b\.yaml: it is a special file; allowed: regular files",
        ),
        (link_the_checksums, r"^SHA256SUMS: it is a symbolic link"),
    ],
)
def test_a_folder_that_is_not_as_signed_is_refused(
    signed: Path, tmp_path: Path, change: Callable[[Path], object], reason: str
) -> None:
    change(signed)
    with pytest.raises(BadSignatureError, match=reason):
        verify_folder(a_cosign(tmp_path), signed, KEY)


def test_a_file_that_cannot_be_read_is_no_answer(
    signed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *ignored: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(
        CannotVerifyError, match=r"cannot be read: .*Permission denied: .*Chart\.yaml"
    ):
        checksums(signed)


@pytest.mark.parametrize(
    ("stderr", "fault"),
    [
        ("error during command execution: no signatures found", BadSignatureError),
        (
            "Error: no matching attestations: failed to verify signature: accepted signatures: 0",
            BadSignatureError,
        ),
        (
            "could not verify message: invalid signature when validating ASN.1 encoded signature",
            BadSignatureError,
        ),
        ("Get https://r.example.com/v2/: dial tcp: connection refused", CannotVerifyError),
        ("loading public key: pem to public key: PEM decoding failed", CannotVerifyError),
    ],
)
def test_a_wrong_signature_is_not_a_registry_that_is_away(
    tmp_path: Path, stderr: str, fault: type[Exception]
) -> None:
    with pytest.raises(fault, match=IMAGE):
        verify_image(a_cosign(tmp_path, stderr, 10), IMAGE, KEY)


def test_an_image_is_proven_by_its_digest_and_a_tag_is_refused(tmp_path: Path) -> None:
    verify_image(a_cosign(tmp_path), f"r.example.com:5000/vdi/vdi:1@{DIGEST}", KEY)
    assert (tmp_path / "words").read_text().split()[-2:] == [
        "--",
        f"r.example.com:5000/vdi/vdi@{DIGEST}",
    ]
    for tag in (
        "r.example.com/vdi/vdi:1",
        "r.example.com/vdi/vdi",
        f"r.example.com/vdi/vdi@{DIGEST}:1",
        f"{IMAGE}\n",
    ):
        with pytest.raises(BadSignatureError, match="named by a tag"):
            verify_image(a_cosign(tmp_path), tag, KEY)


def test_operator_and_gateway_are_proven_wherever_they_come_from() -> None:
    others = ["docker.io/library/postgres:17", "lab.example.com/cad:1"]
    desktop = f"r.example.com/vdi/desktop:1@{DIGEST}"
    evil = f"evil.example.com/vdi@{DIGEST}"
    signed, left = choose_images([evil, desktop, *others, desktop], "r.example.com/vdi/vdi", [evil])
    assert signed == [evil, desktop] and left == others
    assert choose_images(["r.example.com/vdi-evil/desktop:1"], "r.example.com/vdi/vdi", [])[0] == []


def test_without_cosign_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(
        CannotVerifyError,
        match=r"not in PATH.*go install github\.com/sigstore/cosign/v3/cmd/cosign@v",
    ):
        find_cosign()


@pytest.mark.parametrize(
    "registry", ["mirror.example.com:5000", "mirror.example.com/desktops", "localhost:5000/a/b"]
)
def test_what_is_pulled_from_a_mirror_is_proven_there(registry: str) -> None:
    operator = f"{registry}/vdi/vdi@{DIGEST}"
    desktop, kiosk = f"{registry}/vdi/desktop:1@{DIGEST}", "r.example.com/vdi/kiosk:1"
    others = [f"{registry}/bitnami/postgresql:17", f"{registry}/vdi-lab/cad:1"]
    signed, left = choose_images(
        [operator, desktop, kiosk, *others], "r.example.com/vdi/vdi", [operator]
    )
    assert (signed, left) == ([operator, desktop, kiosk], others)
