"""The demo's output, its user, its environment and its time limits. `make machines` plays the demo
itself.
"""

import json
import stat
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn, cast

import pytest
from PIL import Image
from playwright.sync_api import Page
from typer.testing import CliRunner

from unit.devcluster.binaries_servers import script
from vdi.cli.errors import USAGE
from vdi.cli.main import app, main
from vdi.demo import run
from vdi.demo.browser import DesktopBrowser, Login, NoPictureError
from vdi.demo.run import PeopleError, add_user, ready_user
from vdi.devcluster import starting
from vdi.devcluster.layout import ClusterError, Layout
from vdi.devcluster.progress import Progress, Step

LOGIN = Login("https://portal.vdi.localhost:8443", "you@example.com", "secret-of-the-demo")
YOU = "you@example.com"


def test_up_and_down_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url, picture = "https://demo.vdi.localhost:8443/", tmp_path / "demo.png"
    monkeypatch.setattr(
        run, "up", lambda *_, **__: run.Demo(tmp_path / "admin.conf", tmp_path / "bin", LOGIN)
    )
    monkeypatch.setattr(run, "start_session", lambda *_, **__: url)
    monkeypatch.setattr(run, "take_picture", lambda *_, **__: None)
    monkeypatch.setattr(run, "down", lambda _: ["processes"])

    assert main(["demo", "up", "--screenshot", str(picture), "--no-scene", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "portal": LOGIN.portal,
        "user": LOGIN.user,
        "password": LOGIN.password,
        "people": [],
        "leftOut": "",
        "desktop": {"session": run.SESSION, "url": url, "screenshot": str(picture)},
        "kubeconfig": str(tmp_path / "admin.conf"),
        "tools": str(tmp_path / "bin"),
    }
    assert main(["demo", "down", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"removed": ["processes"]}


class DesktopWithoutPanel(DesktopBrowser):
    """A browser whose desktop shows its wallpaper alone."""

    def __enter__(self) -> "DesktopWithoutPanel":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def log_in(self, **_: float) -> None:
        pass

    def open(self, **_: float) -> None:
        pass

    def picture(self) -> Image.Image:
        return Image.new("RGB", (2, 1), "navy")

    def open_terminal(self) -> None:
        raise NoPictureError("no terminal")


def test_a_desktop_without_its_panel_leaves_its_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo, file = run.Demo(tmp_path / "admin.conf", tmp_path / "bin", LOGIN), tmp_path / "demo.png"
    monkeypatch.setattr(run, "DesktopBrowser", DesktopWithoutPanel)
    monkeypatch.setattr(run, "kubectl", lambda *_: "ptmx")
    with (
        Progress(tmp_path) as progress,
        pytest.raises(NoPictureError, match=f"^no terminal; see {file}$"),
    ):
        run.take_picture("https://first.vdi.localhost", demo, file, progress=progress)
    assert Image.open(file).getpixel((0, 0)) == (0, 0, 128)


class DesktopWithTerminal(DesktopWithoutPanel):
    """A browser whose desktop has a terminal already: a new one covers it, and changes a title."""

    def __init__(self, *_: object, **__: object) -> None:
        self.page = cast(Page, SimpleNamespace(wait_for_timeout=lambda _: None))
        self._timeout_factor, self.windows, self.typed = 0.1, 1, ""

    def picture(self) -> Image.Image:
        shown = Image.new("RGB", (300, 100), "navy")
        shown.paste("white", (0, 0, 300, self.windows))
        shown.paste("green", (0, 50, 300 if self.typed else 0, 60))
        return shown

    def open_terminal(self) -> None:
        self.windows += 1

    def type(self, text: str) -> None:
        assert self.windows == 2
        self.typed += text


def test_picture_is_taken_of_a_desktop_with_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo, file = run.Demo(tmp_path / "admin.conf", tmp_path / "bin", LOGIN), tmp_path / "demo.png"
    listed = iter(["0 ptmx", "0 ptmx", "0 1 ptmx"])
    monkeypatch.setattr(run, "kubectl", lambda *_: next(listed))
    monkeypatch.setattr(run, "DesktopBrowser", DesktopWithTerminal)
    with Progress(tmp_path) as progress:
        run.take_picture("https://first.vdi.localhost", demo, file, progress=progress)
    assert Image.open(file).getpixel((0, 55)) == (0, 128, 0)
    assert next(listed, None) is None, "it waited until the desktop had opened the terminal"


def test_interrupted_demo_names_the_running_cluster(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "up", interrupt)
    assert main(["demo", "up", "--name", "two"]) == 130
    said = capsys.readouterr().err
    assert "a cluster that it has started keeps running until vdi demo down --name two." in said


class Commands:
    """Stands in for `vdi gateway user`: remembers users, and what was typed."""

    def __init__(self) -> None:
        self.users: dict[str, str] = {}
        self.typed: list[tuple[str, ...]] = []
        self.seconds: set[float] = set()

    def __call__(
        self, _kubeconfig: Path, *words: str, stdin: str = "", seconds: float = 60.0
    ) -> str:
        self.seconds.add(seconds)
        if words[0] == "ls":
            return "\n".join(self.users)
        self.typed.append(words)
        assert words[0] != "add" or words[1] not in self.users, "the real one refuses"
        self.users[words[1]] = stdin.strip()
        return ""


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    made = Commands()
    monkeypatch.setattr(run, "_run", made)
    return made


@pytest.fixture
def user(commands: Commands, tmp_path: Path) -> Callable[..., Login]:
    """The demo's user, whose login is kept in the test's folder."""
    return partial(ready_user, tmp_path / "k", tmp_path, "https://portal.vdi.localhost", YOU)


def test_password_of_the_demo_user_is_kept_and_private(
    commands: Commands, user: Callable[..., Login], tmp_path: Path
) -> None:
    first = user(timeout_factor=20)
    assert commands.users == {YOU: first.password}
    assert commands.typed == [("add", YOU, "--admin", "--password-stdin")]
    assert user(timeout_factor=20) == first
    assert len(commands.typed) == 1, "another password would end everything that is open"
    assert commands.seconds == {1200.0}
    assert stat.S_IMODE((tmp_path / f"portal-login-{YOU}.json").stat().st_mode) == 0o600
    assert first.password not in repr(first)


@pytest.mark.parametrize("lost", ["user", "file"])
def test_a_lost_user_or_file_means_another_password(
    commands: Commands, user: Callable[..., Login], tmp_path: Path, lost: str
) -> None:
    first = user()
    if lost == "user":
        commands.users.clear()
    else:
        (tmp_path / f"portal-login-{YOU}.json").unlink()
    again = user()
    assert again.password != first.password
    assert commands.users == {YOU: again.password}
    assert commands.typed[-1][0] == ("add" if lost == "user" else "passwd")


@pytest.mark.parametrize(
    ("seconds", "message"),
    [
        (60.0, "vdi gateway user ls"),
        (0.01, r"`vdi gateway user ls` did not end in 0\.01 s;.*VDI_TIMEOUT_FACTOR=10"),
    ],
    ids=["error", "late"],
)
def test_a_command_that_fails_is_named(tmp_path: Path, seconds: float, message: str) -> None:
    (tmp_path / "kubeconfig").write_text("{}")
    with pytest.raises(PeopleError, match=message):
        add_user(tmp_path / "kubeconfig", YOU, "p", seconds=seconds)


def test_kubectl_helm_and_vdi_bypass_the_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "registry.example")
    environments: list[Mapping[str, str]] = []

    def remember(_step: Step, _argv: Sequence[str | Path], *, env: Mapping[str, str]) -> None:
        environments.append(env)

    monkeypatch.setattr(Step, "run", remember)
    script(
        tmp_path / "kubectl",
        f'env >> {tmp_path}/seen\necho \'{{"status": {{"url": "https://first"}}}}\'',
    )
    kubeconfig = tmp_path / "kubeconfig"
    with Progress(tmp_path / "logs") as progress:
        run._install(
            tmp_path / "values.yaml", kubeconfig, tmp_path, timeout_factor=1, progress=progress
        )
        run.start_session(run.Demo(kubeconfig, tmp_path, LOGIN), progress=progress)
    seen = (tmp_path / "seen").read_text()
    assert f"KUBECONFIG={kubeconfig}\n" in seen
    assert "_proxy=" not in seen.lower()
    assert [env["KUBECONFIG"] for env in environments] == [str(kubeconfig)] * 2
    assert not [name for env in environments for name in env if name.lower().endswith("_proxy")]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Command lines of the demo's steps, which are not run."""
    typed: list[list[str]] = []

    def remember(_step: Step, argv: Sequence[str | Path], **_: object) -> None:
        typed.append([str(word) for word in argv])

    monkeypatch.setattr(Step, "run", remember)
    return typed


@pytest.mark.parametrize(
    ("exists", "factor", "limit"),
    [
        (False, 1.0, ["--timeout-wait", "300s"]),
        (False, 10.0, ["--timeout-wait", "3000s"]),
        (True, 1.5, ["--timeout=450s"]),
    ],
)
def test_session_has_the_scaled_time_limit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps: list[list[str]],
    exists: bool,
    factor: float,
    limit: list[str],
) -> None:
    def kubectl(_kubeconfig: Path, _kubectl: Path, *words: str) -> str:
        return (
            '{"status": {"url": "https://first.vdi.localhost"}}'
            if "json" in words
            else "vdi/first" * exists
        )

    monkeypatch.setattr(run, "kubectl", kubectl)
    with Progress(tmp_path / "logs") as progress:
        run.start_session(
            run.Demo(tmp_path / "kubeconfig", tmp_path, LOGIN, factor), progress=progress
        )
    assert [word for word in steps[0] if word.startswith("--timeout") or word == limit[-1]] == limit


def test_cluster_process_timeouts_scale_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed: list[float] = []

    def never(_condition: object, seconds: float) -> bool:
        allowed.append(seconds)
        return False

    monkeypatch.setattr(starting, "wait_until", never)
    with (
        Progress(tmp_path / "logs") as progress,
        progress.step("Wait") as step,
        pytest.raises(ClusterError, match="not running after 1200 s"),
    ):
        starting.wait_running(Layout(tmp_path / "demo"), step, timeout_factor=10)
    assert allowed == [1200.0]


@pytest.mark.parametrize("command", [["demo", "up"], ["cluster", "up"]], ids=" ".join)
@pytest.mark.parametrize("value", ["abc", "0.5", "101"])
def test_invalid_factor_is_refused_first(command: list[str], value: str) -> None:
    result = CliRunner().invoke(app, command, env={"VDI_TIMEOUT_FACTOR": value})
    assert result.exit_code == USAGE
    assert "VDI_TIMEOUT_FACTOR" in result.output
    assert value in result.output
