"""Parts that the operator's and the gateway's process share: log lines, and the token that guards /metrics.

Each log line names the session, pool or template that it is about. Log text may come from users and desktops, so
characters that are not printable are escaped.
"""

import hmac
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

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


log = logging.getLogger(__name__)

# Where the chart mounts it.
METRICS_TOKEN_FILE = Path("/var/run/secrets/vdi-metrics/token")
# The WWW-Authenticate header of a refusal with 401 (RFC 9110, 11.6.1).
CHALLENGE = 'Bearer realm="vdi"'


class MetricsToken:
    """The token in a file, which is read again for each request: a rotation restarts nothing."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._complaint = ""

    def refusal(self, authorization: str) -> tuple[HTTPStatus, str] | None:
        """Why this Authorization header is not enough, as HTTP status and sentence; None where it is."""
        try:
            token = self._file.read_bytes().strip()
            complaint = "" if token else "it is empty"
        except OSError as error:
            token, complaint = b"", error.strerror or str(error)
        if complaint != self._complaint:  # once, not for each scrape
            self._complaint = complaint
            if complaint:
                log.warning("no one can read /metrics: VDI_METRICS_TOKEN_FILE=%s: %s", self._file, complaint)
        if complaint:
            return HTTPStatus.SERVICE_UNAVAILABLE, "no token for /metrics is configured: see VDI_METRICS_TOKEN_FILE"
        scheme, _, given = authorization.partition(" ")
        sent = given.strip().encode("utf-8", "surrogatepass")
        if scheme.lower() == "bearer" and hmac.compare_digest(sent, token):
            return None
        return HTTPStatus.UNAUTHORIZED, "/metrics needs `Authorization: Bearer TOKEN`: see docs/monitoring.md"
