"""A desktop's page against other desktops and the portal in the same real Chromium, behind a real
Traefik.

mallory has shared her desktop with alice, and serves there what she wants; alice opens it once.
What she may want: plant cookies for the whole domain, hold a window of alice's desktop, and have
alice's browser keep wrong responses.
"""

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, BrowserContext, Error, Page, expect

from cluster.edge_traefik import TraefikStage
from cluster.test_gateway_edge_browser import a_person, arrived, chromium, edge, log_in
from support.waiting import eventually
from unit.gateway.edge_stage import GUEST, OWNER, STRANGER, shared_with
from vdi.gateway.edge.headers import COOKIE_BYTES
from vdi.gateway.web.connection import HEAD_BYTES
from vdi.gateway.web.credentials import LOGIN_COOKIE

__all__ = ["chromium", "edge"]

HTML = {"Content-Type": "text/html", "Cache-Control": "no-store"}
LISTENER = (
    "<script>window.received = []; addEventListener('message', event =>"
    " received.push(event.data))</script>"
)
PLANT = """([names, value]) => {
    const everywhere = "Domain=vdi.localhost; Path=/; Secure; Max-Age=9999999"
    for (const name of names) document.cookie = `${name}=${value}; ${everywhere}`
}"""


@pytest.fixture
async def alice(edge: TraefikStage, chromium: Browser) -> AsyncIterator[BrowserContext]:
    """Her browser; mallory's desktop has a page /evil, hers a page /listens that takes messages of
    everybody.
    """
    edge.desktop.pages |= {"/evil": ("evil", HTML), "/listens": (LISTENER, HTML)}
    # Others overwrite the visitor's token.
    edge.desktop.pages |= {
        "/": ("desktop /", HTML),
        "/favicon.ico": ("", {}),
    }
    await edge.add_desktop("mallory-desktop", STRANGER, spec=shared_with(OWNER, "collaborator"))
    person = await a_person(edge, chromium)
    yield person
    await person.close()


async def opens_mallorys(edge: TraefikStage, alice: BrowserContext) -> Page:
    """Once in her own desktop, alice opens mallory's page."""
    page = await alice.new_page()
    await page.goto(edge.url())
    await arrived(edge, page)
    await page.goto(edge.url("mallory-desktop", "/evil"))
    await expect(page.locator("body")).to_have_text("evil")
    return page


async def test_planted_cookies_with_our_names_are_ignored(
    edge: TraefikStage, alice: BrowserContext
) -> None:
    """She stays who she is, at the portal and in her own desktop."""
    page = await opens_mallorys(edge, alice)
    prefixes = (
        "__Host-",
        "__host-",
        "__HOST-",
        "\xa0__Host-",
        " __Host-",
        "\t__Host-",
        "=__Host-",
        "__Secure-",
        "",
    )
    ours = [
        LOGIN_COOKIE.removeprefix("__Host-"),
        "vdi-desktop",
        "vdi-grant",
        "vdi-state",
        "vdi-before",
    ]
    await page.evaluate(PLANT, [[prefix + name for prefix in prefixes for name in ours], "evil"])
    await page.goto(edge.url(path="/.vdi/start"))
    await arrived(edge, page)
    for request in edge.desktop.seen:
        sent = [part.strip(" ") for part in request.headers.get("Cookie", "").lower().split(";")]
        assert not any(one.startswith("__host-vdi-") for one in sent)


@pytest.mark.long
async def test_planted_cookies_do_not_lock_the_owner_out(
    edge: TraefikStage, alice: BrowserContext
) -> None:
    """They are more than the desktop's server takes, and less than ours do."""
    page = await opens_mallorys(edge, alice)
    await page.evaluate(PLANT, [["a", "b", "c"], "x" * 4000])
    await page.evaluate(PLANT, [["small"], "1"])
    assert await page.evaluate("document.cookie.length") > 2 * COOKIE_BYTES
    await page.goto(edge.url())
    await arrived(edge, page)
    assert "small=1" in edge.desktop.seen[-1].headers["Cookie"]


