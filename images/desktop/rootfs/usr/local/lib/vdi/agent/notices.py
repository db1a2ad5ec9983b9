"""Notices on the desktop: Xfce's notification daemon shows them, which D-Bus starts with the first
one.
"""

import html
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from x11 import UnknownError

from agent.log import log

NOTIFY_SECONDS, LOOK_SECONDS = 10.0, 0.5
_DAEMON = "org.freedesktop.Notifications"
_OPTIONS = (
    "--app-name=Desktop",
    "--urgency=critical",
    "--expire-time=0",
    "--icon=dialog-warning",
    "--print-id",
)


_TIME = re.compile(r"\b([01]\d|2[0-3]):([0-5]\d) UTC\b")


def in_local_time(text: str) -> str:
    """The text with its times, such as `16:05 UTC`, in the desktop's zone; the nearest is meant.

    A desktop from a pool has no zone of its user's: its times stay as they are.
    """
    if not os.environ.get("TZ"):
        return text
    now = datetime.now(UTC)

    def local(found: "re.Match[str]") -> str:
        moment = now.replace(hour=int(found[1]), minute=int(found[2]))
        moment += timedelta(days=round((now - moment) / timedelta(days=1)))
        return f"{moment.astimezone():%H:%M}"

    return _TIME.sub(local, text)


class Notice(NamedTuple):
    """A message to the person in front of the desktop.

    It replaces the one with its id; one with an empty text withdraws it. It stays until a person
    closes it, until its time, or, with `until_input`, until somebody touches the desktop.
    """

    id: str
    title: str
    text: str
    until: float
    until_input: bool

    @staticmethod
    def read(body: bytes) -> "Notice":
        """From JSON. Raises TypeError, or ValueError with the field, its value and what is allowed."""
        data = json.loads(body)
        if not isinstance(data, dict):
            raise TypeError(f"a notice is an object, not {data!r}")
        for name in ("id", "title", "text", "until"):
            if not isinstance(data.get(name, ""), str) or (name == "id" and not data.get(name)):
                raise ValueError(f"{name}: {data.get(name)!r} is not allowed; it is a text")
        until = data.get("until")
        try:
            ends = datetime.fromisoformat(until).timestamp() if until else float("inf")
        except ValueError:
            raise ValueError(
                f"until: {until!r} is not allowed; it is a time such as 2026-11-20T12:00:00Z"
            ) from None
        return Notice(
            id=data["id"],
            title=data.get("title", ""),
            text=data.get("text", ""),
            until=ends,
            until_input=data.get("untilInput") is True,
        )


class Shown(NamedTuple):
    """A notice, its number in the notification daemon, and when it came."""

    notice: Notice
    number: int
    came: float


class Notices:
    """What is shown, which is lost when the agent ends; a thread takes away what is over.

    Args:
        env: finds the session's bus.
        last_input: the time of the last input. Raises UnknownError.
    """

    def __init__(self, env: Mapping[str, str], last_input: Callable[[], float]) -> None:
        self._env, self._last_input = env, last_input
        self.shown: dict[str, Shown] = {}
        self._lock = threading.Lock()
        self._is_any_shown = threading.Event()

    def post(self, notice: Notice) -> None:
        """Show it, or withdraw it. The same one again changes nothing, also after a person has
        closed it. Raises UnknownError.
        """
        with self._lock:
            before = self.shown.get(notice.id)
            if before and before.notice == notice:
                return
            if not notice.text:
                self._withdraw(notice.id)
                return
            number = self._show(notice, before.number if before else 0)
            self.shown[notice.id] = Shown(notice, number, time.time())
            self._is_any_shown.set()

    def post_or_log(self, notice: Notice) -> None:
        """Show it, or withdraw it; one that can't be shown is in the log."""
        try:
            self.post(notice)
        except UnknownError as error:
            log(f"a notice could not be shown: {error}")

    def _show(self, notice: Notice, replaced: int) -> int:
        """Put it on the screen; returns its number."""
        replace = [f"--replace-id={replaced}"] if replaced else []
        text = html.escape(in_local_time(notice.text), quote=False)
        number = self.run(["notify-send", *_OPTIONS, *replace, "--", notice.title, text])
        try:
            return int(number)
        except ValueError:
            raise UnknownError(f"notify-send wrote {number[:50]!r}, which is no number") from None

    def _withdraw(self, name: str) -> None:
        """Take it from the screen, if it is there."""
        if name in self.shown:
            number = self.shown.pop(name).number
            address = [f"--dest={_DAEMON}", "/" + _DAEMON.replace(".", "/")]
            call = [f"{_DAEMON}.CloseNotification", f"uint32:{number}"]
            self.run(["dbus-send", "--session", "--print-reply", *address, *call])

    def run(self, argv: list[str]) -> str:
        """What the program wrote. Raises UnknownError when it failed."""
        try:
            done = subprocess.run(
                argv,
                env=self._env,
                capture_output=True,
                text=True,
                timeout=NOTIFY_SECONDS,
                check=True,
            )
        except subprocess.CalledProcessError as error:
            raise UnknownError(f"{argv[0]}: {error.stderr.strip()}") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UnknownError(f"{argv[0]}: {error}") from error
        return done.stdout

    def watch(self) -> None:
        """Take away what is over, as long as the agent lives."""
        while True:
            self._is_any_shown.wait()
            time.sleep(LOOK_SECONDS)
            try:
                with self._lock:
                    self.look()
                    if not self.shown:
                        self._is_any_shown.clear()
            except UnknownError as error:
                log(f"a notice could not be taken away: {error}")

    def look(self) -> None:
        """Once over everything that is shown."""
        now = time.time()
        waits_for_input = any(shown.notice.until_input for shown in self.shown.values())
        touched = self._last_input() if waits_for_input else 0.0
        for name, (notice, _, came) in list(self.shown.items()):
            if now >= notice.until or (notice.until_input and touched > came):
                self._withdraw(name)
