"""The first picture of a desktop in a real Chromium: wherever the page draws it, and nothing
else.
"""

import pytest
from playwright.sync_api import Route

from e2e.desktops import PYTHON_ON_SCREEN, run_in, start
from e2e.streaming_page import raw
from e2e.world import World
from support.waiting import wait_until
from vdi.demo.browser import HAS_PICTURE, DesktopBrowser

pytestmark = pytest.mark.timeout(60)

# Selkies' page before its video plays: a video with nothing in it, and a canvas.
PAGE = (
    '<video id="videoStream"></video><canvas id="videoCanvas" width="1280" height="720"></canvas>'
)
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
# A new picture every 0.04 s until it is enough; then the time, one more, and the screen stays as it
# is.
DRAW = """
import itertools
import os
import time
from selkies.Xlib import X
from selkies.Xlib.display import Display

display = Display(":0")
screen = display.screen()
window = screen.root.create_window(
    100, 100, 300, 300, 0, screen.root_depth, X.InputOutput, X.CopyFromParent, override_redirect=1
)
window.map()
pen = window.create_gc()
for colour in itertools.count():
    is_last = os.path.exists("/tmp/enough")
    if is_last:
        print(time.time(), flush=True)
    pen.change(foreground=colour * 0x30507 % 0x1000000)
    window.fill_rectangle(pen, 0, 0, 300, 300)
    display.sync()
    if is_last:
        break
    time.sleep(0.04)
time.sleep(30)
"""
COUNT_WHOLE = """(() => {
  window.wholePictures = 0;
  const decode = VideoDecoder.prototype.decode;
  VideoDecoder.prototype.decode = function (chunk) {
    if (chunk.type === 'key') window.wholePictures += 1;
    return decode.call(this, chunk);
  };
})()"""
# At the worst moment: Selkies has sent a whole picture, and takes no further request for one for
# 250 ms.
STREAM_BEGINS_AGAIN = """async () => {
  const before = window.wholePictures;
  while (window.wholePictures === before) {
    window.selkiesTransport.send('REQUEST_KEYFRAME');
    await new Promise((done) => setTimeout(done, 50));
  }
  const seen = window.wholePictures;
  window.selkiesTransport.onmessage({data: 'PIPELINE_RESETTING primary'});
  return seen;
}"""
_LONG = ("**/assets/index-*.css", "**/assets/selkies-core-*.js", "**/stream-watch.js")
PARTS = ("**/assets/index-*.js", *(pytest.param(part, marks=pytest.mark.long) for part in _LONG))


def test_canvas_of_one_colour_is_no_picture() -> None:
    with DesktopBrowser("about:blank", None) as browser:
        page = browser.page
        page.set_content(PAGE)
        assert not page.evaluate(HAS_PICTURE), "an empty canvas"
        page.evaluate(BACKGROUND)
        assert not page.evaluate(HAS_PICTURE), "one colour"
        page.evaluate(PROMPT)
        assert page.evaluate(HAS_PICTURE), "a line of text on it"


@pytest.mark.long
@pytest.mark.timeout(150)
def test_lagging_page_catches_up_on_a_static_screen(sessions: World) -> None:
    def gated() -> bool:
        return "Backpressure TRIGGERED" in sessions.kubectl(
            "logs", "-l", "vdi.kasm.io/session=sven", "--tail", "-1"
        )

    url = start(sessions, "sven", "small")["status"]["url"]
    with sessions.browser("sven") as browser:
        browser.open()
        browser.page.goto("about:blank")  # so that the page below is the only one
        with raw(browser, url) as page:
            page.acknowledge()
            wait_until("a picture", page.last_picture)
            with page.behind():
                run_in(sessions, "sven", f"{PYTHON_ON_SCREEN} -c '{DRAW}' > /tmp/drawn 2>&1 &")
                wait_until("Selkies sends no more", gated)
                # Soon: after 3 s Selkies tries again by itself.
                run_in(sessions, "sven", "touch /tmp/enough")
                last = float(
                    wait_until(
                        "the last change", lambda: run_in(sessions, "sven", "cat /tmp/drawn")
                    )
                )
            wait_until("a picture of the last change", lambda: page.last_picture() > last)


@pytest.mark.long
@pytest.mark.timeout(150)
def test_restarted_stream_begins_with_a_full_frame(sessions: World) -> None:
    """A slow page reads these words when it has pictures of the new stream already, and throws
    those away.
    """
    start(sessions, "lena", "small")
    with sessions.browser("lena") as browser:
        browser.page.add_init_script(COUNT_WHOLE)
        browser.open()
        browser.wait_for_picture()
        seen = int(browser.page.evaluate(STREAM_BEGINS_AGAIN))
        wait_until(
            "a whole picture",
            lambda: int(browser.page.evaluate("() => window.wholePictures")) > seen,
        )


@pytest.mark.long
@pytest.mark.timeout(150)
@pytest.mark.parametrize("part", PARTS)
def test_page_with_a_refused_asset_reloads(sessions: World, part: str) -> None:
    """As in the moment in which a desktop comes or goes: the page itself comes from it, and a part
    of it does not.
    """
    refused: list[str] = []

    def refuse_twice(route: Route) -> None:
        if len(refused) < 2:
            refused.append(route.request.url)
            route.fulfill(
                status=503, content_type="text/plain", body="The desktop is not available now."
            )
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
        # The second script is requested twice by one page: in advance, and once the first script
        # runs.
        times = 1 if "core" in part else 2
        assert len([line for line in browser.messages if "[load-again]" in line]) == times
