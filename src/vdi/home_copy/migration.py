"""Which home of a person goes into which other one, and whether it may now. Pure."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from vdi.api.session import VDISession
from vdi.api.template import HomeScope, VDITemplate
from vdi.session.home_list import HomeSummary
from vdi.session.homes import COPYING, MIGRATE, Home
from vdi.session.naming import home_claim_name, user_home_claim_name
from vdi.session.observed import PersistentVolumeClaim, Pod
from vdi.session.units import parse_quantity

ALLOWED_SCOPES = (HomeScope.USER, HomeScope.USER_AND_TEMPLATE)


@dataclass(frozen=True, slots=True)
class Migration:
    """One home, and the home that it goes into."""

    user: str
    source: str
    target: Home
    to: HomeScope
    switched: bool = False
    """The old home names the new one already, and only the marks are left."""

    @property
    def replaces(self) -> bool:
        """Whether the old home is no longer used afterwards: that of the user stays, for other templates."""
        return self.to is HomeScope.USER


def plan_migrations(
    homes: Iterable[HomeSummary], template: VDITemplate, to: HomeScope, user: str | None
) -> list[Migration]:
    """The homes of the other scope: that of this user, or of all users. Those that have been migrated are left out."""
    offer, name = template.spec.persistence, template.metadata.name
    migrations = []
    for home in homes:
        is_source = (
            home.scope == HomeScope.USER_AND_TEMPLATE.value and home.template == name
            if to is HomeScope.USER
            else home.scope == HomeScope.USER.value
        )
        is_done = home.migrated_to and not home.copying
        if not is_source or home.deleted or is_done or (user is not None and home.user != user):
            continue
        target = (
            user_home_claim_name(home.user)
            if to is HomeScope.USER
            else home_claim_name(session_name="", user=home.user, template=name, retain=True)
        )
        sizes = [size for size in (home.size, offer.size) if size]
        new = Home(
            claim=target,
            size=max(sizes, key=parse_quantity),
            storage_class=offer.storage_class,
            access_mode=offer.access_mode,
            mount_path=offer.mount_path,
            retain=True,
            of_user=to is HomeScope.USER,
            shared=False,
        )
        migrations.append(Migration(home.user, home.name, new, to, switched=home.migrated_to == target))
    return migrations


def find_ending(migration: Migration, sessions: Sequence[VDISession], pods: Iterable[Pod]) -> Pod | None:
    """A pod that still has one of the homes, and is about to end: as after `vdi session suspend`."""
    names = {migration.source, migration.target.claim}
    return next((pod for pod in pods if _is_ending(pod, sessions) and _mounts(pod, names)), None)


def find_refusal(
    migration: Migration,
    claims: Sequence[PersistentVolumeClaim],
    sessions: Sequence[VDISession],
    pods: Iterable[Pod],
    flags: str = "",
) -> str | None:
    """Why it cannot be done now, with what to do; None: it can. `pods`: not ours. `flags`: those of CopyRun."""
    names = {migration.source, migration.target.claim}
    for pod in pods:
        if _is_ending(pod, sessions) or not _mounts(pod, names):
            continue
        if owner := _owner(pod):
            return f"the session {owner!r} uses the home; suspend it first: vdi session suspend {owner}{flags} --wait"
        return f"the pod {pod.metadata.name} uses the home"
    for session in sessions:
        if session.status.home_claim in names and session.status.pod_name:
            name = session.metadata.name
            return f"the session {name!r} uses the home; suspend it first: vdi session suspend {name}{flags} --wait"
    for claim in claims:
        meta = claim.metadata
        if meta.name not in names:
            continue
        if meta.deletion_timestamp:
            return f"the home {meta.name!r} is being deleted"
        command = meta.annotations.get(COPYING, MIGRATE)
        if command != MIGRATE:
            return f"the home {meta.name!r} is in use by `{command}`"
    return None


def _owner(pod: Pod) -> str | None:
    return next((owner.name for owner in pod.metadata.owner_references if owner.kind == "VDISession"), None)


def _is_ending(pod: Pod, sessions: Iterable[VDISession]) -> bool:
    """Also before the operator has deleted it."""
    name = _owner(pod)
    return pod.terminating or any(
        session.spec.suspended or session.metadata.deletion_timestamp
        for session in sessions
        if session.metadata.name == name
    )


def _mounts(pod: Pod, claims: Collection[str]) -> bool:
    """Whether a pod that has not ended uses one of the claims."""
    mounted = (volume.persistent_volume_claim for volume in pod.spec.volumes)
    return pod.status.phase not in ("Succeeded", "Failed") and any(
        claim and claim.claim_name in claims for claim in mounted
    )
