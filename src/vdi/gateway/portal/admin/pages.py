"""Pages for administrators: overview, everyone's sessions, templates, pools, limits, the doctor, the audit."""

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from vdi.gateway.doctor_runs import CHECK_COUNT
from vdi.gateway.history.trends import Period
from vdi.gateway.history.usage import Month, Usage
from vdi.gateway.portal.admin.sessions import (
    PHASES,
    list_pieces,
    order_choices,
    overview_pieces,
    read_filter,
    sessions_page,
)
from vdi.gateway.portal.admin.tables import limit_rows, pool_rows, template_rows
from vdi.gateway.portal.charts import trend_charts
from vdi.gateway.portal.fragments import digest
from vdi.gateway.portal.pages import Choice, PortalPages, page_number, paged, said
from vdi.gateway.portal.timeline import seconds
from vdi.gateway.store.base import DatabaseUnavailableError
from vdi.gateway.users import User, normal_user

AUDIT_SIZE = 100
LIMITS_SIZE = 100
_STATES = {"Pending": "waiting", "Creating": "starting", "Terminating": "ending"}


class AdminPages(PortalPages):
    """Pages under `/admin`."""

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/admin", self.overview, methods=["GET"]),
            Route("/admin/sessions", self.sessions, methods=["GET"]),
            Route("/admin/templates", self.templates, methods=["GET"]),
            Route("/admin/pools", self.pools, methods=["GET"]),
            Route("/admin/limits", self.limits, methods=["GET"]),
            Route("/admin/doctor", self.doctor, methods=["GET"]),
            Route("/admin/doctor", self.run_doctor, methods=["POST"]),
            Route("/admin/audit", self.audit, methods=["GET"]),
        ]

    async def overview(self, request: Request) -> Response:
        """Figures, queue, trends of the last day or week, GPU slots."""
        user = await self._portal.guard.require_admin(request)
        slots = await self._portal.gpu_slots.read()
        pieces = overview_pieces(self._portal, user)
        text, now = request.query_params.get("period", ""), self._portal.context.clock()
        period = Period(text) if text in [*Period] else Period.DAY
        try:
            intervals = await self._portal.history.trend(period, now)
        except DatabaseUnavailableError:
            intervals = None
        return await self._admin_page(
            request,
            user,
            "overview",
            slots=slots,
            pieces=pieces,
            seen=digest(pieces),
            doctor=self._portal.doctor.last,
            troubles=[*self._portal.problems()],
            now=now,
            period=period,
            intervals=intervals,
            charts=trend_charts(intervals or [], slots.total),
            seconds=seconds,
        )

    async def sessions(self, request: Request) -> Response:
        """Everyone's sessions."""
        user = await self._portal.guard.require_admin(request)
        filters = read_filter(request.query_params)
        rows = sessions_page(self._portal, user, filters, page_number(request))
        pieces = list_pieces(rows)
        templates = sorted({session.spec.template for session in self._portal.context.cluster.sessions.values()})
        return await self._admin_page(
            request,
            user,
            "sessions",
            rows=rows,
            filters=filters,
            phases=[Choice("", "any"), *(Choice(phase, _STATES.get(phase, phase.lower())) for phase in PHASES)],
            templates=[Choice("", "any"), *(Choice(template, template) for template in templates)],
            orders=order_choices(),
            pieces=pieces,
            seen=digest(pieces),
            done=said(request),
        )

    async def templates(self, request: Request) -> Response:
        """All templates, and who may use them."""
        user = await self._portal.guard.require_admin(request)
        return await self._admin_page(request, user, "templates", rows=template_rows(self._portal))

    async def pools(self, request: Request) -> Response:
        """Desktops that are kept ready."""
        user = await self._portal.guard.require_admin(request)
        return await self._admin_page(request, user, "pools", rows=pool_rows(self._portal))

    async def limits(self, request: Request) -> Response:
        """How much each person may have, and has."""
        user = await self._portal.guard.require_admin(request)
        month = Month.of(self._portal.context.clock())
        try:
            report = await self._portal.history.usage(month, self._portal.context.clock())
            used: dict[str, Usage] | None = {usage.name: usage for usage in report.users}
        except DatabaseUnavailableError:
            used = None
        return await self._admin_page(
            request,
            user,
            "limits",
            rows=paged(limit_rows(self._portal, used or {}), page_number(request), LIMITS_SIZE),
            month=str(month),
            hours_known=used is not None,
            default=self._portal.limits.default,
            groups=sorted(self._portal.limits.groups.items()),
            limits_address=lambda number: f"/admin/limits?page={number}",
        )

    async def doctor(self, request: Request) -> Response:
        """The last report, and a button for a new one."""
        user = await self._portal.guard.require_admin(request)
        report = self._portal.doctor.last
        return await self._admin_page(
            request, user, "doctor", report=report, checks=CHECK_COUNT, now=self._portal.context.clock()
        )

    async def run_doctor(self, request: Request) -> Response:
        """Look now."""
        await self._portal.guard.require_admin(request)
        await self._portal.guard.check_csrf(request)
        await self._portal.doctor.run()
        return RedirectResponse("/admin/doctor", 303)

    async def audit(self, request: Request) -> Response:
        """Who did what, newest first."""
        user = await self._portal.guard.require_admin(request)
        query = request.query_params
        filters = {name: query.get(name, "").strip()[:254] for name in ("actor", "action", "target")}
        before = query.get("before", "")
        if before and not (before.isdecimal() and len(before) < 19):
            raise HTTPException(400, f"before: {before[:30]!r} is not the number of an entry.")
        given = {name: value for name, value in filters.items() if value}
        if "actor" in given:
            given["actor"] = normal_user(given["actor"])
        try:
            entries = await self._portal.audit.entries(
                limit=AUDIT_SIZE + 1, before=int(before) if before else None, **given
            )
        except DatabaseUnavailableError:
            entries = None
        return await self._admin_page(
            request,
            user,
            "audit",
            entries=entries[:AUDIT_SIZE] if entries is not None else None,
            older=entries[AUDIT_SIZE - 1].number if entries and len(entries) > AUDIT_SIZE else None,
            filters=filters,
        )

    async def _admin_page(self, request: Request, user: User, tab: str, **context: Any) -> Response:
        return await self._page(request, user, f"admin_{tab}.html", here="admin", tab=tab, **context)
