"""A browser of the demo that ends by itself is reported as a picture that could not be taken, not as a bug."""

import os
import signal
from pathlib import Path

import pytest

from vdi.demo.browser import DesktopBrowser, NoPictureError


def children() -> set[int]:
    """The processes that this one has started and that have not ended."""
    tasks = Path("/proc/self/task").iterdir()
    return {int(pid) for task in tasks for pid in (task / "children").read_text().split()}


def test_a_driver_that_does_not_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAYWRIGHT_NODEJS_PATH", "/bin/false")
    with (
        pytest.raises(NoPictureError, match="Playwright, which controls the browser, did not start: Connection closed"),
        DesktopBrowser("about:blank", None),
    ):
        pass


def test_a_driver_that_ends_is_named_and_leaves_no_process() -> None:
    before = children()
    with pytest.raises(NoPictureError, match="ended by itself"), DesktopBrowser("about:blank", None) as browser:
        (driver,) = children() - before
        os.kill(driver, signal.SIGKILL)
        browser.picture()
    assert children() == before
