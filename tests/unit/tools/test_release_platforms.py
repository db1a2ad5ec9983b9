"""Platforms that an image is built for here; docker and buildah are stand-ins in PATH."""

from pathlib import Path

import pytest

from tools.release import platforms
from tools.release.platforms import find_platforms

DOCKER = """#!/bin/sh
case "$1 $2" in
"info --format") echo 27.1 ;;
"buildx inspect") printf '%s' "$BUILDX" ;;
*) exit 2 ;;
esac
"""
EMULATED = (
    "Name: default\nStatus:    running\nPlatforms: linux/amd64*, linux/amd64/v2, linux/arm64\n"
)
NATIVE = "Platforms: linux/amd64, linux/386\n"
ENABLED = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64\nflags: POCF\n"


@pytest.mark.parametrize(
    ("program", "buildx", "handler", "left_out"),
    [
        ("docker", EMULATED, None, None),
        (
            "docker",
            NATIVE,
            None,
            "docker buildx offers linux/amd64, linux/386; install QEMU's user mode for arm64",
        ),
        ("docker", "", None, "docker buildx offers none"),
        ("buildah", "", ENABLED, None),
        ("buildah", "", "disabled\n", "is disabled; write 1 to it"),
        ("buildah", "", None, "this machine cannot run its programs: "),
    ],
)
def test_a_platform_that_is_left_out_has_a_reason(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    buildx: str,
    handler: str | None,
    left_out: str | None,
) -> None:
    monkeypatch.setattr(platforms, "architecture", lambda: "amd64")
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / program).write_text(DOCKER if program == "docker" else "#!/bin/sh\nexit 2\n")
    (tmp_path / program).chmod(0o755)
    if handler:
        (tmp_path / "qemu-aarch64").write_text(handler)
    found = find_platforms({"PATH": str(tmp_path), "BUILDX": buildx}, docker=True, binfmt=tmp_path)
    assert (found.builder, found.architectures) == (
        program,
        ("amd64",) if left_out else ("amd64", "arm64"),
    )
    assert not left_out or (
        found.left_out[-1].startswith("linux/arm64: ") and left_out in found.left_out[-1]
    )
