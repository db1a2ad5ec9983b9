"""The way into a desktop, as browsers go it; and everything that must not lead in."""

import asyncio
import re
from datetime import timedelta
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from support.waiting import hold_calls
from unit.gateway.edge_stage import (
    GUEST,
    HOST,
    OWNER,
    PORTAL,
    SETTINGS,
    STRANGER,
    EdgeStage,
    a_session,
    address,
    changed,
    shared_with,
)
from unit.gateway.gateway_stage import Browser
from vdi.api.session import Phase
from vdi.cluster.units import format_time
from vdi.gateway.edge.authorizer import MOST_GRANTS
from vdi.gateway.edge.headers import DESKTOP_COOKIE, GRANT_COOKIE, LAST_COOKIE, STATE_COOKIE
from vdi.gateway.login.logins import SignOut
from vdi.gateway.store.logins import GrantStore


async def ticket_link(browser: Browser, path: str = "/") -> str:
    """The link that the portal makes for this browser, not followed yet."""
    start = await browser.get(address(path=f"/.vdi/start?next={path}"))
    entered = await browser.get(start.headers["location"])
    assert entered.status_code == 302, entered.text
    return str(entered.headers["location"])


async def test_the_owner_opens_the_address_and_is_in(stage: EdgeStage) -> None:
    browser = await stage.logged_in(OWNER)
    answer = await browser.open(address())
    assert answer.status_code == 200, answer.text
    assert answer.json()["desktop"] == HOST
    assert (answer.url.query, answer.extensions["fragment"]) == (b"v=1", "token=edge")
    again = await browser.get(address(path="/assets/index.js"))
    assert again.status_code == 200


async def test_who_enters_is_led_where_the_edge_would_lead_them(stage: EdgeStage) -> None:
    """One redirect sooner: to the waiting page, to the one that asks a new desktop, or to the
    desktop's own.
    """
    browser = await stage.logged_in(OWNER)
    for phase, ready_s, path, where in (
        (Phase.RUNNING, 60, "/", "/?v=1#token=edge"),
        (Phase.RUNNING, 60, "/files?x=1", "/files?x=1"),
        (Phase.RUNNING, 4, "/?x=1", "/.vdi/open?next=/%3Fx%3D1"),
        (Phase.CREATING, 60, "/files?x=1", "/.vdi/wait?next=/files%3Fx%3D1"),
    ):
        ready_time = format_time(stage.clock.now() - timedelta(seconds=ready_s))
        stage.change(status={"phase": phase, "ready_time": ready_time})
        answer = await browser.get(await ticket_link(browser, quote(path)))
        assert (answer.status_code, answer.headers["location"]) == (302, where)


async def test_who_is_not_logged_in_is_sent_to_log_in_and_comes_back(stage: EdgeStage) -> None:
    browser = stage.browser()
    answer = await browser.get(address(path="/files?x=1"))
    assert answer.headers["location"] == address(path="/.vdi/start?next=/files%3Fx%3D1")
    answer = await browser.get(answer.headers["location"])
    where = urlsplit(answer.headers["location"])
    assert f"{where.scheme}://{where.netloc}{where.path}" == f"{PORTAL}/enter"
    answer = await browser.get(answer.headers["location"])
    assert answer.status_code == 303
    back = parse_qs(urlsplit(answer.headers["location"]).query)["next"][0]
    assert back.startswith("/enter?host=alice-desktop&state=")
    assert parse_qs(urlsplit(back).query)["next"] == ["/files?x=1"]


async def test_a_guest_enters_as_what_the_session_says(stage: EdgeStage) -> None:
    stage.change(spec=shared_with(GUEST, "collaborator"))
    browser = await stage.logged_in(GUEST)
    assert (await browser.open(address())).status_code == 200
    (grant,) = await GrantStore(stage.database).open()
    assert (grant.user, grant.role, grant.login_id) == (GUEST, "collaborator", browser.login_id)


