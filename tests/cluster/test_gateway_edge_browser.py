"""The way in and the waiting page in a real Chromium, behind a real Traefik."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from cluster.edge_traefik import TraefikStage, open_edge
from unit.gateway.edge_stage import GUEST, OWNER, shared_with
from vdi.api.meta import Condition
from vdi.api.session import QueueStatus
from vdi.cluster.units import format_time
from vdi.demo.browser import CHROMIUM_ARGS, find_chromium
from vdi.gateway.edge.headers import DESKTOP_COOKIE, GRANT_COOKIE
from vdi.gateway.login.logins import Device, Identity
from vdi.gateway.web.credentials import LOGIN_COOKIE

CREATING = {
    "phase": "Creating",
    "message": "The image is being pulled (3 of 9 layers).",
    "ready_time": "",
}


@pytest.fixture
async def edge(traefik: Path, tmp_path: Path) -> AsyncIterator[TraefikStage]:
    async with open_edge(traefik, tmp_path) as edge:
        yield edge


@asynccontextmanager
async def launch_chromium(*args: str) -> AsyncIterator[Browser]:
    executable = find_chromium()
    assert executable is not None, "no browser found: install chromium"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=executable, args=[*CHROMIUM_ARGS, *args]
        )
        try:
            yield browser
        finally:
            await browser.close()


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    async with launch_chromium() as browser:
        yield browser


async def a_person(
    edge: TraefikStage, chromium: Browser, user: str = OWNER, **how: Any
) -> BrowserContext:
    """A window of somebody who has logged in at the portal."""
    context = await chromium.new_context(ignore_https_errors=True, **how)
    context.set_default_timeout(30_000)
    await log_in(edge, context, user)
    return context


async def log_in(edge: TraefikStage, context: BrowserContext, user: str = OWNER) -> None:
    """As the portal's form does."""
    secret, _ = await edge.stage.logins.begin(Identity(user=user), Device())
    cookie = {
        "name": LOGIN_COOKIE,
        "value": secret,
        "url": edge.settings.portal_url,
        "secure": True,
        "httpOnly": True,
    }
    await context.add_cookies([cookie])  # type: ignore[list-item]


async def arrived(edge: TraefikStage, page: Page) -> None:
    """Return when the desktop's own page is there."""
    await page.wait_for_url(edge.url(path="/?v=1#token=edge"))
    await expect(page.locator("body")).to_have_text("desktop /")


async def test_the_address_opens_the_desktop(edge: TraefikStage, chromium: Browser) -> None:
    person = await a_person(edge, chromium)
    page = await person.new_page()
    await page.goto(edge.url())
    await arrived(edge, page)
    await page.reload()
    await arrived(edge, page)
    # Between two requests the desktop's own cookie of our name may be there; of ours, no script
    # sees any.
    assert await page.evaluate("document.cookie") in ("", f"{DESKTOP_COOKIE}=evil")
    ours = [cookie for cookie in await person.cookies(edge.url()) if cookie["value"] != "evil"]
    assert GRANT_COOKIE in {our["name"] for our in ours}
    assert all(our["httpOnly"] and our["secure"] for our in ours)


@pytest.mark.long
async def test_a_new_desktop_opens_once_it_responds(edge: TraefikStage, chromium: Browser) -> None:
    edge.stage.change(
        status={"phase": "Running", "ready_time": format_time(edge.stage.clock.now())}
    )
    page = await (await a_person(edge, chromium)).new_page()
    paths: list[str] = []
    page.on("framenavigated", lambda frame: paths.append(urlsplit(frame.url).path))
    problems: list[str] = []
    page.on(
        "console",
        lambda message: problems.append(message.text) if message.type == "error" else None,
    )
    await page.goto(edge.url())
    await arrived(edge, page)
    assert (paths, problems) == (["/.vdi/open", "/"], [])
    edge.write_routes()
    await edge.unrouted("alice-desktop")
    await page.goto(edge.url(path="/.vdi/open?next=/"))
    await expect(page.get_by_role("heading", name="Ready")).to_be_visible()
    edge.write_routes("alice-desktop")
    await arrived(edge, page)
    assert paths[2:] == ["/.vdi/open", "/.vdi/wait", "/"]


