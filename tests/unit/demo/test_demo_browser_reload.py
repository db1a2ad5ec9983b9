"""An answer without a page, which Chromium shows as its own error: loaded again, as a person would, for a while."""

from types import SimpleNamespace
from typing import Any

import pytest
from playwright.sync_api import Error

from vdi.demo.browser import DesktopBrowser, NoPictureError

URL = "https://first.vdi.localhost"
NO_PAGE = f"Page.goto: net::ERR_HTTP_RESPONSE_CODE_FAILURE at {URL}/\nCall log:\n  - navigating"


class Page:
    """Fails with these words at first, then has an answer; its waits pass at once."""

    def __init__(self, *failures: str) -> None:
        self.failures, self.waited_ms = list(failures), 0.0

    def goto(self, _url: str, **_: float) -> Any:
        if self.failures:
            raise Error(self.failures.pop(0))
        return SimpleNamespace(status=200)

    def wait_for_timeout(self, milliseconds: float) -> None:
        self.waited_ms += milliseconds


def browser_on(page: Page) -> Any:
    browser: Any = DesktopBrowser(URL, None, timeout_factor=20)
    browser.page = page
    browser.messages = ["10:00:00 Traefik or the desktop responded with 500 for https://first.vdi.localhost/"]
    return browser


def test_an_answer_without_a_page_is_loaded_again() -> None:
    page = Page(NO_PAGE, NO_PAGE)
    assert browser_on(page)._go(60.0).status == 200
    assert page.waited_ms == 2 * 200 * 20


@pytest.mark.parametrize(
    ("failure", "seconds"), [(NO_PAGE, -1.0), ("Page.goto: net::ERR_CONNECTION_REFUSED", 60.0)], ids=["late", "other"]
)
def test_what_lasts_or_is_something_else_is_reported_with_what_was_seen(failure: str, seconds: float) -> None:
    with pytest.raises(NoPictureError, match=r"net::ERR_\w+.*; seen: .* responded with 500 for") as raised:
        browser_on(Page(failure))._go(seconds)
    assert "Call log" not in str(raised.value)
