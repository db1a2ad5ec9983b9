"""Logging in at a real identity provider: who comes back, who does not, and what happens when it is
not there.
"""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from cluster.gateway_stage import GatewayStage, open_gateway_stage
from cluster.oidc_provider import IdentityProvider, PersonAtProvider, identity_provider, path_of
from cluster.operator_stage import Stage

PORTAL = "https://portal.vdi.localhost:8443"
ACCOUNTS: dict[str, dict[str, Any]] = {
    "carol": {
        "email": "Carol@Example.com",
        "email_verified": True,
        "name": "Carol Ünal",
        "groups": ["staff", "vdi-admins"],
    },
    "dave": {
        "email": "dave@example.com",
        "email_verified": True,
        "name": "Dave",
        "groups": "Staff,night shift",
    },
}


@dataclass
class SignOnStage:
    gateway: GatewayStage
    provider: IdentityProvider
    people: AsyncExitStack

    def person(self) -> PersonAtProvider:
        person = PersonAtProvider(self.provider.config.issuer)
        self.people.push_async_callback(person.close)
        return person

    async def begin(self, browser: httpx.AsyncClient, next_page: str = "/account") -> str:
        """Press the button of the login page; the provider's address."""
        page = await browser.get("/login", params={"next": next_page})
        button = re.search(r'href="(/login/oidc[^"]*)"', page.text)
        assert button is not None, page.text
        answer = await browser.get(button[1].replace("&amp;", "&"))
        assert answer.status_code == 303, answer.text
        there: str = answer.headers["location"]
        assert there.startswith(f"{self.provider.config.issuer}/auth?")
        return there

    async def log_in(self, browser: httpx.AsyncClient, login: str) -> httpx.Response:
        """The whole way; the gateway's answer to the way back."""
        back = await self.person().log_in(await self.begin(browser), login)
        assert back.startswith(f"{PORTAL}/login/oidc/back?"), back
        return await browser.get(path_of(back))


@pytest.fixture
async def sign_on(stage: Stage, tmp_path: Path) -> AsyncIterator[SignOnStage]:
    async with (
        identity_provider(tmp_path, PORTAL, ACCOUNTS) as provider,
        AsyncExitStack() as people,
    ):
        more: dict[str, Any] = {"oidc": provider.config, "admin_groups": frozenset({"vdi-admins"})}
        async with open_gateway_stage(stage, tmp_path, **more) as gateway:
            assert gateway.portal == PORTAL
            yield SignOnStage(gateway, provider, people)


async def me(browser: httpx.AsyncClient) -> dict[str, Any]:
    answer = await browser.get("/api/v1/me", headers={"Accept": "application/json"})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def known_as(browser: httpx.AsyncClient) -> tuple[str, bool, list[str]]:
    """Address, administrator, groups."""
    known = await me(browser)
    return known["user"], known["admin"], sorted(known["groups"])


async def test_login_takes_over_the_groups(sign_on: SignOnStage) -> None:
    carol, dave = await sign_on.gateway.browser(), await sign_on.gateway.browser()
    answer = await sign_on.log_in(carol, "carol")
    assert (answer.status_code, answer.headers["location"]) == (303, "/account")
    account = await carol.get("/account")
    assert "Carol Ünal" in account.text
    assert "administrator" in account.text
    assert await known_as(carol) == ("carol@example.com", True, ["staff", "vdi-admins"])
    assert (await sign_on.log_in(dave, "dave")).status_code == 303
    assert await known_as(dave) == ("dave@example.com", False, ["night shift", "staff"])


@pytest.mark.long
async def test_oidc_callback_works_once_in_its_own_browser(sign_on: SignOnStage) -> None:
    browser, thief = await sign_on.gateway.browser(), await sign_on.gateway.browser()
    there = await sign_on.begin(browser)
    back = path_of(await sign_on.person().log_in(there, "carol"))
    await sign_on.begin(thief)
    assert (await thief.get(back)).status_code == 403, "not his state"
    # With his own state and her code: the provider holds the code against the PKCE challenge that
    # it was asked with.
    code = parse_qs(urlsplit(back).query)["code"][0]
    his = parse_qs(urlsplit(await sign_on.begin(thief)).query)["state"][0]
    issuer = sign_on.provider.config.issuer
    answer = await thief.get("/login/oidc/back", params={"code": code, "state": his, "iss": issuer})
    assert answer.status_code == 403
    assert "could not be verified" in answer.text
    assert (await thief.get("/account")).status_code == 303


async def test_sign_out_continues_at_the_provider(sign_on: SignOnStage) -> None:
    browser, person = await sign_on.gateway.browser(), sign_on.person()
    back = await person.log_in(await sign_on.begin(browser), "carol")
    await browser.get(path_of(back))
    other = await sign_on.gateway.browser()
    await other.get(path_of(await person.log_in(await sign_on.begin(other), "nobody is asked")))
    assert (await me(other))["user"] == "carol@example.com", "the provider still knows her"
    answer = await sign_on.gateway.post(browser, "/logout")
    assert answer.status_code == 200
    there = answer.headers["refresh"].partition("url=")[2]
    assert there.startswith(f"{sign_on.provider.config.issuer}/session/end?")
    assert "id_token_hint=" in there
    assert (await person.log_out(there)).partition("?")[0] == f"{PORTAL}/logged-out"
    assert "You are signed out" in (await browser.get("/logged-out")).text
    assert (await browser.get("/account")).status_code == 303
    # The provider asks again who it is: now it is dave.
    back = await person.log_in(await sign_on.begin(browser), "dave")
    await browser.get(path_of(back))
    assert (await me(browser))["user"] == "dave@example.com"


async def test_a_provider_that_is_down_stops_new_logins_only(sign_on: SignOnStage) -> None:
    carol, browser = await sign_on.gateway.browser(), await sign_on.gateway.browser()
    await sign_on.log_in(carol, "carol")
    there = await sign_on.begin(browser)
    back = await sign_on.person().log_in(there, "dave")
    await sign_on.provider.stop()
    answer = await browser.get(path_of(back))
    assert answer.status_code == 503
    assert "Example ID does not respond" in answer.text
    assert (await sign_on.gateway.inside("/readyz")).status_code == 200
    assert (await me(carol))["user"] == "carol@example.com"
    await sign_on.gateway.log_in("alice@example.com")
    await sign_on.provider.start_again()
    assert (await sign_on.log_in(browser, "dave")).status_code == 303
