"""A browser of the demo that ends by itself is reported as a picture that could not be taken, not
as a bug.
"""

import contextlib
import os
import signal
from pathlib import Path

import pytest

from vdi.demo.browser import DesktopBrowser, NoPictureError


def children() -> set[int]:
    """The processes that this one has started and that have not ended.

    Asked of all processes, not of this one's threads: a thread of Playwright may end while the list
    is read.
    """
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        # It has ended: no child of ours.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if fields[1] == str(os.getpid()):
                found.add(int(folder.name))
    return found


def test_a_driver_that_does_not_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAYWRIGHT_NODEJS_PATH", "/bin/false")
    with (
        pytest.raises(
            NoPictureError,
            match="Playwright, which controls the browser, did not start: Connection closed",
        ),
        DesktopBrowser("about:blank", None),
    ):
        pass


def test_a_driver_that_ends_is_named_and_leaves_no_process() -> None:
    before = children()
    with (
        pytest.raises(NoPictureError, match="ended by itself"),
        DesktopBrowser("about:blank", None) as browser,
    ):
        (driver,) = children() - before
        os.kill(driver, signal.SIGKILL)
        browser.picture()
    assert children() == before
