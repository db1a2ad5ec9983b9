"""Leader election over one Lease object, and the guard that keeps all but the leader from writing.

The holder renews the Lease; whoever sees it unchanged for `duration` takes it. Clocks are never
compared:

    holder    sends a renewal at t. Granted, writes may begin until t + deadline and are given up at t + last_word.
    others    see that renewal at t or later: the earliest they take the Lease is t + duration, since each change of
              it is a new resourceVersion, which a takeover names as its precondition.

As last_word < duration, no write of an old holder is under way when a new one begins. Two gaps
remain: a process that is stopped in the microseconds between the guard and the system call that
sends, and a Lease that somebody deletes while its holder lives and a process that has never seen it
starts. Every write is safe against both by itself: it carries a uid, a resourceVersion, or a name
that can be taken only once.
"""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from vdi.kube.clock import SYSTEM_CLOCK, Clock
from vdi.kube.errors import AlreadyExists, Conflict, KubeError, NotFound, NotLeader
from vdi.kube.resource import LEASES
from vdi.kube.transport import Client

log = logging.getLogger(__name__)

_GIVE_BACK_TRIES = 3


@dataclass(frozen=True, slots=True)
class LeaseTiming:
    """All in seconds; each must be smaller than the one before it."""

    # A Lease that has not changed for so long is free. Every replica uses its own value, whatever
    # the Lease says, so a release that makes it longer needs one before it that waits that long
    # already.
    duration: float = 10.0
    # The holder gives up a write this long after its last renewal.
    last_word: float = 9.0
    # The holder begins no write later than this after its last renewal.
    deadline: float = 7.0
    # Pause between two renewals.
    renew: float = 2.0
    # Pause between two looks while standing by, and after a failure.
    look: float = 1.0


DEFAULT_LEASE_TIMING = LeaseTiming()


class _Meta(msgspec.Struct, rename="camel"):
    resource_version: str = ""


class _Spec(msgspec.Struct, rename="camel"):
    holder_identity: str | None = None
    lease_transitions: int | None = None


class _Lease(msgspec.Struct):
    metadata: _Meta
    spec: _Spec = msgspec.field(default_factory=_Spec)


