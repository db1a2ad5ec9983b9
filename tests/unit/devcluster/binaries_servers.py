"""A small web server on loopback, and a build cache in a temporary folder, for the tests of the
binaries' sources.
"""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from rich.console import Console

from support.web_server import serve_handler
from vdi.devcluster.build_cache import BuildCache
from vdi.devcluster.progress import Progress


class Server:
    """Serves `files`; a path in `cut` sends half of its body, one in `stalled` half and then
    nothing until the end.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: set[str] = set()
        self.stalled: set[str] = set()
        self.asked: list[str] = []
        self.stall_began = threading.Event()
        self.over = threading.Event()
        self.url = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path
        self.asked.append(path)
        if path not in self.files:
            request.send_error(404)
            return
        body = self.files[path]
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if request.command == "HEAD":
            return
        request.wfile.write(body[: len(body) // 2] if path in self.cut | self.stalled else body)
        if path in self.stalled:
            request.wfile.flush()
            self.stall_began.set()
            self.over.wait(40)


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.answer(self)

        do_HEAD = do_GET  # noqa: N815 - the name the base class looks for

        def log_message(self, format: str, *args: object) -> None:
            pass

    with serve_handler(Handler) as http:
        server.url = f"http://127.0.0.1:{http.server_port}"
        try:
            yield server
        finally:
            server.over.set()


@contextmanager
def build_cache_in(folder: Path, **env: str) -> Iterator[tuple[BuildCache, io.StringIO]]:
    """A build cache for amd64 whose environment is `env` alone, and what its display shows."""
    shown = io.StringIO()
    with Progress(folder / "logs", Console(file=shown, width=200)) as progress:
        yield BuildCache(progress, folder / "cache", env, "amd64"), shown


def script(path: Path, text: str) -> Path:
    """An executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def leftovers(folder: Path) -> list[str]:
    """What lies in the cache apart from locks: entries and unfinished work."""
    cache = folder / "cache"
    return sorted(
        str(path.relative_to(cache))
        for path in cache.rglob("*")
        if path.relative_to(cache).parts[0] != "locks" and path != cache / "unfinished"
    )
