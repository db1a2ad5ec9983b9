"""The commands of `vdi session`. Each parses its options, calls one function and renders the
result.
"""

import os
import re
import time
from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import typer

from vdi.api.schedule import Day
from vdi.api.session import FULL_CONTROL, GUEST_ROLES, GuestRole
from vdi.api.template import TimeoutAction, VDITemplate
from vdi.cli.browser import check_address, opens_browser
from vdi.cli.errors import COULD_NOT_LOOK, USAGE, CliError
from vdi.cli.options import PROGRAM, examples, new_app, of_kind, replace_parameter, seconds_of
from vdi.cli.output import (
    ListOutput,
    ListOutputOption,
    Output,
    OutputOption,
    Raw,
    duration,
    now_utc,
    parse_time,
    print_data,
    print_lines,
    print_object,
    print_objects,
    without_managed_fields,
)
from vdi.cli.progress import ProgressView
from vdi.cli.session import operations
from vdi.cli.session.backend import Backend, Opening, Target
from vdi.cli.session.computer import ACTIONS, parse_action
from vdi.cli.session.kube_backend import KubeBackend, KubeTarget, collect_details, log_lines
from vdi.cli.session.target import (
    complete_sessions,
    complete_templates,
    gateway_of,
    with_backend,
)
from vdi.cli.session.view import SessionDetails, details_lines, session_table
from vdi.cli.terminal import confirm
from vdi.cluster.units import format_time, parse_duration
from vdi.kube.errors import ApiError
from vdi.printable import escape
from vdi.session.actions import (
    AnnouncedEnd,
    PatchAction,
    PlanEnd,
    Resize,
    Restart,
    Schedule,
    SetSchedule,
    Share,
    Unshare,
)
from vdi.session.request import RequestedHome, RequestedResources, SessionRequest
from vdi.session.schedule import describe_schedule
from vdi.session.users import same_user

app = new_app("Desktops: create, list, open, explain, suspend, remove.")

Name = Annotated[
    str,
    typer.Argument(
        help="Name of the session.",
        callback=of_kind("vdisession"),
        autocompletion=complete_sessions,
    ),
]
_NAMES = typer.Argument(
    help="Names of the sessions.",
    callback=of_kind("vdisession"),
    default_factory=list,
    show_default=False,
    autocompletion=complete_sessions,
)
Names = Annotated[list[str], _NAMES]
Guest = Annotated[str, typer.Argument(help="E-mail address of the guest.")]
WaitOption = Annotated[bool, typer.Option("--wait", help="Wait until it is done.")]
WaitStart = Annotated[
    bool, typer.Option("--wait", help="Show each step of the start until the desktop responds.")
]
WaitTimeout = Annotated[str, typer.Option(help="Time limit of --wait.")]
_GONE_SECONDS = 60.0
_SUSPENDED_SECONDS = 60.0
_STUCK = f"the operator has not removed it; is it running? {operations.FIND_OPERATOR}"


class EndPlan(NamedTuple):
    """Options of `suspend` and `rm` with which administrators announce the end in the desktops."""

    template: Annotated[
        str,
        typer.Option(
            help="All sessions of this template; needs --notice.",
            autocompletion=complete_templates,
        ),
    ] = ""
    node: Annotated[str, typer.Option(help="All sessions on this node; needs --notice.")] = ""
    notice: Annotated[
        str, typer.Option(help="Announce it, and do it after this time, such as 15m; off: cancel.")
    ] = ""
    message: Annotated[str, typer.Option(help="Reason that the desktops show with --notice.")] = ""


# Replaces the parameter after the target, so it stands above `with_backend`.
_with_plan = replace_parameter(
    {name: (option, "") for name, option in EndPlan.__annotations__.items()}, EndPlan
)


