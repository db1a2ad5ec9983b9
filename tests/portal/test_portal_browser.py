"""The portal in a real browser: live without a reload, by keyboard, on a phone, in the dark, and
without scripts.
"""

import asyncio
import io
import json
import re
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image
from playwright.sync_api import Browser, Route, expect

from portal.portal_browser import Visitor, visitor
from portal.portal_pages import OF_ADMIN, OF_ALICE, other_pages, serve_others
from portal.portal_server import Server
from portal.scene import AUDIT
from support.variants import first_of
from support.waiting import wait_until
from unit.gateway.files_agent import files_agent
from unit.gateway.portal_stage import ADMIN, ALICE, BOB, a_session, running
from vdi.cluster.units import format_time
from vdi.gateway.store.audit import Act

pytestmark = pytest.mark.timeout(120)

_SCROLLING_NAVIGATIONS = """() => [...document.querySelectorAll('nav')]
  .filter((nav) => nav.scrollWidth > nav.clientWidth).map((nav) => nav.className)"""
_HIDE = """(hidden) => {
  Object.defineProperty(document, 'hidden', {configurable: true, get: () => hidden});
  document.dispatchEvent(new Event('visibilitychange'));
}"""


def acts(server: Server) -> list[str]:
    """Actions in the audit, in order, after those of the scene."""
    return [action for _, action, _, _ in server.do(lambda: server.stage.acts)[len(AUDIT) :]]


def quiet(guest: Visitor) -> list[str]:
    """Complaints of the browser, but for features that it does not know in Permissions-Policy, and
    for thumbnails (503): these desktops have no agent that takes one.
    """
    known = ("Permissions-Policy", "status of 503")
    return [
        complaint
        for complaint in guest.complaints
        if not any(words in complaint for words in known)
    ]


@pytest.mark.parametrize("width", first_of([320, 390, 768]))
def test_no_page_is_wider_than_the_screen(browser: Browser, server: Server, width: int) -> None:
    for person, paths in ((ALICE, OF_ALICE), (ADMIN, OF_ADMIN)):
        with visitor(browser, server, person, size=(width, 800)) as guest:
            for path in paths:
                guest.go(path)
                assert guest.page.evaluate("document.documentElement.scrollWidth") <= width, path
                assert guest.page.evaluate(_SCROLLING_NAVIGATIONS) == [], path
            # The browser mentions each page that is itself the answer to an address that does not
            # exist, and the files of a desktop that does not run.
            refused = [path for path in paths if path.endswith(("/not-there", "alice-web/files"))]
            complaints = quiet(guest)
            assert len(complaints) == len(refused) and all(
                " 404 " in text or " 409 " in text for text in complaints
            )


def test_a_card_follows_its_desktop_and_the_focus_stays(server: Server, guest: Visitor) -> None:
    guest.go("/")
    card = guest.page.locator("#card-uid-alice-maps")
    expect(card).to_contain_text("Starting")
    details = guest.page.locator("#details-uid-alice-maps")
    details.focus()
    server.put(running("alice-maps", template="qgis"))
    expect(card).to_contain_text("Running")
    expect(guest.page.locator("#details-uid-alice-maps")).to_be_focused()
    expect(guest.page.locator("#announcer")).to_have_text("alice-maps: Running")
    server.put(running("from-elsewhere", template="firefox"))
    expect(guest.page.get_by_role("heading", name="from-elsewhere")).to_be_visible()
    server.put(a_session("from-elsewhere", template="firefox", status={"phase": "Failed"}))
    expect(guest.page.locator("#card-uid-from-elsewhere")).to_contain_text("Cannot start")
    assert quiet(guest) == []


def test_the_focus_stays_on_links_and_on_the_same_guest(server: Server, guest: Visitor) -> None:
    def with_guests(*guests: str) -> None:
        access = [{"user": f"{guest}@example.com", "role": "viewer"} for guest in guests]
        server.put(running("alice-ubuntu", template="ubuntu-desktop", access=access))

    guest.go("/")
    name = guest.page.locator("#card-uid-alice-ubuntu h2 a")
    name.focus()
    with_guests("carol")
    expect(guest.page.locator("#card-uid-alice-ubuntu")).to_contain_text("shared with 1 person")
    expect(name).to_be_focused()
    guest.go("/desktops/alice-ubuntu")
    facts = guest.page.locator(".facts").first
    guests = guest.page.get_by_role("list", name="Shared with")
    guest.page.get_by_text("Technical details").click()
    address = facts.get_by_role("link")
    address.focus()
    server.put(running("alice-ubuntu", template="ubuntu-desktop", timeout="9h"))
    expect(facts).to_contain_text("9 h")
    expect(guest.page.locator(".facts").last).to_be_visible()
    expect(address).to_be_focused()
    with_guests("bob", "carol.o'neil")
    expect(guests.get_by_role("listitem")).to_have_count(2)
    end = guest.page.get_by_role("button", name="End access of carol.o'neil@example.com")
    end.focus()
    with_guests("carol.o'neil", "dave")
    expect(guests).to_contain_text("dave@example.com")
    expect(end).to_be_focused()
    sent = guest.page.get_by_text("They open").get_by_role("link")
    sent.focus()
    with_guests("dave")
    expect(guests.get_by_role("listitem")).to_have_count(1)
    expect(sent).to_be_focused()
    assert quiet(guest) == []


