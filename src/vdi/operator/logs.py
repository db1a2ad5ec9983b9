"""Log lines as `key=value`, each with the session that it is about: readable by people and by machines."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

_session: ContextVar[tuple[str, str] | None] = ContextVar("session", default=None)


@contextmanager
def log_session(key: tuple[str, str]) -> Iterator[None]:
    """Lines logged within, also by tasks started within, carry this session."""
    token = _session.set(key)
    try:
        yield
    finally:
        _session.reset(token)


class KeyValueFormatter(logging.Formatter):
    """`time=... level=... logger=... session=... msg="..."`, and the traceback below, if any."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        key = _session.get()
        session = f" session={'/'.join(key)}" if key else ""
        message = json.dumps(record.getMessage(), ensure_ascii=False)
        line = f"time={at} level={record.levelname.lower()} logger={record.name}{session} msg={message}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def set_up_logging(level: str) -> None:
    """Send everything from `level` on to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(KeyValueFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
