"""The bar in a real Chromium: over a stand-in for Selkies' page with our image's script, served by
the gateway.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from playwright.sync_api import Browser, Locator, Page, Response, Route, expect

from portal.portal_browser import Visitor, visitor
from portal.portal_server import Server
from portal.test_portal_accessibility import grave_violations
from unit.gateway.edge_stage import changed, publish, shared_with
from unit.gateway.portal_stage import ADMIN, ALICE
from vdi.api.template import Agents
from vdi.gateway.rights import Actor, User

pytestmark = pytest.mark.timeout(180)

# Each width and each scheme once; under CI each with each.
in_each_look = pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (1280, "light"),
        (390, "dark"),
        *(pytest.param(*look, marks=pytest.mark.ci) for look in ((1280, "dark"), (390, "light"))),
    ],
)

LARGEST_BYTES = 30_000
IMAGE = Path(__file__).parents[2] / "images" / "desktop"
WATCH, LOAD_AGAIN = IMAGE / "stream-watch.js", IMAGE / "load-again.js"
# As much of Selkies' page as the bar steers. `heard`: messages that its core would have got.
SELKIES = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Selkies</title>
<meta name="viewport" content="width=device-width,initial-scale=1"><style>.hidden { display: none; }</style>
<script src="stream-watch.js"></script></head>
<body style="margin:0;background:#2d5a4a"><main id="app"><div id="status-display">Connecting...</div>
<div class="sidebar" id="sidebar"><button>Video</button></div>
<div class="toggle-handle">Selkies' menu</div><button class="virtual-keyboard-button">Keys</button></main><script>
window.heard = []; window.keys = [];
window.webrtcInput = {resetKeyboard: () => heard.push('resetKeyboard')};
addEventListener('message', ({data}) => heard.push(data));
addEventListener('message', ({data}) => {
  if (data?.type !== 'toggleDashboard') return;
  const isOpen = document.getElementById('sidebar').classList.toggle('is-open');
  postMessage({type: 'sidebarVisibilityChanged', isOpen}, location.origin);
});
addEventListener('requestFileUpload', () => heard.push('upload'));
addEventListener('keydown', (event) => { if (!event.target.closest?.('.allow-native-input')) keys.push(event.key); });
window.selkiesTransport = Object.assign(new EventTarget(), {readyState: 1, send: () => {}, close: () => {}});
window.picture = () => {
  document.getElementById('status-display').className = 'hidden';
  selkiesTransport.dispatchEvent(new Event('message'));
};
</script></body></html>"""
SENT = "type => heard.filter((one) => one === type || one?.type === type)"


@contextmanager
def desktop(
    browser: Browser,
    server: Server,
    person: User = ALICE,
    *,
    name: str = "alice-ubuntu",
    **options: Any,
) -> Iterator[Visitor]:
    """Somebody in a desktop, with its picture and the bar."""
    host = server.stage.settings.url(server.stage.settings.host(name))

    def serve(route: Route) -> None:
        if route.request.url.endswith("/stream-watch.js"):
            route.fulfill(path=WATCH, content_type="text/javascript")
        else:
            route.fulfill(body=SELKIES, content_type="text/html")

    def route_session() -> None:
        session = server.stage.world.session(name)
        assert session is not None
        publish(server.stage.world, changed(session, status={"url": host}))

    server.run(server.stage.edge.ring.refresh())
    server.run(server.stage.edge.revoker.poll())
    server.do(route_session)
    with visitor(browser, server, person, **options) as guest:
        guest.page.route(
            lambda url: url.startswith(f"{host}/") and "/.vdi/" not in url and "/api/" not in url,
            serve,
        )
        guest.page.goto(f"{host}/.vdi/start")
        guest.page.goto(f"{host}/?v=1")  # redirects pass a route of Playwright by
        handle(guest.page).wait_for()
        guest.page.evaluate("picture()")
        expect(guest.page.locator("#vdi-cover")).to_have_count(0)
        yield guest


@pytest.fixture
def inside(browser: Browser, server: Server) -> Iterator[Visitor]:
    """Alice in her desktop."""
    with desktop(browser, server) as guest:
        yield guest


def handle(page: Page) -> Locator:
    return page.locator("#vdi-bar .handle")


def bar(page: Page) -> Locator:
    return page.get_by_role("toolbar")


def opened(page: Page, name: str) -> Locator:
    """A panel of the bar, opened by a click."""
    if bar(page).count() == 0:
        handle(page).click()
    bar(page).get_by_role("button", name=name, exact=True).click()
    return page.get_by_role("region", name=name)


