"""Where a browser goes that asks for a page of a desktop that it may enter. Pure."""

from datetime import datetime

from vdi.api.session import Phase, VDISession
from vdi.api.template import VDITemplate
from vdi.gateway.edge.headers import quoted
from vdi.gateway.edge.selkies import PAGE_MARK, mark_of, opened, page_of
from vdi.gateway.edge.transport import PATH as TRANSPORT_PATH
from vdi.gateway.edge.transport import is_fresh, streams_webrtc
from vdi.session.image import takes_tokens
from vdi.session.times import parse_time

NEW_SECONDS = 5
"""After a desktop has become ready: a pool's is that in a moment, and Traefik takes in routes every 2 s at most (its
providersThrottleDuration)."""


def find_first_page(
    session: VDISession, template: VDITemplate | None, *, grant_id: str, uri: str, now: datetime
) -> str:
    """The address to redirect to; empty: the desktop answers at `uri`, an address on its own host."""
    page = page_of(uri)
    if session.spec.suspended or session.status.phase != Phase.RUNNING:
        return f"/.vdi/wait?next={quoted(page)}"
    if uri.partition("?")[0] != "/":
        return ""
    if streams_webrtc(template):
        return "" if is_fresh(mark_of(uri), grant_id, now) else f"{TRANSPORT_PATH}?next={quoted(page)}"
    if mark_of(uri) == PAGE_MARK:
        return ""
    if _is_new(session, now):
        # Until Traefik knows of a new desktop it has nothing to show but an error: that page asks first.
        return f"/.vdi/open?next={quoted(page)}"
    return opened(page) if template is None or takes_tokens(template.spec) else ""


def _is_new(session: VDISession, now: datetime) -> bool:
    ready = session.status.ready_time
    return bool(ready) and (now - parse_time(ready)).total_seconds() < NEW_SECONDS
