"""Notices of memory: the agent posts them itself, as gateway and operator ask seldom."""

import time
from collections.abc import Mapping

from agent.notices import Notice, Notices

_MORE = (
    "Close programs that you do not need, or open the menu above the desktop to give it more"
    " memory."
)
KILL_SHOWN_SECONDS = 3600.0  # as long as the operator reports it


def notify_kill(notices: Notices) -> None:
    """It has the operator's id, so that the operator's own notice takes this one's place."""
    text = (
        "The desktop had used up its memory, so the system ended a program: what was not saved in"
        f" it is lost. {_MORE}"
    )
    until = time.time() + KILL_SHOWN_SECONDS
    notices.post_or_log(
        Notice("OutOfMemory", "A program was ended", text, until, until_input=False)
    )


def notify_short(notices: Notices, memory: Mapping[str, int] | None) -> None:
    """Show these bytes while the desktop is short of memory; None: it is no longer."""
    text = ""
    if memory:
        percent = min(100, 100 * memory["used"] // memory["limit"])
        limit = memory["limit"] / (1 << 30)
        text = (
            f"{percent} % of {limit:.3g} GiB are used. When all is, the system ends a program."
            f" Save your work. {_MORE}"
        )
    notices.post_or_log(
        Notice("memory", "Memory is nearly used up", text, float("inf"), until_input=False)
    )
