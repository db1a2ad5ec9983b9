"""`vdi session`: share, unshare. Who else may open a desktop; mounted by `session`."""

from datetime import timedelta
from enum import StrEnum
from typing import Annotated

import typer

from vdi.api.session import VDISession
from vdi.cli.options import examples, seconds_of
from vdi.cli.output import Output, Raw, now_utc, print_data, without_managed_fields
from vdi.cli.remote_choice import on_either
from vdi.cli.session_requests import as_session, get_session
from vdi.cli.session_way import Place, Way

app = typer.Typer()

Name = Annotated[str, typer.Argument(help="Name of the session.")]
Guest = Annotated[str, typer.Argument(help="E-mail address of the guest.")]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="What to print.")]


class GuestRole(StrEnum):
    """What a guest may do."""

    VIEWER = "viewer"
    COLLABORATOR = "collaborator"


@app.command(
    epilog=examples(
        "session share alice-desktop bob@example.com",
        "session share alice-desktop bob@example.com --role collaborator --expires-in 2h",
    )
)
@on_either
def share(
    place: Place,
    name: Name,
    guest: Guest,
    role: Annotated[
        GuestRole, typer.Option(help="viewer: sees the desktop; collaborator: uses mouse and keyboard too.")
    ] = GuestRole.VIEWER,
    expires_in: Annotated[
        str | None, typer.Option(help="How long, such as 2h; without it as long as the session is there.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let somebody into a desktop. A share that is there is replaced. The gateway enforces it: there has to be one."""
    length = timedelta(seconds=seconds_of("--expires-in", expires_in)) if expires_in else None

    async def work(way: Way) -> Raw:
        expires = now_utc() + length if length else None
        return await way.share(await get_session(way, name), guest, role, expires)

    raw = place.run(work)
    session = as_session(raw)
    found = next(each for each in session.spec.access if each.user.lower() == guest.strip().lower())
    until = f" until {found.expires}" if found.expires else ""
    url = session.status.url
    said = f"session {name} is shared with {found.user} as {found.role}{until}"
    _tell(raw, f"{said}; tell them its address: {url}" if url else said, output)


@app.command(epilog=examples("session unshare alice-desktop bob@example.com"))
@on_either
def unshare(place: Place, name: Name, guest: Guest, output: OutputOption = Output.TABLE) -> None:
    """Let somebody into a desktop no longer. A picture that they see stops; programs that they started run on."""

    async def work(way: Way) -> tuple[Raw, bool]:
        session = await get_session(way, name)
        return await way.unshare(session, guest), _has_controlled(session, guest)

    raw, has_controlled = place.run(work)
    said = f"session {name} is not shared with {guest} any more"
    if has_controlled:
        said += f"\nPrograms that {guest} started in the desktop still run. End them with: vdi session restart {name}"
    _tell(raw, said, output)


def _has_controlled(session: VDISession, guest: str) -> bool:
    mine = (one for one in session.spec.access if one.user.lower() == guest.strip().lower())
    return any(one.role == GuestRole.COLLABORATOR for one in mine)


def _tell(raw: Raw, said: str, output: Output) -> None:
    if output is not Output.TABLE:
        print_data(without_managed_fields(raw), output)
    else:
        typer.echo(said)