async def test_entering_another_session_clears_the_former_one(stage: EdgeStage) -> None:
    browser = await stage.logged_in(OWNER)
    clears = '"cache", "storage"'

    async def enter() -> str | None:
        answer = await browser.get(await ticket_link(browser))
        assert answer.status_code == 302
        cleared: str | None = answer.headers.get("clear-site-data")
        return cleared

    assert [await enter(), await enter()] == [
        clears,
        None,
    ], "never here before, and the same session again"
    stage.drop(stage.session)
    stage.add(changed(a_session(), metadata={"uid": "uid-new", "resource_version": "7"}))
    assert [await enter(), await enter()] == [clears, None]
    browser.cookies.delete(LAST_COOKIE, domain=HOST, path="/")  # pushed out by many others
    assert await enter() == clears
    browser.cookies.set(LAST_COOKIE, "planted", domain=HOST, path="/")
    assert await enter() == clears


async def test_leaving_forgets_no_trace_of_the_session(stage: EdgeStage) -> None:
    """Else the next one at this host would not be known for another."""
    browser = await stage.entered()
    await browser.post(address(path="/.vdi/leave"), headers={"Origin": address(path="")})
    assert LAST_COOKIE in browser.stolen(HOST)


async def test_a_stranger_learns_nothing(stage: EdgeStage) -> None:
    browser = await stage.logged_in(STRANGER)
    refused, nothing = await browser.open(address()), await browser.open(address("no-such-desktop"))
    assert (refused.status_code, nothing.status_code) == (403, 403)
    assert refused.text == nothing.text.replace("no-such-desktop", "alice-desktop")


async def test_a_ticket_serves_once(stage: EdgeStage) -> None:
    browser = await stage.logged_in(OWNER)
    link = await ticket_link(browser)
    assert (await browser.get(link)).status_code == 302
    browser.cookies.delete(DESKTOP_COOKIE, domain=HOST, path="/")
    browser.cookies.delete(GRANT_COOKIE, domain=HOST, path="/")
    again = await browser.get(link)
    assert (again.status_code, GRANT_COOKIE in again.headers.get("set-cookie", "")) == (403, False)


async def test_the_back_button_leads_who_is_in_to_the_desktop(stage: EdgeStage) -> None:
    browser = await stage.logged_in(OWNER)
    link = await ticket_link(browser)
    await browser.get(link)
    again = await browser.get(link)
    assert (again.status_code, again.headers["location"]) == (302, "/")


async def assert_refused(browser: Browser, link: str) -> None:
    """The ticket of this link lets the browser in nowhere."""
    answer = await browser.get(link)
    assert (answer.status_code, answer.headers.get("set-cookie")) == (403, None)


async def test_a_ticket_ends_after_half_a_minute(stage: EdgeStage) -> None:
    browser = await stage.logged_in(OWNER)
    link = await ticket_link(browser)
    stage.clock.forward(seconds=31)
    await assert_refused(browser, link)


async def test_a_ticket_needs_the_state_cookie(stage: EdgeStage) -> None:
    browser = await stage.logged_in(OWNER)
    link = await ticket_link(browser)
    browser.cookies.delete(STATE_COOKIE, domain=HOST, path="/")
    await assert_refused(browser, link)


async def test_a_ticket_of_a_session_that_was_replaced_is_refused(stage: EdgeStage) -> None:
    browser = await stage.logged_in(OWNER)
    link = await ticket_link(browser)
    stage.change(metadata={"uid": "uid-another"})
    await assert_refused(browser, link)


async def test_a_ticket_does_not_outlive_the_login_or_the_share(stage: EdgeStage) -> None:
    browser = await stage.logged_in(OWNER)
    link = await ticket_link(browser)
    await stage.logins.end(browser.login_id)
    await assert_refused(browser, link)

    stage.change(spec=shared_with(GUEST, "viewer"))
    guest = await stage.logged_in(GUEST)
    link = await ticket_link(guest)
    stage.change(spec={"access": ()})
    await assert_refused(guest, link)