async def test_the_page_follows_the_start_and_opens_the_desktop(
    edge: TraefikStage, chromium: Browser
) -> None:
    edge.stage.change(status=CREATING)
    page = await (await a_person(edge, chromium)).new_page()
    problems: list[str] = []
    page.on(
        "console",
        lambda message: problems.append(message.text) if message.type == "error" else None,
    )
    # The portal's pages fade into each other, which the desktop's page does not do.
    page.on(
        "pageerror",
        lambda error: None if "ViewTransition" in str(error) else problems.append(str(error)),
    )
    await page.goto(edge.url())
    await expect(page.get_by_role("heading", name="Starting")).to_be_visible()
    queue = QueueStatus(position=3, reason="GPUsBusy", earliest_slot="2026-11-20T14:30:00Z")
    waits = Condition(
        type="Admitted", status="False", reason="GPUsBusy", message="All 4 GPUs are in use."
    )
    found = Condition(type="TemplateFound", status="True", reason="Found")
    line = {
        "phase": "Pending",
        "queue": queue,
        "message": "All 4 GPUs are in use.",
        "conditions": (found, waits),
    }
    edge.stage.change(status=line)
    await expect(page.get_by_role("heading", name="Number 3 in line")).to_be_visible()
    await expect(page).to_have_title("Number 3 in line: alice-desktop · VDI")
    await expect(page.locator("li[aria-current=step]")).to_contain_text("Find capacity")
    edge.stage.change(status={**CREATING, "queue": None})
    await expect(page.get_by_text("3 of 9 layers")).to_be_visible()
    edge.stage.change(
        status={"phase": "Running", "message": "", "ready_time": "2026-11-20T12:00:00Z"}
    )
    await arrived(edge, page)
    assert problems == []


@pytest.mark.long
async def test_navigating_to_a_suspended_desktop_resumes_it(
    edge: TraefikStage, chromium: Browser
) -> None:
    edge.write_routes()
    edge.stage.change(
        spec={"suspended": True},
        status={"phase": "Suspended", "message": "The programs are closed."},
    )
    page = await (await a_person(edge, chromium)).new_page()
    await edge.unrouted("alice-desktop")
    await page.goto(edge.url())
    await expect(page.get_by_role("heading", name="Waking up")).to_be_visible()
    assert [name for _, name in edge.stage.resumed] == ["alice-desktop"]


@pytest.mark.long
async def test_reloaded_page_asks_before_resuming(edge: TraefikStage, chromium: Browser) -> None:
    page = await (await a_person(edge, chromium)).new_page()
    await page.goto(edge.url())
    await arrived(edge, page)
    edge.write_routes()
    edge.stage.change(
        spec={"suspended": True},
        status={"phase": "Suspended", "message": "The programs are closed."},
    )
    await edge.unrouted("alice-desktop")
    # As Selkies' page does when it cannot connect; `evaluate` counts as a click, and somebody may
    # well have clicked.
    await page.evaluate("location.reload()")
    await expect(page.get_by_role("heading", name="This desktop is suspended")).to_be_visible()
    assert edge.stage.resumed == []
    await page.get_by_role("button", name="Resume").click()
    await expect(page.get_by_role("heading", name="Waking up")).to_be_visible()
    assert len(edge.stage.resumed) == 1


async def test_guest_is_told_that_the_share_was_revoked(
    edge: TraefikStage, chromium: Browser
) -> None:
    edge.stage.change(spec=shared_with(GUEST, "viewer"), status=CREATING)
    page = await (await a_person(edge, chromium, GUEST)).new_page()
    await page.goto(edge.url())
    await expect(page.get_by_role("heading", name="Starting")).to_be_visible()
    edge.stage.change(spec={"access": ()})
    await expect(
        page.get_by_role("heading", name="This desktop is no longer shared with you")
    ).to_be_visible()


async def test_desktop_opens_without_javascript(edge: TraefikStage, chromium: Browser) -> None:
    edge.stage.change(status={"phase": "Running"})
    page = await (await a_person(edge, chromium, java_script_enabled=False)).new_page()
    await page.goto(edge.url(path="/.vdi/wait?next=/"))
    await page.wait_for_url(edge.url(path="/?v=1#token=edge"))
