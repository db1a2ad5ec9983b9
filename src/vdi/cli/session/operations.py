"""Steps that several session commands share, on any backend. They return values and print
nothing.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import msgspec

from vdi.api.session import Phase, VDISession
from vdi.api.template import VDITemplate
from vdi.cli.errors import CliError
from vdi.cli.output import Raw
from vdi.cli.session.backend import Backend
from vdi.cli.session.view import phase
from vdi.session.actions import Extend, Refusal, Resume, Suspend, find_home_to_delete, lengthen
from vdi.session.homes import own_claim

# The operator may run in another namespace than the sessions.
FIND_OPERATOR = (
    "kubectl get deployments --all-namespaces"
    " --selector app.kubernetes.io/name=vdi,app.kubernetes.io/component=operator"
)


@dataclass(frozen=True, slots=True)
class Removal:
    """A session to remove, and the home that is deleted with it."""

    session: VDISession
    claim_to_delete: str | None  # by us, after the session
    # The same, or a claim of the session's own, which garbage collection deletes.
    home_lost: str | None


def as_session(raw: Raw) -> VDISession:
    """The session in what the API server or the gateway sent."""
    return msgspec.convert(raw, VDISession)


async def get_session(backend: Backend, name: str) -> VDISession:
    return as_session(await backend.get(name))


async def get_template(backend: Backend, name: str) -> Raw:
    """The template; one that is missing is an error that says which there are."""
    found = await backend.template(name)
    if found is None:
        known = ", ".join(str(raw["metadata"]["name"]) for raw in await backend.templates())
        raise CliError(f"there is no template {name}; {backend.offers}: {known or 'none'}")
    return found


async def running_session(backend: Backend, name: str) -> VDISession:
    """A session whose desktop can be opened. Raises CliError with the reason when it does not
    run.
    """
    session = await get_session(backend, name)
    if session.status.phase != Phase.RUNNING or not session.status.url:
        why = session.status.message or "its status does not contain a reason"
        raise CliError(f"session {name} is {phase(session)}, so there is nothing to open: {why}")
    return session


async def plan_removals(
    backend: Backend, names: Sequence[str], *, delete_home: bool
) -> list[Removal | CliError]:
    """The plan of `rm` for each name, before anything is done: a removal, or the reason why not."""
    return list(await asyncio.gather(*(_plan(backend, name, delete_home) for name in names)))


async def _plan(backend: Backend, name: str, delete_home: bool) -> Removal | CliError:
    try:
        session = await get_session(backend, name)
        if not delete_home:
            return Removal(session, None, own_claim(session))
        others = await backend.list(session.spec.user, everywhere=False)
    except CliError as failure:
        return failure
    claim = find_home_to_delete(session, map(as_session, others))
    if isinstance(claim, Refusal):
        return CliError(claim.message)
    return Removal(session, claim, claim or own_claim(session))


async def until_gone(backend: Backend, session: VDISession, seconds: float) -> bool:
    """Wait until the session with this UID is gone; False when it still exists after `seconds`."""
    meta = session.metadata
    try:
        async with asyncio.timeout(seconds), backend.watch(meta.name) as sessions:
            while (
                there := sessions.store.get(meta.namespace, meta.name)
            ) and there.metadata.uid == meta.uid:
                await sessions.change()
    except TimeoutError:
        return False
    return True


async def set_suspended(backend: Backend, name: str, suspended: bool) -> tuple[Raw, bool]:
    """Suspend or resume. Returns the session, and whether this changed it."""
    raw = await backend.get(name)
    session = as_session(raw)
    if session.spec.suspended is suspended:
        return raw, False
    return await backend.act(session, Suspend() if suspended else Resume()), True


async def until_suspended(backend: Backend, session: VDISession, seconds: float) -> bool:
    """Wait until the operator has suspended it; False when it has not after `seconds`, or the
    session is gone.
    """
    meta = session.metadata
    try:
        async with asyncio.timeout(seconds), backend.watch(meta.name) as sessions:
            while there := sessions.store.get(meta.namespace, meta.name):
                # An older status may be of the suspension before this one.
                if (
                    there.status.phase == Phase.SUSPENDED
                    and there.status.observed_generation >= meta.generation
                ):
                    return True
                await sessions.change()
    except TimeoutError:
        pass
    return False


async def extend(backend: Backend, name: str, *, by: timedelta | None, to: str) -> Raw:
    """Make the run longer `by` this much, or set its whole length `to` this."""
    session = await get_session(backend, name)
    if by:
        # Where the template may not be read, its maximum is unknown here; the operator and the
        # gateway know it.
        found = await backend.template(session.spec.template)
        to = lengthen(session, msgspec.convert(found, VDITemplate) if found else None, by)
    return await backend.act(session, Extend(to))
