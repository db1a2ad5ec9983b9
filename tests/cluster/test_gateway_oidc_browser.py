"""Single sign-on in Chromium at two real providers, through Traefik.

panva's oidc-provider remembers people and has a sign-out. Dex has neither: it asks at each login.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, Page, expect
from playwright.async_api import Error as PlaywrightError

from cluster.edge_traefik import free_port, run_program, run_traefik
from cluster.gateway_stage import open_gateway_stage
from cluster.oidc_provider import identity_provider
from cluster.operator_stage import Stage
from cluster.test_gateway_edge_browser import chromium
from support.waiting import eventually
from tools import binaries
from vdi.devcluster.progress import Progress
from vdi.gateway.settings import OIDCSettings

__all__ = ["chromium"]

CAROL, PASSWORD = "carol@example.com", "password"
GROUPS = ["staff", "vdi-admins"]
_BCRYPT = "$2a$10$2b2cU8CPhOTaGrs1HRQuAueS7JTT5ZHsHSzYiFPm1leZck7Mc8T4W"


@asynccontextmanager
async def dex(folder: Path, portal: str) -> AsyncIterator[OIDCSettings]:
    """Dex with carol and one client, in memory."""
    with Progress(folder) as progress:
        program = (await asyncio.to_thread(binaries.ensure, ["dex"], progress=progress))["dex"]
    address = f"127.0.0.1:{free_port()}"
    oidc = OIDCSettings(
        issuer=f"http://{address}", client_id="vdi", client_secret="a secret: /", name="Dex"
    )
    client = {
        "id": oidc.client_id,
        "name": "VDI",
        "secret": oidc.client_secret,
        "redirectURIs": [f"{portal}/login/oidc/back"],
    }
    carol = {"email": CAROL, "userID": "1", "username": "carol", "hash": _BCRYPT, "groups": GROUPS}
    config = {
        "issuer": oidc.issuer,
        "storage": {"type": "memory"},
        "web": {"http": address},
        "oauth2": {"skipApprovalScreen": True},
        "staticClients": [client],
        "enablePasswordDB": True,
        "staticPasswords": [carol],
    }
    (folder / "dex.json").write_text(json.dumps(config))

    async def responds() -> bool:
        try:
            async with httpx.AsyncClient(trust_env=False) as http:
                return (await http.get(f"{oidc.issuer}/keys")).status_code == 200
        except httpx.TransportError:
            return False

    async with run_program(folder, program, "serve", str(folder / "dex.json")):
        await eventually(responds, "Dex responds")
        yield oidc


@asynccontextmanager
async def panva(folder: Path, portal: str) -> AsyncIterator[OIDCSettings]:
    carol = {"email": CAROL, "email_verified": True, "groups": GROUPS}
    async with identity_provider(folder, portal, {CAROL: carol}) as provider:
        yield provider.config


class Visitor:
    """A window of Chromium at the portal."""

    def __init__(self, page: Page, portal: str, provider: OIDCSettings) -> None:
        self.page, self.portal, self.provider = page, portal, provider

    async def loads(self) -> bool:
        """Whether the way to the login page stands."""
        try:
            answer = await self.page.goto(f"{self.portal}/login")
        except PlaywrightError:
            return False
        return answer is not None and answer.status == 200

    async def press_sign_on(self) -> None:
        await self.page.goto(f"{self.portal}/login")
        await self.page.get_by_role("link", name=f"Continue with {self.provider.name}").click()

    async def enter_password(self) -> None:
        await expect(self.page.locator("[name=password]")).to_be_visible()
        assert self.page.url.startswith(self.provider.issuer)
        await self.page.fill("[name=login]", CAROL)
        await self.page.fill("[name=password]", PASSWORD)
        await self.page.click("[type=submit]")

    async def is_in(self) -> None:
        """Return at the portal; panva's provider asks for consent before."""
        if self.provider.name != "Dex":
            await self.page.get_by_role("button", name="Continue").click()
        await self.page.wait_for_url(f"{self.portal}/")


@asynccontextmanager
async def at_portal(
    provider: str, stage: Stage, folder: Path, traefik: Path, chromium: Browser
) -> AsyncIterator[Visitor]:
    """A real gateway behind Traefik, with that provider."""
    port = free_port()
    portal = f"https://portal.vdi.localhost:{port}"
    async with AsyncExitStack() as stack:
        opened = dex(folder, portal) if provider == "Dex" else panva(folder, portal)
        oidc = await stack.enter_async_context(opened)
        settings: dict[str, Any] = {
            "url_port": port,
            "oidc": oidc,
            "admin_groups": frozenset({"vdi-admins"}),
        }
        gateway = await stack.enter_async_context(open_gateway_stage(stage, folder, **settings))
        router = {
            "rule": "PathPrefix(`/`)",
            "service": "gateway",
            "entryPoints": ["websecure"],
            "tls": {},
        }
        service = {"loadBalancer": {"servers": [{"url": f"http://127.0.0.1:{gateway.public}"}]}}
        routes = {"http": {"routers": {"portal": router}, "services": {"gateway": service}}}
        (folder / "routes").mkdir()
        (folder / "routes/portal.yaml").write_text(json.dumps(routes))
        await stack.enter_async_context(run_traefik(traefik, folder, port))
        context = await chromium.new_context(ignore_https_errors=True)
        visitor = Visitor(await context.new_page(), portal, oidc)
        await eventually(visitor.loads, "Traefik serves the portal")
        yield visitor


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "provider",
    [pytest.param("Dex", marks=pytest.mark.long), pytest.param("panva", marks=pytest.mark.ci)],
)
async def test_sign_in_again_asks_for_the_password(
    stage: Stage, tmp_path: Path, traefik: Path, chromium: Browser, provider: str
) -> None:
    async with at_portal(provider, stage, tmp_path, traefik, chromium) as visitor:
        page, portal = visitor.page, visitor.portal
        await visitor.press_sign_on()
        await visitor.enter_password()
        await visitor.is_in()
        known = await page.evaluate("fetch('/api/v1/me').then(answer => answer.json())")
        assert (known["user"], known["admin"], sorted(known["groups"])) == (CAROL, True, GROUPS)

        await page.get_by_role("button", name="Sign out", exact=True).click()
        await expect(page.get_by_role("heading", name="You are signed out")).to_be_visible()
        if provider == "Dex":
            await expect(
                page.get_by_text("You can open them again after you sign in.")
            ).to_be_visible()
        else:
            await page.get_by_role("button", name="Yes, sign me out").click()
            await page.wait_for_url(f"{portal}/logged-out**")
            await expect(page.get_by_role("heading", name="You are signed out")).to_be_visible()
        await page.goto(f"{portal}/account")
        assert page.url.startswith(f"{portal}/login")
        await visitor.press_sign_on()
        await visitor.enter_password()
        await visitor.is_in()
