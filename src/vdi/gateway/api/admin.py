"""`/admin`: the desktops of all users, what they share, the GPUs of the nodes and the doctor, for
administrators.
"""

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from vdi.api.constraints import doc
from vdi.api.pool import PoolSpec, PoolStatus
from vdi.api.session import VDISession
from vdi.findings.model import Finding
from vdi.gateway import queries
from vdi.gateway.api.operation import Call, Empty, OperationTable
from vdi.gateway.api.problems import ProblemError
from vdi.gateway.api.schemas import (
    Address,
    AllSessionsQuery,
    Metadata,
    Page,
    Session,
    SinceTime,
    UntilTime,
    WholeTemplate,
    metadata_of,
    session_of,
)
from vdi.gateway.api.sessions import age
from vdi.gateway.current_use import NodeGpus, Use, use_of
from vdi.gateway.denied import ActionDenied, refused_address
from vdi.gateway.doctor import Report
from vdi.gateway.history.usage import Month
from vdi.gateway.limits import Limits
from vdi.gateway.queries import ListPage
from vdi.gateway.rights import User
from vdi.gateway.store.audit import Act, Entry
from vdi.session.users import AddressError, check_address, normal_user, same_user

admin_operation = OperationTable("Administration", admin=True)
audit_operation = OperationTable("Administration", admin=True, auditor=True)


class Pool(msgspec.Struct, rename="camel"):
    """Desktops that are started in advance."""

    metadata: Annotated[Metadata, doc("Name and times.")]
    spec: Annotated[PoolSpec, doc("What the pool keeps ready.")]
    status: Annotated[PoolStatus, doc("Current state of the pool.")]


class ReleasedUsers(msgspec.Struct):
    """Addresses that other accounts of the identity provider can have."""

    released: Annotated[tuple[str, ...], doc("E-mail addresses, sorted.")]


class PersonUse(msgspec.Struct, rename="camel"):
    """Usage of one user."""

    user: Annotated[str, doc("E-mail address.")]
    use: Annotated[
        Use,
        doc("Usage and limits of the user, without limits of groups: groups are known only at login."),
    ]  # fmt: skip


class Banner(msgspec.Struct, forbid_unknown_fields=True):
    """A text on all pages of the portal."""

    text: Annotated[str, Meta(description="The text; empty: none.")]


class AuditQuery(Page, rename="camel", forbid_unknown_fields=True):
    """Filters of the audit log."""

    actor: Annotated[Address | None, Meta(description="Only actions of this user.")] = None
    action: Annotated[
        Annotated[str, Meta(max_length=64)] | None,
        Meta(description="Only actions with this in their name, such as session.end or computer."),
    ] = None
    target: Annotated[
        Annotated[str, Meta(max_length=512)] | None,
        Meta(description="Only actions on targets with this in their name."),
    ] = None
    owner: Annotated[Address | None, Meta(description="Only actions on targets of this user.")] = (
        None
    )
    transfers: Annotated[
        bool,
        Meta(description="true: transfers alone. false: without them, unless `action` names one."),
    ] = False
    since: SinceTime = None
    until: UntilTime = None


@admin_operation("GET /admin/sessions")
async def list_all_sessions(call: Call[AllSessionsQuery, None]) -> ListPage[Session]:
    """Desktops of all users, oldest first."""
    query, now = call.query, call.now()

    def is_selected(session: VDISession) -> bool:
        return (
            (query.user is None or same_user(session.spec.user, query.user))
            and query.template in (None, session.spec.template)
            and query.phase in (None, session.status.phase or "Pending")
        )

    selected = filter(is_selected, call.cluster.sessions.values())
    page = queries.cut(selected, age, limit=query.limit, cursor=query.cursor)
    return ListPage(tuple(session_of(session, call.user, now) for session in page.items), page.next)


@admin_operation("GET /admin/queue")
async def get_queue(call: Call[Empty, None]) -> ListPage[Session]:
    """Sessions that wait for capacity, in queue order."""

    def place(session: VDISession) -> tuple[bool, int, queries.Key]:
        if session.status.queue:
            position = session.status.queue.position
        else:
            position = 0
        return position == 0, position, age(session)

    now = call.now()
    waiting = sorted(
        (session for session in call.cluster.sessions.values() if session.status.queue), key=place
    )
    return ListPage(tuple(session_of(session, call.user, now) for session in waiting))


@admin_operation("PUT /admin/banner")
async def set_banner(call: Call[Empty, Banner]) -> None:
    """Show a text on all pages of the portal."""
    await call.api.actions.set_banner(call.user, call.body.text)


@admin_operation("GET /admin/pools")
async def list_pools(call: Call[Empty, None]) -> ListPage[Pool]:
    """Pools of desktops that are started in advance."""
    pools = sorted(call.cluster.pools.values(), key=lambda pool: pool.metadata.name)
    return ListPage(
        tuple(Pool(metadata_of(pool.metadata), pool.spec, pool.status) for pool in pools)
    )


@admin_operation("GET /admin/templates")
async def list_all_templates(call: Call[Empty, None]) -> ListPage[WholeTemplate]:
    """All templates, with environment, volumes, placement and who may use them."""
    templates = sorted(call.cluster.templates.values(), key=lambda template: template.metadata.name)
    return ListPage(
        tuple(
            WholeTemplate(metadata_of(template.metadata), template.spec, template.status)
            for template in templates
        )
    )


@admin_operation("GET /admin/limits")
async def get_limits(call: Call[Empty, None]) -> Limits:
    """Limits of users and groups."""
    return call.api.limits


