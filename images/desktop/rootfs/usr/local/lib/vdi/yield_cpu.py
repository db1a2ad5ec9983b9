"""Where CPU is short, a moving picture that no one touches yields: it gets fewer pictures, and
others are in time.

Linux says how long each thread of this process, which encodes, could have run and got no CPU. Where
that is much of the time that they wanted, a display that sends pictures all the time and has had no
input for some seconds, such as a video, is captured more slowly until there is CPU again. With an
input it has its rate back at once.
"""

import asyncio
import time
from pathlib import Path
from typing import Any

CHECK_SECONDS = 1.0
UNTOUCHED_SECONDS = 5.0
MOVING = 10.0
"""Pictures a second: more than a cursor that blinks and a clock."""
SHORT, ENOUGH = 0.35, 0.2
"""Time waited for a CPU, as a part of the time that threads ran or waited: from here on slower, up to here faster."""
SLOWER, FASTER = 0.75, 1.25
LOWEST = 15.0
"""Pictures a second; a video is still one."""
INPUT = ("kd,", "kh,", "m,", "m2,", "js,", "co,")
"""What a page sends for keys, pointer, gamepads and composed text."""
_IDS = 65536
"""Selkies numbers pictures modulo this."""
_LIMIT = "vdi_limit"
"""Where a display keeps its limit."""


def next_limit(
    limit: float | None, chosen: float, sent: float, waited: float, untouched: float
) -> float | None:
    """The most pictures a second from here on; None: as many as were chosen.

    Args:
        limit: what it was until now.
        chosen: what the page or the template asks for.
        sent: pictures a second since the last look.
        waited: the part of the wanted CPU time that was waited for.
        untouched: seconds since the last input.
    """
    if untouched < UNTOUCHED_SECONDS:
        return None
    rate = min(chosen, limit or chosen)
    if sent >= MOVING and waited > SHORT:
        rate = max(LOWEST, min(rate, sent) * SLOWER)
    elif limit and (sent < MOVING or waited < ENOUGH):
        rate *= FASTER
    return rate if rate < chosen else None


def cpu_times() -> tuple[int, int]:
    """Nanoseconds that the threads of this process have run, and that they have waited for a
    CPU.
    """
    ran = waited = 0
    for thread in Path("/proc/self/task").iterdir():
        try:
            fields = (thread / "schedstat").read_text().split()
        except OSError:  # the thread has ended
            continue
        ran, waited = ran + int(fields[0]), waited + int(fields[1])
    return ran, waited


def yield_cpu(server: Any, handler: Any) -> None:
    """Have every display watched for as long as Selkies watches what its page keeps up with.

    Args:
        server: Selkies' class that serves the displays.
        handler: Selkies' class that takes input.
    """
    follow, chosen_rate, take = (
        server._run_frame_backpressure_logic,
        server._capture_fps,
        handler.on_message,
    )
    limited: dict[str, Any] = {}  # the server, by display
    last_input = time.monotonic()

    def rate(self: Any, display: dict[str, Any]) -> float:
        chosen = float(chosen_rate(self, display))
        return min(chosen, display.get(_LIMIT) or chosen)

    def hold(self: Any, display_id: str, limit: float | None) -> None:
        display = self.display_clients.get(display_id)
        module = self.capture_instances.get(display_id, {}).get("module")
        if limit is None:
            limited.pop(display_id, None)
        else:
            limited[display_id] = self
        if display is not None and display.get(_LIMIT) != limit:
            display[_LIMIT] = limit
            if module is not None:
                module.update_framerate(rate(self, display))
                self._track_capture_settings(display_id, target_fps=rate(self, display))

    async def taken(self: Any, message: str, *args: Any, **kwargs: Any) -> None:
        nonlocal last_input
        if message.startswith(INPUT):
            last_input = time.monotonic()
            for display_id, its_server in list(limited.items()):
                hold(its_server, display_id, None)
        await take(self, message, *args, **kwargs)

    async def watch(self: Any, display_id: str) -> None:
        ran, waited = cpu_times()
        last = then = None
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            now, (ran_now, waited_now) = time.monotonic(), cpu_times()
            display = self.display_clients.get(display_id, {})
            number = display.get("last_sent_frame_id")
            if None not in (last, then, number):
                sent = (number - last) % _IDS / (now - then)
                short = (waited_now - waited) / max(1, ran_now - ran + waited_now - waited)
                chosen = float(chosen_rate(self, display))
                hold(
                    self,
                    display_id,
                    next_limit(display.get(_LIMIT), chosen, sent, short, now - last_input),
                )
            ran, waited, last, then = ran_now, waited_now, number, now

    async def followed(self: Any, display_id: str) -> None:
        watching = asyncio.create_task(watch(self, display_id))
        try:
            await follow(self, display_id)
        finally:
            watching.cancel()
            hold(self, display_id, None)

    server._capture_fps, server._run_frame_backpressure_logic, handler.on_message = (
        rate,
        followed,
        taken,
    )
