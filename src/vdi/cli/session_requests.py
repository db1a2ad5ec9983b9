"""What the session commands ask, one function for each, whichever way. Objects and values out, nothing printed."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import msgspec

from vdi.api.session import VDISession
from vdi.cli.failures import CommandFailedError
from vdi.cli.output import Raw
from vdi.cli.session_view import phase
from vdi.cli.session_way import Opening, Way
from vdi.session.conditions import Phase
from vdi.session.naming import home_claim_name


@dataclass(frozen=True, slots=True)
class Removal:
    """One session that is to be removed, and the home that would go with it (None: no files are lost)."""

    session: VDISession
    claim_to_delete: str | None
    home_lost: str | None


def as_session(raw: Raw) -> VDISession:
    """The session in what the API server or the gateway sent."""
    return msgspec.convert(raw, VDISession)


async def get_session(way: Way, name: str) -> VDISession:
    """The session as a struct."""
    return as_session(await way.get(name))


async def open_running(way: Way, name: str) -> Opening:
    """How a running desktop is opened; for one that does not run, why."""
    session = await get_session(way, name)
    if session.status.phase != Phase.RUNNING or not session.status.url:
        why = session.status.message or "its status does not say why"
        raise CommandFailedError(f"session {name} is {phase(session)}, so there is nothing to open: {why}")
    return await way.opening(session)


async def plan_removals(way: Way, names: Sequence[str], *, delete_home: bool) -> list[Removal | CommandFailedError]:
    """What `rm` would do to each, before anything is done: a removal, or why not."""
    return list(await asyncio.gather(*(_plan(way, name, delete_home) for name in names)))


async def _plan(way: Way, name: str, delete_home: bool) -> Removal | CommandFailedError:
    try:
        session = await get_session(way, name)
        wish = session.spec.persistence
        if wish and wish.enabled is False:
            return Removal(session, None, None)
        retained = wish is None or wish.retain
        claim = home_claim_name(
            session_name=name, user=session.spec.user, template=session.spec.template, retain=retained
        )
        if not retained:
            return Removal(session, None, claim)  # the session's own child: garbage collection takes it
        if not delete_home:
            return Removal(session, None, None)
        await _refuse_shared_home(way, session)
        if not await way.has_home(session, claim):
            return Removal(session, None, None)
    except CommandFailedError as failure:
        return failure
    return Removal(session, claim, claim)


async def _refuse_shared_home(way: Way, session: VDISession) -> None:
    mine = session.metadata.name
    for raw in await way.list(session.spec.user, everywhere=False):
        other = as_session(raw)
        if other.spec.template == session.spec.template and other.metadata.name != mine:
            raise CommandFailedError(
                f"session {mine} shares its home with session {other.metadata.name}, so the home is not deleted and"
                f" {mine} neither: remove {other.metadata.name} first, or leave out --delete-home"
            )


async def until_gone(way: Way, session: VDISession, seconds: float) -> bool:
    """Wait until this incarnation of the session is gone; False when it is still there after `seconds`."""
    meta = session.metadata
    try:
        async with asyncio.timeout(seconds), way.follow(meta.name) as sessions:
            while (there := sessions.store.get(meta.namespace, meta.name)) and there.metadata.uid == meta.uid:
                await sessions.change()
    except TimeoutError:
        return False
    return True


async def log_lines(way: Way, name: str, *, follow: bool, tail: int | None) -> AsyncIterator[str]:
    """The desktop's log; when it has none yet, why."""
    session = await get_session(way, name)
    async for line in way.log_lines(session, follow=follow, tail=tail):
        yield line
