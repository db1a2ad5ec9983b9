"""History as a component of the gateway: what portal, REST API and limits read, and the writers in
the background.

Reading raises DatabaseUnavailableError. A caller that can do without the answer goes on.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Select, or_, select, tuple_
from starlette.routing import Route

from vdi.gateway.component import Component, GatewayContext
from vdi.gateway.history.export import export
from vdi.gateway.history.recorder import EndReports, Recorder, Retention
from vdi.gateway.history.usage import (
    HOUR_SECONDS,
    By,
    Month,
    OwnedRun,
    UsageReport,
    seconds_within,
    sum_up,
)
from vdi.gateway.limits import MonthUse
from vdi.gateway.store.database import read_row
from vdi.gateway.store.history import RunRow, SessionRow, runs, sessions
from vdi.gateway.token_review import TokenReviewer
from vdi.session.users import normal_user


@dataclass(frozen=True, slots=True)
class SessionHistory:
    """One session with its runs, the oldest first."""

    session: SessionRow
    runs: tuple[RunRow, ...]


class History(Component):
    """Sessions and runs, past and present, as the database has them."""

    def __init__(self, context: GatewayContext) -> None:
        settings, client, clock = context.settings, context.client, context.clock
        self._database = context.database
        self.recorder = Recorder(
            database=context.database, cluster=context.cluster, client=client, clock=clock
        )
        self._retention = Retention(
            database=context.database,
            recorder=self.recorder,
            kept=timedelta(days=settings.retention_days),
            clock=clock,
        )
        reviewer = TokenReviewer(
            client, settings.operator_account, "the operator", "reports a session's end"
        )
        self._ends = EndReports(self.recorder, reviewer, settings.namespaces)
        context.metrics.recorder_lag.set_function(lambda: self.recorder.lag)
        self.export = partial(export, context.database)

    def internal_routes(self) -> Sequence[Route]:
        """The operator's reports of ends."""
        return (Route("/internal/ended", self._ends.answer, methods=["POST"]),)

    async def run(self) -> None:
        """Record and clean up. Both wait for a database that is down, which does not end the
        process.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self.recorder.run(), name="history")
            group.create_task(self._retention.run(), name="retention of the history")

    async def use_this_month(self, user: str, now: datetime) -> MonthUse:
        """Hours and GPU hours of a user in the calendar month (UTC) of `now`, for the limits."""
        month = Month.of(now)
        counted = [row.run for row in await self._runs_within(month, user)]
        hours = sum(seconds_within(run, month, now) for run in counted) / HOUR_SECONDS
        gpu_hours = (
            sum(seconds_within(run, month, now) * (run.gpus or 0) for run in counted) / HOUR_SECONDS
        )
        return MonthUse(hours, gpu_hours, month.end)

    async def usage(self, month: Month, now: datetime, user: str | None = None) -> UsageReport:
        """Usage in a month, of all users or one."""
        rows = await self._runs_within(month, user)
        users, templates = (sum_up(rows, by, month, now) for by in (By.USER, By.TEMPLATE))
        return UsageReport(month=str(month), users=users, templates=templates)

    async def _runs_within(self, month: Month, user: str | None) -> list[OwnedRun]:
        query = (
            select(runs, sessions.c.owner, sessions.c.template)
            .join(sessions, sessions.c.uid == runs.c.uid)
            .where(
                runs.c.start < month.end, or_(runs.c.ended.is_(None), runs.c.ended > month.begin)
            )
        )
        if user is not None:
            query = query.where(sessions.c.owner == normal_user(user))
        async with self._database.connect() as connection:
            rows = await connection.execute(query)
            return [OwnedRun(row.owner, row.template, read_row(row, RunRow)) for row in rows]

    async def past(
        self,
        *,
        limit: int,
        user: str | None = None,
        name: str | None = None,
        before: tuple[datetime, str] | None = None,
    ) -> list[SessionHistory]:
        """Sessions with their runs, newest first, those that still exist too.

        `before`: creation and uid of the last session on the page before.
        """
        query = (
            select(sessions).order_by(sessions.c.created.desc(), sessions.c.uid.desc()).limit(limit)
        )
        if user is not None:
            query = query.where(sessions.c.owner == normal_user(user))
        if name is not None:
            query = query.where(sessions.c.name == name)
        if before is not None:
            query = query.where(tuple_(sessions.c.created, sessions.c.uid) < before)
        return await self._with_runs(query)

    async def session(self, uid: str) -> SessionHistory | None:
        """One session with its runs."""
        return next(
            iter(await self._with_runs(select(sessions).where(sessions.c.uid == uid))), None
        )

    async def _with_runs(self, query: Select[Any]) -> list[SessionHistory]:
        async with self._database.connect() as connection:
            listed = [read_row(row, SessionRow) for row in await connection.execute(query)]
            of_these = runs.c.uid.in_([session.uid for session in listed])
            by_uid: dict[str, list[RunRow]] = {}
            for row in await connection.execute(
                select(runs).where(of_these).order_by(runs.c.start)
            ):
                by_uid.setdefault(row.uid, []).append(read_row(row, RunRow))
        return [SessionHistory(session, tuple(by_uid.get(session.uid, ()))) for session in listed]
