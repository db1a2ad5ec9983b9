"""A way to the API server on which things go wrong: a chosen fault at a chosen call, or random ones
from a seed.
"""

import asyncio
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import aiohttp
from aiohttp import web

from cluster.operator_proxy import WRITES, Proxy, Request
from vdi.kube.config import ClusterConfig

LEASES = "/leases"
_PASSED_ON = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
# Seconds: longer than the client's own patience with any request.
_LONGEST_HANG = 40
_REASONS = {"409": "Conflict", "410": "Expired", "429": "TooManyRequests", "500": "InternalError"}


class Fault(StrEnum):
    """A fault of one request."""

    CONFLICT = "409"
    BUSY = "429"
    BROKEN = "500"
    AWAY = "503"
    # The connection is cut; the server has not seen the request.
    DROP_BEFORE = "drop-before"
    # The connection is cut; the server has done what was asked.
    DROP_AFTER = "drop-after"
    # No answer at all, and nothing was done.
    HANG_BEFORE = "hang-before"
    # No answer at all, but it was done.
    HANG_AFTER = "hang-after"
    # For watches: the version is too old.
    GONE = "410"


AT_A_CALL = tuple(fault for fault in Fault if fault is not Fault.GONE)


@dataclass(frozen=True)
class Call:
    """One request, before it is passed on."""

    method: str
    path: str
    watch: bool
    body: bytes

    @property
    def is_write(self) -> bool:
        """Whether it changes something. Events do not count, and the Lease has an audit of its
        own.
        """
        return self.method in WRITES and "/events" not in self.path and LEASES not in self.path


Choose = Callable[[Call], Fault | None]


class LeaseAudit:
    """Knows from the answers that pass who holds the Lease, and notes every write of anybody
    else.
    """

    def __init__(self) -> None:
        self.holder: FaultProxy | None = None
        self.in_use = False
        self.overlaps: list[str] = []
        self.changes: list[tuple[float, str]] = []

    def answered(self, proxy: "FaultProxy", answer: bytes) -> None:
        """The server has taken a write to the Lease."""
        holder = json.loads(answer).get("spec", {}).get("holderIdentity", "")
        now_held_by = proxy if holder else None
        self.in_use = True
        if now_held_by is not self.holder:
            self.changes.append((time.monotonic(), proxy.label if holder else ""))
        self.holder = now_held_by

    def wrote(self, proxy: "FaultProxy", call: Call, moment: str) -> None:
        """A write through `proxy` is about to reach the server, or was done by it."""
        if self.in_use and self.holder is not None and self.holder is not proxy:
            self.overlaps.append(
                f"{proxy.label} {moment} {call.method} {call.path} while {self.holder.label} leads"
            )


