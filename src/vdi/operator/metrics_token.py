"""Who may read /metrics, of the operator and of the gateway: whoever sends the token that Prometheus has too.

A NetworkPolicy alone would not do: not every network plugin enforces one. Probes need no token; the kubelet has none.
"""

import hmac
import logging
from http import HTTPStatus
from pathlib import Path

log = logging.getLogger(__name__)

METRICS_TOKEN_FILE = Path("/var/run/secrets/vdi-metrics/token")
"""Where the chart mounts it."""
CHALLENGE = 'Bearer realm="vdi"'
"""The WWW-Authenticate header of a refusal with 401 (RFC 9110, 11.6.1)."""


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
