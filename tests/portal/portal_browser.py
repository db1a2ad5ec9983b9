"""Chromium on the portal, as a person who is logged in; everything it complains of is kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from portal.portal_server import Server
from unit.gateway.gateway_stage import identity_of
from unit.gateway.portal_stage import ALICE
from vdi.demo.browser import CHROMIUM_ARGS, find_chromium
from vdi.gateway.login.logins import Device
from vdi.gateway.rights import User
from vdi.gateway.web.credentials import LOGIN_COOKIE


@dataclass
class Visitor:
    """One page in one browser context."""

    server: Server
    context: BrowserContext
    page: Page
    complaints: list[str] = field(default_factory=list)

    def go(self, path: str) -> None:
        """Open a page of the portal, and wait until its stream, if it has one, is open."""
        self.page.goto(f"{self.server.url}{path}")


@contextmanager
def chromium(rules: str = "") -> Iterator[Browser]:
    """A headless Chromium. Raises RuntimeError without one. `rules`: more of
    --host-resolver-rules.
    """
    executable = find_chromium()
    if executable is None:
        raise RuntimeError("no browser found: install chromium")
    with sync_playwright() as playwright:
        arguments = (
            [*CHROMIUM_ARGS, f"--host-resolver-rules={rules}"] if rules else [*CHROMIUM_ARGS]
        )
        browser = playwright.chromium.launch(executable_path=executable, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visitor(
    browser: Browser,
    server: Server,
    person: User | None = ALICE,
    *,
    size: tuple[int, int] = (1280, 860),
    scheme: Literal["light", "dark"] = "light",
    scripts: bool = True,
    zone: str = "UTC",
    **more: Any,
) -> Iterator[Visitor]:
    """Somebody with a browser of their own."""
    context = browser.new_context(
        ignore_https_errors=True,
        viewport={"width": size[0], "height": size[1]},
        color_scheme=scheme,
        java_script_enabled=scripts,
        timezone_id=zone,
        locale="en-GB",
        **more,
    )
    context.set_default_timeout(30_000)
    if person is not None:
        secret, _ = server.run(server.stage.logins.begin(identity_of(person), Device()))
        context.add_cookies(
            [
                {
                    "name": LOGIN_COOKIE,
                    "value": secret,
                    "url": server.url,
                    "secure": True,
                    "httpOnly": True,
                }
            ]
        )
    page = context.new_page()
    guest = Visitor(server, context, page)
    page.on(
        "console",
        lambda one: guest.complaints.append(one.text) if one.type in ("error", "warning") else None,
    )
    page.on("pageerror", lambda error: guest.complaints.append(str(error)))
    try:
        yield guest
    finally:
        context.close()
