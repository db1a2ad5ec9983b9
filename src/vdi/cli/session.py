"""`vdi session`: create, ls, show, open, rm, logs. Each command parses, calls one function, renders.

suspend, resume, restart and extend are in `session_run`, share and unshare in `session_share`, probe in
`session_probe`.
"""

import time
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from vdi.cli import session_requests as requests
from vdi.cli.asking import agrees
from vdi.cli.browser import opens_browser
from vdi.cli.failures import USAGE, CommandFailedError
from vdi.cli.live import StartView, watch_list
from vdi.cli.options import PROGRAM, examples, seconds_of
from vdi.cli.output import ListOutput, Output, Raw, duration, now_utc, print_data, print_objects, without_managed_fields
from vdi.cli.remote_choice import on_either
from vdi.cli.session_probe import app as probe_command
from vdi.cli.session_run import app as run_commands
from vdi.cli.session_share import app as share_commands
from vdi.cli.session_start import start_and_wait
from vdi.cli.session_view import page_lines, session_table
from vdi.cli.session_way import Place, Way
from vdi.session.wish import Wish

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Desktops: create, list, open, explain, suspend, remove."
)
app.add_typer(run_commands)
app.add_typer(share_commands)
app.add_typer(probe_command)

Name = Annotated[str, typer.Argument(help="Name of the session.")]
_GONE_SECONDS = 60.0
_STUCK = "the operator has to let it go; is it running? kubectl -n kasm get deployment vdi-operator"


@app.command(
    epilog=examples(
        "session create --template ubuntu-desktop --user alice@example.com --wait",
        "session create alice-gpu --template cad --user alice@example.com --gpu 2 --memory 16Gi --timeout 4h",
    )
)
@on_either
def create(
    place: Place,
    name: Annotated[
        str | None, typer.Argument(help="Name of the session; without it USER-TEMPLATE, as in alice-ubuntu-desktop.")
    ] = None,
    *,
    template: Annotated[str, typer.Option("--template", "-t", help="The kind of desktop; see `template ls`.")],
    user: Annotated[str | None, typer.Option(envvar="VDI_USER", help="Whose desktop: an e-mail address.")] = None,
    gpu: Annotated[int | None, typer.Option(help="GPUs; without it what the template says.")] = None,
    memory: Annotated[str | None, typer.Option(help="Memory limit, such as 8Gi.")] = None,
    cpu: Annotated[str | None, typer.Option(help="CPU limit, such as 2 or 1500m.")] = None,
    timeout: Annotated[str | None, typer.Option(help="Length of the run, such as 4h or 1h30m.  [default: 8h]")] = None,
    idle_timeout: Annotated[
        str | None,
        typer.Option(help="How long nobody may use the desktop, such as 30m; without it what the template says."),
    ] = None,
    priority: Annotated[
        int | None, typer.Option(help="Who waits for room with a higher one goes first: -1000 to 1000.  [default: 0]")
    ] = None,
    hostname: Annotated[str | None, typer.Option(help="First label of the desktop's host name.")] = None,
    home: Annotated[
        bool | None,
        typer.Option("--home/--no-home", help="Whether files outlive the desktop; without it what the template says."),
    ] = None,
    home_size: Annotated[str | None, typer.Option(help="Size of a home that is made new, such as 20Gi.")] = None,
    retain: Annotated[
        bool | None,
        typer.Option("--retain/--delete-home", help="Keep the home for the next session, or delete it with this one."),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Show each stage of the start until the desktop answers.")
    ] = False,
    timeout_wait: Annotated[str, typer.Option(help="How long --wait waits.")] = "5m",
    output: Annotated[Output, typer.Option("--output", "-o", help="What to print.")] = Output.TABLE,
) -> None:
    """Start a desktop.

    Without --wait it returns once the API server has taken the session. With --wait it ends with 0 when the desktop
    answers, and with 1 and the reason when it does not start. While the cluster is full, it shows the place in the
    queue.
    """
    user = user or place.user
    if not user:
        raise CommandFailedError("whose desktop? Give --user alice@example.com, or set VDI_USER", USAGE)
    if home is False and (home_size or retain is not None):
        raise CommandFailedError("--no-home does not go with --home-size, --retain or --delete-home", USAGE)
    wish = Wish(
        user=user,
        template=template,
        name=name,
        gpu=gpu,
        memory=memory,
        cpu=cpu,
        timeout=timeout,
        idle_timeout=idle_timeout,
        priority=priority,
        hostname=hostname,
        home=home,
        home_size=home_size,
        retain=retain,
    )
    if wait:
        started = _start(place, wish, seconds_of("--timeout-wait", timeout_wait))
    else:
        started = place.run(lambda way: way.create(wish))
        if output is Output.TABLE:
            name = started["metadata"]["name"]
            typer.echo(f"session {name} created; see {PROGRAM} session show {name}{place.flags}")
    if output is not Output.TABLE:
        print_data(without_managed_fields(started), output)


def _start(place: Place, wish: Wish, seconds: float) -> Raw:
    with StartView() as view:
        return place.run(lambda way: start_and_wait(way, wish, place, seconds=seconds, view=view))


