"""Sessions as they change, for `ls --watch`, `create --wait` and `rm --wait`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from vdi.api.session import VDISession
from vdi.kube.store import Store
from vdi.kube.transport import Client
from vdi.kube.watch import Reflector
from vdi.operator.kinds import SESSIONS

Change = tuple[VDISession | None, VDISession | None]
"""(old, new): (None, new) appeared, (old, None) is gone."""


@dataclass(frozen=True, slots=True)
class Following:
    """The sessions as they are now, and every change on the way there, the first list included."""

    store: Store[VDISession]
    changes: asyncio.Queue[Change]


@asynccontextmanager
async def following(client: Client, namespace: str | None, *, name: str | None = None) -> AsyncIterator[Following]:
    """Follow one session or all, until the context ends; reconnects and lists again by itself.

    Raises a KubeError at once when sessions may not be listed here: the reflector alone would try for ever.
    """
    fields = f"metadata.name={name}" if name else None
    await client.list(SESSIONS, namespace=namespace, field_selector=fields, into=VDISession)
    sessions = Following(Store(), asyncio.Queue())
    reflector = Reflector(
        client,
        SESSIONS,
        VDISession,
        sessions.store,
        namespace=namespace,
        field_selector=fields,
        on_change=lambda old, new: sessions.changes.put_nowait((old, new)),
    )
    running = asyncio.create_task(reflector.run())
    try:
        await reflector.wait_synced()
        yield sessions
    finally:
        running.cancel()
        await asyncio.wait([running])
