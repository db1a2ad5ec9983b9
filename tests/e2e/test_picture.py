"""What counts as a desktop's first picture, in a real Chromium: wherever the page draws it, and nothing else."""

import pytest
from playwright.sync_api import Route

from e2e.desktops import start
from e2e.world import World
from vdi.demo.browser import HAS_PICTURE, DesktopBrowser

pytestmark = pytest.mark.timeout(60)

# Selkies' page before its video plays: a video with nothing in it, and a canvas.
PAGE = '<video id="videoStream"></video><canvas id="videoCanvas" width="1280" height="720"></canvas>'
BACKGROUND = """() => {
  window.pen = document.querySelector('#videoCanvas').getContext('2d');
  pen.fillStyle = '#1e2430';
  pen.fillRect(0, 0, 1280, 720);
}"""
PROMPT = """() => {
  pen.font = '15px monospace';
  ['#9fb88a', '#8ab8cf', '#ffffff'].forEach((colour, i) => {
    pen.fillStyle = colour;
    pen.fillText('user', 2 + 40 * i, 14);
  });
}"""


def test_a_picture_counts_wherever_it_is_drawn_and_a_screen_of_one_colour_does_not() -> None:
    with DesktopBrowser("about:blank", None) as browser:
        page = browser.page
        page.set_content(PAGE)
        assert not page.evaluate(HAS_PICTURE), "an empty canvas"
        page.evaluate(BACKGROUND)
        assert not page.evaluate(HAS_PICTURE), "one colour"
        page.evaluate(PROMPT)
        assert page.evaluate(HAS_PICTURE), "a line of text on it"


_LONG = ("**/assets/index-*.css", "**/stream-watch.js")
PARTS = ("**/assets/index-*.js", *(pytest.param(part, marks=pytest.mark.long) for part in _LONG))


@pytest.mark.long
@pytest.mark.timeout(150)
@pytest.mark.parametrize("part", PARTS)
def test_a_page_whose_part_was_refused_loads_itself_again(sessions: World, part: str) -> None:
    """As in the moment in which a desktop comes or goes: the page itself comes from it, and a part of it does not."""
    refused: list[str] = []

    def refuse_twice(route: Route) -> None:
        if len(refused) < 2:
            refused.append(route.request.url)
            route.fulfill(status=503, content_type="text/plain", body="The desktop is not available now.")
        else:
            route.fallback()

    start(sessions, "paula", "small")
    with sessions.browser("paula") as browser:
        browser.page.route(part, refuse_twice)
        browser.open()
        browser.page.wait_for_function(
            "!sessionStorage.getItem('vdi-load-again') && document.readyState === 'complete'"
        )
        browser.wait_for_picture()
        assert len(refused) == 2
        assert len([line for line in browser.messages if "[load-again]" in line]) == 2