class FaultProxy(Proxy):
    """Asks `choose` about every request (watches too); None lets it pass."""

    def __init__(
        self, upstream: ClusterConfig, *, label: str = "operator", audit: LeaseAudit | None = None
    ) -> None:
        super().__init__(upstream)
        self.label = label
        self.choose: Choose = lambda _: None
        self.injected: dict[Fault, int] = dict.fromkeys(Fault, 0)
        self._audit = audit or LeaseAudit()
        # The call after which the line is cut for good.
        self._last: Call | None = None
        self._watches: set[asyncio.Transport] = set()

    def cut_watches(self) -> int:
        """Cut all open watches at once; how many there were."""
        cut = [transport for transport in self._watches if not transport.is_closing()]
        for transport in cut:
            transport.abort()
        self._watches.clear()
        return len(cut)

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        watch = request.query.get("watch") == "true"
        call = Call(request.method, request.path, watch, await request.read())
        if self.cut.is_set():
            return await self._lose(request, Fault.DROP_BEFORE)
        fault = self._cut(call) or self.choose(call)
        if fault is not None:
            self.injected[fault] += 1
        if fault in (Fault.DROP_BEFORE, Fault.HANG_BEFORE):
            return await self._lose(request, fault)
        if fault in (Fault.CONFLICT, Fault.BUSY, Fault.BROKEN, Fault.AWAY, Fault.GONE):
            return _refuse(fault)
        try:
            return await (self._stream(request) if watch else self._ask(request, call, fault))
        except aiohttp.ClientError:  # the server is being restarted: so it would look without us
            return await self._lose(request, Fault.DROP_BEFORE)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        assert isinstance(request.transport, asyncio.Transport)
        self._watches.add(request.transport)
        try:
            return await super()._pass(request)
        finally:
            self._watches.discard(request.transport)

    def _cut(self, call: Call) -> Fault | None:
        """Count writes down to the one at which the line is cut for good (`cut_at`)."""
        if self._writes_left is None or not call.is_write:
            return None
        self._writes_left -= 1
        if self._writes_left:
            return None
        if self._moment == "after":
            self._last = call
            return Fault.DROP_AFTER
        self.cut.set()
        return Fault.DROP_BEFORE

    async def _ask(
        self, request: web.Request, call: Call, fault: Fault | None
    ) -> web.StreamResponse:
        """Ask the server, look at its answer, and then pass it on or lose it."""
        headers = {name: value for name, value in request.headers.items() if name in _PASSED_ON}
        if self.user:
            headers["Impersonate-User"] = self.user
        self.passed.append(Request(call.method, call.path, False))
        if call.is_write:
            self._audit.wrote(self, call, "sends")
        url = f"{self._upstream.server}{request.raw_path}"
        async with self._session.request(
            call.method, url, data=call.body or None, headers=headers
        ) as answer:
            content = await answer.read()
        if call.method in WRITES and LEASES in call.path and answer.status < 300:
            self._audit.answered(self, content)
        elif call.is_write:
            self._audit.wrote(self, call, "has done")
        if fault is not None:
            if call is self._last:
                self.cut.set()
            return await self._lose(request, fault)
        asked = {name: answer.headers[name] for name in ("Retry-After",) if name in answer.headers}
        return web.Response(
            status=answer.status, body=content, content_type="application/json", headers=asked
        )

    async def _lose(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        """Give no answer: at once, or only when the client has lost its patience."""
        if fault in (Fault.HANG_BEFORE, Fault.HANG_AFTER):
            for _ in range(_LONGEST_HANG * 10):
                await asyncio.sleep(0.1)
                if request.transport is None:  # the client has gone, and there is no event for that
                    break
        if request.transport is not None:
            request.transport.abort()
        raise asyncio.CancelledError


def _refuse(fault: Fault) -> web.Response:
    code = int(fault.value)
    status: dict[str, Any] = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
    }
    status |= {
        "reason": _REASONS.get(fault.value, "ServiceUnavailable"),
        "message": f"injected {fault.value}",
    }
    headers = {"Retry-After": "1"} if fault is Fault.BUSY else {}
    return web.json_response(status, status=code, headers=headers)


class FaultsByName:
    """One fault at the n-th call about one thing: each session (or template) of a batch gets its
    own.
    """

    def __init__(self, subject_of: Callable[[Call], str | None]) -> None:
        self._subject_of = subject_of
        self._plans: dict[str, tuple[int, Fault]] = {}
        # What was called about each, in order.
        self.calls: dict[str, list[str]] = {}
        # The call that each one's fault has hit.
        self.struck: dict[str, str] = {}

    def plan(self, name: str, call: int, fault: Fault) -> None:
        """The `call`-th call from now that is about `name` meets `fault`."""
        self._plans[name] = (call, fault)
        self.calls[name] = []

    def __call__(self, call: Call) -> Fault | None:
        name = self._subject_of(call)
        if name is None:
            return None
        calls = self.calls.setdefault(name, [])
        calls.append(f"{call.method} {call.path}")
        number, fault = self._plans.get(name, (0, None))
        if len(calls) != number:
            return None
        self.struck[name] = calls[-1]
        return fault


class RandomFaults:
    """Faults at a rate, from a generator of its own, so that the seed alone decides which come in
    what order.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        # Share of the requests that meet one; 0 lets everything pass.
        self.rate = 0.0

    def __call__(self, call: Call) -> Fault | None:
        if LEASES in call.path or self._random.random() >= self.rate:
            return None
        if call.watch:
            return self._random.choice((Fault.GONE, Fault.BROKEN, Fault.DROP_BEFORE, Fault.BUSY))
        if call.method == "GET":
            return self._random.choice((Fault.BUSY, Fault.BROKEN, Fault.AWAY, Fault.DROP_BEFORE))
        # A hanging request takes seconds of everybody's time: rarer than the others.
        return self._random.choice((*AT_A_CALL[:6], *AT_A_CALL))
