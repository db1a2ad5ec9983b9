"""Events (events.k8s.io/v1), as `kubectl describe` shows them. They never block or fail the work
that they report.

Repetitions about one object within `SERIES_LIFE` become a series: one Event whose count grows,
patched at most every `SERIES_PAUSE`. The API server deletes Events after an hour by itself.
"""

import asyncio
import logging
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import uuid4

import msgspec

from vdi.kube.clock import SYSTEM_CLOCK, Clock
from vdi.kube.errors import AlreadyExists, KubeError, NotFound
from vdi.kube.meta import ObjectReference
from vdi.kube.queue import WorkQueue
from vdi.kube.resource import EVENTS
from vdi.kube.transport import Client
from vdi.printable import escape

log = logging.getLogger(__name__)

# Seconds after which the same words make a new Event (as in client-go).
SERIES_LIFE = 360.0

# Seconds between two requests for one series.
SERIES_PAUSE = 10.0
# Events that may wait to be sent; what comes beyond is dropped.
WAITING = 1024
# While more than so many wait, there are seconds between two requests: the work that they report
# goes first.
CROWD, CROWD_PAUSE = 8, 0.1
# Events kept in mind so that repetitions are known; the oldest is forgotten first.
REMEMBERED = 2048
# The API's limit.
NOTE_BYTES = 1024

Topic = tuple[str, str, str, str, str]


@dataclass(slots=True)
class _Series:
    """One Event: its repetitions so far (`count`, `last`), and how many of them the server knows
    (`sent`).
    """

    regarding: ObjectReference
    topic: Topic
    name: str
    began: float
    first: datetime
    last: datetime
    count: int = 1
    sent: int = 0
    sent_at: float = 0.0

    @property
    def namespace(self) -> str:
        return self.regarding.namespace or "default"  # Events about cluster-scoped objects

    def state(self) -> dict[str, Any]:
        """The `series` part; the API wants none for a single occurrence."""
        if self.count < 2:
            return {}
        return {"series": {"count": self.count, "lastObservedTime": _micro_time(self.last)}}


class EventRecorder:
    """Sends Events in the background; repetitions become one series; under load Events are dropped,
    and counted.
    """

    def __init__(
        self, client: Client, *, controller: str, instance: str, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.dropped = 0  # too many waited, or the server refused them
        self._client = client
        self._controller = controller
        self._instance = instance[:128]
        self._clock = clock
        # Lives as long as the process; a restart only means that a series begins again.
        self._series: OrderedDict[Topic, _Series] = OrderedDict()
        self._queue: WorkQueue[Topic] = WorkQueue(clock)
        self._idle = asyncio.Event()
        self._idle.set()
        self._hurried = False

    def emit(
        self,
        regarding: ObjectReference,
        type: Literal["Normal", "Warning"],
        reason: str,
        note: str,
        action: str,
    ) -> None:
        """Report something; returns at once. `note` is escaped, and cut at 1024 bytes."""
        note = escape(note)
        topic = (regarding.uid, type, reason, note, action)
        now = self._clock.monotonic()
        series = self._series.get(topic)
        if series is not None and now - series.began < SERIES_LIFE:
            series.count += 1
            series.last = self._clock.now()
            if series.sent:
                self._queue.add_after(topic, series.sent_at + SERIES_PAUSE - now)
            return
        if len(self._queue) >= WAITING:
            self.dropped += 1
            return
        name = f"{regarding.name[:200].rstrip('.-')}.{uuid4().hex[:16]}"
        moment = self._clock.now()
        self._series[topic] = _Series(regarding, topic, name, now, moment, moment)
        self._series.move_to_end(topic)
        if len(self._series) > REMEMBERED:
            self._series.popitem(last=False)
        self._idle.clear()
        self._queue.add(topic, urgent=type == "Warning")

    async def run(self) -> None:
        """Send what is recorded, until cancelled."""
        timer = asyncio.create_task(self._queue.run_timer(), name="events: timer")
        try:
            while (topic := await self._queue.take()) is not None:
                series = self._series.get(topic)
                try:
                    if series is not None and series.count > series.sent:
                        await self._send(series)
                        if series.count > series.sent:  # repeated meanwhile
                            self._queue.add_after(topic, SERIES_PAUSE)
                except KubeError as error:
                    self.dropped += 1
                    self._series.pop(topic, None)
                    log.warning("event %s was not sent: %s", topic[2], error)
                finally:
                    self._queue.done(topic)
                    if not len(self._queue):
                        self._idle.set()
                if len(self._queue) > CROWD and not self._hurried:
                    await self._clock.sleep(CROWD_PAUSE)
        finally:
            timer.cancel()

    async def flush(self) -> None:
        """Return when every new Event is sent or given up by `run`, from now on without pauses."""
        self._hurried = True
        await self._idle.wait()

    async def _send(self, series: _Series) -> None:
        count, state = series.count, series.state()
        series.sent_at = self._clock.monotonic()
        if series.sent:
            try:
                await self._client.patch(
                    EVENTS, series.name, state, namespace=series.namespace, into=msgspec.Raw
                )
                series.sent = count
                return
            except NotFound:  # the server has thrown it away meanwhile: begin again
                pass
        body = self._body(series) | state
        # There already: the client has tried again since the answer to the first was lost, and the
        # name is ours alone.
        with suppress(AlreadyExists):
            await self._client.create(EVENTS, body, namespace=series.namespace, into=msgspec.Raw)
        series.sent = count

    def _body(self, series: _Series) -> dict[str, Any]:
        _, type, reason, note, action = series.topic
        regarding = series.regarding
        return {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"name": series.name, "namespace": series.namespace},
            "eventTime": _micro_time(series.first),
            "reportingController": self._controller,
            "reportingInstance": self._instance,
            "type": type,
            "reason": reason,
            "action": action,
            "note": note.encode()[:NOTE_BYTES].decode("utf-8", "ignore"),
            "regarding": {
                "apiVersion": regarding.api_version,
                "kind": regarding.kind,
                "name": regarding.name,
                "uid": regarding.uid,
                **({"namespace": regarding.namespace} if regarding.namespace else {}),
            },
        }


def _micro_time(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