@in_each_look
def test_bar_is_accessible_and_fits(
    browser: Browser, server: Server, width: int, scheme: Literal["light", "dark"]
) -> None:
    with desktop(browser, server, size=(width, 700), scheme=scheme) as guest:
        page = guest.page
        assert grave_violations(page) == []
        for name in ("Files", "Clipboard", "Share", "Suspend"):
            opened(page, name)
            assert grave_violations(page) == [], name
            box = bar(page).bounding_box()
            assert box and box["x"] >= 0 and box["x"] + box["width"] <= width
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_bar_is_used_by_keyboard_alone(inside: Visitor) -> None:
    page = inside.page
    page.keyboard.press("Control+Shift+M")
    expect(bar(page)).to_have_accessible_name("Desktop alice-ubuntu")
    expect(bar(page).get_by_role("button", name="Extend")).to_be_focused()
    page.keyboard.press("Tab")
    expect(handle(page)).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowRight")
    expect(bar(page).get_by_role("button", name="Files")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="Files")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("region", name="Files")).to_have_count(0)
    expect(bar(page)).to_be_visible()
    page.keyboard.press("Escape")
    expect(bar(page)).to_have_count(0)
    page.keyboard.press("a")
    assert page.evaluate("keys").count("a") == 1, "the desktop has the keyboard again"
    assert "Enter" not in page.evaluate("keys"), "the bar's keys stay in the bar"


def test_arrow_keys_move_in_the_bar_and_escape_closes_it(inside: Visitor) -> None:
    page = inside.page
    page.keyboard.press("Control+Shift+M")
    buttons = bar(page).get_by_role("button")
    for key, focused in (
        ("ArrowRight", buttons.nth(1)),
        ("ArrowLeft", buttons.first),
        ("End", bar(page).get_by_role("link", name="Portal")),
        ("ArrowRight", buttons.first),
    ):
        page.keyboard.press(key)
        expect(focused).to_be_focused()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Escape")
    expect(bar(page)).to_have_count(0)
    assert "Escape" not in page.evaluate("keys")


def test_handle_is_dragged_aside_and_stays_there(inside: Visitor) -> None:
    page = inside.page

    def middle() -> float:
        box = handle(page).bounding_box()
        assert box
        return box["x"] + box["width"] / 2

    before = middle()
    page.mouse.move(before, 8)
    page.mouse.down()
    page.mouse.move(before - 200, 40, steps=4)
    page.mouse.up()
    assert middle() == pytest.approx(before - 200, abs=2)
    expect(bar(page)).to_have_count(0)
    page.reload()
    handle(page).wait_for()
    assert middle() == pytest.approx(before - 200, abs=2)
    handle(page).click()
    expect(bar(page)).to_be_visible()


def test_handle_stays_in_the_window(server: Server, inside: Visitor) -> None:
    page = inside.page

    def edges() -> tuple[float, float]:
        box = handle(page).bounding_box()
        assert box
        return box["x"], box["x"] + box["width"]

    def drag(to: float, end: str) -> None:
        page.mouse.move(sum(edges()) / 2, 8)
        page.mouse.down()
        page.mouse.move(to, 8, steps=4)
        handle(page).dispatch_event(end, {"pointerId": 1, "clientX": to})
        page.mouse.up()

    drag(1279, "pointerup")
    assert edges()[1] == pytest.approx(1280, abs=1)
    page.set_viewport_size({"width": 400, "height": 700})
    assert edges()[1] == pytest.approx(400, abs=1)
    kept = page.evaluate("localStorage['vdi-bar-place']")
    drag(0, "pointercancel")
    assert edges()[0] == pytest.approx(0, abs=1)
    assert page.evaluate("localStorage['vdi-bar-place']") == kept


def test_handle_has_at_most_30_characters(inside: Visitor) -> None:
    page = inside.page
    state = page.evaluate("fetch('/.vdi/bar').then((answer) => answer.json())") | {
        "recorded": True,
        "driver": {"state": "Parked", "line": "The agent asks"},
        "watching": ["bob (view only)", "carol (view only)"],
    }
    page.route(
        "**/.vdi/bar", lambda route: route.fulfill(json=state, headers={"X-VDI-Gateway": "1"})
    )
    handle(page).click()
    expect(handle(page)).to_have_text("Menu · ● Rec · Agent asks +1")
    assert len(handle(page).inner_text()) <= 30
    expect(bar(page)).to_contain_text("Watching: bob (view only), carol (view only)")


