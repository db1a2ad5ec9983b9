"""Guessing passwords is slow: per user and per address, counted over all replicas. What is counted are attempts, before
they are looked at, so that a thousand at once are a thousand, and so that unknown users are counted like known ones.
"""

import hashlib
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from vdi.gateway.shared import Shared

WINDOW = 900
"""Seconds in which attempts are counted."""
SLOWEST = 4.0
"""Seconds that an attempt waits at most before it is looked at."""


@dataclass(frozen=True, slots=True)
class Bound:
    """How many attempts go at full speed, and from how many on none is looked at, in one window."""

    free: int
    most: int


PER_USER = Bound(10, 60)
PER_ADDRESS = Bound(30, 300)
"""Wider: behind one address there may be a whole office."""


class TooManyError(Exception):
    """Raised when an attempt is not looked at; the sentence is the same for users that do not exist."""

    def __init__(self) -> None:
        self.seconds = WINDOW
        super().__init__(f"Too many attempts to log in. Wait up to {WINDOW // 60} minutes, then try again.")


class Throttle:
    """Counts attempts in what the replicas share."""

    def __init__(self, shared: Shared, per_user: Bound = PER_USER, per_address: Bound = PER_ADDRESS) -> None:
        self._shared = shared
        self._per_user = per_user
        self._per_address = per_address

    async def seconds_to_wait(self, user: str, address: str) -> float:
        """Count one attempt, and how long it has to wait. Raises TooManyError."""
        by_user = await self._shared.count(f"login/user/{_short(user)}", WINDOW)
        by_address = await self._shared.count(f"login/address/{_network(address)}", WINDOW)
        return max(_wait(by_user, self._per_user), _wait(by_address, self._per_address))


def _wait(attempts: int, bound: Bound) -> float:
    """Nothing, then half a second, doubled with each attempt."""
    if attempts > bound.most:
        raise TooManyError
    beyond = attempts - bound.free
    return min(SLOWEST, 0.25 * 2.0 ** min(beyond, 10)) if beyond > 0 else 0.0


def _short(user: str) -> str:
    return hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _network(address: str) -> str:
    """Who has one IPv6 address has 2^64 of them: they count as one."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address[:64]
    return f"{IPv6Address(int(parsed) >> 64 << 64)}/64" if parsed.version == 6 else str(parsed)
