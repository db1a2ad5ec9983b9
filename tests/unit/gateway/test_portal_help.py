"""Help in the portal: the pages for users, as they are in docs/use."""

import re
from pathlib import Path

from unit.gateway.portal_stage import PortalStage

PAGES = Path(__file__).parents[3] / "docs" / "use"


async def test_every_page_for_users_is_served_with_links_that_work() -> None:
    browser = PortalStage().browser()
    for name in ("", *(f"/{path.stem}" for path in PAGES.glob("*.md"))):
        page = await browser.get(f"/help{name}")
        assert page.status_code == 200, name
        assert "<img" not in page.text and ".md" not in page.text, name
        for link, place in set(re.findall(r'href="(/help[^"#]*)#?([^"]*)"', page.text)):
            led_to = await browser.get(link)
            assert led_to.status_code == 200, (name, link)
            assert not place or f'id="{place}"' in led_to.text, (name, link, place)
    assert "Where files are kept" in await browser.text("/help/files")
    assert (await browser.get("/help/not-there")).status_code == 404


async def test_help_is_for_people_who_are_logged_in() -> None:
    answer = await PortalStage().browser(None).get("/help/files")
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=/help/files")