@pytest.mark.parametrize("refused", [False, True], ids=["again", "refused"])
def test_broken_stream_resumes_from_the_shown_state(
    server: Server, guest: Visitor, refused: bool
) -> None:
    """Refused: by a proxy without a gateway. The browser then gives up, and the page opens a stream
    of its own.
    """
    session, status = running("from-elsewhere", template="firefox"), 503 if refused else 200
    guest.go("/")
    server.put(session)
    heading = guest.page.get_by_role("heading", name="from-elsewhere")
    expect(heading).to_be_visible()
    if refused:
        guest.page.route("**/events?*", lambda route: route.fulfill(status=503))
    with guest.page.expect_response(
        lambda answer: "/events?" in answer.url and answer.status == status
    ):
        server.do(server.break_connections)
        server.do(lambda: server.stage.drop(session))
    guest.page.unroute("**/events?*")
    expect(heading).to_have_count(0)
    expect(guest.page.locator("#live-notice")).to_be_hidden()


def test_login_that_ended_during_an_outage_is_reported(server: Server, guest: Visitor) -> None:
    guest.go("/")
    notice = guest.page.locator("#live-notice")
    server.run(server.stage.end_logins())
    server.do(server.break_connections)
    expect(notice).to_have_text("You are signed out. Reload the page to sign in.")
    server.run(server.stage.change_logins(ended=None))
    expect(notice).to_be_hidden()


def test_form_submitted_twice_acts_once(server: Server, guest: Visitor) -> None:
    answer = asyncio.Event()
    server.stage.cluster.held = answer
    guest.go("/catalogue/qgis")
    box = guest.page.get_by_role("button", name="Start without opening").bounding_box()
    assert box
    # A locator would wait for the page that is on its way.
    guest.page.mouse.dblclick(box["x"] + 5, box["y"] + 5)
    wait_until("it has arrived", lambda: server.stage.cluster.waiting > 0)
    guest.page.mouse.dblclick(box["x"] + 5, box["y"] + 5)
    server.do(answer.set)
    expect(guest.page.get_by_role("heading", name="alice-qgis")).to_be_visible()
    assert acts(server) == ["session.start"]
    guest.page.go_back()
    guest.page.get_by_role("button", name="Start without opening").click()
    expect(guest.page.get_by_role("alert").first).to_be_visible()
    assert acts(server) == ["session.start", "session.start"]


def test_extend_link_works_on_a_page_opened_before_the_run(server: Server, guest: Visitor) -> None:
    soon = {"type": "Expiring", "status": "True", "reason": "ExpiringSoon", "message": "Soon."}
    status = {"startTime": format_time(server.stage.clock.wall), "conditions": [soon]}
    guest.go("/desktops/alice-training")
    server.put(running("alice-training", template="pytorch", timeout="1h", status=status))
    guest.page.get_by_role("link", name="Extend time limit").click()
    expect(guest.page.get_by_label("Extend the time limit")).to_be_visible()


def test_more_time_and_what_happened_are_live(server: Server, guest: Visitor) -> None:
    guest.go("/desktops/alice-ubuntu")
    session = server.stage.world.session("alice-ubuntu")
    assert session
    act = Act(actor=ALICE.email, action="session.extend", target="t", uid=session.metadata.uid)
    server.run(server.stage.services.audit.record(act))
    status = {"startTime": format_time(server.stage.clock.wall)}
    ubuntu = {"template": "ubuntu-desktop", "status": status}
    server.put(running("alice-ubuntu", **ubuntu, timeout="9h", generation=2))
    extend = guest.page.get_by_role("button", name="Extend")
    expect(extend).to_have_attribute("formaction", "/desktops/alice-ubuntu/extend?from=9h")
    expect(guest.page.locator(".timeline")).to_contain_text("Time limit changed")
    extend.click()
    expect(guest.page.get_by_text("The time limit of alice-ubuntu is now 10 h.")).to_be_visible()


