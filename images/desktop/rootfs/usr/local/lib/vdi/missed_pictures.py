"""A page that fell behind is brought up to date, also when the screen then stays as it is.

Selkies leaves pictures out for a page that is behind, and makes up for them with the next one that
it encodes. Here it encodes only what changes (SELKIES_VIDEO_STREAMING_MODE): without this the page
would show an old picture until then.
"""

import asyncio
from typing import Any

STILL_SECONDS = 0.5
"""Without a further picture for this long, the screen counts as still: a whole one is asked for."""


def make_up_on_still_screens(relay: Any) -> None:
    """Have every relay, Selkies' sender of one display to one page, ask for a whole picture after
    what it left out.

    Args:
        relay: Selkies' class of them.
    """
    leave_out = relay._lose
    watched: set[Any] = set()

    def watch(one: Any, left_out: int) -> None:
        asyncio.get_running_loop().call_later(STILL_SECONDS, look, one, left_out)

    def look(one: Any, left_out: int) -> None:
        if one.stopped or one.lost_first is None:
            watched.discard(one)
            return
        is_due = can_take(one) and one.lost_run == left_out and one._want_sync()
        if is_due and one.server._repair_taken(one.ws, one.display_id, "keyframe"):
            one.server._schedule_idr_for_display(one.display_id)
        watch(one, one.lost_run)  # until the picture has come

    def can_take(one: Any) -> bool:
        """Whether Selkies would send to it: it sends nothing to a page that it waits for."""
        display = one.server.display_clients.get(one.display_id, {})
        is_waited_for = display.get("ws") is one.ws and not display.get(
            "backpressure_enabled", True
        )
        return not is_waited_for and bool(one._room())

    def noted(one: Any, frame_id: int) -> None:
        leave_out(one, frame_id)
        if one not in watched:
            watched.add(one)
            watch(one, one.lost_run)

    relay._lose = noted
