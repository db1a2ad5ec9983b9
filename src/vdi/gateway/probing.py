"""`vdi session probe` on the gateway's side: the mark is armed, a ticket made, and the figures become metrics.

    begin   owner, Running -> the agent in the desktop is armed -> a ticket into the desktop, and the probe's id
    finish  the id, once, within minutes -> histogram and gauges; a stage that failed is counted

What is measured is the person's word, as it must be: no one else sees the pixels at the end of their way. It can move
their own template's figures and nothing else; how often is limited for each session.
"""

import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import httpx
import msgspec

from vdi.api.constraints import doc
from vdi.api.session import Phase, VDISession
from vdi.gateway.addresses import NO_AUTHORITIES, desktop_url
from vdi.gateway.context import GatewayContext
from vdi.gateway.denied import ActionDenied
from vdi.gateway.edge.selkies import read_key
from vdi.gateway.rights import role_in
from vdi.gateway.users import Role, User
from vdi.kube.errors import KubeError
from vdi.latency_probe.mark import Mark
from vdi.latency_probe.measurements import MAX_LATENCY_MS, Measurements
from vdi.session.children.secret import AGENT_TOKEN_KEY
from vdi.session.image import takes_tokens

log = logging.getLogger(__name__)

AGENT_PORT = 8082
ARMED_SECONDS = 60
"""The longest that an agent takes: connecting and the first picture may take half of it."""
ANSWER_SECONDS = 3.0
ANSWER_BYTES = 4096
FINISH_SECONDS = 180.0
WINDOW, MOST = 60, 6
"""Probes of one session in so many seconds, over all replicas."""

Stage = Literal["entering", "connecting", "first picture", "the mark", "measuring"]
"""Where a probe can fail: `vdi.latency_probe.client.StageError`."""


class Begun(msgspec.Struct):
    """A probe may begin."""

    id: Annotated[str, doc("Of this probe, for its figures.")]
    url: Annotated[str, doc("The desktop's address.")]
    ticket: Annotated[str, doc("Opens the desktop once, within half a minute, for who has the state's secret.")]
    mark: Annotated[Mark, doc("What to look at.")]


class TooManyProbesError(Exception):
    """Raised when a session is probed too often."""


IssueTicket = Callable[[User, VDISession, str], Awaitable[str]]
"""`Edge.issue_ticket`: a ticket into this session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prober:
    """Begins and ends probes. Raises ActionDenied."""

    context: GatewayContext
    issue_ticket: IssueTicket
    agent: Callable[[VDISession], str] = lambda session: desktop_url(session, AGENT_PORT)
    """URL of the agent in a session's desktop."""

    async def begin(self, user: User, name: str, state: str) -> Begun:
        """Arm the mark, and open the way. `state`: SHA-256 of a secret, as of a browser's cookie. Raises too
        TooManyProbesError.
        """
        session = self._own(user, name)
        if session.spec.suspended or session.status.phase != Phase.RUNNING:
            what = "suspended: resume it" if session.spec.suspended else f"{session.status.phase or 'not started'} now"
            raise ActionDenied("Conflict", f"There is no picture to measure: the desktop {name!r} is {what}.")
        template = self.context.cluster.template(session.spec.template)
        if template and not takes_tokens(template.spec):
            raise ActionDenied("Conflict", "There is no picture to measure: the probe reads the stream of Selkies 2.")
        window = int(self.context.clock().timestamp()) // WINDOW
        if await self.context.shared.count(f"probes/{session.metadata.uid}/{window}", WINDOW) > MOST:
            raise TooManyProbesError(name)
        mark = await self._arm(session)
        probe = secrets.token_urlsafe(16)
        await self.context.shared.put(f"probe/{probe}", session.metadata.uid, FINISH_SECONDS)
        ticket = await self.issue_ticket(user, session, state)
        return Begun(probe, session.status.url, ticket, mark)

    async def finish(self, user: User, name: str, probe: str, found: Measurements | Stage) -> None:
        """What the probe has seen, or the stage in which it failed."""
        session = self._own(user, name)
        if await self.context.shared.pop(f"probe/{probe}") != session.metadata.uid:
            raise ActionDenied(
                "NotFound", f"There is no probe {probe!r} of {name!r} under way: it has ended, or is too old."
            )
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
        """The person's own desktop: a probe looks at the screen and presses keys; no administrator's affair."""
        session = self.context.cluster.session(name)
        role = role_in(session, user.email, self.context.clock()) if session else None
        if session is None or (role is None and not user.admin):
            raise ActionDenied("NotFound", f"There is no desktop {name!r} of yours.")
        if role is not Role.OWNER:
            raise ActionDenied("Forbidden", f"Only {session.spec.user}, whose desktop {name!r} is, may probe it.")
        return session

    async def _arm(self, session: VDISession) -> Mark:
        name = session.metadata.name
        headers = {"Authorization": f"Bearer {await self._token(session)}"}
        # No proxy of the environment, no redirects, an end: a desktop's answer is a stranger's word.
        try:
            async with (
                httpx.AsyncClient(
                    timeout=ANSWER_SECONDS, trust_env=False, follow_redirects=False, verify=NO_AUTHORITIES
                ) as http,
                http.stream(
                    "POST", f"{self.agent(session)}/photon", json={"seconds": ARMED_SECONDS}, headers=headers
                ) as answer,
            ):
                body = b""
                async for piece in answer.aiter_bytes():
                    body += piece
                    if len(body) > ANSWER_BYTES:
                        raise ActionDenied("Conflict", f"The agent of {name!r} answers too much.")
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            log.warning("the agent of session %s cannot be armed: %s", name, error)
            raise ActionDenied("Unavailable", f"The agent in the desktop {name!r} does not answer.") from error
        if answer.status_code == httpx.codes.NOT_FOUND:
            raise ActionDenied(
                "Conflict", f"The image of {name!r} has no mark to measure by: it is older than this gateway."
            )
        if answer.status_code != httpx.codes.OK:
            why = body.decode(errors="replace")[:200].strip()
            raise ActionDenied("Conflict", f"The agent in {name!r} cannot show its mark ({answer.status_code}): {why}.")
        try:
            return msgspec.json.decode(body, type=Mark)
        except msgspec.DecodeError as error:
            raise ActionDenied("Conflict", f"The agent in {name!r} answers what is no mark.") from error

    async def _token(self, session: VDISession) -> str:
        meta = session.metadata
        try:
            token = await read_key(self.context.client, session, AGENT_TOKEN_KEY)
        except (KubeError, ValueError) as error:
            log.warning("the agent's token of session %s cannot be read: %s", meta.name, error)
            raise ActionDenied(
                "Unavailable", f"The way to the agent in {meta.name!r} is not known just now."
            ) from error
        if not (token and token.isascii() and token.isprintable()):
            raise ActionDenied("Conflict", f"The desktop {meta.name!r} has no agent that could show a mark.")
        return token
