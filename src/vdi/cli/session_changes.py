"""What suspend, resume, restart and extend ask, whichever way. Objects and values out, nothing printed."""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.cli.failures import USAGE, CommandFailedError
from vdi.cli.output import Raw, duration, parse_time
from vdi.cli.session_requests import as_session, get_session
from vdi.cli.session_way import Way
from vdi.session.conditions import Phase
from vdi.session.lifetime import run_length
from vdi.session.policy import Policy
from vdi.session.units import format_duration, parse_duration

_POLICY = Policy()
"""The operator's settings are not known here. The operator applies its own maximum, and the gateway refuses more."""


@dataclass(frozen=True, slots=True)
class Extension:
    """What came of `extend`."""

    raw: Raw
    length: timedelta
    """Of the whole run, as the template allows it."""
    ends: datetime | None
    """None where no run has begun: the length counts for the next one."""
    capped: bool
    """Whether more was asked for than the template allows."""


async def set_suspended(way: Way, name: str, suspended: bool) -> tuple[Raw, bool]:
    """Suspend or resume; the session as it is then, and whether that has changed anything."""
    raw = await way.get(name)
    session = as_session(raw)
    if session.spec.suspended is suspended:
        return raw, False
    return await way.set_suspended(session, suspended), True


async def until_suspended(way: Way, session: VDISession, seconds: float) -> bool:
    """Wait until the operator has suspended it; False when it has not after `seconds`, or the session is gone."""
    meta = session.metadata
    try:
        async with asyncio.timeout(seconds), way.follow(meta.name) as sessions:
            while there := sessions.store.get(meta.namespace, meta.name):
                status = there.status
                if status.phase == Phase.SUSPENDED and status.observed_generation >= meta.generation:
                    return True
                await sessions.change()
    except TimeoutError:
        pass
    return False


async def restart(way: Way, name: str, now: datetime) -> Raw:
    """Ask for a new desktop on the same home; the clock of the run goes on."""
    session = await get_session(way, name)
    if session.spec.suspended:
        raise CommandFailedError(f"session {name} is suspended, so there is no desktop to restart: resume it")
    return await way.restart(session, now)


async def extend(way: Way, name: str, *, by: str | None, to: str | None, now: datetime) -> Extension:
    """Make the run longer `by` a length, or set its whole length `to` one; exactly one of the two is given."""
    session = await get_session(way, name)
    found = await way.template(session.spec.template)
    # Without it its cap is not known here, but the operator applies it.
    template = msgspec.convert(found, VDITemplate) if found else None
    before = run_length(session, template, _POLICY)
    if before is None:
        raise CommandFailedError(f"session {name} has spec.timeout {session.spec.timeout!r}, which is no length")
    wanted = before + _length("--by", by) if by else _length("--timeout", to or "")
    _refuse_a_sudden_end(session, wanted, now)
    session.spec.timeout = format_duration(wanted)
    allowed = run_length(session, template, _POLICY) or wanted
    if by and allowed <= before:
        raise CommandFailedError(
            f"a run of template {session.spec.template} may last {format_duration(allowed)} at most"
            f" (spec.lifecycle.maxTimeout), and session {name} has that already"
        )
    raw = await way.set_timeout(session, session.spec.timeout)
    start = parse_time(session.status.start_time)
    return Extension(raw, allowed, start + allowed if start else None, capped=allowed < wanted)


def _refuse_a_sudden_end(session: VDISession, length: timedelta, now: datetime) -> None:
    start = parse_time(session.status.start_time)
    if start and start + length <= now:
        ran = duration((now - start).total_seconds())
        raise CommandFailedError(
            f"session {session.metadata.name} has run for {ran}, so a run of {format_duration(length)} would end at"
            " once; to end it, suspend or remove it",
            USAGE,
        )


def _length(option: str, text: str) -> timedelta:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise CommandFailedError(f"{option}: {error}", USAGE) from error
