"""Every route there is, asked with garbage by everybody: refused in words, never a fault of ours,
never an answer without its guard.
"""

import random
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from unit.gateway.attack_stage import ALICE, BOB, METHODS, AttackStage, Way, furnished_attack_stage
from vdi.gateway.api.operation import PREFIX
from vdi.gateway.login.logins import Device
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
STREAMS = ("/events", "/.vdi/events", "/.vdi/presence")


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[AttackStage]:
    async with furnished_attack_stage(tmp_path) as stage:
        yield stage


def ways(stage: AttackStage, table: str = "portal_routes") -> list[Way]:
    """All of this table. An address of the API refuses methods that it lacks by itself, so it gets
    every method.
    """
    listed = stage.ways(table)
    others = [
        Way(method, way.path) for way in listed if way.path.startswith(PREFIX) for method in METHODS
    ]
    return list(dict.fromkeys([*listed, *others]))


async def cookies_of(stage: AttackStage) -> list[str]:
    """Login cookies of no one, a user and an administrator."""
    logins = stage.gateway.login.services.logins
    return ["", *[(await logins.begin(who, Device()))[0] for who in (BOB, ALICE)]]


class Asker:
    """Asks one app, and judges each answer by what all of them must have in common."""

    def __init__(self, app: Any, host: str, seed: int) -> None:
        # A fault is raised here, not hidden in a 500.
        self._transport = httpx.ASGITransport(app=app)
        self._origin = f"https://{host}"
        self._chance = random.Random(seed)

    async def ask(self, way: Way, secret: str, garbage: str = "") -> httpx.Response:
        """One request with a login's cookie; `garbage`: what stands in the path, by chance if
        empty.
        """
        chance, method = self._chance, way.method
        path = re.sub(r"{[^}]*}", lambda _: garbage or chance.choice(GARBAGE) or "x", way.path)
        body, kind = chance.choice(BODIES) if method not in ("GET", "HEAD") else (b"", None)
        headers = {
            "Accept": chance.choice(("text/html", "*/*")),
            "Origin": self._origin,
            "Sec-Fetch-Site": "same-origin",
        }
        if kind:
            headers["Content-Type"] = kind
        if secret:
            headers |= {
                "Cookie": f"{LOGIN_COOKIE}={secret}",
                "X-CSRF-Token": credentials.make_csrf_token(secret),
            }
        query = f"?{chance.choice(PARAMETERS)}={chance.choice(GARBAGE)}"
        async with httpx.AsyncClient(transport=self._transport, base_url=self._origin) as client:
            answer = await client.request(
                method, path + query.replace(" ", "%20"), content=body, headers=headers
            )
        what = f"{method} {path}{query} with {secret[:4]} and {body[:40]!r}: {answer.status_code}"
        assert answer.status_code != 500, what
        is_page = answer.headers.get("content-type", "").startswith("text/html")
        assert not (is_page and "<script>alert" in answer.text), what
        location = answer.headers.get("location", "/")
        assert re.match(r"/(?![/\\])|https://([a-z0-9-]+\.)?vdi\.localhost(/|$)", location), (
            f"{what} {location}"
        )
        assert "x=y" not in answer.headers.get("set-cookie", ""), what
        return answer


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.timeout(30)
async def test_no_request_is_a_fault_of_ours(stage: AttackStage, seed: int) -> None:
    cookies = await cookies_of(stage)
    for table, app, host in (
        ("portal_routes", stage.public, "portal.vdi.localhost"),
        ("desktop_routes", stage.public, "alice-desktop.vdi.localhost"),
        ("internal_routes", stage.internal, "vdi-gateway.kasm.svc"),
    ):
        asker = Asker(app, host, seed)
        for way in ways(stage, table):
            if way.path in STREAMS or way.path.endswith("/events"):
                continue  # they answer for ever where they answer
            for secret in cookies:
                answer = await asker.ask(way, secret)
                if app is stage.public:
                    assert "default-src 'none'" in answer.headers["content-security-policy"]
                    assert answer.headers["x-content-type-options"] == "nosniff"


# What the portal answers to whoever comes. Everything else asks who it is: a page that forgets to
# is found here.
OPEN = {
    "/login", "/login/oidc", "/login/oidc/back", "/logged-out", "/.well-known/jwks.json", "/static/{name:path}",
    "/api/docs", "/api/v1/openapi.json", "/cli/token", "/api/{rest:path}",
}  # fmt: skip


def is_refused(answer: httpx.Response) -> bool:
    return answer.status_code in (401, 403, 405) or answer.headers.get("location", "").startswith(
        "/login"
    )


async def test_every_page_but_these_asks_who_it_is(stage: AttackStage) -> None:
    asker = Asker(stage.public, "portal.vdi.localhost", 1)
    unguarded = set()
    for way in ways(stage):
        answers = [await asker.ask(way, "", "x") for _ in range(4)]
        # 400 is about the body alone; whether the address asks who it is, the other answers say.
        told = [is_refused(answer) for answer in answers if answer.status_code != 400]
        if not told or not all(told):
            unguarded.add(way.path)
    assert unguarded == OPEN
