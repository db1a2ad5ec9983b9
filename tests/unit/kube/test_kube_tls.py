"""TLS: whom we believe, and how we show who we are."""

import asyncio
import gc
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.waiting import eventually
from unit.kube.kube_fake_api import FakeApi
from unit.kube.kube_pki import server_context
from unit.kube.kube_things import THINGS, Thing, a_kubeconfig
from vdi.devcluster.credentials import Authority, authority
from vdi.kube.config import ClusterConfig, load_config
from vdi.kube.connections import Target
from vdi.kube.errors import ConfigError, ConnectionFailed
from vdi.kube.http import BUFFER, Connection
from vdi.kube.store import Store
from vdi.kube.transport import NO_RETRY, Client
from vdi.kube.watch import Reflector


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return authority(tmp_path, "ca", "test authority")


@pytest.fixture
async def api(ours: Authority) -> AsyncIterator[FakeApi]:
    """It has a certificate of ours."""
    api = FakeApi()
    await api.start(server_context(ours))
    yield api
    await api.stop()


async def listed(config: ClusterConfig) -> list[Thing]:
    async with Client(config, field_manager="tester", retry=NO_RETRY) as client:
        return await client.list(THINGS, into=Thing)


async def test_a_client_certificate_from_a_kubeconfig_opens_the_door(
    ours: Authority, tmp_path: Path
) -> None:
    api = FakeApi()
    await api.start(server_context(ours, ask_for_client=True))
    certificate, key = ours.issue("somebody", "somebody")
    user = {"client-certificate": str(certificate), "client-key": str(key)}
    cluster = {"server": api.config().server, "certificate-authority": str(ours.file)}
    try:
        assert (
            await listed(load_config(a_kubeconfig(tmp_path / "config", user=user, **cluster))) == []
        )
        with pytest.raises(ConnectionFailed):
            await listed(api.config(ca=ours.file.read_bytes()))
    finally:
        await api.stop()


async def test_a_stranger_is_not_believed_unless_reported_to(api: FakeApi, tmp_path: Path) -> None:
    with pytest.raises(ConnectionFailed, match="certificate verify failed"):
        await listed(
            api.config(ca=authority(tmp_path, "other", "another authority").file.read_bytes())
        )
    assert await listed(api.config(insecure=True)) == []


def test_an_unusable_certificate_names_its_source() -> None:
    config = ClusterConfig(
        "https://x", source="/home/me/config", client_cert=b"nonsense", client_key=b"nonsense"
    )
    with pytest.raises(ConfigError, match="/home/me/config"):
        config.ssl_context()


async def test_nothing_stays_open_when_the_client_closes_amid_watches(
    api: FakeApi, ours: Authority
) -> None:
    async with Client(api.config(ca=ours.file.read_bytes()), field_manager="tester") as client:
        reflector = Reflector(client, THINGS, Thing, Store())
        task = asyncio.create_task(reflector.run())
        await eventually(lambda: api.watching)
        await api.cut_streams()
        await eventually(lambda: api.count("WATCH") >= 2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await api.stop()
    gc.collect()  # an unclosed transport warns now, and warnings are errors here


async def test_connection_abandoned_at_its_handshake_is_closed(
    ours: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    context = server_context(ours)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepted = asyncio.create_task(asyncio.to_thread(accept))
        config = ClusterConfig(
            server=f"https://127.0.0.1:{listener.getsockname()[1]}", ca=ours.file.read_bytes()
        )
        target = Target(config.server, config.ssl_context())
        connecting = asyncio.create_task(target.connect(memoryview(bytearray(BUFFER))))
        with pytest.raises(asyncio.CancelledError):
            await connecting
        with await accepted:
            await asyncio.sleep(0)
            assert made[0].lost
