"""Homes of first desktops, created while the user fills in the start form: a volume takes seconds.

form opened -> claim with `MADE_AHEAD` -> the operator chooses the node where there is only one -> the volume
desktop started -> the operator takes the annotation away, then the desktop uses the claim
nothing started for ten minutes -> the claim is deleted, as it was when it still had the annotation
"""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

import msgspec

from vdi.cluster.units import parse_time
from vdi.gateway.component import Component, GatewayContext
from vdi.gateway.denied import ActionDenied
from vdi.gateway.rights import User
from vdi.gateway.starting import Starter
from vdi.kube.errors import AlreadyExists, Conflict, KubeError, NotFound
from vdi.kube.resource import CLAIMS
from vdi.session.children import build_home
from vdi.session.homes import COPYING, MADE_AHEAD, HomeClaim, may_use
from vdi.session.naming import USER_ANNOTATION, Identity
from vdi.session.request import SessionRequest
from vdi.session.users import same_user

log = logging.getLogger(__name__)

# How long an unused home stays.
KEPT = timedelta(minutes=10)

_PERIOD_SECONDS = 60.0


@dataclass(frozen=True, eq=False)
class HomesAhead(Component):
    """Creates and deletes these homes; a user has one at a time."""

    context: GatewayContext
    starter: Starter

    async def make(self, user: User, template: str) -> None:
        """Make the home of this user's first desktop of the template, if that desktop is still to come and may be
        started. What goes wrong is logged: the home is made with the desktop then.
        """
        try:
            await self._make(user, template)
        except ActionDenied as why:
            log.debug("no home ahead of a desktop of %s: %s", template, why.sentence)
        except KubeError as error:
            log.warning("no home ahead of a desktop of %s: %s", template, error)

    async def run(self) -> None:
        """Delete what no one has used, until cancelled."""
        while True:
            await asyncio.sleep(_PERIOD_SECONDS)
            try:
                await self.delete_unused()
            except KubeError as error:
                log.warning("homes that no one has used are kept: %s", error)

    async def delete_unused(self) -> None:
        """Once: delete what was made ahead and has waited long enough. Raises KubeError."""
        oldest = self.context.clock() - KEPT
        for claim in list(self.context.cluster.homes.values()):
            if MADE_AHEAD in claim.metadata.annotations and parse_time(claim.metadata.creation_timestamp) <= oldest:
                await self._delete_if_unused(claim)

    async def _make(self, user: User, template: str) -> None:
        start = self.starter.plan(user, SessionRequest(template=template))
        home = self.starter.quota.new_home(start.session)
        if home is None or not home.retain:
            return
        for claim in list(self.context.cluster.homes.values()):
            if same_user(claim.metadata.annotations.get(USER_ANNOTATION, ""), user.email):
                await self._delete_if_unused(claim)
        async with self.starter.quota.for_one_more(user, start.session):
            body = build_home(identity=Identity.of(start.session), home=home)
            body["metadata"]["annotations"][MADE_AHEAD] = template
            with suppress(AlreadyExists):
                made = await self.context.client.create(
                    CLAIMS, body, namespace=start.session.metadata.namespace, into=HomeClaim
                )
                self.context.cluster.homes.remember(made)

    async def _delete_if_unused(self, claim: HomeClaim) -> None:
        """Unless a session has it or may have it: with the version that is known here, so that whoever takes the
        annotation away is never too late.
        """
        meta = claim.metadata
        if MADE_AHEAD not in meta.annotations or COPYING in meta.annotations or meta.deletion_timestamp:
            return
        if any(
            session.metadata.namespace == meta.namespace and may_use(session, meta.name)
            for session in self.context.cluster.sessions.values()
        ):
            return
        with suppress(NotFound, Conflict):  # used or deleted by somebody else meanwhile
            await self.context.client.delete(
                CLAIMS,
                meta.name,
                namespace=meta.namespace,
                uid=meta.uid,
                resource_version=meta.resource_version,
                into=msgspec.Raw,
            )
