"""The whole way in real browsers: login, catalogue, start, waiting page, desktop, a guest with view
only, the end of the guest's access, suspension, resumption, the end.
"""

import base64
import json
import re
import secrets
from collections.abc import Iterator

import pytest

from e2e.desktops import (
    WRITTEN,
    picture_at_rest,
    pod_of,
    reach,
    start,
    template,
    wait_until_cut_off,
    writes,
)
from e2e.world import World
from support.waiting import wait_until
from vdi.demo.browser import DesktopBrowser, NoPictureError, changed_pixels

pytestmark = pytest.mark.timeout(300)

NAME, ALICE, BOB = "alices", "alice@example.com", "bob@example.com"
RELEASE, KEY = ("-n", "vdi-system"), ("secret", "vdi-desktop-key")


@pytest.fixture
def alice(sessions: World) -> Iterator[DesktopBrowser]:
    """Alice's browser; her desktop is not there yet, has no address, and no one has logged in."""
    with (
        template(sessions, "desk", displayName="Writing desk", description="For letters"),
        DesktopBrowser("", sessions.login(ALICE)) as browser,
    ):
        yield browser
        sessions.kubectl("delete", "vdi", NAME, "--ignore-not-found", "--timeout=60s")


def test_shared_desktop_from_login_to_end(sessions: World, alice: DesktopBrowser) -> None:
    starts_from_the_catalogue(alice, sessions)
    alice.open_terminal()
    writes(alice, "seq 1 200")
    shares(alice, sessions)
    with alice.beside(sessions.login(BOB)) as bob:
        bob.open()
        only_looks_on(bob, alice)
        loses_access(bob, alice, sessions)
    suspends_and_resumes_by_opening(alice, sessions)
    ends(alice, sessions)


def starts_from_the_catalogue(alice: DesktopBrowser, world: World) -> None:
    page = alice.page
    page.goto(f"{world.portal}/login")
    alice.log_in()
    page.get_by_role("navigation", name="Main").get_by_role("link", name="New desktop").click()
    page.get_by_role("link", name="Options of Writing desk").click()
    page.fill("#name", NAME)
    page.get_by_role("button", name="Start and open").click()
    page.wait_for_url(re.compile(rf"//{NAME}-\w+\."))
    assert page.locator("#wait").count() == 1, f"no waiting page but {page.url}"
    alice.wait_for_picture()
    session = world.get("vdi", NAME)
    assert session and session["spec"]["user"] == ALICE
    alice.url = session["status"]["url"]


def shares(alice: DesktopBrowser, world: World) -> None:
    """In another tab, as people do."""
    page = alice.page.context.new_page()
    page.goto(f"{world.portal}/desktops/{NAME}")
    page.locator("#share input[name=user]").fill(BOB)
    page.locator("#share select[name=role]").select_option("viewer")
    page.get_by_role("button", name="Share", exact=True).click()
    page.get_by_role("button", name=f"End access of {BOB}").wait_for()
    page.close()


def only_looks_on(bob: DesktopBrowser, alice: DesktopBrowser) -> None:
    """Bob's keys and clicks change nothing, and what Alice writes he sees: proven on the pixels of
    both.
    """
    # Alice's bar names him; a picture from before that would differ by this line.
    handle = alice.page.locator("#vdi-bar .handle", has_text="1 watching")
    handle.wait_for(timeout=60_000)
    assert handle.get_attribute("title") == f"Watching: {BOB} (view only)"
    alice_before, bob_before = picture_at_rest(alice), picture_at_rest(bob)
    bob.page.mouse.click(640, 300)
    bob.type("clear; seq 300 500\n")
    bob.page.wait_for_timeout(3000)
    assert changed_pixels(alice_before, alice.picture()) < WRITTEN
    assert changed_pixels(bob_before, bob.picture()) < WRITTEN
    alice.type("clear; yes WWWWWWWWWWWWWWWW | head -99\n")
    bob.wait_for_change(bob_before, pixels=WRITTEN)


def loses_access(bob: DesktopBrowser, alice: DesktopBrowser, world: World) -> None:
    page = alice.page.context.new_page()
    page.goto(f"{world.portal}/desktops/{NAME}")
    page.get_by_role("button", name=f"End access of {BOB}").click()
    page.get_by_text("No one else has access.").wait_for()
    page.close()
    wait_until_cut_off(bob, alice)
    with pytest.raises(NoPictureError, match="responded with 403"):
        bob.open()


def suspends_and_resumes_by_opening(alice: DesktopBrowser, world: World) -> None:
    """She has left the desktop's page, which would load itself again while she opens it, and resume
    nothing.
    """
    alice.page.goto("about:blank")
    page = alice.page.context.new_page()
    page.goto(f"{world.portal}/desktops/{NAME}")
    page.get_by_role("link", name=f"Suspend {NAME}", exact=True).click()
    page.locator("#confirm").get_by_role("button", name="Suspend").click()
    reach(world, NAME, "Suspended")
    wait_until("the desktop is gone", lambda: pod_of(world, NAME) is None)
    page.close()
    alice.open()
    assert reach(world, NAME, "Running")["spec"].get("suspended", False) is False


def ends(alice: DesktopBrowser, world: World) -> None:
    page = alice.page
    page.goto(f"{world.portal}/desktops/{NAME}")
    page.get_by_role("link", name=f"End {NAME}", exact=True).click()
    page.locator("#confirm").get_by_role("button", name="End").click()
    wait_until("the session is gone", lambda: world.get("vdi", NAME) is None)
    page.goto(f"{world.portal}/history")
    page.get_by_text(NAME).first.wait_for()
    page.goto(f"{world.portal}/account")
    page.get_by_text(ALICE).first.wait_for()


@pytest.mark.long
def test_viewer_waits_for_a_restart_after_a_new_desktop_key(sessions: World) -> None:
    """A desktop knows the gateway's token by its digest, so it takes no table from a gateway that
    has a new key.
    """
    start(sessions, NAME, "small")
    sessions.vdi("session", "share", NAME, BOB)
    key = base64.b64decode(sessions.kubectl(*RELEASE, "get", *KEY, "-o", "jsonpath={.data.key}"))
    try:
        with sessions.browser(NAME, BOB) as bob:
            replace_desktop_key(sessions, secrets.token_bytes(32))
            bob.log_in()
            bob.page.goto(bob.url)
            bob.page.get_by_text(
                "this desktop does not confirm that it restricts you to viewing"
            ).wait_for()
            sessions.vdi("session", "restart", NAME)
            bob.wait_for_picture()
    finally:  # for the desktops of other tests
        replace_desktop_key(sessions, key)


def replace_desktop_key(world: World, key: bytes) -> None:
    """Replace the Secret, and restart the two programs that have read it."""
    secret = json.loads(world.kubectl(*RELEASE, "get", *KEY, "-o", "json"))
    kept = {
        name: secret["metadata"][name] for name in ("name", "namespace", "labels", "annotations")
    }
    secret |= {"metadata": kept, "data": {"key": base64.b64encode(key).decode()}}
    # It is immutable, so it is deleted and made again.
    world.kubectl(*RELEASE, "replace", "--force", "-f", "-", stdin=json.dumps(secret))
    world.kubectl(
        *RELEASE, "rollout", "restart", "deployment/vdi-operator", "deployment/vdi-gateway"
    )
    for name in ("vdi-operator", "vdi-gateway"):
        world.kubectl(*RELEASE, "rollout", "status", f"deployment/{name}", "--timeout=120s")
