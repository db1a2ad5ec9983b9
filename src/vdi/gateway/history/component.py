"""History as a component of the gateway: what the others ask it, its routes, and what runs in the background."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, tuple_
from starlette.routing import Route

from vdi.gateway.component import Component, GatewayContext
from vdi.gateway.history.export import Dataset, ExportFormat, export
from vdi.gateway.history.recorder import EndReports, Recorder, Retention
from vdi.gateway.history.usage import Interval, Month, Period, UsageReport, month_use, read_report, read_trend
from vdi.gateway.limits import MonthUse
from vdi.gateway.store.history import RunRow, SessionRow, run_of, runs, session_of, sessions
from vdi.gateway.token_review import TokenReviewer
from vdi.session.users import normal_user


@dataclass(frozen=True, slots=True)
class SessionHistory:
    """One session with its runs, the oldest first."""

    session: SessionRow
    runs: tuple[RunRow, ...]


class History(Component):
    """Everything that asks the database raises DatabaseUnavailableError; whoever can do without the answer goes on."""

    def __init__(self, context: GatewayContext) -> None:
        settings, client, clock = context.settings, context.client, context.clock
        self._database = context.database
        self.recorder = Recorder(database=context.database, cluster=context.cluster, client=client, clock=clock)
        self._retention = Retention(
            database=context.database, recorder=self.recorder, days=settings.retention_days, clock=clock
        )
        reviewer = TokenReviewer(client, settings.operator_account, "the operator", "reports a session's end")
        self._ends = EndReports(self.recorder, reviewer, settings.namespaces)
        context.metrics.recorder_lag.set_function(lambda: self.recorder.lag)

    def internal_routes(self) -> Sequence[Route]:
        """See Component."""

        return (Route("/internal/ended", self._ends.answer, methods=["POST"]),)

    async def run(self) -> None:
        """See Component. A database that is down is waited for: history is no reason to be down, too."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.recorder.run(), name="history")
            group.create_task(self._retention.run(), name="retention of the history")

    async def use_this_month(self, user: str, now: datetime) -> MonthUse:
        """What desktops of this user have used in the calendar month (UTC) of `now`."""
        return await month_use(self._database, user, Month.of(now), now)

    async def usage(self, month: Month, now: datetime, user: str | None = None) -> UsageReport:
        """The report of a month, of all users or one."""
        return await read_report(self._database, month, now, user)

    async def trend(self, period: Period, now: datetime) -> list[Interval]:
        """What ran, waited and started in the last day or week, of everyone."""
        return await read_trend(self._database, period, now)

    def export(
        self,
        what: Dataset,
        form: ExportFormat,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        user: str | None = None,
    ) -> AsyncIterator[bytes]:
        """See `export.export`."""
        return export(self._database, what, form, since=since, until=until, user=user)

    async def past(
        self, *, limit: int, user: str | None = None, name: str | None = None, before: SessionRow | None = None
    ) -> list[SessionHistory]:
        """Sessions with their runs, those that are still there too, the youngest first.

        `before`: the last session that was read already; `limit` sessions at most.
        """
        query = select(sessions).order_by(sessions.c.created.desc(), sessions.c.uid.desc()).limit(limit)
        if user is not None:
            query = query.where(sessions.c.owner == normal_user(user))
        if name is not None:
            query = query.where(sessions.c.name == name)
        if before is not None:
            query = query.where(tuple_(sessions.c.created, sessions.c.uid) < (before.created, before.uid))
        async with self._database.connect() as connection:
            found = [session_of(row) for row in await connection.execute(query)]
            of_these = runs.c.uid.in_([session.uid for session in found])
            by_uid: dict[str, list[RunRow]] = {}
            for row in await connection.execute(select(runs).where(of_these).order_by(runs.c.start)):
                by_uid.setdefault(row.uid, []).append(run_of(row))
        return [SessionHistory(session, tuple(by_uid.get(session.uid, ()))) for session in found]

    async def session(self, uid: str) -> SessionHistory | None:
        """One session with its runs."""
        async with self._database.connect() as connection:
            row = (await connection.execute(select(sessions).where(sessions.c.uid == uid))).first()
            if row is None:
                return None
            of_it = await connection.execute(select(runs).where(runs.c.uid == uid).order_by(runs.c.start))
            return SessionHistory(session_of(row), tuple(run_of(row) for row in of_it))
