"""What a machine lacks for the demo's picture is installed, and nothing else."""

import pytest

from vdi.demo import browser


def refuse(_: str) -> None:
    raise OSError("libatomic.so.1: cannot open shared object file: No such file or directory")


@pytest.mark.parametrize(
    ("has_chromium", "has_library", "missing"),
    [
        (True, True, []),
        (False, True, ["chromium-headless-shell"]),
        (True, False, ["libatomic1"]),  # Debian 12, whose Chromium does without
        (False, False, ["chromium-headless-shell", "libatomic1"]),
    ],
)
def test_packages_that_the_picture_needs(
    monkeypatch: pytest.MonkeyPatch, has_chromium: bool, has_library: bool, missing: list[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}" if has_chromium else None)
    monkeypatch.setattr("ctypes.CDLL", (lambda _: None) if has_library else refuse)
    assert browser.missing_packages() == missing
