"""Data that a desktop leaves in a browser for the next one at its host: in a real Chromium, behind
a real Traefik.

A host does not pass to another person; here it does, since what the edge does by itself is what is
tested. Mallory has a desktop at the host that will be alice's, and shares it with her. She opens it
once.
"""

import asyncio
import base64
import hashlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from playwright.async_api import Browser, BrowserContext, Page

from cluster.edge_traefik import TraefikStage, open_edge
from cluster.test_gateway_edge_browser import launch_chromium, log_in
from unit.gateway.edge_stage import OWNER, STRANGER, a_session, changed, shared_with
from vdi.api.meta import ObjectMeta
from vdi.api.session import VDISession
from vdi.api.template import TemplateSpec, VDITemplate
from vdi.gateway.web.credentials import LOGIN_COOKIE

HTML, SCRIPT = {"Content-Type": "text/html"}, {"Content-Type": "text/javascript"}
KEPT = {**SCRIPT, "Cache-Control": "public, max-age=31536000, immutable"}
WORKER = """
self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(clients.claim()));
self.addEventListener("fetch", (event) => {
  if (new URL(event.request.url).pathname !== "/assets/app.js") return;
  const script = 'document.documentElement.dataset.app = "the worker of mallory"';
  event.respondWith(new Response(script, { headers: { "Content-Type": "text/javascript" } }));
});
"""
PAGE = '<!doctype html><title>desktop</title><script src="/assets/app.js"></script>'
ATTACK = """async () => {
  localStorage.setItem("left", "by mallory");
  sessionStorage.setItem("left", "by mallory");
  await (await caches.open("left")).put("/x", new Response("by mallory"));
  await new Promise((done, failed) => {
    const opening = indexedDB.open("left");
    opening.onsuccess = () => { opening.result.close(); done(); };
    opening.onerror = failed;
  });
  try {
    await navigator.serviceWorker.register("/worker.js", { scope: "/" });
    await navigator.serviceWorker.ready;
    return "registered";
  } catch (error) {
    return String(error);
  }
}"""
FOUND = """async () => ({
  app: document.documentElement.dataset.app,
  workers: (await navigator.serviceWorker.getRegistrations()).length,
  controlled: navigator.serviceWorker.controller !== null,
  local: localStorage.getItem("left"),
  tab: sessionStorage.getItem("left"),
  caches: await caches.keys(),
  databases: (await indexedDB.databases()).map((one) => one.name),
})"""
NOTHING: dict[str, object] = {
    "workers": 0,
    "controlled": False,
    "local": None,
    "tab": None,
    "caches": [],
    "databases": [],
}


@pytest.fixture
async def edge(traefik: Path, tmp_path: Path) -> AsyncIterator[TraefikStage]:
    async with open_edge(traefik, tmp_path) as edge:
        edge.stage.drop(a_session())
        yield edge


@pytest.fixture
async def browser(edge: TraefikStage) -> AsyncIterator[Browser]:
    # Traefik's certificate is named as a good one: behind a bad one Chromium caches nothing, and
    # takes no worker.
    async with launch_chromium(
        f"--ignore-certificate-errors-spki-list={await key_hash(edge)}"
    ) as browser:
        yield browser


async def key_hash(edge: TraefikStage) -> str:
    """SHA-256 of the public key of Traefik's certificate."""
    pem = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", edge.port))
    key = x509.load_pem_x509_certificate(pem.encode()).public_key()
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(der).digest()).decode()


@pytest.fixture
async def alice(edge: TraefikStage, browser: Browser) -> BrowserContext:
    """Alice's browser, with her login at the portal."""
    context = await browser.new_context()
    context.set_default_timeout(30_000)
    await log_in(edge, context)
    return context


def at_the_host(edge: TraefikStage, user: str, **spec: Any) -> VDISession:
    """A session of this user, whose desktop has the host."""
    metadata = {"uid": f"uid-of-{user}", "resource_version": {STRANGER: "5", OWNER: "9"}[user]}
    status = {"url": edge.url(path="")}
    return edge.stage.add(
        changed(a_session(user=user), spec=spec, metadata=metadata, status=status)
    )


def allow_service_workers(edge: TraefikStage) -> None:
    meta = ObjectMeta(name="office", uid="uid-office", resource_version="1")
    edge.stage.world.templates.observe(
        VDITemplate(meta, TemplateSpec(image="code", service_workers=True))
    )


