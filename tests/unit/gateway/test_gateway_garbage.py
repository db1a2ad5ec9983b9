"""Every route there is, asked with garbage by everybody: refused in words, never a fault of ours, never an answer
without its guard."""

import random
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import BaseRoute, Route

from support.database import sqlite_with_tables
from support.passwords import HASHER
from support.waiting import eventually
from unit.kube.kube_fake_api import FakeApi, fake_api
from vdi.api.meta import RELEASE_NAMESPACE
from vdi.gateway.app import Gateway, build_internal, build_public, open_gateway
from vdi.gateway.edge.revocation import Revoker
from vdi.gateway.login.local_users import Passwords
from vdi.gateway.login.logins import Device, Identity
from vdi.gateway.settings import Settings
from vdi.gateway.web import credentials
from vdi.gateway.web.credentials import LOGIN_COOKIE

GARBAGE = (
    "x", "", "..", "%2e%2e%2f%2e%2e", "a/b", "a%00b", "a%0d%0aSet-Cookie:%20x=y", "<script>alert(1)</script>",
    "%F0%9F%92%A5", "%ff%fe", "' OR 1=1--", "{{7*7}}", "-1", "9" * 400, "null", "true", "[]", "2026-13-99T99:99:99Z",
    "alice-desktop", "alice@example.com", "https://evil.example/", "//evil.example", "\\\\evil.example",
    "javascript:alert(1)",
)  # fmt: skip
PARAMETERS = (
    "next", "view", "name", "host", "state", "ticket", "limit", "month", "code", "before", "cursor", "what", "format"
)  # fmt: skip
BODIES = (
    (b"", None), (b"{", "application/json"), (b"[]", "application/json"), (b"null", "application/json"),
    (b'{"template": 1, "user": []}', "application/json"), (b"\xff\xfe{}", "application/json"),
    (b"[" * 5000, "application/json"), (b'{"name": "' + b"\\u0000" * 100 + b'"}', "application/json"),
    (b"a=b&a=c&user[]=x&role=%ff&expires=never&length=%00", "application/x-www-form-urlencoded"),
    (b"--x\r\nContent-Disposition: form-data; name=a; filename=b\r\n\r\nc\r\n--x--", "multipart/form-data; boundary=x"),
    (b"--", "multipart/form-data"), (b"<x/>", "text/xml"),
)  # fmt: skip
STREAMS = ("/events", "/.vdi/events")


@dataclass
class Played:
    gateway: Gateway
    public: Any
    internal: Any
    cookies: dict[str, str]


@asynccontextmanager
async def playing(api: FakeApi, folder: Path) -> AsyncIterator[Played]:
    settings = Settings(database_url=sqlite_with_tables(folder / "vdi.db"))
    api.put("secrets", "vdi-gateway-keys", namespace=RELEASE_NAMESPACE)
    spec = {"image": "registry.example.com/desktop:1"}
    api.put("vditemplates", "desktop", namespace="", spec=spec)
    for name, user in (("alice-desktop", "alice@example.com"), ("bobs", "bob@example.com")):
        session = {"user": user, "template": "desktop"}
        status = {"url": settings.url(settings.host(name))}
        metadata = {"creationTimestamp": "2026-11-20T08:00:00Z"}
        api.put("vdisessions", name, namespace=settings.namespaces[0], metadata=metadata, spec=session, status=status)
    async with open_gateway(api.config(), settings, passwords=Passwords(HASHER)) as gateway:
        await eventually(lambda: gateway.health.begun and gateway.edge.ready, "it has begun")
        cookies = {"nobody": ""}
        for who, admin in (("alice", False), ("root", True)):
            identity = Identity(user=f"{who}@example.com", name=who, admin=admin)
            cookies[who], _ = await gateway.login.services.logins.begin(identity, Device())
        yield Played(
            gateway,
            build_public(gateway.context, gateway.components, gateway.health),
            build_internal(gateway.context, gateway.components, gateway.health),
            cookies,
        )


def addresses(routes: list[BaseRoute]) -> Iterator[tuple[str, set[str]]]:
    for route in routes:
        if isinstance(route, Route):
            yield route.path, set(route.methods or {"GET", "POST", "PUT", "PATCH", "DELETE"})


def filled(path: str, chance: random.Random) -> str:
    return re.sub(r"{[^}]*}", lambda _: chance.choice(GARBAGE) or "x", path)


