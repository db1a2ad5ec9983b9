"""Browsers that have the desktop open: Selkies' own list."""

import contextlib
import http.client
import time
from collections.abc import Callable
from datetime import datetime

from x11 import UnknownError

from agent.selkies_api import SelkiesApi

SELKIES_SECONDS = 1.5
VISIT_SECONDS = 15.0


class Viewers:
    """Knows who is connected, and when the last one came.

    Args:
        is_probe: whether a browser that came at this time is that of a latency probe.
    """

    def __init__(self, selkies: SelkiesApi, is_probe: Callable[[float], bool]) -> None:
        self._selkies, self._is_probe = selkies, is_probe
        self._last_came: float | None = None

    def look(self) -> tuple[int, float | None]:
        """Browsers now, and seconds since the last one came. Raises UnknownError.

        Sockets would not do: probes and the proxy's idle connections look like browsers there.
        """
        try:
            pages = self._selkies.request("GET", "/api/sessions", seconds=SELKIES_SECONDS)[
                "sessions"
            ]
            for page in pages:
                if page["connected_at"]:
                    self._note(datetime.fromisoformat(page["connected_at"]).timestamp())
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            raise UnknownError(f"Selkies can't be asked who is connected: {error!r}") from error
        if self._last_came is None:
            return len(pages), None
        return len(pages), max(0.0, time.time() - self._last_came)

    def _note(self, came: float) -> None:
        if not self._is_probe(came):
            self._last_came = max(came, self._last_came or came)

    def watch(self) -> None:
        """Look by itself too, as long as the agent lives: the operator asks seldom, and a visit may
        be short.
        """
        while True:
            time.sleep(VISIT_SECONDS)
            with contextlib.suppress(UnknownError):
                self.look()
