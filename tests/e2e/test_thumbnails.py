"""The small picture of a real desktop on its owner's card in the portal, through Traefik, gateway
and agent.
"""

import base64
import io
from typing import Any

import pytest
from PIL import Image

from e2e.desktops import run_in, started
from e2e.world import World
from support.waiting import wait_until
from vdi.demo.browser import DesktopBrowser

pytestmark = [pytest.mark.timeout(240), pytest.mark.long]

_FETCH = """async (path) => {
  const answer = await fetch(path);
  const bytes = new Uint8Array(await answer.arrayBuffer());
  return {
    status: answer.status, type: answer.headers.get('content-type'), kept: answer.headers.get('cache-control'),
    body: btoa(String.fromCharCode(...bytes)),
  };
}"""
PATH = "/desktops/nina/thumbnail"


def fetch(browser: DesktopBrowser) -> dict[str, Any]:
    """The picture as the portal's page gets it."""
    found: dict[str, Any] = browser.page.evaluate(_FETCH, PATH)
    return found


def test_the_owner_sees_the_screen_and_no_one_else(sessions: World) -> None:
    with started(sessions, "nina", persistence={"enabled": False}):
        files = run_in(sessions, "nina", "find /tmp /home -type f -name '*.jp*' | sort")
        with DesktopBrowser(sessions.portal, sessions.login("nina@example.com")) as browser:
            browser.log_in()
            browser.page.goto(f"{sessions.portal}/")
            browser.page.locator(f"[data-thumbnail='{PATH}'] img").wait_for(
                state="visible", timeout=30_000
            )
            got = fetch(browser)
            assert (got["status"], got["type"], got["kept"]) == (200, "image/jpeg", "no-store")
            data = base64.b64decode(got["body"])
            assert len(data) <= 15_000
            with Image.open(io.BytesIO(data)) as picture:
                assert (picture.format, max(picture.size)) == ("JPEG", 320)
                colours = picture.convert("RGB").getcolors(1 << 20) or []
                assert len(colours) > 100, "a wallpaper, not one colour"
            assert run_in(sessions, "nina", "find /tmp /home -type f -name '*.jp*' | sort") == files
            assert run_in(sessions, "nina", "pgrep -f [c]apture-thumbnail || true") == ""

            with browser.beside(sessions.login("noah@example.com")) as other:
                other.log_in()
                assert fetch(other)["status"] == 404
                access = '{"spec":{"access":[{"user":"noah@example.com","role":"collaborator"}]}}'
                sessions.kubectl("patch", "vdi", "nina", "--type=merge", "-p", access)
                wait_until("the gateway knows of the guest", lambda: fetch(other)["status"] == 403)

            sessions.kubectl(
                "patch", "vdit", "nina", "--type=merge", "-p", '{"spec":{"thumbnails":false}}'
            )
            wait_until("the template has switched it off", lambda: fetch(browser)["status"] == 204)
