"""Credentials of desktops: the tokens of Selkies and the agent, basic auth of an image, TURN. Pure,
nothing is stored.

The tokens of a desktop are derived from one key of the release. The operator writes them into the
desktop's Secret; the gateway, which may read no Secret of the sessions' namespaces, derives them
again.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from vdi.session.naming import pod_name

KEY_SECRET = "vdi-desktop-key"  # noqa: S105 -- the name of a Secret
KEY_ENTRY = "key"
KEY_BYTES = 32
# 144 bits: 24 characters, which users of a desktop without a gateway may have to type.
_TOKEN_BYTES = 18
USERNAME_KEY = "username"
# Keys of a Secret of type kubernetes.io/basic-auth.
PASSWORD_KEY = "password"  # noqa: S105 -- the key's name
SECRET_TYPE = "kubernetes.io/basic-auth"  # noqa: S105 -- the type's name


@dataclass(frozen=True, slots=True, repr=False)
class DesktopTokens:
    """The two tokens of a desktop, known to the operator and the gateway."""

    # Selkies' master token; without a gateway the password of its basic auth.
    password: str

    agent: str


def derive_tokens(key: bytes, *, namespace: str, name: str, uid: str, pod: str) -> DesktopTokens:
    """The tokens of the session with this name and uid while it has this pod; empty: none yet."""
    if pod in ("", pod_name(name)):
        return _derive(key, f"session/{uid}")
    return derive_pool_tokens(key, namespace=namespace, pod=pod)


def derive_pool_tokens(key: bytes, *, namespace: str, pod: str) -> DesktopTokens:
    """The tokens of a pod that a pool has created, also after a session has taken it."""
    return _derive(key, f"pool/{namespace}/{pod}")


def decode_key(data: Mapping[str, str]) -> bytes:
    """The key in the `data` of its Secret. Raises ValueError, which says what is wrong with the
    Secret.
    """
    try:
        key = base64.b64decode(data[KEY_ENTRY], validate=True)
    except (KeyError, binascii.Error):
        key = b""
    if len(key) < KEY_BYTES:
        raise ValueError(f"has no entry {KEY_ENTRY!r} with at least {KEY_BYTES} bytes")
    return key


@lru_cache(maxsize=4096)  # the edge needs them at each request
def _derive(key: bytes, seed: str) -> DesktopTokens:
    return DesktopTokens(
        password=_token(key, f"password/{seed}"), agent=_token(key, f"agent/{seed}")
    )


def _token(key: bytes, purpose: str) -> str:
    mac = hmac.digest(key, purpose.encode(), "sha256")
    return base64.urlsafe_b64encode(mac[:_TOKEN_BYTES]).decode()


def grant_token(master: str, grant_id: str) -> str:
    return _derived_token(master, f"vdi-grant/{grant_id}")


def direct_token(master: str) -> str:
    """The token of `vdi session open --direct`, for users who may read the Secret and forward a
    port of the pod.
    """
    return _derived_token(master, "vdi-direct")


def direct_table(master: str) -> dict[str, dict[str, Any]]:
    """The entry of that token in each desktop's table."""
    return {direct_token(master): {"role": "controller", "slot": None}}


def _derived_token(master: str, purpose: str) -> str:
    mac = hmac.digest(master.encode(), purpose.encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(mac).decode().rstrip("=")


def subprotocols(token: str) -> str:
    """The value of Sec-WebSocket-Protocol in a handshake with this token."""
    return f"selkies, selkies.token.{base64.urlsafe_b64encode(token.encode()).decode().rstrip('=')}"


def read_basic_auth(data: Mapping[str, str]) -> tuple[bytes, bytes]:
    """User name and password from a Secret's `data`. Raises ValueError with a clause that shows
    nothing of them.
    """
    try:
        username, password = (
            base64.b64decode(data.get(key, ""), validate=True)
            for key in (USERNAME_KEY, PASSWORD_KEY)
        )
    except ValueError as error:
        raise ValueError("contains something other than text in base64") from error
    if not username or not password or b":" in username:
        raise ValueError(f"needs the keys {USERNAME_KEY!r} (without a colon) and {PASSWORD_KEY!r}")
    return username, password


def make_turn_credentials(secret: str, user: str, expires: datetime) -> tuple[str, str]:
    """User name and password that hold until then, as coturn's `use-auth-secret` checks them.

    SHA-1 is what the convention has; the secret is long and random, and HMAC does not need
    collision resistance.
    """
    name = f"{int(expires.timestamp())}:{user}"
    return (
        name,
        base64.b64encode(hmac.digest(secret.encode(), name.encode(), hashlib.sha1)).decode(),
    )
