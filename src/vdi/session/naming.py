"""Names of everything that belongs to a session. Pure; used by the operator, the CLI and the tests.

A session's name may have 253 characters and dots; a Service's name and a host label have 63 and none. A name that
fits is used as it is; any other becomes a readable prefix and a hash. A name that only looks like such a derived one is
hashed too, so that two different sessions never share a child. Hosts carry a keyed hash of the user as well: a session
name is free again when its session ends, and the next session of that name may belong to another person.
"""

import base64
import hashlib
import hmac
import re
from functools import lru_cache

LABEL_LIMIT = 63
"""Longest DNS label (RFC 1035), Service name and label value."""

_HASH_LENGTH = 12
_HOST_HASH_LENGTH = 8
_LONGEST_SUFFIX = len("-home")
BASE_LIMIT = LABEL_LIMIT - _LONGEST_SUFFIX

_PLAIN = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LOOKS_DERIVED = re.compile(rf"-[2-7][a-z2-7]{{{_HASH_LENGTH - 1}}}$")
_RESERVATION = "vdi-host-"
KEYED_LABEL = rf"-[2-7][a-z2-7]{{{_HOST_HASH_LENGTH - 1}}}$"
"""Regular expression of the end of every label of `host_label`; no `spec.hostname` may have it."""
_NOT_ALLOWED = re.compile(r"[^a-z0-9]+")


@lru_cache(maxsize=1024)  # asked for each child and index, at each look at a session
def derive_base(session_name: str) -> str:
    """The stem of all names of a session's children: at most 58 characters, a DNS label that begins with a letter."""
    plain = _PLAIN.fullmatch(session_name) and not _LOOKS_DERIVED.search(session_name)
    if plain and len(session_name) <= BASE_LIMIT:
        return session_name
    return _shorten(session_name, _digest(session_name), BASE_LIMIT)


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
    """The Pod's name of one of a pool's desktops, unique by `token`; it looks derived, so no session has it."""
    return _shorten(pool_name, _digest(f"{pool_name}\0{token}"), BASE_LIMIT)


def pool_secret_name(pod: str) -> str:
    """The name of the Secret of a pool's desktop."""
    return pod + "-auth"


@lru_cache(maxsize=1024)  # an index asks for the name of a session's home at each change of the session
def home_claim_name(*, session_name: str, user: str, template: str, retain: bool) -> str:
    """The PersistentVolumeClaim of the home: the user's and template's own when it is retained, else the session's."""
    if not retain:
        return derive_base(session_name) + "-home"
    stem = f"home-{user.split('@', maxsplit=1)[0]}-{template}"
    return _shorten(stem, _digest(f"{user}\0{template}"), LABEL_LIMIT)


@lru_cache(maxsize=1024)
def user_home_claim_name(user: str) -> str:
    """The PersistentVolumeClaim of the home that a user has for all templates with `persistence.scope: User`.

    No template has the empty name, so it never is the claim of a user and a template.
    """
    return _shorten(f"home-{user.split('@', maxsplit=1)[0]}", _digest(f"{user}\0"), LABEL_LIMIT)


def host_label(*, namespace: str, session_name: str, user: str, key: bytes) -> str:
    """The first label of the host of a session that chooses none: always the same for the same person and name.

    Without the key no one can find a session name that leads to the host of another person. The label is at most 63
    characters long, begins with a letter and has no `--`, so browsers never show it as an international name.
    """
    text = f"{namespace}\0{session_name}\0{user}"  # neither of the first two can hold a NUL
    raw = hmac.digest(key, text.encode(), "sha256")
    return _shorten(session_name, _base32(raw, _HOST_HASH_LENGTH), LABEL_LIMIT)


def reservation_name(label: str) -> str:
    """The name of the ConfigMap that records who owns a host label."""
    return _RESERVATION + label


def reserved_label(name: str) -> str:
    """The label that the ConfigMap of this name records."""
    return name.removeprefix(_RESERVATION)


def _shorten(text: str, digest: str, limit: int) -> str:
    """A readable prefix of `text` and the digest; begins with a letter, at most `limit` characters."""
    prefix = _NOT_ALLOWED.sub("-", text.lower()).strip("-")
    if not prefix[:1].isalpha():
        prefix = f"d-{prefix}".rstrip("-")
    prefix = prefix[: limit - len(digest) - 1].rstrip("-")
    return f"{prefix}-{digest}"


def _digest(text: str) -> str:
    """57 bits of SHA-256."""
    return _base32(hashlib.sha256(text.encode()).digest(), _HASH_LENGTH)


def _base32(raw: bytes, length: int) -> str:
    """Begins with a digit, as no word does, so that few plain names look derived."""
    return str(2 + raw[0] % 6) + base64.b32encode(raw[1:]).decode().lower()[: length - 1]
