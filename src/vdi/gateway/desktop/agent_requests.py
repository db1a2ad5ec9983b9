"""Requests of owners to the agents of their desktops: results of start-up scripts, a small picture of
the screen, latency probes, and the memory in use.

An agent's response is untrusted input. A picture is stored nowhere. The measurements of a probe can
change the figures of the user's own template and nothing else.
"""

import logging
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Literal

import msgspec
from starlette.exceptions import HTTPException

from vdi.api.constraints import doc
from vdi.api.session import Role, VDISession
from vdi.api.template import VDITemplate
from vdi.gateway.component import GatewayContext
from vdi.gateway.denied import ActionDenied
from vdi.gateway.desktop.access import find_session, find_to_act
from vdi.gateway.desktop.agent import WINDOW_SECONDS, DesktopAgent, count_in_window
from vdi.gateway.desktop.thumbnail import has_thumbnail, is_small_jpeg
from vdi.gateway.rights import Action, User
from vdi.http_client import (
    BadResponseError,
)
from vdi.latency_probe.measurements import MAX_LATENCY_MS, Mark, Measurements
from vdi.session.resize import MemoryAlert, find_memory_alert
from vdi.session.status import is_running
from vdi.session.template_image import takes_tokens

log = logging.getLogger(__name__)


# The desktop's page waits for the report on start-up scripts.
SCRIPTS_SECONDS = 2.0


SCRIPTS_MAX_BYTES = 64 * 1024


MAX_SCRIPTS = 2


MAX_LINES, MAX_CHARACTERS = 40, 4096
# Requests for one session in WINDOW_SECONDS. Pictures: four open pages with two each.
MAX_THUMBNAILS, MAX_PROBES = 12, 6


THUMBNAIL_SECONDS = 5.0  # one more than the agent's program has


THUMBNAIL_MAX_BYTES = 16 * 1024


# The longest that an agent accepts. Connecting and the first picture may take half of it.
ARMED_SECONDS = 60


MARK_SECONDS = 3.0


MARK_MAX_BYTES = 4096


PROBE_SECONDS = 180.0


# Stages in which a probe can fail (`vdi.latency_probe.client.StageError`).
Stage = Literal["entering", "connecting", "first picture", "the mark", "measuring"]


_TERMINAL_COMMAND = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


class _Memory(msgspec.Struct, rename="camel"):
    used: Annotated[int, msgspec.Meta(ge=0)]
    limit: Annotated[int, msgspec.Meta(gt=0)]
    is_short: bool


async def ask_memory(
    agent: DesktopAgent, session: VDISession, template: VDITemplate | None
) -> MemoryAlert | None:
    """The alert of a running desktop, for its owner; None: it has enough memory, or its agent does
    not say.
    """
    if template is None or not is_running(session):
        return None
    try:
        answer = await agent.ask(session, "GET", "/memory", seconds=1.0, max_bytes=1024)
        memory = answer.json(_Memory)
    except (ActionDenied, BadResponseError):
        return None
    if not memory.is_short:
        return None
    return find_memory_alert(session, template, memory.used, memory.limit)


class StartupScriptResult(msgspec.Struct, rename="camel", omit_defaults=True):
    """One script and its result."""

    source: Annotated[
        Literal["template", "user"],
        doc(
            "Whose script: `startupScript` of the template, or `~/.config/vdi/startup.sh` of the"
            " user."
        ),
    ]
    state: Annotated[
        Literal["Running", "Ended", "NotStarted"],
        doc("NotStarted: it could not be started; `output` has the reason."),
    ]
    exit_code: Annotated[int | None, doc("Exit code of a script that has ended; 0: success.")] = (
        None
    )
    output: Annotated[
        str, doc(f"Its last lines: at most {MAX_LINES}, and {MAX_CHARACTERS} characters.")
    ] = ""


class _Report(msgspec.Struct):
    scripts: tuple[StartupScriptResult, ...]


