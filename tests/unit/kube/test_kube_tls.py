"""TLS: whom we believe, and how we show who we are."""

import asyncio
import base64
import gc
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.waiting import eventually
from unit.kube.kube_fake_api import FakeApi
from unit.kube.kube_pki import Authority
from unit.kube.kube_things import THINGS, Thing
from vdi.kube.config import ClusterConfig, load_config
from vdi.kube.connections import Target
from vdi.kube.errors import ConfigError, ConnectionFailed
from vdi.kube.http import BUFFER, Connection
from vdi.kube.store import Store
from vdi.kube.transport import NO_RETRY, Client
from vdi.kube.watch import Reflector


async def serve(authority: Authority, folder: Path, *, ask_for_client: bool = False) -> FakeApi:
    api = FakeApi()
    await api.start(authority.server_context(folder, ask_for_client=ask_for_client))
    return api


async def listed(config: ClusterConfig) -> list[Thing]:
    async with Client(config, field_manager="tester", retry=NO_RETRY) as client:
        return await client.list(THINGS, into=Thing)


async def test_a_client_certificate_from_a_kubeconfig_opens_the_door(tmp_path: Path) -> None:
    authority = Authority()
    pair = authority.issue("somebody")
    api = await serve(authority, tmp_path, ask_for_client=True)

    def b64(data: bytes) -> str:
        return base64.b64encode(data).decode()

    user = {"client-certificate-data": b64(pair.cert), "client-key-data": b64(pair.key)}
    cluster = {"server": api.config().server, "certificate-authority-data": b64(authority.cert)}
    content: dict[str, Any] = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
    }
    file = tmp_path / "config"
    file.write_text(yaml.safe_dump(content))
    try:
        assert await listed(load_config(file)) == []
        with pytest.raises(ConnectionFailed):
            await listed(api.config(ca=authority.cert))
    finally:
        await api.stop()


async def test_a_stranger_is_not_believed_unless_reported_to(tmp_path: Path) -> None:
    api = await serve(Authority(), tmp_path)
    try:
        with pytest.raises(ConnectionFailed, match="certificate verify failed"):
            await listed(api.config(ca=Authority().cert))
        assert await listed(api.config(insecure=True)) == []
    finally:
        await api.stop()


def test_an_unusable_certificate_names_its_source() -> None:
    config = ClusterConfig("https://x", source="/home/me/config", client_cert=b"nonsense", client_key=b"nonsense")
    with pytest.raises(ConfigError, match="/home/me/config"):
        config.ssl_context()


async def test_nothing_stays_open_when_the_client_closes_amid_watches(tmp_path: Path) -> None:
    authority = Authority()
    api = await serve(authority, tmp_path)
    async with Client(api.config(ca=authority.cert), field_manager="tester") as client:
        reflector = Reflector(client, THINGS, Thing, Store())
        task = asyncio.create_task(reflector.run())
        await eventually(lambda: api.watching)
        await api.cut_streams()
        await eventually(lambda: api.count("WATCH") >= 2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await api.stop()
    gc.collect()  # an unclosed transport warns now, and warnings are errors here


async def test_connection_abandoned_at_its_handshake_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio itself would close it politely, and wait 30 s for a server that says nothing."""
    made: list[Connection] = []

    class GivenUp(Connection):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            made.append(self)
            connecting.cancel()

    def accept() -> ssl.SSLSocket:
        return context.wrap_socket(listener.accept()[0], server_side=True)

    monkeypatch.setattr("vdi.kube.connections.Connection", GivenUp)
    authority = Authority()
    context = authority.server_context(tmp_path, ask_for_client=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepted = asyncio.create_task(asyncio.to_thread(accept))
        config = ClusterConfig(server=f"https://127.0.0.1:{listener.getsockname()[1]}", ca=authority.cert)
        target = Target(config.server, config.ssl_context())
        connecting = asyncio.create_task(target.connect(memoryview(bytearray(BUFFER))))
        with pytest.raises(asyncio.CancelledError):
            await connecting
        with await accepted:
            await asyncio.sleep(0)
            assert made[0].lost
