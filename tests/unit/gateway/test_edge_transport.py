"""A desktop that streams over WebRTC: what stands between the way in and Selkies' page, and what
that page is given.
"""

import html
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from support.builders import a_template
from support.desktop_key import MASTER
from unit.gateway.edge_stage import GUEST, HOST, OWNER, SETTINGS, EdgeStage, address, shared_with
from unit.gateway.gateway_stage import NAVIGATION, Browser
from vdi.api.session import Phase
from vdi.gateway.edge.selkies import WINDOW_SECONDS
from vdi.gateway.store.logins import GrantStore
from vdi.session.credentials import grant_token

ORIGIN = SETTINGS.url(HOST)
PAGE = address(path="/.vdi/transport")


def offer(stage: EdgeStage, transport: str = "WebRTC") -> None:
    """The template of alice's desktop."""
    stage.put(a_template("office", streaming={"transport": transport}))


@pytest.fixture
async def stage() -> AsyncIterator[EdgeStage]:
    async with EdgeStage() as stage:
        offer(stage)
        yield stage


def given(answer: httpx.Response) -> tuple[str, str]:
    """Where the page leads, and whether it may have the transport changed."""
    found = re.search(r'data-page="([^"]+)" data-may-switch="(yes|no)"', answer.text)
    assert found, answer.text
    return html.unescape(found[1]), found[2]


async def test_the_test_leads_to_selkies_page_with_the_own_token(
    stage: EdgeStage, alice: Browser
) -> None:
    answer = await alice.open(address(path="/?a=b"))
    assert answer.url.path == "/.vdi/transport"
    (grant,) = await GrantStore(stage.database).open()
    where, may_switch = given(answer)
    path, _, fragment = where.partition("#")
    assert (fragment, may_switch) == (f"token={grant_token(MASTER, grant.id)}", "yes")
    assert re.fullmatch(r"/\?a=b&v=[0-9a-f]{12}", path)
    page = await alice.open(f"{ORIGIN}{path}")
    assert page.json()["desktop"] == HOST, "the desktop's own page"
    assert answer.headers["cache-control"] == "no-store" and answer.headers["x-vdi-gateway"] == "1"


async def test_a_page_that_loads_itself_again_is_tested_again(
    stage: EdgeStage, alice: Browser
) -> None:
    where, _ = given(await alice.open(address()))
    page = f"{ORIGIN}{where.partition('#')[0]}"
    stage.clock.forward(seconds=2 * WINDOW_SECONDS)
    assert (await alice.open(page)).url.path == "/.vdi/transport"
    program = {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}
    assert (await alice.get(page, headers=program)).status_code == 200, (
        "Selkies' page asks for its own version so"
    )


async def test_the_address_of_another_grant_is_tested_again(
    stage: EdgeStage, alice: Browser
) -> None:
    where, _ = given(await alice.open(address()))
    stage.change(spec=shared_with(GUEST, "viewer"))
    bob = await stage.logged_in(GUEST)
    answer = await bob.open(f"{ORIGIN}{where.partition('#')[0]}")
    assert answer.url.path == "/.vdi/transport"
    theirs, may_switch = given(answer)
    assert may_switch == "no", "a viewer changes nothing for the others"
    assert urlsplit(theirs).fragment != urlsplit(where).fragment


async def test_the_marks_of_the_other_transport_do_not_count(
    stage: EdgeStage, alice: Browser
) -> None:
    assert (await alice.open(address(path="/?v=1"))).url.path == "/.vdi/transport"
    where, _ = given(await alice.open(address()))
    offer(stage, "WebSocket")
    answer = await alice.open(f"{ORIGIN}{where.partition('#')[0]}")
    assert (answer.url.query.decode(), answer.extensions["fragment"]) == ("v=1", "token=edge")
    assert (await alice.open(PAGE)).json()["desktop"] == HOST, "and this page sends on"


async def test_who_may_not_enter_gets_no_token(stage: EdgeStage, alice: Browser) -> None:
    stranger = stage.browser()
    answer = await stranger.get(PAGE)
    assert answer.status_code == 302 and answer.headers["location"] == "/.vdi/start?next=/"
    for headers in (
        {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Dest": "iframe"},
        {"Origin": "https://bobs-desktop.vdi.localhost:8443"},
    ):
        refused = await alice.get(PAGE, headers={**NAVIGATION, **headers})
        assert (refused.status_code, "token" in refused.text) == (403, False), headers


async def test_one_that_does_not_run_is_waited_for(stage: EdgeStage, alice: Browser) -> None:
    stage.change(status={"phase": Phase.CREATING})
    assert (await alice.open(PAGE)).url.path == "/.vdi/wait"


@pytest.mark.parametrize("has_ended", [False, True], ids=["suspended", "ended"])
async def test_the_script_learns_that_access_has_ended(
    stage: EdgeStage, alice: Browser, has_ended: bool
) -> None:
    answer = await alice.open(address(path="/?a=b"))
    (waits,) = re.findall(r'data-waits="([^"]+)"', answer.text)
    assert waits == "/.vdi/wait?next=/%3Fa%3Db"
    if has_ended:
        await stage.edge.revoker.end(user=OWNER)
    else:
        stage.change(spec={"suspended": True}, status={"phase": Phase.SUSPENDED})
    program = {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}
    for path in ("/api/status", waits):
        refused = await alice.get(address(path=path), headers=program)
        assert (refused.status_code, refused.headers["x-vdi-gateway"]) == (
            401 if has_ended else 503,
            "1",
        )


async def test_the_address_it_goes_on_to_is_of_this_host(stage: EdgeStage, alice: Browser) -> None:
    for planted in (
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "/x#token=planted",
    ):
        where, _ = given(await alice.get(f"{PAGE}?next={planted.replace('#', '%23')}"))
        assert re.fullmatch(r"/\?v=[0-9a-f]{12}#token=[\w-]{43}", where), where


async def test_without_a_turn_server_it_says_so(
    stage: EdgeStage, alice: Browser, tmp_path: Path
) -> None:
    assert "none is configured" in (await alice.open(address())).text
    secret = tmp_path / "secret"
    secret.write_text("s" * 40)
    urls = ("turn:turn.example.com:3478?transport=udp",)
    settings = replace(SETTINGS, turn_urls=urls, turn_secret_file=secret)
    async with EdgeStage(settings=settings) as with_turn:
        offer(with_turn)
        answer = await (await with_turn.logged_in(OWNER)).open(address())
        assert "UDP may be blocked" in answer.text and "none is configured" not in answer.text


async def test_no_token_in_an_address_leaves_the_desktops_host(stage: EdgeStage) -> None:
    """A browser carries the fragment of an address along every redirect that has none of its
    own.
    """
    answer = await stage.browser().get(address(path="/.vdi/start"))
    location = answer.headers["location"]
    assert location.startswith(f"{SETTINGS.portal_url}/enter?") and location.endswith("#")


async def test_desktop_that_is_being_deleted_leads_to_the_waiting_page(
    stage: EdgeStage, alice: Browser
) -> None:
    stage.change(metadata={"deletion_timestamp": "2026-11-20T12:00:00Z"})
    for page in (address(), PAGE):
        answer = await alice.open(page)
        assert answer.url.path == "/.vdi/wait"
        assert "This desktop is ending" in answer.text
