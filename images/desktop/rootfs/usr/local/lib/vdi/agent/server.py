"""The agent's port: who may ask, and which service answers."""

import json
import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import home_files
from bounded_server import BoundedServer
from computer_use import MAX_ACTION, Computer
from memory_use import MemoryWatch
from process_secrets import is_bearer_of
from recordings import Recordings
from script_reports import read_reports
from x11 import UnknownError

from agent.activity import Activity
from agent.log import log
from agent.notices import Notice, Notices
from agent.thumbnails import Thumbnails
from agent.transfers import Transfers
from photon import LONGEST_SECONDS, Photon

_REQUEST_SECONDS, _TRANSFER_SECONDS = 5.0, 60.0
_MAX_BODY = 16 * 1024
_AGENT_PATHS = ("/computer-use", "/run")


class NoMark:
    """In Photon's place on Wayland, where no program can grab keys of the whole desktop."""

    def arm(self, _seconds: float) -> dict[str, Any]:
        """Raises UnknownError."""
        raise UnknownError(
            "the mark of a probe needs a desktop on X11: this one is on Wayland (streaming.display)"
        )

    def covers(self, _came: float) -> bool:
        """No browser is a probe's."""
        return False


class Services(NamedTuple):
    """What answers requests. `digest`: of the callers' token; `transfers_digest`: of Selkies'."""

    digest: str
    transfers_digest: str
    activity: Activity
    notices: Notices
    photon: Photon | NoMark
    thumbnails: Thumbnails
    transfers: Transfers
    script_reports: Path
    home: Path
    recordings: Recordings
    memory: MemoryWatch
    computer: Computer


