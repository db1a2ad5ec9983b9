"""A person's desktop, in a real browser through Traefik and TLS."""

from contextlib import closing
from http.client import HTTPSConnection
from ssl import CERT_NONE, create_default_context
from urllib.parse import urlsplit

import pytest
from PIL import Image

from e2e.desktops import pointer_of, run_in, start
from e2e.world import World
from support.waiting import wait_until
from vdi.demo.browser import DesktopBrowser, NoPictureError


def answer(url: str, path: str = "/", **headers: str) -> tuple[int, str]:
    """Status and Location. By address: nothing but a browser resolves *.localhost everywhere."""
    there = urlsplit(url)
    context = create_default_context()
    context.check_hostname, context.verify_mode = False, CERT_NONE
    connection = HTTPSConnection("127.0.0.1", there.port, context=context, timeout=10)
    with closing(connection):
        words = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET", path, headers={"Host": there.netloc, **words})
        response = connection.getresponse()
        return response.status, response.getheader("Location", "")


@pytest.fixture
def desktop(sessions: World) -> tuple[World, str, str]:
    """A running session of Anna's: the world, its name, its address."""
    status = start(sessions, "anna", "small")["status"]
    assert status["phase"] == "Running"
    return sessions, "anna", status["url"]


def test_the_picture_is_a_desktop_and_typing_changes_it(desktop: tuple[World, str, str]) -> None:
    world, name, _ = desktop
    with world.browser(name) as browser:
        browser.open()
        picture = wait_until("a picture with many colours", lambda: colourful(browser.picture()))
        assert pointer_of(world, name) == (
            320,
            240,
        ), "in the corner it would show the clock's tooltip"
        assert "Waiting for stream" not in browser.page.inner_text("body")
        assert sent_in_full(browser) == [], "these parts of Selkies' page came uncompressed"
        browser.open_terminal()
        with_terminal = browser.wait_for_change(picture, pixels=20_000)
        browser.type("seq 1 200\n")
        browser.wait_for_change(with_terminal, pixels=2_000)


def sent_in_full(browser: DesktopBrowser) -> list[str]:
    """Scripts and styles of more than 4 KiB that did not shrink on their way."""
    parts = browser.page.evaluate(
        "() => performance.getEntriesByType('resource')"
        ".map(one => [one.name, one.decodedBodySize, one.encodedBodySize])"
        ".filter(([name, size]) => /\\.(js|css)$/.test(new URL(name).pathname) && size > 4096)"
    )
    assert parts, "the page has loaded scripts"
    return [name for name, size, sent in parts if sent * 2 > size]


def colourful(picture: Image.Image) -> Image.Image | None:
    colours = picture.quantize(64).convert("RGB").getcolors(maxcolors=256) or []
    return picture if len(colours) > 16 else None


def test_no_one_gets_in_without_a_login(desktop: tuple[World, str, str]) -> None:
    _, _, url = desktop
    for path in ("/", "/api/health", "/api/tokens", "/websockets"):
        assert answer(url, path)[0] == 401, path
    handshake = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec_WebSocket_Version": "13"}
    assert (
        answer(url, "/websockets", **handshake, Sec_WebSocket_Key="AAAAAAAAAAAAAAAAAAAAAA==")[0]
        == 401
    )
    person = {"Accept": "text/html", "Sec_Fetch_Mode": "navigate"}
    status, there = answer(url, "/", **person)
    assert (status, urlsplit(there).path) == (302, "/.vdi/start")


def test_user_without_a_share_gets_no_stream(desktop: tuple[World, str, str]) -> None:
    world, name, _ = desktop
    with world.browser(name, "bruno@example.com") as browser:
        browser.log_in()
        with pytest.raises(NoPictureError):
            browser.open(timeout_s=5)
        assert browser.page.evaluate("document.querySelectorAll('video').length") == 0


def test_no_key_starts_a_program_that_is_missing(desktop: tuple[World, str, str]) -> None:
    world, name, _ = desktop
    keys = "/etc/xdg/xfce4/xfconf/xfce-perchannel-xml/xfce4-keyboard-shortcuts.xml"
    commands = (
        f'sed -n \'/"commands"/,/"xfwm4"/s/.*type="string" value="\\([^ "]*\\).*/\\1/p\' {keys}'
    )
    programs = run_in(
        world, name, f"for one in $({commands}); do command -v $one || echo none: $one; done"
    ).splitlines()
    assert "/usr/bin/xfce4-popup-whiskermenu" in programs
    assert [line for line in programs if line.startswith("none")] == []
