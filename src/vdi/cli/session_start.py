"""`--wait` of `session create` and `session resume`: stay until the desktop answers or cannot."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

from vdi.api.session import VDISession
from vdi.cli.failures import CommandFailedError
from vdi.cli.live import StartView
from vdi.cli.options import PROGRAM
from vdi.cli.output import Raw, duration
from vdi.cli.route import until_ready
from vdi.cli.session_requests import as_session
from vdi.cli.session_way import Place, Way
from vdi.cli.stages import Outcome, Start
from vdi.session.naming import pod_name
from vdi.session.wish import Wish

_ROUTE_SECONDS = 30.0
"""How long a Running session's URL may take to answer: Traefik's own throttle is 2 s."""

NOBODY = "no operator has taken the session up yet; is it running? kubectl -n kasm get deployment vdi-operator"


async def start_and_wait(
    way: Way,
    wish: Wish,
    place: Place,
    *,
    seconds: float,
    view: StartView,
    clock: Callable[[], float] = time.monotonic,
) -> Raw:
    """Create a session and show its start; returns it running. Raises CommandFailedError when it does not start."""
    begun = clock()
    session = as_session(await way.create(wish))
    view.say(f"session {session.metadata.name} created {way.where}")
    return await wait_until_running(way, session, place, seconds=seconds, view=view, clock=clock, begun=begun)


async def wait_until_running(
    way: Way,
    session: VDISession,
    place: Place,
    *,
    seconds: float,
    view: StartView,
    clock: Callable[[], float] = time.monotonic,
    begun: float | None = None,
) -> Raw:
    """Show the start of a session that has just been made or resumed; returns it running.

    Raises CommandFailedError when it does not start. Interrupted, it leaves the session as it is and says so.
    """
    start = Start(clock() if begun is None else begun)
    name = session.metadata.name
    what_now = (
        f"See how it goes on: {PROGRAM} session show {name}{place.flags}\n"
        f"Remove it:          {PROGRAM} session rm {name}{place.flags}"
    )
    try:
        last = await watch_start(way, session, start=start, seconds=seconds, view=view, clock=clock)
        if start.outcome is not Outcome.RUNNING or last is None:
            raise CommandFailedError(f"{ended_badly(start, name, seconds)}\n{what_now}")
        if not await watch_url(last.status.url, start=start, view=view, clock=clock):
            raise CommandFailedError(f"session {name} is Running, but its URL does not lead to it\n{what_now}")
    except asyncio.CancelledError:
        view.say(f"Not waiting any longer; session {name} is left as it is.\n{what_now}")
        raise
    view.say(f"Running after {start.total(clock()):.1f}s. Open it: {PROGRAM} session open {name}{place.flags}")
    return await way.get(name)


async def watch_start(
    way: Way,
    session: VDISession,
    *,
    start: Start,
    seconds: float,
    view: StartView,
    clock: Callable[[], float] = time.monotonic,
) -> VDISession | None:
    """Follow a new session until it runs, fails or is gone, or until `seconds` are over (no `start.outcome` then).

    Returns the session as it was last seen.
    """
    meta = session.metadata
    last: VDISession | None = session
    try:
        async with asyncio.timeout(seconds), AsyncExitStack() as stack:
            sessions = await stack.enter_async_context(way.follow(meta.name))
            pods = await stack.enter_async_context(way.pods_of(session, sessions.wake))
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


async def watch_url(url: str, *, start: Start, view: StartView, clock: Callable[[], float] = time.monotonic) -> bool:
    """Ask the URL until it answers. False when a proxy answers in the desktop's place; an unreachable host is said."""
    view.waiting(f"asking {url}")
    answer = await until_ready(url, _ROUTE_SECONDS)
    view.passed(start.answered(f"{url} {answer.text}", clock()), well=answer.ready)
    return answer.ready or not answer.reached


def ended_badly(start: Start, name: str, seconds: float) -> str:
    """The sentence for a start that did not end with a running desktop."""
    match start.outcome:
        case Outcome.FAILED:
            return f"session {name} does not start: {start.reason}"
        case Outcome.GONE:
            return f"session {name} is gone: {start.reason}"
        case _:
            return (
                f"session {name} is not Running after {duration(seconds)}: {start.reason if start.passed else NOBODY}"
            )
