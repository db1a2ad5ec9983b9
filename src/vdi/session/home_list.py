"""The homes that there are: whose they are, how large, which desktop has them, when they were last used. Pure."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Annotated

import msgspec

from vdi.api.constraints import doc
from vdi.api.session import VDISession
from vdi.api.template import HomeScope, VDITemplate
from vdi.session.homes import COPYING, Home, may_use, resolve_home
from vdi.session.identity import TEMPLATE_ANNOTATION, USER_ANNOTATION
from vdi.session.observed import ChildMeta, PersistentVolumeClaim
from vdi.session.times import format_time, parse_time

LAST_USED = "vdi.kasm.io/last-used"
"""Annotation on a retained home: when its last desktop was stopped, to within `_USE_NOTED_EVERY`."""

_USE_NOTED_EVERY = timedelta(minutes=10)
"""A write to the API for each desktop that ends would be too many for a time that people read in days."""


class _Resources(msgspec.Struct, gc=False):
    requests: dict[str, str] = {}


class _ClaimSpec(msgspec.Struct, rename="camel", gc=False):
    access_modes: tuple[str, ...] = ()
    storage_class_name: str = ""
    resources: _Resources = msgspec.field(default_factory=_Resources)


class _ClaimStatus(msgspec.Struct, gc=False):
    phase: str = ""
    capacity: dict[str, str] = {}


class HomeClaim(msgspec.Struct, gc=False):
    """The PersistentVolumeClaim of a home, as far as people ask about it."""

    metadata: ChildMeta
    spec: _ClaimSpec = msgspec.field(default_factory=_ClaimSpec)
    status: _ClaimStatus = msgspec.field(default_factory=_ClaimStatus)


class HomeSummary(msgspec.Struct, rename="camel", omit_defaults=True):
    """One home."""

    name: Annotated[str, doc("Name of the PersistentVolumeClaim.")]
    namespace: Annotated[str, doc("The Kubernetes namespace.")]
    uid: Annotated[str, doc("Unique for each claim, also if the name is reused.")]
    user: Annotated[str, doc("Owner of the home.")]
    scope: Annotated[
        str, doc("Who shares this home (`persistence.scope` of a template).", enum=[scope.value for scope in HomeScope])
    ]
    template: Annotated[str, doc("Its template; absent with scope User.")] = ""
    size: Annotated[str, doc("Size of the volume; the requested size while it does not exist yet.")] = ""
    access_mode: Annotated[str, doc("ReadWriteOnce: one desktop at a time. ReadWriteMany: several.")] = ""
    storage_class: Annotated[str, doc("StorageClass of the volume.")] = ""
    phase: Annotated[str, doc("Phase of the claim: Pending, Bound or Lost.")] = ""
    created: Annotated[str, doc("When it was created.", format="date-time")] = ""
    deleted: Annotated[str, doc("Since when it has been terminating.", format="date-time")] = ""
    last_used: Annotated[
        str,
        doc(
            "When its last desktop was stopped, to within ten minutes, or when the home was created if none was since "
            "then; absent while a desktop uses it.",
            format="date-time",
        ),
    ] = ""
    used_by: Annotated[tuple[str, ...], doc("Sessions whose desktop uses the home now.")] = ()
    sessions: Annotated[
        tuple[str, ...], doc("All sessions with this home, including those without a desktop now.")
    ] = ()
    copying: Annotated[str, doc("The command that fills it; no desktop starts on it during that time.")] = ""


def summarize_homes(claims: Iterable[HomeClaim], sessions: Iterable[VDISession]) -> list[HomeSummary]:
    """All homes, by user and name. `sessions`: those of the same namespaces."""
    by_claim: dict[tuple[str, str], list[VDISession]] = {}
    for session in sessions:
        by_claim.setdefault((session.metadata.namespace, session.status.home_claim), []).append(session)
    homes = [_summarize(claim, by_claim.get((claim.metadata.namespace, claim.metadata.name), [])) for claim in claims]
    return sorted(homes, key=lambda home: (home.user, home.name, home.namespace))


def _summarize(claim: HomeClaim, sessions: list[VDISession]) -> HomeSummary:
    meta, spec, notes = claim.metadata, claim.spec, claim.metadata.annotations
    is_own = any(owner.kind == "VDISession" for owner in meta.owner_references)
    template = notes.get(TEMPLATE_ANNOTATION, "")
    used_by = tuple(sorted(session.metadata.name for session in sessions if session.status.pod_name))
    scope = HomeScope.SESSION if is_own else (HomeScope.USER_AND_TEMPLATE if template else HomeScope.USER)
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
    """Whether the end of a desktop is to be noted: what the home says of its last use is too old, or cannot be."""
    known = _last_use(home)
    return not known or not timedelta() <= now - parse_time(known) < _USE_NOTED_EVERY


def _last_use(home: ChildMeta) -> str:
    """What was noted, which somebody else may have written; the creation where nothing that can be read was."""
    try:
        return format_time(parse_time(home.annotations.get(LAST_USED, "")))
    except ValueError:
        return home.creation_timestamp


def find_new_home(session: VDISession, template: VDITemplate, claims: Iterable[HomeClaim]) -> Home | None:
    """The home that the session's next run makes; None: it has none, or one that exists.

    `claims`: those of the session's namespace that may be its home.
    """
    there = {claim.metadata.name: PersistentVolumeClaim(claim.metadata) for claim in claims}
    if session.status.home_claim in there:
        return None
    home = resolve_home(session, template, there)
    return None if home is None or home.claim in there else home


def why_not_deleted(home: HomeSummary, sessions: Iterable[VDISession]) -> str | None:
    """Why this home cannot be deleted now; None: it can. A session that may start with it is in the way too."""
    names = sorted(
        session.metadata.name
        for session in sessions
        if session.metadata.namespace == home.namespace and may_use(session, home.name)
    )
    if not names:
        return None
    several = len(names) > 1
    return (
        f"The home {home.name!r} belongs to the {'sessions' if several else 'session'} {', '.join(names)}. "
        f"End {'them' if several else 'it'} first."
    )
