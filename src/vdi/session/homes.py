"""Which PersistentVolumeClaim is the home of a session. Pure.

The template's `persistence.scope` says where a *new* home is made. A claim of user and template that exists already
stays their home, whatever the scope says now: an edit of a template takes no files away from anyone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from vdi.api.session import SessionPersistence, VDISession
from vdi.api.template import AccessMode, HomeScope, VDITemplate
from vdi.session.naming import home_claim_name, user_home_claim_name
from vdi.session.observed import PersistentVolumeClaim

Homes = Mapping[str, PersistentVolumeClaim]
"""Claims that exist, by name; of one namespace."""
NO_HOMES: Homes = MappingProxyType({})
COPYING = "vdi.kasm.io/copying"
"""Annotation on a home that a command fills: which one. No desktop starts on it."""
MADE_AHEAD = "vdi.kasm.io/made-ahead"
"""Annotation on a home that the gateway made before a first desktop was requested: the template whose form was open.

Only with it is a home deleted because nothing uses it. Whatever uses such a home takes the annotation away first.
"""


@dataclass(frozen=True, slots=True)
class Home:
    """The home volume. All but `claim`, `mount_path`, `retain` and `shared` is for a claim that is made new."""

    claim: str
    size: str
    storage_class: str
    access_mode: AccessMode
    mount_path: str
    retain: bool
    """It outlives the session; false: it belongs to the session and is deleted with it."""
    of_user: bool
    """It is the home of all templates with `scope: User`."""
    shared: bool
    """Several desktops may use it at the same time: the claim exists, with the access mode ReadWriteMany."""


def home_names(session: VDISession) -> tuple[str, str, str]:
    """The claims that may be this session's home: that of user and template, that of the user, the session's own."""
    meta, spec = session.metadata, session.spec
    return (
        home_claim_name(session_name=meta.name, user=spec.user, template=spec.template, retain=True),
        user_home_claim_name(spec.user),
        home_claim_name(session_name=meta.name, user=spec.user, template=spec.template, retain=False),
    )


def resolve_home(session: VDISession, template: VDITemplate, homes: Homes) -> Home | None:
    """The home that this session is to have, if any. `homes`: what exists of `home_names`."""
    requested = session.spec.persistence or SessionPersistence()
    offer = template.spec.persistence
    if not (offer.enabled if requested.enabled is None else requested.enabled):
        return None
    of_template, of_user, own = home_names(session)
    retain = requested.retain and offer.scope is not HomeScope.SESSION
    if not retain:
        claim = own
    elif offer.scope is HomeScope.USER and of_template not in homes:
        claim = of_user
    else:
        claim = of_template
    present = homes.get(claim)
    return Home(
        claim=claim,
        size=requested.size or offer.size,
        storage_class=requested.storage_class or offer.storage_class,
        access_mode=offer.access_mode,
        mount_path=offer.mount_path,
        retain=retain,
        of_user=claim == of_user,
        shared=present is not None and present.is_shared,
    )


def retained_claim(session: VDISession) -> str | None:
    """The claim that outlives this session, as its status names it; None: it has no home, or one that goes with it."""
    of_template, _, own = home_names(session)
    requested = session.spec.persistence or SessionPersistence()
    if not session.status.home_claim:  # no operator has seen it yet
        return of_template if requested.enabled is not False and requested.retain else None
    return session.status.home_claim if session.status.home_claim != own else None


def own_claim(session: VDISession) -> str | None:
    """The claim that is deleted with this session; None: it has none."""
    own, requested = home_names(session)[2], session.spec.persistence or SessionPersistence()
    named = session.status.home_claim or ("" if requested.enabled is False or requested.retain else own)
    return own if named == own else None


def may_use(session: VDISession, claim: str) -> bool:
    """Whether this claim is the session's home, or may become it: the operator has not named its home yet."""
    named = session.status.home_claim
    return named == claim if named else claim in home_names(session)[:2]
