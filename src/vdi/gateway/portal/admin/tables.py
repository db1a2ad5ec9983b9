"""Rows of the administrators' tables: templates, pools, limits. Pure, from what the gateway watches."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vdi.api.template import VDITemplate
from vdi.gateway.limits import Limit, gpus_of
from vdi.gateway.portal.desktop_view import picture, template_title
from vdi.gateway.portal.services import PortalServices
from vdi.gateway.users import User, normal_user
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.lifetime import max_timeout


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateRow:
    """One template."""

    name: str
    title: str
    icon: str
    image: str
    gpu: str
    cpu: str
    memory: str
    ephemeral_storage: str
    """Empty: no limit."""
    home: str
    longest: str
    who: str
    sessions: int
    pre_pull: str
    pre_pull_failed: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRow:
    """One pool."""

    name: str
    template: str
    desired: int
    ready: int
    starting: int
    claimed: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitRow:
    """What one person has, and may have."""

    user: str
    sessions: int
    gpus: int
    hours: float
    limit: Limit


def template_rows(portal: PortalServices) -> list[TemplateRow]:
    """All templates by name."""
    used = Counter(session.spec.template for session in portal.context.cluster.sessions.values())
    found = sorted(portal.context.cluster.templates.values(), key=lambda template: template.metadata.name)
    return [
        _template_row(template, portal.context.settings.cluster, used[template.metadata.name]) for template in found
    ]


def _template_row(template: VDITemplate, cluster: ClusterSettings, sessions: int) -> TemplateRow:
    spec, pull = template.spec, template.status.pre_pull
    offer, home = spec.resources, spec.persistence
    who = [*spec.access.users, *(f"group {group}" for group in spec.access.groups)]
    return TemplateRow(
        name=template.metadata.name,
        title=template_title(template, template.metadata.name),
        icon=picture(template),
        image=spec.image,
        gpu=_range(str(offer.default_gpu), str(offer.max_gpu) if offer.max_gpu is not None else None),
        cpu=_range(offer.default_cpu, offer.max_cpu),
        memory=_range(offer.default_memory, offer.max_memory),
        ephemeral_storage=_range(offer.default_ephemeral_storage, offer.max_ephemeral_storage)
        if offer.default_ephemeral_storage
        else "",
        home=_range(home.size, home.max_size) if home.enabled else "none",
        longest=max_timeout(template, cluster) or "any",
        who=", ".join(who) or "everybody",
        sessions=sessions,
        pre_pull=f"on {pull.ready} of {pull.desired} nodes" if pull else "",
        pre_pull_failed=tuple(f"{failure.node}: {failure.message or failure.reason}" for failure in pull.failed)
        if pull
        else (),
    )


def _range(default: str, most: str | None) -> str:
    return f"{default}, at most {most}" if most is not None and most != default else default


def pool_rows(portal: PortalServices) -> list[PoolRow]:
    """All pools by name."""
    found = sorted(portal.context.cluster.pools.values(), key=lambda pool: pool.metadata.name)
    return [
        PoolRow(
            name=pool.metadata.name,
            template=pool.spec.template,
            desired=pool.spec.desired,
            ready=pool.status.ready,
            starting=pool.status.starting,
            claimed=pool.status.claimed,
            message=pool.status.message,
        )
        for pool in found
    ]


def limit_rows(portal: PortalServices, hours: Mapping[str, float]) -> list[LimitRow]:
    """Everybody who has sessions, has used hours this month, or has limits of their own; those with most GPUs first.

    Which groups somebody is in is known only while they are logged in: limits of groups are not in these numbers.
    """
    sessions: Counter[str] = Counter()
    gpus: Counter[str] = Counter()
    for session in portal.context.cluster.sessions.values():
        if not session.spec.suspended:
            user = normal_user(session.spec.user)
            sessions[user] += 1
            gpus[user] += gpus_of(session, portal.context.cluster.template(session.spec.template))
    users: Iterable[str] = {*sessions, *hours, *portal.limits.users}
    rows = [
        LimitRow(
            user=user,
            sessions=sessions[user],
            gpus=gpus[user],
            hours=hours.get(user, 0.0),
            limit=portal.limits.of(User(user)),
        )
        for user in users
    ]
    return sorted(rows, key=lambda row: (-row.gpus, -row.sessions, row.user))