@app.command(
    epilog=examples(
        "session create --template ubuntu-desktop --user alice@example.com --wait",
        "session create alice-gpu --template cad --user alice@example.com --gpu 2 --memory 16Gi"
        " --timeout 4h",
        "session create alice-build --template cad --user alice@example.com --ephemeral-storage"
        " 20Gi",
    )
)
@with_backend
def create(
    target: Target,
    name: Annotated[
        str | None,
        typer.Argument(
            help="Name of the session; default: USER-TEMPLATE, as in alice-ubuntu-desktop."
        ),
    ] = None,
    *,
    template: Annotated[
        str,
        typer.Option(
            "--template",
            "-t",
            help="The template; see `template ls`.",
            autocompletion=complete_templates,
        ),
    ],
    user: Annotated[
        str | None,
        typer.Option(envvar="VDI_USER", help="Owner of the desktop: an e-mail address."),
    ] = None,
    gpu: Annotated[int | None, typer.Option(help="GPUs; default: the template's value.")] = None,
    memory: Annotated[str | None, typer.Option(help="Memory limit, such as 8Gi.")] = None,
    cpu: Annotated[str | None, typer.Option(help="CPU limit, such as 2 or 1500m.")] = None,
    ephemeral_storage: Annotated[
        str | None,
        typer.Option(
            help="Limit of the node's local disk, such as 20Gi, where the template has one."
        ),
    ] = None,
    timeout: Annotated[
        str | None, typer.Option(help="Length of the run, such as 4h or 1h30m.  [default: 8h]")
    ] = None,
    idle_timeout: Annotated[
        str | None,
        typer.Option(
            help="How long the desktop may be idle, such as 30m; default: the template's value."
        ),
    ] = None,
    priority: Annotated[
        int | None,
        typer.Option(
            help=(
                "A waiting session with a higher priority starts first: -1000 to 1000. "
                " [default: 0]"
            )
        ),
    ] = None,
    time_zone: Annotated[
        str | None,
        typer.Option(
            help="Time zone of the desktop, such as Europe/Berlin; default: the template's value."
        ),
    ] = None,
    hostname: Annotated[
        str | None, typer.Option(help="First label of the desktop's host name.")
    ] = None,
    home: Annotated[
        bool | None,
        typer.Option(
            "--home/--no-home",
            help="Whether files are kept when the desktop ends; default: the template's value.",
        ),
    ] = None,
    home_size: Annotated[
        str | None, typer.Option(help="Size of a newly created home, such as 20Gi.")
    ] = None,
    retain: Annotated[
        bool | None,
        typer.Option(
            "--retain/--delete-home",
            help="Keep the home for the next session, or delete it with this one.",
        ),
    ] = None,
    wait: WaitStart = False,
    timeout_wait: WaitTimeout = "5m",
    output: OutputOption = Output.TABLE,
) -> None:
    """Start a desktop.

    Without --wait the command ends as soon as the API server has accepted the session. With --wait
    it ends with status 0 when the desktop responds, and with 1 and the reason if it does not start.
    While the cluster is full, it shows the position in the queue.
    """
    user = user or target.user
    if not user:
        raise CliError(
            "the owner of the desktop is missing: use --user alice@example.com, or set VDI_USER",
            USAGE,
        )
    if home is False and (home_size or retain is not None):
        raise CliError("--no-home does not go with --home-size, --retain or --delete-home", USAGE)
    request = SessionRequest(
        user=user,
        template=template,
        name=name,
        resources=RequestedResources(
            gpu=gpu, memory=memory, cpu=cpu, ephemeral_storage=ephemeral_storage
        ),
        persistence=RequestedHome(enabled=home, size=home_size, retain=retain),
        timeout=timeout,
        idle_timeout=idle_timeout,
        time_zone=time_zone,
        priority=priority,
        hostname=hostname,
    )
    if wait:
        from vdi.cli.session.wait import start_and_wait

        seconds = seconds_of("--timeout-wait", timeout_wait)
        with ProgressView() as view:
            started = target.run(
                lambda backend: start_and_wait(backend, request, target, seconds=seconds, view=view)
            )
    else:
        started = target.run(lambda backend: backend.create(request))
    said = _see(target, started["metadata"]["name"], "created")
    _tell(started, "" if wait else said, output)


