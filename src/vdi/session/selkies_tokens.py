"""Tokens of Selkies' secure mode, each derived from a session's master token: there is nothing to store."""

import base64
import hashlib
import hmac
from typing import Any


def grant_token(master: str, grant_id: str) -> str:
    """The token of one grant in one session."""
    return _derived_token(master, f"vdi-grant/{grant_id}")


def direct_token(master: str) -> str:
    """The token of `vdi session open --direct`: of whoever reads the Secret and forwards a port of the pod."""
    return _derived_token(master, "vdi-direct")


def direct_table(master: str) -> dict[str, dict[str, Any]]:
    """The entry of that token in each desktop's table."""
    return {direct_token(master): {"role": "controller", "slot": None}}


def _derived_token(master: str, purpose: str) -> str:
    mac = hmac.digest(master.encode(), purpose.encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(mac).decode().rstrip("=")


def subprotocols(token: str) -> str:
    """What a WebSocket handshake offers (Sec-WebSocket-Protocol) when it brings this token."""
    return f"selkies, selkies.token.{base64.urlsafe_b64encode(token.encode()).decode().rstrip('=')}"
