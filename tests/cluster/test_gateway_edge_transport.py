"""A desktop that streams over WebRTC, in a real Chromium behind a real Traefik, where there is no
TURN server: the page between the way in and the desktop's own. With a server, and a real desktop:
tests/e2e/test_webrtc.py.
"""

import re

import pytest
from playwright.async_api import Browser, Page, expect

from cluster.edge_traefik import TraefikStage
from cluster.test_gateway_edge_browser import a_person, chromium, edge
from unit.gateway.edge_stage import GUEST, shared_with
from vdi.api.meta import ObjectMeta
from vdi.api.streaming import TemplateStreaming
from vdi.api.template import TemplateSpec, VDITemplate

__all__ = ["chromium", "edge"]

OVER_WEBSOCKET, NO_WAY = "Connected over WebSocket, not WebRTC", "Cannot connect to the desktop"


@pytest.fixture
def webrtc(edge: TraefikStage) -> TraefikStage:
    spec = TemplateSpec(image="example/desktop:1", streaming=TemplateStreaming(transport="WebRTC"))
    edge.stage.world.templates.observe(
        VDITemplate(ObjectMeta(name="office", resource_version="1"), spec)
    )
    edge.desktop.mode = "webrtc"
    return edge


async def opened(edge: TraefikStage, page: Page, role: str) -> None:
    """Return when the desktop's own page is there, with a token of this role in its address."""
    await page.wait_for_url(re.compile(r"/\?v=[0-9a-f]{12}#token="))
    await expect(page.locator("body")).to_have_text("desktop /")
    assert edge.desktop.table[page.url.partition("#token=")[2]]["role"] == role


async def test_owner_without_a_relay_switches_to_websocket(
    webrtc: TraefikStage, chromium: Browser
) -> None:
    page = await (await a_person(webrtc, chromium)).new_page()
    problems: list[str] = []
    page.on(
        "console",
        lambda message: problems.append(message.text) if message.type == "error" else None,
    )
    await page.goto(webrtc.url())
    await expect(page.get_by_role("heading", name=OVER_WEBSOCKET)).to_be_visible()
    assert webrtc.desktop.mode == "websockets"
    await opened(webrtc, page, "controller")
    assert problems == []
    await page.goto(webrtc.url())
    await opened(webrtc, page, "controller")


@pytest.mark.long
async def test_a_viewer_enters_once_the_transport_has_changed(
    webrtc: TraefikStage, chromium: Browser
) -> None:
    webrtc.stage.change(spec=shared_with(GUEST, "viewer"))
    page = await (await a_person(webrtc, chromium, GUEST)).new_page()
    await page.goto(webrtc.url())
    await expect(page.get_by_role("heading", name=NO_WAY)).to_be_visible()
    answer = await page.evaluate(
        "async () => (await fetch('/api/switch', {method: 'POST', body: '{}'})).status"
    )
    assert (answer, webrtc.desktop.mode) == (403, "webrtc")
    webrtc.desktop.mode = "websockets"
    await opened(webrtc, page, "viewer")


async def test_a_token_in_the_address_is_not_carried_to_the_portal(
    webrtc: TraefikStage, chromium: Browser
) -> None:
    page = await (await chromium.new_context(ignore_https_errors=True)).new_page()
    await page.goto(webrtc.url(path="/?v=0123456789ab#token=of-a-grant-that-is-over"))
    assert page.url.startswith(webrtc.settings.portal_url), page.url
    assert "of-a-grant" not in await page.evaluate("location.href")
