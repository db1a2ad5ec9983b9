"""Actions on a session, carried out by whoever does them, for REST API, portal and the bar over a
desktop.

A form and the bar send fields of text, whose names are those of the action's struct.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from vdi.api.session import VDISession
from vdi.gateway.actions import Actions
from vdi.gateway.component import GatewayContext
from vdi.gateway.denied import ActionDenied
from vdi.gateway.desktop.access import find_session, find_to_act
from vdi.gateway.desktop.computer import Computer
from vdi.gateway.desktop.recordings import Recordings
from vdi.gateway.rights import Action, User
from vdi.gateway.validation import from_validation
from vdi.session.actions import (
    ACTIONS,
    AnyAction,
    Drive,
    End,
    PatchAction,
    Record,
    Schedule,
    SetSchedule,
)
from vdi.session.schedule import day_names

# Durations of a share, with their labels; the last one: as long as the desktop exists.
SHARE_LENGTHS: Mapping[str, str] = {
    "5m": "5 minutes",
    "15m": "15 minutes",
    "1h": "1 hour",
    "8h": "8 hours",
    "24h": "1 day",
    "168h": "1 week",
    "": "as long as the desktop exists",
}


@dataclass(eq=False)
class SessionActions:
    """Carries out every action of `vdi.session.actions`."""

    context: GatewayContext
    actions: Actions
    computer: Computer
    recordings: Recordings

    async def carry_out(self, user: User, name: str, action: AnyAction) -> VDISession | None:
        """The session as it then is; None: it has ended. Raises ActionDenied."""
        if isinstance(action, PatchAction):
            return await self.actions.act(user, name, action)
        match action:
            case End(delete_home):
                await self.actions.end(user, name, delete_home=delete_home)
                return None
            case Drive(human):
                await self.computer.switch(user.actor, name, human=human)
            case Record(on):
                session = await find_to_act(self.context, user, Action.RECORD, name)
                await self.recordings.switch(user, session, wanted=on)
        session, _ = find_session(self.context, user, name)
        return session

    async def carry_out_form(
        self, user: User, name: str, action: str, form: Mapping[str, str]
    ) -> None:
        """The same for the fields of a form."""
        await self.carry_out(user, name, read_form(action, form))


def read_form(action: str, form: Mapping[str, str]) -> AnyAction:
    """The action of a filled form. Raises ActionDenied; also for a word that is no action.

    Other fields are ignored (a form has its CSRF token), and an empty one is one that was left out.
    """
    shape = ACTIONS.get(action)
    if shape is None:
        raise ActionDenied("NotFound", f"{action!r} is not a possible action.")
    if shape is SetSchedule:
        return SetSchedule(None if form.get("remove") else read_schedule(form))
    fields: dict[str, str] = {}
    for field in msgspec.structs.fields(shape):
        if form.get(field.encode_name):
            fields[field.encode_name] = form[field.encode_name]
    try:
        return msgspec.convert(fields, shape, strict=False)
    except msgspec.ValidationError as error:
        raise from_validation(error, fields, shape) from error


def read_schedule(form: Mapping[str, str]) -> Schedule:
    """The schedule of a filled form; `Actions` checks it."""
    return Schedule(
        start=form.get("start", ""),
        end=form.get("until") or None,
        days=tuple(day for day in day_names() if form.get(day) == "yes"),
        time_zone=form.get("time_zone", ""),
    )
