"""`--wait` and `--watch` of the session commands: follow sessions until they run, cannot run, or
Ctrl-C.

The last step of a start is a check that its URL answers from this machine, without credentials.
Imported by the commands only when one of the two options is given: rich and the HTTP client take
long to import.
"""

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass

from rich.live import Live
from rich.text import Text

from vdi.api.session import VDISession
from vdi.cli.console import SafeConsole
from vdi.cli.errors import CliError
from vdi.cli.options import PROGRAM
from vdi.cli.output import Raw, duration, now_utc
from vdi.cli.progress import ProgressView
from vdi.cli.session.backend import Backend, Target
from vdi.cli.session.kube_backend import watch_pod
from vdi.cli.session.operations import FIND_OPERATOR, as_session
from vdi.cli.session.stages import Outcome, Start
from vdi.cli.session.view import session_table, watch_line
from vdi.http_client import (
    CONNECT_ERRORS,
    HTTP_ERRORS,
    HttpClient,
    open_client,
    reason_of,
    unverified,
)
from vdi.session.naming import pod_name
from vdi.session.request import SessionRequest

_ROUTE_SECONDS = (
    30.0  # in which a Running session's URL has to answer: Traefik's own throttle is 2 s
)
_POLL_SECONDS = 0.2
_UNREACHABLE_AFTER_SECONDS = 3.0
_ONE_REQUEST_SECONDS = 5.0


async def watch_list(backend: Backend, *, user: str | None, wide: bool, everywhere: bool) -> None:
    """Show the visible sessions, of one user or of all, and follow them until interrupted.

    On a terminal the table is redrawn; elsewhere each change is a line.
    """
    console = SafeConsole(highlight=False)
    async with backend.watch(everywhere=everywhere, user=user) as sessions:

        def table() -> Text:
            now = now_utc()
            mine = [each for each in sessions.store.values() if user in (None, each.spec.user)]
            mine.sort(
                key=lambda session: (session.metadata.creation_timestamp, session.metadata.name)
            )
            return Text.from_ansi(
                "\n".join(session_table(mine, now, wide=wide, all_namespaces=everywhere))
            )

        if console.is_terminal:
            with Live(
                get_renderable=table,
                console=console,
                refresh_per_second=1,
                # Otherwise rich interprets what others print meanwhile, with the colours and links
                # of hostile text.
                redirect_stdout=False,
                redirect_stderr=False,
            ) as live:
                while True:
                    await sessions.change()
                    live.refresh()
        while True:
            old, new = await sessions.change()
            either = new or old
            if either and user in (None, either.spec.user):
                print(watch_line(new, either.metadata.name, now_utc()), flush=True)


async def start_and_wait(
    backend: Backend,
    request: SessionRequest,
    target: Target,
    *,
    seconds: float,
    view: ProgressView,
) -> Raw:
    """Create a session and show its start; returns it running. Raises CliError when it does not
    start.
    """
    begun = time.monotonic()
    session = as_session(await backend.create(request))
    view.say(f"session {session.metadata.name} created {target.where}")
    return await wait_until_running(
        backend, session, target, seconds=seconds, view=view, begun=begun
    )


async def wait_until_running(
    backend: Backend,
    session: VDISession,
    target: Target,
    *,
    seconds: float,
    view: ProgressView,
    begun: float | None = None,
) -> Raw:
    """Show the start of a session that has just been made or resumed; returns it running.

    Raises CliError when it does not start. Interrupted, it leaves the session as it is and says so.
    """
    start = Start(time.monotonic() if begun is None else begun)
    name = session.metadata.name
    what_now = (
        f"Follow progress:    {PROGRAM} session show {name}{target.flags}\n"
        f"Remove it:          {PROGRAM} session rm {name}{target.flags}"
    )
    try:
        last = await watch_start(backend, session, start=start, seconds=seconds, view=view)
        if start.outcome is not Outcome.RUNNING or last is None:
            raise CliError(f"{failure_message(start, name, seconds)}\n{what_now}")
        if not await watch_url(last.status.url, start=start, view=view):
            raise CliError(
                f"session {name} is Running, but its URL does not lead to it\n{what_now}"
            )
    except asyncio.CancelledError:
        view.say(f"No longer waiting; session {name} is unchanged.\n{what_now}")
        raise
    took = time.monotonic() - start.begun
    view.say(f"Running after {took:.1f} s. Open it: {PROGRAM} session open {name}{target.flags}")
    return await backend.get(name)


