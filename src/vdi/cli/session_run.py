"""`vdi session`: suspend, resume, restart, extend. The commands that change a session's run; mounted by `session`."""

import time
from typing import Annotated

import typer

from vdi.cli import session_changes as changes
from vdi.cli.failures import USAGE, CommandFailedError
from vdi.cli.live import StartView
from vdi.cli.options import PROGRAM, examples, seconds_of
from vdi.cli.output import Output, Raw, duration, now_utc, print_data, without_managed_fields
from vdi.cli.remote_choice import on_either
from vdi.cli.session_requests import as_session
from vdi.cli.session_start import wait_until_running
from vdi.cli.session_way import Place, Way
from vdi.session.times import format_time
from vdi.session.units import format_duration

app = typer.Typer()

Name = Annotated[str, typer.Argument(help="Name of the session.")]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="What to print.")]
WaitOption = Annotated[bool, typer.Option("--wait", help="Return when it is done.")]
_SUSPENDED_SECONDS = 60.0


@app.command(epilog=examples("session suspend alice-desktop", "session suspend alice-desktop --wait"))
@on_either
def suspend(
    place: Place,
    name: Name,
    wait: WaitOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Stop a desktop and free its GPU. Home, address and password stay; what is open in the desktop is lost."""
    begun = time.monotonic()

    async def work(way: Way) -> tuple[Raw, bool, bool]:
        raw, changed = await changes.set_suspended(way, name, True)
        done = wait and await changes.until_suspended(way, as_session(raw), _SUSPENDED_SECONDS)
        return raw, changed, done

    raw, changed, done = place.run(work)
    if wait and not done:
        raise CommandFailedError(
            f"session {name} is not suspended after {duration(_SUSPENDED_SECONDS)}:"
            f" see {PROGRAM} session show {name}{place.flags}"
        )
    again = f"start it again: {PROGRAM} session resume {name}{place.flags}"
    if not changed:
        said = f"session {name} is suspended already; {again}"
    elif done:
        said = f"session {name} is suspended after {time.monotonic() - begun:.1f}s; {again}"
    else:
        said = f"session {name} is being suspended; {again}"
    _tell(raw, said, output)


@app.command(epilog=examples("session resume alice-desktop", "session resume alice-desktop --wait"))
@on_either
def resume(
    place: Place,
    name: Name,
    wait: Annotated[
        bool, typer.Option("--wait", help="Show each stage of the start until the desktop answers.")
    ] = False,
    timeout_wait: Annotated[str, typer.Option(help="How long --wait waits.")] = "5m",
    output: OutputOption = Output.TABLE,
) -> None:
    """Start a suspended desktop again, on the same home and at the same address. A new run begins.

    When the cluster is full it waits in the queue like a new session.
    """
    seconds = seconds_of("--timeout-wait", timeout_wait)

    async def work(way: Way) -> tuple[Raw, bool]:
        raw, changed = await changes.set_suspended(way, name, False)
        if not wait:
            return raw, changed
        with StartView() as view:
            return await wait_until_running(way, as_session(raw), place, seconds=seconds, view=view), changed

    raw, changed = place.run(work)
    see = f"see {PROGRAM} session show {name}{place.flags}"
    said = f"session {name} starts again; {see}" if changed else f"session {name} is not suspended; {see}"
    _tell(raw, "" if wait else said, output)


@app.command(epilog=examples("session restart alice-desktop"))
@on_either
def restart(place: Place, name: Name, output: OutputOption = Output.TABLE) -> None:
    """Start the desktop anew on the same home: for one that hangs or has failed. What is open in it is lost.

    The time of the run goes on.
    """
    raw = place.run(lambda way: changes.restart(way, name, now_utc()))
    _tell(raw, f"session {name} is being restarted; see {PROGRAM} session show {name}{place.flags}", output)


@app.command(epilog=examples("session extend alice-desktop --by 2h", "session extend alice-desktop --timeout 10h"))
@on_either
def extend(
    place: Place,
    name: Name,
    by: Annotated[str | None, typer.Option(help="How much longer, such as 2h or 1h30m.")] = None,
    timeout: Annotated[str | None, typer.Option(help="Length of the whole run, such as 10h.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Give a session more time. It counts at once; the template's maxTimeout is the most there is."""
    if (by is None) == (timeout is None):
        raise CommandFailedError("give one of --by 2h (more time) and --timeout 10h (length of the whole run)", USAGE)
    done = place.run(lambda way: changes.extend(way, name, by=by, to=timeout, now=now_utc()))
    if done.ends is None:
        said = f"the next run of session {name} may last {format_duration(done.length)}"
    else:
        left = duration((done.ends - now_utc()).total_seconds())
        said = f"session {name} ends at {format_time(done.ends)} (in {left})"
    if done.capped:
        said += f"; its template allows runs of {format_duration(done.length)} at most"
    _tell(done.raw, said, output)


def _tell(raw: Raw, said: str, output: Output) -> None:
    if output is not Output.TABLE:
        print_data(without_managed_fields(raw), output)
    elif said:
        typer.echo(said)