def test_chosen_desktops_are_suspended_together(server: Server, guest: Visitor) -> None:
    guest.go("/")
    suspend = guest.page.get_by_role("button", name="Suspend…")
    expect(suspend).to_be_hidden()
    for name in ("alice-web", "alice-ubuntu"):
        guest.page.get_by_label(f"Choose {name}").check()
    server.put(running("alice-ubuntu", template="ubuntu-desktop", timeout="9h"))
    suspend.click()
    names = guest.page.locator("#confirm li")
    expect(names).to_have_text(["alice-ubuntu", "alice-web: its files are deleted"])
    guest.page.get_by_role("button", name="Suspend 2 desktops").click()
    expect(guest.page.get_by_text("You suspended 2 desktops.")).to_be_visible()
    assert acts(server) == ["session.suspend"], "alice-web is suspended already"


def test_free_gpus_are_offered_live_and_start_the_desktop(server: Server, guest: Visitor) -> None:
    queue = {"position": 2, "reason": "GPUsBusy", "availableGpu": 2}
    status = {"phase": "Pending", "queue": queue, "url": "https://alice-training.vdi.localhost"}
    large = a_session("alice-training", template="pytorch", resources={"gpu": 3}, status=status)
    guest.go("/desktops/alice-training")
    expect(guest.page.get_by_text("free now")).to_have_count(0)
    server.put(large)
    expect(guest.page.get_by_text("2 GPUs are free now:")).to_be_visible()
    guest.page.get_by_role("button", name="Start with 2").click()
    expect(guest.page.get_by_text("You started alice-training.")).to_be_visible()
    assert server.stage.cluster.objects["alice-training"]["spec"]["resources"]["gpu"] == 2
    assert quiet(guest) == []


def test_a_share_offers_its_invitation_to_copy(browser: Browser, server: Server) -> None:
    with visitor(browser, server, permissions=["clipboard-read", "clipboard-write"]) as guest:
        for address in (BOB.email, "nobody-knows@example.com"):
            guest.go("/desktops/alice-ubuntu")
            guest.page.get_by_label("E-mail address").fill(address)
            guest.page.get_by_role("button", name="Share", exact=True).click()
            # The same for both: whether there is such an account is not told.
            expect(guest.page.locator(".notice.good")).to_contain_text(
                f"You shared alice-ubuntu with {address}, view only. To open it, your guest needs"
            )
        guest.page.get_by_role("button", name="Copy invitation").click()
        expect(guest.page.get_by_role("button", name="Copied")).to_be_visible()
        invitation = guest.page.evaluate("navigator.clipboard.readText()")
        address = server.stage.settings.url(server.stage.settings.host("alice-ubuntu"))
        assert (
            f"alice@example.com shares the desktop alice-ubuntu with you: {address}/\n"
            in invitation
        )
        assert invitation.endswith(f": {server.url}/shared")
        assert quiet(guest) == []
        guest.page.reload()
        guest.page.evaluate("void (navigator.clipboard.writeText = () => Promise.reject())")
        guest.page.get_by_role("button", name="Copy invitation").click()
        text = guest.page.get_by_label("Text to copy")
        expect(text).to_have_value(invitation)
        expect(text).to_be_focused()


def test_options_begin_with_those_of_the_last_start(guest: Visitor) -> None:
    guest.go("/catalogue")
    guest.page.get_by_role("link", name="Options of PyTorch workbench").click()
    expect(guest.page.get_by_label("GPUs")).to_have_value("2")


def test_the_waiting_page_keeps_the_names_in_its_title(server: Server, guest: Visitor) -> None:
    page_text = other_pages(server)["/of/wait-queued"].replace(
        "· VDI</title>", "· Example Desks</title>"
    )
    update = {"stage": "starting", "summary": "<h1>Starting</h1>", "steps": ""}
    event = f"event: stage\ndata: {json.dumps(update)}\n\n"
    serve_others(guest.page, server, "wait.js")
    guest.page.route(
        "**/of/wait-queued", lambda route: route.fulfill(body=page_text, content_type="text/html")
    )
    guest.page.route(
        "**/.vdi/events?*",
        lambda route: route.fulfill(body=event, content_type="text/event-stream"),
    )
    guest.go("/of/wait-queued")
    expect(guest.page).to_have_title("Starting: alice-training · Example Desks")


