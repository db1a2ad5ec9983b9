"""Limits to guessing passwords, counted over all replicas. The login pages count each attempt
before they check it: a thousand at once are a thousand, and unknown users count like known ones.

An attempt is refused for what its own network or address has done, never for what others did:
otherwise anyone could lock a user out everywhere by guessing at their name. All attempts at one
user together only slow the next one down.
"""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from vdi.gateway.shared_state import SharedState, SharedUnavailableError

# Seconds in which attempts are counted.
WINDOW = 900
# Seconds that an attempt waits at most before it is checked.
SLOWEST = 4.0
# Prefix length of one address: a host with one IPv6 address has the 2^64 of its subnet.
_ADDRESS = {4: 32, 6: 64}
# Prefix length of one network: a small provider or a site has as much as a whole, and a guesser
# with one machine can change addresses within it (RFC 6177). A wider one would more often hold the
# right user, too.
_NETWORK = {4: 24, 6: 48}


@dataclass(frozen=True, slots=True)
class Bound:
    """Attempts in one window that go at full speed, and attempts after which the next one is
    refused.
    """

    free: int
    most: int


# `most` counts for one network. After as many from all networks together, each network has only
# `free` for this user.
PER_USER = Bound(10, 60)
# Wider: a whole office may be behind one address.
PER_ADDRESS = Bound(30, 300)


class TooManyError(Exception):
    """Raised when an attempt is not checked; the sentence is the same for users that do not
    exist.
    """

    def __init__(self) -> None:
        self.seconds = WINDOW
        super().__init__(
            f"Too many login attempts. Wait up to {WINDOW // 60} minutes, then try again."
        )


class Throttle:
    """Counts attempts in `SharedState`."""

    def __init__(
        self, shared: SharedState, per_user: Bound = PER_USER, per_address: Bound = PER_ADDRESS
    ) -> None:
        self._shared = shared
        self._per_user = per_user
        self._per_address = per_address

    async def seconds_to_wait(self, user: str, address: str) -> float:
        """Count one attempt; returns the seconds that it has to wait. Raises TooManyError."""
        # A refused attempt is not counted any further: it must not slow down the user elsewhere.
        by_address = await self._shared.count(f"login/address/{_prefix(address, _ADDRESS)}", WINDOW)
        if by_address > self._per_address.most:
            raise TooManyError
        key = f"login/user/{_short(user)}"
        by_network = await self._shared.count(f"{key}/{_prefix(address, _NETWORK)}", WINDOW)
        if by_network > self._per_user.most:
            raise TooManyError
        by_user = await self._shared.count(key, WINDOW)
        if by_user > self._per_user.most and by_network > self._per_user.free:
            raise TooManyError
        return max(_delay(by_user, self._per_user), _delay(by_address, self._per_address))

    async def forgive(self, user: str, address: str) -> None:
        """Take back an attempt that was right: only failed ones stay counted."""
        key = f"login/user/{_short(user)}"
        with suppress(SharedUnavailableError):  # a proven user must not fail for this
            await self._shared.uncount(f"login/address/{_prefix(address, _ADDRESS)}")
            await self._shared.uncount(f"{key}/{_prefix(address, _NETWORK)}")
            await self._shared.uncount(key)

    @asynccontextmanager
    async def sign_on(self, address: str) -> AsyncIterator[None]:
        """Within, the identity provider is asked about a way back. Raises TooManyError."""
        # Only attempts that raise stay counted: a whole office may sign in from one address.
        # Whatever fails counts, since providers differ in how they refuse a code.
        key = f"login/oidc/{_prefix(address, _ADDRESS)}"
        if await self._shared.count(key, WINDOW) > self._per_address.most:
            raise TooManyError
        yield
        with suppress(SharedUnavailableError):  # a proven user must not fail for this
            await self._shared.uncount(key)


def _delay(attempts: int, bound: Bound) -> float:
    """Seconds: zero, then half a second, doubled with each attempt."""
    beyond = attempts - bound.free
    if beyond > 0:
        return min(SLOWEST, 0.25 * 2.0 ** min(beyond, 10))
    return 0.0


def _short(user: str) -> str:
    return hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _prefix(address: str, lengths: dict[int, int]) -> str:
    try:
        parsed = ip_address(address)
    except ValueError:
        return address[:64]
    if parsed.version == 6 and parsed.ipv4_mapped:  # else all of IPv4 would be one network
        parsed = parsed.ipv4_mapped
    return str(ip_network((parsed, lengths[parsed.version]), strict=False))
