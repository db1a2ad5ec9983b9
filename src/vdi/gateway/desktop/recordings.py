"""Recordings of desktops: fetched from the agents while they are made, stored, watched, and
deleted.

The gateway fetches, so that a desktop has neither a credential nor a mount for recordings. All
replicas share the storage and may fetch the same part: it is stored once, at its place. It is
acknowledged with the next request; the desktop keeps it until then.

An agent's response is untrusted input: the worst that a desktop can do is a recording that shows
nothing from now on. What is stored of it has limits (`recording_limits`). A desktop beyond them is
marked with an annotation, which ends its picture.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import Annotated

import msgspec
from starlette.responses import Response

from vdi.api.recording import TemplateRecording
from vdi.api.session import VDISession
from vdi.cluster.units import parse_duration
from vdi.gateway.component import Component, GatewayContext, repeat
from vdi.gateway.denied import ActionDenied, refused_by_cluster
from vdi.gateway.desktop.agent import DesktopAgent, poll_agents
from vdi.gateway.desktop.recording_limits import FULL, NO_STORAGE, RecordingLimits, run_start
from vdi.gateway.desktop.recording_storage import RecordingBucket, RecordingFolder
from vdi.gateway.in_flight import OpenRecordings
from vdi.gateway.rights import Action, User, refusal
from vdi.gateway.store.audit import Act, Audit, act_on
from vdi.gateway.store.recordings import Recording, RecordingStore, WatchedRecording
from vdi.http_client import reason_of
from vdi.kinds import SESSIONS
from vdi.kube.errors import KubeError
from vdi.session.naming import RECORDING_REFUSED
from vdi.session.status import is_running
from vdi.session.users import normal_user

ROUND_SECONDS, ANSWER_SECONDS, SEEN_SECONDS, OLD_SECONDS = 2.0, 10.0, 30.0, 3600.0
MAX_PIECE, MAX_RECORDING = 5 << 20, 8 << 30
# Pieces of one desktop in a round, and of all desktops at a time: those are in memory.
MAX_PIECES, MAX_FETCHES = 8, 8
# A recording that has not grown for so long has ended. Before, no one can watch it: that would be
# to look over a shoulder.
ENDED_AFTER = timedelta(minutes=1)
_DELETE_BATCH = 100


class _Piece(msgspec.Struct, frozen=True):
    """Headers of a piece: number of the recording, place of the piece in it, seconds of the
    recording so far.
    """

    recording: Annotated[int, msgspec.Meta(ge=0, lt=10**13)]
    offset: Annotated[int, msgspec.Meta(ge=0, le=MAX_RECORDING)]
    seconds: Annotated[float, msgspec.Meta(ge=0, le=1e7)]


class Recordings(Component):
    """Recordings in the storage `VDI_RECORDINGS`; without it none is fetched, and no one sees a
    desktop that needs one.
    """

    def __init__(self, context: GatewayContext, agent: DesktopAgent, audit: Audit) -> None:
        self._context, self._agent, self._audit = context, agent, audit
        self._store = RecordingStore(context.database)
        self._storage: RecordingFolder | RecordingBucket | None = None
        if place := context.settings.recordings:
            is_bucket = place.startswith("s3://")
            if is_bucket:
                self._storage = RecordingBucket(place)
            else:
                self._storage = RecordingFolder(Path(place))
        self._limits = RecordingLimits(context=context, store=self._store, storage=self._storage)
        self._fetches = asyncio.Semaphore(MAX_FETCHES)
        self._open = OpenRecordings()
        # By session uid: why the last piece of its recording could not be stored.
        self._troubles: dict[str, str] = {}
        # By session uid: the recording, and how much of it is stored.
        self._stored: dict[str, tuple[int, int]] = {}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(repeat("old recordings", OLD_SECONDS, self.delete_expired))
            tasks.create_task(
                poll_agents("the recording", self._recorded, self.fetch, ROUND_SECONDS)
            )

    async def external_problems(self) -> Sequence[str]:
        """One line while the recording of a desktop that still runs cannot be stored."""
        recorded = {session.metadata.uid for session in self._recorded()}
        for uid in self._troubles.keys() - recorded:
            del self._troubles[uid]
        trouble = next(iter(self._troubles.values()), "")
        return [f"recordings: {trouble}"] if trouble else []

    def _recorded(self) -> list[VDISession]:
        sessions = self._context.cluster.sessions.values()
        return [session for session in sessions if session.status.recording and is_running(session)]

    async def fetch(self, session: VDISession) -> None:
        """Store what the desktop has recorded since the last time. Raises what `poll_agents`
        allows.
        """
        uid, shared = session.metadata.uid, self._context.shared
        if not await shared.take_once(f"recording/{uid}", ROUND_SECONDS / 2):
            return  # another replica is at it
        if await shared.take_once(f"recording-seen/{uid}", SEEN_SECONDS):
            await self._store.see_run(uid, run_start(session), self._context.clock())
        if reason := await self._limits.refuse(session):
            if reason in (NO_STORAGE, FULL):
                self._troubles[uid] = reason
            await self._mark(session, reason)
            raise ValueError(reason)
        try:
            await self._fetch_pieces(session)
        except Exception:  # for whatever reason nothing is stored
            if silence := await self._limits.find_silence(session, responds=False):
                await self._mark(session, silence)
            raise
        self._troubles.pop(uid, None)
        await self._mark(session, await self._limits.find_silence(session, responds=True))

    async def _fetch_pieces(self, session: VDISession) -> None:
        for _ in range(MAX_PIECES):
            async with self._fetches:
                if not await self._fetch_piece(session):
                    await self._limits.end_round(session)
                    break

    async def _mark(self, session: VDISession, why: str) -> None:
        """Note for all replicas why the recording is not stored, or that it is. Raises
        ActionDenied.
        """
        meta = session.metadata
        if meta.annotations.get(RECORDING_REFUSED, "") == why:
            return
        patch = {"metadata": {"uid": meta.uid, "annotations": {RECORDING_REFUSED: why or None}}}
        client = self._context.client
        try:
            changed = await client.patch(
                SESSIONS, meta.name, patch, namespace=meta.namespace, into=VDISession
            )
        except KubeError as error:
            raise refused_by_cluster(error, meta.name) from error
        self._context.cluster.sessions.remember(changed)
        if why:
            await self._audit.record(act_on(session, "limits", "recording.refuse", {"reason": why}))

    async def _fetch_piece(self, session: VDISession) -> bool:
        """Whether there was one, with something new."""
        piece, content = await self._ask_for_piece(session)
        if piece is None:
            return False
        uid = session.metadata.uid
        name = _name(uid, piece)
        known = await self._store.get(name)
        before = known.size_bytes if known else 0
        size = await self._store_piece(uid, piece, before, content)
        await self._limits.spend(session, size - before, is_new=known is None)
        longest = await self._limits.longest(session, known.seconds if known else 0.0)
        seconds = min(piece.seconds, longest)
        await self._store.save(self._row(session, name, seconds, size))
        # Only now: what is acknowledged with the next request, the desktop deletes.
        self._stored[uid] = piece.recording, size
        return size > before

    async def _ask_for_piece(self, session: VDISession) -> tuple[_Piece | None, bytes]:
        """The next piece of the desktop's recording, which is untrusted; None: there is none now."""
        number, stored = self._stored.get(session.metadata.uid, (0, 0))
        address = f"/recording?{number}&{stored}"
        answer = await self._agent.ask(
            session, "GET", address, seconds=ANSWER_SECONDS, max_bytes=MAX_PIECE
        )
        if answer.status != HTTPStatus.OK:
            raise ValueError(f"its agent responds with {answer.status}")
        if not answer.body:
            return None, b""
        headers = {name.removeprefix("x-vdi-"): value for name, value in answer.headers.items()}
        return msgspec.convert(headers, _Piece, strict=False), answer.body

    async def _store_piece(self, uid: str, piece: _Piece, before: int, content: bytes) -> int:
        """Append what is new of a piece; the recording's size. `before`: its size until now."""
        # Never into what is stored: a program in the agent's place could change the recording of
        # what its user did before.
        start = max(before, piece.offset)
        rest = content[start - piece.offset :]
        if not rest or self._storage is None:
            return start
        try:
            return await self._storage.put(_name(uid, piece), start, rest)
        except OSError as error:
            self._troubles[uid] = reason_of(error)
            raise

    def _row(self, session: VDISession, name: str, seconds: float, size: int) -> Recording:
        now = self._context.clock()
        template = self._context.cluster.template(session.spec.template)
        policy = (template.spec.recording if template else None) or TemplateRecording()
        return Recording(
            id=name,
            uid=session.metadata.uid,
            name=session.metadata.name,
            owner=normal_user(session.spec.user),
            template=session.spec.template,
            run=run_start(session),
            run_seen=now,
            started=now,
            ended=now,
            seconds=seconds,
            size_bytes=size,
            keep_until=now + parse_duration(policy.retention),
            owner_may_watch=policy.owner_may_watch,
        )

    async def switch(self, user: User, session: VDISession, *, wanted: bool) -> None:
        """Start or end a recording on demand. Raises ActionDenied."""
        if refused := refusal(user, Action.RECORD, session, self._context.clock()):
            raise ActionDenied(*refused)
        act = act_on(
            session, user.email, "session.record", {"recording": "on" if wanted else "off"}
        )
        async with self._audit.act(act, closed=False):
            sent = {"on": wanted}
            answer = await self._agent.ask(
                session, "POST", "/recording", json=sent, seconds=ANSWER_SECONDS, max_bytes=4096
            )
            if answer.status != HTTPStatus.OK:
                raise ActionDenied(
                    "Conflict", f"The desktop {act.target!r} is not recorded on demand."
                )

    async def newest(
        self, user: User, limit: int, before: tuple[datetime, str] | None
    ) -> list[WatchedRecording]:
        """Recordings that the user may watch, newest first."""
        return await self._store.newest(limit, None if user.may_audit else user.email, before)

    async def find(self, user: User, name: str) -> Recording:
        """A recording that the user may watch now. Raises ActionDenied."""
        if user.may_audit:
            recording = await self._store.get(name)
        else:
            recording = await self._store.get_own(name, user.email)
        if recording is None:
            raise ActionDenied("NotFound", f"There is no recording {name!r} that you may watch.")
        if self._context.clock() - recording.ended < ENDED_AFTER:
            raise ActionDenied(
                "Conflict",
                "This recording is still being made. It can be watched a minute after its end.",
            )
        return recording

    async def watch(
        self, user: User, name: str, ranges: str = "", until_read: AsyncExitStack | None = None
    ) -> Response:
        """A recording, or the range of it; the audit has one row for each view. Raises
        ActionDenied.

        `until_read`: closed when the browser has read it; until then the recording counts as open.
        """
        recording = await self.find(user, name)
        if until_read:
            until_read.enter_context(self._open.enter(user.email))
        try:
            if self._storage is None:
                raise FileNotFoundError
            response = await self._storage.play(recording.id, ranges)
        except FileNotFoundError:
            raise ActionDenied(
                "NotFound", f"Recording {name!r} is no longer in the storage."
            ) from None
        except OSError as error:
            raise ActionDenied(
                "Unavailable", "The storage of recordings does not respond."
            ) from error
        now = self._context.clock()
        act = _act(recording, user.email, "view")
        # One row an hour: a player sends a request for each place that is sought.
        key = sha256(f"{recording.id} {user.email} {now:%Y-%m-%d %H}".encode()).hexdigest()[:32]
        await self._audit.add_events({key: (act, now)})
        return response

    async def delete_expired(self) -> None:
        """Delete recordings past their retention. Raises DatabaseUnavailableError, OSError."""
        # Sessions that are gone are among them; a desktop knows by itself where to go on.
        self._stored.clear()
        while self._storage and (
            expired := await self._store.expired(self._context.clock(), _DELETE_BATCH)
        ):
            for recording in expired:
                await self._storage.delete(recording.id)
                await self._store.drop(recording.id)
                await self._audit.record(_act(recording, "retention", "delete"))


def _name(uid: str, piece: _Piece) -> str:
    return f"{uid}-{piece.recording}"


def _act(recording: Recording, actor: str, verb: str) -> Act:
    return Act(
        actor=actor,
        action=f"recording.{verb}",
        target=recording.name,
        uid=recording.uid,
        owner=recording.owner,
        detail={"recording": recording.id},
    )