async def test_a_ticket_is_of_no_use_in_another_browser(stage: EdgeStage) -> None:
    """Planted on a victim, who would work in the attacker's desktop, or stolen by one."""
    link = await ticket_link(await stage.logged_in(OWNER))
    victim = stage.browser()
    await victim.get(address(path="/.vdi/start"))
    await assert_refused(victim, link)


async def test_a_ticket_is_of_no_use_on_another_host(stage: EdgeStage) -> None:
    stage.add(a_session("alice-second"))
    browser = await stage.logged_in(OWNER)
    await browser.get(address("alice-second", "/.vdi/start"))
    state = browser.stolen(HOST) or browser.stolen(SETTINGS.host("alice-second"))
    link = (await ticket_link(browser)).replace(HOST, SETTINGS.host("alice-second"))
    mine = browser.stolen(HOST, STATE_COOKIE)
    answer = await browser.get(link, headers={"Cookie": mine})
    assert state and mine and answer.status_code == 403
    assert "set-cookie" not in answer.headers


async def test_head_uses_no_ticket(stage: EdgeStage) -> None:
    browser = await stage.logged_in(OWNER)
    link = await ticket_link(browser)
    assert (await browser.head(link)).status_code == 405
    assert (await browser.get(link)).status_code == 302


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example/", "https://evil.example/", "/\\evil.example", "/\t/evil.example", "evil",
        "/.vdi/enter?ticket=x", "/a/../../b", "javascript:alert(1)", "/x\r\nSet-Cookie: a=b", "/" + "x" * 3000,
    ],
)  # fmt: skip
async def test_next_leads_to_this_host_only(stage: EdgeStage, path: str) -> None:
    browser = await stage.logged_in(OWNER)
    start = await browser.get(address(path="/.vdi/start"), params={"next": path})
    assert parse_qs(urlsplit(start.headers["location"]).query)["next"] == ["/"]
    to_portal = re.sub(r"next=.*", "", start.headers["location"])
    entered = await browser.get(to_portal, params={"next": path, **_query(to_portal)})
    assert parse_qs(urlsplit(entered.headers["location"]).query)["next"] == ["/"]
    landed = await browser.get(
        entered.headers["location"].partition("&next=")[0],
        params={**_query(entered.headers["location"]), "next": path},
    )
    assert (landed.status_code, landed.headers["location"]) == (302, "/?v=1#token=edge")


