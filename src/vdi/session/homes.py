"""Homes: the claim that a session uses, and the list of all homes with owner, size and last use.
Pure.

The template's `persistence.scope` says where a *new* home is made. A claim of user and template
that exists already stays their home, whatever the scope says now: an edit of a template takes no
files away from anyone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Annotated

import msgspec

from vdi.api.constraints import doc
from vdi.api.session import SessionPersistence, VDISession
from vdi.api.template import AccessMode, HomeScope, VDITemplate
from vdi.cluster.objects import ChildMeta, PersistentVolumeClaim, ResourceRequirements
from vdi.cluster.units import format_time, parse_time
from vdi.session.naming import (
    TEMPLATE_ANNOTATION,
    USER_ANNOTATION,
    home_claim_name,
    user_home_claim_name,
)

# Claims that exist, by name; of one namespace.
Homes = Mapping[str, PersistentVolumeClaim]

NO_HOMES: Homes = MappingProxyType({})
# Annotation on a home that a command fills; the value is the command. No desktop starts on it.
COPYING = "vdi.kasm.io/copying"
# Annotation on a home that the gateway created before a first desktop was requested; the value is
# the template of the open form. Only a home with it is deleted for lack of use, and every use of
# such a home removes the annotation first: a home with files must never look unused.
MADE_AHEAD = "vdi.kasm.io/made-ahead"
# Annotation on a retained home: when its last desktop was stopped, to within `_USE_NOTED_EVERY`.
LAST_USED = "vdi.kasm.io/last-used"
# People read this time in days, so one write for each desktop that ends would be wasted.
_USE_NOTED_EVERY = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Home:
    """The home volume. All but `claim`, `mount_path`, `retain` and `shared` is for a claim that is
    made new.
    """

    claim: str
    size: str
    storage_class: str
    access_mode: AccessMode
    mount_path: str
    # It outlives the session; false: it belongs to the session and is deleted with it.
    retain: bool
    # It is the home of all templates with `scope: User`.
    of_user: bool
    # Several desktops may use it at the same time: the claim exists, with the access mode
    # ReadWriteMany.
    shared: bool


def home_names(session: VDISession) -> tuple[str, str, str]:
    """The claims that may be this session's home: that of user and template, that of the user, the
    session's own.
    """
    meta, spec = session.metadata, session.spec
    return (
        home_claim_name(
            session_name=meta.name, user=spec.user, template=spec.template, retain=True
        ),
        user_home_claim_name(spec.user),
        home_claim_name(
            session_name=meta.name, user=spec.user, template=spec.template, retain=False
        ),
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
    """The claim that outlives this session, as its status names it; None: it has no home, or one
    that goes with it.
    """
    of_template, _, own = home_names(session)
    requested = session.spec.persistence or SessionPersistence()
    if not session.status.home_claim:  # no operator has seen it yet
        if requested.enabled is not False and requested.retain:
            return of_template
        return None
    if session.status.home_claim != own:
        return session.status.home_claim
    return None


def keeps_files(session: VDISession, template: VDITemplate | None) -> tuple[bool, bool]:
    """Whether the desktop has a home, and whether that outlives it."""
    if session.status.home_claim or template is None:
        retained = retained_claim(session) is not None
        return retained or bool(session.status.home_claim), retained
    home = resolve_home(session, template, {})
    return home is not None, home is not None and home.retain


def files_note(session: VDISession, template: VDITemplate | None) -> str:
    """When the desktop's files are deleted, for its user; empty: they outlive it."""
    has_home, outlives = keeps_files(session, template)
    if outlives:
        return ""
    return (
        "Files here are deleted when this desktop"
        f" ends{'' if has_home else ', is suspended or restarts'}."
    )


def own_claim(session: VDISession) -> str | None:
    """The claim that is deleted with this session; None: it has none."""
    own, requested = home_names(session)[2], session.spec.persistence or SessionPersistence()
    named = session.status.home_claim or (
        "" if requested.enabled is False or requested.retain else own
    )
    return own if named == own else None


def may_use(session: VDISession, claim: str) -> bool:
    """Whether this claim is the session's home, or may become it: the operator has not named its
    home yet.
    """
    named = session.status.home_claim
    if named:
        return named == claim
    return claim in home_names(session)[:2]


class _ClaimSpec(msgspec.Struct, rename="camel", gc=False):
    access_modes: tuple[str, ...] = ()
    storage_class_name: str = ""
    resources: ResourceRequirements = msgspec.field(default_factory=ResourceRequirements)


class _ClaimStatus(msgspec.Struct, gc=False):
    phase: str = ""
    capacity: dict[str, str] = {}


class HomeClaim(msgspec.Struct, gc=False):
    """The PersistentVolumeClaim of a home, as far as people ask about it."""

    metadata: ChildMeta
    spec: _ClaimSpec = msgspec.field(default_factory=_ClaimSpec)
    status: _ClaimStatus = msgspec.field(default_factory=_ClaimStatus)


