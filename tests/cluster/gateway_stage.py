"""Stage of the gateway's cluster tests: a real gateway, in this process or as one of its own, for a
`Stage`.

    async with open_gateway_stage(stage, folder) as gateway:
        alice = await gateway.log_in("alice@example.com")
        answer = await alice.get("/")                              # the portal
        answer = await alice.get(gateway.desktop("alice-desktop")) # a desktop's host

There is no Traefik here: a client speaks to the public listener with the Host that Traefik would
pass on, and `gateway.verify(...)` to the internal one as Traefik's forwardAuth does.
"""

import asyncio
import base64
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import msgspec
import yaml

from cluster.operator_stage import Object, Stage
from support.csrf import csrf_of
from support.metrics_token import AUTHORIZATION, token_file
from support.passwords import HASHER, users_file
from support.waiting import PATIENCE, eventually
from vdi.gateway.login.local_users import USERS_KEY, LocalUser
from vdi.gateway.settings import Settings
from vdi.kube.errors import AlreadyExists
from vdi.kube.resource import SECRETS

PASSWORD = "correct horse battery"
# Who can log in, all with PASSWORD.
PEOPLE: dict[str, dict[str, Any]] = {
    "alice@example.com": {"name": "Alice"},
    "bob@example.com": {"name": "Bob", "groups": ["staff"]},
    "eve@example.com": {"name": "Eve"},
    "root@example.com": {"name": "Root", "admin": True},
}
READY_SECONDS = 120.0
# For clients of plain HTTP: httpx reads its certificate authorities for each of them otherwise, 20
# ms of CPU.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class AsTraefik(httpx.AsyncBaseTransport):
    """Sends `https://HOST/...` to a gateway's public port as plain HTTP with this Host, to each
    replica in turn.
    """

    def __init__(self, *ports: int, address: str = "203.0.113.7") -> None:
        self.ports = list(ports)
        self._address = address.encode()
        self._turn = 0
        self._inner = httpx.AsyncHTTPTransport(verify=NO_TLS)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._turn += 1
        port = self.ports[self._turn % len(self.ports)]
        url = request.url.copy_with(scheme="http", host="127.0.0.1", port=port)
        headers = [
            (name, value)
            for name, value in request.headers.raw
            if name.lower() != b"x-forwarded-for"
        ]
        inner = httpx.Request(
            request.method,
            url,
            headers=[
                *headers,
                (b"X-Forwarded-For", self._address),
                (b"X-Forwarded-Proto", b"https"),
            ],
            stream=request.stream,
            extensions=request.extensions,
        )
        return await self._inner.handle_async_request(inner)

    async def aclose(self) -> None:
        await self._inner.aclose()


@dataclass
class GatewayStage:
    """One running gateway."""

    stage: Stage
    settings: Settings
    public: int
    internal: int
    stack: AsyncExitStack = field(repr=False, default_factory=AsyncExitStack)

    @property
    def portal(self) -> str:
        """URL of the portal."""
        return self.settings.portal_url

    def desktop(self, label: str) -> str:
        """URL of a desktop's host."""
        return self.settings.url(self.settings.host(label))

    async def browser(self, traefik: AsTraefik | None = None) -> httpx.AsyncClient:
        """A browser without a login: it keeps cookies and follows no redirect by itself."""
        headers = {
            "Accept": "text/html,*/*",
            "Sec-Fetch-Mode": "navigate",
            "Sec-Fetch-Site": "none",
        }
        transport = traefik or AsTraefik(self.public)
        client = httpx.AsyncClient(
            transport=transport, base_url=self.portal, headers=headers, timeout=20
        )
        return await self.stack.enter_async_context(client)

    async def log_in(
        self, user: str, password: str = PASSWORD, *, traefik: AsTraefik | None = None
    ) -> httpx.AsyncClient:
        """A browser that is logged in."""
        browser = await self.browser(traefik)
        page = await browser.get("/login")
        assert page.status_code == 200, page.text
        form = {"user": user, "password": password, "csrf": csrf_of(page.text), "next": "/"}
        headers = {"Origin": self.portal, "Sec-Fetch-Site": "same-origin"}
        answer = await browser.post("/login", data=form, headers=headers)
        assert answer.status_code == 303, (answer.status_code, answer.text)
        return browser

    async def post(
        self,
        browser: httpx.AsyncClient,
        path: str,
        form: Mapping[str, str] | None = None,
        *,
        at: str = "/",
    ) -> httpx.Response:
        """Send the form of a page as the page would: with its CSRF token and origin."""
        token = csrf_of((await browser.get(at)).text)
        headers = {"Origin": self.portal, "Sec-Fetch-Site": "same-origin"}
        return await browser.post(path, data={**(form or {}), "csrf": token}, headers=headers)

    async def inside(self, path: str, **more: Any) -> httpx.Response:
        """Ask the internal listener."""
        there = f"http://127.0.0.1:{self.internal}"
        async with httpx.AsyncClient(base_url=there, timeout=PATIENCE, verify=NO_TLS) as client:
            return await client.get(path, **more)

    async def metrics(self) -> str:
        """The page that Prometheus reads."""
        return (await self.inside("/metrics", headers=AUTHORIZATION)).text

    async def verify(
        self,
        label: str,
        path: str = "/",
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """The answer that Traefik's forwardAuth would get for a request to a desktop."""
        forwarded = {
            "X-Forwarded-Method": method,
            "X-Forwarded-Proto": "https",
            "X-Forwarded-Host": self.desktop(label).removeprefix("https://"),
            "X-Forwarded-Uri": path,
            "X-Forwarded-For": "203.0.113.7",
        }
        return await self.inside("/edge/verify", headers=forwarded | dict(headers or {}))

    async def until_ready(self, replica: "GatewayProcess | None" = None) -> None:
        """Wait until /readyz says so. Fails at once when that replica has ended."""

        async def is_ready() -> bool:
            if replica:
                assert replica.process.returncode is None, (
                    f"the gateway has ended:\n{replica.log.read_text()[-3000:]}"
                )
            try:
                return (await self.inside("/readyz")).status_code == 200
            except httpx.TransportError:
                return False

        await eventually(is_ready, "the gateway is ready", READY_SECONDS)


@cache
def _hashed() -> str:
    """Once per run: another hash of the same password is another password, which logs everybody
    out.
    """
    return HASHER.hash(PASSWORD)


async def add_people(stage: Stage, people: Mapping[str, Mapping[str, Any]] = PEOPLE) -> None:
    """Make the gateway's Secrets: users who can log in, and the empty one for keys."""
    users = {user: LocalUser(password=_hashed(), **entry) for user, entry in people.items()}
    data = base64.b64encode(users_file(users).encode()).decode()
    for name, content in (("vdi-gateway-users", {USERS_KEY: data}), ("vdi-gateway-keys", {})):
        body: Object = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name},
            "data": content,
        }
        try:
            await stage.api.create(SECRETS, body, namespace=stage.namespace, into=msgspec.Raw)
        except AlreadyExists:
            await stage.patch(SECRETS, name, {"data": content})


