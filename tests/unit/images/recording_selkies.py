"""Selkies' recorder, as vdi-agent finds it: it records into the file that it was handed. A server on
loopback.
"""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from io import BufferedWriter
from pathlib import Path
from typing import Any

from support.web_server import serve_handler
from unit.images.image_scripts import load_library


class Recorder:
    """One recording at a time. `problem`: why the next one does not start; `closed`: what recording_pace.py
    says.

    `first`: what it has written before it answers; `path`: the file that it opens in the place of
    the one asked for; `size`: of its pictures.
    """

    def __init__(self, handed: Any, folder: Path, recordings: socket.socket) -> None:
        self.handed = handed.HandedRecording(recordings, folder, self.start, self.end)
        self.problem, self.closed, self.began = "", "", 0
        self.file: BufferedWriter | None = None
        self.seconds, self.first, self.path, self.size = 0.0, b"", "", (0, 0)
        self.is_outdated = False

    def start(self, path: str, _settings: Any, _audio_socket: str) -> None:
        """As pixelflux.start_recording."""
        self.is_outdated = False
        self.file, self.seconds = (
            Path(self.path or path).open("wb"),  # noqa: SIM115 - until `end`
            0.0,
        )
        if self.first:
            self.write(self.first)
        self.began += 1

    def write(self, content: bytes) -> None:
        """More of the recording."""
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
            try:
                self.handed.start("recording")
            except RuntimeError as error:
                return 409, str(error)
        elif method == "DELETE":
            self.end()
        status = {
            "active": self.file is not None,
            "duration_s": self.seconds,
            "error": self.problem or None,
        }
        status["frames"] = round(2 * self.seconds)
        status |= {"width": self.size[0], "height": self.size[1], "isOutdated": self.is_outdated}
        return 200, status | ({"closed": self.closed} if self.closed else {})


class RecordedDesktop:
    """The agent's recordings of a desktop whose screen has a size, and its recorder."""

    def __init__(self, port: int, recorder: Recorder, mode: str, recordings: socket.socket) -> None:
        self.screen, self.recorder, self.module = (1920, 1080), recorder, load_library("recordings")
        env = {"VDI_RECORDING": mode, "SELKIES_PORT": str(port), "SELKIES_MASTER_TOKEN": "master"}
        selkies = load_library("agent.selkies_api").SelkiesApi(env)
        self.recordings = self.module.Recordings(env, selkies, recordings)
        self.recordings._screen_size = lambda: self.screen

    def look(self) -> dict[str, str]:
        """One look, and what the operator is told then."""
        self.recordings.problem = self.recordings.look()
        report: dict[str, str] = self.recordings.report()
        return report


@contextmanager
def recorded_desktop(folder: Path, mode: str = "Always") -> Iterator[RecordedDesktop]:
    handed = load_library("handed_files")
    ends = handed.create_handed_files(-1)
    recordings, received = (
        socket.socket(fileno=ends[name]["VDI_RECORDINGS_FD"]) for name in ("vdi-agent", "selkies")
    )
    recorder = Recorder(handed, folder, received)

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

    with recordings, received, serve_handler(Handler) as server:
        yield RecordedDesktop(server.server_port, recorder, mode, recordings)
        recorder.end()