async def watch_start(
    backend: Backend,
    session: VDISession,
    *,
    start: Start,
    seconds: float,
    view: ProgressView,
) -> VDISession | None:
    """Watch a new session until it runs, fails or is gone, or until `seconds` are over (no
    `start.outcome` then).

    Returns the session as it was last seen.
    """
    meta = session.metadata
    last: VDISession | None = session
    try:
        async with asyncio.timeout(seconds), AsyncExitStack() as stack:
            sessions = await stack.enter_async_context(backend.watch(meta.name))
            # The pod is up to 3 s ahead of the session's status, so its changes wake this loop too.
            pods = await stack.enter_async_context(watch_pod(backend, session, sessions.wake))
            while True:
                last = sessions.store.get(meta.namespace, meta.name)
                pod = None
                if pods:
                    pod = pods.store.get(meta.namespace, pod_name(meta.name))
                for stage in start.observe(last, time.monotonic(), pod):
                    view.passed(*stage)
                view.waiting(start.reason if start.passed else "waiting for the operator")
                if start.outcome is not None:
                    return last
                await sessions.change()
    except TimeoutError:
        return last


async def watch_url(url: str, *, start: Start, view: ProgressView) -> bool:
    """Poll the URL until it answers. False when a proxy answers instead of the desktop; an
    unreachable host is True.
    """
    view.waiting(f"asking {url}")
    answer = await wait_until_ready(url, _ROUTE_SECONDS)
    view.passed(*start.answered(f"{url} {answer.text}", time.monotonic()), well=answer.ready)
    # A machine may reach the API server and not Traefik: the desktop runs all the same.
    return answer.ready or not answer.reached


def failure_message(start: Start, name: str, seconds: float) -> str:
    """The error of a start that did not end with a running desktop."""
    match start.outcome:
        case Outcome.FAILED:
            return f"session {name} does not start: {start.reason}"
        case Outcome.GONE:
            return f"session {name} was deleted: {start.reason}"
        case _:
            no_operator = (
                f"no operator has processed the session yet; is one running? {FIND_OPERATOR}"
            )
            reason = start.reason if start.passed else no_operator
            return f"session {name} is not Running after {duration(seconds)}: {reason}"


@dataclass(frozen=True, slots=True)
class UrlStatus:
    """The result of a check. `reached`: something spoke HTTP; `ready`: the desktop, not the proxy's
    error page.
    """

    reached: bool
    ready: bool
    text: str


def interpret(status: int, *, by_gateway: bool = False) -> UrlStatus:
    """The meaning of a status code: a proxy sends 404 without a route, and 502 to 504 without a
    desktop behind it.

    `by_gateway`: a gateway stands before the desktop, and has answered.
    """
    if status == 404:
        return UrlStatus(True, False, "responds with 404: the proxy has no route for this host yet")
    if status >= 500:
        return UrlStatus(True, False, f"responds with {status}: the proxy cannot reach the desktop")
    asked = "login" if by_gateway else "password"
    return UrlStatus(
        True, True, f"answers {status}" if status != 401 else f"responds, and asks for the {asked}"
    )


async def check(client: HttpClient, url: str) -> UrlStatus:
    """Check once."""
    try:
        async with asyncio.timeout(_ONE_REQUEST_SECONDS), client.stream("GET", url) as response:
            return interpret(response.status, by_gateway="X-VDI-Gateway" in response.headers)
    except CONNECT_ERRORS as error:
        return UrlStatus(False, False, f"cannot be reached from this machine: {reason_of(error)}")
    except HTTP_ERRORS as error:
        return UrlStatus(False, False, f"does not respond: {reason_of(error)}")


async def wait_until_ready(url: str, seconds: float) -> UrlStatus:
    """Check until the desktop answers; the last status after `seconds`, sooner if the host cannot
    be reached.

    The certificate is not verified: whether the browser trusts it is another question.
    """
    loop = asyncio.get_running_loop()
    begun = loop.time()
    ever_reached = False
    async with open_client(url, seconds=_ONE_REQUEST_SECONDS, tls=unverified()) as client:
        while True:
            status = await check(client, url)
            ever_reached = ever_reached or status.reached
            waited = loop.time() - begun
            if (
                status.ready
                or waited > seconds
                or (not ever_reached and waited > _UNREACHABLE_AFTER_SECONDS)
            ):
                return status
            await asyncio.sleep(_POLL_SECONDS)
