"""Removes shares whose time is over, and requests for access that no one has answered, with a row in the audit.

Rights do not depend on it: `rights.role_in` and `session.actions` compare times at each request.
"""

import asyncio
import logging
from dataclasses import dataclass

from vdi.api.session import VDISession
from vdi.gateway.component import Component, GatewayContext
from vdi.gateway.store.audit import Act, Audit
from vdi.kinds import SESSIONS
from vdi.kube.errors import Conflict, KubeError, NotFound
from vdi.session.actions import drop_expired

log = logging.getLogger(__name__)

SWEEP_SECONDS = 5.0
ACTOR = "vdi-gateway"


@dataclass(eq=False)
class ExpiredAccess(Component):
    """Looks at all sessions now and then. Of several replicas, the one whose patch is taken writes the audit."""

    context: GatewayContext
    audit: Audit

    async def run(self) -> None:
        while True:
            await self.sweep()
            await asyncio.sleep(SWEEP_SECONDS)

    async def sweep(self) -> None:
        for session in list(self.context.cluster.sessions.values()):
            if (session.spec.access or session.spec.access_request) and not self.context.stopping.is_set():
                await self._drop(session)

    async def _drop(self, session: VDISession) -> None:
        found = drop_expired(session, self.context.clock())
        if found is None:
            return
        (patch, ended, lapsed), meta = found, session.metadata
        try:
            changed = await self.context.client.patch(
                SESSIONS, meta.name, patch, namespace=meta.namespace, into=VDISession
            )
        except (Conflict, NotFound):
            return
        except KubeError as error:
            log.warning("expired access to session %s is not removed yet: %s", meta.name, error)
            return
        self.context.cluster.sessions.remember(changed)
        rows = [("session.unshare", {"user": access.user[:254], "reason": "expired"}) for access in ended]
        if lapsed:
            rows.append(("session.answer-access", {"user": lapsed.user[:254], "answer": "lapsed"}))
        for action, detail in rows:
            owner = session.spec.user
            act = Act(actor=ACTOR, action=action, target=meta.name, uid=meta.uid, owner=owner, detail=detail)
            await self.audit.record(act)
