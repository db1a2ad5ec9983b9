"""Selkies' own REST API, on loopback."""

import base64
import http.client
import json
from collections.abc import Mapping
from typing import Any


def authorization(env: Mapping[str, str]) -> str:
    """What Selkies requires: the master token behind a gateway, else the desktop's password."""
    if token := env.get("SELKIES_MASTER_TOKEN", ""):
        return f"Bearer {token}"
    user = env.get("SELKIES_BASIC_AUTH_USER", "user")
    login = f"{user}:{env.get('SELKIES_BASIC_AUTH_PASSWORD', '')}"
    return "Basic " + base64.b64encode(login.encode()).decode()


class SelkiesApi:
    """Sends requests, each on a connection of its own."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._port = int(env.get("SELKIES_PORT", "8080"))
        self._headers = {"Authorization": authorization(env), "Content-Type": "application/json"}

    def request(
        self, method: str, path: str, body: object = None, *, seconds: float
    ) -> dict[str, Any]:
        """The answer. Raises OSError, ValueError, HTTPException."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=seconds)
        try:
            content = json.dumps(body) if body else None
            connection.request(method, path, content, self._headers)
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
            if answer.status != 200:
                raise ValueError(
                    f"Selkies answered {method} {path} with {answer.status}: {text[:150]}"
                )
            return dict(json.loads(text))
        finally:
            connection.close()
