"""An HTTP server with a thread for each connection, and few for those that have not shown a token.
For vdi-agent.
"""

import contextlib
import socket
import sys
import threading
from http.server import ThreadingHTTPServer
from typing import Any

MAX_STRANGERS = 16
"""Connections that have not shown a token. The operator and the gateway show theirs with the first bytes."""
END_SECONDS = 1.0


class BoundedServer(ThreadingHTTPServer):
    """Threads that do not keep the process alive. The oldest stranger makes room for the next
    connection.
    """

    daemon_threads = True
    # With Python's 5, a burst of strangers makes the kernel drop connections, which are tried again
    # up to 31 s later.
    request_queue_size = 128

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._strangers: dict[socket.socket, None] = {}
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(MAX_STRANGERS)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin a thread, once there is room for it. Called by the one thread that accepts
        connections.
        """
        if not self._slots.acquire(blocking=False):
            with self._lock, contextlib.suppress(OSError):
                next(iter(self._strangers), request).shutdown(socket.SHUT_RDWR)
            if not self._slots.acquire(timeout=END_SECONDS):  # its thread has not ended yet
                super().shutdown_request(request)
                return
        with self._lock:
            self._strangers[request] = None
        super().process_request(request, client_address)

    def trust(self, request: socket.socket) -> None:
        """This connection has shown a token, or has ended."""
        with self._lock:
            is_stranger = request in self._strangers
            self._strangers.pop(request, None)
        if is_stranger:
            self._slots.release()

    def shutdown_request(self, request: Any) -> None:
        """Also where no thread could be started."""
        super().shutdown_request(request)
        self.trust(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - as in the standard library
        """A connection that ends in the middle is no error; another error is one line in the
        log.
        """
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            print(f"[vdi-agent] a request failed: {error!r}", file=sys.stderr, flush=True)  # noqa: T201 - the log