def serve_waiting_page(guest: Visitor, server: Server, *, without_gateway: int) -> list[str]:
    """The waiting page of a suspended desktop, for which the gateway answers after so many requests
    of a script; gives what is asked for it.
    """
    page, asked = other_pages(server)["/of/wait-suspended"], list[str]()

    def wait(route: Route) -> None:
        is_page = route.request.is_navigation_request()
        asked.append("page" if is_page else "fetch")
        if is_page:
            route.fulfill(body=page, content_type="text/html")
        else:
            route.fulfill(
                status=503, headers={"X-VDI-Gateway": "1"} if len(asked) > without_gateway else {}
            )

    guest.page.route(lambda url: urlsplit(url).path == "/.vdi/wait", wait)
    return asked


def test_the_waiting_page_outlasts_an_update_of_the_gateway(server: Server, guest: Visitor) -> None:
    """Traefik has no server then, and its answer would be the last page."""

    def events(route: Route) -> None:
        if "page" in asked:
            route.fulfill(body=": nothing\n\n", content_type="text/event-stream")
        else:
            route.fulfill(status=503)

    # Pauses of the edge's scripts take a hundredth of their time.
    guest.page.add_init_script(
        "const set = setTimeout; window.setTimeout = (work, pause) => set(work, pause / 100)"
    )
    serve_others(guest.page, server, "wait.js")
    asked = serve_waiting_page(guest, server, without_gateway=2)
    guest.page.route("**/.vdi/events?*", events)
    guest.go("/of/wait-queued")
    expect(guest.page.get_by_role("heading", name="This desktop is suspended")).to_be_visible()
    assert asked == ["fetch", "fetch", "fetch", "page"]
    assert guest.page.url.endswith("/.vdi/wait?next=%2F")


@pytest.mark.parametrize("status", [401, 503], ids=["ended", "suspended"])
def test_transport_page_yields_to_the_waiting_page(
    server: Server, guest: Visitor, status: int
) -> None:
    serve_others(guest.page, server, "transport.js")
    guest.page.route(
        "**/api/status", lambda route: route.fulfill(status=status, headers={"X-VDI-Gateway": "1"})
    )
    guest.page.route("**/api/turn", lambda route: route.fulfill(json={"iceServers": []}))
    asked = serve_waiting_page(guest, server, without_gateway=1)  # at first it lacks its database
    guest.go("/of/transport")
    expect(guest.page.get_by_role("heading", name="This desktop is suspended")).to_be_visible()
    assert asked == ["fetch", "fetch", "page"]


def test_live_updates_keep_typed_text(server: Server, guest: Visitor) -> None:
    guest.go("/desktops/alice-ubuntu")
    guest.page.get_by_label("E-mail address").fill("dave@example.com")
    server.put(a_session("alice-ubuntu", template="ubuntu-desktop", status={"phase": "Suspended"}))
    expect(guest.page.get_by_role("button", name="Resume alice-ubuntu")).to_be_visible()
    expect(guest.page.get_by_label("E-mail address")).to_have_value("dave@example.com")


def test_page_of_a_deleted_desktop_says_so(server: Server, guest: Visitor) -> None:
    guest.go("/desktops/alice-web")
    session = server.stage.world.session("alice-web")
    assert session
    server.do(lambda: server.stage.drop(session))
    expect(guest.page.get_by_role("heading", name="alice-web")).to_be_visible()
    expect(guest.page.locator("main")).to_contain_text("This desktop has ended")
    for title in ("Sharing", "About this desktop", "End this desktop"):
        expect(guest.page.get_by_role("heading", name=title)).to_be_hidden()
    expect(guest.page.get_by_role("heading", name="What happened")).to_be_visible()


def test_end_is_confirmed_in_place_and_by_keyboard(server: Server, guest: Visitor) -> None:
    guest.go("/desktops/alice-ubuntu")
    end = guest.page.get_by_role("link", name="End alice-ubuntu", exact=True)
    end.focus()
    guest.page.keyboard.press("Enter")
    question = guest.page.get_by_role("dialog")
    expect(question).to_contain_text("End alice-ubuntu?")
    guest.page.keyboard.press("Escape")
    expect(question).to_be_hidden()
    expect(end).to_be_focused()
    guest.page.keyboard.press("Enter")
    question.get_by_role("link", name="Cancel").click()
    expect(question).to_be_hidden()
    assert guest.page.url.endswith("/desktops/alice-ubuntu")
    assert acts(server) == []
    end.click()
    question.get_by_label("Delete my files too").check()
    question.get_by_role("button", name="End the desktop").click()
    expect(guest.page.get_by_text("You ended alice-ubuntu. Its files are deleted.")).to_be_visible()
    assert acts(server) == ["session.end"]
    assert quiet(guest) == []


