"""Every page, in light and dark, after the rules of axe-core; and how much a first visit loads."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Page

from portal.portal_browser import Visitor, visitor
from portal.portal_pages import OF_ADMIN, OF_ALICE, serve_others
from portal.portal_server import Server
from support.npm import install_packages
from unit.gateway.portal_stage import ADMIN, ALICE
from vdi.gateway.rights import User

pytestmark = pytest.mark.timeout(300)

GRAVE = ("serious", "critical")
# Less than serious for axe-core; every page of ours has these. (Selkies' page, under our bar, has
# no heading.)
LANDMARKS = ("page-has-heading-one", "landmark-one-main")
LARGEST_BYTES = 150_000
_PINNED = Path(__file__).parent / "axe"
_RUN = """() => axe.run(document, {resultTypes: ['violations']}).then((found) => found.violations
  .map(({id, impact, help, nodes}) => ({id, impact, help, where: nodes.map(({html}) => html.slice(0, 160))})))"""


@cache
def axe() -> str:
    return (install_packages(_PINNED, "axe-core") / "axe-core" / "axe.min.js").read_text()


def grave_violations(page: Page, *, also: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The violations on the page that axe-core calls serious or critical, and those of the rules
    `also`.
    """
    page.evaluate(axe())
    found: list[dict[str, Any]] = page.evaluate(_RUN)
    return [
        violation for violation in found if violation["impact"] in GRAVE or violation["id"] in also
    ]


def paths_of(which: str, guest: Visitor) -> list[str]:
    if which == "others":
        return serve_others(guest.page, guest.server)
    return [*(OF_ADMIN if which == "admin" else OF_ALICE)]


@pytest.mark.parametrize(
    ("which", "person", "scheme", "width"),
    [
        ("alice", ALICE, "light", 390),
        ("admin", ADMIN, "light", 1280),
        ("others", ALICE, "light", 390),
        pytest.param("admin", ADMIN, "dark", 390, marks=pytest.mark.ci),
        pytest.param("alice", ALICE, "dark", 1280, marks=pytest.mark.long),
        pytest.param("others", ALICE, "dark", 1280, marks=pytest.mark.long),
    ],
)
def test_no_page_has_a_serious_fault_or_weighs_150_kb(
    browser: Browser,
    server: Server,
    which: str,
    person: User,
    scheme: Literal["light", "dark"],
    width: int,
) -> None:
    with visitor(browser, server, person, scheme=scheme, size=(width, 800)) as guest:
        session = guest.context.new_cdp_session(guest.page)
        session.send("Network.enable")
        session.send("Network.setCacheDisabled", {"cacheDisabled": True})
        loaded: list[int] = []
        session.on(
            "Network.loadingFinished", lambda event: loaded.append(int(event["encodedDataLength"]))
        )
        for path in paths_of(which, guest):
            loaded.clear()
            guest.go(path)
            assert 0 < sum(loaded) < LARGEST_BYTES, path
            assert grave_violations(guest.page, also=LANDMARKS) == [], path


def test_axe_finds_a_planted_fault(browser: Browser, server: Server) -> None:
    with visitor(browser, server) as guest:
        guest.go("/catalogue")
        guest.page.evaluate("document.querySelector('label[for=q]').remove()")
        guest.page.evaluate("document.querySelector('#q').placeholder = ''")
        assert [violation["id"] for violation in grave_violations(guest.page)] == ["label"]