def test_message_stays_until_it_is_closed(server: Server, inside: Visitor) -> None:
    page = inside.page
    actions = server.stage.services.actions
    server.run(actions.show_message(ADMIN, "alice-ubuntu", "Please save at 18:00 UTC."))
    handle(page).click()
    message = page.get_by_role("status").filter(has_text="Please save at ")
    expect(message).not_to_contain_text("UTC")
    message.get_by_role("button", name="Close").click()
    expect(message).to_have_count(0)
    page.reload()
    handle(page).click()
    expect(bar(page)).to_be_visible()
    expect(message).to_have_count(0)


def test_bar_steers_selkies(inside: Visitor) -> None:
    page = inside.page
    for selkies_own in (".toggle-handle", ".virtual-keyboard-button"):
        expect(page.locator(selkies_own)).to_be_hidden()
    page.evaluate(
        "postMessage({type: 'clipboardContentUpdate', text: 'copied there'}, location.origin)"
    )
    clipboard = opened(page, "Clipboard").get_by_role("textbox", name="Clipboard of the desktop")
    expect(clipboard).to_have_value("copied there")
    clipboard.fill("from here")
    page.get_by_role("button", name="Send to the desktop").click()
    opened(page, "Files").get_by_role("button", name="Upload").click()
    opened(page, "Sound").get_by_role("button", name="Sound: on").click()
    page.get_by_role("button", name="Sound: off").wait_for()
    # A message arrives after the click that sends it has changed the button.
    page.wait_for_function("heard.some((one) => one?.type === 'pipelineControl')")
    assert page.evaluate(SENT, "clipboardUpdateFromUI")[0]["text"] == "from here"
    assert page.evaluate(SENT, "pipelineControl") == [
        {"type": "pipelineControl", "pipeline": "audio", "enabled": False}
    ]
    assert page.evaluate(SENT, "upload") == ["upload"]
    # Selkies' own shortcut.
    page.evaluate("postMessage({type: 'toggleDashboard'}, location.origin)")
    expect(bar(page)).to_have_count(0)
    handle(page).click()
    bar(page).get_by_role("button", name="Advanced").click()
    page.wait_for_function("heard.some((one) => one?.type === 'toggleDashboard')")
    assert page.evaluate(SENT, "toggleDashboard") == [{"type": "toggleDashboard", "advanced": True}]


@pytest.mark.parametrize("way", ["Escape", "click"])
def test_advanced_settings_close_and_return_the_focus(inside: Visitor, way: str) -> None:
    page = inside.page
    setting = page.get_by_role("button", name="Video")
    expect(setting).to_have_count(0)
    handle(page).click()
    bar(page).get_by_role("button", name="Advanced").click()
    expect(setting).to_be_visible()
    close = page.get_by_role("button", name="Close the advanced settings")
    expect(close).to_be_focused()
    if way == "click":
        close.click()
    else:
        setting.focus()
        page.keyboard.press(way)
    expect(setting).to_have_count(0)
    expect(close).to_have_count(0)
    expect(handle(page)).to_be_focused()


def test_refused_clipboard_is_reported_until_it_is_granted(inside: Visitor) -> None:
    page = inside.page
    page.evaluate("addEventListener('focus', () => heard.push('focus'))")
    warning = page.get_by_role("status").filter(has_text="did not let this page read the clipboard")
    expect(warning).to_have_count(0)
    page.keyboard.press("Control+v")
    expect(warning).to_be_visible()
    inside.context.grant_permissions(["clipboard-read"], origin=page.url.partition("/?")[0])
    expect(warning).to_have_count(0)
    assert "focus" in page.evaluate("heard"), "Selkies reads the clipboard when it hears this"
    page.keyboard.press("Control+v")
    expect(warning).to_have_count(0)


def test_phone_opens_the_on_screen_keyboard(browser: Browser, server: Server) -> None:
    with desktop(browser, server, size=(390, 700), has_touch=True) as guest:
        page = guest.page
        handle(page).tap()
        bar(page).get_by_role("button", name="Keyboard").tap()
        page.get_by_role("button", name="On-screen keyboard").tap()
        page.wait_for_function("heard.some((one) => one?.type === 'showVirtualKeyboard')")
        expect(bar(page)).to_have_count(0)


