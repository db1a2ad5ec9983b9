"""A world in which electors live without an event loop: answers, time and deaths come when the test
says.
"""

from collections.abc import Coroutine, Generator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from vdi.kube.errors import AlreadyExists, ApiError, Conflict, ConnectionFailed, NotFound, NotLeader
from vdi.kube.lease import DEFAULT_LEASE_TIMING, Elector, LeaseTiming


class Request:
    """One request under way; awaiting it hands it to the world."""

    def __init__(self, verb: str, body: dict[str, Any]) -> None:
        self.verb = verb
        self.body = body
        self.answer: dict[str, Any] | ApiError | None = None

    def __await__(self) -> Generator["Request", Any, Any]:
        return (yield self)


class Line:
    """In the place of the Client."""

    async def get(self, _resource: Any, _name: str, *, namespace: str, into: Any) -> Any:
        return msgspec.convert(await Request("GET", {}), into)

    async def create(
        self, _resource: Any, body: dict[str, Any], *, namespace: str, into: Any
    ) -> Any:
        return msgspec.convert(await Request("POST", body), into)

    async def patch(
        self, _resource: Any, _name: str, body: dict[str, Any], *, namespace: str, into: Any
    ) -> Any:
        return msgspec.convert(await Request("PATCH", body), into)


class DriftingClock:
    """One machine's clocks: neither begins where the others' do, nor runs as fast."""

    def __init__(self, world: "LeaseSimulation", rate: float, offset: float) -> None:
        self._world = world
        self.rate = rate
        self._offset = offset
        self.wall_jump = timedelta()

    def monotonic(self) -> float:
        return self._offset + self._world.time * self.rate

    def now(self) -> datetime:
        at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(
            seconds=self._world.time * self.rate + self._offset
        )
        return at + self.wall_jump

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("steps do not sleep")


class Process:
    """One elector, run step by step."""

    def __init__(
        self, world: "LeaseSimulation", number: int, rate: float, timing: LeaseTiming
    ) -> None:
        self.world = world
        self.clock = DriftingClock(world, rate, 1000.0 * number)
        world.born += 1
        self.elector = Elector(
            Line(),  # type: ignore[arg-type]
            namespace="ns",
            name="lease",
            identity=f"p{number}-{world.born}",
            timing=timing,
            clock=self.clock,
        )
        self.due = world.time
        # The simulation's time until which a write that this one has begun may still be executed.
        self.writes_until = 0.0
        self.over = False
        self.request: Request | None = None
        self._work: Coroutine[Any, Any, Any] | None = None

    def begin(self) -> None:
        """The next step, if it is due."""
        if self._work is None and not self.over and self.world.time >= self.due:
            self._go(self.elector.step())

    def wait_for_request(self) -> None:
        """Live until a request is under way."""
        while self.request is None:
            self.world.time += 0.1
            self.begin()

    def release(self) -> None:
        """All writes have ended, and `run` is cancelled, wherever it was."""
        if not self.over:
            self.writes_until = self.world.time
            self.abandon()
            self.over = True
            self._go(self.elector.release())

    def abandon(self) -> None:
        """The request under way, if any, may be executed whenever it likes."""
        if self.request is not None and self.request.answer is None:
            self.world.strays.append(self.request)
        self.request = None
        if self._work is not None:
            self._work.close()
            self._work = None

    def execute(self) -> None:
        """The server does what was asked; the answer is under way."""
        if self.request is not None and self.request.answer is None:
            self.request.answer = self.world.serve(self.request)

    def deliver(self, lost: bool = False) -> None:
        """The answer arrives, or never will."""
        request = self.request
        if request is None or (request.answer is None and not lost):
            return
        if lost and request.answer is None:
            self.world.strays.append(request)
        self._resume(ConnectionFailed("s", "r", "lost") if lost else request.answer)

    def _go(self, work: Coroutine[Any, Any, Any]) -> None:
        self._work = work
        self._resume(None)

    def _resume(self, answer: Any) -> None:
        assert self._work is not None
        self.request = None
        try:
            if isinstance(answer, Exception):
                self.request = self._work.throw(answer)
            else:
                self.request = self._work.send(answer)
        except StopIteration as end:
            self._work = None
            self.over = self.over or end.value is None
            self.due = self.world.time + (end.value or 0.0) / self.clock.rate


class LeaseSimulation:
    """The API server's Lease, the time, and all processes that ever wanted it."""

    def __init__(
        self, rates: tuple[float, ...] = (1.0, 1.0), timing: LeaseTiming = DEFAULT_LEASE_TIMING
    ) -> None:
        self.time = 0.0
        self.born = 0
        self.lease: dict[str, Any] | None = None
        self.strays: list[Request] = []
        # Identities of those who led, in order.
        self.terms: list[str] = []
        self._version = 0
        self._rates = rates
        self._timing = timing
        self._dead: list[Process] = []
        self.processes = [Process(self, number, rate, timing) for number, rate in enumerate(rates)]

    def restart(self, number: int) -> None:
        """SIGKILL, and a new process; what the old one has sent is still under way."""
        old = self.processes[number]
        old.abandon()
        self._dead.append(old)
        self.processes[number] = Process(self, number, self._rates[number], self._timing)

    def serve(self, request: Request) -> dict[str, Any] | ApiError:
        """What the API server does with the Lease."""
        if request.verb == "POST":
            if self.lease is not None:
                return AlreadyExists(409, "AlreadyExists", "it is there")
            return self._store(request.body["spec"])
        if self.lease is None:
            return NotFound(404, "NotFound", "no lease")
        if request.verb == "GET":
            return self.lease
        if request.body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            return Conflict(409, "Conflict", "changed meanwhile")
        return self._store(self.lease["spec"] | request.body["spec"])

    def _store(self, spec: dict[str, Any]) -> dict[str, Any]:
        self._version += 1
        self.lease = {"metadata": {"resourceVersion": str(self._version)}, "spec": spec}
        return self.lease

    def write_all(self) -> None:
        """Everybody begins a write who may; no one may while a write of another can still be
        executed.
        """
        for process in self.processes:
            if process.over:
                continue
            try:
                allowed = process.elector.allowance() / process.clock.rate
            except NotLeader:
                continue
            for other in [*self.processes, *self._dead]:
                assert other is process or other.writes_until <= self.time, (
                    f"{process.elector.identity} writes at {self.time:.2f}, "
                    f"and {other.elector.identity} until {other.writes_until:.2f}"
                )
            process.writes_until = max(process.writes_until, self.time + allowed)
            if self.terms[-1:] != [process.elector.identity]:
                self.terms.append(process.elector.identity)

    def live(self, seconds: float, *numbers: int, latency: float = 0.0) -> None:
        """These processes work undisturbed for a while, with answers after `latency`; all, if none
        is named.
        """
        end = self.time + seconds
        working = [self.processes[number] for number in numbers] or self.processes
        while self.time < end:
            for process in working:
                process.begin()
            for process in working:
                process.execute()
            self.time += latency
            for process in working:
                process.deliver()
            self.write_all()
            self.time += 0.1
