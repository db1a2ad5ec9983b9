"""A web server on a port of its own, for as long as a test needs it: an aiohttp application, or a
thread.
"""

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from aiohttp import web

# Turns of asyncio's loop from a connection's acceptance until its protocol knows of it, and one
# more.
_ACCEPT_TURNS = 4


def listen(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """A socket for a server, on a free port when `port` is 0, that sends each part of an answer at
    once.

    asyncio sees to that for sockets that it has made itself; with ours a second part would wait 40
    ms for the client's acknowledgement of the first.
    """
    listener = socket.create_server((host, port))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


@asynccontextmanager
async def serve_app(
    app: web.Application,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """Serve while the context lasts, on a free port when `port` is 0; gives the port.

    At the end every connection is closed, also one that was accepted a moment before, which aiohttp
    and asyncio leave open: it would fail whatever test is running when it is collected.
    """
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    listener = listen(host, port)
    try:
        await web.SockSite(runner, listener, ssl_context=tls).start()
        yield listener.getsockname()[1]
    finally:
        asyncio.get_running_loop().remove_reader(listener.fileno())
        for _ in range(_ACCEPT_TURNS):
            await asyncio.sleep(0)
        await runner.cleanup()
        await asyncio.sleep(0)  # the transports learn that they are closed in the loop's next turn


@contextmanager
def serve_handler(
    handler: type[BaseHTTPRequestHandler], *, tls: ssl.SSLContext | None = None
) -> Iterator[ThreadingHTTPServer]:
    """Serve in a thread while the context lasts, on a free port, for tests that have no event
    loop.
    """
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
