"""The demo's browser: the packages that it needs, and errors of Chromium that pass by
themselves.
"""

from types import SimpleNamespace
from typing import Any

import pytest
from playwright.sync_api import Error

from vdi.demo import browser
from vdi.demo.browser import DesktopBrowser, NoPictureError

URL = "https://first.vdi.localhost"
NO_PAGE = f"Page.goto: net::ERR_HTTP_RESPONSE_CODE_FAILURE at {URL}/\nCall log:\n  - navigating"


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


class Page:
    """Fails with these messages at first, then has an answer; its waits pass at once."""

    def __init__(self, *failures: str) -> None:
        self.failures, self.waited_ms = list(failures), 0.0

    def goto(self, _url: str, **_: float) -> Any:
        if self.failures:
            raise Error(self.failures.pop(0))
        return SimpleNamespace(status=200)

    def wait_for_timeout(self, milliseconds: float) -> None:
        self.waited_ms += milliseconds


def browser_on(page: Page) -> Any:
    opened: Any = DesktopBrowser(URL, None, timeout_factor=20)
    opened.page = page
    opened.messages = [
        "10:00:00 Traefik or the desktop responded with 500 for https://first.vdi.localhost/"
    ]
    return opened


def test_answer_without_a_page_is_loaded_again() -> None:
    page = Page(NO_PAGE, NO_PAGE)
    assert browser_on(page)._go(60.0).status == 200
    assert page.waited_ms == 2 * 200 * 20


@pytest.mark.parametrize(
    ("failure", "seconds"),
    [(NO_PAGE, -1.0), ("Page.goto: net::ERR_CONNECTION_REFUSED", 60.0)],
    ids=["late", "other"],
)
def test_lasting_error_is_reported_with_the_servers_answers(failure: str, seconds: float) -> None:
    with pytest.raises(
        NoPictureError, match=r"net::ERR_\w+.*; seen: .* responded with 500 for"
    ) as raised:
        browser_on(Page(failure))._go(seconds)
    assert "Call log" not in str(raised.value)
