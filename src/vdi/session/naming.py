"""Names of everything that belongs to a session. Pure; used by the operator, the CLI and the tests.

A session's name may have 253 characters and dots; a Service's name and a host label have 63 and none. A name that
fits is used as it is; any other becomes a readable prefix and a hash. A name that only looks like such a derived one is
hashed too, so that two different sessions never share a child or a host.
"""

import base64
import hashlib
import re
from functools import lru_cache

LABEL_LIMIT = 63
"""Longest DNS label (RFC 1035), Service name and label value."""

_HASH_LENGTH = 12
_LONGEST_SUFFIX = len("-home")
BASE_LIMIT = LABEL_LIMIT - _LONGEST_SUFFIX

_PLAIN = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LOOKS_DERIVED = re.compile(rf"-[2-7][a-z2-7]{{{_HASH_LENGTH - 1}}}$")
_NOT_ALLOWED = re.compile(r"[^a-z0-9]+")


@lru_cache(maxsize=1024)  # asked for each child and index, at each look at a session
def derive_base(session_name: str) -> str:
    """The stem of all names of a session's children: at most 58 characters, a DNS label that begins with a letter."""
    plain = _PLAIN.fullmatch(session_name) and not _LOOKS_DERIVED.search(session_name)
    if plain and len(session_name) <= BASE_LIMIT:
        return session_name
    return _shorten(session_name, digest_of=session_name, limit=BASE_LIMIT)


def pod_name(session_name: str) -> str:
    """The Pod's name; Service and IngressRoute share it."""
    return derive_base(session_name)


def service_name(session_name: str) -> str:
    """The Service's name."""
    return derive_base(session_name)


def route_name(session_name: str) -> str:
    """The IngressRoute's name."""
    return derive_base(session_name)


def secret_name(session_name: str) -> str:
    """The name of the Secret with the desktop's password (key `password`)."""
    return derive_base(session_name) + "-auth"


def pool_pod_name(pool_name: str, token: str) -> str:
    """The Pod's name of one of a pool's desktops, told apart by `token`; it looks derived, so no session has it."""
    return _shorten(pool_name, digest_of=f"{pool_name}\0{token}", limit=BASE_LIMIT)


def pool_secret_name(pod: str) -> str:
    """The name of the Secret of a pool's desktop."""
    return pod + "-auth"


@lru_cache(maxsize=1024)  # an index asks for the name of a session's home at each change of the session
def home_claim_name(*, session_name: str, user: str, template: str, retain: bool) -> str:
    """The PersistentVolumeClaim of the home: the user's and template's own when it is retained, else the session's."""
    if not retain:
        return derive_base(session_name) + "-home"
    stem = f"home-{user.split('@')[0]}-{template}"
    return _shorten(stem, digest_of=f"{user}\0{template}", limit=LABEL_LIMIT)


def host_label(session_name: str, hostname: str | None) -> str:
    """The first label of the desktop's host name."""
    return hostname or derive_base(session_name)


def _shorten(text: str, *, digest_of: str, limit: int) -> str:
    """A readable prefix of `text` and a hash of `digest_of`; begins with a letter, at most `limit` characters."""
    prefix = _NOT_ALLOWED.sub("-", text.lower()).strip("-")
    if not prefix[:1].isalpha():
        prefix = f"d-{prefix}".rstrip("-")
    prefix = prefix[: limit - _HASH_LENGTH - 1].rstrip("-")
    return f"{prefix}-{_digest(digest_of)}"


def _digest(text: str) -> str:
    """57 bits of SHA-256 in base 32. Begins with a digit, as no word does, so that few plain names look derived."""
    raw = hashlib.sha256(text.encode()).digest()
    return str(2 + raw[0] % 6) + base64.b32encode(raw[1:]).decode().lower()[: _HASH_LENGTH - 1]