def test_owner_extends_and_suspends_from_the_bar(server: Server, inside: Visitor) -> None:
    def spec() -> Any:
        session = server.stage.world.session("alice-ubuntu")
        assert session is not None
        return session.spec

    page, before = inside.page, spec().timeout
    opened(page, "Extend").get_by_role("button", name="1 hour more").click()
    expect(page.get_by_role("region", name="Extend")).to_have_count(0)
    assert server.do(spec).timeout != before
    opened(page, "Suspend").get_by_role("button", name="Suspend now").click()
    page.wait_for_url("**/.vdi/wait")
    assert server.do(spec).suspended is True


def test_guest_reads_whose_desktop_and_until_when(browser: Browser, server: Server) -> None:
    with desktop(browser, server, name="bob-review") as guest:
        expect(handle(guest.page)).to_have_text("Menu · View only")
        handle(guest.page).click()
        expect(bar(guest.page)).to_contain_text(
            "You are watching bob@example.com's desktop, view only, until "
        )
        offered = bar(guest.page).get_by_role("button").all_inner_texts()
        assert offered == ["Screen", "Sound", "Control"]
        assert "Microphone" not in opened(guest.page, "Sound").inner_text()
        opened(guest.page, "Control").get_by_role("button", name="Ask for control").click()
        expect(guest.page.get_by_role("region", name="Control")).to_have_count(0)
    session = server.stage.world.session("bob-review")
    assert session and session.spec.access_request
    assert session.spec.access_request.role == "collaborator"


def test_share_panel_has_a_guest_who_came_since(server: Server, inside: Visitor) -> None:
    def share(**spec: Any) -> None:
        session = server.stage.world.session("alice-ubuntu")
        assert session is not None
        publish(server.stage.world, changed(session, spec=spec))

    with inside.page.expect_response("**/.vdi/bar"):
        handle(inside.page).click()
    # The bar asks because the gateway tells it of the change: alone it asks every 30 s.
    with inside.page.expect_response("**/.vdi/bar", timeout=5_000):
        server.do(lambda: share(**shared_with("dave@example.com", "viewer")))
    panel = opened(inside.page, "Share")
    expect(panel.get_by_role("button", name="End access of dave@example.com")).to_be_visible()
    with inside.context.expect_page():
        panel.get_by_role("link", name="Share, or end a share").click()
    expect(panel).to_have_count(0)
    server.do(lambda: share(access=[]))


def test_lost_stream_offers_restart_and_portal(server: Server, inside: Visitor) -> None:
    alert = inside.page.get_by_role("alert")
    inside.page.evaluate("vdiUnheard = 9")
    alert.get_by_role("button", name="Restart").click()
    inside.page.get_by_role("button", name="Restart now").wait_for()
    assert alert.get_by_role("link", name="Portal").get_attribute("href") == f"{server.url}/"
    inside.page.evaluate("picture()")
    expect(alert).to_have_count(0)


def test_offline_page_says_that_the_desktop_goes_on(inside: Visitor) -> None:
    alert = inside.page.get_by_role("alert")
    inside.context.set_offline(True)
    inside.page.evaluate("vdiUnheard = 9; document.getElementById('status-display').className = ''")
    expect(alert).to_contain_text("You are offline")
    expect(alert).to_contain_text("Your desktop goes on.")
    assert alert.get_by_role("button").count() == 0
    expect(inside.page.locator("#status-display")).to_be_hidden()
    inside.context.set_offline(False)
    expect(alert).to_contain_text("The desktop does not respond.", timeout=15_000)
    expect(alert.get_by_role("button", name="Restart")).to_be_visible()


def test_page_stays_while_the_gateway_is_away(inside: Visitor) -> None:
    page, alert = inside.page, inside.page.get_by_role("alert")
    page.route("**/.vdi/bar", lambda route: route.fulfill(status=404, body="404 page not found"))
    page.evaluate("vdiUnheard = 9")
    expect(alert).to_contain_text("Your desktop goes on.", timeout=15_000)
    assert "/.vdi/wait" not in page.url
    page.unroute("**/.vdi/bar")
    expect(alert).to_contain_text("The desktop does not respond.", timeout=15_000)


def test_page_without_a_part_is_loaded_again_once_there_is_an_answer(
    browser: Browser, server: Server
) -> None:
    page_of_image = f"<head><script>{LOAD_AGAIN.read_text()}</script></head><body></body>"
    part = "<script src='/part.js'></script>"
    with visitor(browser, server) as guest:
        direct = "https://direct.test/"
        answers = iter(
            [(200, f"{page_of_image}{part}"), (500, ""), (200, ""), (200, "<h1>Back</h1>")]
        )

        def answer(route: Route) -> None:
            status, body = next(answers) if route.request.url == direct else (503, "")
            route.fulfill(status=status, body=body, content_type="text/html")

        guest.page.route(f"{direct}**", answer)
        guest.page.goto(direct)
        expect(guest.page.get_by_text("This page tries again by itself.")).to_be_visible()
        expect(guest.page.get_by_role("heading", name="Back")).to_be_visible(timeout=15_000)