@app.command(
    "ls", epilog=examples("session ls", "session ls -A -o wide --watch", "session ls --user alice@example.com -o json")
)
@on_either
def list_(
    place: Place,
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Sessions of all namespaces.")] = False,
    user: Annotated[str | None, typer.Option(help="Only the sessions of this user.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow changes until Ctrl-C.")] = False,
    output: Annotated[ListOutput, typer.Option("--output", "-o", help="What to print.")] = ListOutput.TABLE,
) -> None:
    """List sessions, oldest first."""
    if watch:
        if output not in (ListOutput.TABLE, ListOutput.WIDE):
            raise CommandFailedError(f"--watch goes with -o table or -o wide, not with -o {output}", USAGE)
        wide = output is ListOutput.WIDE
        place.run(lambda way: watch_list(way, user=user, wide=wide, everywhere=all_namespaces))
        return
    found = place.run(lambda way: way.list(user, everywhere=all_namespaces))
    if not found and output in (ListOutput.TABLE, ListOutput.WIDE):
        typer.echo(f"no sessions {'in any namespace' if all_namespaces else place.where}", err=True)
        return
    print_objects(found, output, name=lambda raw: f"vdisession/{raw['metadata']['name']}", table=_table(all_namespaces))


def _table(all_namespaces: bool) -> Callable[[Sequence[Raw], bool], list[str]]:
    return lambda items, wide: session_table(
        [requests.as_session(each) for each in items], now_utc(), wide=wide, all_namespaces=all_namespaces
    )


@app.command(epilog=examples("session show alice-desktop", "session show alice-desktop -o yaml"))
@on_either
def show(
    place: Place,
    name: Name,
    output: Annotated[Output, typer.Option("--output", "-o", help="What to print.")] = Output.TABLE,
) -> None:
    """Everything about one session: its state and why, its objects, what happened, when it ends."""
    raw = place.run(lambda way: way.get(name))
    if output is not Output.TABLE:
        print_data(without_managed_fields(raw), output)
        return
    page = place.run(lambda way: way.page(requests.as_session(raw)))
    for line in page_lines(page, now_utc()):
        typer.echo(line)


@app.command("open", epilog=examples("session open alice-desktop", "session open alice-desktop --print"))
@on_either
def open_(
    place: Place,
    name: Name,
    print_only: Annotated[bool, typer.Option("--print", help="Only print; open no browser.")] = False,
    output: Annotated[
        Output, typer.Option("--output", "-o", help="What to print; json and yaml open none.")
    ] = Output.TABLE,
) -> None:
    """Open a running desktop in the browser, and print its address.

    Behind a gateway the portal's login is asked for. Without one the browser asks for user and password, which are
    printed too: to your screen alone, never into the address.
    """
    found = place.run(lambda way: requests.open_running(way, name))
    if output is not Output.TABLE:
        asked = {"user": found.user, "password": found.password} if found.password else {}
        print_data({"url": found.url, **asked}, output)
        return
    if found.password:
        typer.echo(f"URL:      {found.url}\nUser:     {found.user}\nPassword: {found.password}")
    else:
        typer.echo(f"URL:      {found.url}\nThe browser asks for the portal's login, if you are not logged in there.")
    if not print_only and not opens_browser(found.url):
        typer.echo("There is no graphical browser here: open the address yourself.", err=True)


@app.command(
    epilog=examples(
        "session rm alice-desktop",
        "session rm alice-desktop bob-desktop --wait",
        "session rm alice-desktop --delete-home --yes",
    )
)
@on_either
def rm(
    place: Place,
    names: Annotated[list[str], typer.Argument(help="Names of the sessions.")],
    delete_home: Annotated[
        bool, typer.Option("--delete-home", help="Delete the home volume too, with all files in it.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return when they are gone.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask before files are deleted.")] = False,
) -> None:
    """Remove sessions. The home stays, unless the session was made with --delete-home or this command is given it."""
    plans = place.run(lambda way: requests.plan_removals(way, names, delete_home=delete_home))
    removals = [plan for plan in plans if not isinstance(plan, CommandFailedError)]
    _confirm([f"{each.session.metadata.name}: {each.home_lost}" for each in removals if each.home_lost], yes)
    still = place.run(lambda way: _remove(way, removals, _GONE_SECONDS if wait else None))
    refused = [plan.message for plan in plans if isinstance(plan, CommandFailedError)]
    if refused or still:
        raise CommandFailedError("\n".join([*refused, *still]))


def _confirm(homes: list[str], yes: bool) -> None:
    if not homes or yes:
        return
    typer.echo("This deletes all files in these homes:\n" + "\n".join(f"  {home}" for home in homes), err=True)
    if not agrees("Delete them?", untouched="nothing was removed"):
        raise CommandFailedError("nothing was removed")


async def _remove(way: Way, removals: Sequence[requests.Removal], seconds: float | None) -> list[str]:
    """Remove one after the other; returns what is still there after `seconds`, in words."""
    still = []
    begun = time.monotonic()
    for each in removals:
        await way.remove(each.session, each.claim_to_delete)
        if seconds is None:
            typer.echo(f"session {each.session.metadata.name} is being removed")
    for each in removals if seconds is not None else ():
        name = each.session.metadata.name
        if await requests.until_gone(way, each.session, seconds or 0):
            home = f", and so is its home {each.home_lost}" if each.home_lost else ""
            typer.echo(f"session {name} is gone after {time.monotonic() - begun:.1f}s{home}")
        else:
            still.append(f"session {name} is still there after {duration(seconds or 0)}: {_STUCK}")
    return still


@app.command(epilog=examples("session logs alice-desktop", "session logs alice-desktop -f --tail 20"))
@on_either
def logs(
    place: Place,
    name: Name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the desktop stops or Ctrl-C.")] = False,
    tail: Annotated[int | None, typer.Option(min=0, help="Only the last lines, this many.")] = None,
) -> None:
    """The log of the desktop's container; when there is none yet, why."""

    async def print_lines(way: Way) -> None:
        async for line in requests.log_lines(way, name, follow=follow, tail=tail):
            print(line, flush=follow)

    place.run(print_lines)
