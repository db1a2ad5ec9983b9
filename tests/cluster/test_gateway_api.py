"""The API and the commands without a cluster's credentials, on a real API server, operator and
gateway.
"""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.gateway_stage import GatewayStage
from cluster.operator_stage import Stage
from support.csrf import csrf_of
from support.waiting import PATIENCE, eventually
from vdi.kinds import SESSIONS


@dataclass
class Typed:
    """Commands of a person without access to the cluster."""

    gateway: GatewayStage
    home: Path

    @property
    def server(self) -> str:
        """The gateway's public listener, past Traefik: plain HTTP, which the commands speak on this
        machine only.
        """
        return f"http://portal.vdi.localhost:{self.gateway.public}"

    @asynccontextmanager
    async def typing(self, *words: str) -> AsyncIterator[asyncio.subprocess.Process]:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "vdi",
            *words,
            env=environment,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()

    async def vdi(self, *words: str, code: int = 0) -> str:
        async with self.typing(*words) as process:
            out, err = await asyncio.wait_for(process.communicate(), 40)
        assert process.returncode == code, err.decode()
        return (out if code == 0 else err).decode()

    async def log_in(self, user: str) -> str:
        """`vdi login --no-browser`, and a browser elsewhere in which the person agrees."""
        async with self.typing("login", self.server, "--no-browser") as process:
            assert process.stderr is not None
            await process.stderr.readline()
            address = httpx.URL((await process.stderr.readline()).decode().strip())
            browser = await self.gateway.log_in(user)
            page = await browser.get(f"{address.path}?{address.query.decode()}")
            form = {**dict(address.params), "csrf": csrf_of(page.text)}
            headers = {"Origin": self.gateway.portal, "Sec-Fetch-Site": "same-origin"}
            done = await browser.post("/cli/authorize", data=form, headers=headers)
            found = re.search(r'<pre id="code">([\w-]+)</pre>', done.text)
            assert found, done.text
            out, err = await asyncio.wait_for(
                process.communicate(f"{found[1]}\n".encode()), PATIENCE
            )
        assert process.returncode == 0, err.decode()
        return out.decode()

    def client(self, token: str, **more: Any) -> httpx.AsyncClient:
        """A program that uses the API with this token."""
        headers = {
            "Authorization": f"Bearer {token}",
            "Host": self.gateway.portal.removeprefix("https://"),
        }
        base = f"http://127.0.0.1:{self.gateway.public}/api/v1"
        return httpx.AsyncClient(base_url=base, headers=headers, **more)

    def token(self) -> str:
        """The token that `vdi login` has stored."""
        kept = json.loads((self.home / ".config" / "vdi" / "login.json").read_text())
        return str(kept["gateways"][self.server]["token"])


@pytest.mark.long
async def test_session_is_managed_without_a_cluster_account(
    stage: Stage, gateway: GatewayStage, tmp_path: Path
) -> None:
    template = await stage.template()
    typed = Typed(gateway, tmp_path)
    async with stage.operator():
        assert (await typed.log_in("alice@example.com")).startswith(
            f"logged in to {typed.server} as alice@example.com"
        )
        assert "through the gateway" in await typed.vdi("whoami")
        assert template in await typed.vdi("template", "ls")
        create = [
            "session",
            "create",
            "mine",
            "-t",
            template,
            "--timeout",
            "1h",
            "--wait",
            "--timeout-wait",
            "25s",
        ]
        async with typed.typing(*create) as process:
            await eventually(lambda: stage.get(SESSIONS, "mine"), "the session is there")
            await stage.run("mine")
            err = (await asyncio.wait_for(process.communicate(), 30))[1].decode()
        assert process.returncode == 0, err
        assert "✓ desktop answers" in err
        assert "✓ session Running" in err
        assert f"URL:      https://{stage.host('mine')}" in await typed.vdi(
            "session", "open", "mine", "--print"
        )
        assert "session mine ends at" in await typed.vdi("session", "extend", "mine", "1h")
        await typed.vdi("session", "share", "mine", "bob@example.com", "--role", "collaborator")
        assert (await stage.get(SESSIONS, "mine") or {})["spec"]["access"][0][
            "user"
        ] == "bob@example.com"
        assert "was suspended in" in await typed.vdi("session", "suspend", "mine", "--wait")
        assert "was deleted in" in await typed.vdi("session", "rm", "mine", "--wait")
        token = typed.token()
        await typed.vdi("logout")
        async with typed.client(token) as client:
            assert (await client.get("/me")).status_code == 401


async def test_refusals_of_the_crd_name_the_field(
    stage: Stage, gateway: GatewayStage, tmp_path: Path
) -> None:
    template = await stage.template()
    typed = Typed(gateway, tmp_path)
    await typed.log_in("alice@example.com")
    said = await typed.vdi("session", "create", "x", "-t", template, "--idle-timeout", "0s", code=2)
    assert "idleTimeout: '0s' is not a duration above zero" in said
    async with typed.client(typed.token()) as client:
        body = {"template": template, "persistence": {"size": "1k"}, "idleTimeout": "0s"}
        refused = await client.post("/sessions", json=body)
    assert (refused.status_code, refused.headers["content-type"]) == (
        422,
        "application/problem+json",
    )
    by_field = {error["field"]: error for error in refused.json()["errors"]}
    assert by_field["persistence.size"]["value"] == "1k"
    assert (
        by_field["persistence.size"]["allowed"] == "an amount of at least 1Mi, such as 4Gi or 512Mi"
    )
    assert by_field["idleTimeout"]["value"] == "0s"
    assert await stage.all(SESSIONS) == []
