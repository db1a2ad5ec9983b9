"""The gateway for tests of the edge: alice's session, states that the watch brings, and a stand-in
for Traefik.
"""

import asyncio
import json
from contextlib import suppress
from typing import Any, Self

import httpx
import msgspec
from starlette.requests import Request

from support import builders
from support.waiting import PATIENCE
from unit.gateway.gateway_stage import NAVIGATION, Browser, GatewayStage, begin_login
from vdi.api.session import Access, Phase, VDISession
from vdi.gateway.cluster_cache import ClusterCache
from vdi.gateway.login.logins import Identity
from vdi.gateway.settings import Settings
from vdi.gateway.store.database import metadata

SETTINGS = Settings(url_port=8443)
PORTAL = SETTINGS.portal_url
HOST = SETTINGS.host("alice-desktop")
RESUMED = ("session.resume", "done")
OWNER, GUEST, STRANGER = "alice@example.com", "bob@example.com", "mallory@example.com"
HANDSHAKE = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}


def a_session(name: str = "alice-desktop", user: str = OWNER) -> VDISession:
    """A session that runs."""
    status = {"phase": "Running", "podName": name, "readyTime": "2026-11-20T11:59:00Z"}
    return builders.a_session(
        name, user=user, template="office", status=status, created="2026-11-20T11:58:00Z"
    )


def shared_with(user: str, role: str, expires: str | None = None) -> dict[str, Any]:
    """A spec that shares the session."""
    return {"access": [Access(user=user, role=role, **({"expires": expires} if expires else {}))]}


def changed(session: VDISession, **parts: Any) -> VDISession:
    """The next state of a session: `spec`, `status` and `metadata` with these fields changed."""
    version = str(int(session.metadata.resource_version) + 1)
    return VDISession(
        metadata=msgspec.structs.replace(
            session.metadata, **{"resource_version": version, **parts.get("metadata", {})}
        ),
        spec=msgspec.structs.replace(session.spec, **parts.get("spec", {})),
        status=msgspec.structs.replace(session.status, **parts.get("status", {})),
    )


def publish(world: ClusterCache, session: VDISession) -> VDISession:
    """The watch brings this state, with the address that the operator has given it."""
    url = session.status.url or world.settings.url(world.settings.host(session.metadata.name))
    session = VDISession(
        session.metadata, session.spec, msgspec.structs.replace(session.status, url=url)
    )
    world.sessions.observe(session)
    return session


class EdgeStage(GatewayStage):
    """The gateway with alice's session `alice-desktop`, and Traefik as far as it matters here."""

    def __init__(
        self,
        *,
        settings: Settings = SETTINGS,
        selkies: Any = lambda _: "http://127.0.0.1:9",
        **more: Any,
    ) -> None:
        super().__init__(settings=settings, selkies=selkies, **more)
        self.world.templates.observe(builders.a_template("office"))
        self.add(a_session())

    async def __aenter__(self) -> Self:
        if self.memory is None:
            async with self.database.begin() as connection:
                await connection.run_sync(metadata.create_all)
        await self.edge.ring.refresh()
        await self.edge.revoker.poll()
        return self

    @property
    def resumed(self) -> list[tuple[str, str]]:
        """Who resumed which session."""
        return [
            (actor, target)
            for actor, action, target, outcome in self.acts
            if (action, outcome) == RESUMED
        ]

    @property
    def session(self) -> VDISession:
        """Alice's, as this gateway knows it."""
        session = self.world.session("alice-desktop")
        assert session is not None
        return session

    def transport(self) -> httpx.AsyncBaseTransport:
        return FakeTraefik(self)

    def add(self, session: VDISession) -> VDISession:
        """A session."""
        return publish(self.world, session)

    def change(self, **parts: Any) -> VDISession:
        """The watch brings the next state of alice's session."""
        return self.add(changed(self.session, **parts))

    def browser(self) -> Browser:
        """A new browser, behind Traefik."""
        return self.new_browser(**NAVIGATION)

    async def logged_in(self, user: str, **who: Any) -> Browser:
        """A browser whose user has logged in at the portal."""
        browser = self.browser()
        await begin_login(browser, self.logins, Identity(user=user, **who))
        return browser

    async def entered(self, user: str = OWNER, **who: Any) -> Browser:
        """A browser of this user, led into alice's desktop, or as far as it gets."""
        browser = await self.logged_in(user, **who)
        await browser.open(address())
        return browser

    async def verify(self, host: str, uri: str = "/", **headers: str | list[str]) -> httpx.Response:
        """Ask `/edge/verify` as Traefik does; a list sends the header several times."""
        asked = {"X-Forwarded-Host": host, "X-Forwarded-Uri": uri, "X-Forwarded-Method": "GET"}
        raw = [
            (name.encode(), one.encode())
            for name, value in {**asked, **headers}.items()
            for one in (value if isinstance(value, list) else [value])
        ]
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(self.internal), base_url="http://edge"
        ) as client:
            return await client.get("/edge/verify", headers=raw)


class FakeTraefik(httpx.AsyncBaseTransport):
    """What Traefik does with our routes: `/.vdi/` and hosts without a live route to the gateway,
    the rest past it.
    """

    def __init__(self, stage: EdgeStage) -> None:
        self._stage = stage
        self._public = httpx.ASGITransport(stage.public, client=("10.0.0.5", 1))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        session = self._stage.world.by_host(request.url.host)
        routed = session is not None and session.status.phase in (Phase.CREATING, Phase.RUNNING)
        if not routed or request.url.path.startswith("/.vdi/"):
            return await self._public.handle_async_request(request)
        passed = {
            name: value
            for name, value in request.headers.items()
            if name in ("accept", "cookie", "origin") or name.startswith("sec-")
        }
        uri = request.url.raw_path.decode()
        answer = await self._stage.verify(
            request.url.host, uri, **{**passed, "X-Forwarded-Method": request.method}
        )
        if answer.status_code != 200:
            return httpx.Response(
                answer.status_code, headers=answer.headers.raw, content=answer.content
            )
        cookies = [
            (b"set-cookie", value.encode()) for value in answer.headers.get_list("set-cookie")
        ]
        seen = {
            name: answer.headers.get(name)
            for name in ("authorization", "cookie", "sec-websocket-protocol")
        }
        return httpx.Response(200, headers=cookies, json={"desktop": request.url.host, **seen})


def address(session: str = "alice-desktop", path: str = "/") -> str:
    """The URL of a desktop."""
    return SETTINGS.url(SETTINGS.host(session)) + path


async def browser_events(
    stage: EdgeStage, browser: Browser, *then: Any, most: int = 1
) -> list[dict[str, str]]:
    """What the page hears: the first stage, and one for each of `then`, which are called one after
    the other.
    """
    found: list[dict[str, str]] = []
    actions = list(then)
    admitted = await stage.edge._waiting.authorizer.admit_request(_request(stage, browser))
    assert admitted is not None
    stream = stage.edge._waiting._stages(_request(stage, browser), admitted)
    with suppress(StopAsyncIteration):
        while len(found) < most:
            async with asyncio.timeout(PATIENCE):
                chunk = (await anext(stream)).decode()
            found.append(json.loads(chunk.partition("data: ")[2]))
            if actions:
                actions.pop(0)()
    await stream.aclose()  # type: ignore[attr-defined]
    return found


def _request(stage: EdgeStage, browser: Browser) -> Request:
    host = SETTINGS.host("alice-desktop")
    headers = [(b"host", host.encode()), (b"cookie", browser.stolen(host).encode())]
    return Request(
        {"type": "http", "method": "GET", "headers": headers, "query_string": b"", "path": "/"}
    )
