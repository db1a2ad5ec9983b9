"""The way to the API server that the cluster tests count on."""

import asyncio
import gc
import socket
import ssl
from pathlib import Path

import aiohttp

from cluster.operator_proxy import Proxy
from unit.kube.kube_pki import Authority
from vdi.kube.config import ClusterConfig


def connections_to(port: int) -> list[socket.socket]:
    """Sockets of this process that are connected to that port."""
    found = [one for one in gc.get_objects() if isinstance(one, socket.socket) and one.fileno() >= 0]
    return [one for one in found if one.family is socket.AF_INET and _peer(one) == port]


def _peer(one: socket.socket) -> int | None:
    try:
        return int(one.getpeername()[1])
    except OSError:
        return None


async def test_a_watch_under_way_at_the_end_is_hung_up_though_the_server_says_no_farewell(tmp_path: Path) -> None:
    """The collector would find it open during a later test, which would fail."""
    authority = Authority()
    context = authority.server_context(tmp_path, ask_for_client=False)

    def answer_one() -> ssl.SSLSocket:
        connection = context.wrap_socket(listener.accept()[0], server_side=True)
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n")
        return connection

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        upstream = ClusterConfig(server=f"https://127.0.0.1:{port}", ca=authority.cert)
        answered = asyncio.create_task(asyncio.to_thread(answer_one))
        async with aiohttp.ClientSession() as http:
            async with Proxy(upstream).serve() as proxy:
                answer = await http.get(f"{proxy.url}/api/v1/pods", params={"watch": "true"})
                assert await answer.content.readline() == b"{}\n"
                assert connections_to(port)
            answer.close()
        with await answered:
            assert not connections_to(port)
