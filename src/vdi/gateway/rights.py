"""Users, and what each may do with sessions and templates, with the reason for a refusal. Pure.

Every path into the gateway decides with it: actions, REST API, portal and edge. E-mail addresses and groups have one
spelling that is compared and stored.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from unicodedata import is_normalized

from vdi.api.constraints import INVISIBLE
from vdi.api.session import Access, Role, VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.units import parse_time
from vdi.session.naming import normal_name


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


_ADDRESS = re.compile(r"[^\s@]+@[^\s@]+\.[^\s@]+")
_INVISIBLE = re.compile(f"[{INVISIBLE}]")
_LONGEST_ADDRESS = 254


def normal_user(text: str) -> str:
    """An e-mail address in the one spelling that is compared and stored."""
    return normal_name(text)


def normal_groups(names: Iterable[str]) -> frozenset[str]:
    """Groups in the one spelling that is compared and stored."""
    return frozenset(filter(None, map(normal_name, names)))


class AddressError(ValueError):
    """Raised for text that is not an e-mail address we take."""

    def __init__(self, shown: str, why: str, allowed: str) -> None:
        self.shown = shown
        """The text without quotes; escaped where it could hide or reverse the text around it."""
        self.allowed = allowed
        super().__init__(f"'{shown}' {why}; allowed: {allowed}")


def check_address(text: str) -> str:
    """The e-mail address as it is stored: for every address that somebody enters or an identity provider sends.

    Raises AddressError.
    """
    user = normal_user(text)
    if not user.isprintable() or _INVISIBLE.search(user) or not is_normalized("NFC", user):
        shown = text[:260].encode("unicode_escape").decode()
        why = "has invisible characters, or characters that look like others"
        raise AddressError(shown, why, "visible characters in Unicode's composed form (NFC)")
    if not _ADDRESS.fullmatch(user) or len(user) > _LONGEST_ADDRESS:
        raise AddressError(text[:260], "is not an e-mail address", "addresses such as alice@example.com")
    return user


def same_user(one: str, other: str) -> bool:
    """Whether two addresses mean the same person."""
    return normal_user(one) == normal_user(other)


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
