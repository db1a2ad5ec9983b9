"""How much a person has, beside how much they may have: for the API's `/me` and `/admin/users`, and the portal."""

from collections.abc import Iterable
from typing import Annotated

import msgspec

from vdi.api.constraints import doc
from vdi.api.session import VDISession
from vdi.gateway.cluster_cache import ClusterCache
from vdi.gateway.limits import Limit, counts, gpus_of, home_bytes
from vdi.gateway.users import same_user

_GIB = 1 << 30


class Amount(msgspec.Struct):
    """One number, and the most that it may be."""

    used: Annotated[float, doc("Current usage.")]
    limit: Annotated[float | None, doc("The limit; null if not limited.")] = None


class Use(msgspec.Struct, rename="camel"):
    """What one person has."""

    sessions: Annotated[Amount, doc("Running desktops, and suspended ones with a schedule.")]
    gpus: Annotated[Amount, doc("GPUs (or shares of one) in use.")]
    hours_per_month: Annotated[Amount, doc("Hours that desktops have run in this calendar month (UTC).")]
    gpu_hours_per_month: Annotated[Amount, doc("GPU hours (hours times GPUs) in this calendar month (UTC).")]
    home_storage: Annotated[Amount, doc("Size of all homes together, in GiB.")]


def use_of(cluster: ClusterCache, limit: Limit, user: str, hours: float, gpu_hours: float) -> Use:
    """As it is now; `hours` and `gpu_hours` of this month are asked from history."""
    mine = running_of(cluster.sessions.values(), user)
    gpus = sum(gpus_of(session, cluster.template(session.spec.template)) for session in mine)
    homes = sum(home_bytes(home) for home in cluster.homes_of(user) if not home.deleted)
    most = limit.home_bytes
    return Use(
        sessions=Amount(len(mine), limit.sessions),
        gpus=Amount(gpus, limit.gpus),
        hours_per_month=Amount(round(hours, 2), limit.hours),
        gpu_hours_per_month=Amount(round(gpu_hours, 2), limit.gpu_hours),
        home_storage=Amount(round(homes / _GIB, 2), None if most is None else round(most / _GIB, 2)),
    )


def running_of(sessions: Iterable[VDISession], user: str) -> list[VDISession]:
    """The sessions of a user that count in the limits."""
    return [session for session in sessions if same_user(session.spec.user, user) and counts(session)]