class AgentServer(BoundedServer):
    """Listens on a socket that is bound already."""

    def __init__(self, listener: socket.socket, services: Services) -> None:
        super().__init__(("", 0), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.services = services
        self.server_activate()


class Handler(BaseHTTPRequestHandler):
    """One request of the operator's or the gateway's, or a report of Selkies'."""

    protocol_version = "HTTP/1.1"
    timeout = _REQUEST_SECONDS
    server: AgentServer

    @property
    def services(self) -> Services:
        return self.server.services

    def do_GET(self) -> None:
        """Reports, the thumbnail, transfers, recordings, and the home's files."""
        if self.path.startswith("/files"):
            self._serve_files()
            return
        where, is_query, query = self.path.partition("?")
        answer = self._getters(query).get(where + is_query)
        if not self._may_pass(is_known=answer is not None):
            return
        try:
            answer()
        except ValueError as error:
            self._answer(400, str(error))
        except UnknownError as error:
            self._answer(503, str(error))

    def _getters(self, query: str) -> dict[str, Callable[[], None]]:
        """What sends the answer, by path; with a question mark where a query belongs to it."""
        services = self.services
        return {
            "/activity": lambda: self._answer_json(services.activity.report()),
            "/memory": lambda: self._answer_json(services.memory.report()),
            "/startup-scripts": lambda: self._answer_json(
                {"scripts": read_scripts(services.script_reports)}
            ),
            "/thumbnail": lambda: self._send(200, "image/jpeg", services.thumbnails.take()),
            "/transfers?": lambda: self._answer_json(services.transfers.read(query)),
            "/recording?": lambda: self._send_recording(query),
        }

    def _send_recording(self, query: str) -> None:
        number, stored = map(int, query.split("&"))
        self._send(200, "video/mp4", *self.services.recordings.fetch(number, stored))

    def do_POST(self) -> None:
        """Orders of the gateway and the operator, and Selkies' reports of transfers."""
        token = self.headers.get("Authorization", "")
        if self.path == "/transfers" and is_bearer_of(token, self.services.transfers_digest):
            self._handle_body(self._take_report, _MAX_BODY)
            return
        handle = self._posters().get(self.path)
        if self._may_pass(is_known=handle is not None):
            limit = MAX_ACTION if self.path in _AGENT_PATHS else _MAX_BODY
            self._handle_body(handle, limit)

    def _posters(self) -> dict[str, Callable[[bytes], None]]:
        handlers = {"/notice": self._post_notice, "/photon": self._arm, "/recording": self._switch}
        computer = self.services.computer
        agents = {"/computer-use": computer.act, "/run": computer.run}
        for path in computer.paths:
            handlers[path] = lambda body, act=agents[path]: self._act(act, body)
        return handlers

    def _handle_body(self, handle: Callable[[bytes], None], limit: int) -> None:
        """Read the request's body and have it handled; what goes wrong is the answer."""
        try:
            length = int(self.headers.get("Content-Length", "-1"))
            if not 0 <= length <= limit:
                raise ValueError(f"Content-Length: {length} is not allowed; it is at most {limit}")
            handle(self.rfile.read(length))
        except (KeyError, TypeError, ValueError) as error:
            self.close_connection = True
            if self.path in self.services.computer.paths:
                body = json.dumps({"error": str(error)}).encode()
                self._send(400, "application/json", body)
            else:
                self._answer(400, str(error))
        except UnknownError as error:
            log(f"{self.path} could not be done: {error}")
            self._answer(503, str(error))

    def _take_report(self, body: bytes) -> None:
        self.server.trust(self.connection)
        # Selkies tries an event once: on a connection that is closed here in that moment it would
        # be lost.
        self.close_connection = True
        self.services.transfers.add(body)
        self._answer(200, "{}")

    def _act(self, act: Callable[[bytes], tuple[int, bytes]], body: bytes) -> None:
        status, content = act(body)
        self._send(status, "application/json", content)

    def _arm(self, body: bytes) -> None:
        self._answer_json(self.services.photon.arm(read_seconds(body)))

    def _switch(self, body: bytes) -> None:
        self.services.recordings.switch(wanted=json.loads(body)["on"] is True)
        self._answer(200, "{}")

    def _post_notice(self, body: bytes) -> None:
        self.services.notices.post(Notice.read(body))
        self._answer(200, "{}")

    def do_PUT(self) -> None:
        """A new file; as in WebDAV, DELETE, MKCOL and MOVE change what there is."""
        self._serve_files()

    do_DELETE = do_MKCOL = do_MOVE = do_PUT  # noqa: N815

    def _serve_files(self) -> None:
        where, is_query, quoted = self.path.partition("?")
        if not self._may_pass(is_known=where + is_query in ("/files?", "/files/content?")):
            return
        self.close_connection = True
        self.connection.settimeout(_TRANSFER_SECONDS)
        path, home = unquote_to_bytes(quoted), self.services.home
        with ExitStack() as stack:
            try:
                if self.command != "GET":
                    self._change_files(home, quoted)
                    self._answer(200, "{}")
                    return
                if where == "/files":
                    self._answer_json(home_files.list_folder(home, path))
                    return
                opened = stack.enter_context(home_files.open_path(home, path))
                size = home_files.find_size(opened)
            except (OSError, ValueError) as error:
                self._refuse_file(error)
                return
            # An error from here on ends the connection before the content does.
            self._send_content(opened, size)

    def _change_files(self, home: Path, quoted: str) -> None:
        path, _, to = map(unquote_to_bytes, quoted.partition("&"))
        match self.command:
            case "PUT":
                length = int(self.headers.get("Content-Length", ""))
                home_files.store(home, path, length, self.rfile.read)
            case "MKCOL":
                home_files.make_folder(home, path)
            case "MOVE":
                home_files.move(home, path, to)
            case "DELETE":
                home_files.remove(home, path)

    def _refuse_file(self, error: OSError | ValueError) -> None:
        status = 404 if isinstance(error, FileNotFoundError) else 409
        self._answer(status, getattr(error, "strerror", None) or str(error))
        # Closing before the body has been read would reset the connection, and the answer be lost.
        while self.command == "PUT" and self.rfile.read1(1 << 18):
            pass

    def _send_content(self, opened: Any, size: int | None) -> None:
        """A file, or a folder as zip, whose size is not known."""
        self.send_response(200)
        if size is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(size))
        self.end_headers()
        home_files.write_content(opened, size, self.connection)

    def _may_pass(self, *, is_known: bool) -> bool:
        """Whether the caller has the token, and the address is known; otherwise the response says
        so.
        """
        has_token = is_bearer_of(self.headers.get("Authorization", ""), self.services.digest)
        if has_token:
            self.server.trust(self.connection)
        if has_token and is_known:
            return True
        self.close_connection = True  # a body may follow that is not read
        if has_token:
            self._answer(404, "there is no such address")
        else:
            self._answer(401, "a token is needed")
        return False

    def _answer_json(self, content: object) -> None:
        self._answer(200, json.dumps(content))

    def _answer(self, status: int, text: str) -> None:
        """One short answer: JSON, or the reason of a refusal."""
        kind = "application/json" if status == 200 else "text/plain; charset=utf-8"
        self._send(status, kind, text.encode())

    def _send(
        self, status: int, content_type: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """One answer, whole."""
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """A poll every few seconds is no news."""


def read_scripts(folder: Path) -> list[Any]:
    """What became of the start-up scripts. Raises UnknownError."""
    try:
        return read_reports(folder)
    except (OSError, ValueError) as error:
        raise UnknownError(f"what became of the start-up scripts can't be read: {error}") from error


def read_seconds(body: bytes) -> float:
    """From JSON. Raises ValueError with the field, its value and what is allowed."""
    data = json.loads(body)
    seconds = data.get("seconds") if isinstance(data, dict) else None
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not 1 <= seconds <= LONGEST_SECONDS:
        raise ValueError(
            f"seconds: {seconds!r} is not allowed; it is a number from 1 to {LONGEST_SECONDS}"
        )
    return float(seconds)