def _query(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


NO_DESKTOPS = ("portal", "alice-desktop.evil.example", "a b", "", "ALICE/..", "x" * 64, "alice%00")
NO_STATES = ("", "0" * 63, "g" * 64, "0" * 64 + "\n")


@pytest.mark.parametrize(
    ("host", "state"),
    [
        *((host, "0" * 64) for host in NO_DESKTOPS),
        *(("alice-desktop", state) for state in NO_STATES),
    ],
)
async def test_the_portal_makes_no_ticket_without_desktop_and_state(
    stage: EdgeStage, host: str, state: str
) -> None:
    browser = await stage.logged_in(OWNER)
    answer = await browser.get(f"{PORTAL}/enter", params={"host": host, "state": state})
    assert (answer.status_code, "location" in answer.headers) == (
        403 if host == "portal" else 400,
        False,
    )


async def test_an_api_token_opens_no_desktop(stage: EdgeStage) -> None:
    browser = await stage.logged_in(OWNER)
    query = {"host": "alice-desktop", "state": "0" * 64}
    answer = await browser.get(
        f"{PORTAL}/enter", params=query, headers={"Authorization": "Bearer vdi_x"}
    )
    assert answer.status_code in (303, 401, 403)
    assert "ticket" not in answer.headers.get("location", "")


async def test_a_second_tab_does_not_spoil_the_way_of_the_first(stage: EdgeStage) -> None:
    browser = await stage.logged_in(OWNER)
    first = await ticket_link(browser)
    await browser.get(address(path="/.vdi/start"))
    assert (await browser.get(first)).status_code == 302


async def test_entering_twice_is_one_grant(stage: EdgeStage) -> None:
    browser = await stage.entered()
    await browser.get(await ticket_link(browser))
    assert len(await GrantStore(stage.database).open()) == 1


async def test_a_user_has_at_most_most_grants_in_a_session(stage: EdgeStage) -> None:
    """The desktop refuses a token table that is too large, and then no one is cut off and no one
    gets in.
    """
    stage.change(spec=shared_with(GUEST, "collaborator"))
    guest, _ = await stage.logged_in(GUEST), await stage.entered()
    first = ""
    for _ in range(30):
        stage.clock.forward(seconds=1)
        assert (await guest.open(address())).status_code == 200
        latest = guest.stolen(HOST)
        first = first or latest
        for name in (DESKTOP_COOKIE, GRANT_COOKIE):
            guest.cookies.delete(name, domain=HOST, path="/")
    store = GrantStore(stage.database)
    assert (len(await store.open(user=GUEST)), len(await store.open(user=OWNER))) == (
        MOST_GRANTS,
        1,
    )
    assert {
        grant.reason for grant in await store.ended_since(stage.clock.now() - timedelta(hours=1))
    } == {"displaced"}
    found = [(await stage.verify(HOST, Cookie=cookies)).status_code for cookies in (first, latest)]
    assert found == [401, 200]


async def test_entering_does_not_outrun_signing_out_everywhere(
    stage: EdgeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = await stage.logged_in(OWNER)
    link = await ticket_link(browser)
    adding, go_on = hold_calls(monkeypatch, GrantStore, "add")
    entering = asyncio.create_task(browser.get(link))
    await adding.wait()
    await SignOut(stage.logins, stage.audit, stage.edge.revoker.end).end_everything(
        OWNER, tokens=True
    )
    go_on.set()
    answer = await entering
    assert (answer.status_code, answer.headers.get("set-cookie")) == (403, None)
    assert "Your sign-in has ended" in answer.text
    assert (await stage.verify(HOST, Cookie=browser.stolen(HOST))).status_code == 401
    assert await GrantStore(stage.database).open() == []


async def test_the_cookies_are_for_this_host_and_no_script(stage: EdgeStage) -> None:
    browser = await stage.logged_in(OWNER)
    landed = await browser.get(await ticket_link(browser))
    lines = landed.headers.get_list("set-cookie")
    assert {line.partition("=")[0] for line in lines} == {DESKTOP_COOKIE, GRANT_COOKIE, LAST_COOKIE}
    for line in lines:
        assert {"path=/", "secure", "httponly", "samesite=lax"} <= set(line.lower().split("; "))
        assert "domain" not in line.lower()


async def test_leaving_ends_the_grant_and_needs_our_own_page(stage: EdgeStage) -> None:
    browser = await stage.entered()
    for origin in ("https://evil.example", address("bob-desktop", ""), PORTAL, "null"):
        assert (
            await browser.post(address(path="/.vdi/leave"), headers={"Origin": origin})
        ).status_code == 403
    assert (await browser.post(address(path="/.vdi/leave"))).status_code == 403
    before = browser.stolen(HOST)
    assert (await stage.verify(HOST, "/?v=1", Cookie=before)).status_code == 200
    answer = await browser.post(address(path="/.vdi/leave"), headers={"Origin": address(path="")})
    assert (answer.status_code, answer.headers["location"]) == (303, f"{PORTAL}/")
    assert (await stage.verify(HOST, "/?v=1", Cookie=before)).status_code == 401
    assert await GrantStore(stage.database).open() == []


async def test_jwks_shows_public_halves_only(stage: EdgeStage) -> None:
    answer = await stage.browser().get(f"{PORTAL}/.well-known/jwks.json")
    (key,) = answer.json()["keys"]
    assert set(key) == {"kty", "crv", "x", "kid", "use", "alg"}