def test_end_link_of_a_missing_desktop_shows_not_found(server: Server, guest: Visitor) -> None:
    guest.page.route("**/events?*", lambda route: route.abort())
    guest.go("/desktops/alice-ubuntu")
    server.put(a_session("alice-ubuntu", template="ubuntu-desktop", user="eve@example.com"))
    guest.page.get_by_role("link", name="End alice-ubuntu", exact=True).click()
    expect(guest.page.get_by_role("heading", name="Not found")).to_be_visible()


def test_buttons_on_cards_act_on_their_desktop(server: Server, guest: Visitor) -> None:
    guest.go("/")
    with guest.page.expect_request("**/desktops/alice-web/open"):
        guest.page.get_by_role("button", name="Resume alice-web").click()
    guest.go("/desktops/alice-ubuntu")
    guest.page.get_by_role("button", name="End access of carol@example.com").click()
    expect(guest.page.get_by_text("Access to alice-ubuntu was revoked.")).to_be_visible()
    assert acts(server) == ["session.resume", "session.unshare"]


def test_catalogue_filters_while_typing(guest: Visitor) -> None:
    guest.go("/catalogue")
    expect(guest.page.locator(".cards > li")).to_have_count(6)
    # At once: on a slow machine htmx aborts the request of one key for that of the next, and the
    # console says so.
    guest.page.get_by_label("Search desktops").fill("blend")
    expect(guest.page.locator(".cards > li")).to_have_count(1)
    expect(guest.page.get_by_label("Search desktops")).to_be_focused()
    assert guest.page.url.endswith("/catalogue?q=blend")
    assert quiet(guest) == []


def test_chosen_session_stays_chosen_while_its_row_changes(
    browser: Browser, server: Server
) -> None:
    with visitor(browser, server, ADMIN) as guest:
        guest.go("/admin/sessions?q=alice&phase=Running")
        guest.page.get_by_label("All sessions on this page").check()
        server.put(
            running("alice-ubuntu", template="ubuntu-desktop", status={"nodeName": "gpu-node-7"})
        )
        expect(guest.page.locator("tbody")).to_contain_text("gpu-node-7")
        server.put(running("alice-maps", template="qgis"))
        expect(guest.page.locator("tbody tr")).to_have_count(3)
        expect(guest.page.get_by_label("Choose alice-ubuntu")).to_be_checked()
        expect(guest.page.get_by_label("Choose alice-maps")).not_to_be_checked()
        guest.page.get_by_label("Message").fill("Maintenance at 18:00")
        choice = guest.page.locator("#notice option[value='15m']")
        expect(choice).to_have_attribute("label", re.compile(r"^15 minutes, \d+:\d\d"))
        guest.page.get_by_role("button", name="Suspend 2 desktops at").click()
        expect(guest.page.get_by_role("main")).to_contain_text("alice-ubuntu")
        guest.page.get_by_role("button", name="Suspend 2 desktops at").click()
        expect(guest.page.get_by_text("The end is announced in 2 sessions.")).to_be_visible()
        planned = server.do(
            lambda: server.stage.cluster.objects["alice-ubuntu"]["spec"]["plannedEnd"]
        )
        assert (planned["action"], planned["message"]) == ("Suspend", "Maintenance at 18:00")
        assert quiet(guest) == []


def test_start_button_sends_the_browsers_time_zone(browser: Browser, server: Server) -> None:
    with visitor(browser, server, zone="Asia/Kolkata") as guest:
        guest.go("/catalogue")
        guest.page.get_by_role("button", name="Start Firefox").click()
        # Chromium, asked to close while the page of the desktop was on its way, hung once for
        # minutes.
        expect(guest.page.get_by_role("heading", name="alice-firefox")).to_be_visible()
        assert acts(server) == ["session.start"]
        zone = server.stage.cluster.objects["alice-firefox"]["spec"]["timeZone"]
        assert zone in ("Asia/Calcutta", "Asia/Kolkata")


_RECORD = """window.told = [];
window.Notification = class {
  static permission = 'default';
  static async requestPermission() { return (this.permission = 'granted'); }
  constructor(text) { told.push(text); }
};"""


def test_notify_me_notifies_once_the_desktop_is_ready(server: Server, guest: Visitor) -> None:
    guest.page.add_init_script(_RECORD)
    guest.go("/")
    guest.page.get_by_role("button", name="Notify me when alice-maps is ready").click()
    expect(guest.page.get_by_role("button", name="You are notified")).to_be_disabled()
    server.put(running("alice-maps", template="qgis"))
    # Playwright's `wait_for_function` looks a second time from inside the page, where the portal's
    # policy forbids eval.
    wait_until(
        "the person is told",
        lambda: guest.page.evaluate("told.includes('alice-maps is ready')"),
        30,
    )
    assert guest.page.evaluate("told.length") == 2, "the first one says what comes"
    assert quiet(guest) == []