@app.command(
    "ls",
    epilog=examples(
        "session ls", "session ls -A -o wide --watch", "session ls --user alice@example.com -o json"
    ),
)
@with_backend
def list_(
    target: Target,
    all_namespaces: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="Sessions of all namespaces.")
    ] = False,
    user: Annotated[str | None, typer.Option(help="Only the sessions of this user.")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Follow changes until Ctrl-C.")
    ] = False,
    output: ListOutputOption = ListOutput.TABLE,
) -> None:
    """List sessions, oldest first."""
    if watch:
        if output not in (ListOutput.TABLE, ListOutput.WIDE):
            raise CliError(f"--watch goes with -o table or -o wide, not with -o {output}", USAGE)
        from vdi.cli.session.wait import watch_list

        wide = output is ListOutput.WIDE
        target.run(
            lambda backend: watch_list(backend, user=user, wide=wide, everywhere=all_namespaces)
        )
        return
    sessions = target.run(lambda backend: backend.list(user, everywhere=all_namespaces))
    if not sessions and output in (ListOutput.TABLE, ListOutput.WIDE):
        typer.echo(
            f"no sessions {'in any namespace' if all_namespaces else target.where}", err=True
        )
        return

    def table(items: Sequence[Raw], wide: bool) -> list[str]:
        return session_table(
            map(operations.as_session, items), now_utc(), wide=wide, all_namespaces=all_namespaces
        )

    print_objects(
        sessions, output, name=lambda raw: f"vdisession/{raw['metadata']['name']}", table=table
    )


