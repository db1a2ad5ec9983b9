"""Responses in caches: none that is for one person may be kept, and none depends on a header that
no cache looks at.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from unit.gateway.attack_stage import DESKTOP, AttackStage, furnished_attack_stage
from unit.gateway.gateway_stage import NAVIGATION, PORTAL

# What no cache takes into account, and what servers have put into their pages and redirects.
POISON = {
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Scheme": "http",
    "X-Forwarded-Proto": "http",
    "X-Forwarded-Port": "1",
    "X-Forwarded-Prefix": "/evil",
    "X-Original-URL": "/evil",
    "X-Rewrite-URL": "/evil",
    "X-Host": "evil.example",
    "X-HTTP-Method-Override": "POST",
    "Forwarded": "host=evil.example;proto=http",
    "Origin": "https://evil.example",
    "Referer": "https://evil.example/",
    "User-Agent": "evil.example",
    "Accept-Language": "evil",
    "Range": "bytes=0-0",
}


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[AttackStage]:
    async with furnished_attack_stage(tmp_path) as stage:
        yield stage


def addresses(stage: AttackStage) -> list[str]:
    """Every page there is, streams of events apart: those end only with the browser."""
    found = [
        host + way.filled(name="alice-desktop", user="alice@example.com", template="desktop")
        for table, host in (("portal_routes", PORTAL), ("desktop_routes", DESKTOP))
        for way in stage.ways(table)
        if way.method == "GET" and "events" not in way.path and "live" not in way.path
    ]
    static = [part for part in found if "/static/" in part]
    assert len(found) > 30
    assert static
    return found


async def public(stage: AttackStage) -> list[str]:
    """Files of ours, whose addresses are in the login page."""
    async with stage.browser() as browser:
        page = await browser.get("/login", headers=NAVIGATION)
    return [
        PORTAL + part.split('"')[0]
        for part in page.text.split('href="')
        if part.startswith("/static/")
    ]


def may_be_kept(answer: httpx.Response) -> bool:
    return "no-store" not in answer.headers.get("cache-control", "")


async def test_nothing_that_is_for_one_person_may_be_kept(stage: AttackStage) -> None:
    """What may is the same bytes for whoever asks, and sets no cookie."""
    async with await stage.logged_in() as alice, stage.browser() as stranger:
        kept = 0
        for url in [*addresses(stage), *await public(stage)]:
            hers = await alice.get(url, headers=NAVIGATION)
            if not may_be_kept(hers):
                continue
            kept += 1
            theirs = await stranger.get(url, headers=NAVIGATION)
            assert (hers.status_code, hers.content) == (theirs.status_code, theirs.content), url
            assert "set-cookie" not in {*hers.headers, *theirs.headers}, url
            assert hers.status_code == 200, (
                f"{url}: a refusal or a redirect that is kept is one for all"
            )
        assert kept >= 3, "files of ours, and the keys"


@pytest.mark.long
async def test_no_header_that_a_cache_ignores_changes_what_it_keeps(stage: AttackStage) -> None:
    async with await stage.logged_in() as alice:
        for url in [*addresses(stage), *await public(stage)]:
            clean = await alice.get(url, headers=NAVIGATION)
            poisoned = await alice.get(url, headers={**NAVIGATION, **POISON})
            assert "evil" not in poisoned.headers.get("location", ""), url
            assert "evil.example" not in poisoned.text or "/account" in url, url
            if may_be_kept(clean) or may_be_kept(poisoned):
                assert (clean.status_code, clean.content) == (
                    poisoned.status_code,
                    poisoned.content,
                ), url


async def test_what_the_edge_says_itself_is_never_kept(stage: AttackStage) -> None:
    """A redirect for one role would otherwise be the next one's, and an old refusal would outlast
    its reason.
    """
    for uri in ("/", "/x", "/api/files", "/?v=1"):
        for more in (NAVIGATION, {}, {"Origin": "https://evil.example"}):
            answer = await stage.verify(uri, **more)
            assert answer.status_code in (302, 401, 403)
            assert answer.headers["cache-control"] == "no-store"