def test_notify_me_works_on_the_waiting_page(server: Server, guest: Visitor) -> None:
    update = {"stage": "opening", "summary": "<h1>Ready</h1>", "steps": ""}
    ready = f"event: stage\ndata: {json.dumps(update)}\n\n"
    asked: list[str] = []
    guest.page.add_init_script(_RECORD)
    serve_others(guest.page, server, "wait.js")
    guest.page.route(
        "**/.vdi/events?*",
        lambda route: route.fulfill(
            body=ready if asked else "retry: 100\n\n", content_type="text/event-stream"
        ),
    )
    guest.go("/of/wait-queued")
    guest.page.get_by_role("button", name="Notify me when alice-training is ready").click()
    guest.page.wait_for_function("told.length === 1")
    asked.append("yes")
    guest.page.wait_for_function("told.includes('alice-training is ready')")


def test_administrators_filter_and_stay_live(browser: Browser, server: Server) -> None:
    with visitor(browser, server, ADMIN) as guest:
        guest.go("/admin/sessions")
        rows = guest.page.locator("tbody tr")
        expect(rows).to_have_count(50)
        guest.page.get_by_label("Name, user or node").fill("alice")  # at once, as above
        expect(rows).to_have_count(5)
        guest.page.get_by_label("State").select_option("Running")
        expect(rows).to_have_count(2)
        server.put(running("alice-maps", template="qgis"))
        expect(rows).to_have_count(3)
        guest.page.go_back()
        expect(rows).to_have_count(5)
        assert quiet(guest) == []


def test_administrator_takes_everything_from_a_person(browser: Browser, server: Server) -> None:
    with visitor(browser, server, ADMIN) as guest:
        guest.go("/admin/people")
        main = guest.page.get_by_role("main")
        main.get_by_role("link", name="alice@example.com").click()
        expect(main).to_contain_text("vdi gateway user release alice@example.com")
        main.get_by_role("button", name="Take everything away").click()
        expect(main).to_contain_text("Take everything away: alice@example.com?")
        expect(main.get_by_role("listitem").filter(has_text="alice-ubuntu")).to_be_visible()
        main.get_by_role("button", name="Take everything away").click()
        expect(guest.page.get_by_text("has no desktops and no access any longer")).to_be_visible()
        assert "alice-ubuntu" not in server.do(lambda: list(server.stage.cluster.objects))
        assert quiet(guest) == []


def test_administrator_restarts_outdated_desktops(browser: Browser, server: Server) -> None:
    newer = {"type": "TemplateFound", "status": "True", "reason": "NewerRevision", "message": "m"}
    server.put(running("alice-maps", template="qgis", status={"conditions": [newer]}))
    with visitor(browser, server, ADMIN) as guest:
        guest.go("/admin/sessions?phase=Outdated")
        guest.page.get_by_label("All sessions on this page").check()
        guest.page.get_by_role("button", name="Restart the chosen").click()
        guest.page.get_by_role("main").get_by_role("button", name="Restart", exact=True).click()
        expect(guest.page.get_by_text("You restarted 1 session.")).to_be_visible()
        assert quiet(guest) == []


def test_a_form_below_a_live_list_keeps_what_was_chosen(browser: Browser, server: Server) -> None:
    with visitor(browser, server, ADMIN) as guest:
        guest.go("/admin/sessions?q=alice")
        rows = guest.page.locator("tbody tr")
        before = rows.count()
        rows.first.get_by_role("checkbox").check()
        guest.page.get_by_label("Message").fill("Maintenance")
        guest.page.get_by_label("In", exact=True).select_option("1h")
        guest.page.get_by_label("Action").select_option("cancel")
        server.put(running("alice-atlas", template="qgis"))
        expect(rows).to_have_count(before + 1)
        expect(guest.page.get_by_label("Action")).to_have_value("cancel")
        expect(guest.page.get_by_label("In", exact=True)).to_have_value("1h")
        expect(guest.page.get_by_label("Message")).to_have_value("Maintenance")
        expect(guest.page.get_by_role("checkbox", checked=True)).to_have_count(1)
        guest.page.get_by_role("button", name="Take the announcement back in 1 desktop").click()
        expect(guest.page.get_by_role("heading", level=1)).to_have_text(
            "Take the announcement back in 1 desktop?"
        )
        assert quiet(guest) == []


