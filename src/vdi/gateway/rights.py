"""Users, and what each may do with sessions and templates, with the reason for a refusal. Pure.

Every path into the gateway decides with it: actions, REST API, portal and edge. E-mail addresses and groups have one
spelling that is compared and stored.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from vdi.api.session import Role, VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.units import parse_time
from vdi.session.actions import is_expired
from vdi.session.naming import normal_name
from vdi.session.users import same_user


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who has proven who they are, for as long as the login lasts."""

    # E-mail address as `normal_user` writes it; what `spec.user` of a session is compared with.
    email: str

    # For people to read; never compared.
    name: str = ""
    # As the identity provider or the users' Secret named them at login, as `normal_groups` writes them.
    groups: frozenset[str] = frozenset()
    admin: bool = False
    # The login that this request came with; empty where none did (a test, a background job).
    login_id: str = ""


def normal_groups(names: Iterable[str]) -> frozenset[str]:
    """Groups in the one spelling that is compared and stored."""
    return frozenset(filter(None, map(normal_name, names)))


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


# Computed once: the edge asks with every request.
ACTIONS = {role: _allowed(role) for role in Role}
_GUESTS = {role.value: role for role in Role if role is not Role.OWNER and Action.SEE in ACTIONS[role]}


def role_in(session: VDISession, user: str, now: datetime) -> Role | None:
    """The user's role in the session; None: no access, no access any more, or a role of a later version."""
    if same_user(session.spec.user, user):
        return Role.OWNER
    for access in session.spec.access:
        if same_user(access.user, user) and not is_expired(access, now):
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
