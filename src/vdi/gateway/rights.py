"""Users, and what each may do with sessions and templates, with the reason for a refusal. Pure.

Every path into the gateway decides with it: actions, REST API, portal and edge. E-mail addresses
and groups have one spelling that is compared and stored.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal

import msgspec

from vdi.api.session import Role, VDISession
from vdi.api.template import Agents, VDITemplate
from vdi.cluster.units import parse_time
from vdi.session.actions import is_expired
from vdi.session.naming import DRIVER, normal_name
from vdi.session.users import same_user

# Code and reason of a refusal.
Refused = tuple[str, str]
# `User.login_id` begins with it where the request came with an API token.
TOKEN_ID = "token:"  # noqa: S105


@dataclass(frozen=True, slots=True)
class User:
    """An authenticated user, for one request."""

    # In the spelling of `normal_user`; `spec.user` of a session is compared with it.
    email: str
    # Shown to people; never compared.
    name: str = ""
    # From the identity provider or the users' Secret at login, in the spelling of `normal_groups`.
    groups: frozenset[str] = frozenset()
    admin: bool = False
    # Reads everyone's history, audit, transfers and recordings; has no right to others' desktops.
    auditor: bool = False
    # The login or API token of the request; empty for background work.
    login_id: str = ""

    @property
    def may_audit(self) -> bool:
        return self.admin or self.auditor

    @property
    def actor(self) -> "Actor":
        """The user as one who drives desktops."""
        return Actor(self.email, login_id=self.login_id)


@dataclass(frozen=True, slots=True)
class Actor:
    """Someone who drives desktops: a user, or a program with one of their API tokens.

    No `User`, so a token of one session can do nothing else.
    """

    user: str
    # Label of the API token; empty for a user in a browser.
    token: str = ""
    # The one session that the token is for; empty: each of the user's.
    session_uid: str = ""
    login_id: str = ""


def is_token(login_id: str) -> bool:
    """Whether this is the id of an API token: a program's, and not a person's own login."""
    return login_id.startswith(TOKEN_ID)


class Driver(msgspec.Struct, omit_defaults=True):
    """The driver of a desktop now."""

    # Agent: a program. Human: a person has taken over. Parked: the program waits for a person.
    state: Literal["Agent", "Human", "Parked"]
    # The person who has taken over; else the user whose program it is, and the label of its API
    # token.
    user: str
    token: str = ""
    reason: str = ""

    @property
    def line(self) -> str:
        """The line that people at the desktop read."""
        agent = f"started by {self.user}" + (f"'s token {self.token}" if self.token else "")
        if self.state == "Agent":
            return f"An agent drives this desktop, {agent}"
        if self.state == "Human":
            return f"{self.user} has taken over from the agent"
        return f"The agent, {agent}, asks for a person: {self.reason}"

    @property
    def code(self) -> str:
        """The code of a refusal while no program may act."""
        if self.state == "Parked":
            return "Parked"
        return "HumanInControl"


def taken_by(session: VDISession) -> Driver | None:
    """The person who has taken over, or the agent that waits for one."""
    note = session.metadata.annotations.get(DRIVER)
    try:
        if note:
            return msgspec.json.decode(note, type=Driver)
        return None
    except msgspec.DecodeError:  # not ours, so no program acts until someone gives back
        return Driver("Human", "Someone")


def normal_groups(names: Iterable[str]) -> frozenset[str]:
    """Groups in the one spelling that is compared and stored."""
    return frozenset(filter(None, map(normal_name, names)))


class Action(StrEnum):
    """An action on an existing session."""

    SEE = "see"
    OPEN = "open"
    # See the files of its home, and copy them in and out.
    BROWSE = "browse"
    RESUME = "resume"
    SUSPEND = "suspend"
    RESTART = "restart"
    EXTEND = "extend"
    RESIZE = "resize"
    SCHEDULE = "schedule"
    END = "end"
    SHARE = "share"
    UNSHARE = "unshare"
    PLAN_END = "plan-end"
    # Show a text over the desktop.
    MESSAGE = "message"
    # Send keys and clicks from a program, take over from one and give back.
    DRIVE = "drive"
    # Start and end a recording on demand.
    RECORD = "record"
    # An administrator or a viewer asks the owner for access; the owner alone answers.
    REQUEST_ACCESS = "request-access"
    ANSWER_ACCESS = "answer-access"


# Without a default case, mypy names each `match` that a new role or action needs; until then,
# nothing is allowed.
def _allowed(role: Role) -> frozenset[Action]:
    match role:
        case Role.OWNER:
            return frozenset(Action) - {Action.PLAN_END, Action.MESSAGE, Action.REQUEST_ACCESS}
        case Role.COLLABORATOR:
            return frozenset({Action.SEE, Action.OPEN, Action.BROWSE, Action.RESUME, Action.DRIVE})
        case Role.VIEWER:
            return frozenset({Action.SEE, Action.OPEN, Action.REQUEST_ACCESS})
    return frozenset()


def _is_for_admins(action: Action) -> bool:
    """Whether administrators may do it with others' sessions: they manage desktops, but see and
    share none.
    """
    match action:
        case (
            Action.OPEN
            | Action.BROWSE
            | Action.DRIVE
            | Action.SHARE
            | Action.RECORD
            | Action.ANSWER_ACCESS
        ):
            return False
        case Action.SEE | Action.RESUME | Action.SUSPEND | Action.RESTART | Action.END:
            return True
        case (
            Action.EXTEND
            | Action.RESIZE
            | Action.SCHEDULE
            | Action.UNSHARE
            | Action.PLAN_END
            | Action.MESSAGE
            | Action.REQUEST_ACCESS
        ):
            return True
    return False


# Computed once: the edge asks with every request.
ACTIONS = {role: _allowed(role) for role in Role}
_GUESTS = {
    role.value: role for role in Role if role is not Role.OWNER and Action.SEE in ACTIONS[role]
}


def role_in(session: VDISession, user: str, now: datetime) -> Role | None:
    """The user's role in the session; None: no access, an expired share, or a role of a later
    version.
    """
    if same_user(session.spec.user, user):
        return Role.OWNER
    for access in session.spec.access:
        if same_user(access.user, user) and not is_expired(access, now):
            return _GUESTS.get(access.role)
    return None


def access_ends(session: VDISession, user: str) -> datetime | None:
    """The end of this user's share; None: it has no end, or there is no share."""
    for access in session.spec.access:
        if same_user(access.user, user) and access.expires:
            return parse_time(access.expires)
    return None