async def opened(edge: TraefikStage, page: Page) -> None:
    """Return when this page shows the desktop."""
    await page.goto(edge.url())
    await page.wait_for_url(edge.url(path="/?v=1#token=edge"))
    await page.wait_for_function("document.documentElement.dataset.app")


async def attacked(edge: TraefikStage, page: Page) -> str:
    """Alice opens mallory's desktop, which leaves what it can. Returns the result of registering a
    service worker.
    """
    session = at_the_host(edge, STRANGER, **shared_with(OWNER, "collaborator"))
    app = 'document.documentElement.dataset.app = "the script of mallory"'
    edge.desktop.pages = {
        "/": (PAGE, HTML),
        "/worker.js": (WORKER, SCRIPT),
        "/assets/app.js": (app, KEPT),
    }
    await opened(edge, page)
    result: str = await page.evaluate(ATTACK)
    count = sum(one.path == "/assets/app.js" for one in edge.desktop.seen)
    await opened(edge, page)
    left = await page.evaluate(FOUND)
    assert (left["local"], left["caches"], left["databases"]) == ("by mallory", ["left"], ["left"])
    assert sum(one.path == "/assets/app.js" for one in edge.desktop.seen) == count, (
        "the script is cached"
    )
    edge.stage.drop(session)
    return result


async def alices_own(edge: TraefikStage, page: Page) -> Page:
    """The host is alice's desktop's now, which serves a script at the same address. She opens it in
    another tab.

    The tab with mallory's desktop is closed: as long as it is open, its page runs at that host, and
    Chromium's process for the host keeps the scripts that it has in memory.
    """
    await page.close()
    at_the_host(edge, OWNER)
    app = 'document.documentElement.dataset.app = "the script of alice"'
    edge.desktop.pages = {"/": (PAGE, HTML), "/assets/app.js": (app, KEPT)}
    page = await page.context.new_page()
    await opened(edge, page)
    return page


async def test_browser_data_of_a_former_desktop_is_cleared(
    edge: TraefikStage, alice: BrowserContext
) -> None:
    page = await alice.new_page()
    assert "403" in await attacked(edge, page)
    assert (
        await page.evaluate("navigator.serviceWorker.getRegistrations().then((all) => all.length)")
        == 0
    )
    page = await alices_own(edge, page)
    assert await page.evaluate(FOUND) == {**NOTHING, "app": "the script of alice"}


@pytest.mark.long
async def test_an_allowed_service_worker_ends_with_its_session(
    edge: TraefikStage, alice: BrowserContext
) -> None:
    allow_service_workers(edge)
    page = await alice.new_page()
    assert await attacked(edge, page) == "registered"
    assert (await page.evaluate(FOUND))["app"] == "the worker of mallory"
    page = await alices_own(edge, page)
    assert await page.evaluate(FOUND) == {**NOTHING, "app": "the script of alice"}


@pytest.mark.long
async def test_browser_data_of_the_same_desktop_is_kept(
    edge: TraefikStage, alice: BrowserContext
) -> None:
    """Entering again, as after five minutes or a new login, costs a page neither its cache nor its
    settings.
    """
    page = await alices_own(edge, await alice.new_page())
    await page.evaluate(ATTACK)
    cookies = [
        cookie
        for cookie in await alice.cookies()
        if cookie["name"] not in ("__Host-vdi-desktop", "__Host-vdi-grant")
    ]
    await alice.clear_cookies()
    await alice.add_cookies(cookies)  # type: ignore[arg-type]
    await opened(edge, page)
    assert (await page.evaluate(FOUND))["local"] == "by mallory"
    assert sum(one.path == "/assets/app.js" for one in edge.desktop.seen) == 1


@pytest.mark.long
async def test_login_survives_cleared_browser_data(
    edge: TraefikStage, alice: BrowserContext
) -> None:
    """Cookies are cleared neither by the edge nor by a desktop that asks for it."""
    at_the_host(edge, STRANGER, **shared_with(OWNER, "collaborator"))
    app = 'document.documentElement.dataset.app = "the script of mallory"'
    hostile = {**HTML, "Clear-Site-Data": '"cookies"'}
    edge.desktop.pages = {"/": (PAGE, hostile), "/assets/app.js": (app, SCRIPT)}
    page = await alice.new_page()
    await opened(edge, page)
    await opened(edge, page)
    assert LOGIN_COOKIE in {
        cookie["name"] for cookie in await alice.cookies(edge.settings.portal_url)
    }