def settings_of(stage: Stage, folder: Path, **more: Any) -> Settings:
    """A gateway that lives in the sessions' namespace, on free ports of the loopback, with SQLite
    in a file.
    """
    chosen: dict[str, Any] = {
        "namespaces": stage.namespaces,
        "gateway_namespace": stage.namespace,
        "url_port": 8443,
        "public_addr": ("127.0.0.1", 0),
        "internal_addr": ("127.0.0.1", 0),
        "metrics_token_file": token_file(folder),
        "database_url": f"sqlite+aiosqlite:///{folder}/gateway.db",
        **more,
    }
    return Settings(**chosen)


@asynccontextmanager
async def open_gateway_stage(
    stage: Stage, folder: Path, **settings: Any
) -> AsyncIterator[GatewayStage]:
    """A gateway in this process, ready; ends with the context. `settings` are fields of
    `Settings`.
    """
    from vdi.gateway.app import run_gateway

    await add_people(stage)
    chosen = settings_of(stage, folder, **settings)
    stop, listening = asyncio.Event(), asyncio.get_running_loop().create_future()
    work = run_gateway(
        stage.api.config, chosen, stop=stop, on_listening=lambda *ports: listening.set_result(ports)
    )
    task = asyncio.create_task(work, name="gateway")
    try:
        await asyncio.wait(
            (task, listening), timeout=READY_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        if not listening.done():
            task.result()
        async with AsyncExitStack() as stack:
            public, internal = listening.result()
            gateway = GatewayStage(stage, chosen, public, internal, stack)
            await gateway.until_ready()
            yield gateway
    finally:
        stop.set()
        await asyncio.wait_for(task, PATIENCE)


@dataclass
class GatewayProcess:
    """`vdi gateway run` as a process of its own."""

    process: asyncio.subprocess.Process
    gateway: GatewayStage
    log: Path

    async def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


@asynccontextmanager
async def gateway_process(
    stage: Stage, folder: Path, internal: int = 0, /, **environment: str
) -> AsyncIterator[GatewayProcess]:
    """A replica as a process; killed at the end, if it still runs.

    `internal` is the port of its internal listener, for a test that asks it before it is ready; 0:
    a free one. `environment` are further VDI_ variables.
    """
    # Takes two seconds: not for tests without such a process.
    from cluster.edge_traefik import (
        free_port,
    )

    public, internal = free_port(), internal or free_port()
    settings = settings_of(stage, folder)
    kubeconfig = folder / "gateway.kubeconfig"
    if not kubeconfig.exists():
        kubeconfig.write_text(yaml.safe_dump(_kubeconfig(stage)))
        kubeconfig.chmod(0o600)
    variables = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(sys.modules["vdi"].__path__[0]).parent),
        "VDI_KUBECONFIG": str(kubeconfig),
        "VDI_NAMESPACE": ",".join(settings.namespaces),
        "VDI_GATEWAY_NAMESPACE": settings.gateway_namespace,
        "VDI_URL_PORT": str(settings.url_port),
        "VDI_PUBLIC_ADDR": f"127.0.0.1:{public}",
        "VDI_INTERNAL_ADDR": f"127.0.0.1:{internal}",
        "VDI_DATABASE_URL": settings.database_url,
        "VDI_METRICS_TOKEN_FILE": str(settings.metrics_token_file),
        **environment,
    }
    path = folder / f"gateway-{public}.log"
    with path.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "vdi.gateway", env=variables, stderr=log, stdout=log
        )
    async with AsyncExitStack() as stack:
        replica = GatewayProcess(
            process, GatewayStage(stage, settings, public, internal, stack), path
        )
        try:
            await replica.gateway.until_ready(replica)
            yield replica
        finally:
            await replica.kill()


def _kubeconfig(stage: Stage) -> Object:
    """The test's own way to the API server, for another process."""
    config = stage.api.config

    def text(data: bytes | None) -> str:
        return base64.b64encode(data or b"").decode()

    cluster = {"server": config.server, "certificate-authority-data": text(config.ca)}
    user = {
        "client-certificate-data": text(config.client_cert),
        "client-key-data": text(config.client_key),
    }
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }
