"""The few questions this room asks the API server itself; what people and the operator use is `vdi.kube`.

Synchronous and without retries: the caller is a command that waits on a condition anyway.
"""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any

from vdi.devcluster.layout import ClusterSettings, Layout

_TIMEOUT = 5.0
_LARGEST_ANSWER = 64 * 2**20


class NoAnswer(Exception):  # noqa: N818 - named for what happened
    """Raised when the API server cannot be reached or refuses; its words, or the system's."""


def get(layout: Layout, settings: ClusterSettings, path: str) -> dict[str, Any]:
    """GET `path` as the administrator. Raises NoAnswer."""
    context = ssl.create_default_context(cafile=str(layout.pki / "ca.crt"))
    context.load_cert_chain(layout.pki / "admin.crt", layout.pki / "admin.key")
    connection = http.client.HTTPSConnection(settings.api_host, settings.api_port, timeout=_TIMEOUT, context=context)
    try:
        connection.request("GET", path, headers={"Accept": "application/json"})
        response = connection.getresponse()
        content = response.read(_LARGEST_ANSWER)
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswer(f"GET {settings.server}{path}: {error}") from error
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise NoAnswer(
            f"GET {settings.server}{path}: status {response.status} {content[:200].decode(errors='replace')}"
        )
    answer: dict[str, Any] = json.loads(content)
    return answer
