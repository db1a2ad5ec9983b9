"""CSRF, on every route that may change something: walked by the route tables, so that a new route
cannot be forgotten.

The attacker is the worst there can be: a page of another person's desktop, which is same-site with
the portal, so that the victim's cookies come along, and which may even know a token of a form (of
another login, or this very one's).
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.variants import first_of
from unit.gateway.attack_stage import (
    BOB,
    DESKTOP,
    READS,
    AttackStage,
    Way,
    form_token,
    furnished_attack_stage,
)
from unit.gateway.gateway_stage import PASSWORD, PORTAL, Browser

# The one route that changes something for whoever has its code and verifier; cookies mean nothing
# to it.
NO_COOKIE_COUNTS = {"/cli/token"}
# Answers for what is no address: 404, 401 or 503, whoever asks.
NOTHING_THERE = {"/api/{rest:path}", "/{path:path}"}
STREAMS = {"/events", "/api/v1/events", "/.vdi/events", "/.vdi/presence"}
OWN = {"Origin": PORTAL, "Sec-Fetch-Site": "same-origin"}
WORDS = (
    "did not come from a page of",
    "older than your last login or logout",
    "open for too long",
    "/problems/csrf",
)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[AttackStage]:
    async with furnished_attack_stage(tmp_path) as stage:
        yield stage


async def send(
    browser: Browser, way: Way, token: str, headers: dict[str, str], base: str = PORTAL
) -> tuple[int, bool, str]:
    """Status, whether it was refused as CSRF, and what it was, for a message."""
    path = way.filled()
    if path.startswith("/api/"):
        answer = await browser.request(
            way.method, path, json={}, headers={"X-CSRF-Token": token, **headers}
        )
    else:
        fields = {
            "csrf": token,
            "user": "bob@example.com",
            "password": PASSWORD,
            "label": "x",
            "days": "30",
        }
        answer = await browser.request(way.method, base + path, data=fields, headers=headers)
    refused = answer.status_code == 403 and any(word in answer.text for word in WORDS)
    return (
        answer.status_code,
        refused,
        f"{way.method} {path} {headers}: {answer.status_code} {answer.text[:200]}",
    )


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        (OWN, "none"),
        (OWN, "another login's"),
        ({}, "right"),
        ({"Sec-Fetch-Site": "none"}, "right"),
        *first_of(
            [
                ({"Origin": DESKTOP}, "right"),
                ({"Origin": DESKTOP, "Sec-Fetch-Site": "same-site"}, "right"),
                ({"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, "right"),
                ({"Origin": "null"}, "right"),
                ({"Origin": DESKTOP, "Content-Type": "text/plain"}, "none"),
                (
                    {"Origin": DESKTOP, "Authorization": "Basic YTpi"},
                    "none",
                ),  # what a browser may add by itself
            ]
        ),
    ],
    ids=str,
)
async def test_no_route_of_the_portal_is_changed_by_another_page(
    stage: AttackStage, headers: dict[str, str], token: str
) -> None:
    victim, other = await stage.logged_in(), await stage.logged_in(BOB)
    tokens = {"none": "", "right": form_token(victim), "another login's": form_token(other)}
    before = await stage.footprint()
    tried = 0
    for way in stage.ways():
        if way.method in READS or way.path in NO_COOKIE_COUNTS | NOTHING_THERE:
            continue
        status, refused, what = await send(victim, way, tokens[token], headers)
        assert refused or ("Authorization" in headers and status == 401), what
        tried += 1
    assert tried >= 25, "all that change something: portal, login and API"
    assert await stage.footprint() == before
    assert (await victim.get("/api/v1/me")).status_code == 200, "the victim's login goes on"


async def test_each_of_them_takes_its_own_page(stage: AttackStage) -> None:
    """What is refused above is refused for where it comes from: the same request of our own page is
    not.
    """
    for way in stage.ways():
        if way.method in READS or way.path in NO_COOKIE_COUNTS | NOTHING_THERE:
            continue
        browser = await stage.logged_in()
        _, refused, what = await send(browser, way, form_token(browser), OWN)
        assert not refused, what


async def test_reading_changes_nothing(stage: AttackStage) -> None:
    """Pictures and links of other sites bring the victim's cookies along as well."""
    victim = await stage.logged_in()
    before = await stage.footprint()
    headers = {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "no-cors",
        "Sec-Fetch-Dest": "image",
    }
    for way in stage.ways():
        if way.method in READS and way.path not in STREAMS:
            answer = await victim.request(
                way.method, way.filled(name="alice-desktop", action="end"), headers=headers
            )
            assert answer.status_code < 500, way
    assert await stage.footprint() == before


async def test_what_is_no_route_changes_nothing_either(stage: AttackStage) -> None:
    victim = await stage.logged_in()
    before = await stage.footprint()
    for way in stage.ways():
        if way.method not in READS and way.path in NO_COOKIE_COUNTS | NOTHING_THERE:
            answer = await victim.request(way.method, way.filled(), headers={"Origin": DESKTOP})
            assert answer.status_code in (400, 403, 404), way
    assert await stage.footprint() == before


@pytest.mark.parametrize(
    "origin",
    first_of([PORTAL, "https://bob-desktop.vdi.localhost", "https://evil.example", "null", ""]),
)
async def test_no_route_of_a_desktop_s_host_is_changed_by_another_page(
    stage: AttackStage, origin: str
) -> None:
    victim = await stage.logged_in()
    entered = await victim.get(f"{DESKTOP}/.vdi/start")
    ticket = await victim.get(entered.headers["location"])
    assert (await victim.get(ticket.headers["location"])).headers["location"] == "/?v=1#token=edge"
    before = await stage.footprint()
    assert before["grants"] == 1
    headers = {"Origin": origin, "Sec-Fetch-Site": "same-site"} if origin else {}
    tried = 0
    for way in stage.ways("desktop_routes"):
        if way.method in READS:
            continue
        status, refused, what = await send(victim, way, form_token(victim), headers, DESKTOP)
        if way.path in NOTHING_THERE:
            assert status in (401, 503), what
        else:
            assert refused, what
            tried += 1
    assert tried >= 2
    assert await stage.footprint() == before
    ours = {"Origin": DESKTOP, "Sec-Fetch-Site": "same-origin"}
    assert (await victim.post(f"{DESKTOP}/.vdi/leave", headers=ours)).status_code == 303, (
        "its own page may"
    )
    assert (await stage.footprint())["grants ended"] == 1
