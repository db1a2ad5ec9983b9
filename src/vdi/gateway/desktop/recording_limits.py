"""Limits of recordings, for `recordings`: how fast and how much is stored of a desktop, and when
its picture ends.

What a desktop sends is untrusted input. A recorder makes so many bytes a second at most, and after
an outage a desktop has so much waiting; more than that is not a recording. The person whose
recordings of a day take most of what is left in the storage is refused first, so no desktop can use
up the space of another one.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from vdi.api.recording import RecordingMode
from vdi.api.session import VDISession
from vdi.cluster.units import parse_time
from vdi.gateway.component import GatewayContext
from vdi.gateway.desktop.recording_storage import RecordingBucket, RecordingFolder
from vdi.gateway.store.recordings import RecordingStore
from vdi.session.naming import RECORDING_REFUSED
from vdi.session.recording import ON, longest_pause, recording_rate
from vdi.session.users import normal_user

# What may come at once from a desktop that is fetched from every 2 s, and after an outage: what an
# agent keeps for a gateway that is away (`recordings.py` of the image), and a little more.
AT_ONCE, BURST = 48 << 20, 272 << 20
# A recording costs so much more than its bytes: rows, files and objects are few.
RECORDING_BYTES = 4 << 20
# Recordings of one person in 24 hours: a day of a moving picture at 1920x1080.
MAX_DAY = 100 << 30
# As long as a desktop may be open while its recording waits (`STORED_SECONDS` of the image's
# `recordings.py`).
SILENT_AFTER = timedelta(minutes=5)
# Clocks of operator and gateway may differ by so much.
CLOCK_SLACK = timedelta(minutes=1)
_BUDGET_SECONDS = 3600.0
_SPACE_AFTER = timedelta(seconds=5)

NO_STORAGE = "the gateway does not store recordings (gateway.recordings in the chart's values)"
EXCESS = "it sends more recording than a recorder makes"
FULL = "the storage of recordings has too little space left for it"
SILENT = "nothing of its recording has been stored lately"


@dataclass(eq=False, kw_only=True)
class RecordingLimits:
    """Decides what may be stored. Every method may raise DatabaseUnavailableError and
    SharedUnavailableError.
    """

    context: GatewayContext
    store: RecordingStore
    storage: RecordingFolder | RecordingBucket | None
    _space: int | None = field(default=None, init=False)
    _space_read: datetime | None = field(default=None, init=False)

    async def refuse(self, session: VDISession) -> str:
        """The reason why nothing more of this desktop's recording is stored now; empty: it is."""
        if self.storage is None:
            return NO_STORAGE
        # A desktop that was refused waits until all that an agent keeps would fit: it does not
        # flicker.
        least = 0
        if session.metadata.annotations.get(RECORDING_REFUSED) == EXCESS:
            least = BURST
        if await self._budget(session) < least:
            return EXCESS
        since = self.context.clock() - timedelta(days=1)
        size, recordings = await self.store.use_since(normal_user(session.spec.user), since)
        taken, space = size + recordings * RECORDING_BYTES, await self._find_space()
        if taken > MAX_DAY or (space is not None and taken > space):
            return FULL
        return ""

    async def find_silence(self, session: VDISession, *, responds: bool) -> str:
        """The reason why a recording that the agent reports as On is in truth not made; empty: it
        is, or is not reported.

        `responds`: the agent has just responded, and had nothing more. Else agent or storage may be
        away for a while.
        """
        recording = session.status.recording
        if recording is None or recording.mode == RecordingMode.ON_DEMAND or recording.state != ON:
            return ""
        _, stored = await self.store.run(session.metadata.uid, run_start(session))
        silent = self.context.clock() - max(stored or run_start(session), run_start(session))
        longest = SILENT_AFTER
        if responds:
            longest = longest_pause(self.context.cluster.template(session.spec.template))
        return SILENT if silent > longest else ""

    async def spend(self, session: VDISession, stored: int, *, is_new: bool) -> None:
        """Count bytes that have been stored. `is_new`: they are the first of a recording."""
        await self._keep(session, await self._budget(session) - stored - is_new * RECORDING_BYTES)

    async def end_round(self, session: VDISession) -> None:
        """Note that nothing waits in the desktop any more."""
        await self._keep(session, min(await self._budget(session), AT_ONCE))

    async def longest(self, session: VDISession, seconds: float) -> float:
        """The longest that a recording of `seconds` may be now: all recordings of a run together
        are no longer than the run.
        """
        recorded, _ = await self.store.run(session.metadata.uid, run_start(session))
        run = self.context.clock() - run_start(session) + CLOCK_SLACK
        return max(0.0, run.total_seconds() - recorded + seconds)

    async def _budget(self, session: VDISession) -> float:
        """Bytes that may be stored now; below zero after too many."""
        if known := await self.context.shared.get(_key(session)):
            left, at = map(float, known.split())
        else:  # a new desktop, or a new gateway
            _, stored = await self.store.run(session.metadata.uid, run_start(session))
            left, at = AT_ONCE, max(stored or run_start(session), run_start(session)).timestamp()
        passed = max(0.0, self.context.clock().timestamp() - at)
        made = passed * recording_rate(self.context.cluster.template(session.spec.template))
        # As much as was made meanwhile may come at once, after an outage too; what was left before
        # is not lost.
        most = max(AT_ONCE, min(BURST, made))
        return max(left, min(left + made, most))

    async def _keep(self, session: VDISession, left: float) -> None:
        now = self.context.clock().timestamp()
        await self.context.shared.put(_key(session), f"{left} {now}", _BUDGET_SECONDS)

    async def _find_space(self) -> int | None:
        """Bytes that all recordings together may still take; None: not known."""
        now = self.context.clock()
        if self._space_read is None or now - self._space_read > _SPACE_AFTER:
            self._space, self._space_read = await self._read_space(), now
        return self._space

    async def _read_space(self) -> int | None:
        try:
            space = await self.storage.space() if self.storage else None
        except OSError:  # storing the next piece says why
            space = None
        if (quota := self.context.settings.recordings_quota) is None:
            return space
        left = quota - await self.store.total()
        return left if space is None else min(left, space)


def run_start(session: VDISession) -> datetime:
    """When the desktop of this run first responded."""
    return parse_time(session.status.ready_time or session.metadata.creation_timestamp)


def _key(session: VDISession) -> str:
    return f"recording-budget/{session.metadata.uid}"
