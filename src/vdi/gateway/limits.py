"""Limits of one user: sessions and GPUs at once, hours per month, size of homes; and the size of a
desktop. Pure.

    default: {sessions: 3, gpus: 2, hoursPerMonth: 200, gpuHoursPerMonth: 100, homeStorage: 100Gi}
    groups:
      students: {sessions: 1}
    users:
      alice@example.com: {gpus: 8}

Each number is looked up on its own: for the user, then in the user's groups (the most generous
counts), then in `default`. A number that is found nowhere does not limit.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import yaml

from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.units import parse_quantity
from vdi.gateway.rights import User
from vdi.session import effective
from vdi.session.homes import Home, HomeSummary
from vdi.session.naming import normal_name

_GIB = 1 << 30
# Each limit, and its name in the file.
_FIELDS = {
    "sessions": "sessions",
    "gpus": "gpus",
    "hours": "hoursPerMonth",
    "gpu_hours": "gpuHoursPerMonth",
    "home_storage": "homeStorage",
}
_ALLOWED = (
    "default, groups.NAME and users.EMAIL, each with any of sessions, gpus, hoursPerMonth,"
    " gpuHoursPerMonth (numbers) and homeStorage (such as 100Gi)"
)


class LimitsError(Exception):
    """Raised when a limits file cannot be used; names the field, the value and what is allowed."""


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename=_FIELDS):
    """Limits of one user or group; None: not limited here."""

    # Sessions at once; suspended ones without a schedule are not counted.
    sessions: int | None = None
    # GPUs (or shares of one) at once, of all sessions that are not suspended.
    gpus: int | None = None
    # Hours that desktops may run in a calendar month (UTC). One that runs is not cut off; no new
    # run begins.
    hours: float | None = None
    # Hours times GPUs (or shares of one) in a calendar month, likewise; desktops without GPUs still
    # start.
    gpu_hours: float | None = None
    # Size of all homes of a user together, such as 100Gi. A home that exists is not taken away.
    home_storage: str | None = None

    @property
    def limits_anything(self) -> bool:
        """Whether any limit is set."""
        return any(getattr(self, name) is not None for name in _FIELDS)

    @property
    def home_bytes(self) -> float | None:
        """The limit of all homes together in bytes."""
        if self.home_storage is None:
            return None
        return float(parse_quantity(self.home_storage))


@dataclass(frozen=True, slots=True)
class MonthUse:
    """Usage of one user's desktops in a calendar month."""

    hours: float
    gpu_hours: float
    until: datetime  # when the count restarts


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All limits of this gateway. Names of users and groups are as `naming.normal_name` writes
    them.
    """

    default: Limit = Limit()
    groups: dict[str, Limit] = {}
    users: dict[str, Limit] = {}

    def of(self, user: User) -> Limit:
        """The limits of this user, each number looked up on its own."""
        own = self.users.get(user.email, Limit())
        by_group = [self.groups[group] for group in user.groups if group in self.groups]

        def number(name: str) -> Any:
            if (mine := getattr(own, name)) is not None:
                return mine
            given = []
            for limit in by_group:
                if getattr(limit, name) is not None:
                    given.append(getattr(limit, name))
            if given:
                return max(given, key=_amount)
            return getattr(self.default, name)

        return Limit(**{name: number(name) for name in _FIELDS})


def read_limits(text: str, source: str) -> Limits:
    """Limits from YAML; an empty file has no limits. Raises LimitsError."""
    try:
        raw = yaml.safe_load(text)
        limits = msgspec.convert(raw if raw is not None else {}, Limits)
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise LimitsError(f"{source}: {error}; allowed: {_ALLOWED}") from error
    every = {"default": limits.default}
    every |= {f"groups.{name}": limit for name, limit in limits.groups.items()}
    every |= {f"users.{name}": limit for name, limit in limits.users.items()}
    for where, limit in every.items():
        for name, field in _FIELDS.items():
            number = getattr(limit, name)
            try:
                allowed = number is None or 0 <= _amount(number) < float("inf")
            except ValueError as why:
                raise LimitsError(f"{source}: {where}.{field}: {why}") from why
            if not allowed:
                raise LimitsError(
                    f"{source}: {where}.{field}: {number} is not allowed; allowed: 0 or more"
                )
    return Limits(
        limits.default,
        _normal("groups", limits.groups, source),
        _normal("users", limits.users, source),
    )


def _normal(where: str, limits: dict[str, Limit], source: str) -> dict[str, Limit]:
    named = {normal_name(name): limit for name, limit in limits.items()}
    if len(named) < len(limits):
        raise LimitsError(
            f"{source}: {where}: a name is given twice; allowed: once, in upper or lower case"
        )
    return named


def counts(session: VDISession) -> bool:
    """Whether the session counts in its user's limits: it is neither ending nor suspended."""
    # A suspended one with a schedule counts too: the operator resumes it, and knows no limits.
    is_resumed = not session.spec.suspended or session.spec.schedule is not None
    return is_resumed and not session.metadata.deletion_timestamp