def test_first_tab_skips_the_navigation(guest: Visitor) -> None:
    guest.go("/")
    guest.page.keyboard.press("Tab")
    expect(guest.page.get_by_role("link", name="Skip to the content")).to_be_focused()
    guest.page.keyboard.press("Enter")
    expect(guest.page.locator("main")).to_be_focused()


def test_portal_works_without_javascript(browser: Browser, server: Server) -> None:
    with visitor(browser, server, scripts=False) as guest:
        guest.go("/catalogue")
        guest.page.get_by_label("Search desktops").fill("qgis")
        guest.page.get_by_role("button", name="Search").click()
        guest.page.get_by_role("link", name="Options of QGIS", exact=True).click()
        guest.page.get_by_label("Name").fill("mine")
        guest.page.get_by_label("Time limit").select_option("4h")
        guest.page.get_by_role("button", name="Start without opening").click()
        expect(guest.page.get_by_text("You started mine.")).to_be_visible()
        assert acts(server) == ["session.start"]
        guest.go("/desktops/alice-ubuntu")
        guest.page.get_by_label("E-mail address").fill("dave@example.com")
        guest.page.get_by_role("button", name="Share").click()
        expect(guest.page.get_by_text("You shared alice-ubuntu with")).to_be_visible()
        guest.page.get_by_role("link", name="End alice-ubuntu", exact=True).click()
        guest.page.get_by_role("button", name="End the desktop").click()
        expect(guest.page.get_by_text("You ended alice-ubuntu.")).to_be_visible()
        assert acts(server) == ["session.start", "session.share", "session.end"]


def test_times_are_in_the_readers_own_zone(browser: Browser, server: Server) -> None:
    with visitor(browser, server, zone="Asia/Kolkata") as guest:
        guest.go("/")
        assert "left" in guest.page.locator("#card-uid-alice-ubuntu time").inner_text()
        expect(
            guest.page.locator("#card-uid-alice-training time[data-say=until]").first
        ).to_contain_text("in about")
        notice = guest.page.locator(".notice", has_text="this desktop ends at")
        expect(notice).to_contain_text("After 4h this desktop ends at 17:36.")
        expect(notice.locator("time")).to_have_attribute(
            "title", re.compile(r"\d{1,2} [A-Z][a-z]{2} \d{4}, 17:36, ")
        )
        guest.go("/history")
        assert "UTC" not in guest.page.locator("table").inner_text()


def test_schedule_form_defaults_to_the_readers_zone(browser: Browser, server: Server) -> None:
    with visitor(browser, server, zone="Asia/Tokyo") as guest:
        guest.go("/desktops/alice-ubuntu")
        zone = guest.page.get_by_label("Time zone")
        expect(zone).to_have_value("Asia/Tokyo")
        expect(guest.page.get_by_label("Ready at")).to_have_value("08:30")
        assert guest.page.locator("#time-zones option[value='Europe/Berlin']").count() == 1
        guest.page.get_by_role("button", name="Set schedule").click()
        expect(guest.page.get_by_text("Your hours are limited")).to_be_visible()
        assert acts(server) == ["session.schedule"]


def a_screen() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (320, 180), "teal").save(data, "JPEG")
    return data.getvalue()


def test_card_shows_a_thumbnail_while_the_page_is_visible(server: Server, guest: Visitor) -> None:
    def asked(name: str) -> int:
        return server.do(lambda: server.stage.agent.asked.count(f"GET /thumbnail of {name}"))

    server.do(lambda: server.stage.agent.screens.update({"alice-ubuntu": a_screen()}))
    now = server.stage.clock.wall
    guest.page.clock.install(time=now)
    guest.page.clock.pause_at(now + timedelta(seconds=1))
    guest.go("/")
    card = guest.page.locator("#card-uid-alice-ubuntu")
    picture = card.locator(".screen img")
    expect(picture).to_be_visible()
    expect(card.locator(".screen .tile")).to_be_hidden()
    assert picture.evaluate("image => [image.naturalWidth, image.alt]") == [320, ""]
    wait_until(
        "both are asked for", lambda: (asked("alice-ubuntu"), asked("alice-render")) == (1, 1)
    )
    expect(guest.page.locator("#card-uid-alice-render .screen")).to_be_hidden()

    server.put(
        running("alice-ubuntu", template="ubuntu-desktop", resources={"gpu": 1, "memory": "8Gi"})
    )
    expect(card).to_contain_text("8 GiB")
    expect(picture).to_be_visible()
    assert asked("alice-ubuntu") == 1, "a card that changes keeps its picture"

    first = picture.get_attribute("src")
    guest.page.clock.run_for(35_000)
    expect(picture).not_to_have_attribute("src", first or "")
    expect(picture).to_be_visible()
    assert asked("alice-ubuntu") == 2
    assert asked("alice-render") == 1, "a desktop without a picture is asked less and less often"

    guest.page.evaluate(_HIDE, True)
    guest.page.clock.run_for(600_000)
    assert asked("alice-ubuntu") == 2, "a page that no one sees asks for nothing"
    guest.page.evaluate(_HIDE, False)
    wait_until("it is asked for again", lambda: asked("alice-ubuntu") == 3)
    expect(guest.page.locator("#card-uid-alice-ubuntu .screen img")).to_be_visible()

    server.put(
        a_session(
            "alice-ubuntu", template="ubuntu-desktop", status={"phase": "Suspended"}, suspended=True
        )
    )
    expect(card).to_contain_text("Suspended")
    expect(guest.page.locator("#card-uid-alice-ubuntu .screen")).to_have_count(0)


