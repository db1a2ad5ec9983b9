"""Rows of the administrators' tables: templates, pools, limits. Pure, from what the gateway watches."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vdi.api.template import VDITemplate
from vdi.gateway.history.usage import Usage
from vdi.gateway.limits import Limit, gpus_of, home_bytes
from vdi.gateway.portal.desktop_view import template_title
from vdi.gateway.portal.services import PortalServices
from vdi.gateway.settings import Settings
from vdi.gateway.users import User, normal_user
from vdi.gateway.web.icons import icon_problem, shown_icon
from vdi.session.lifetime import max_timeout

_GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateRow:
    """One template."""

    name: str
    title: str
    icon: str
    icon_problem: str
    """Why the icon that it names is not shown; empty: it is, or it names none."""
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
    gpu_hours: float
    home_gib: float
    limit: Limit


def template_rows(portal: PortalServices) -> list[TemplateRow]:
    """All templates by name."""
    used = Counter(session.spec.template for session in portal.context.cluster.sessions.values())
    found = sorted(portal.context.cluster.templates.values(), key=lambda template: template.metadata.name)
    return [_template_row(template, portal.context.settings, used[template.metadata.name]) for template in found]


def _template_row(template: VDITemplate, settings: Settings, sessions: int) -> TemplateRow:
    spec, pull = template.spec, template.status.pre_pull
    offer, home = spec.resources, spec.persistence
    who = [*spec.access.users, *(f"group {group}" for group in spec.access.groups)]
    return TemplateRow(
        name=template.metadata.name,
        title=template_title(template, template.metadata.name),
        icon=shown_icon(spec.icon, settings.icon_origins),
        icon_problem=icon_problem(spec.icon, settings.icon_origins),
        image=spec.image,
        gpu=_range(str(offer.default_gpu), str(offer.max_gpu) if offer.max_gpu is not None else None),
        cpu=_range(offer.default_cpu, offer.max_cpu),
        memory=_range(offer.default_memory, offer.max_memory),
        ephemeral_storage=_range(offer.default_ephemeral_storage, offer.max_ephemeral_storage)
        if offer.default_ephemeral_storage
        else "",
        home=_range(home.size, home.max_size) if home.enabled else "none",
        longest=max_timeout(template, settings.cluster) or "any",
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
            desired=pool.spec.replicas,
            ready=pool.status.ready,
            starting=pool.status.starting,
            claimed=pool.status.claimed,
            message=pool.status.message,
        )
        for pool in found
    ]


def limit_rows(portal: PortalServices, used: Mapping[str, Usage]) -> list[LimitRow]:
    """Everybody who has sessions or homes, has used hours this month, or has limits of their own; most GPUs first.

    Which groups somebody is in is known only while they are logged in: limits of groups are not in these numbers.
    """
    sessions: Counter[str] = Counter()
    gpus: Counter[str] = Counter()
    for session in portal.context.cluster.sessions.values():
        if not session.spec.suspended:
            user = normal_user(session.spec.user)
            sessions[user] += 1
            gpus[user] += gpus_of(session, portal.context.cluster.template(session.spec.template))
    homes: Counter[str] = Counter()
    for home in portal.context.cluster.all_homes():
        if home.user and not home.deleted:
            homes[normal_user(home.user)] += int(home_bytes(home))
    users: Iterable[str] = {*sessions, *homes, *used, *portal.limits.users}
    rows = [
        LimitRow(
            user=user,
            sessions=sessions[user],
            gpus=gpus[user],
            hours=used[user].hours if user in used else 0.0,
            gpu_hours=used[user].gpu_hours if user in used else 0.0,
            home_gib=homes[user] / _GIB,
            limit=portal.limits.of(User(user)),
        )
        for user in users
    ]
    return sorted(rows, key=lambda row: (-row.gpus, -row.sessions, row.user))
