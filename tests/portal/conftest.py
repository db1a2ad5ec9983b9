"""One browser for all tests of pages, one portal for each."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from portal.portal_browser import Visitor, chromium, visitor
from portal.portal_server import Server, serve
from portal.scene import LIMITS, furnish


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serve(tmp_path, limits=LIMITS) as server:
        server.do(lambda: furnish(server.stage, crowd=60))
        yield server


@pytest.fixture
def guest(browser: Browser, server: Server) -> Iterator[Visitor]:
    """Alice, at no page yet."""
    with visitor(browser, server) as guest:
        yield guest
