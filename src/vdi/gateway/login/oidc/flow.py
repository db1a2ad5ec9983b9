"""What goes to an identity provider and comes back, bound to one browser without keeping anything here. Pure.

The browser has a secret in a cookie. `state` holds where to go afterwards and is signed with it; the nonce and the PKCE
verifier are made of it and of the state. So each way there and back has its own, and several tabs may be under way.
"""

import base64
import hashlib
import hmac
import re

SECONDS = 600
"""How long a person may take at the provider."""
LEEWAY = 60
"""Seconds that the clocks of two replicas may differ: one begins a login, the other may end it."""
_SALT = 16
_TIME = 8
_LONGEST_NEXT = 512
_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")


class StateError(Exception):
    """Raised when what comes back is not what this browser was sent away with."""


def is_secret(text: str) -> bool:
    """Whether a cookie's value can be one of ours (32 bytes, as `secrets.token_urlsafe(32)` writes them)."""
    return _SECRET.fullmatch(text) is not None


def make_state(secret: str, next_page: str, now: float, salt: bytes) -> str:
    """A state that only this browser can bring back."""
    page = next_page if len(next_page) <= _LONGEST_NEXT else "/"
    content = _text(int(now).to_bytes(_TIME) + salt[:_SALT].ljust(_SALT, b"\0") + page.encode())
    return f"{content}.{_sign(secret, 'state', content.encode())}"


def read_state(secret: str, state: str, now: float) -> str:
    """Where to go afterwards. Raises StateError for a state of another browser, or an old one."""
    text, _, mark = state.partition(".")
    known = is_secret(secret) and state.isascii()
    if not known or not hmac.compare_digest(mark.encode(), _sign(secret, "state", text.encode()).encode()):
        raise StateError("this login was not started in this browser, or the browser no longer has its cookie")
    content = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    age = now - int.from_bytes(content[:_TIME])
    if age < -LEEWAY:
        raise StateError(f"this login starts {-age:.0f} s in the future: the clocks of two replicas differ")
    if age > SECONDS:
        raise StateError(f"this login was started more than {SECONDS // 60} minutes ago")
    return content[_TIME + _SALT :].decode()


def nonce_of(secret: str, state: str) -> str:
    """The nonce that the ID token has to bring back."""
    return _sign(secret, "nonce", state.encode())


def verifier_of(secret: str, state: str) -> str:
    """The PKCE verifier: 43 characters."""
    return _sign(secret, "pkce", state.encode())


def challenge_of(verifier: str) -> str:
    """The PKCE challenge (S256) of a verifier."""
    return _text(hashlib.sha256(verifier.encode()).digest())


def _sign(secret: str, use: str, content: bytes) -> str:
    return _text(hmac.digest(secret.encode(), use.encode() + b"/" + content, hashlib.sha256))


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