class Begun(msgspec.Struct):
    """The response to a probe that may start."""

    id: Annotated[str, doc("Identifies this probe when its results are submitted.")]
    url: Annotated[str, doc("The desktop's address.")]
    ticket: Annotated[
        str, doc("Opens the desktop once, within 30 seconds, with the secret of the state.")
    ]
    mark: Annotated[Mark, doc("Position of the mark.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRequests:
    """Requests of owners to the agents of their desktops, for REST API and portal. Every method
    raises ActionDenied.

    `issue_ticket`: `TicketHandoff.issue_ticket`, a ticket into the desktop for a probe.
    """

    context: GatewayContext
    agent: DesktopAgent
    issue_ticket: Callable[[User, VDISession, str], Awaitable[str]]

    async def read_startup_scripts(self, user: User, name: str) -> tuple[StartupScriptResult, ...]:
        """The scripts of the user's own desktop since its start."""
        why = f"Only the owner of desktop {name!r} can read what its scripts write."
        session = await self._own(user, name, why)
        if not is_running(session):
            raise ActionDenied(
                "Conflict",
                f"The desktop {name!r} is not running, so it has no results of start-up scripts.",
            )
        answer = await self.agent.ask(
            session, "GET", "/startup-scripts", seconds=SCRIPTS_SECONDS, max_bytes=SCRIPTS_MAX_BYTES
        )
        if answer.status == HTTPStatus.NOT_FOUND:
            raise ActionDenied(
                "Conflict", f"The image of desktop {name!r} does not report its start-up scripts."
            )
        if answer.status != HTTPStatus.OK:
            raise ActionDenied(
                "Unavailable", f"The agent in {name!r} has no report now ({answer.status})."
            )
        try:
            scripts = answer.json(_Report).scripts
        except BadResponseError as error:
            raise ActionDenied(
                "Conflict", f"The agent in {name!r} did not return a valid report."
            ) from error
        return tuple(
            msgspec.structs.replace(script, output=last_lines(script.output))
            for script in scripts[:MAX_SCRIPTS]
        )

    async def take_thumbnail(self, user: User, name: str) -> bytes | None:
        """A JPEG of the user's own desktop; None while there is no picture of it (see
        `has_thumbnail`).
        """
        why = f"Only the owner of desktop {name!r} gets a picture of it."
        session = await self._own(user, name, why)
        template = self.context.cluster.template(session.spec.template)
        if not has_thumbnail(session, template, Role.OWNER):
            return None
        message = (
            f"Pictures of this desktop are limited to {MAX_THUMBNAILS} within {WINDOW_SECONDS} s."
        )
        await self.limit("thumbnails", session, MAX_THUMBNAILS, message)
        answer = await self.agent.ask(
            session, "GET", "/thumbnail", seconds=THUMBNAIL_SECONDS, max_bytes=THUMBNAIL_MAX_BYTES
        )
        if answer.status == HTTPStatus.NOT_FOUND:
            raise ActionDenied(
                "NotFound", f"The image of desktop {name!r} provides no picture for the portal."
            )
        if answer.status != HTTPStatus.OK:
            raise ActionDenied(
                "Unavailable", f"The agent in {name!r} has no picture now ({answer.status})."
            )
        if not is_small_jpeg(answer.body):
            raise ActionDenied("Conflict", f"The agent in {name!r} did not return a small JPEG.")
        return answer.body

    async def begin_probe(self, user: User, name: str, state: str) -> Begun:
        """Arm the mark and issue a ticket. `state`: SHA-256 of the caller's secret, in place of a
        browser's cookie.
        """
        session = await self._own(user, name, f"Only the owner of desktop {name!r} may probe it.")
        if not is_running(session):
            state = session.status.phase or "not started"
            if session.spec.suspended:
                state = "suspended. Resume it first"
            raise ActionDenied(
                "Conflict", f"The desktop {name!r} has no picture to measure: it is {state}."
            )
        template = self.context.cluster.template(session.spec.template)
        if template and not takes_tokens(template.spec):
            why = (
                "This desktop cannot be measured: the probe supports only the stream of Selkies 2."
            )
            raise ActionDenied("Conflict", why)
        message = (
            f"The desktop {name!r} has already been probed {MAX_PROBES} times within"
            f" {WINDOW_SECONDS} s."
        )
        await self.limit("probes", session, MAX_PROBES, message)
        mark = await self._arm(session)
        probe = secrets.token_urlsafe(16)
        await self.context.shared.put(f"probe/{probe}", session.metadata.uid, PROBE_SECONDS)
        ticket = await self.issue_ticket(user, session, state)
        return Begun(probe, session.status.url, ticket, mark)

    async def finish_probe(
        self, user: User, name: str, probe: str, result: Measurements | Stage
    ) -> None:
        """Count the measurements, or the stage in which the probe failed: once for each probe."""
        session = await self._own(user, name, f"Only the owner of desktop {name!r} may probe it.")
        if await self.context.shared.pop(f"probe/{probe}") != session.metadata.uid:
            raise ActionDenied(
                "NotFound",
                f"There is no active probe {probe!r} of {name!r}: it has ended or expired.",
            )
        template, metrics = session.spec.template, self.context.metrics
        if not isinstance(result, Measurements):
            metrics.probes.labels(template, result).inc()
            return
        metrics.probes.labels(template, "measured").inc()
        metrics.first_picture.labels(template).observe(result.first_picture_seconds)
        # A key without an effect counts as the longest latency.
        lost = [MAX_LATENCY_MS] * result.keys_without_effect
        glass = metrics.glass_to_glass.labels(template)
        for milliseconds in [*result.input_to_photon_ms, *lost]:
            glass.observe(milliseconds / 1000)
        metrics.probe_frame_rate.labels(template).set(result.frames_per_second)
        metrics.probe_bitrate.labels(template).set(result.bitrate_kbps * 1000)
        metrics.probe_frames.labels(template, "arrived").inc(result.frames)
        metrics.probe_frames.labels(template, "dropped").inc(result.frames_dropped)

    async def _own(self, user: User, name: str, why_not: str) -> VDISession:
        """The user's own session. What the agents show is for no one else, administrators
        included.
        """
        _, role = find_session(self.context, user, name)
        if role is not Role.OWNER:
            raise ActionDenied("Forbidden", why_not)
        return await find_to_act(self.context, user, Action.OPEN, name)

    async def limit(self, what: str, session: VDISession, most: int, message: str) -> None:
        if await count_in_window(self.context, what, session) > most:
            raise HTTPException(429, message, {"Retry-After": str(WINDOW_SECONDS)})

    async def _arm(self, session: VDISession) -> Mark:
        name = session.metadata.name
        try:
            answer = await self.agent.ask(
                session,
                "POST",
                "/photon",
                json={"seconds": ARMED_SECONDS},
                seconds=MARK_SECONDS,
                max_bytes=MARK_MAX_BYTES,
            )
        except ActionDenied as denied:
            log.warning(
                "the agent of session %s cannot be armed: %s", name, denied.__cause__ or denied
            )
            raise
        if answer.status == HTTPStatus.NOT_FOUND:
            raise ActionDenied(
                "Conflict",
                f"The image of {name!r} cannot show a mark to measure: it is older than this"
                " gateway.",
            )
        if answer.status != HTTPStatus.OK:
            why = answer.body.decode(errors="replace")[:200].strip()
            raise ActionDenied(
                "Conflict", f"The agent in {name!r} cannot show its mark ({answer.status}): {why}."
            )
        try:
            return answer.json(Mark)
        except BadResponseError as error:
            raise ActionDenied(
                "Conflict", f"The agent in {name!r} did not return a valid mark."
            ) from error


def last_lines(output: str) -> str:
    """The end of a script's output as plain text: no colours, and no characters that reorder
    others.
    """
    # A script's output is untrusted input, of its author and of the desktop's user.
    text = _TERMINAL_COMMAND.sub("", output[-2 * MAX_CHARACTERS :])
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    plain = "".join(one for one in text if one in "\n\t" or one.isprintable())
    return "\n".join(plain[-MAX_CHARACTERS:].rstrip().split("\n")[-MAX_LINES:])
