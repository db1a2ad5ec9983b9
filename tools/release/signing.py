"""Checksums of a folder's files, signed with cosign. `vdi.release.signatures` proves them."""

from pathlib import Path

from tools.release.programs import KEY_ALONE, Programs
from vdi.release.signatures import BUNDLE, SUMS, checksums

PROVENANCE = "provenance.json"


def sign(programs: Programs, folder: Path, key: Path) -> None:
    """Write checksums and their signature into `folder`. Raises ProgramError."""
    (folder / SUMS).write_text(
        "".join(f"{digest}  {name}\n" for name, digest in checksums(folder).items())
    )
    options = ("--key", key, *KEY_ALONE, "--yes", "--bundle", folder / BUNDLE)
    programs.run("cosign", "sign-blob", *options, folder / SUMS)
    (folder / BUNDLE).chmod(0o644)


def write_public_key(programs: Programs, key: Path, target: Path) -> None:
    """Write the public half of `key`. Raises ProgramError."""
    programs.run("cosign", "public-key", "--key", key, "--outfile", target)
    target.chmod(0o644)
