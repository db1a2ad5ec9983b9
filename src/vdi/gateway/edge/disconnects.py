"""WebSockets that are cut at the same age again and again: what a proxy in front of Traefik does to quiet connections.

The bytes of a desktop do not pass the gateway, but each new connection asks it first, so only it sees this: a page
whose connection was cut opens the next one at once.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator

_KEPT = 5
"""Openings of one page that are looked at: four gaps of the same length are no chance."""
_ALIKE_SECONDS = 5.0
_SHORTEST, _LONGEST = 20.0, 900.0
"""Gaps in seconds that a proxy's limit is looked for in; a page that fails by itself comes back sooner."""
_MOST = 1000
"""Pages that are remembered."""


class DisconnectDetector:
    """When each page has opened its connections. Times are in seconds, of a clock that only goes forward."""

    def __init__(self) -> None:
        self._opened: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()
        self._sessions: dict[tuple[str, str], str] = {}

    def opened(self, session: str, grant: str, path: str, now: float) -> None:
        """Somebody with this grant connects to the session on this path."""
        key = grant, path
        self._opened.setdefault(key, deque(maxlen=_KEPT)).append(now)
        self._opened.move_to_end(key)
        self._sessions[key] = session
        if len(self._opened) > _MOST:
            self._sessions.pop(self._opened.popitem(last=False)[0], None)

    def problems(self, now: float) -> Iterator[str]:
        """One line for each session whose connections are being cut like that now."""
        reported = set()
        for key, times in self._opened.items():
            gaps = [later - earlier for earlier, later in zip(times, list(times)[1:], strict=False)]
            if len(gaps) < _KEPT - 1 or max(gaps) - min(gaps) > _ALIKE_SECONDS:
                continue
            usual, session = sum(gaps) / len(gaps), self._sessions[key]
            goes_on = now - times[-1] <= usual + _ALIKE_SECONDS
            if _SHORTEST <= usual <= _LONGEST and goes_on and session not in reported:
                reported.add(session)
                yield f"websockets of {session}: they are disconnected every {usual:.0f} s"
