"""The cluster as a user at a terminal has it: kubectl and vdi; and people who can log in at its
portal.
"""

import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from vdi.demo import run
from vdi.demo.browser import DesktopBrowser, Login, changed_pixels
from vdi.devcluster.progress import Progress

NAMESPACE = "vdi-sessions"
PICTURES = Path("build/e2e")
_LOOK_AGAIN_MILLISECONDS = 3000
_LIST_WINDOWS = """
from selkies.Xlib.display import Display
for window in Display().screen().root.query_tree().children:
    place = window.get_geometry()
    name, shown = window.get_wm_class() or window.get_wm_name(), window.get_attributes().map_state
    print(name, place.x, place.y, place.width, place.height, "shown" if shown else "hidden")
"""


def _look_again(browser: DesktopBrowser, session: str) -> str:
    """Keep the page's picture, and say what still changes it: an old picture stays where the
    desktop's would move.
    """
    PICTURES.mkdir(parents=True, exist_ok=True)
    before = browser.picture()
    before.save(PICTURES / f"{session}.png")
    said = [f"The page's last messages: {browser.messages[-10:]}"]
    tries: dict[str, Callable[[], object]] = {
        "by waiting": lambda: None,
        "by moving the pointer": lambda: browser.page.mouse.move(400, 400, steps=20),
        "by loading the page again": browser.page.reload,
    }
    for how, do in tries.items():
        do()
        browser.page.wait_for_timeout(_LOOK_AGAIN_MILLISECONDS)
        now = browser.picture()
        said.append(f"{changed_pixels(before, now)} pixels changed {how}.")
        before = now
    before.save(PICTURES / f"{session}-again.png")
    return "\n".join(said)


@dataclass(frozen=True)
class World:
    """The cluster as a user at a terminal has it."""

    kubeconfig: Path
    # URL of the portal.
    portal: str
    # People who have a password already.
    logins: dict[str, Login] = field(default_factory=dict)

    def login(self, user: str) -> Login:
        """A login of this person, with a password at the portal."""
        if user not in self.logins:
            password = secrets.token_urlsafe(12)
            run.add_user(self.kubeconfig, user, password)
            self.logins[user] = Login(self.portal, user, password)
        return self.logins[user]

    @contextmanager
    def browser(self, session: str, user: str = "") -> Iterator[DesktopBrowser]:
        """A browser for that session's desktop: of its owner, or of another person. No one has
        logged in yet.

        A test that fails in it says what was in the desktop, and keeps the page's picture in
        build/e2e.
        """
        found = self.get("vdi", session)
        assert found
        with DesktopBrowser(
            found["status"]["url"], self.login(user or found["spec"]["user"])
        ) as browser:
            try:
                yield browser
            except Exception as error:
                error.add_note(_look_again(browser, session))
                error.add_note(self._describe(session))
                raise

    def _describe(self, session: str) -> str:
        """Screen, programs, windows and the last lines of the log of that session's pod."""
        look = (
            "export DISPLAY=:0 XAUTHORITY=/tmp/.vdi/Xauthority; "
            "xrandr; ps axo lstart,stat,wchan,args; /opt/selkies/bin/python3 -"
        )
        said = []
        for pod in self.items("pod", f"vdi.kasm.io/session={session}"):
            name = pod["metadata"]["name"]
            said.append(
                self.kubectl(
                    "exec", "-i", name, "--", "sh", "-c", look, stdin=_LIST_WINDOWS, check=False
                )
            )
            said.append(self.kubectl("logs", name, "--tail", "40", check=False))
        return "\n".join(said)

    def kubectl(self, *words: str, stdin: str | None = None, check: bool = True) -> str:
        return self._run(["kubectl", "-n", NAMESPACE, *words], stdin, check)

    def vdi(self, *words: str, check: bool = True) -> str:
        return self._run([sys.executable, "-m", "vdi", *words], None, check)

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        out = self.kubectl("get", kind, name, "-o", "json", "--ignore-not-found")
        result: dict[str, Any] | None = json.loads(out) if out.strip() else None
        return result

    def items(self, kind: str, selector: str = "") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(
            self.kubectl("get", kind, "-l", selector, "-o", "json")
        )["items"]
        return found

    def _run(self, argv: list[str], stdin: str | None, check: bool) -> str:
        env = {**os.environ, "KUBECONFIG": str(self.kubeconfig), "NO_COLOR": "1"}
        done = subprocess.run(
            argv, input=stdin, env=env, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, (
            f"{argv} ended with {done.returncode}: {done.stdout} {done.stderr}"
        )
        return done.stdout + ("" if check else done.stderr)


def start_demo(name: str, nodes: int | None = None) -> World:
    """The demo's cluster of this name, with its programs on the PATH. `nodes` is as in
    `cluster.up`.
    """
    if os.geteuid() != 0:
        pytest.fail("these tests need root: a node runs kubelet and containerd")
    with Progress(Path(tempfile.mkdtemp(prefix=f"vdi-{name}-"))) as progress:
        demo = run.up(name, browser=True, nodes=nodes, progress=progress)
    os.environ["PATH"] = f"{demo.tools}{os.pathsep}{os.environ['PATH']}"
    return World(kubeconfig=demo.kubeconfig, portal=demo.login.portal)
