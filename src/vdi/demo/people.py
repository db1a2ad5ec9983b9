"""Local users of the demo's portal, made by the same command that an administrator types."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

from vdi.demo.browser import Login
from vdi.devcluster.layout import give_to_invoker, write_private


class PeopleError(Exception):
    """Raised when a user cannot be made; has the words of `vdi gateway user`."""


def ready_user(kubeconfig: Path, folder: Path, portal: str, user: str) -> Login:
    """An administrator of the portal with a generated password, the same for as long as the cluster lives.

    The cluster keeps a hash alone, so the password is kept in `folder`, for its owner's eyes only.
    """
    file = folder / "portal-login.json"
    if file.exists() and user in _run(kubeconfig, "ls", "-o", "name").split():
        return Login(portal, user, json.loads(file.read_text())["password"])
    password = secrets.token_urlsafe(12)
    write_private(file, json.dumps({"user": user, "password": password}).encode())
    give_to_invoker(file)
    add_user(kubeconfig, user, password, "--admin")
    return Login(portal, user, password)


def add_user(kubeconfig: Path, user: str, password: str, *more: str) -> None:
    """Make a local user, or give one that is there this password. Raises PeopleError."""
    known = user in _run(kubeconfig, "ls", "-o", "name").split()
    words = ["passwd", user] if known else ["add", user, *more]
    _run(kubeconfig, *words, "--password-stdin", stdin=f"{password}\n")


def remove_user(kubeconfig: Path, user: str) -> None:
    """Forget a local user. Raises PeopleError."""
    _run(kubeconfig, "rm", user)


def _run(kubeconfig: Path, *words: str, stdin: str = "") -> str:
    command = [sys.executable, "-m", "vdi", "gateway", "user", *words]
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "NO_COLOR": "1"}
    done = subprocess.run(
        command, input=stdin, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode != 0:
        raise PeopleError(f"`vdi gateway user {words[0]}`: {done.stderr.strip()}")
    return done.stdout