@app.command(epilog=examples("session show alice-desktop", "session show alice-desktop -o yaml"))
@with_backend
def show(
    target: Target,
    name: Name,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show one session: its state and the reason, its objects, its Events, and when it ends."""
    raw = target.run(lambda backend: backend.get(name))
    if output is not Output.TABLE:
        print_data(without_managed_fields(raw), output)
        return
    session = operations.as_session(raw)
    details, found = SessionDetails(session), None
    with suppress(CliError):  # the session is shown without its template too
        found = target.run(lambda backend: backend.template(session.spec.template))
    if isinstance(target, KubeTarget):  # a gateway shows no objects of the cluster
        details = target.run(lambda backend: collect_details(backend.client, session))
    template = msgspec.convert(found, VDITemplate) if found else None
    print_lines(details_lines(replace(details, template=template), now_utc()))


@app.command(
    "open",
    epilog=examples(
        "session open alice-desktop",
        "session open alice-desktop --print",
        "session open alice-desktop --direct",
    ),
)
@with_backend
def open_(
    target: Target,
    name: Name,
    print_only: Annotated[
        bool, typer.Option("--print", help="Only print; open no browser.")
    ] = False,
    direct: Annotated[
        bool,
        typer.Option(
            "--direct",
            help=(
                "Bypass Traefik and gateway, through the API server with kubectl, until Ctrl-C. For"
                " repairs."
            ),
        ),
    ] = False,
    output: Annotated[
        Output,
        typer.Option(
            "--output", "-o", help="Output format; with json and yaml no browser is opened."
        ),
    ] = Output.TABLE,
) -> None:
    """Open a running desktop in the browser, and print its address.

    With a gateway, the browser asks for the portal's login. Without one, it asks for user and
    password, which are printed too: only on your screen, never in the address.

    With --direct the address is one of this machine. It works while this command runs, and it
    contains a token that opens the desktop: do not share it. This needs permission to forward ports
    of pods and to read Secrets. The exit status is 1 when the connection ends, 3 if it cannot be
    established, and 130 after Ctrl-C.
    """
    if direct:
        _open_directly(target, name, print_only=print_only, output=output)
        return

    async def work(backend: Backend) -> Opening:
        return await backend.opening(await operations.running_session(backend, name))

    found = target.run(work)
    login = "The browser asks for the portal's login if you are not logged in there."
    _show_opening(found, login, print_only=print_only, output=output)


def _open_directly(target: Target, name: str, *, print_only: bool, output: Output) -> None:
    from vdi.cli.session.direct import find_desktop, forward, open_locally

    connection, desktop, secret = find_desktop(target, name)
    with forward(connection, desktop.pod) as forwarding:
        opening = open_locally(desktop, secret, forwarding.wait_for_port())
        until = "This address works on this machine until Ctrl-C."
        _show_opening(opening, until, print_only=print_only, output=output)
        forwarding.wait_for_end()


def _show_opening(opening: Opening, sentence: str, *, print_only: bool, output: Output) -> None:
    check_address(opening.url, opening.domain)
    if output is not Output.TABLE:
        if opening.password:
            asked = {"user": opening.user, "password": opening.password}
        else:
            asked = {}
        print_data({"url": opening.url, **asked}, output)
        return
    if opening.password:
        typer.echo(
            f"URL:      {opening.url}\nUser:     {opening.user}\nPassword: {opening.password}"
        )
    else:
        typer.echo(f"URL:      {opening.url}\n{sentence}")
    if not print_only and not opens_browser(opening.url, opening.domain):
        typer.echo("There is no graphical browser here. Open the address yourself.", err=True)


@app.command(
    epilog=examples(
        "session rm alice-desktop",
        "session rm alice-desktop bob-desktop --wait",
        "session rm alice-desktop --delete-home --yes -o json",
        'session rm --template cad --notice 15m --message "Maintenance until 18:00"',
    )
)
@_with_plan
@with_backend
def rm(
    target: Target,
    plan: EndPlan,
    names: Names,
    delete_home: Annotated[
        bool,
        typer.Option("--delete-home", help="Also delete the home volume with all files in it."),
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until they are deleted.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Don't ask before files are deleted.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Remove sessions. The home is kept, unless --delete-home was given here or when the session
    was created.

    With --notice the desktops announce it first.
    """
    chosen = list(dict.fromkeys(names))
    if not chosen or any(plan):
        _plan_end(
            target,
            TimeoutAction.TERMINATE,
            chosen,
            plan,
            delete_home or wait or output is not Output.TABLE,
        )
        return
    plans = target.run(
        lambda backend: operations.plan_removals(backend, chosen, delete_home=delete_home)
    )
    removals = [plan for plan in plans if not isinstance(plan, CliError)]
    if not yes:
        _ask_for_homes(removals)
    # With -o json or yaml, sentences go to standard error as they come. They tell what is removed
    # already when a later removal fails and no data is printed.
    say = partial(typer.echo, err=output is not Output.TABLE)
    still = target.run(
        lambda backend: _remove(backend, removals, _GONE_SECONDS if wait else None, say)
    )
    if output is not Output.TABLE:
        deleted: dict[str, list[str]] = {"deleted": [], "deletedHomes": []}
        for removal in removals:
            if removal.session.metadata.name not in still:
                deleted["deleted"].append(removal.session.metadata.name)
                deleted["deletedHomes"] += filter(None, [removal.home_lost])
        print_data(deleted, output)
    refused = [plan.message for plan in plans if isinstance(plan, CliError)]
    if refused or still:
        raise CliError("\n".join([*refused, *still.values()]))


def _ask_for_homes(removals: Sequence[operations.Removal]) -> None:
    """Raises CliError unless the user agrees that these homes are deleted, or there are none."""
    homes = []
    for removal in removals:
        if removal.home_lost:
            homes.append(f"  {removal.session.metadata.name}: {removal.home_lost}")
    if not homes:
        return
    typer.echo("\n".join(["This deletes all files in these homes:", *homes]), err=True)
    if not confirm("Delete them?", untouched="nothing was removed"):
        raise CliError("nothing was removed")


async def _remove(
    backend: Backend,
    removals: Sequence[operations.Removal],
    seconds: float | None,
    say: Callable[[str], None],
) -> Mapping[str, str]:
    """Remove one after the other. Returns an error for each, by name, that is still there after
    `seconds`.
    """
    still = {}
    begun = time.monotonic()
    for removal in removals:
        await backend.remove(removal.session, removal.claim_to_delete)
        if seconds is None:
            say(f"session {removal.session.metadata.name} is being removed")
    for removal in removals if seconds is not None else ():
        name = removal.session.metadata.name
        if await operations.until_gone(backend, removal.session, seconds or 0):
            home = ""
            if removal.home_lost:
                home = f", with its home {removal.home_lost}"
            say(f"session {name} was deleted in {time.monotonic() - begun:.1f} s{home}")
        else:
            still[name] = f"session {name} still exists after {duration(seconds or 0)}: {_STUCK}"
    return still


@app.command(
    epilog=examples("session logs alice-desktop", "session logs alice-desktop -f --tail 20")
)
@with_backend
def logs(
    target: Target,
    name: Name,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Follow the log until the desktop stops or Ctrl-C."),
    ] = False,
    tail: Annotated[
        int | None, typer.Option(min=0, help="Only this many of the last lines.")
    ] = None,
) -> None:
    """Print the log of the desktop's container, or the reason if there is no log yet."""
    if not isinstance(target, KubeTarget):
        raise CliError(
            "a desktop's log needs access to the cluster, which a gateway does not give:"
            " --kubeconfig FILE",
            COULD_NOT_LOOK,
        )

    async def print_log(backend: KubeBackend) -> None:
        session = await operations.get_session(backend, name)
        async for line in log_lines(backend, session, follow=follow, tail=tail):
            print(line, flush=follow)

    target.run(print_log)


