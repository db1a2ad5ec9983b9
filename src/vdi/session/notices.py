"""What is shown inside the desktop: one notice for each warning that holds. Pure."""

from dataclasses import dataclass

from vdi.api.meta import Condition
from vdi.session.conditions import DRAINING, EXPIRING, IDLE, WARNING_TYPES

_TITLES = {
    EXPIRING: "This desktop ends soon",
    IDLE: "Are you still there?",
    DRAINING: "This desktop will move",
}


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to read in the desktop. The same `id` replaces; an empty `text` withdraws."""

    id: str
    title: str = ""
    text: str = ""
    until: str = ""
    """When it loses its meaning (RFC 3339); empty: when it is withdrawn."""


def notices_between(before: tuple[Condition, ...], now: tuple[Condition, ...], until: str = "") -> list[Notice]:
    """What has to be shown now, and what was shown and is to go."""
    old, new = ({one.type: one for one in conditions if one.type in WARNING_TYPES} for conditions in (before, now))
    shown = [Notice(kind, _TITLES[kind], one.message, until) for kind, one in new.items()]
    return shown + [Notice(kind) for kind in old if kind not in new]
