"""`--wait` of `session create` and `session resume`: stay until the desktop answers or cannot."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

from vdi.api.session import VDISession
from vdi.cli.errors import CliError
from vdi.cli.options import PROGRAM
from vdi.cli.output import Raw, duration
from vdi.cli.progress import ProgressView
from vdi.cli.session.backend import Backend, Target
from vdi.cli.session.operations import FIND_OPERATOR, as_session
from vdi.cli.session.stages import Outcome, Start
from vdi.cli.url_check import wait_until_ready
from vdi.session.naming import pod_name
from vdi.session.request import SessionRequest

_ROUTE_SECONDS = 30.0
"""How long a Running session's URL may take to answer: Traefik's own throttle is 2 s."""

"""It may run in another namespace than the sessions."""
NO_OPERATOR = f"no operator has processed the session yet; is one running? {FIND_OPERATOR}"


async def start_and_wait(
    backend: Backend,
    request: SessionRequest,
    target: Target,
    *,
    seconds: float,
    view: ProgressView,
    clock: Callable[[], float] = time.monotonic,
) -> Raw:
    """Create a session and show its start; returns it running. Raises CliError when it does not start."""
    begun = clock()
    session = as_session(await backend.create(request))
    view.say(f"session {session.metadata.name} created {backend.where}")
    return await wait_until_running(backend, session, target, seconds=seconds, view=view, clock=clock, begun=begun)


async def wait_until_running(
    backend: Backend,
    session: VDISession,
    target: Target,
    *,
    seconds: float,
    view: ProgressView,
    clock: Callable[[], float] = time.monotonic,
    begun: float | None = None,
) -> Raw:
    """Show the start of a session that has just been made or resumed; returns it running.

    Raises CliError when it does not start. Interrupted, it leaves the session as it is and says so.
    """
    start = Start(clock() if begun is None else begun)
    name = session.metadata.name
    what_now = (
        f"Follow progress:    {PROGRAM} session show {name}{target.flags}\n"
        f"Remove it:          {PROGRAM} session rm {name}{target.flags}"
    )
    try:
        last = await watch_start(backend, session, start=start, seconds=seconds, view=view, clock=clock)
        if start.outcome is not Outcome.RUNNING or last is None:
            raise CliError(f"{failure_message(start, name, seconds)}\n{what_now}")
        if not await watch_url(last.status.url, start=start, view=view, clock=clock):
            raise CliError(f"session {name} is Running, but its URL does not lead to it\n{what_now}")
    except asyncio.CancelledError:
        view.say(f"No longer waiting; session {name} is unchanged.\n{what_now}")
        raise
    view.say(f"Running after {start.total(clock()):.1f}s. Open it: {PROGRAM} session open {name}{target.flags}")
    return await backend.get(name)


async def watch_start(
    backend: Backend,
    session: VDISession,
    *,
    start: Start,
    seconds: float,
    view: ProgressView,
    clock: Callable[[], float] = time.monotonic,
) -> VDISession | None:
    """Watch a new session until it runs, fails or is gone, or until `seconds` are over (no `start.outcome` then).

    Returns the session as it was last seen.
    """
    meta = session.metadata
    last: VDISession | None = session
    try:
        async with asyncio.timeout(seconds), AsyncExitStack() as stack:
            sessions = await stack.enter_async_context(backend.watch(meta.name))
            pods = await stack.enter_async_context(backend.watch_pod(session, sessions.wake))
            while True:
                last = sessions.store.get(meta.namespace, meta.name)
                pod = pods.store.get(meta.namespace, pod_name(meta.name)) if pods else None
                for stage in start.observe(last, clock(), pod):
                    view.passed(stage)
                view.waiting(start.reason if start.passed else "waiting for the operator")
                if start.outcome is not None:
                    return last
                await sessions.change()
    except TimeoutError:
        return last


async def watch_url(url: str, *, start: Start, view: ProgressView, clock: Callable[[], float] = time.monotonic) -> bool:
    """Poll the URL until it answers. False when a proxy answers instead of the desktop; an unreachable host is True."""
    view.waiting(f"asking {url}")
    answer = await wait_until_ready(url, _ROUTE_SECONDS)
    view.passed(start.answered(f"{url} {answer.text}", clock()), well=answer.ready)
    return answer.ready or not answer.reached


def failure_message(start: Start, name: str, seconds: float) -> str:
    """The sentence for a start that did not end with a running desktop."""
    match start.outcome:
        case Outcome.FAILED:
            return f"session {name} does not start: {start.reason}"
        case Outcome.GONE:
            return f"session {name} was deleted: {start.reason}"
        case _:
            reason = start.reason if start.passed else NO_OPERATOR
            return f"session {name} is not Running after {duration(seconds)}: {reason}"
