"""Cookies that another desktop plants for the whole domain, in disguise: browsers hold `__Host-`
names to one host, and a name that only looks so after somebody has trimmed it is not.
"""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from unit.gateway.attack_stage import ALICE, BOB, DESKTOP, AttackStage, furnished_attack_stage
from unit.gateway.gateway_stage import NAVIGATION, PORTAL
from vdi.gateway.edge.headers import STATE_COOKIE
from vdi.gateway.login.logins import Device
from vdi.gateway.web import credentials
from vdi.gateway.web.credentials import FLOW_COOKIE, LOGIN_COOKIE, PRE_LOGIN_COOKIE, cookies_in

DISGUISES = (
    "\xa0{}",
    "\x85{}",
    "{}\xa0",
    "\x1f{}",
    "\x0b{}",
    "\x0c{}",
    '"{}"',
    "$Version=1; ${}",
    "={}",
    "x={}",
)


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AttackStage]:
    """One for all: each test makes new logins and changes nothing else."""
    async with furnished_attack_stage(tmp_path_factory.mktemp("stage")) as stage:
        yield stage


def header(cookies: str) -> dict[bytes, bytes]:
    return {b"cookie": cookies.encode("latin-1")}


@pytest.mark.parametrize("disguise", DISGUISES)
async def test_a_disguised_login_cookie_does_not_count(stage: AttackStage, disguise: str) -> None:
    """Otherwise a person works, without noticing, as whoever has planted it: session fixation over
    the domain.
    """
    mallory, _ = await stage.gateway.login.services.logins.begin(BOB, Device())
    alice, _ = await stage.gateway.login.services.logins.begin(ALICE, Device())
    planted = f"{disguise.format(LOGIN_COOKIE)}={mallory}"
    async with stage.browser() as browser:
        assert (await browser.get("/api/v1/me", headers=header(planted))).status_code == 401
        for both in (f"{LOGIN_COOKIE}={alice}; {planted}", f"{planted}; {LOGIN_COOKIE}={alice}"):
            answer = await browser.get("/api/v1/me", headers=header(both))
            assert answer.json()["user"] == ALICE.user


@pytest.mark.parametrize("disguise", DISGUISES)
async def test_a_form_is_not_bound_to_a_secret_in_disguise(
    stage: AttackStage, disguise: str
) -> None:
    secret = "A" * 43
    fields = {
        "csrf": credentials.make_csrf_token(secret),
        "user": "bob@example.com",
        "password": "x",
    }
    own = {b"origin": PORTAL.encode(), b"sec-fetch-site": b"same-origin"}
    async with stage.browser() as browser:
        for name in (PRE_LOGIN_COOKIE, LOGIN_COOKIE, FLOW_COOKIE):
            planted = header(f"{disguise.format(name)}={secret}")
            answer = await browser.post("/login", data=fields, headers={**own, **planted})
            assert "open for too long" in answer.text


@pytest.mark.parametrize("disguise", DISGUISES)
async def test_a_ticket_is_not_bound_to_a_state_in_disguise(
    stage: AttackStage, disguise: str
) -> None:
    """Mallory's ticket, and the state that it fits, in alice's browser: she would work in what she
    thinks is hers.
    """
    state = "A" * 43
    planted = f"{disguise.format(STATE_COOKIE)}={state}"
    assert STATE_COOKIE not in cookies_in(planted)
    assert cookies_in(f"{STATE_COOKIE}=mine; {planted}")[STATE_COOKIE] == "mine"
    mallory = await stage.logged_in()
    start = await mallory.get(
        f"{DESKTOP}/.vdi/start", headers={**NAVIGATION, "Cookie": f"{STATE_COOKIE}={state}"}
    )
    ticket = (await mallory.get(start.headers["location"])).headers["location"]
    async with stage.browser() as alice:
        answer = await alice.get(ticket, headers=header(planted))
        assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)
