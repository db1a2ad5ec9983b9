"""Start-up scripts of the desktop image: which run, in which order, and how long the desktop waits
for them.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from unit.devcluster.test_images_desktop import desktop

__all__ = ["desktop"]

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home/.config/vdi").mkdir(parents=True)
    return tmp_path / "home"


@pytest.fixture
def launched(
    desktop: ModuleType, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Any]]:
    """A desktop whose picture and graphics are decided, with the start-up scripts that there are,
    started.
    """
    runtime = home.parent / "runtime"
    runtime.mkdir()
    monkeypatch.setattr(desktop, "RUNTIME", runtime)
    monkeypatch.chdir(home)

    def start(given: str = "") -> Any:
        parts = desktop.Desktop(
            {}, [], [], "4096x2304", scripts=desktop.startup_scripts(given, home)
        )
        for step in ("first picture encoded", "graphics decided"):
            parts.clock.mark(step)
        parts.run_scripts()
        parts._let_selkies_accept()
        return parts

    with subprocess.Popen(
        ["cat"], stdin=subprocess.PIPE
    ):  # the launcher always has a child to wait for
        yield start


def watch_until(parts: Any, there: Callable[[], bool], what: str) -> None:
    """The launcher's own loop, until that is so."""
    parts_look = parts._look

    def look() -> None:
        parts_look()
        parts.stopping = there()

    parts.stopping, parts._look = False, look
    parts.watch()
    parts._look = parts_look
    assert there(), what


def reports(desktop: ModuleType) -> list[dict[str, object]]:
    """What the agent reads."""
    return [
        json.loads(path.read_text())
        for path in sorted((desktop.RUNTIME / "startup-scripts").iterdir())
    ]


def ready(desktop: ModuleType) -> bool:
    return Path(desktop.RUNTIME, "ready").exists()


def write(path: Path, text: str, mode: int = 0o644) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_scripts_run_template_first_and_before_the_desktop(
    desktop: ModuleType,
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
    parts = launched(given)
    assert not ready(desktop)
    watch_until(parts, lambda: ready(desktop), "the desktop goes on")
    assert (home / "order").read_text().split() == ["template", "user"]
    seen = capfd.readouterr()
    assert "words of the template" in seen.out, "the container's log has the script's"
    assert "the template's start-up script ended with status 0" in seen.err
    assert "the user's start-up script ended with status 3" in seen.err
    assert "start-up scripts done" in parts.clock.line()
    assert parts.restart_at == {}, "a script is not started again"
    assert reports(desktop) == [
        {
            "source": "template",
            "state": "Ended",
            "exitCode": 0,
            "output": "words of the template\n",
        },
        {"source": "user", "state": "Ended", "exitCode": 3, "output": ""},
    ]


def test_a_hanging_script_holds_up_nothing(
    desktop: ModuleType,
    home: Path,
    launched: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(desktop, "SCRIPT_SECONDS", 0.2)
    os.mkfifo(home / "never")
    given = write(
        home.parent / "t.sh",
        "echo at work; read word < never; echo template >> order; kill -9 $$\n",
    )
    write(home / ".config/vdi/startup.sh", "echo user >> order\n")
    parts = launched(given)
    watch_until(
        parts,
        lambda: ready(desktop) and len(parts.running) == 1,
        "the desktop goes on, and the user's script",
    )
    assert (home / "order").read_text().split() == ["user"]
    assert "the template's start-up script still runs after 0 s" in capfd.readouterr().err
    report, _ = reports(desktop)
    assert report == {"source": "template", "state": "Running", "output": "at work\n"}
    (home / "never").write_text("go\n")
    watch_until(parts, lambda: not parts.running, "it is collected when it ends")
    assert (home / "order").read_text().split() == ["user", "template"]
    assert reports(desktop)[0]["exitCode"] == 128 + 9


def test_the_end_of_a_long_output_is_kept(
    desktop: ModuleType,
    home: Path,
    launched: Callable[[str], Any],
    capfd: pytest.CaptureFixture[str],
) -> None:
    os.mkfifo(home / "never")
    text = (
        "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; (read word < never; echo"
        " the last) &\n"
    )
    parts = launched(write(home.parent / "t.sh", text))
    watch_until(parts, lambda: ready(desktop) and not parts.running, "the script ends")
    (report,) = reports(desktop)
    output = str(report["output"])
    assert (report["state"], len(output), output.endswith("line 2999\n")) == ("Ended", 4096, True)
    (home / "never").write_text("go\n")
    watch_until(
        parts,
        lambda: str(reports(desktop)[0]["output"]).endswith("the last\n"),
        "what was left behind",
    )
    assert capfd.readouterr().out.splitlines() == [
        *(f"line {number}" for number in range(3000)),
        "the last",
    ]


def test_a_script_without_an_interpreter_is_run_by_sh(
    desktop: ModuleType, home: Path, launched: Callable[[str], Any]
) -> None:
    """As every script of a ConfigMap is executable."""
    parts = launched(write(home.parent / "t.sh", "echo ran >> order\n", 0o555))
    watch_until(parts, lambda: ready(desktop) and not parts.running, "the desktop goes on")
    assert (home / "order").read_text() == "ran\n"


@pytest.mark.parametrize("text", ["#!/no/such/interpreter\n", "exit 4\n"])
def test_a_script_that_cannot_start_is_reported_and_skipped(
    desktop: ModuleType,
    home: Path,
    launched: Callable[[str], Any],
    capfd: pytest.CaptureFixture[str],
    text: str,
) -> None:
    write(home / ".config/vdi/startup.sh", text, 0o755)
    parts = launched(write(home.parent / "t.sh", "#!/no/such/interpreter\n", 0o755))
    watch_until(parts, lambda: ready(desktop) and not parts.running, "the desktop goes on")
    assert "start-up script can't be started" in capfd.readouterr().err
    assert reports(desktop)[0]["state"] == "NotStarted"
    assert reports(desktop)[0]["output"] == f"No such file or directory: {home.parent / 't.sh'}"


def test_a_script_of_the_template_that_is_not_there_is_reported(
    desktop: ModuleType, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / ".config/vdi/startup.sh").mkdir()
    assert desktop.startup_scripts("/etc/vdi-startup/startup.sh", home) == {}
    assert "VDI_STARTUP_SCRIPT=/etc/vdi-startup/startup.sh is not a file" in capsys.readouterr().err


def test_scripts_get_no_variables_of_the_desktops_protection(desktop: ModuleType) -> None:
    given = {
        "VDI_STARTUP_SCRIPT": "/s",
        "SELKIES_PORT": "1",
        "KUBERNETES_PORT": "2",
        "LICENCE": "x",
    }
    parts = desktop.Desktop(given, [], [], "4096x2304", scripts={desktop.TEMPLATE_SCRIPT: ["/s"]})
    environment = parts._environment(desktop.TEMPLATE_SCRIPT)
    assert environment["LICENCE"] == "x" and environment["DISPLAY"]
    assert not [
        name for name in environment if name.startswith(("VDI_", "SELKIES_", "KUBERNETES_"))
    ]
