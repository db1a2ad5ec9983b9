"""Start-up scripts of the desktop image: which run, in which order, and how long the desktop waits
for them.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from unit.images.image_scripts import load_library

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home/.config/vdi").mkdir(parents=True)
    return tmp_path / "home"


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    (tmp_path / "runtime").mkdir()
    return tmp_path / "runtime"


@pytest.fixture
def launched(
    home: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Any]]:
    """A desktop whose picture and graphics are decided, with the start-up scripts that there are,
    started.
    """
    monkeypatch.chdir(home)

    def start(given: str = "") -> Any:
        scripts = find_scripts(given, home)
        desktop = load_library("launcher.desktop").Desktop({}, scripts=scripts, runtime=runtime)
        for step in ("first picture encoded", "graphics decided"):
            desktop.clock.mark(step)
        desktop.scripts.start()
        return desktop

    # The launcher always has a child to wait for.
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE):
        yield start


def find_scripts(given: str, home: Path) -> dict[str, list[str]]:
    scripts: dict[str, list[str]] = load_library("launcher.startup_scripts").find_scripts(
        given, home
    )
    return scripts


def watch_until(desktop: Any, there: Callable[[], bool], what: str) -> None:
    """The launcher's own loop, until that is so."""
    its_look = desktop.look

    def look() -> None:
        its_look()
        desktop.processes.stopping = there()

    desktop.processes.stopping, desktop.look = False, look
    desktop.watch()
    desktop.look = its_look
    assert there(), what


def reports(runtime: Path) -> list[dict[str, object]]:
    """What the agent reads."""
    return [
        json.loads(path.read_text()) for path in sorted((runtime / "startup-scripts").iterdir())
    ]


def ready(runtime: Path) -> bool:
    return Path(runtime, "ready").exists()


def write(path: Path, text: str, mode: int = 0o644) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_scripts_run_template_first_and_before_the_desktop(
    runtime: Path,
    home: Path,
    launched: Callable[[str], Any],
    capfd: pytest.CaptureFixture[str],
) -> None:
    given = write(
        home.parent / "t.sh",
        '#!/bin/sh\necho "words of the template"; echo template >> order\n',
        0o555,
    )
    write(home / ".config/vdi/startup.sh", "echo user >> order; exit 3\n")
    desktop = launched(given)
    assert not ready(runtime)
    watch_until(desktop, lambda: ready(runtime), "the desktop goes on")
    assert (home / "order").read_text().split() == ["template", "user"]
    seen = capfd.readouterr()
    assert "words of the template" in seen.out, "the container's log has the script's"
    assert "the template's start-up script ended with status 0" in seen.err
    assert "the user's start-up script ended with status 3" in seen.err
    assert "start-up scripts done" in desktop.clock.line()
    assert desktop._restart_at == {}, "a script is not started again"
    assert reports(runtime) == [
        {
            "source": "template",
            "state": "Ended",
            "exitCode": 0,
            "output": "words of the template\n",
        },
        {"source": "user", "state": "Ended", "exitCode": 3, "output": ""},
    ]


def test_a_hanging_script_holds_up_nothing(
    runtime: Path,
    home: Path,
    launched: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("launcher.startup_scripts.SCRIPT_SECONDS", 0.2)
    os.mkfifo(home / "never")
    given = write(
        home.parent / "t.sh",
        "echo at work; read word < never; echo template >> order; kill -9 $$\n",
    )
    write(home / ".config/vdi/startup.sh", "echo user >> order\n")
    desktop = launched(given)
    watch_until(
        desktop,
        lambda: ready(runtime) and len(desktop.processes.running) == 1,
        "the desktop goes on, and the user's script",
    )
    assert (home / "order").read_text().split() == ["user"]
    assert "the template's start-up script still runs after 0 s" in capfd.readouterr().err
    report, _ = reports(runtime)
    assert report == {"source": "template", "state": "Running", "output": "at work\n"}
    (home / "never").write_text("go\n")
    watch_until(desktop, lambda: not desktop.processes.running, "it is collected when it ends")
    assert (home / "order").read_text().split() == ["user", "template"]
    assert reports(runtime)[0]["exitCode"] == 128 + 9


def test_the_end_of_a_long_output_is_kept(
    runtime: Path,
    home: Path,
    launched: Callable[[str], Any],
    capfd: pytest.CaptureFixture[str],
) -> None:
    os.mkfifo(home / "never")
    text = (
        "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; (read word < never; echo"
        " the last) &\n"
    )
    desktop = launched(write(home.parent / "t.sh", text))
    watch_until(
        desktop, lambda: ready(runtime) and not desktop.processes.running, "the script ends"
    )
    (report,) = reports(runtime)
    output = str(report["output"])
    assert (report["state"], len(output), output.endswith("line 2999\n")) == ("Ended", 4096, True)
    (home / "never").write_text("go\n")
    watch_until(
        desktop,
        lambda: str(reports(runtime)[0]["output"]).endswith("the last\n"),
        "what was left behind",
    )
    assert capfd.readouterr().out.splitlines() == [
        *(f"line {number}" for number in range(3000)),
        "the last",
    ]


def test_a_script_without_an_interpreter_is_run_by_sh(
    runtime: Path, home: Path, launched: Callable[[str], Any]
) -> None:
    """As every script of a ConfigMap is executable."""
    desktop = launched(write(home.parent / "t.sh", "echo ran >> order\n", 0o555))
    watch_until(
        desktop, lambda: ready(runtime) and not desktop.processes.running, "the desktop goes on"
    )
    assert (home / "order").read_text() == "ran\n"


@pytest.mark.parametrize("text", ["#!/no/such/interpreter\n", "exit 4\n"])
def test_a_script_that_cannot_start_is_reported_and_skipped(
    runtime: Path,
    home: Path,
    launched: Callable[[str], Any],
    capfd: pytest.CaptureFixture[str],
    text: str,
) -> None:
    write(home / ".config/vdi/startup.sh", text, 0o755)
    desktop = launched(write(home.parent / "t.sh", "#!/no/such/interpreter\n", 0o755))
    watch_until(
        desktop, lambda: ready(runtime) and not desktop.processes.running, "the desktop goes on"
    )
    assert "start-up script can't be started" in capfd.readouterr().err
    assert reports(runtime)[0]["state"] == "NotStarted"
    assert reports(runtime)[0]["output"] == f"No such file or directory: {home.parent / 't.sh'}"


def test_a_script_of_the_template_that_is_not_there_is_reported(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / ".config/vdi/startup.sh").mkdir()
    assert find_scripts("/etc/vdi-startup/startup.sh", home) == {}
    assert "VDI_STARTUP_SCRIPT=/etc/vdi-startup/startup.sh is not a file" in capsys.readouterr().err


def test_scripts_get_no_variables_of_the_desktops_protection() -> None:
    given = {
        "VDI_STARTUP_SCRIPT": "/s",
        "SELKIES_PORT": "1",
        "KUBERNETES_PORT": "2",
        "LICENCE": "x",
    }
    name = load_library("launcher.startup_scripts").TEMPLATE_SCRIPT
    desktop = load_library("launcher.desktop").Desktop(given, scripts={name: ["/s"]})
    environment = desktop.environments.of(name)
    assert environment["LICENCE"] == "x" and environment["DISPLAY"]
    assert not [
        name for name in environment if name.startswith(("VDI_", "SELKIES_", "KUBERNETES_"))
    ]
