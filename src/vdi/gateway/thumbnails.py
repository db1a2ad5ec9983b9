"""The small picture of a running desktop on its owner's card in the portal.

    owner, Running, the template's `thumbnails` -> the agent's JPEG, checked and passed on

No picture is stored: not here, not in the database, and by `Cache-Control: no-store` not in the browser's cache.
"""

from dataclasses import dataclass
from http import HTTPStatus

from vdi.api.session import Phase, Role, VDISession
from vdi.api.template import VDITemplate
from vdi.gateway.component import GatewayContext
from vdi.gateway.denied import ActionDenied
from vdi.gateway.desktop_agent import DesktopAgent, find_session
from vdi.gateway.rights import User

# One second more than the agent's program has.
ANSWER_SECONDS = 5.0

MAX_BYTES = 16 * 1024
# Pixels: a JPEG of a few kilobytes can name a size that takes gigabytes to decode.
MAX_SIDE = 640
# Pictures of one session in so many seconds, over all replicas: enough for four open pages with two each.
WINDOW, MOST = 60, 12
# JPEG markers of the segment with the size: baseline, extended and progressive.
_FRAME_HEADERS = frozenset({0xC0, 0xC1, 0xC2})


class TooManyThumbnailsError(Exception):
    """Raised when pictures of a desktop are requested too often."""


def has_thumbnail(session: VDISession, template: VDITemplate | None, role: Role | None) -> bool:
    """Whether a user with this role gets a picture of the session: only the owner does."""
    return (
        role is Role.OWNER
        and template is not None
        and template.spec.thumbnails
        and session.status.phase == Phase.RUNNING
        and not session.spec.suspended
        and not session.metadata.deletion_timestamp
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnails:
    """Requests pictures from the agents of desktops, within a limit for each session."""

    context: GatewayContext
    agent: DesktopAgent

    async def take(self, user: User, name: str) -> bytes | None:
        """A JPEG of the user's own desktop; None while there is no picture of it (see `has_thumbnail`).

        Raises ActionDenied, TooManyThumbnailsError, SharedUnavailableError.
        """
        session, role = find_session(self.context, user, name)
        if role is not Role.OWNER:
            raise ActionDenied("Forbidden", f"Only the owner of desktop {name!r} gets a picture of it.")
        if not has_thumbnail(session, self.context.cluster.template(session.spec.template), role):
            return None
        window = int(self.context.clock().timestamp()) // WINDOW
        if await self.context.shared.count(f"thumbnails/{session.metadata.uid}/{window}", WINDOW) > MOST:
            raise TooManyThumbnailsError(name)
        answer = await self.agent.ask(session, "GET", "/thumbnail", seconds=ANSWER_SECONDS, max_bytes=MAX_BYTES)
        if answer.status == HTTPStatus.NOT_FOUND:
            raise ActionDenied("NotFound", f"The image of desktop {name!r} provides no picture for the portal.")
        if answer.status != HTTPStatus.OK:
            raise ActionDenied("Unavailable", f"The agent in {name!r} has no picture now ({answer.status}).")
        if (size := jpeg_size(answer.body)) is None or not 0 < min(size) <= max(size) <= MAX_SIDE:
            raise ActionDenied("Conflict", f"The agent in {name!r} did not return a small JPEG.")
        return answer.body


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height as the JPEG's frame header has them; None for what is no JPEG."""
    if not data.startswith(b"\xff\xd8"):
        return None
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if marker in _FRAME_HEADERS:
            return int.from_bytes(data[at + 7 : at + 9]), int.from_bytes(data[at + 5 : at + 7])
        at += 2 + length
    return None