@app.command(
    epilog=examples(
        "session suspend alice-desktop --wait",
        'session suspend --template cad --notice 15m --message "Maintenance until 18:00"',
        "session suspend --template cad --notice off",
    )
)
@_with_plan
@with_backend
def suspend(
    target: Target,
    plan: EndPlan,
    names: Names,
    wait: WaitOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Stop a desktop and free its GPU. Home, address and password are kept; unsaved work is lost.

    With --notice the desktops announce it first.
    """
    if not names or any(plan):
        _plan_end(target, TimeoutAction.SUSPEND, names, plan, wait or output is not Output.TABLE)
        return
    if len(names) > 1:
        raise CliError("name one session; for several, use --notice 15m", USAGE)
    name, begun = names[0], time.monotonic()

    async def work(backend: Backend) -> tuple[Raw, bool, bool]:
        raw, changed = await operations.set_suspended(backend, name, True)
        done = wait and await operations.until_suspended(
            backend, operations.as_session(raw), _SUSPENDED_SECONDS
        )
        return raw, changed, done

    raw, changed, done = target.run(work)
    if wait and not done:
        raise CliError(
            f"session {name} is not suspended after {duration(_SUSPENDED_SECONDS)}: see {PROGRAM}"
            f" session show {name}{target.flags}"
        )
    again = f"start it again: {PROGRAM} session resume {name}{target.flags}"
    if not changed:
        said = f"session {name} is already suspended; {again}"
    elif done:
        said = f"session {name} was suspended in {time.monotonic() - begun:.1f} s; {again}"
    else:
        said = f"session {name} is being suspended; {again}"
    _tell(raw, said, output)


def _plan_end(
    target: Target, action: TimeoutAction, names: Sequence[str], plan: EndPlan, others: bool
) -> None:
    """Announce the end of the sessions, or take that back. `others`: whether options are used that
    are not for this.
    """
    if bool(names) == bool(plan.template or plan.node):
        raise CliError("name sessions, or select them with --template or --node", USAGE)
    if not plan.notice or others:
        raise CliError(
            "use --notice 15m, or off to cancel, without --wait, --delete-home and --output", USAGE
        )
    end = None
    if plan.notice != "off":
        time = now_utc() + timedelta(seconds=seconds_of("--notice", plan.notice))
        end = AnnouncedEnd(format_time(time), action, plan.message)

    async def work(backend: Backend) -> list[str]:
        sessions = (
            [] if names else map(operations.as_session, await backend.list("", everywhere=False))
        )
        mine = (
            s
            for s in sessions
            if plan.template in ("", s.spec.template) and plan.node in ("", s.status.node_name)
        )
        chosen, refused = names or [session.metadata.name for session in mine], []
        for name in chosen:
            try:
                raw = await _action(name, PlanEnd(end))(backend)
                planned = operations.as_session(raw).spec.planned_end
                until = f"a planned end: {planned.action} at {planned.time}" if planned else ""
                typer.echo(f"session {name} has {until or 'no planned end'}")
            except (CliError, ApiError) as error:
                refused.append(f"session {name}: {error}")
        return refused if chosen else ["no session matches"]

    if refused := target.run(work):
        raise CliError("\n".join(refused))


@app.command(epilog=examples("session resume alice-desktop", "session resume alice-desktop --wait"))
@with_backend
def resume(
    target: Target,
    name: Name,
    wait: WaitStart = False,
    timeout_wait: WaitTimeout = "5m",
    output: OutputOption = Output.TABLE,
) -> None:
    """Start a suspended desktop again, on the same home and at the same address. A new run starts.

    If the cluster is full, the session waits in the queue like a new one.
    """
    seconds = seconds_of("--timeout-wait", timeout_wait)

    async def work(backend: Backend) -> tuple[Raw, bool]:
        raw, changed = await operations.set_suspended(backend, name, False)
        if not wait:
            return raw, changed
        from vdi.cli.session.wait import wait_until_running

        with ProgressView() as view:
            return (
                await wait_until_running(
                    backend, operations.as_session(raw), target, seconds=seconds, view=view
                ),
                changed,
            )

    raw, changed = target.run(work)
    said = _see(target, name, "is starting again" if changed else "is not suspended")
    _tell(raw, "" if wait else said, output)


@app.command(epilog=examples("session restart alice-desktop"))
@with_backend
def restart(target: Target, name: Name, output: OutputOption = Output.TABLE) -> None:
    """Restart a desktop on the same home, for example after it hangs or fails. Unsaved work is
    lost.

    The time limit of the run does not change.
    """
    raw = target.run(_action(name, Restart()))
    _tell(raw, _see(target, name, "is being restarted"), output)


@app.command(
    epilog=examples("session extend alice-desktop 2h", "session extend alice-desktop --timeout 10h")
)
@with_backend
def extend(
    target: Target,
    name: Name,
    more: Annotated[
        str | None, typer.Argument(help="Additional time, such as 2h or 1h30m.")
    ] = None,
    timeout: Annotated[
        str | None, typer.Option(help="Length of the whole run, such as 10h.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Give a session more time, immediately. The maximum is the template's lifecycle.maxTimeout."""
    if (more is None) == (timeout is None):
        raise CliError(
            "name the additional time, such as 2h, or --timeout 10h (length of the whole run)",
            USAGE,
        )
    longer = None
    if more:
        longer = timedelta(seconds=seconds_of("additional time", more))
    raw = target.run(lambda backend: operations.extend(backend, name, by=longer, to=timeout or ""))
    session = operations.as_session(raw)
    if start := parse_time(session.status.start_time):
        ends = start + parse_duration(session.spec.timeout)
        said = (
            f"session {name} ends at {format_time(ends)} (in"
            f" {duration((ends - now_utc()).total_seconds())})"
        )
    else:
        said = f"session {name} may last {session.spec.timeout} in its next run"
    _tell(raw, said, output)


@app.command(
    epilog=examples(
        "session resize alice-desktop --memory 6Gi", "session resize alice-desktop --cpu 2"
    )
)
@with_backend
def resize(
    target: Target,
    name: Name,
    memory: Annotated[str | None, typer.Option(help="Memory limit, such as 8Gi.")] = None,
    cpu: Annotated[str | None, typer.Option(help="CPU limit, such as 2 or 1500m.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Give a desktop more or less memory or CPU; a running one without a restart, up to the
    template's maximum.
    """
    if memory is None and cpu is None:
        raise CliError("name the new size: --memory 6Gi, --cpu 2, or both", USAGE)
    raw = target.run(_action(name, Resize(memory, cpu)))
    _tell(raw, _see(target, name, "has a new size"), output)


@app.command(
    epilog=examples(
        "session schedule alice-desktop --at 08:30",
        "session schedule alice-desktop --at 13:00 --until 18:00 --days MON,WED,FRI --time-zone"
        " Europe/Berlin",
        "session schedule alice-desktop --off",
    )
)
@with_backend
def schedule(
    target: Target,
    name: Name,
    at: Annotated[
        str | None, typer.Option("--at", help="Time of day at which it is ready, such as 08:30.")
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            "--until", help="Time of day at which it is suspended, such as 18:00; default: never."
        ),
    ] = None,
    days: Annotated[
        str, typer.Option("--days", help="Days of the week, such as MON-FRI or SAT,SUN.")
    ] = "MON-FRI",
    time_zone: Annotated[
        str | None,
        typer.Option("--time-zone", help="Such as Europe/Berlin; default: that of this machine."),
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="Remove the schedule.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Have a desktop ready at a set time: while it is suspended, it is resumed 5 minutes earlier.

    With --until it is suspended at that time, after a warning that input cancels.
    """
    if (at is None) == (not off):
        raise CliError("use one of --at 08:30 and --off", USAGE)
    chosen = None
    if at is not None:
        chosen = Schedule(
            start=_time_of_day("--at", at),
            end=_time_of_day("--until", until) if until else None,
            days=_days(days),
            time_zone=time_zone or _local_time_zone(),
        )
    raw = target.run(_action(name, SetSchedule(chosen)))
    chosen_schedule = operations.as_session(raw).spec.schedule
    if chosen_schedule:
        said = f"session {name} has a schedule: {describe_schedule(chosen_schedule)}"
    else:
        said = f"session {name} has no schedule"
    _tell(raw, said, output)


def _action(name: str, request: PatchAction) -> Callable[[Backend], Awaitable[Raw]]:
    async def work(backend: Backend) -> Raw:
        return await backend.act(await operations.get_session(backend, name), request)

    return work


def _time_of_day(option: str, text: str) -> str:
    """The time as the CRD wants it: `8:30` as `08:30`."""
    match = re.fullmatch(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", text)
    if not match:
        raise CliError(f"{option}: {text!r} is not a time of day; allowed: 00:00 to 23:59", USAGE)
    return f"{int(match[1]):02}:{match[2]}"


def _days(text: str) -> tuple[str, ...]:
    """`MON-WED,SAT` as the days one by one; a range may pass the end of the week."""
    week = [day.value for day in Day]
    chosen: set[str] = set()
    for part in text.upper().replace(" ", "").split(","):
        if "-" in part:
            first, _, last = part.partition("-")
        else:
            first, _, last = part, "", part
        if first not in week or last not in week:
            allowed = f"{', '.join(week)}, and ranges such as MON-FRI"
            raise CliError(f"--days: {part!r} is not a day of the week; allowed: {allowed}", USAGE)
        begin, end = week.index(first), week.index(last)
        chosen.update(week[begin : end + 1] if begin <= end else (*week[begin:], *week[: end + 1]))
    return tuple(day for day in week if day in chosen)


def _local_time_zone() -> str:
    if zone := os.environ.get("TZ", "").removeprefix(":"):
        return zone
    _, separator, zone = os.path.realpath("/etc/localtime").partition("/zoneinfo/")
    if not separator:
        raise CliError(
            "--time-zone: the time zone of this machine is not known; name one, such as"
            " Europe/Berlin",
            USAGE,
        )
    return zone


def _see(target: Target, name: str, said: str) -> str:
    return f"session {name} {said}; see {PROGRAM} session show {name}{target.flags}"


def _tell(raw: Raw, said: str, output: Output) -> None:
    print_object(without_managed_fields(raw), output, lambda: [said] if said else [])


@app.command(
    epilog=examples(
        "session share alice-desktop bob@example.com",
        "session share alice-desktop bob@example.com --role collaborator --expires-in 2h",
    )
)
@with_backend
def share(
    target: Target,
    name: Name,
    guest: Guest,
    role: Annotated[GuestRole, typer.Option(help=GUEST_ROLES)] = GuestRole.VIEWER,
    expires_in: Annotated[
        str | None,
        typer.Option(help="Duration, such as 2h; default: as long as the session exists."),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Share a desktop with a guest. An existing share with the same guest is replaced. Needs the
    gateway.
    """
    expires = None
    if expires_in:
        expires = now_utc() + timedelta(seconds=seconds_of("--expires-in", expires_in))
    raw = target.run(_action(name, Share(guest, role, expires)))
    session = operations.as_session(raw)
    made = next(share for share in session.spec.access if same_user(share.user, guest))
    until = f" until {made.expires}" if made.expires else ""
    url = session.status.url
    said = f"session {name} is shared with {made.user} as {made.role}{until}"
    _tell(raw, f"{said}; send them its address: {url}" if url else said, output)


@app.command(
    epilog=examples(
        "session computer alice-desktop screenshot -f screen.png",
        "session computer alice-desktop click 640 360",
        "session computer alice-desktop scroll 640 360 down 3",
        "session computer alice-desktop type 'ls -l'",
        "session computer alice-desktop key Return",
    )
)
@with_backend
def computer(
    target: Target,
    name: Name,
    words: Annotated[list[str], typer.Argument(metavar="ACTION...", help=f"One of: {ACTIONS}.")],
    file: Annotated[Path, typer.Option("--file", "-f", help="Where the picture goes.")] = Path(
        "screenshot.png"
    ),
    output: OutputOption = Output.TABLE,
) -> None:
    """See the screen of a desktop and send it keys and clicks, as agents do. Through the gateway
    only.

    The template must enable agents.
    """
    body = parse_action(words)
    answer = gateway_of(target, "actions go through a gateway").run(
        lambda backend: backend.computer(name, body)
    )
    lines = [text] if (text := answer.get("text")) else []
    if output is Output.TABLE and (picture := answer.get("png")):
        try:
            file.write_bytes(b64decode(picture))
        except (OSError, ValueError) as error:
            raise CliError(f"{file} cannot be written: {error}", COULD_NOT_LOOK) from error
        lines.append(f"session {name}: the screenshot is in {file}")
    print_object(answer, output, lambda: map(escape, lines))


@app.command(epilog=examples("session unshare alice-desktop bob@example.com"))
@with_backend
def unshare(target: Target, name: Name, guest: Guest, output: OutputOption = Output.TABLE) -> None:
    """End a share. The guest is disconnected; programs that the guest started keep running."""

    async def work(backend: Backend) -> tuple[Raw, bool]:
        session = await operations.get_session(backend, name)
        has_controlled = any(
            same_user(share.user, guest) and share.role in FULL_CONTROL
            for share in session.spec.access
        )
        return await backend.act(session, Unshare(guest)), has_controlled

    raw, has_controlled = target.run(work)
    said = f"session {name} is no longer shared with {guest}"
    if has_controlled:
        said += (
            f"\nPrograms that {guest} started in the desktop are still running. To end them: "
            f"{PROGRAM} session restart {name}{target.flags}"
        )
    _tell(raw, said, output)


@app.command(
    epilog=examples("session probe alice-desktop", "session probe alice-desktop --keys 100 -o json")
)
@with_backend
def probe(
    target: Target,
    name: Name,
    keys: Annotated[int, typer.Option(min=20, max=100, help="Number of keys to press.")] = 40,
    output: OutputOption = Output.TABLE,
) -> None:
    """Measure the latency of a desktop: first picture, frames per second, input to picture, bit
    rate, lost frames.

    The probe connects as a browser does (portal, Traefik, TLS, WebSocket), decodes the pictures,
    and presses keys that no application receives. A small mark flickers in the upper left corner
    for a few seconds; nothing else is affected. The idle timeout does not count it as activity. The
    gateway adds the results to its metrics.

    Status 0: 95 of 100 keys have a visible effect within 50 ms; 1: they do not, or there is no
    picture; 3: the desktop could not be measured.
    """
    from vdi.cli.session.probe import over_goal, probe_session, report_lines

    report = probe_session(target, name, keys)
    print_object(msgspec.to_builtins(report), output, lambda: report_lines(report))
    if not report.within_goal:
        raise CliError(over_goal(report))
