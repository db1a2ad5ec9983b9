"""Pages for administrators: overview, everyone's sessions, templates, pools, limits, the doctor, the audit."""

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from vdi.gateway.history.usage import Month
from vdi.gateway.login.guard import check_csrf, require_admin
from vdi.gateway.people import Person, normal_user
from vdi.gateway.portal.admin_list import (
    PHASES,
    list_pieces,
    order_choices,
    overview_pieces,
    read_filter,
    sessions_page,
)
from vdi.gateway.portal.admin_tables import limit_rows, pool_rows, template_rows
from vdi.gateway.portal.doctor import CHECK_COUNT
from vdi.gateway.portal.fragments import digest
from vdi.gateway.portal.pages import Choice, gateway_of, page, page_number, paged
from vdi.gateway.portal.slots import read_slots
from vdi.gateway.store.base import DatabaseUnavailableError

AUDIT_SIZE = 100
LIMITS_SIZE = 100
_STATES = {"Pending": "waiting", "Creating": "starting", "Terminating": "ending"}


async def _admin_page(request: Request, person: Person, tab: str, **context: Any) -> Response:
    return await page(request, person, f"admin_{tab}.html", here="admin", tab=tab, **context)


async def overview(request: Request) -> Response:
    """Figures, GPU slots, who waits."""
    person, gateway = await require_admin(request), gateway_of(request)
    slots = await read_slots(gateway)
    gateway.portal.gpu_total = slots.total
    pieces = overview_pieces(gateway, person)
    return await _admin_page(
        request,
        person,
        "overview",
        slots=slots,
        pieces=pieces,
        seen=digest(pieces),
        doctor=gateway.portal.doctor.last,
        troubles=[each for part in gateway.parts for each in part.troubles()],
        now=gateway.clock(),
    )


async def sessions(request: Request) -> Response:
    """Everyone's sessions."""
    person, gateway = await require_admin(request), gateway_of(request)
    wanted = read_filter(request.query_params)
    rows = sessions_page(gateway, person, wanted, page_number(request))
    pieces = list_pieces(rows)
    templates = sorted({each.spec.template for each in gateway.world.sessions.values()})
    return await _admin_page(
        request,
        person,
        "sessions",
        rows=rows,
        wanted=wanted,
        phases=[Choice("", "any"), *(Choice(each, _STATES.get(each, each.lower())) for each in PHASES)],
        templates=[Choice("", "any"), *(Choice(each, each) for each in templates)],
        orders=order_choices(),
        pieces=pieces,
        seen=digest(pieces),
    )


async def templates(request: Request) -> Response:
    """All templates, and who may use them."""
    person, gateway = await require_admin(request), gateway_of(request)
    return await _admin_page(request, person, "templates", rows=template_rows(gateway))


async def pools(request: Request) -> Response:
    """Desktops that are kept ready."""
    person, gateway = await require_admin(request), gateway_of(request)
    return await _admin_page(request, person, "pools", rows=pool_rows(gateway))


async def limits(request: Request) -> Response:
    """How much each person may have, and has."""
    person, gateway = await require_admin(request), gateway_of(request)
    month = Month.of(gateway.clock())
    try:
        report = await gateway.history.usage(month, gateway.clock())
        hours: dict[str, float] | None = {each.user: each.hours for each in report}
    except DatabaseUnavailableError:
        hours = None
    return await _admin_page(
        request,
        person,
        "limits",
        rows=paged(limit_rows(gateway, hours or {}), page_number(request), LIMITS_SIZE),
        month=str(month),
        hours_known=hours is not None,
        default=gateway.limits.default,
        groups=sorted(gateway.limits.groups.items()),
        limits_address=lambda number: f"/admin/limits?page={number}",
    )


async def doctor(request: Request) -> Response:
    """The last report, and a button for a new one."""
    person, gateway = await require_admin(request), gateway_of(request)
    report = gateway.portal.doctor.last
    return await _admin_page(request, person, "doctor", report=report, checks=CHECK_COUNT, now=gateway.clock())


async def run_doctor(request: Request) -> Response:
    """Look now."""
    await require_admin(request)
    await check_csrf(request)
    gateway = gateway_of(request)
    await gateway.portal.doctor.run(gateway)
    return RedirectResponse("/admin/doctor", 303)


async def audit(request: Request) -> Response:
    """Who did what, newest first."""
    person, gateway = await require_admin(request), gateway_of(request)
    query = request.query_params
    wanted = {name: query.get(name, "").strip()[:254] for name in ("actor", "action", "target")}
    before = query.get("before", "")
    if before and not (before.isdecimal() and len(before) < 19):
        raise HTTPException(400, f"before: {before[:30]!r} is no number of an entry.")
    given = {name: value for name, value in wanted.items() if value}
    if "actor" in given:
        given["actor"] = normal_user(given["actor"])
    try:
        entries = await gateway.audit.entries(limit=AUDIT_SIZE + 1, before=int(before) if before else None, **given)
    except DatabaseUnavailableError:
        entries = None
    return await _admin_page(
        request,
        person,
        "audit",
        entries=entries[:AUDIT_SIZE] if entries is not None else None,
        older=entries[AUDIT_SIZE - 1].number if entries and len(entries) > AUDIT_SIZE else None,
        wanted=wanted,
    )


ROUTES = [
    Route("/admin", overview, methods=["GET"]),
    Route("/admin/sessions", sessions, methods=["GET"]),
    Route("/admin/templates", templates, methods=["GET"]),
    Route("/admin/pools", pools, methods=["GET"]),
    Route("/admin/limits", limits, methods=["GET"]),
    Route("/admin/doctor", doctor, methods=["GET"]),
    Route("/admin/doctor", run_doctor, methods=["POST"]),
    Route("/admin/audit", audit, methods=["GET"]),
]
