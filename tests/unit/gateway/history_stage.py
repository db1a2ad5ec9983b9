"""A session's life as the API server shows it, state by state, and a place to record it in."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import msgspec

from support.database import sqlite_with_tables
from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.units import format_time
from vdi.gateway.cluster_cache import ClusterCache
from vdi.gateway.history.recorder import Recorder
from vdi.gateway.settings import Settings
from vdi.gateway.store.database import Database, read_row
from vdi.gateway.store.history import RunRow, SessionRow, runs, sessions
from vdi.gateway.store.migrations import upgrade
from vdi.kube.errors import NotFound
from vdi.kube.transport import Client

SQLITE = "sqlite+aiosqlite:///"
MORNING = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)


def at(minutes: float) -> datetime:
    """So many minutes after it was made."""
    return MORNING + timedelta(minutes=minutes)


class Life:
    """One session; each method gives its next state, as the operator writes it. Minutes count from
    its creation.
    """

    def __init__(
        self,
        name: str = "alice",
        *,
        user: str = "alice@example.com",
        uid: str = "",
        version: int = 1,
    ) -> None:
        self.name, self.uid, self.version = name, uid or f"uid-{name}", version
        self.spec: dict[str, Any] = {"user": user, "template": "office"}
        self.status: dict[str, Any] = {}
        self.meta: dict[str, Any] = {}

    def state(self, **status: Any) -> VDISession:
        """The present state with that changed; None removes."""
        self.version += 1
        self.status = {
            name: value for name, value in (self.status | status).items() if value is not None
        }
        metadata = {
            "name": self.name,
            "namespace": "vdi-sessions",
            "uid": self.uid,
            "resourceVersion": str(self.version),
            "creationTimestamp": format_time(MORNING),
            **self.meta,
        }
        return msgspec.convert(
            {"metadata": metadata, "spec": self.spec, "status": self.status}, VDISession
        )

    def created(self) -> VDISession:
        return self.state()

    def queued(self, since: float) -> VDISession:
        admitted = self._condition("Admitted", "False", "GPUsBusy", since)
        return self.state(**self._NO_RUN, phase="Pending", conditions=[admitted])

    def starting(self, start: float) -> VDISession:
        admitted = self._condition("Admitted", "True", "Admitted", start)
        return self.state(
            phase="Creating",
            readyTime=None,
            startTime=format_time(at(start)),
            expiresAt=format_time(at(start + 480)),
            podName=self.name,
            templateRevision="1",
            conditions=[admitted],
        )

    def running(self, ready: float, *, node: str = "node-1") -> VDISession:
        conditions = [
            *self.status["conditions"][:1],
            self._condition("Ready", "True", "Running", ready),
        ]
        first = self.status.get("readyTime") or format_time(at(ready))
        return self.state(
            phase="Running",
            readyTime=first,
            podName=self.name,
            nodeName=node,
            conditions=conditions,
        )

    def running_since(self, start: float) -> VDISession:
        self.starting(start)
        return self.running(start + 1)

    def between_pods(self) -> VDISession:
        return self.state(phase="Pending", podName=None, nodeName=None)

    def suspended(self, when: float, why: str = "Suspended") -> VDISession:
        admitted = self._condition("Admitted", "False", "Suspended", when)
        ready = self._condition("Ready", "False", why, when)
        return self.state(**self._NO_RUN, phase="Suspended", conditions=[admitted, ready])

    def given_up(self, when: float) -> VDISession:
        failures = {
            "count": 6,
            "reason": "CrashLoop",
            "message": "It crashes.",
            "time": format_time(at(when)),
        }
        return self.state(
            **self._NO_RUN, phase="Failed", message="It crashes. Mend it.", failures=failures
        )

    def ending(self, when: float, why: str = "Stopping") -> VDISession:
        self.meta["deletionTimestamp"] = format_time(at(when))
        ready = self._condition("Ready", "False", why, when)
        conditions = [*self.status.get("conditions", [])[:1], ready]
        return self.state(phase="Terminating", conditions=conditions)

    _NO_RUN: dict[str, Any] = dict.fromkeys(
        ("startTime", "readyTime", "expiresAt", "podName", "nodeName", "lastActivityTime")
    )

    def _condition(self, kind: str, status: str, reason: str, when: float) -> dict[str, str]:
        return {
            "type": kind,
            "status": status,
            "reason": reason,
            "lastTransitionTime": format_time(at(when)),
        }


def template(*, gpu: int = 2, generation: int = 1) -> VDITemplate:
    """The one that all lives are of."""
    metadata = {"name": "office", "generation": generation, "resourceVersion": str(generation)}
    spec = {"image": "desktop:1", "resources": {"defaultGPU": gpu}}
    return msgspec.convert({"metadata": metadata, "spec": spec}, VDITemplate)


class Replica:
    """One gateway's recorder over what it has been given; the API server is asked through it,
    too.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self.database = database
        client = cast(Client, self)
        self.world = ClusterCache(client, Settings())
        self.world.templates.observe(template())
        self.recorder = Recorder(database=database, cluster=self.world, client=client, clock=clock)
        self.on_the_server: dict[str, VDISession] = {}

    async def get(
        self, _resource: object, name: str, *, namespace: str, into: type[VDISession]
    ) -> VDISession:
        if name not in self.on_the_server:
            raise NotFound(404, "NotFound", f"vdisessions {name!r} not found", request="GET")
        return self.on_the_server[name]

    def tell(self, session: VDISession) -> None:
        """The watch brings this state."""
        self.world.sessions.observe(session)

    def tell_gone(self, session: VDISession) -> None:
        """The watch brings its end."""
        self.world.sessions.observe_deleted(session)

    async def write(self) -> None:
        """Write all there is to write."""
        while self.recorder._unwritten:
            await self.recorder._write_some()


@asynccontextmanager
async def open_database(url: str) -> AsyncIterator[Database]:
    """With all tables in it; SQLite's file gets them from a copy, other servers from the
    migrations.
    """
    if url.startswith(SQLITE):
        sqlite_with_tables(Path(url.removeprefix(SQLITE)))
    database = Database(url)
    try:
        await upgrade(database)
        yield database
    finally:
        await database.close()


def sqlite_url(folder: Path) -> str:
    return f"{SQLITE}{folder}/vdi.db"


async def rows_of(database: Database) -> tuple[list[SessionRow], list[RunRow]]:
    """Everything that is kept, as it was at one moment: each query sees what was written since the
    one before it.
    """
    async with database.connect() as connection:
        found: list[SessionRow] | None = None
        of_runs: list[RunRow] = []
        while True:
            again = [
                read_row(one, SessionRow)
                for one in await connection.execute(sessions.select().order_by(sessions.c.uid))
            ]
            if again == found:
                return found, of_runs
            found = again
            query = runs.select().order_by(runs.c.uid, runs.c.start)
            of_runs = [read_row(one, RunRow) for one in await connection.execute(query)]


def without_marks(row: SessionRow) -> SessionRow:
    """What people see: not what only the recorder needs."""
    return msgspec.structs.replace(row, seen=0, revision=0)
