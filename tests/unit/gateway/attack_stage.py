"""The whole gateway before a cluster that a test has made, for attacks that walk its route tables:
real login, real database in a file, and every route that there is, so that a new one cannot be
forgotten.
"""

import base64
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from aiohttp import web
from sqlalchemy import func, select
from starlette.routing import BaseRoute, Route

from support.database import sqlite_with_tables
from support.desktop_key import DATA
from support.passwords import HASHER, users_file
from support.waiting import eventually
from support.web_server import serve_app
from unit.gateway.gateway_stage import PORTAL, Browser, begin_login
from unit.gateway.login_stage import user
from unit.kube.kube_fake_api import FakeApi, fake_api
from vdi.api.meta import RELEASE_NAMESPACE
from vdi.gateway.api.component import OPERATIONS
from vdi.gateway.api.operation import PREFIX
from vdi.gateway.app import Gateway, build_internal, build_public, open_gateway
from vdi.gateway.login.local_users import USERS_KEY, Passwords
from vdi.gateway.login.logins import SOURCE_OIDC, Device, Identity
from vdi.gateway.settings import Settings
from vdi.gateway.store.database import metadata
from vdi.gateway.web import credentials
from vdi.session.credentials import KEY_SECRET

DESKTOP = "https://alice-desktop.vdi.localhost"
ALICE = Identity(
    user="alice@example.com", name="Alice", admin=True, source=SOURCE_OIDC, subject="1"
)
BOB = Identity(user="bob@example.com", source=SOURCE_OIDC, subject="2")
READS = frozenset({"GET", "HEAD", "OPTIONS"})
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True)
class Way:
    """One method of one route."""

    method: str
    path: str

    def filled(self, **values: str) -> str:
        """Its path with these values; `x` for what is not among them."""
        return re.sub(r"{([^}:]*)[^}]*}", lambda name: values.get(name[1], "x"), self.path)


@dataclass
class AttackStage:
    """What an attack needs to know."""

    gateway: Gateway
    api: FakeApi
    public: Any
    internal: Any

    def browser(self) -> Browser:
        """One that no one has logged in with. Internal error of the gateway is raised in the
        test.
        """
        return Browser(
            transport=httpx.ASGITransport(self.public, client=("10.0.0.5", 1)), base_url=PORTAL
        )

    async def logged_in(self, who: Identity = ALICE, device: Device | None = None) -> Browser:
        """One with a login."""
        browser = self.browser()
        await begin_login(browser, self.gateway.login.services.logins, who, device)
        return browser

    def ways(self, table: str = "portal_routes") -> list[Way]:
        """Every method of every route in one of the parts' tables."""
        routes = [
            route
            for component in self.gateway.components
            for route in getattr(component, table, tuple)()
        ]
        assert routes
        return list(dict.fromkeys(way for route in routes for way in ways_of(route)))

    async def verify(self, uri: str, **headers: str) -> httpx.Response:
        """Ask the edge for alice's desktop, as Traefik does."""
        asked = {
            "X-Forwarded-Host": DESKTOP.removeprefix("https://"),
            "X-Forwarded-Uri": uri,
            **headers,
        }
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(self.internal), base_url="http://edge"
        ) as traefik:
            return await traefik.get("/edge/verify", headers={"X-Forwarded-Method": "GET", **asked})

    async def footprint(self) -> dict[str, Any]:
        """Everything that a request may have changed: objects in the cluster, rows in the
        database.
        """
        rows: dict[str, Any] = {}
        async with self.gateway.context.database.connect() as connection:
            for name in ("logins", "api_tokens", "grants", "audit"):
                table = metadata.tables[name]
                rows[name] = (
                    await connection.execute(select(func.count()).select_from(table))
                ).scalar()
                if "ended" in table.c:
                    ended = select(func.count()).where(table.c.ended.is_not(None))
                    rows[f"{name} ended"] = (await connection.execute(ended)).scalar()
        return {"cluster": self.api.version, **rows}


def ways_of(route: BaseRoute) -> Iterator[Way]:
    assert isinstance(route, Route), f"{route}: of no kind that is known here"
    if route.methods is not None:
        methods = set(route.methods)
    elif route.path.startswith(PREFIX):  # an address of the API, which knows its methods itself
        methods = {
            operation.method for operation in OPERATIONS if PREFIX + operation.path == route.path
        }
        assert methods, f"{route.path}: which methods does it answer?"
    else:
        methods = set(METHODS)
    for method in sorted(methods):
        yield Way(method, route.path)


def form_token(browser: Browser) -> str:
    """What a form of ours would hold for this browser's login."""
    return credentials.make_csrf_token(browser.secret)


def furnish(api: FakeApi) -> None:
    """Users, keys, and a desktop of alice's that runs."""
    users = {"alice@example.com": user(admin=True), "bob@example.com": user()}
    encoded = base64.b64encode(users_file(users).encode()).decode()
    api.put("secrets", "vdi-gateway-users", namespace=RELEASE_NAMESPACE, data={USERS_KEY: encoded})
    api.put("secrets", "vdi-gateway-keys", namespace=RELEASE_NAMESPACE)
    api.put("secrets", KEY_SECRET, namespace=RELEASE_NAMESPACE, data=DATA)
    api.put(
        "vditemplates", "desktop", namespace="", spec={"image": "registry.example.com/desktop:1"}
    )
    api.put(
        "vdisessions",
        "alice-desktop",
        namespace="vdi-sessions",
        metadata={"creationTimestamp": "2026-11-20T08:00:00Z"},
        spec={"user": "alice@example.com", "template": "desktop"},
        status={"phase": "Running", "url": DESKTOP, "podName": "alice-desktop"},
    )


def _agent() -> web.Application:
    name = quote("\u202e\"'><zzprobe onzzprobe=1></title><script>&path=..")
    entry = {"name": name, "kind": "folder", "sizeBytes": 1, "modified": 0}
    folder = {"entries": [entry], "isCut": True, "usedBytes": 2, "sizeBytes": 1}

    async def list_files(_: web.Request) -> web.Response:
        return web.json_response(folder)

    app = web.Application()
    app.router.add_get("/files", list_files)
    return app


@asynccontextmanager
async def open_attack_stage(api: FakeApi, folder: Path) -> AsyncIterator[AttackStage]:
    """The gateway, once it lets people in; the agents in its desktops know nothing but a file with
    a hostile name.
    """
    settings = Settings(database_url=sqlite_with_tables(folder / "vdi.db"))
    async with (
        serve_app(_agent()) as port,
        open_gateway(api.config(), settings, passwords=Passwords(HASHER)) as gateway,
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "vdi.gateway.desktop.agent.desktop_url", lambda *_: f"http://127.0.0.1:{port}"
            )
            await eventually(
                lambda: gateway.health.begun and gateway.edge.ready, "the gateway has begun"
            )
            yield AttackStage(gateway, api, build_public(gateway), build_internal(gateway))


@asynccontextmanager
async def furnished_attack_stage(folder: Path) -> AsyncIterator[AttackStage]:
    """An attack stage on an API server of its own, which has what `furnish` puts there."""
    async with fake_api() as api:
        furnish(api)
        async with open_attack_stage(api, folder) as stage:
            yield stage
