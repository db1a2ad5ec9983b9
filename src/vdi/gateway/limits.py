"""How much one person may have: sessions and GPUs at once, hours per month. Pure; default: no limits.

    default: {sessions: 3, gpus: 2, hoursPerMonth: 200}
    groups:
      students: {sessions: 1}
    users:
      alice@example.com: {gpus: 8}

Each number is looked for by itself: with the user, then among the groups of the person (the most generous counts),
then in `default`. A number that is found nowhere does not limit.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
import yaml

from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.gateway.users import User, normal_user


class LimitsError(Exception):
    """Raised when a limits file cannot be used; names the field, the value and what is allowed."""


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"hours": "hoursPerMonth"}):
    """Numbers for one person or group; None: not limited here."""

    sessions: int | None = None
    """Sessions at once; suspended ones are not counted."""
    gpus: int | None = None
    """GPUs (or shares of one) at once, of all sessions that are not suspended."""
    hours: float | None = None
    """Hours that desktops may run in a calendar month (UTC). One that runs is not cut off; no new run begins."""

    @property
    def limits_anything(self) -> bool:
        """Whether any number is set."""
        return (self.sessions, self.gpus, self.hours) != (None, None, None)


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All limits of this gateway. Users as `people.normal_user` writes them."""

    default: Limit = Limit()
    groups: dict[str, Limit] = {}
    users: dict[str, Limit] = {}

    def of(self, user: User) -> Limit:
        """The numbers that hold for this person."""
        own = self.users.get(user.email, Limit())
        by_group = [self.groups[group] for group in user.groups if group in self.groups]

        def number(name: str) -> Any:
            if (mine := getattr(own, name)) is not None:
                return mine
            given = [getattr(limit, name) for limit in by_group if getattr(limit, name) is not None]
            return max(given) if given else getattr(self.default, name)

        return Limit(sessions=number("sessions"), gpus=number("gpus"), hours=number("hours"))


def read_limits(text: str, source: str) -> Limits:
    """Limits from YAML; an empty file has no limits. Raises LimitsError."""
    try:
        raw = yaml.safe_load(text)
        limits = msgspec.convert(raw if raw is not None else {}, Limits)
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise LimitsError(f"{source}: {error}; allowed are {_ALLOWED}") from error
    for where, limit in (("default", limits.default), *_named("groups", limits.groups), *_named("users", limits.users)):
        for name in ("sessions", "gpus", "hours"):
            number = getattr(limit, name)
            if number is not None and not 0 <= number < float("inf"):
                raise LimitsError(f"{source}: {where}.{name}: {number} is not allowed; it is 0 or more")
    return Limits(limits.default, limits.groups, {normal_user(user): limit for user, limit in limits.users.items()})


def gpus_of(session: VDISession, template: VDITemplate | None) -> int:
    """GPUs that the session has or will have; of a template that is gone, as its own spec says."""
    offered = template.spec.resources.default_gpu if template else 1
    if offered == 0:
        return 0
    return session.spec.resources.gpu if session.spec.resources else offered


def refusal(
    limit: Limit, user: User, new: tuple[str, int], others: Iterable[tuple[str, int]], hours_used: float
) -> str | None:
    """Why this person's next run would be too much; None: it is not.

    `new` is name and GPUs of the session that would run, `others` those of the person's that are not suspended.
    """
    held = sorted(other for other in others if other[0] != new[0])
    names = ", ".join(name for name, _ in held) or "none"
    if limit.sessions is not None and len(held) + 1 > limit.sessions:
        return (
            f"You may have {_count(limit.sessions, 'desktop')} at once, and have {names}. "
            "Suspend or end one first; suspended desktops do not count."
        )
    taken = sum(gpus for _, gpus in held)
    if limit.gpus is not None and new[1] and taken + new[1] > limit.gpus:
        return (
            f"You may use {_count(limit.gpus, 'GPU')} at once; your desktops ({names}) use {taken}, and this one "
            f"would use {new[1]}. Suspend or end one first, or ask for fewer."
        )
    if limit.hours is not None and hours_used >= limit.hours:
        return (
            f"Your desktops may run {limit.hours:g} hours in a calendar month and have run {hours_used:.1f}. "
            f"The count starts again on the first; ask an administrator if {user.email} needs more."
        )
    return None


def _count(number: int, what: str) -> str:
    return f"no {what}s" if number == 0 else f"{number} {what}{'' if number == 1 else 's'}"


def _named(kind: str, entries: dict[str, Limit]) -> Iterable[tuple[str, Limit]]:
    return ((f"{kind}.{name}", entry) for name, entry in entries.items())


_ALLOWED = "default, groups.NAME and users.EMAIL, each with any of sessions, gpus and hoursPerMonth (numbers)"
