"""The cluster as a user at a terminal has it: kubectl and vdi; and people who can log in at its portal."""

import json
import os
import secrets
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vdi.demo.browser import DesktopBrowser, Login
from vdi.demo.people import add_user

NAMESPACE = "vdi-sessions"


@dataclass(frozen=True)
class World:
    """The cluster as a user at a terminal has it."""

    kubeconfig: Path
    portal: str
    """URL of the portal."""
    logins: dict[str, Login] = field(default_factory=dict)
    """People who have a password already."""

    def login(self, user: str) -> Login:
        """That person, with a password at the portal."""
        if user not in self.logins:
            password = secrets.token_urlsafe(12)
            add_user(self.kubeconfig, user, password)
            self.logins[user] = Login(self.portal, user, password)
        return self.logins[user]

    def browser(self, session: str, user: str = "") -> DesktopBrowser:
        """A browser for that session's desktop: of its owner, or of another person. No one has logged in yet."""
        found = self.get("vdi", session)
        assert found
        return DesktopBrowser(found["status"]["url"], self.login(user or found["spec"]["user"]))

    def kubectl(self, *words: str, stdin: str | None = None, check: bool = True) -> str:
        return self._run(["kubectl", "-n", NAMESPACE, *words], stdin, check)

    def vdi(self, *words: str, check: bool = True) -> str:
        return self._run([sys.executable, "-m", "vdi", *words], None, check)

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        out = self.kubectl("get", kind, name, "-o", "json", "--ignore-not-found")
        result: dict[str, Any] | None = json.loads(out) if out.strip() else None
        return result

    def items(self, kind: str, selector: str = "") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, "-l", selector, "-o", "json"))["items"]
        return found

    def _run(self, argv: list[str], stdin: str | None, check: bool) -> str:
        env = {**os.environ, "KUBECONFIG": str(self.kubeconfig), "NO_COLOR": "1"}
        done = subprocess.run(argv, input=stdin, env=env, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{argv} ended with {done.returncode}: {done.stdout} {done.stderr}"
        return done.stdout + ("" if check else done.stderr)
