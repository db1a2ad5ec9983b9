"""E-mail addresses of users: the one spelling that is compared and stored, and the check of
untrusted ones. Pure.
"""

import re
from unicodedata import is_normalized

from vdi.api.constraints import INVISIBLE
from vdi.session.naming import normal_name

_ADDRESS = re.compile(r"[^\s@]+@[^\s@]+\.[^\s@]+")
_INVISIBLE = re.compile(f"[{INVISIBLE}]")
_LONGEST_ADDRESS = 254


def normal_user(text: str) -> str:
    """An e-mail address in the one spelling that is compared and stored."""
    return normal_name(text)


class AddressError(ValueError):
    """Raised for text that is not accepted as an e-mail address."""

    def __init__(self, shown: str, why: str, allowed: str) -> None:
        # The text without quotes; escaped where it could hide or reverse the text around it.
        self.shown = shown
        self.allowed = allowed
        super().__init__(f"'{shown}' {why}; allowed: {allowed}")


def check_address(text: str) -> str:
    """The address as it is stored. Raises AddressError.

    Called for every address that a person enters or an identity provider sends.
    """
    user = normal_user(text)
    # Two addresses that look the same are two users, so an address is refused and not normalised
    # further: Unicode's forms turn the Kelvin sign into a K, and whoever may choose the other
    # spelling could borrow the first one.
    if not user.isprintable() or _INVISIBLE.search(user) or not is_normalized("NFC", user):
        shown = text[:260].encode("unicode_escape").decode()
        why = "has invisible characters, or characters that look like others"
        raise AddressError(shown, why, "visible characters in Unicode's composed form (NFC)")
    if not _ADDRESS.fullmatch(user) or len(user) > _LONGEST_ADDRESS:
        raise AddressError(
            text[:260], "is not an e-mail address", "addresses such as alice@example.com"
        )
    return user


def same_user(one: str, other: str) -> bool:
    """Whether two addresses mean the same person."""
    return normal_user(one) == normal_user(other)
