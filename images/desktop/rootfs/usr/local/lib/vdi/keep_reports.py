"""Selkies' reports of transfers stay in its queue until vdi-agent has taken them. For run-selkies.

Selkies itself sends each report once, within 2 s. Programs of the desktop's user have the agent's
uid and can stop it, or take all of its connections: what was transferred meanwhile would leave no
trace.
"""

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

AGAIN_SECONDS = 0.5


def keep_reports(audit: Any) -> None:
    """Have Selkies send its reports so. Its queue is bounded: of more, the newest are lost, and it
    reports how many.

    Args:
        audit: Selkies' module of that name.
    """
    if not all(
        hasattr(audit, name) for name in ("_deliver", "_dropped", "_overflowing", "_closing")
    ):
        raise SystemExit(
            "this release of Selkies reports transfers otherwise: run-selkies has to be adapted"
        )
    audit._deliver = partial(deliver, audit)


async def deliver(audit: Any, queue: "asyncio.Queue[dict[str, Any]]") -> None:
    """Send one report after the other, until Selkies ends."""
    import aiohttp

    settings = audit.settings
    headers = {"Authorization": f"Bearer {settings.audit_webhook_token}"}
    timeout = aiohttp.ClientTimeout(total=settings.audit_webhook_timeout)
    waits_since, number = time.time(), 0
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
        while not audit._closing:
            report = await queue.get()
            number += 1  # by which the agent knows a report that it has taken, but too late
            body = {**report, "ts": audit.rfc3339(report["ts"]), "report": number}
            while not await _is_taken(session, settings.audit_webhook_url, body):  # noqa: ASYNC110 - it can't tell us
                await asyncio.sleep(AGAIN_SECONDS)
            queue.task_done()
            if not queue.empty():
                continue
            lost, audit._dropped, audit._overflowing = audit._dropped, 0, False
            now = time.time()
            if lost:
                seconds = now - waits_since
                queue.put_nowait(
                    {"event": "audit.dropped", "ts": now, "count": lost, "seconds": seconds}
                )
            waits_since = now


async def _is_taken(session: Any, url: str, body: Mapping[str, Any]) -> bool:
    """Whether the agent has the report, or will never accept it."""
    import aiohttp

    try:
        async with session.post(url, json=body) as response:
            return bool(response.status < 500)
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False
