"""Actions on a session as the portal's forms and the bar request them: the action's name, and
fields of text.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta

from vdi.api.schedule import SessionSchedule
from vdi.api.session import GuestRole
from vdi.gateway.actions import Actions
from vdi.gateway.component import GatewayContext
from vdi.gateway.denied import ActionDenied, invalid
from vdi.gateway.desktop.access import find_to_act
from vdi.gateway.desktop.computer import Computer
from vdi.gateway.desktop.recordings import Recordings
from vdi.gateway.rights import Action, User
from vdi.session.schedule import day_names

# Durations of a share, with their labels.
SHARE_TIMES: Mapping[str, tuple[str, timedelta | None]] = {
    "1h": ("1 hour", timedelta(hours=1)),
    "8h": ("8 hours", timedelta(hours=8)),
    "1d": ("1 day", timedelta(days=1)),
    "7d": ("1 week", timedelta(days=7)),
    "open": ("as long as the desktop exists", None),
}


@dataclass(eq=False)
class FormActions:
    """Reads the fields of a request, and calls what decides about it."""

    context: GatewayContext
    actions: Actions
    computer: Computer
    recordings: Recordings

    async def carry_out(self, user: User, name: str, action: str, form: Mapping[str, str]) -> None:
        """Raises ActionDenied; also for a word that is no action of a form."""

        def field(key: str) -> str:
            return form.get(key, "")

        actions = self.actions
        match action:
            case Action.SUSPEND:
                await actions.suspend(user, name)
            case Action.RESUME:
                await actions.resume(user, name)
            case Action.RESTART:
                await actions.restart(user, name)
            case Action.END:
                await actions.end(user, name, delete_home=field("delete_home") == "yes")
            case Action.EXTEND:
                await actions.extend(user, name, field("length"))
            case Action.RESIZE:
                memory, cpu = field("memory")[:32] or None, field("cpu")[:32] or None
                await actions.resize(user, name, memory, cpu, field("gpu"))
            case Action.SCHEDULE:
                await actions.schedule(
                    user, name, None if field("remove") == "yes" else read_schedule(form)
                )
            case Action.SHARE:
                role, (_, span) = (
                    _read_role(form),
                    SHARE_TIMES[_read_choice("for", field("for"), SHARE_TIMES)],
                )
                expires = self.context.clock() + span if span else None
                await actions.share(user, name, field("user"), role, expires)
            case Action.UNSHARE:
                await actions.unshare(user, name, field("user"))
            case Action.REQUEST_ACCESS:
                await actions.request_access(user, name, _read_role(form), field("for"))
            case Action.ANSWER_ACCESS:  # `allow` or `refuse` has `expires` of the request
                await actions.answer_access(
                    user, name, field("allow") or field("refuse"), allow="allow" in form
                )
            case Action.DRIVE:
                await self.computer.switch(user.actor, name, human=field("human") == "yes")
            case Action.RECORD:
                session = await find_to_act(self.context, user, Action.RECORD, name)
                await self.recordings.switch(user, session, wanted=field("on") == "yes")
            case _:
                raise ActionDenied("NotFound", f"{action!r} is not a possible action.")


def read_schedule(form: Mapping[str, str]) -> SessionSchedule:
    """The schedule of a filled form; `actions` checks it."""
    return SessionSchedule(
        start=form.get("start", ""),
        end=form.get("until") or None,
        days=tuple(day for day in day_names() if form.get(day) == "yes"),
        time_zone=form.get("time_zone", ""),
    )


def _read_role(form: Mapping[str, str]) -> GuestRole:
    return GuestRole(_read_choice("role", form.get("role", ""), [*GuestRole]))


def _read_choice(field: str, value: str, allowed: Collection[str]) -> str:
    if value not in allowed:
        raise invalid(field, value, f"one of {', '.join(allowed)}")
    return value
