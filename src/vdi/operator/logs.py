"""Log lines, each with the session, pool or template that it is about: `key=value` for people, or JSON for machines.

What is logged may come from people and desktops: what is not printable is escaped, as the command line does.
"""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

from vdi.printable import escape

_subject: ContextVar[tuple[str, str] | None] = ContextVar("subject", default=None)


@contextmanager
def log_about(kind: str, name: str) -> Iterator[None]:
    """Lines logged within, also by tasks started within, carry `kind=name`, such as `pool=gpu-desks`."""
    token = _subject.set((kind, name))
    try:
        yield
    finally:
        _subject.reset(token)


def log_from_now_on_about(kind: str, name: str) -> None:
    """As `log_about`, until this task says otherwise: for what is logged of a piece of work after it has ended."""
    _subject.set((kind, name))


@contextmanager
def log_session(key: tuple[str, str]) -> Iterator[None]:
    """Lines logged within, also by tasks started within, carry this session (namespace, name)."""
    with log_about("session", "/".join(key)):
        yield


class KeyValueFormatter(logging.Formatter):
    """`time=... level=... logger=... session=... msg="..."`, and the traceback below, if any."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        fields = _fields_of(record)
        message = json.dumps(fields.pop("msg"), ensure_ascii=False)
        lines = [f"{' '.join(f'{name}={value}' for name, value in fields.items())} msg={message}"]
        if record.exc_info:
            lines += self.formatException(record.exc_info).split("\n")
        return "\n  ".join(map(escape, lines))  # indented: no line of an error's text can pretend to be a record


class JsonFormatter(logging.Formatter):
    """The same as one JSON object per line; a traceback is its field `error`."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        fields = _fields_of(record)
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return escape(json.dumps(fields, ensure_ascii=False))


def _fields_of(record: logging.LogRecord) -> dict[str, str]:
    at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    subject = _subject.get()
    return {
        "time": at,
        "level": record.levelname.lower(),
        "logger": record.name,
        **({subject[0]: subject[1]} if subject else {}),
        "msg": record.getMessage(),
    }


def set_up_logging(level: str, form: str = "text") -> None:
    """Send everything from `level` on to standard error, as `text` or `json`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else KeyValueFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
