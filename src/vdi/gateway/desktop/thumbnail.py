"""The small picture of a desktop: who gets one, and its size, read from untrusted bytes. Pure."""

from vdi.api.session import Role, VDISession
from vdi.api.template import VDITemplate
from vdi.session.recording import refuse_picture
from vdi.session.status import is_running

# Pixels: a JPEG of a few kilobytes can name a size that takes gigabytes to decode.
THUMBNAIL_MAX_SIDE = 640


# JPEG markers of the segment with the size: baseline, extended and progressive.
_FRAME_HEADERS = frozenset({0xC0, 0xC1, 0xC2})


def has_thumbnail(session: VDISession, template: VDITemplate | None, role: Role | None) -> bool:
    """Whether a user with this role gets a picture of the session: only the owner does."""
    shows = (
        template is not None
        and template.spec.thumbnails
        and is_running(session)
        and not refuse_picture(session)
    )
    return role is Role.OWNER and shows


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


def is_small_jpeg(data: bytes) -> bool:
    """Whether these are a JPEG of at most THUMBNAIL_MAX_SIDE pixels a side."""
    size = jpeg_size(data)
    return size is not None and 0 < min(size) <= max(size) <= THUMBNAIL_MAX_SIDE
