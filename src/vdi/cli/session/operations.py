"""What the session commands do, one function each, on any backend. They return values and print nothing."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from vdi.api.session import Phase, VDISession
from vdi.api.template import VDITemplate
from vdi.cli.errors import USAGE, CliError
from vdi.cli.output import Raw, duration, parse_time
from vdi.cli.session.backend import Backend, Opening
from vdi.cli.session.view import phase
from vdi.cluster.units import format_duration, parse_duration
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.homes import may_use, own_claim, retained_claim
from vdi.session.lifetime import run_length

FIND_OPERATOR = (
    "kubectl get deployments --all-namespaces"
    " --selector app.kubernetes.io/name=vdi,app.kubernetes.io/component=operator"
)

# The operator's settings are unknown here. The operator applies its own maximum, and the gateway refuses more.
_SETTINGS = ClusterSettings()


@dataclass(frozen=True, slots=True)
class Removal:
    """A session to remove, and the home that would be deleted with it (None: no files are lost)."""

    session: VDISession
    claim_to_delete: str | None
    home_lost: str | None


def as_session(raw: Raw) -> VDISession:
    """The session in what the API server or the gateway sent."""

    return msgspec.convert(raw, VDISession)


async def get_session(backend: Backend, name: str) -> VDISession:
    """The session as a struct."""
    return as_session(await backend.get(name))


async def running_session(backend: Backend, name: str) -> VDISession:
    """A session whose desktop can be opened. Raises CliError with the reason when it does not run."""
    session = await get_session(backend, name)
    if session.status.phase != Phase.RUNNING or not session.status.url:
        why = session.status.message or "its status does not contain a reason"
        raise CliError(f"session {name} is {phase(session)}, so there is nothing to open: {why}")
    return session


async def open_running(backend: Backend, name: str) -> Opening:
    """How to open a running desktop. Raises CliError with the reason when it does not run."""
    return await backend.opening(await running_session(backend, name))


async def plan_removals(backend: Backend, names: Sequence[str], *, delete_home: bool) -> list[Removal | CliError]:
    """What `rm` would do to each, before anything is done: a removal, or why not."""
    return list(await asyncio.gather(*(_plan(backend, name, delete_home) for name in names)))


async def _plan(backend: Backend, name: str, delete_home: bool) -> Removal | CliError:
    try:
        session = await get_session(backend, name)
        claim = retained_claim(session)
        if claim is None:
            return Removal(session, None, own_claim(session))  # owned by the session: garbage collection deletes it
        if not delete_home:
            return Removal(session, None, None)
        await _refuse_shared_home(backend, session, claim)
        if not await backend.has_home(session, claim):
            return Removal(session, None, None)
    except CliError as failure:
        return failure
    return Removal(session, claim, claim)


async def _refuse_shared_home(backend: Backend, session: VDISession, claim: str) -> None:
    mine, namespace = session.metadata.name, session.metadata.namespace
    for raw in await backend.list(session.spec.user, everywhere=False):
        other = as_session(raw)
        # Through a gateway there are several namespaces, and a claim of the same name in another one is another home.
        if other.metadata.namespace == namespace and other.metadata.name != mine and may_use(other, claim):
            raise CliError(
                f"session {mine} shares its home with session {other.metadata.name}, so neither the home nor {mine} "
                f"was deleted: remove {other.metadata.name} first, or omit --delete-home"
            )


async def until_gone(backend: Backend, session: VDISession, seconds: float) -> bool:
    """Wait until the session with this UID is gone; False when it still exists after `seconds`."""
    meta = session.metadata
    try:
        async with asyncio.timeout(seconds), backend.watch(meta.name) as sessions:
            while (there := sessions.store.get(meta.namespace, meta.name)) and there.metadata.uid == meta.uid:
                await sessions.change()
    except TimeoutError:
        return False
    return True


async def log_lines(backend: Backend, name: str, *, follow: bool, tail: int | None) -> AsyncIterator[str]:
    """The desktop's log. Raises CliError with the reason when there is no log yet."""
    session = await get_session(backend, name)
    async for line in backend.log_lines(session, follow=follow, tail=tail):
        yield line


@dataclass(frozen=True, slots=True)
class Extension:
    """The result of `extend`."""

    raw: Raw
    # Of the whole run, as the template allows it.
    length: timedelta
    # None when the session is not running: the length counts for the next run.
    ends: datetime | None
    # Whether more was requested than the template allows.
    capped: bool


async def set_suspended(backend: Backend, name: str, suspended: bool) -> tuple[Raw, bool]:
    """Suspend or resume. Returns the session, and whether this changed it."""
    raw = await backend.get(name)
    session = as_session(raw)
    if session.spec.suspended is suspended:
        return raw, False
    return await backend.set_suspended(session, suspended), True


async def until_suspended(backend: Backend, session: VDISession, seconds: float) -> bool:
    """Wait until the operator has suspended it; False when it has not after `seconds`, or the session is gone."""
    meta = session.metadata
    try:
        async with asyncio.timeout(seconds), backend.watch(meta.name) as sessions:
            while there := sessions.store.get(meta.namespace, meta.name):
                status = there.status
                if status.phase == Phase.SUSPENDED and status.observed_generation >= meta.generation:
                    return True
                await sessions.change()
    except TimeoutError:
        pass
    return False


async def restart(backend: Backend, name: str, now: datetime) -> Raw:
    """Request a new desktop on the same home; the time of the run continues."""
    session = await get_session(backend, name)
    if session.spec.suspended:
        raise CliError(f"session {name} is suspended, so there is no desktop to restart: resume it")
    return await backend.restart(session, now)


async def extend(backend: Backend, name: str, *, by: str | None, to: str | None, now: datetime) -> Extension:
    """Make the run longer `by` a length, or set its whole length `to` one; exactly one of the two is given."""
    session = await get_session(backend, name)
    found = await backend.template(session.spec.template)
    # Without it its cap is not known here, but the operator applies it.
    template = msgspec.convert(found, VDITemplate) if found else None
    before = run_length(session, template, _SETTINGS)
    if before is None:
        raise CliError(f"session {name} has spec.timeout {session.spec.timeout!r}, which is not a duration")
    requested = before + _length("--by", by) if by else _length("--timeout", to or "")
    _refuse_a_sudden_end(session, requested, now)
    session.spec.timeout = format_duration(requested)
    allowed = run_length(session, template, _SETTINGS) or requested
    if by and allowed <= before:
        raise CliError(
            f"a run of template {session.spec.template} may last at most {format_duration(allowed)} "
            f"(spec.lifecycle.maxTimeout), which session {name} already has"
        )
    raw = await backend.set_timeout(session, session.spec.timeout)
    start = parse_time(session.status.start_time)
    return Extension(raw, allowed, start + allowed if start else None, capped=allowed < requested)


def _refuse_a_sudden_end(session: VDISession, length: timedelta, now: datetime) -> None:
    start = parse_time(session.status.start_time)
    if start and start + length <= now:
        ran = duration((now - start).total_seconds())
        raise CliError(
            f"session {session.metadata.name} has run for {ran}, so a run of {format_duration(length)} would end "
            "immediately; to end it, suspend or remove it",
            USAGE,
        )


def _length(option: str, text: str) -> timedelta:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise CliError(f"{option}: {error}", USAGE) from error
