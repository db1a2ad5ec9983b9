"""The two tokens of a desktop, derived from one key of the release: the operator writes them into the desktop's Secret,
and the gateway, which may read no Secret of the sessions' namespaces, derives them again. Pure.

A seed is used once: a uid never returns, and a pool's pods have random names. Both come from what only the API server
and the operator write; a seed that users could choose would give them the tokens of another's desktop.
"""

import base64
import binascii
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from vdi.session.naming import pod_name

KEY_SECRET = "vdi-desktop-key"  # noqa: S105 -- the name of a Secret
KEY_ENTRY = "key"
KEY_BYTES = 32
_TOKEN_BYTES = 18
"""144 bits: 24 characters, which users of a desktop without a gateway may have to type."""


@dataclass(frozen=True, slots=True, repr=False)
class DesktopTokens:
    """What the operator and the gateway prove themselves to a desktop with."""

    password: str
    """Selkies' master token; without a gateway the password of its basic auth."""
    agent: str


def derive_tokens(key: bytes, *, namespace: str, name: str, uid: str, pod: str) -> DesktopTokens:
    """The tokens of the session with this name and uid while it has this pod; empty: none yet."""
    if pod in ("", pod_name(name)):
        return _derive(key, f"session/{uid}")
    return derive_pool_tokens(key, namespace=namespace, pod=pod)


def derive_pool_tokens(key: bytes, *, namespace: str, pod: str) -> DesktopTokens:
    """The tokens of a pod that a pool has made, whoever has it now."""
    return _derive(key, f"pool/{namespace}/{pod}")


def decode_key(data: Mapping[str, str]) -> bytes:
    """The key in the `data` of its Secret. Raises ValueError, which says what is wrong with the Secret."""
    try:
        key = base64.b64decode(data[KEY_ENTRY], validate=True)
    except (KeyError, binascii.Error):
        key = b""
    if len(key) < KEY_BYTES:
        raise ValueError(f"has no entry {KEY_ENTRY!r} with at least {KEY_BYTES} bytes")
    return key


@lru_cache(maxsize=4096)  # the edge needs them at each request
def _derive(key: bytes, seed: str) -> DesktopTokens:
    return DesktopTokens(password=_token(key, f"password/{seed}"), agent=_token(key, f"agent/{seed}"))


def _token(key: bytes, purpose: str) -> str:
    mac = hmac.digest(key, purpose.encode(), "sha256")
    return base64.urlsafe_b64encode(mac[:_TOKEN_BYTES]).decode()