class HomeSummary(msgspec.Struct, rename="camel", omit_defaults=True):
    """A row of the list of homes: the claim, its owner, its desktops and its last use."""

    name: Annotated[str, doc("Name of the PersistentVolumeClaim.")]
    namespace: Annotated[str, doc("The Kubernetes namespace.")]
    uid: Annotated[str, doc("Unique for each claim, also if the name is reused.")]
    user: Annotated[str, doc("Owner of the home.")]
    scope: Annotated[
        str,
        doc(
            "Who shares this home (`persistence.scope` of a template).",
            enum=[scope.value for scope in HomeScope],
        ),
    ]
    template: Annotated[str, doc("Its template; absent with scope User.")] = ""
    size: Annotated[
        str, doc("Size of the volume; the requested size while it does not exist yet.")
    ] = ""
    access_mode: Annotated[
        str, doc("ReadWriteOnce: one desktop at a time. ReadWriteMany: several.")
    ] = ""
    storage_class: Annotated[str, doc("StorageClass of the volume.")] = ""
    phase: Annotated[str, doc("Phase of the claim: Pending, Bound or Lost.")] = ""
    created: Annotated[str, doc("When it was created.", format="date-time")] = ""
    deleted: Annotated[str, doc("Since when it has been terminating.", format="date-time")] = ""
    last_used: Annotated[
        str,
        doc(
            "When its last desktop was stopped, to within ten minutes, or when the home was created"
            " if none was since then; absent while a desktop uses it.",
            format="date-time",
        ),
    ] = ""
    used_by: Annotated[tuple[str, ...], doc("Sessions whose desktop uses the home now.")] = ()
    sessions: Annotated[
        tuple[str, ...], doc("All sessions with this home, including those without a desktop now.")
    ] = ()
    copying: Annotated[
        str, doc("The command that fills it; no desktop starts on it during that time.")
    ] = ""


def summarize_homes(
    claims: Iterable[HomeClaim], sessions: Iterable[VDISession]
) -> list[HomeSummary]:
    """All homes, by user and name. `sessions`: those of the same namespaces."""
    by_claim: dict[tuple[str, str], list[VDISession]] = {}
    for session in sessions:
        by_claim.setdefault((session.metadata.namespace, session.status.home_claim), []).append(
            session
        )
    homes = [
        _summarize(claim, by_claim.get((claim.metadata.namespace, claim.metadata.name), []))
        for claim in claims
    ]
    return sorted(homes, key=lambda home: (home.user, home.name, home.namespace))


def _summarize(claim: HomeClaim, sessions: list[VDISession]) -> HomeSummary:
    meta, spec, notes = claim.metadata, claim.spec, claim.metadata.annotations
    is_own = any(owner.kind == "VDISession" for owner in meta.owner_references)
    template = notes.get(TEMPLATE_ANNOTATION, "")
    used_by = tuple(
        sorted(session.metadata.name for session in sessions if session.status.pod_name)
    )
    scope = HomeScope.USER_AND_TEMPLATE if template else HomeScope.USER
    if is_own:
        scope = HomeScope.SESSION
    return HomeSummary(
        name=meta.name,
        namespace=meta.namespace,
        uid=meta.uid,
        user=notes.get(USER_ANNOTATION) or next((session.spec.user for session in sessions), ""),
        scope=scope.value,
        template=template,
        size=claim.status.capacity.get("storage") or spec.resources.requests.get("storage", ""),
        access_mode=next(iter(spec.access_modes), ""),
        storage_class=spec.storage_class_name,
        phase=claim.status.phase,
        created=meta.creation_timestamp,
        deleted=meta.deletion_timestamp or "",
        last_used="" if used_by else _last_use(meta),
        used_by=used_by,
        sessions=tuple(sorted(session.metadata.name for session in sessions)),
        copying=notes.get(COPYING, ""),
    )


def is_use_due(home: ChildMeta, now: datetime) -> bool:
    """Whether the end of a desktop is to be recorded: the recorded time is too old, or in the
    future.
    """
    known = _last_use(home)
    return not known or not timedelta() <= now - parse_time(known) < _USE_NOTED_EVERY


def _last_use(home: ChildMeta) -> str:
    """The annotation, which is untrusted input; the creation time where it is missing or
    unreadable.
    """
    try:
        return format_time(parse_time(home.annotations.get(LAST_USED, "")))
    except ValueError:
        return home.creation_timestamp


def find_new_home(
    session: VDISession, template: VDITemplate, claims: Iterable[HomeClaim]
) -> Home | None:
    """The home that the session's next run makes; None: it has none, or one that exists.

    `claims`: those of the session's namespace that may be its home.
    """
    there = {claim.metadata.name: PersistentVolumeClaim(claim.metadata) for claim in claims}
    if session.status.home_claim in there:
        return None
    home = resolve_home(session, template, there)
    if home is None or home.claim in there:
        return None
    return home


def why_not_deleted(home: HomeSummary, sessions: Iterable[VDISession]) -> str | None:
    """The sessions that keep this home from being deleted, in a sentence; None: it can be.

    A session that may start with it counts, too.
    """
    names = sorted(
        session.metadata.name
        for session in sessions
        if session.metadata.namespace == home.namespace and may_use(session, home.name)
    )
    if not names:
        return None
    several = len(names) > 1
    return (
        f"The home {home.name!r} belongs to the {'sessions' if several else 'session'}"
        f" {', '.join(names)}. End {'them' if several else 'it'} first."
    )