def refusal(
    limit: Limit,
    user: User,
    new: tuple[str, int],
    others: Iterable[tuple[str, int]],
    used: MonthUse,
) -> str | None:
    """The limit that the user's next run would exceed, as a sentence; None: it exceeds none.

    `new` is name and GPUs of the session that would run; `others` of those of the user's that
    count.
    """
    # A session that is resumed may be among the others already: it is counted once.
    held = sorted(other for other in others if other[0] != new[0])
    names = ", ".join(name for name, _ in held) or "none"
    if limit.sessions is not None and len(held) + 1 > limit.sessions:
        return (
            f"You can have at most {_count(limit.sessions, 'desktop')} running, and you have"
            f" {names}. Suspend or end one first. Suspended desktops without a schedule do not"
            " count."
        )
    taken = sum(gpus for _, gpus in held)
    if limit.gpus is not None and new[1] and taken + new[1] > limit.gpus:
        return (
            f"You can use at most {_count(limit.gpus, 'GPU')}. Your desktops ({names}) use {taken},"
            f" and this one would use {new[1]}. Suspend or end one first, or request fewer."
        )
    # Used-up hours refuse new runs only. A running desktop is never cut off: that would cost its
    # user's work.
    restart = f"The count restarts on {used.until:%Y-%m-%d at %H:%M} UTC."
    if limit.hours is not None and used.hours >= limit.hours:
        return (
            f"Your desktops may run {limit.hours:g} hours per calendar month and have run"
            f" {used.hours:.1f}. {restart} Ask an administrator if {user.email} needs more."
        )
    if limit.gpu_hours is not None and new[1] and used.gpu_hours >= limit.gpu_hours:
        return (
            f"Your desktops may use {limit.gpu_hours:g} GPU hours per calendar month and have used"
            f" {used.gpu_hours:.1f}. {restart} Desktops without a GPU still start. Ask an"
            f" administrator if {user.email} needs more."
        )
    return None


def home_refusal(limit: Limit, new: Home, homes: Mapping[str, float]) -> str | None:
    """The refusal of a home that exceeds the limit. `homes`: bytes of each that the user has or
    will have.
    """
    most = limit.home_bytes
    size, used = float(parse_quantity(new.size)), sum(homes.values())
    if most is None or used + size <= most:
        return None
    names = ", ".join(f"{name} {_gib(size)}" for name, size in sorted(homes.items())) or "none"
    return (
        f"Your homes may take up {_gib(most)} in total and take up {_gib(used)} ({names}). This"
        f" desktop would add a home of {_gib(size)}. Delete a home that you no longer need, which"
        " frees its space at once. Or ask an administrator."
    )


def home_bytes(home: HomeSummary) -> float:
    """The size of a home in bytes; 0 where it cannot be read."""
    return _read_quantity(home.size) or 0.0


def _gib(size: float) -> str:
    return f"{size / _GIB:.4g} GiB"


def _amount(value: float | str) -> float:
    if isinstance(value, str):
        return float(parse_quantity(value))
    return value


def _count(number: int, what: str) -> str:
    if number == 1:
        return f"1 {what}"
    return f"{number or 'no'} {what}s"


def size_of(template: VDITemplate, session: VDISession) -> dict[str, Any]:
    """`gpus`, `cpu` and `memory_gib` of a session's desktop, for the history; None: the quantity
    cannot be read.
    """
    size = effective.size_of(session.spec, template.spec.resources)
    memory = _read_quantity(size.memory)
    return {
        "gpus": size.gpu,
        "cpu": _read_quantity(size.cpu),
        "memory_gib": None if memory is None else memory / _GIB,
    }


def _read_quantity(quantity: str) -> float | None:
    try:
        return float(parse_quantity(quantity))
    except ValueError:
        return None
