"""Work queues and controllers: keys in, `reconcile(key)`, and one of three outcomes.

The queue holds keys, not events. A worker reads the state as it is when it takes a key, so a
hundred changes that came meanwhile are one piece of work.
"""

import asyncio
import heapq
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Generic, TypeVar

from vdi.kube.clock import SYSTEM_CLOCK, Clock
from vdi.kube.errors import ApiError, Conflict, KubeError

log = logging.getLogger(__name__)
# Keys that fall due within these seconds are added together, so that many timers do not mean many
# wakeups.
GRAIN = 0.02

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Result:
    """Result of a reconcile: done, or to be called again after `requeue_after` seconds at the
    latest.
    """

    requeue_after: float | None = None


class WorkQueue(Generic[Key]):
    """Keys that need work: each at most once in the queue, and never worked on twice at the same
    time.

    Urgent keys are taken first, so that in a burst of new work, work that is nearly done does not
    wait.

    Nothing is lost with the process: the first lists bring every key back. Its maps are touched
    only between two awaits: hence no lock.
    """

    def __init__(
        self, clock: Clock = SYSTEM_CLOCK, *, backoff: float = 0.1, backoff_cap: float = 60.0
    ) -> None:
        self._clock = clock
        self._backoff = backoff
        self._backoff_cap = backoff_cap
        # A key that has become urgent is in both: its entry in `_ready` is skipped when its turn
        # comes.
        self._ready: deque[Key] = deque()
        self._first: deque[Key] = deque()
        self._dirty: set[Key] = set()  # to be handed out, now or when its present work ends
        self._urgent: set[Key] = set()  # of these
        self._processing: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._due: dict[Key, float] = {}  # when a key is to be added, whatever happens before
        self._latest: dict[Key, float] = {}  # when a key is to be added unless it is taken before
        self._heap: list[
            tuple[float, int, Key]
        ] = []  # both of them, and entries that no longer hold
        self._entries = 0
        # Workers that wait for a key, one to be woken by each.
        self._idle: deque[asyncio.Future[None]] = deque()
        self._wake_timer = asyncio.Event()
        self.closed = False

    def __len__(self) -> int:
        """Number of keys that wait to be taken."""
        return len(self._dirty) - len(self._dirty & self._processing)

    def add(self, key: Key, *, urgent: bool = False) -> None:
        """Add a key. While it is being worked on, it is handed out once more after that."""
        if self.closed or (key in self._dirty and (not urgent or key in self._urgent)):
            return
        self._dirty.add(key)
        if urgent:
            self._urgent.add(key)
        if key not in self._processing:
            self._offer(key)

    def add_after(self, key: Key, seconds: float) -> None:
        """Add a key after `seconds`; of several times for one key the earliest counts."""
        self._delay(self._due, key, seconds)

    def requeue_within(self, key: Key, seconds: float) -> None:
        """Add a key after `seconds`, unless it is taken before for any other reason."""
        self._delay(self._latest, key, seconds)

    def _delay(self, times: dict[Key, float], key: Key, seconds: float) -> None:
        if seconds <= 0:
            self.add(key)
            return
        due = self._clock.monotonic() + seconds
        if due >= times.get(key, float("inf")):
            return
        times[key] = due
        self._entries += 1
        if len(self._heap) > 100 + 2 * (len(self._due) + len(self._latest)):
            self._heap = [entry for entry in self._heap if self._holds(entry)]
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, (due, self._entries, key))
        if self._heap[0][1] == self._entries:
            self._wake_timer.set()

    def _holds(self, entry: tuple[float, int, Key]) -> bool:
        due, _, key = entry
        return self._due.get(key) == due or self._latest.get(key) == due

    def retry(self, key: Key, at_least: float = 0.0) -> float:
        """Add the key after its own growing delay; returns the seconds."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay = max(at_least, min(self._backoff_cap, self._backoff * 2.0 ** min(failures - 1, 32)))
        self.add_after(key, delay)
        return delay

    def forget(self, key: Key) -> None:
        """Reset the delay of a key whose work has succeeded."""
        self._failures.pop(key, None)

    async def take(self) -> Key | None:
        """The next key, to be returned with `done`; None when the queue is closed."""
        while (key := self._pop()) is None:
            if self.closed:
                return None
            await self._nap()
        self._dirty.discard(key)
        self._urgent.discard(key)
        self._latest.pop(key, None)
        self._processing.add(key)
        return key

    async def _nap(self) -> None:
        """Return when there may be a key for this worker. Each key wakes one worker, not all."""
        nap = asyncio.get_running_loop().create_future()
        self._idle.append(nap)
        try:
            await nap
        except asyncio.CancelledError:
            if not nap.cancelled():
                self._wake_one()  # the key is still there: wake another worker
            raise

    def _wake_one(self) -> None:
        while self._idle:
            nap = self._idle.popleft()
            if not nap.done():
                nap.set_result(None)
                return

    def _pop(self) -> Key | None:
        for ready in (self._first, self._ready):
            while ready:
                key = ready.popleft()
                if key in self._dirty and key not in self._processing:
                    return key
        return None

    def done(self, key: Key) -> None:
        """The work on this key has ended, well or not."""
        self._processing.discard(key)
        if key in self._dirty:
            self._offer(key)

    def close(self) -> None:
        """Hand out no more keys: all who wait in `take` get None."""
        self.closed = True
        for keys in (self._ready, self._first, self._dirty, self._urgent):
            keys.clear()
        while self._idle:
            self._wake_one()

    async def run_timer(self) -> None:
        """Add the delayed keys when they are due, until cancelled."""
        while True:
            self._add_due()
            self._wake_timer.clear()
            nap = None
            if self._heap:
                nap = asyncio.create_task(self._wake_at(self._heap[0][0]))
            try:
                await self._wake_timer.wait()
            finally:
                if nap is not None:
                    nap.cancel()

    async def _wake_at(self, due: float) -> None:
        await self._clock.sleep(max(due - self._clock.monotonic(), GRAIN))
        self._wake_timer.set()

    def _add_due(self) -> None:
        now = self._clock.monotonic()
        while self._heap and (self._heap[0][0] <= now or not self._holds(self._heap[0])):
            due, _, key = heapq.heappop(self._heap)
            for times in (self._due, self._latest):
                if times.get(key) == due:
                    del times[key]
                    self.add(key)

    def _offer(self, key: Key) -> None:
        if not self.closed:
            (self._first if key in self._urgent else self._ready).append(key)
            self._wake_one()


Reconcile = Callable[[Key], Awaitable[Result]]


@dataclass(eq=False, slots=True)
class _Attempt:
    """One reconcile of one key. Tasks that it has started, and that outlive it, still see it as
    their own.
    """

    controller: object
    key: Hashable
    under_way: bool = True

    def is_of(self, controller: object, key: Hashable) -> bool:
        """Whether this controller is reconciling this key now."""
        return self.under_way and self.controller is controller and self.key == key


# The reconcile that the current task is part of.
_current_attempt: ContextVar[_Attempt | None] = ContextVar("current_attempt", default=None)


class Controller(Generic[Key]):
    """A queue, and workers that take keys from it and reconcile them.

    The reconciler is an argument of `run`: components that enqueue into the controller are created
    before it.
    """

    def __init__(
        self,
        name: str,
        *,
        workers: int = 4,
        clock: Clock = SYSTEM_CLOCK,
        on_outcome: Callable[[str, float], None] | None = None,
    ) -> None:
        self.name = name
        self.outcomes: dict[str, int] = dict.fromkeys(("done", "requeue_after", "retry"), 0)
        self.queue: WorkQueue[Key] = WorkQueue(clock)
        self._workers = workers
        self._clock = clock
        self._on_outcome = on_outcome

    def enqueue(self, key: Key, *, urgent: bool = False) -> None:
        """Add a key now. `urgent`: ahead of all keys that are not."""
        self.queue.add(key, urgent=urgent)

    def enqueue_changed(self, key: Key, *, urgent: bool = False) -> None:
        """Add a key because a store reports a change, unless the key's own reconcile has just made
        that change.

        That reconcile knows the change from the answer to its write. If more is to be done, it
        returns `Result(requeue_after=0)`. The store reports what others write at the same time
        separately.
        """
        attempt = _current_attempt.get()
        if attempt is None or not attempt.is_of(self, key):
            self.queue.add(key, urgent=urgent)

    def enqueue_within(self, key: Key, seconds: float) -> None:
        """Add a key after `seconds`, unless it is taken before for any other reason."""
        self.queue.requeue_within(key, seconds)

    def enqueue_after(self, key: Key, seconds: float) -> None:
        """Add a key after `seconds`; of several times the earliest counts."""
        self.queue.add_after(key, seconds)

    async def run(self, reconcile: Reconcile[Key]) -> None:
        """Work until `stop`, which lets the reconciles under way end, or until cancelled."""
        timer = asyncio.create_task(self.queue.run_timer(), name=f"{self.name}: timer")
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self._workers):
                    group.create_task(self._work(reconcile), name=f"{self.name}: worker {number}")
        finally:
            timer.cancel()

    def stop(self) -> None:
        """Take no further key; `run` returns when the reconciles under way have ended."""
        self.queue.close()

    async def _work(self, reconcile: Reconcile[Key]) -> None:
        while (key := await self.queue.take()) is not None:
            began = self._clock.monotonic()
            try:
                outcome = await self._attempt(reconcile, key)
            finally:
                self.queue.done(key)
            self.outcomes[outcome] += 1
            if self._on_outcome is not None:
                self._on_outcome(outcome, self._clock.monotonic() - began)

    async def _attempt(self, reconcile: Reconcile[Key], key: Key) -> str:
        """Reconcile one key once, and enqueue it again where that is due. Returns the outcome."""
        attempt = _Attempt(self, key)
        before = _current_attempt.set(attempt)
        try:
            result = await reconcile(key)
        except Exception as error:
            asked = error.retry_after if isinstance(error, ApiError) else None
            self._say(key, error, self.queue.retry(key, asked or 0.0))
            return "retry"
        finally:
            attempt.under_way = False
            _current_attempt.reset(before)
        self.queue.forget(key)
        if result.requeue_after is None:
            return "done"
        self.queue.requeue_within(key, result.requeue_after)
        return "requeue_after"

    def _say(self, key: Key, error: Exception, delay: float) -> None:
        if isinstance(error, Conflict):  # somebody was faster, which is normal
            log.debug("%s %s: again in %.1f s: %s", self.name, key, delay, error)
        elif isinstance(error, KubeError):
            log.warning("%s %s: again in %.1f s: %s", self.name, key, delay, error)
        else:
            log.exception("%s %s: again in %.1f s", self.name, key, delay, exc_info=error)
