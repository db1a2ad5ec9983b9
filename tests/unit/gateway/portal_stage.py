"""The gateway as tests of the portal's pages have it: people, sessions, and a browser that sends
forms.
"""

import asyncio
import re
from datetime import datetime
from functools import partial
from typing import Any

import httpx

from support import builders
from support.csrf import csrf_of
from unit.gateway.gateway_stage import PORTAL, GatewayStage
from vdi.api.pool import VDIPool
from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.gateway.rights import User
from vdi.gateway.store.logins import logins

ALICE = User("alice@example.com", "Alice Archer", login_id="login-alice")
BOB = User("bob@example.com", "Bob", login_id="login-bob")
ADMIN = User("root@example.com", "Root", admin=True, login_id="login-root")
PNG = "data:image/png;base64,iVBORw0KGgo="


a_session = partial(builders.a_session, template="ubuntu", created="2026-11-20T09:00:00Z")


def running(name: str = "alice-desktop", **rest: Any) -> VDISession:
    """A session whose desktop runs; `status` adds to that."""
    status = {
        "phase": "Running",
        "url": f"https://{name}.vdi.localhost",
        "startTime": "2026-11-20T09:00:00Z",
        "expiresAt": "2026-11-20T17:00:00Z",
        "podName": name,
        "nodeName": "gpu-node-1",
    }
    return a_session(name, status=status | rest.pop("status", {}), **rest)


def a_template(name: str = "ubuntu", **spec: Any) -> VDITemplate:
    """A template with a name that people read."""
    return builders.a_template(name, **{"displayName": name.title()} | spec)


class PortalStage(GatewayStage):
    """The gateway, and browsers in which people are logged in; the watch has brought `objects`."""

    def __init__(self, *objects: VDISession | VDITemplate | VDIPool, **options: Any) -> None:
        super().__init__(**options)
        self.put(*objects)

    def browser(self, person: User | None = ALICE) -> "PageBrowser":
        """A browser in which this person is logged in."""
        return PageBrowser(self.new_browser(person))

    @property
    def last_seen(self) -> datetime:
        """When a login was used last."""
        seen: datetime = max(row.seen for row in self.rows.rows(logins))
        return seen


class PageBrowser:
    """Reads pages and sends their forms."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.client.get(path, headers=headers)

    async def html(self, path: str) -> str:
        return (await self.get(path)).text

    async def text(self, path: str) -> str:
        """What a person reads on this page."""
        return text_of(await self.html(path))

    async def post(
        self,
        path: str,
        *,
        at: str = "/account-is-not-here",
        token: str | None = None,
        **fields: str,
    ) -> httpx.Response:
        """Send a form as the page `at` shows it; `token` None: the one of that page."""
        if token is None:
            token = csrf_of((await self.get(at)).text)
        headers = {"Origin": PORTAL, "Sec-Fetch-Site": "same-origin"}
        return await self.client.post(path, data={"csrf": token, **fields}, headers=headers)


def text_of(page: str) -> str:
    """What a person reads, more or less."""
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


async def settle() -> None:
    """Let what is waiting for the event loop run."""
    for _ in range(10):
        await asyncio.sleep(0)
