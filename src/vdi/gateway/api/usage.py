"""How much a person has, beside how much they may have: for `/me` and `/admin/users`."""

from collections.abc import Iterable
from typing import Annotated

import msgspec

from vdi.api.constraints import doc
from vdi.api.session import VDISession
from vdi.gateway.api.services import ApiServices
from vdi.gateway.limits import gpus_of
from vdi.gateway.users import User, same_user


class Amount(msgspec.Struct):
    """One number, and the most that it may be."""

    used: Annotated[float, doc("What there is now.")]
    limit: Annotated[float | None, doc("The most; null: not limited.")] = None


class Use(msgspec.Struct, rename="camel"):
    """What one person has."""

    sessions: Annotated[Amount, doc("Desktops at once; suspended ones do not count.")]
    gpus: Annotated[Amount, doc("GPUs (or shares of one) at once.")]
    hours_per_month: Annotated[Amount, doc("Hours that desktops have run in this calendar month (UTC).")]


def use_of(api: ApiServices, user: User, hours: float) -> Use:
    """As it is now; `hours` that this month's desktops ran are asked from history."""
    limit = api.limits.of(user)
    mine = running_of(api.context.cluster.sessions.values(), user.email)
    gpus = sum(gpus_of(session, api.context.cluster.template(session.spec.template)) for session in mine)
    return Use(Amount(len(mine), limit.sessions), Amount(gpus, limit.gpus), Amount(round(hours, 2), limit.hours))


def running_of(sessions: Iterable[VDISession], user: str) -> list[VDISession]:
    """The sessions of a user that count: neither suspended nor ending."""
    return [
        session
        for session in sessions
        if same_user(session.spec.user, user) and not session.spec.suspended and not session.metadata.deletion_timestamp
    ]