async def test_portal_clears_excess_cookies(edge: TraefikStage, alice: BrowserContext) -> None:
    page = await opens_mallorys(edge, alice)
    await page.evaluate(PLANT, [[f"c{number}" for number in range(60)], "x" * 4000])
    assert await page.evaluate("document.cookie.length") > HEAD_BYTES
    answer = await page.goto(f"{edge.settings.portal_url}/login")
    assert answer is not None
    assert answer.status == 431
    await expect(page.locator("body")).to_contain_text(
        "Your browser has too many cookies for this domain"
    )
    await log_in(edge, alice)
    await page.goto(edge.url())
    await arrived(edge, page)


@pytest.mark.long
async def test_evicted_login_cookie_costs_one_login(
    edge: TraefikStage, alice: BrowserContext
) -> None:
    """Chromium keeps 180 for the whole domain and forgets the oldest. No one else's login takes its
    place.
    """
    page = await opens_mallorys(edge, alice)
    await page.evaluate(PLANT, [[f"c{number}" for number in range(400)], "1"])

    async def is_pushed_out() -> bool:
        return LOGIN_COOKIE not in {
            cookie["name"] for cookie in await alice.cookies(edge.settings.portal_url)
        }

    await eventually(is_pushed_out, "Chromium has stored the cookies and forgotten the login")
    await page.goto(edge.url())
    assert page.url.startswith(f"{edge.settings.portal_url}/login?next=/enter")
    await log_in(edge, alice)
    await page.goto(edge.url())
    await arrived(edge, page)


@pytest.mark.long
async def test_long_address_does_not_clear_the_portal(
    edge: TraefikStage, alice: BrowserContext
) -> None:
    """Any page on the internet can send a browser there: it would end the login."""
    page = await alice.new_page()
    with pytest.raises(Error, match="ERR_HTTP_RESPONSE_CODE_FAILURE"):  # 431, without a page
        await page.goto(f"{edge.settings.portal_url}/login?{'x' * 10 * HEAD_BYTES}")
    assert LOGIN_COOKIE in {
        cookie["name"] for cookie in await alice.cookies(edge.settings.portal_url)
    }


async def test_desktop_cannot_frame_another(edge: TraefikStage, alice: BrowserContext) -> None:
    page = await opens_mallorys(edge, alice)
    load = """url => new Promise(loaded => {
        const frame = document.createElement("iframe")
        frame.onload = loaded
        frame.src = url
        document.body.append(frame)
    })"""
    await page.evaluate(load, edge.url(path="/listens"))
    count = len([one for one in edge.desktop.seen if one.path == "/listens"])
    assert (count, "another site" in await page.frames[-1].content()) == (0, True)


@pytest.mark.long
async def test_desktop_cannot_hold_a_window_of_another(
    edge: TraefikStage, alice: BrowserContext
) -> None:
    """The holder of a window can send it messages, which a page may believe, and lead it to a false
    login page.
    """
    page = await opens_mallorys(edge, alice)
    async with alice.expect_page() as opened:
        await page.evaluate("url => { window.other = open(url) }", edge.url(path="/listens"))
    other = await opened.value
    await other.wait_for_load_state()

    async def is_cut() -> bool:
        await page.evaluate("other.postMessage('a message', '*')")
        return bool(await page.evaluate("other.closed"))

    await eventually(is_cut, "the page has lost the window that it opened")
    assert await other.evaluate("[received.length, opener]") == [0, None]


async def test_redirect_is_not_cached_for_the_next_user(
    edge: TraefikStage, alice: BrowserContext
) -> None:
    """In one browser: alice, then bob with another role, then bob without rights; the same
    address.
    """
    page = await alice.new_page()
    await page.goto(edge.url())
    await arrived(edge, page)
    await alice.clear_cookies()
    await log_in(edge, alice, GUEST)
    await page.goto(edge.url())
    await expect(page.get_by_role("heading", name="You have no desktop here")).to_be_visible()
    edge.stage.change(spec=shared_with(GUEST, "viewer"))
    await page.goto(edge.url())
    await arrived(edge, page)
    edge.stage.change(spec={"access": ()})
    await page.goto(edge.url())
    await expect(
        page.get_by_role("heading", name="This desktop is no longer shared with you")
    ).to_be_visible()
