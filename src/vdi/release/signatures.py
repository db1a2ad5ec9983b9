"""Signatures of a release, checked with the program cosign and a public key: files of a folder,
images in a registry.

No transparency log is asked: the key that the administrator trusts is the proof.
"""

import hashlib
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

SUMS = "SHA256SUMS"
BUNDLE = "SHA256SUMS.bundle"
PUBLIC_KEY = "release.pub"
# Files that the checksums cannot cover. The verifier has its own copy of the public key.
_UNLISTED = {SUMS, BUNDLE, PUBLIC_KEY}

_GET_COSIGN = (
    "Get it from https://github.com/sigstore/cosign/releases, or: go install "
    "github.com/sigstore/cosign/v3/cmd/cosign@v3.1.3"
)
# Messages of cosign about a signature that is missing, of another key, or of other content. Any
# other is no answer.
_WRONG = re.compile(
    r"no matching (signatures|attestations)|no signatures found|invalid signature|failed to verify"
    r" signature"
)
_SECONDS = 120


class BadSignatureError(Exception):
    """Raised for what is not signed with the key: the message names it."""


class CannotVerifyError(Exception):
    """Raised when a signature could not be looked at: the message says why, and what to do."""


def find_cosign() -> Path:
    """The cosign in PATH. Raises CannotVerifyError."""
    path = shutil.which("cosign")
    if path is None:
        raise CannotVerifyError(f"cosign is not in PATH; it verifies signatures. {_GET_COSIGN}")
    return Path(path)


def checksums(folder: Path) -> dict[str, str]:
    """Path below `folder` -> SHA-256, of all files that are listed. Raises BadSignatureError,
    CannotVerifyError.

    Only regular files have content that a checksum can cover: a link leads elsewhere, and a FIFO
    never ends.
    """
    digests = {}
    try:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                kind = "a symbolic link" if path.is_symlink() else "a special file"
                raise BadSignatureError(f"{name}: it is {kind}; allowed: regular files and folders")
            if path.is_file() and name not in _UNLISTED:
                with path.open("rb") as file:
                    digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CannotVerifyError(f"{folder} cannot be read: {error}") from error
    return digests


def verify_folder(cosign: Path, folder: Path, key: Path) -> list[str]:
    """Prove each file of a folder; gives their names. Raises BadSignatureError,
    CannotVerifyError.
    """
    for name in (SUMS, BUNDLE):
        if not (folder / name).is_file():
            raise BadSignatureError(f"{folder}: it is not signed: {name} is missing")
    actual = checksums(folder)
    sums = str(folder / SUMS)
    _run(cosign, "verify-blob", key, "--bundle", str(folder / BUNDLE), "--", sums, what=sums)
    lines = (line.split("  ", 1) for line in (folder / SUMS).read_text().splitlines())
    listed = {name: digest for digest, name in lines}
    for name in sorted(listed.keys() | actual.keys()):
        if name not in actual:
            raise BadSignatureError(f"{name}: it is missing")
        if name not in listed:
            raise BadSignatureError(f"{name}: it is not a file of the release")
        if actual[name] != listed[name]:
            raise BadSignatureError(
                f"{name}: it was changed: its SHA-256 is {actual[name]}, signed is {listed[name]}"
            )
    return sorted(listed)


def verify_image(cosign: Path, image: str, key: Path) -> None:
    """Prove an image in its registry. Raises BadSignatureError, also for a tag; CannotVerifyError.

    A tag is refused because the registry may give another image under it to the node than to us.
    """
    if not re.search(r"@sha256:[0-9a-f]{64}\Z", image):
        raise BadSignatureError(
            f"image {image}: it is named by a tag, under which the registry may have another image"
            " later. Name it by digest (NAME@sha256:...), as the chart of a release with a"
            " registry does"
        )
    _run(cosign, "verify", key, "--", re.sub(r":[^:/@]+@", "@", image), what=f"image {image}")


def choose_images(
    images: Iterable[str], repository: str, required: Iterable[str]
) -> tuple[list[str], list[str]]:
    """Images whose signature is required, and those of others: databases, desktops of one's own.

    `repository` is the chart's own image of operator and gateway; images beside it are the
    release's. `required` are the images of operator and gateway in use: wherever they come from,
    the key must have signed them. One under the same path is a copy in a mirror
    (`global.imageRegistry`): the images beside it are what nodes pull for the release.
    """
    wanted, needed = list(dict.fromkeys(images)), set(required)
    path = _without_registry(repository)
    mirrored = []
    for name in map(_repository_of, needed):
        if path and name.endswith(f"/{path}"):
            mirrored.append(name)
    places = tuple(f"{name.rpartition('/')[0]}/" for name in (repository, *mirrored))
    signed = [image for image in wanted if image in needed or image.startswith(places)]
    return signed, [image for image in wanted if image not in signed]


def _repository_of(image: str) -> str:
    return re.sub(r":[^:/]+\Z", "", image.partition("@")[0])


def _without_registry(repository: str) -> str:
    """As the chart's `vdi.image` puts `global.imageRegistry` in the registry's place."""
    return re.sub(r"\A(localhost|[^/]*[.:][^/]*)/", "", repository)


def _run(cosign: Path, verb: str, key: Path, *arguments: str, what: str) -> None:
    # The key alone is the proof. Without this option cosign asks a transparency log, which an
    # offline site cannot reach and a release with a private key is not in.
    command = [str(cosign), verb, "--key", str(key), "--insecure-ignore-tlog=true", *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotVerifyError(f"{what}: {error}") from error
    if done.returncode == 0:
        return
    lines = []
    for line in done.stderr.splitlines():
        if line.strip() and not line.startswith("WARNING"):
            lines.append(line)
    said = f"exit status {done.returncode}"
    if lines:
        said = lines[-1].removeprefix("error during command execution: ")
    if _WRONG.search(done.stderr):
        raise BadSignatureError(f"{what}: the key {key} has not signed it ({said})")
    raise CannotVerifyError(f"{what}: cosign could not check it: {said}")