class Asker:
    """Asks one app, and judges each answer by what all of them must have in common."""

    def __init__(self, app: Any, played: Played, host: str) -> None:
        self._transport = httpx.ASGITransport(app=app)  # a fault is raised here, not hidden in a 500
        self._origin = f"https://{host}"
        self._played = played

    async def ask(self, method: str, path: str, who: str, chance: random.Random) -> httpx.Response:
        body, kind = chance.choice(BODIES) if method not in ("GET", "HEAD") else (b"", None)
        secret = self._played.cookies[who]
        headers = {
            "Accept": chance.choice(("text/html", "*/*")),
            "Origin": self._origin,
            "Sec-Fetch-Site": "same-origin",
        }
        if kind:
            headers["Content-Type"] = kind
        if secret:
            headers |= {"Cookie": f"{LOGIN_COOKIE}={secret}", "X-CSRF-Token": credentials.make_csrf_token(secret)}
        query = f"?{chance.choice(PARAMETERS)}={chance.choice(GARBAGE)}"
        async with httpx.AsyncClient(transport=self._transport, base_url=self._origin) as client:
            answer = await client.request(method, path + query.replace(" ", "%20"), content=body, headers=headers)
        what = f"{method} {path}{query} by {who} with {body[:40]!r}: {answer.status_code}"
        assert answer.status_code != 500, what
        is_page = answer.headers.get("content-type", "").startswith("text/html")
        assert not (is_page and "<script>alert" in answer.text), what
        location = answer.headers.get("location", "/")
        assert re.match(r"/(?![/\\])|https://([a-z0-9-]+\.)?vdi\.localhost(/|$)", location), f"{what} {location}"
        assert "x=y" not in answer.headers.get("set-cookie", ""), what
        return answer


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    async with fake_api() as api:
        yield api


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2))])
@pytest.mark.timeout(30)
async def test_no_request_is_a_fault_of_ours(api: FakeApi, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    async with playing(api, tmp_path) as played:
        for part_routes, app, host in (
            ("portal_routes", played.public, "portal.vdi.localhost"),
            ("desktop_routes", played.public, "alice-desktop.vdi.localhost"),
            ("internal_routes", played.internal, "vdi-gateway.kasm.svc"),
        ):
            asker = Asker(app, played, host)
            parts = (played.gateway.health, *played.gateway.components)
            routes = [route for component in parts for route in getattr(component, part_routes)()]
            assert routes
            for path, methods in addresses(routes):
                for method in sorted(methods):
                    for who in played.cookies:
                        if path in STREAMS or path.endswith("/events"):
                            continue  # they answer for ever where they answer
                        answer = await asker.ask(method, filled(path, chance), who, chance)
                        if app is played.public:
                            assert "default-src 'none'" in answer.headers["content-security-policy"]
                            assert answer.headers["x-content-type-options"] == "nosniff"


# What the portal answers to whoever comes. Everything else asks who it is: a page that forgets to is found here.
OPEN = {
    "/login", "/login/oidc", "/login/oidc/back", "/.well-known/jwks.json", "/static/{name:path}",
    "/api/docs", "/api/v1/openapi.json", "/cli/token", "/api/{rest:path}",
}  # fmt: skip


def is_refused(answer: httpx.Response) -> bool:
    return answer.status_code in (401, 403, 405) or answer.headers.get("location", "").startswith("/login")


async def test_every_page_but_these_asks_who_it_is(api: FakeApi, tmp_path: Path) -> None:
    chance = random.Random(1)
    async with playing(api, tmp_path) as played:
        asker = Asker(played.public, played, "portal.vdi.localhost")
        routes = [route for component in played.gateway.components for route in component.portal_routes()]
        unguarded = set()
        for path, methods in addresses(routes):
            for method in methods:
                address = re.sub(r"{[^}]*}", "x", path)
                answers = [await asker.ask(method, address, "nobody", chance) for _ in range(4)]
                refused = [is_refused(answer) for answer in answers]
                # 400 is about the body alone; whether the address asks who it is, the other answers say.
                if not any(refused) or any(
                    not refusal and answer.status_code != 400 for answer, refusal in zip(answers, refused, strict=True)
                ):
                    unguarded.add(path)
        assert unguarded == OPEN


async def test_a_login_that_ends_without_a_request_ends_its_ways_into_desktops(
    api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time is over, its user was removed: what it has open must not wait until the browser asks again."""
    ended: list[str] = []

    async def end(_revoker: Revoker, *, login_id: str) -> int:
        ended.append(login_id)
        return 1

    monkeypatch.setattr(Revoker, "end", end)
    async with playing(api, tmp_path) as played:
        await played.gateway.login.services.sign_out.end_grants_of(["that-login"])
    assert ended == ["that-login"]