def may_use(template: VDITemplate, user: User) -> bool:
    """Whether the user may start desktops of this template; one without names is for everyone."""
    access = template.spec.access
    if user.admin or not (access.users or access.groups):
        return True
    return any(
        same_user(email, user.email) for email in access.users
    ) or not user.groups.isdisjoint(normal_groups(access.groups))


def enables_agents(template: VDITemplate | None) -> Agents | None:
    """The rules for programs that drive the desktops of this template; None: none may."""
    agents = template.spec.agents if template else None
    return agents if agents and agents.enabled else None


def no_desktop(name: str) -> str:
    """The refusal for a name that no desktop has, and for one that the user may not know of: both
    look the same.
    """
    return f"You have no desktop {name!r}, and no desktop with this name is shared with you."


def knows_of(session: VDISession, user: User, now: datetime) -> bool:
    """Whether the user may know that this session exists."""
    return user.admin or role_in(session, user.email, now) is not None


def refusal(user: User, action: Action, session: VDISession, now: datetime) -> Refused | None:
    """Code and reason why the user may not do this; None: they may.

    Names nothing of a session that they may not know of.
    """
    name = session.metadata.name
    role = role_in(session, user.email, now)
    if (role and action in ACTIONS[role]) or (user.admin and _is_for_admins(action)):
        return _refuse_token(user.login_id, action, session)
    if role is None and not user.admin:
        return "NotFound", no_desktop(name)
    if role is None:
        who = f"{session.spec.user}, the owner of desktop {name!r}, and users it is shared with"
        return "Forbidden", f"Only {who} may {action} it."
    allowed = ", ".join(sorted(ACTIONS[role]))
    whose = f"{session.spec.user}'s desktop {name!r}"
    rest = f"Allowed: {allowed}. Ask {session.spec.user}."
    return "Forbidden", f"As {role} of {whose} you may not {action} it. {rest}"


def _refuse_token(login_id: str, action: Action, session: VDISession) -> Refused | None:
    """Code and reason why no API token may do this, whoever has it; None: it may, or this is a
    person's own login.
    """
    if not is_token(login_id) or action is Action.SEE:
        return None
    if action is Action.ANSWER_ACCESS:
        return "Forbidden", "Only people answer requests for access: no API token does."
    driver = taken_by(session)
    if driver is None:
        return None
    meanwhile = "API tokens change and open nothing here until someone gives back."
    return driver.code, f"{driver.line}. {meanwhile}"


def keeps_access(session: VDISession, user: str, role: Role, login_id: str, now: datetime) -> bool:
    """Whether a stream that this login or API token has opened in this role may stay open."""
    return role_in(session, user, now) is role and not _refuse_token(login_id, Action.OPEN, session)


def refuse_to_drive(
    actor: Actor, session: VDISession | None, name: str, now: datetime
) -> Refused | None:
    """Code and reason why the actor may not drive this session; None: they may. Being an
    administrator is no right.
    """
    user = User(actor.user)
    if (
        session is None
        or actor.session_uid not in ("", session.metadata.uid)
        or not knows_of(session, user, now)
    ):
        return "NotFound", no_desktop(name)
    return refusal(user, Action.DRIVE, session, now)
