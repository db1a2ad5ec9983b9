"""Every page that a browser can meet: the portal's own by their path, and those of the login and of
a desktop's host.

The stage serves the portal alone. The other pages are rendered from the templates of the product
and put under a path of the portal, where they find the portal's files.
"""

import re
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from playwright.sync_api import Page, Route
from starlette.requests import Request

import vdi.gateway.edge
from portal.portal_server import Server
from unit.gateway.portal_stage import ADMIN, ALICE, a_session
from vdi.api.session import Role, VDISession
from vdi.gateway.brand import Brand
from vdi.gateway.desktop.stage import describe_stage
from vdi.gateway.login.pages import LIFETIMES
from vdi.gateway.notices import KINDS
from vdi.gateway.store.logins import ApiToken, Login
from vdi.gateway.web.render import Renderer

OF_ALICE = (
    "/", "/shared", "/help", "/help/files", "/homes", "/history", "/history/usage",
    "/catalogue", "/catalogue?q=nothing-is-called-that", "/catalogue/ubuntu-desktop", "/catalogue/not-there",
    "/desktops/alice-ubuntu", "/desktops/alice-ubuntu/files", "/desktops/alice-web/files", "/desktops/alice-training",
    "/desktops/alice-maps", "/desktops/alice-render", "/desktops/alice-web", "/desktops/bob-review",
    "/desktops/alice-ubuntu/suspend", "/desktops/alice-ubuntu/restart", "/desktops/alice-render/end",
)  # fmt: skip
OF_ADMIN = (
    "/admin", "/admin/sessions", "/admin/templates", "/admin/pools", "/admin/people", "/admin/doctor", "/admin/audit",
    "/admin/people?user=alice@example.com", "/admin/transfers?order=size",
    "/history?of=everyone", "/recordings", "/history/usage?of=everyone", "/desktops/alice-ubuntu",
)  # fmt: skip
HANGS = {
    "type": "PodReady",
    "status": "False",
    "reason": "NotResponding",
    "message": "The desktop was ready, but now it does not answer its health check in time.",
    "lastTransitionTime": "2026-11-20T11:54:00Z",
}
ENDED = "You ended it at 2026-11-20T11:54:00Z. Files in your home folder are kept."
_EDGE_FILES = Path(vdi.gateway.edge.__file__).parent / "static"


def other_pages(server: Server) -> dict[str, str]:
    """Pages of the login, of the account, and of a desktop's host, by the path that `serve_others`
    gives them.
    """
    renderer, now = Renderer(server.stage.settings), server.stage.clock.wall
    host = f"portal.{server.stage.settings.domain}:{server.port}"
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "query_string": b"",
        "headers": [(b"host", host.encode())],
    }

    def fill(template: str, **context: Any) -> str:
        return renderer.fill(Request(scope), template, **context)

    def waiting(status: dict[str, Any], **spec: Any) -> str:
        return wait_page(a_session("alice-maps", status=status, **spec))

    def wait_page(session: VDISession) -> str:
        stage = describe_stage(session, Role.OWNER)
        note = "Files here are deleted when this desktop ends." if stage.key == "starting" else ""
        shown = {"stage": stage, "resume": "/.vdi/resume?next=/", "now": now, "files_note": note}
        shown["recording_note"] = "This desktop is recorded." if stage.key == "starting" else ""
        page = {"next": "/", "opens": "/", "health": "/", "why": "", "name": session.metadata.name}
        return fill("wait.html", **shown, **page, owner="")

    of_alice: dict[str, Any] = {
        "id": ALICE.login_id,
        "user": ALICE.email,
        "name": ALICE.name,
        "groups": frozenset(),
        "admin": False,
        "source": "local",
        "created": now - timedelta(hours=3),
        "seen": now,
        "expires": now + timedelta(days=1),
    }
    login = Login(address="203.0.113.7", agent="", **of_alice)
    other_login = msgspec.structs.replace(
        login,
        id="2",
        address="198.51.100.24",
        created=now - timedelta(days=3),
        seen=now - timedelta(hours=15),
    )
    token = ApiToken(label="nightly backup", **of_alice)
    token = msgspec.structs.replace(
        token,
        created=now - timedelta(days=6),
        seen=now - timedelta(hours=10),
        expires=now + timedelta(days=24),
    )

    def account(**context: Any) -> str:
        shown: dict[str, Any] = {
            "user": ALICE,
            "logins": [(login, "Firefox on Linux"), (other_login, "Chrome on Android")],
            "notices": KINDS,
            "subscribed": {"session.ready"},
            "tokens": [token],
            "lifetimes": LIFETIMES,
            "drivable": {"u": "alice-ubuntu"},
            "now": now,
            **dict.fromkeys(("error", "done", "new_token", "new_label"), ""),
        }
        return fill("account.html", **shown | context)

    queued = server.stage.world.session("alice-training")
    assert queued is not None
    brand = Brand(terms="Be good.\n" * 60, support_url="mailto:a@b.c")
    over_websocket = {"page": "/", "waits": "/.vdi/wait?next=/", "may_switch": True}
    login_page = {"next_page": "/", "provider_url": "/login/oidc", "email": ""}
    return {
        "/of/login": fill(
            "login.html", notice="", provider="Example", with_password=True, **login_page
        ),
        "/of/login-refused": fill(
            "login.html", notice="Wrong.", provider="", with_password=True, **login_page
        ),
        "/of/terms": fill("terms.html", next_page="/", brand=brand),
        "/of/login-problem": fill(
            "login_problem.html", message="Example did not sign you in.", again="/login"
        ),
        "/of/logged-out": fill(
            "logged_out.html", provider="Example", provider_url="https://sso.example.com"
        ),
        "/of/account": account(),
        "/of/account-of-admin": account(user=ADMIN, new_token="vdi_secret", new_label="backup"),
        "/of/cli-authorize": fill(
            "cli_authorize.html", user=ALICE, asked={}, days=30, client="laptop"
        ),
        "/of/cli-done": fill("cli_done.html", back="", code="1234"),
        "/of/wait-queued": wait_page(queued),
        "/of/wait-starting": waiting(
            {"phase": "Creating", "message": "The image is being fetched."}
        ),
        "/of/wait-failed": waiting({"phase": "Failed", "message": "The image is missing."}),
        "/of/wait-hangs": waiting({"phase": "Creating", "conditions": [HANGS]}),
        "/of/wait-suspended": waiting({"phase": "Suspended"}, suspended=True),
        "/of/door": fill("door.html", title="No access", message="m", again="/", start="", now=now),
        "/of/ended": fill(
            "door.html", title="Ended", message=ENDED, again="", start="blender", now=now
        ),
        "/of/transport": fill(
            "transport.html", name="alice-maps", owner="", why="No server.", **over_websocket
        ),
    }


def serve_others(page: Page, server: Server, *scripts: str) -> list[str]:
    """Let this browser find the other pages, and their files; gives their paths. Of the edge's
    scripts, only `scripts` are not empty.
    """
    pages = other_pages(server)

    def script(route: Route) -> None:
        name = urlsplit(route.request.url).path.rpartition("/")[2]
        body = (_EDGE_FILES / name).read_text() if name in scripts else ""
        route.fulfill(body=body, content_type="text/javascript")

    page.route(re.compile(r"/static/(wait|transport)\.js"), script)
    page.route(
        f"{server.url}/of/*",
        lambda route: route.fulfill(
            body=pages[urlsplit(route.request.url).path], content_type="text/html"
        ),
    )
    return [*pages]
