"""The probe's Job where nothing can be measured: what it says, how it ends, and that it leaves no
desktop.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import pytest

from support.web_server import serve_handler
from unit.cli.conftest import Ran
from unit.cli.remote_stage import RemoteGateway
from unit.gateway.api_stage import ALICE, RUNNING
from vdi.cli.session.probe import SESSION, main
from vdi.session.credentials import KEY_SECRET

Job = Callable[[str], Ran]


@contextmanager
def internal_port(status: int, body: str) -> Iterator[str]:
    """The URL of a gateway's internal port that gives this answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            right = (self.path, self.headers["Authorization"]) == (
                "/internal/probe-token",
                "Bearer of-the-pod",
            )
            self.send_response(status if right else 404)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with serve_handler(Handler) as server:
        yield f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def job(
    gateway: RemoteGateway,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Job:
    """Run it against this internal port, as the chart would."""
    token = tmp_path / "token"
    token.write_text("of-the-pod\n")

    def run(internal: str) -> Ran:
        for name, value in {
            "VDI_SERVER": gateway.url,
            "VDI_GATEWAY_URL": internal,
            "VDI_GATEWAY_TOKEN_FILE": str(token),
            "VDI_PROBE_CONNECT": f"127.0.0.1:{httpx.URL(gateway.url).port}",
            "VDI_PROBE_TEMPLATE": "ubuntu",
        }.items():
            monkeypatch.setenv(name, value)
        code = main()
        seen = capsys.readouterr()
        return Ran(code, seen.out, seen.err)

    return run


def logged_in(gateway: RemoteGateway) -> str:
    """The internal port's answer: a user and their API token."""
    return json.dumps({"user": ALICE.user, "token": gateway.api_token(ALICE)})


def test_a_gateway_without_an_answer_or_a_token_is_named(job: Job) -> None:
    with internal_port(403, "this token is not the probe's\n") as url:
        ran = job(url)
    assert ran.code == 3
    assert (
        ran.err
        == "error: the gateway gives no token to the probe (403): this token is not the probe's\n"
    )
    ran = job(url)
    assert (ran.code, ran.err.startswith(f"error: cannot reach {url}: ")) == (3, True), ran.err


def test_a_desktop_that_does_not_start_is_explained_and_deleted(
    job: Job, gateway: RemoteGateway
) -> None:
    gateway.there.cluster.then = [{"phase": "Failed", "message": "The image does not exist."}]
    with internal_port(200, logged_in(gateway)) as url:
        ran = job(url)
    assert (
        ran.code,
        f"session {SESSION} does not start: The image does not exist." in ran.err,
    ) == (1, True), ran.err
    assert SESSION not in gateway.there.cluster.objects


def test_a_desktop_that_cannot_be_measured_is_deleted(job: Job, gateway: RemoteGateway) -> None:
    gateway.there.cluster.then = [{**RUNNING, "url": f"https://{SESSION}.vdi.localhost"}]
    del gateway.there.cluster.secrets[KEY_SECRET]
    with internal_port(200, logged_in(gateway)) as url:
        ran = job(url)
    said = f"error: The address of the agent in '{SESSION}' is not known right now."
    assert (ran.code, said in ran.err) == (3, True), ran.err
    assert SESSION not in gateway.there.cluster.objects
