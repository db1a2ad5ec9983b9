"""Who may do what, and why not in words. Pure."""

from datetime import datetime
from enum import StrEnum

from vdi.api.session import Access, Role, VDISession
from vdi.api.template import VDITemplate
from vdi.gateway.users import User, normal_groups, same_user
from vdi.session.times import parse_time


class Action(StrEnum):
    """What a person can do with a session that is there."""

    SEE = "see"
    OPEN = "open"
    RESUME = "resume"
    SUSPEND = "suspend"
    RESTART = "restart"
    EXTEND = "extend"
    SCHEDULE = "schedule"
    END = "end"
    SHARE = "share"
    UNSHARE = "unshare"


def _allowed(role: Role) -> frozenset[Action]:
    match role:
        case Role.OWNER:
            return frozenset(Action)
        case Role.COLLABORATOR:
            return frozenset({Action.SEE, Action.OPEN, Action.RESUME})
        case Role.VIEWER:
            return frozenset({Action.SEE, Action.OPEN})
    return frozenset()


def _is_for_admins(action: Action) -> bool:
    """An administrator keeps order among desktops and does not look into them, nor lets others do so."""
    match action:
        case Action.OPEN | Action.SHARE:
            return False
        case Action.SEE | Action.RESUME | Action.SUSPEND | Action.RESTART | Action.END:
            return True
        case Action.EXTEND | Action.SCHEDULE | Action.UNSHARE:
            return True
    return False


ACTIONS = {role: _allowed(role) for role in Role}
"""Computed once: the edge asks with every request."""
_GUESTS = {role.value: role for role in Role if role is not Role.OWNER and Action.SEE in ACTIONS[role]}


def is_over(access: Access, now: datetime) -> bool:
    """Whether this share has run out. An end that cannot be read is no permission to stay."""
    try:
        return bool(access.expires) and parse_time(access.expires or "") <= now
    except ValueError:
        return True


def role_in(session: VDISession, user: str, now: datetime) -> Role | None:
    """The user's role in the session; None: no access, no access any more, or a role of a later version."""
    if same_user(session.spec.user, user):
        return Role.OWNER
    for access in session.spec.access:
        if same_user(access.user, user) and not is_over(access, now):
            return _GUESTS.get(access.role)
    return None


def access_ends(session: VDISession, user: str) -> datetime | None:
    """When this user's share in the session ends; None: it has no end, or there is no share."""
    for access in session.spec.access:
        if same_user(access.user, user) and access.expires:
            return parse_time(access.expires)
    return None


def may_use(template: VDITemplate, user: User) -> bool:
    """Whether the person may start desktops of this template. A template without names is for everyone."""
    access = template.spec.access
    if user.admin or not (access.users or access.groups):
        return True
    return any(same_user(email, user.email) for email in access.users) or not user.groups.isdisjoint(
        normal_groups(access.groups)
    )


def knows_of(session: VDISession, user: User, now: datetime) -> bool:
    """Whether the person may know that this session is there."""
    return user.admin or role_in(session, user.email, now) is not None


def refusal(user: User, action: Action, session: VDISession, now: datetime) -> str | None:
    """Why the person may not do this; None: they may. Of a session that they may not know of, it names nothing."""
    name = session.metadata.name
    role = role_in(session, user.email, now)
    if (role and action in ACTIONS[role]) or (user.admin and _is_for_admins(action)):
        return None
    if role is None and not user.admin:
        return f"You have no desktop {name!r}, and no desktop with this name is shared with you."
    if role is None:
        return f"Only {session.spec.user}, the owner of desktop {name!r}, and users it is shared with may {action} it."
    allowed = ", ".join(sorted(ACTIONS[role]))
    whose = f"{session.spec.user}'s desktop {name!r}"
    return f"As {role} of {whose} you may not {action} it. Allowed: {allowed}. Ask {session.spec.user}."
