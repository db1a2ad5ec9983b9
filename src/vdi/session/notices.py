"""What is shown inside the desktop: one notice for each warning that holds. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from vdi.api.session import VDISession
from vdi.session.alerts import Alert
from vdi.session.conditions import CLOSING, DRAINING, EXPIRING, IDLE, WARNING_TYPES

_TITLES = {
    EXPIRING: "This desktop ends soon",
    CLOSING: "Working hours end soon",
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
    until_input: bool = False
    """Whether it disappears at the next input."""


def find_notices(before: VDISession, alerts: Sequence[Alert]) -> list[Notice]:
    """What has to be shown now, and what was shown and is to go."""
    shown = [Notice(alert.type, _TITLES[alert.type], alert.message, alert.until, alert.until_input) for alert in alerts]
    was = {condition.type for condition in before.status.conditions if condition.type in WARNING_TYPES}
    return shown + [Notice(kind) for kind in sorted(was - {alert.type for alert in alerts})]
