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

_COMMAND_SECONDS = 60.0


class PeopleError(Exception):
    """Raised when a user cannot be made; has the words of `vdi gateway user`."""


def ready_user(kubeconfig: Path, folder: Path, portal: str, user: str, *, timeout_factor: float = 1.0) -> Login:
    """An administrator of the portal with a generated password, the same for as long as the cluster lives.

    The cluster keeps a hash alone, so the password is kept in `folder`, for its owner's eyes only. `timeout_factor`
    multiplies the time limit of each command.
    """
    file, seconds = folder / "portal-login.json", _COMMAND_SECONDS * timeout_factor
    if file.exists() and user in _run(kubeconfig, "ls", "-o", "name", seconds=seconds).split():
        return Login(portal, user, json.loads(file.read_text())["password"])
    password = secrets.token_urlsafe(12)
    write_private(file, json.dumps({"user": user, "password": password}).encode())
    give_to_invoker(file)
    add_user(kubeconfig, user, password, "--admin", seconds=seconds)
    return Login(portal, user, password)


def add_user(kubeconfig: Path, user: str, password: str, *more: str, seconds: float = _COMMAND_SECONDS) -> None:
    """Make a local user, or give one that is there this password. Raises PeopleError."""
    known = user in _run(kubeconfig, "ls", "-o", "name", seconds=seconds).split()
    words = ["passwd", user] if known else ["add", user, *more]
    _run(kubeconfig, *words, "--password-stdin", stdin=f"{password}\n", seconds=seconds)


def remove_user(kubeconfig: Path, user: str) -> None:
    """Forget a local user. Raises PeopleError."""
    _run(kubeconfig, "rm", user)


def _run(kubeconfig: Path, *words: str, stdin: str = "", seconds: float = _COMMAND_SECONDS) -> str:
    command = [sys.executable, "-m", "vdi", "gateway", "user", *words]
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "NO_COLOR": "1"}
    try:
        done = subprocess.run(
            command, input=stdin, env=environment, capture_output=True, text=True, check=False, timeout=seconds
        )
    except subprocess.TimeoutExpired as error:
        raise PeopleError(
            f"`vdi gateway user {words[0]}` did not end in {seconds:g} s; on a slow machine set VDI_TIMEOUT_FACTOR=10"
        ) from error
    if done.returncode != 0:
        raise PeopleError(f"`vdi gateway user {words[0]}`: {done.stderr.strip()}")
    return done.stdout