@admin_operation("GET /admin/users")
async def list_users(call: Call[Page, None]) -> ListPage[PersonUse]:
    """Users with desktops now or earlier this month, and how much of their limits they use."""
    api, now = call.api, call.now()
    report = await api.history.usage(Month.of(now), now)
    used = {usage.name: (usage.hours, usage.gpu_hours) for usage in report.users}
    users = {
        normal_user(session.spec.user) for session in api.context.cluster.sessions.values()
    } | used.keys()
    page = queries.cut(
        users, lambda user: (user,), limit=call.query.limit, cursor=call.query.cursor
    )
    use = [
        PersonUse(
            user, use_of(call.cluster, api.limits.of(User(user)), user, *used.get(user, (0.0, 0.0)))
        )
        for user in page.items
    ]
    return ListPage(tuple(use), page.next)


@admin_operation("POST /admin/users/{user}/release", problems=("not-found", "invalid"))
async def release_user(call: Call[Empty, None]) -> None:
    """Let another account of the identity provider have this address.

    The first account that signs in with an address keeps it. Ends the address's logins, API tokens
    and open desktops; desktops and homes are kept, and are those of the account that signs in next.
    """
    try:
        user = check_address(call.path("user"))
    except AddressError as error:
        raise refused_address(error) from error
    act = Act(actor=call.user.email, action="user.release", target=user, owner=user)
    async with call.api.audit.act(act, closed=True):
        released = await call.api.logins.release(user)
        await call.api.sign_out.end_everything(user, tokens=True)
        if not released:
            raise ActionDenied(
                "NotFound", f"No account of the identity provider has signed in as {user!r}."
            )


@admin_operation("POST /admin/users/release")
async def release_all_users(call: Call[Empty, None]) -> ReleasedUsers:
    """Let other accounts of the identity provider have all addresses.

    For a provider that was rebuilt: every account has another `sub`. Ends the logins, API tokens
    and open desktops of all released addresses, the caller's too; desktops and homes are kept.
    """
    act = Act(actor=call.user.email, action="user.release", target="*")
    async with call.api.audit.act(act, closed=True):
        users = await call.api.logins.release_all()
        for user in users:
            await call.api.sign_out.end_everything(user, tokens=True)
    return ReleasedUsers(tuple(users))


@audit_operation("GET /admin/audit")
async def list_audit(call: Call[AuditQuery, None]) -> ListPage[Entry]:
    """Audit log, newest entry first.

    Of a transfer, `bytes` in `detail` is the size; no entry has content. Actions of agents
    (`computer.left_click`) need `action` or `target`.
    """
    query = call.query
    return await queries.read_audit(
        call.api,
        limit=query.limit,
        cursor=query.cursor,
        transfers=query.transfers,
        actor=query.actor,
        action=query.action,
        target=query.target,
        owner=query.owner,
        since=query.since,
        until=query.until,
    )


class FoundFault(msgspec.Struct, rename="camel", omit_defaults=True):
    """A problem, or a check that could not run."""

    code: Annotated[
        str, doc("Code of the problem, for programs; `vdi doctor --explain CODE` describes it.")
    ]
    severity: Annotated[
        Literal["error", "unknown", "warning"], doc("Severity; unknown: the check could not run.")
    ]
    object: Annotated[str, doc("Object that has the problem.")]
    message: Annotated[str, doc("The problem, in one sentence.")]
    remedy: Annotated[str, doc("The command that fixes it, or the steps where no command does.")]
    remedy_url: Annotated[str, doc("Link to more information.")] = ""
    evidence: Annotated[tuple[str, ...], doc("Fields, Events or log lines that show it.")] = ()
    caused_by: Annotated[str, doc("The finding that causes this one, as `code object`.")] = ""


class Diagnosis(msgspec.Struct):
    """Results of one run of the doctor."""

    at: Annotated[datetime, doc("When the checks ran.")]
    summary: Annotated[str, doc("Summary in one sentence.")]
    findings: Annotated[tuple[FoundFault, ...], doc("Causes first, each with its consequences.")]


@admin_operation("GET /admin/gpus")
async def get_gpus(call: Call[Empty, None]) -> ListPage[NodeGpus]:
    """GPUs by node, and how many of them desktops use."""
    slots = await call.api.gpu_slots.read()
    if slots.unknown:
        raise ProblemError("unavailable", slots.unknown)
    return ListPage(slots.nodes)


@admin_operation("GET /admin/doctor", problems=("not-found",))
async def last_diagnosis(call: Call[Empty, None]) -> Diagnosis:
    """Findings of the doctor's last run."""
    last = call.api.doctor.last
    if last is None:
        raise ActionDenied(
            "NotFound", "The doctor has not run yet. Send a POST request to this address to run it."
        )
    return _diagnosis(last)


@admin_operation("POST /admin/doctor")
async def diagnose(call: Call[Empty, None]) -> Diagnosis:
    """Run the doctor now; takes up to 30 s.

    Uses the gateway's permissions and changes nothing. Objects that the gateway may not read are
    reported as unknown.
    """
    return _diagnosis(await call.api.doctor.run())


def _diagnosis(report: Report) -> Diagnosis:
    if report.failed:
        raise ProblemError("unavailable", report.failed)
    return Diagnosis(report.at, report.summary, tuple(map(_fault, report.findings)))


def _fault(finding: Finding) -> FoundFault:
    fields = {name: getattr(finding, name) for name in FoundFault.__struct_fields__}
    return FoundFault(**{**fields, "remedy": finding.remedy.text})
