"""Passwords: argon2id, with a bound on how many are computed at once: each takes 50 ms of a core."""

import asyncio
import secrets
import unicodedata

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

LONGEST = 1024
"""Bytes of a password. Longer ones are wrong before anything is computed."""
SHORTEST = 10
"""Characters of a new password."""
AT_ONCE = 2
"""Hashes computed at a time; each takes MEMORY_KIB."""
WAITING = 50
"""A login that would wait behind more than these is refused for now."""
MEMORY_KIB = 32 * 1024
_TIME_COST = 3
_NO_BREAKS = "abcdefghjkmnpqrstuvwxyz23456789"
"""Letters and digits that are not mistaken for each other."""


class BusyError(Exception):
    """Raised when too many passwords wait to be checked."""


class Passwords:
    """Makes and checks hashes, in threads."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher(time_cost=_TIME_COST, memory_cost=MEMORY_KIB, parallelism=1)
        self._dummy = self._hasher.hash(secrets.token_urlsafe(16))
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    def make_hash(self, password: str) -> str:
        """The hash to store. Raises ValueError for a password that is too short or too long."""
        data = _bytes(password)
        if len(password) < SHORTEST:
            raise ValueError(f"the password has {len(password)} characters; allowed: {SHORTEST} or more")
        if len(data) > LONGEST:
            raise ValueError(f"the password has {len(data)} bytes; allowed: at most {LONGEST}")
        return self._hasher.hash(data)

    async def check(self, stored: str | None, password: str) -> bool:
        """Whether this is the password. With `stored` None (no such user) it takes the same time and is wrong.

        Raises BusyError.
        """
        if self._waiting >= WAITING:
            raise BusyError("too many users are logging in right now")
        self._waiting += 1
        try:
            async with self._turn:
                data = _bytes(password)
                fits = 0 < len(data) <= LONGEST
                right = await asyncio.to_thread(self._verify, stored or self._dummy, data if fits else b"")
        finally:
            self._waiting -= 1
        return right and fits and stored is not None

    def _verify(self, stored: str, data: bytes) -> bool:
        try:
            return self._hasher.verify(stored, data)
        except (Argon2Error, InvalidHashError):
            return False


def new_password() -> str:
    """A generated one: 100 bits in four groups."""
    groups = ("".join(secrets.choice(_NO_BREAKS) for _ in range(5)) for _ in range(4))
    return "-".join(groups)


def _bytes(password: str) -> bytes:
    """One way to write each accented letter, whatever the keyboard sent (NFC, as RFC 8265 says)."""
    return unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")
