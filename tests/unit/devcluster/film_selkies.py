"""Selkies' recorder, as vdi-agent finds it: a film at the path that run-selkies has set. A server on loopback."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from io import BufferedWriter
from pathlib import Path
from typing import Any

import pytest

from support.web_server import serve_handler
from unit.devcluster.image_scripts import load_script

FILM = Path(__file__).resolve().parents[3] / "images/desktop/rootfs/usr/local/lib/vdi/film.py"


class Recorder:
    """One film at a time. `problem`: why the next one does not start."""

    def __init__(self, folder: Path) -> None:
        self.path, self.problem, self.began = folder / "film", "", 0
        self.file: BufferedWriter | None = None
        self.seconds = 0.0

    def film(self, content: bytes) -> None:
        """More of the film."""
        assert self.file is not None
        self.file.write(content)
        self.file.flush()
        self.seconds += 1.0

    def end(self) -> None:
        """It ends by itself, or is ended."""
        if self.file:
            self.file.close()
        self.file = None

    def answer(self, method: str) -> tuple[int, Any]:
        if method == "POST":
            if self.problem or self.file:
                return 409, self.problem or "a recording is already active"
            self.file, self.seconds = self.path.open("wb"), 0.0
            self.began += 1
        elif method == "DELETE":
            self.end()
        return 200, {"active": self.file is not None, "duration_s": self.seconds, "error": self.problem or None}


class FilmedDesktop:
    """The agent's films of a desktop whose screen has a size, and its recorder."""

    def __init__(self, folder: Path, port: int, recorder: Recorder, mode: str) -> None:
        self.screen, self.recorder = (1920, 1080), recorder
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "path", [*sys.path, str(FILM.parent)])
            self.module: Any = load_script(FILM)
        env = {"VDI_RECORDING": mode, "SELKIES_PORT": str(port), "XDG_RUNTIME_DIR": str(folder)}
        self.films = self.module.Films(env, {"Authorization": "Bearer master"})
        self.films._screen_size = lambda: self.screen

    def look(self) -> dict[str, str]:
        """One look, and what the operator is told then."""
        self.films.problem = self.films.look()
        report: dict[str, str] = self.films.report()
        return report


@contextmanager
def filmed_desktop(folder: Path, mode: str = "Always") -> Iterator[FilmedDesktop]:
    recorder = Recorder(folder)

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, body = recorder.answer(self.command)
            content = json.dumps(body).encode()
            self.send_response(status if self.headers["Authorization"] == "Bearer master" else 401)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = handle_any  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    with serve_handler(Handler) as server:
        yield FilmedDesktop(folder, server.server_port, recorder, mode)
        recorder.end()
