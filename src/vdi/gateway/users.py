"""Who is logged in."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from unicodedata import is_normalized

from vdi.api.constraints import INVISIBLE
from vdi.session.people import normal_name


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who has proven who they are, for as long as the login lasts."""

    email: str
    """E-mail address as `normal_user` writes it; what `spec.user` of a session is compared with."""
    name: str = ""
    """For people to read; never compared."""
    groups: frozenset[str] = frozenset()
    """As the identity provider or the users' Secret named them at login, as `normal_groups` writes them."""
    admin: bool = False
    login_id: str = ""
    """The login that this request came with; empty where none did (a test, a background job)."""


_ADDRESS = re.compile(r"[^\s@]+@[^\s@]+\.[^\s@]+")
_INVISIBLE = re.compile(f"[{INVISIBLE}]")
_LONGEST_ADDRESS = 254


def normal_user(text: str) -> str:
    """An e-mail address in the one spelling that is compared and stored."""
    return normal_name(text)


def normal_groups(names: Iterable[str]) -> frozenset[str]:
    """Groups in the one spelling that is compared and stored."""
    return frozenset(filter(None, map(normal_name, names)))


class AddressError(ValueError):
    """Raised for text that is not an e-mail address we take."""

    def __init__(self, shown: str, why: str, allowed: str) -> None:
        self.shown = shown
        """The text without quotes; escaped where it could hide or reverse the text around it."""
        self.allowed = allowed
        super().__init__(f"'{shown}' {why}; allowed: {allowed}")


def check_address(text: str) -> str:
    """The e-mail address as it is stored: for every address that somebody enters or an identity provider sends.

    Raises AddressError.
    """
    user = normal_user(text)
    if not user.isprintable() or _INVISIBLE.search(user) or not is_normalized("NFC", user):
        shown = text[:260].encode("unicode_escape").decode()
        why = "has invisible characters, or characters that look like others"
        raise AddressError(shown, why, "visible characters in Unicode's composed form (NFC)")
    if not _ADDRESS.fullmatch(user) or len(user) > _LONGEST_ADDRESS:
        raise AddressError(text[:260], "is not an e-mail address", "addresses such as alice@example.com")
    return user


def same_user(one: str, other: str) -> bool:
    """Whether two addresses mean the same person."""
    return normal_user(one) == normal_user(other)
