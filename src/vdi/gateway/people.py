"""Who is logged in, and as what a person takes part in a session."""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a person is in one session."""

    OWNER = "owner"
    COLLABORATOR = "collaborator"
    VIEWER = "viewer"


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who has proven who they are, for as long as the login lasts."""

    user: str
    """E-mail address as `normal_user` writes it; what `spec.user` of a session is compared with."""
    name: str = ""
    """For people to read; never compared."""
    groups: frozenset[str] = frozenset()
    """As the identity provider or the users' Secret named them at login."""
    admin: bool = False
    login_id: str = ""
    """The login that this request came with; empty where none did (a test, a background job)."""


_SMALL = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")


def normal_user(text: str) -> str:
    """An e-mail address in the one spelling that is compared and stored.

    ASCII letters in lower case, nothing else changed: Unicode's own folding makes two addresses one (the Kelvin sign
    becomes a k), and whoever may choose the other one could borrow the first.
    """
    return text.strip().translate(_SMALL)


def same_user(one: str, other: str) -> bool:
    """Whether two addresses mean the same person."""
    return normal_user(one) == normal_user(other)
