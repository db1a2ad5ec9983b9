"""The base image: the registry first, Debian's packages when it cannot be used, and the reason
said.
"""

import io
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from rich.console import Console

from support.web_server import serve_handler
from vdi.devcluster.build_cache import BuildCache
from vdi.devcluster.images import base
from vdi.devcluster.images.base import from_registry, make_base, registry_problem
from vdi.devcluster.progress import Progress, Step, StepFailed

DIGEST = f"sha256:{'0' * 64}"


@pytest.fixture
def registry() -> Iterator[str]:
    """A registry that answers with the status in the path."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(int(self.path.strip("/")))
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with serve_handler(Handler) as server:
        yield f"http://127.0.0.1:{server.server_port}"


@pytest.mark.parametrize(
    ("status", "problem"), [(200, None), (401, None), (503, "its registry responded with 503")]
)
def test_registry_answers(registry: str, status: int, problem: str | None) -> None:
    answer = registry_problem(f"{registry}/{status}", 2.0)

    assert answer == problem if problem is None else str(answer).startswith(problem)


def test_registry_that_is_away_says_why() -> None:
    assert "cannot be reached (" in str(registry_problem("http://127.0.0.1:1/", 0.5))


@pytest.fixture
def making(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[BuildCache, Step, io.StringIO]]:
    """A build cache; each source of the base writes its name."""
    screen = io.StringIO()
    monkeypatch.setattr(
        base, "_pull", lambda _build_cache, _step, target, _digest: target.write_text("pulled")
    )
    monkeypatch.setattr(
        base, "_bootstrap", lambda _build_cache, _step, target: target.write_text("made")
    )
    with (
        Progress(tmp_path / "logs", Console(file=screen, width=200)) as progress,
        progress.step("base") as step,
    ):
        yield BuildCache(progress, tmp_path, {"PATH": ""}, "amd64"), step, screen


def test_registry_that_is_away_gives_way_to_packages_and_says_so(
    making: tuple[BuildCache, Step, io.StringIO], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        base, "registry_problem", lambda: "its registry cannot be reached (no route)"
    )

    make_base(making[0], making[1], tmp_path, DIGEST)

    assert (tmp_path / "image.tar").read_text() == "made" and not from_registry(tmp_path)
    assert (
        "cannot be reached (no route); it is built from Debian's packages instead"
        in making[2].getvalue()
    )


def test_pull_that_fails_gives_way_too(
    making: tuple[BuildCache, Step, io.StringIO], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pull(_build_cache: BuildCache, step: Step, _target: Path, _digest: str) -> None:
        raise StepFailed(
            step.title, "podman ended with status 125", step.log_path, "toomanyrequests"
        )

    monkeypatch.setattr(base, "registry_problem", lambda: None)
    monkeypatch.setattr(base, "_pull", pull)

    make_base(making[0], making[1], tmp_path, DIGEST)

    assert (tmp_path / "origin").read_text() == "mmdebstrap, because podman ended with status 125\n"
