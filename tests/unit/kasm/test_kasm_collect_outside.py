"""Measurements outside the API: real sockets, real HTTP on loopback, programs that are scripts."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from support.web_server import serve_app
from vdi.kasm.collect import ask, probe, read_tools, resolve


@pytest.fixture
async def server() -> AsyncIterator[tuple[int, list[str]]]:
    """Its port, and the Host of each request."""
    hosts: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        hosts.append(request.host)
        return web.Response(text='{"ok": true}')

    app = web.Application()
    app.router.add_get("/healthcheck", answer)
    async with serve_app(app) as port:
        yield port, hosts


async def test_unreachable_server_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    answer = await ask(f"http://127.0.0.1:{port}/")
    assert answer.status == 0
    assert "refused" in answer.problem or "Connect call failed" in answer.problem


async def test_page_is_read_at_another_address(server: tuple[int, list[str]]) -> None:
    port, hosts = server
    answer = await ask("http://kasm.example.test/healthcheck", connect=f"127.0.0.1:{port}")
    assert (answer.status, hosts) == (200, ["kasm.example.test"])


async def test_ports(server: tuple[int, list[str]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        refused = held.getsockname()[1]
    found = await probe([("127.0.0.1", server[0]), ("127.0.0.1", refused)])
    assert [one.outcome for one in found] == ["open", "refused"]


async def test_names() -> None:
    here, nowhere = await resolve("127.0.0.1"), await resolve("no such name.invalid")
    assert here and here.addresses == ("127.0.0.1",)
    assert nowhere and nowhere.problem and nowhere.addresses == ()
    assert await resolve("") is None


def a_program(folder: Path, name: str, says: str, status: int = 0) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\necho '{says}'\nexit {status}\n")
    file.chmod(0o755)


async def test_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    nothing = await read_tools()
    assert "helm is not in PATH" in nothing["helm"].problem
    assert nothing["kubectl"].problem == "kubectl is not in PATH"
    a_program(tmp_path, "helm", "v3.19.2")
    a_program(tmp_path, "kubectl", '{"clientVersion": {"gitVersion": "v1.34.1"}}')
    found = await read_tools()
    assert (found["helm"].version, found["kubectl"].version) == ("3.19.2", "v1.34.1")
    a_program(tmp_path, "kubectl", "cannot", 1)
    assert "prints no version in its output" in (await read_tools())["kubectl"].problem


def test_waiting_for_a_silent_address_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: Any, **__: Any) -> None:
        await asyncio.sleep(3600)

    monkeypatch.setattr("vdi.kasm.collect.asyncio.open_connection", never)
    monkeypatch.setattr("vdi.kasm.collect._CONNECT_SECONDS", 0.01)
    (found,) = asyncio.run(probe([("192.0.2.1", 443)]))
    assert found.outcome == "silent"