class Elector:
    """One candidacy: waits for the Lease, holds it, and ends when another process has taken it.
    Then create a new one.

    `client` must be its own (not fenced, no retries, a timeout below `deadline`), so that a burst
    of other requests never keeps a renewal waiting. `identity` must be new for each Elector.
    """

    def __init__(
        self,
        client: Client,
        *,
        namespace: str,
        name: str,
        identity: str,
        timing: LeaseTiming = DEFAULT_LEASE_TIMING,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.name = name
        self.identity = identity
        self.holder = ""  # of the Lease when it was last read
        # Why the last look or renewal failed; None while all is well.
        self.last_error: KubeError | None = None
        self._client = client
        self._namespace = namespace
        self._timing = timing
        self._clock = clock
        self._mine: _Lease | None = None  # the Lease after our last write
        self._renewed: tuple[float, datetime] | None = (
            None  # when the last good renewal was sent, by both clocks
        )
        self._seen = ""  # resourceVersion of the last look
        self._seen_at = 0.0
        self._seen_duration = 0.0  # how long it is held from then on; 0: free
        self._leading = asyncio.Event()
        self._hurry = asyncio.Event()

    @property
    def leads(self) -> bool:
        """Whether a write may begin now."""
        age = self.age
        return age is not None and age < self._timing.deadline

    @property
    def age(self) -> float | None:
        """Seconds since the last good renewal was sent; None when the Lease is not ours."""
        if self._renewed is None:
            return None
        monotonic, wall = self._renewed
        # The monotonic clock stands still while a machine sleeps, and the wall clock may be set
        # back: the later counts.
        return max(self._clock.monotonic() - monotonic, (self._clock.now() - wall).total_seconds())

    def allowance(self) -> float:
        """Seconds that a write that begins now may take. Raises NotLeader when it must not
        begin.
        """
        age = self.age
        if age is not None and age < self._timing.deadline:
            return self._timing.last_word - age
        if age is not None:
            self._ask_for_renewal()
            raise NotLeader(
                f"the lease {self.name} was last renewed {age:.1f} s ago: someone else may lead now"
            )
        raise NotLeader(
            f"the lease {self.name} is held by {self.holder or 'no one'}, not by {self.identity}"
        )

    async def wait_leading(self) -> None:
        """Return when a write may begin."""
        while not self.leads:
            self._ask_for_renewal()
            await self._leading.wait()

    def _ask_for_renewal(self) -> None:
        self._leading.clear()
        if self.last_error is None:  # else the next try is due in a moment anyway
            self._hurry.set()

    async def run(self) -> None:
        """Stand by, then lead, until another process has taken the Lease, or until cancelled."""
        wait: float | None = 0.0
        while (wait := await self.step()) is not None:
            await self._nap(wait)

    async def step(self) -> float | None:
        """One look or one renewal; the seconds until the next, None when another process has taken
        the Lease.
        """
        try:
            if self._mine is None:
                wait: float | None = await self._look()
            else:
                wait = await self._renew(self._mine)
        except KubeError as error:
            self._say(error)
            return self._timing.look
        self.last_error = None
        return wait

    async def release(self) -> None:
        """Give the Lease back so that others need not wait; call it when `run` and all writes have
        ended.

        This ends the candidacy. A failure is only logged: the Lease then runs out by itself.
        """
        mine, self._mine, self._renewed = self._mine, None, None
        for _ in range(_GIVE_BACK_TRIES):
            if mine is None or mine.spec.holder_identity != self.identity:
                return
            try:
                await self._write(
                    mine,
                    {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": self._now()},
                )
                return
            except Conflict:  # a renewal whose answer we did not wait for
                with suppress(KubeError):
                    mine = await self._read()
            except KubeError as error:
                log.warning("the lease %s was not given back: %s", self.name, error)
                return

    async def _look(self) -> float:
        """While standing by: take the Lease when it is free or has run out."""
        try:
            lease = await self._read()
        except NotFound:
            if self._is_held():  # deleted by somebody, which its holder may not know yet
                return self._timing.look
            return await self._create()
        if lease.metadata.resource_version != self._seen:
            self._seen = lease.metadata.resource_version
            self._seen_at = self._clock.monotonic()
            # Not the Lease's own `leaseDurationSeconds`: anyone who may write the Lease could set
            # it to days, and a dead holder would keep all replicas waiting.
            if lease.spec.holder_identity:
                self._seen_duration = self._timing.duration
            else:
                self._seen_duration = 0.0
        holder = lease.spec.holder_identity or ""
        if holder != self.holder and holder not in ("", self.identity):
            log.info("standing by: the lease %s is held by %s", self.name, holder)
        self.holder = holder
        if holder == self.identity:  # we have taken it, but its answer was lost
            self._mine = lease
            return 0.0
        if self._is_held():
            return self._timing.look
        changes = self._claim() | {"leaseTransitions": (lease.spec.lease_transitions or 0) + 1}
        with suppress(Conflict):  # somebody was faster
            await self._hold(lease, changes)
            return self._timing.renew
        return self._timing.look

    def _is_held(self) -> bool:
        return self._clock.monotonic() < self._seen_at + self._seen_duration

    async def _create(self) -> float:
        body = {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {"name": self.name, "namespace": self._namespace},
            "spec": self._claim() | {"leaseTransitions": 0},
        }
        sent = self._clock.monotonic(), self._clock.now()
        # Somebody was faster, or the answer to our first try was lost.
        with suppress(AlreadyExists):
            self._granted(
                await self._client.create(LEASES, body, namespace=self._namespace, into=_Lease),
                sent,
            )
            return self._timing.renew
        return 0.0

    async def _renew(self, mine: _Lease) -> float | None:
        sent = self._clock.monotonic()
        try:
            await self._hold(mine, {"renewTime": self._now()})
        except (Conflict, NotFound):
            if not await self._is_still_ours():
                return None
            return 0.0
        return max(0.0, sent + self._timing.renew - self._clock.monotonic())

    async def _is_still_ours(self) -> bool:
        """Whether the conflict was with a renewal of our own whose answer was lost."""
        try:
            lease = await self._read()
        except NotFound:
            lease = _Lease(_Meta())
        self.holder = lease.spec.holder_identity or ""
        if self.holder == self.identity:
            self._mine = lease
            return True
        self._mine = self._renewed = None
        self._leading.clear()
        log.warning("the lease %s is lost: it is held by %s", self.name, self.holder or "no one")
        return False

    async def _hold(self, lease: _Lease, changes: dict[str, Any]) -> None:
        sent = self._clock.monotonic(), self._clock.now()
        self._granted(await self._write(lease, changes), sent)

    def _granted(self, lease: _Lease, sent: tuple[float, datetime]) -> None:
        if self._renewed is None:
            log.info("leading as %s", self.identity)
        self._mine, self._renewed, self.holder = lease, sent, self.identity
        self._leading.set()

    async def _read(self) -> _Lease:
        return await self._client.get(LEASES, self.name, namespace=self._namespace, into=_Lease)

    async def _write(self, lease: _Lease, changes: dict[str, Any]) -> _Lease:
        patch = {"metadata": {"resourceVersion": lease.metadata.resource_version}, "spec": changes}
        return await self._client.patch(
            LEASES, self.name, patch, namespace=self._namespace, into=_Lease
        )

    def _claim(self) -> dict[str, Any]:
        now = self._now()
        seconds = int(self._timing.duration)
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": seconds,
            "acquireTime": now,
            "renewTime": now,
        }

    def _now(self) -> str:
        return self._clock.now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    async def _nap(self, seconds: float) -> None:
        """Sleep, until a caller of the guard asks for a renewal."""
        self._hurry.clear()
        nap = asyncio.ensure_future(self._clock.sleep(seconds))
        hurried = asyncio.ensure_future(self._hurry.wait())
        try:
            await asyncio.wait((nap, hurried), return_when=asyncio.FIRST_COMPLETED)
        finally:
            nap.cancel()
            hurried.cancel()

    def _say(self, error: KubeError) -> None:
        """Log a failure when it begins or changes, not at each repetition."""
        if str(error) != str(self.last_error):
            log.warning("lease %s: %s", self.name, error)
        self.last_error = error
