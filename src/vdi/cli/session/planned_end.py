"""Options of `session suspend` and `session rm` that announce the end in the desktops, of one session or of many."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, NamedTuple

import typer

from vdi.api.session import PlannedEnd
from vdi.api.template import TimeoutAction
from vdi.cli.errors import USAGE, CliError
from vdi.cli.options import Options, replace_parameter, seconds_of
from vdi.cli.output import now_utc
from vdi.cli.session.backend import Backend, Target
from vdi.cli.session.operations import as_session, get_session
from vdi.cluster.units import format_time
from vdi.session.actions import PlanEnd, plannable


class Plan(NamedTuple):
    """The values of these options, which administrators use."""

    template: str
    node: str
    notice: str | None
    message: str

    def carry_out(self, target: Target, action: TimeoutAction, names: Sequence[str]) -> bool:
        """Announce the end, or take that back; False where no option of these is used."""
        if self == Plan("", "", None, "") and names:
            return False
        if bool(names) == bool(self.template or self.node):
            raise CliError("name sessions, or select them with --template or --node", USAGE)
        if self.notice is None:
            raise CliError("--notice is missing: 15m, for example, or off to take an announcement back", USAGE)
        end = None
        if self.notice != "off":
            time = now_utc() + timedelta(seconds=seconds_of("--notice", self.notice))
            end = PlannedEnd(format_time(time), action, self.message)
        target.run(lambda backend: self._send(backend, names, end))
        return True

    async def _send(self, backend: Backend, names: Sequence[str], end: PlannedEnd | None) -> None:
        if names:
            found = [await get_session(backend, name) for name in names]
        else:
            everyones = map(as_session, await backend.everyones())
            found = [session for session in everyones if self.template in ("", session.spec.template)]
            found = [session for session in found if self.node in ("", session.status.node_name)]
        chosen, left = plannable(found, end)
        for session in chosen:
            await backend.act(session, PlanEnd(end))
            what = f"is announced for {end.time}" if end else "is no longer announced"
            typer.echo(f"the end of session {session.metadata.name} {what}")
        if left or not chosen:
            typer.echo(f"{left} more sessions match: run it again" if left else "no session matches", err=True)


_OPTIONS: Options = {
    "template": (Annotated[str, typer.Option(help="All sessions of this template; needs --notice.")], ""),
    "node": (Annotated[str, typer.Option(help="All sessions on this node; needs --notice.")], ""),
    "notice": (
        Annotated[str | None, typer.Option(help="Announce it, and do it after this time, such as 15m; off: cancel.")],
        None,
    ),
    "message": (Annotated[str, typer.Option(help="Reason that the desktops show with --notice.")], ""),
}
# Replaces the parameter after the target, so it stands above `with_backend`.
with_plan = replace_parameter(_OPTIONS, Plan)
