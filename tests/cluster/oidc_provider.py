"""A real OpenID Connect provider as a process: panva's certified `oidc-provider`, in the version
that is locked here.

npm puts it into the cache once (`npm ci`, no scripts of packages are run); node runs it on the
loopback.
"""

import asyncio
import html
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx

from support.npm import install_packages
from vdi.gateway.settings import OIDCSettings

HERE = Path(__file__).parent / "oidc"
START_SECONDS = 30


def installed() -> Path:
    """The folder `node_modules` of what the lock file names; made at the first call on a
    machine.
    """
    return install_packages(HERE, "oidc-provider")


@dataclass
class IdentityProvider:
    """The provider, running or not. `config` says how the gateway knows it."""

    folder: Path
    config: OIDCSettings
    port: int
    process: asyncio.subprocess.Process

    async def stop(self) -> None:
        """End it; no one answers at its port then."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    async def start_again(self) -> None:
        """A new process with the same keys at the same port; it has forgotten who was logged in."""
        self.process, self.port = await _start(self.folder, self.port)


@asynccontextmanager
async def identity_provider(
    folder: Path, portal: str, accounts: dict[str, dict[str, Any]]
) -> AsyncIterator[IdentityProvider]:
    """A provider that knows these accounts and one client: the gateway whose portal is there."""
    modules = await asyncio.to_thread(installed)
    client, secret = "vdi", "a secret: with / and +"
    about = {
        "modules": str(modules),
        "port": 0,
        "client_id": client,
        "client_secret": secret,
        "portal": portal,
        "accounts": accounts,
        "keys": str(folder / "keys.json"),
    }
    (folder / "provider.json").write_text(json.dumps(about))
    process, port = await _start(folder, 0)
    config = OIDCSettings(
        issuer=f"http://127.0.0.1:{port}", client_id=client, client_secret=secret, name="Example ID"
    )
    provider = IdentityProvider(folder, config, port, process)
    try:
        yield provider
    finally:
        await provider.stop()


async def _start(folder: Path, port: int) -> tuple[asyncio.subprocess.Process, int]:
    path = folder / "provider.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"port": port}))
    with (folder / "provider.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            "node",
            str(HERE / "provider.mjs"),
            str(path),
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_SECONDS):
            line = (await process.stdout.readline()).decode()
    except TimeoutError:
        process.kill()
        raise
    if not line.startswith("listening "):
        await process.wait()
        raise RuntimeError(
            f"the identity provider does not start: {(folder / 'provider.log').read_text()[-2000:]}"
        )
    return process, int(line.split()[1])


class PersonAtProvider:
    """Somebody's browser at the provider's own pages: it keeps cookies, and stops where the
    provider sends it away.
    """

    def __init__(self, issuer: str) -> None:
        self._issuer = issuer
        self._http = httpx.AsyncClient(timeout=10)

    async def close(self) -> None:
        await self._http.aclose()

    async def log_in(self, there: str, login: str) -> str:
        """Follow the gateway's redirect, log in, agree to everything; the address at which it
        leaves the provider.
        """
        answer = await self._http.get(there)
        while True:
            away = await self._until_page(answer)
            if isinstance(away, str):
                return away
            action = _action(away)
            prompt = re.search(r'name="prompt" value="(\w+)"', away.text)
            assert prompt is not None, away.text
            form = {"prompt": prompt[1]} | (
                {"login": login, "password": "any"} if prompt[1] == "login" else {}
            )
            answer = await self._http.post(action, data=form)

    async def log_out(self, there: str) -> str:
        """Follow the gateway's way to the provider's logout and agree; the address at which it
        leaves the provider.
        """
        page = await self._until_page(await self._http.get(there))
        assert isinstance(page, httpx.Response)
        secret = re.search(r'name="xsrf" value="(\w+)"', page.text)
        assert secret is not None, page.text
        answer = await self._http.post(_action(page), data={"xsrf": secret[1], "logout": "yes"})
        away = await self._until_page(answer)
        assert isinstance(away, str)
        return away

    async def _until_page(self, answer: httpx.Response) -> httpx.Response | str:
        while answer.is_redirect:
            to = urljoin(str(answer.url), answer.headers["location"])
            if not to.startswith(self._issuer):
                return to
            answer = await self._http.get(to)
        assert answer.status_code == 200, (answer.status_code, answer.text[:1000])
        return answer


def _action(page: httpx.Response) -> str:
    found = re.search(r'<form[^>]* action="([^"]+)"', page.text)
    assert found is not None, page.text
    return urljoin(str(page.url), html.unescape(found[1]))


def path_of(url: str) -> str:
    """Path and query of an address."""
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path