def test_thumbnails_are_loaded_only_on_the_owners_list(browser: Browser, server: Server) -> None:
    server.do(
        lambda: server.stage.agent.screens.update(
            {"alice-ubuntu": a_screen(), "bob-review": a_screen()}
        )
    )
    for person, paths in (
        (ALICE, ("/shared", "/desktops/alice-ubuntu")),
        (ADMIN, ("/", "/admin", "/admin/sessions")),
    ):
        with visitor(browser, server, person) as guest:
            for path in paths:
                guest.go(path)
                expect(guest.page.locator("h1")).to_be_visible()
    assert server.stage.agent.asked == ["GET /startup-scripts of alice-ubuntu"]


_DROP = """() => {
  const dropped = new DataTransfer();
  dropped.items.add(new File(["dropped"], "b & ä.txt"));
  document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: dropped, bubbles: true, cancelable: true}));
}"""


def test_files_are_uploaded_dropped_and_downloaded(
    browser: Browser, server: Server, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    (home / "Documents").mkdir(parents=True)
    with files_agent(server.stage, home, "alice-ubuntu"), visitor(browser, server) as guest:
        guest.go("/desktops/alice-ubuntu/files")
        guest.page.get_by_role("link", name="Documents/").click()
        content = b"\x00" * 300_000
        files = guest.page.get_by_label("Upload files")
        files.set_input_files({"name": "a.bin", "mimeType": "text/html", "buffer": content})
        expect(guest.page.get_by_role("status").first).to_have_text("a.bin uploaded.")
        assert (home / "Documents/a.bin").read_bytes() == content
        files.set_input_files({"name": "a.bin", "mimeType": "", "buffer": b"other"})
        expect(guest.page.get_by_role("alert")).to_contain_text("File exists")
        expect(guest.page.get_by_text("uploaded.")).to_have_count(0)
        guest.page.evaluate(_DROP)
        expect(guest.page.get_by_role("status").first).to_have_text("b & ä.txt uploaded.")
        with guest.page.expect_download() as download:
            guest.page.get_by_role("link", name="Download b & ä.txt").click()
        assert (download.value.suggested_filename, download.value.path().read_text()) == (
            "b & ä.txt",
            "dropped",
        )


def test_files_are_renamed_and_deleted_in_a_new_folder(
    browser: Browser, server: Server, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".hidden").write_text("h")
    (home / "draft").write_text("d")
    with files_agent(server.stage, home, "alice-ubuntu"), visitor(browser, server) as guest:
        page, notice = guest.page, guest.page.get_by_role("status").first
        guest.go("/desktops/alice-ubuntu/files")
        expect(page.get_by_text(".hidden")).to_have_count(0)
        page.get_by_role("link", name="Show hidden files").click()
        expect(page.get_by_role("rowheader", name=".hidden")).to_be_visible()
        page.get_by_role("link", name="New folder").click()
        page.get_by_label("Name").fill("Reports")
        page.get_by_role("button", name="Create the folder").click()
        expect(notice).to_have_text("The folder Reports is created.")
        page.get_by_role("link", name="Rename draft").click()
        expect(page.get_by_label("New name")).to_have_value("draft")
        page.get_by_label("New name").fill("/Reports/final")
        page.get_by_role("button", name="Rename").click()
        expect(notice).to_have_text("draft is moved.")
        expect(page.get_by_role("rowheader", name=".hidden")).to_be_visible()
        assert (home / "Reports/final").read_text() == "d"
        page.get_by_role("link", name="Delete Reports").click()
        expect(page.get_by_role("heading", name="Delete Reports?")).to_be_visible()
        assert (home / "Reports").exists()
        page.get_by_role("button", name="Delete").click()
        expect(notice).to_have_text("Reports is deleted.")
        assert not (home / "Reports").exists()
