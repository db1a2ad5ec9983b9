"""A person's desktop, in a real browser through Traefik and TLS."""

import base64
from contextlib import closing
from http.client import HTTPSConnection
from ssl import CERT_NONE, create_default_context
from urllib.parse import urlsplit

import pytest
from PIL import Image

from e2e.world import World
from vdi.demo.browser import DesktopBrowser
from waiting import wait_until


def password_of(world: World, session: str) -> str:
    (secret,) = world.items("secret", f"vdi.kasm.io/session={session}")
    return base64.b64decode(secret["data"]["password"]).decode()


def status_without_password(url: str) -> int:
    """By address: nothing but a browser resolves *.localhost everywhere."""
    there = urlsplit(url)
    context = create_default_context()
    context.check_hostname, context.verify_mode = False, CERT_NONE
    connection = HTTPSConnection("127.0.0.1", there.port, context=context, timeout=10)
    with closing(connection):
        connection.request("GET", "/", headers={"Host": there.netloc})
        return connection.getresponse().status


@pytest.fixture
def desktop(sessions: World) -> tuple[World, str, str]:
    """A running session: the world, its name, its address."""
    sessions.vdi("session", "create", "anna", "--user", "anna@example.com", "--template", "small", "--wait")
    session = sessions.get("vdi", "anna")
    assert session
    assert session["status"]["phase"] == "Running"
    return sessions, "anna", session["status"]["url"]


def test_the_picture_is_a_desktop_and_typing_changes_it(desktop: tuple[World, str, str]) -> None:
    world, name, url = desktop
    with DesktopBrowser(url, "user", password_of(world, name)) as browser:
        browser.open()
        picture = wait_until("a picture with many colours", lambda: colourful(browser.picture()))
        assert "Waiting for stream" not in browser.page.inner_text("body")
        browser.open_terminal()
        with_terminal = browser.wait_for_change(picture, pixels=20_000)
        browser.type("seq 1 200\n")
        browser.wait_for_change(with_terminal, pixels=2_000)


def colourful(picture: Image.Image) -> Image.Image | None:
    colours = picture.quantize(64).convert("RGB").getcolors(maxcolors=256) or []
    return picture if len(colours) > 16 else None


def test_nobody_gets_in_without_the_password(desktop: tuple[World, str, str]) -> None:
    _, _, url = desktop
    assert status_without_password(url) == 401


def test_the_pod_passes_pod_security_restricted(desktop: tuple[World, str, str]) -> None:
    world, name, _ = desktop
    namespace = world.get("namespace", "vdi-sessions")
    assert namespace
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    (pod,) = world.items("pod", f"vdi.kasm.io/session={name}")
    assert world.kubectl("exec", pod["metadata"]["name"], "--", "id", "-u").strip() == "1000"