def test_page_that_hears_words_but_has_no_picture_requests_one(inside: Visitor) -> None:
    inside.page.evaluate("selkiesTransport.send = text => heard.push(text)")
    inside.page.evaluate("document.getElementById('status-display').className = ''")
    inside.page.wait_for_function("heard.includes('START_VIDEO')")


def test_bar_loads_at_most_30_kb(inside: Visitor) -> None:
    of_bar: list[Response] = []

    def keep(
        answer: Response,
    ) -> None:  # its body is read later: waiting for it here could outlast the test's own wait
        if answer.url.rpartition("/.vdi/")[2].startswith(("bar", "static/bar")):
            of_bar.append(answer)

    inside.page.on("response", keep)
    inside.page.reload()
    handle(inside.page).wait_for()
    assert len(of_bar) == 2
    assert sum(len(answer.body()) for answer in of_bar) <= LARGEST_BYTES


def test_page_without_a_gateway_has_no_bar(browser: Browser, server: Server) -> None:
    with visitor(browser, server) as guest:
        direct = "https://direct.test/"
        guest.page.route(f"{direct}**", lambda route: (
            route.fulfill(body=SELKIES, content_type="text/html") if route.request.url == direct
            else route.fulfill(path=WATCH, content_type="text/javascript") if "stream-watch" in route.request.url
            else route.fulfill(status=404)
        ))  # fmt: skip
        with guest.page.expect_response("**/.vdi/bar"):
            guest.page.goto(direct)
        guest.page.evaluate("picture()")
        expect(guest.page.locator("#vdi-cover")).to_have_count(0)
        assert guest.page.locator("#vdi-bar").count() == 0
        expect(guest.page.locator(".toggle-handle")).to_be_visible()


@pytest.fixture
def agent_drives(server: Server) -> Iterator[Actor]:
    """A program with the token `nightly` has just acted in alice-ubuntu."""
    world, by = server.stage.world, Actor(ALICE.email, "nightly")
    session, template = world.session("alice-ubuntu"), world.template("ubuntu-desktop")
    assert session and template
    spec = msgspec.structs.replace(template.spec, agents=Agents(enabled=True))
    server.put(msgspec.structs.replace(template, spec=spec))
    server.run(server.stage.services.computer._drive(by, session))
    yield by
    server.run(server.stage.shared.pop(f"taken/{session.metadata.uid}"))
    server.put(template)


@in_each_look
def test_person_takes_over_from_an_agent_and_gives_back(
    browser: Browser,
    server: Server,
    agent_drives: Actor,
    width: int,
    scheme: Literal["light", "dark"],
) -> None:
    with desktop(browser, server, size=(width, 700), scheme=scheme) as guest:
        page = guest.page
        expect(handle(page)).to_have_text("Menu · Agent drives")
        panel = opened(page, "Agent")
        expect(bar(page)).to_contain_text(
            "An agent drives this desktop, started by alice@example.com's token nightly"
        )
        panel.get_by_role("button", name="Take over").click()
        expect(handle(page)).to_have_text("Menu · Agent waits", timeout=15_000)
        opened(page, "Agent").get_by_role("button", name="Give back").wait_for()
        assert grave_violations(page) == []
        page.get_by_role("button", name="Give back").click()
        expect(handle(page)).not_to_contain_text("Agent waits")
        page.mouse.move(200, 600)
        expect(bar(page)).to_have_count(0)
        page.keyboard.press("Control+Shift+M")
        asked = "Solve the captcha, <b>please</b>"
        server.run(
            server.stage.services.computer.request_human(agent_drives, "alice-ubuntu", asked)
        )
        expect(handle(page)).to_have_text("Menu · Agent asks", timeout=15_000)
        expect(handle(page)).to_have_attribute("title", re.compile(f"asks for a person: {asked}"))
        bar(page).get_by_role("button", name="Agent ● asks").click()
        expect(bar(page)).to_contain_text(f"asks for a person: {asked}")
        page.goto(f"{server.url}/desktops/alice-ubuntu")
        expect(page.get_by_role("alert").filter(has_text="Solve the captcha")).to_be_visible()
        page.get_by_role("button", name="Give back").click()
        expect(page.get_by_role("status").filter(has_text="Agents may drive")).to_be_visible()
