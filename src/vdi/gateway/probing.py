"""The gateway's side of `vdi session probe`: arms the mark, issues a ticket, and turns measurements into metrics.

    begin   owner, Running -> the agent in the desktop is armed -> a ticket into the desktop, and the probe's id
    finish  the id, once, within minutes -> histogram and gauges; a stage that failed is counted

The measurements are untrusted input: no one but the user sees the pixels at their end. They can change the figures of
the user's own template and nothing else, and each session has a rate limit.
"""

import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Literal

import msgspec

from vdi.api.constraints import doc
from vdi.api.session import Phase, Role, VDISession
from vdi.gateway.component import GatewayContext
from vdi.gateway.denied import ActionDenied
from vdi.gateway.desktop_agent import DesktopAgent, find_session
from vdi.gateway.rights import User
from vdi.http_client import BadResponseError
from vdi.latency_probe.measurements import MAX_LATENCY_MS, Mark, Measurements
from vdi.session.streaming import takes_tokens

log = logging.getLogger(__name__)

# The longest that an agent accepts. Connecting and the first picture may take half of it.
ARMED_SECONDS = 60

ANSWER_SECONDS = 3.0
ANSWER_BYTES = 4096
FINISH_SECONDS = 180.0
# At most MOST probes of one session in WINDOW seconds, over all replicas.
WINDOW, MOST = 60, 6

# Stages in which a probe can fail (`vdi.latency_probe.client.StageError`).
Stage = Literal["entering", "connecting", "first picture", "the mark", "measuring"]


class Begun(msgspec.Struct):
    """The response to a probe that may start."""

    id: Annotated[str, doc("Identifies this probe when its results are submitted.")]
    url: Annotated[str, doc("The desktop's address.")]
    ticket: Annotated[str, doc("Opens the desktop once, within 30 seconds, with the secret of the state.")]
    mark: Annotated[Mark, doc("Position of the mark.")]


class TooManyProbesError(Exception):
    """Raised when a session is probed too often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prober:
    """Begins and ends probes. `issue_ticket`: `TicketHandoff.issue_ticket`."""

    context: GatewayContext
    issue_ticket: Callable[[User, VDISession, str], Awaitable[str]]
    agent: DesktopAgent

    async def begin(self, user: User, name: str, state: str) -> Begun:
        """Arm the mark and issue a ticket. `state`: SHA-256 of the caller's secret, in place of a browser's cookie.

        Raises ActionDenied and TooManyProbesError.
        """
        session = self._own(user, name)
        if session.spec.suspended or session.status.phase != Phase.RUNNING:
            phase = session.status.phase or "not started"
            what = "suspended. Resume it first" if session.spec.suspended else phase
            raise ActionDenied("Conflict", f"The desktop {name!r} has no picture to measure: it is {what}.")
        template = self.context.cluster.template(session.spec.template)
        if template and not takes_tokens(template.spec):
            why = "This desktop cannot be measured: the probe supports only the stream of Selkies 2."
            raise ActionDenied("Conflict", why)
        window = int(self.context.clock().timestamp()) // WINDOW
        if await self.context.shared.count(f"probes/{session.metadata.uid}/{window}", WINDOW) > MOST:
            raise TooManyProbesError(name)
        mark = await self._arm(session)
        probe = secrets.token_urlsafe(16)
        await self.context.shared.put(f"probe/{probe}", session.metadata.uid, FINISH_SECONDS)
        ticket = await self.issue_ticket(user, session, state)
        return Begun(probe, session.status.url, ticket, mark)

    async def finish(self, user: User, name: str, probe: str, found: Measurements | Stage) -> None:
        """Take the measurements, or the stage in which the probe failed. Raises ActionDenied."""
        session = self._own(user, name)
        if await self.context.shared.pop(f"probe/{probe}") != session.metadata.uid:
            raise ActionDenied("NotFound", f"There is no active probe {probe!r} of {name!r}: it has ended or expired.")
        template, metrics = session.spec.template, self.context.metrics
        if not isinstance(found, Measurements):
            metrics.probes.labels(template, found).inc()
            return
        metrics.probes.labels(template, "measured").inc()
        metrics.first_picture.labels(template).observe(found.first_picture_seconds)
        glass = metrics.glass_to_glass.labels(template)
        for milliseconds in [*found.input_to_photon_ms, *[MAX_LATENCY_MS] * found.keys_without_effect]:
            glass.observe(milliseconds / 1000)
        metrics.probe_frame_rate.labels(template).set(found.frames_per_second)
        metrics.probe_bitrate.labels(template).set(found.bitrate_kbps * 1000)
        metrics.probe_frames.labels(template, "arrived").inc(found.frames)
        metrics.probe_frames.labels(template, "dropped").inc(found.frames_dropped)

    def _own(self, user: User, name: str) -> VDISession:
        """The user's own session: a probe sees the screen and presses keys, so administrators may not either."""
        session, role = find_session(self.context, user, name)
        if role is not Role.OWNER:
            raise ActionDenied("Forbidden", f"Only {session.spec.user}, the owner of desktop {name!r}, may probe it.")
        return session

    async def _arm(self, session: VDISession) -> Mark:
        name = session.metadata.name
        body = {"seconds": ARMED_SECONDS}
        try:
            answer = await self.agent.ask(
                session, "POST", "/photon", json=body, seconds=ANSWER_SECONDS, max_bytes=ANSWER_BYTES
            )
        except ActionDenied as denied:
            log.warning("the agent of session %s cannot be armed: %s", name, denied.__cause__ or denied)
            raise
        if answer.status == HTTPStatus.NOT_FOUND:
            raise ActionDenied(
                "Conflict", f"The image of {name!r} cannot show a mark to measure: it is older than this gateway."
            )
        if answer.status != HTTPStatus.OK:
            why = answer.body.decode(errors="replace")[:200].strip()
            raise ActionDenied("Conflict", f"The agent in {name!r} cannot show its mark ({answer.status}): {why}.")
        try:
            return answer.json(Mark)
        except BadResponseError as error:
            raise ActionDenied("Conflict", f"The agent in {name!r} did not return a valid mark.") from error
