"""`vdi session open --direct`, with a stand-in for kubectl, which forwards nothing, and one for
Selkies.
"""

import json
import os
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from support.variants import first_of
from unit.cli.conftest import Vdi
from unit.cli.fake_cluster import FakeCluster
from unit.cli.objects import CORE, a_pod
from unit.cli.test_cli_interrupts import line_with, typed
from vdi.session.credentials import direct_token

MASTER = "s3cret"
FORWARDS = """#!/bin/sh
echo "$@" > {folder}/words
echo $$ > {folder}/pid
echo "Forwarding from 127.0.0.1:{port} -> 8080"
echo "Handling connection for {port}"
"""


class Desktop(ThreadingHTTPServer):
    """Selkies in secure mode, as far as the command knows it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.mode = "websockets"
        self.known = {MASTER}
        self.connected: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    server: Desktop

    def do_GET(self) -> None:
        if self.path == "/api/status":
            self._answer(200, {"current_mode": self.server.mode})
        elif self._token() in self.server.known:
            self._answer(200, {"sessions": self.server.connected})
        else:
            self._answer(401, {})

    def do_POST(self) -> None:
        table = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._token() == MASTER and self.path == "/api/tokens":
            self.server.known = {MASTER, *table}
        self._answer(200, {})

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _answer(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


@pytest.fixture
def desktop() -> Iterator[Desktop]:
    with Desktop() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def have_kubectl(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.joinpath("kubectl").write_text(script)
    folder.joinpath("kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def forwarding(desktop: Desktop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kubectl that runs until it is ended; the folder where it leaves its words and its process
    id.
    """
    script = FORWARDS.format(folder=tmp_path, port=desktop.server_port) + "exec sleep 60\n"
    have_kubectl(tmp_path, script, monkeypatch)
    return tmp_path


@pytest.fixture
def ending(desktop: Desktop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kubectl that loses its pod at once."""
    script = (
        FORWARDS.format(folder=tmp_path, port=desktop.server_port)
        + "echo error: lost connection to pod\nexit 1\n"
    )
    have_kubectl(tmp_path, script, monkeypatch)


@pytest.mark.parametrize("ends", first_of([signal.SIGINT, signal.SIGTERM]))
@pytest.mark.usefixtures("behind_gateway")
def test_the_address_works_until_the_command_is_ended(
    fake: FakeCluster, desktop: Desktop, forwarding: Path, tmp_path: Path, ends: signal.Signals
) -> None:
    desktop.known.add(direct_token(MASTER))
    with typed(
        {"KUBECONFIG": str(fake.kubeconfig(tmp_path))},
        "session",
        "open",
        "alice-desktop",
        "--direct",
        "--print",
    ) as process:
        url = line_with(process.stdout, "URL:").split()[1]
        assert url == f"http://127.0.0.1:{desktop.server_port}/#token={direct_token(MASTER)}"
        process.send_signal(ends)
        errors = process.communicate()[1]
    assert (process.returncode, errors) == (130, "")
    with pytest.raises(ProcessLookupError):
        os.kill(int((forwarding / "pid").read_text()), 0)
    assert (
        (forwarding / "words").read_text()
        == "--namespace vdi-sessions port-forward --address 127.0.0.1 pod/alice-desktop :http\n"
    )


@pytest.mark.usefixtures("behind_gateway", "ending")
def test_json_is_the_address_and_an_end_by_itself_is_a_failure(vdi: Vdi, desktop: Desktop) -> None:
    desktop.known.add(direct_token(MASTER))
    ran = vdi("session", "open", "alice-desktop", "--direct", "-o", "json")
    assert json.loads(ran.out) == {
        "url": f"http://127.0.0.1:{desktop.server_port}/#token={direct_token(MASTER)}"
    }
    assert (ran.code, ran.err) == (
        1,
        "Error: the connection to the desktop has ended: error: lost connection to pod\n",
    )


@pytest.mark.usefixtures("alice", "ending")
def test_without_a_gateway_the_password_is_shown(vdi: Vdi, desktop: Desktop) -> None:
    ran = vdi("session", "open", "alice-desktop", "--direct", "--print")
    assert (
        ran.out == f"URL:      http://127.0.0.1:{desktop.server_port}/\nUser:     user\nPassword:"
        f" {MASTER}\n"
    )


@pytest.mark.usefixtures("ending")
def test_an_image_with_a_page_of_its_own_is_opened_as_it_is(
    vdi: Vdi, alice: FakeCluster, desktop: Desktop
) -> None:
    pod = a_pod()
    pod["metadata"]["annotations"] = {"vdi.kasm.io/protocol": "Web", "vdi.kasm.io/scheme": "HTTPS"}
    alice.put(f"{CORE}/pods", pod)
    ran = vdi("session", "open", "alice-desktop", "--direct", "-o", "json")
    assert json.loads(ran.out) == {"url": f"https://127.0.0.1:{desktop.server_port}/"}


@pytest.mark.usefixtures("behind_gateway", "ending")
def test_a_desktop_that_no_gateway_has_reached_gets_the_token(vdi: Vdi, desktop: Desktop) -> None:
    vdi("session", "open", "alice-desktop", "--direct", "--print")
    assert direct_token(MASTER) in desktop.known


@pytest.mark.usefixtures("behind_gateway", "ending")
def test_no_one_who_is_connected_is_cut_off(vdi: Vdi, desktop: Desktop) -> None:
    desktop.connected = ["alice"]
    ran = vdi("session", "open", "alice-desktop", "--direct", "--print")
    assert (ran.code, ran.out) == (1, "")
    assert "would disconnect the users who are connected" in ran.err
    assert desktop.known == {MASTER}


@pytest.mark.usefixtures("behind_gateway", "ending")
def test_a_stream_that_passes_no_forwarded_port_is_refused(vdi: Vdi, desktop: Desktop) -> None:
    desktop.mode = "webrtc"
    ran = vdi("session", "open", "alice-desktop", "--direct", "--print")
    assert ran.code == 1
    assert "streams over WebRTC" in ran.err


@pytest.mark.usefixtures("behind_gateway")
def test_a_refusal_of_the_api_server_is_passed_on(
    vdi: Vdi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_kubectl(tmp_path, "#!/bin/sh\necho 'error: pods is forbidden' >&2\nexit 1\n", monkeypatch)
    ran = vdi("session", "open", "alice-desktop", "--direct")
    assert (ran.code, ran.out) == (3, "")
    assert "`kubectl port-forward` cannot reach the desktop: error: pods is forbidden" in ran.err


@pytest.mark.usefixtures("behind_gateway")
def test_without_kubectl_the_error_says_what_to_do(
    vdi: Vdi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    ran = vdi("session", "open", "alice-desktop", "--direct")
    assert ran.code == 3
    assert "--direct needs kubectl" in ran.err
