"""What goes in and out of the desktop: Selkies' reports, until the gateway has read them."""

import json
import secrets
import threading
import time
from collections import deque
from datetime import datetime
from typing import Any

MAX_EVENTS, MAX_READ, WAIT_SECONDS = 2048, 100, 20.0
# Of what Selkies reports, with their types.
_FIELDS: dict[str, type] = {
    "event": str,
    "filename": str,
    "mime_type": str,
    "error": str,
    "role": str,
    "size_bytes": int,
    "count": int,
    "seconds": float,
}
_MAX_TEXT = 512


class Transfers:
    """Events of clipboard, files, prints and connections: at most MAX_EVENTS, until a reader asks
    for those after the ones it has written.

    Begins with an event of its own: what came before is lost.
    """

    def __init__(self) -> None:
        self.log = secrets.token_hex(8)
        self.events: deque[dict[str, Any]] = deque()
        self._number = self._last_report = 0
        self._is_changed = threading.Condition()
        self.add(b'{"event": "log.begin"}')

    def add(self, body: bytes) -> None:
        """One event. Raises TypeError, ValueError."""
        data = json.loads(body)
        if not isinstance(data, dict) or not isinstance(data.get("event"), str):
            raise TypeError("an event is an object with its name")
        happened, report = time.monotonic() - age_of(data.get("ts")), data.get("report")
        with self._is_changed:
            # Of run-selkies, which sends a report until it is answered (keep_reports.py).
            if type(report) is int:
                if report <= self._last_report:
                    return
                self._last_report = report
            self._number += 1
            self.events.append({"number": self._number, "at": happened, **_known_fields(data)})
            if len(self.events) > MAX_EVENTS:
                self._join_oldest()
            self._is_changed.notify_all()

    def _join_oldest(self) -> None:
        """The oldest two become one that counts them."""
        first, second = self.events.popleft(), self.events.popleft()
        passed = max(0.0, second["at"] - first["at"])
        dropped = {
            "number": second["number"],
            "at": second["at"],
            "event": "audit.dropped",
            "count": first.get("count", 1) + second.get("count", 1),
            "seconds": passed + first.get("seconds", 0.0),
        }
        self.events.appendleft(dropped)

    def read(self, query: str) -> dict[str, Any]:
        """The first events after those that the reader has written; waits for one. Raises
        ValueError.
        """
        log, after = query.split("&")
        written = int(after) if log == self.log else 0
        with self._is_changed:
            while self.events and self.events[0]["number"] <= written:
                self.events.popleft()
            self._is_changed.wait_for(lambda: self.events, WAIT_SECONDS)
            now = time.monotonic()
            events = [{**event, "age": now - event["at"]} for event in self.events]
            return {"log": self.log, "events": events[:MAX_READ]}


def _known_fields(data: dict[str, Any]) -> dict[str, Any]:
    known = {}
    for name, kind in _FIELDS.items():
        value = data.get(name)
        if type(value) is not kind:  # True is no number here
            continue
        if isinstance(value, str):
            value = value.encode(errors="replace").decode()[:_MAX_TEXT]
        known[name] = value
    return known


def age_of(moment: object) -> float:
    """Seconds since Selkies' time of an event, which may have waited for this agent; 0 without
    one.
    """
    try:
        return max(0.0, time.time() - datetime.fromisoformat(str(moment)).timestamp())
    except (ValueError, OverflowError):
        return 0.0
