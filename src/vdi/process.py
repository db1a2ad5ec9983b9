"""Parts that the operator's and the gateway's process share: log lines, the token of /metrics, the
end by a signal.
"""

import asyncio
import hmac
import json
import logging
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

from vdi.printable import escape

log = logging.getLogger(__name__)
# The WWW-Authenticate header of a refusal with 401 (RFC 9110, 11.6.1).
CHALLENGE = 'Bearer realm="vdi"'
_subject: ContextVar[tuple[str, str] | None] = ContextVar("subject", default=None)


def set_log_subject(kind: str, name: str) -> None:
    """From now on, lines that this task and tasks started by it log carry `kind=name`, such as
    `pool=gpu-desks`.
    """
    _subject.set((kind, name))


class KeyValueFormatter(logging.Formatter):
    """`time=... level=... logger=... session=... msg="..."`, and the traceback below, if any.

    Log text may come from users and desktops: characters that are not printable are escaped.
    """

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields_of(record)
        message = json.dumps(fields.pop("msg"), ensure_ascii=False)
        lines = [f"{' '.join(f'{name}={value}' for name, value in fields.items())} msg={message}"]
        if record.exc_info:
            lines += self.formatException(record.exc_info).split("\n")
        # Indented, so that no line of a traceback looks like a record.
        return "\n  ".join(map(escape, lines))


class JsonFormatter(logging.Formatter):
    """One JSON object per line; a traceback is its field `error`."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields_of(record)
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return escape(json.dumps(fields, ensure_ascii=False))


def _fields_of(record: logging.LogRecord) -> dict[str, str]:
    at = (
        datetime.fromtimestamp(record.created, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )
    subject = _subject.get()
    return {
        "time": at,
        "level": record.levelname.lower(),
        "logger": record.name,
        **({subject[0]: subject[1]} if subject else {}),
        "msg": record.getMessage(),
    }


def set_up_logging(level: str, form: str = "text") -> None:
    """Log everything from `level` on to standard error, as `text` or `json`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else KeyValueFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class TroubleLog:
    """Log lines by which `vdi doctor` learns what a process lacks, as long as it does.

    A process that starts lacks some things for a moment, so the second look in a row logs a
    trouble; then every twelfth, since the doctor reads only the last lines.
    """

    LOOK_SECONDS = 5.0
    _LASTING, _AGAIN = 2, 12

    def __init__(self, logger: logging.Logger) -> None:
        self._log = logger
        self._looks: dict[str, int] = {}

    def note(self, troubles: Iterable[str]) -> None:
        """Log what lasts, and what is over. Called every `LOOK_SECONDS` with all troubles, each as
        `name: reason`.
        """
        found = {trouble.partition(":")[0]: trouble for trouble in troubles}
        for name in [name for name in self._looks if name not in found]:
            if self._looks.pop(name) >= self._LASTING:
                self._log.warning("no trouble any more: %s", name)
        for name, words in found.items():
            self._looks[name] = self._looks.get(name, 0) + 1
            if self._looks[name] % self._AGAIN == self._LASTING:
                self._log.warning("trouble: %s", words)


@contextmanager
def stop_on_signals(stop: asyncio.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set `stop` while the context lasts."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


class MetricsToken:
    """The token that a request for /metrics must have, in a file that is read for each request: it
    can be rotated.

    A NetworkPolicy alone would not do: not every network plugin enforces one. Probes need no token;
    the kubelet has none.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._complaint = ""

    def refusal(self, authorization: str) -> tuple[HTTPStatus, str] | None:
        """Status and sentence of the refusal of a request with this Authorization header; None
        where it may pass.
        """
        try:
            token = self._file.read_bytes().strip()
            complaint = "" if token else "it is empty"
        except OSError as error:
            token, complaint = b"", error.strerror or str(error)
        if complaint != self._complaint:  # once, not for each scrape
            self._complaint = complaint
            if complaint:
                log.warning(
                    "no one can read /metrics: VDI_METRICS_TOKEN_FILE=%s: %s", self._file, complaint
                )
        if complaint:
            return (
                HTTPStatus.SERVICE_UNAVAILABLE,
                "no token for /metrics is configured: see VDI_METRICS_TOKEN_FILE",
            )
        scheme, _, given = authorization.partition(" ")
        sent = given.strip().encode("utf-8", "surrogatepass")
        if scheme.lower() == "bearer" and hmac.compare_digest(sent, token):
            return None
        return (
            HTTPStatus.UNAUTHORIZED,
            "/metrics needs `Authorization: Bearer TOKEN`: see docs/monitoring.md",
        )
