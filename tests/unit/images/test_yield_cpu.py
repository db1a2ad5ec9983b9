"""yield_cpu.py of the desktop image: which display is captured more slowly, and when it has its
rate back.

Selkies is played by classes with the same methods; `bench.streaming --crowd` has the real one, on a
node that is busy.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from support.waiting import eventually
from unit.images.image_scripts import load_library

# Seconds since the last input.
IDLE, TYPING = 60.0, 1.0


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    loaded = load_library("yield_cpu")
    monkeypatch.setattr(loaded, "CHECK_SECONDS", 0.1)
    return loaded


@pytest.mark.parametrize(
    ("limit", "sent", "waited", "untouched", "then"),
    [
        pytest.param(None, 60, 0.5, IDLE, 45.0, id="a moving picture where CPU is short"),
        pytest.param(
            None, 30, 0.5, IDLE, 22.5, id="it moves less often than it may: what it sends counts"
        ),
        pytest.param(16.0, 16, 0.9, IDLE, 15.0, id="never below the lowest rate"),
        pytest.param(None, 60, 0.5, TYPING, None, id="somebody uses it"),
        pytest.param(15.0, 15, 0.9, TYPING, None, id="somebody uses it again"),
        pytest.param(None, 2, 0.9, IDLE, None, id="a cursor that blinks"),
        pytest.param(None, 60, 0.1, IDLE, None, id="CPU for all"),
        pytest.param(20.0, 20, 0.3, IDLE, 20.0, id="neither short nor enough"),
        pytest.param(20.0, 20, 0.1, IDLE, 25.0, id="CPU again"),
        pytest.param(20.0, 0, 0.9, IDLE, 25.0, id="nothing moves any more"),
        pytest.param(50.0, 50, 0.1, IDLE, None, id="back at what was chosen"),
    ],
)
def test_the_limit(
    module: Any,
    limit: float | None,
    sent: float,
    waited: float,
    untouched: float,
    then: float | None,
) -> None:
    assert module.next_limit(limit, 60.0, sent, waited, untouched) == then


def test_a_rate_that_is_low_already_is_left_alone(module: Any) -> None:
    assert module.next_limit(None, 12.0, 12.0, 0.9, IDLE) is None


class Capture:
    """Of one display."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def update_framerate(self, rate: float) -> None:
        self.rates.append(rate)


def make_selkies() -> tuple[Any, Any, Capture]:
    """Its two classes, as far as they are used, and the capture of its one display."""
    capture = Capture()

    class Server:
        def __init__(self) -> None:
            self.display_clients: dict[str, dict[str, Any]] = {
                "primary": {"last_sent_frame_id": 65000}
            }
            self.capture_instances = {"primary": {"module": capture}}
            self.tracked: list[float] = []

        def _capture_fps(self, display: dict[str, Any]) -> float:
            return 60.0

        def _track_capture_settings(self, display_id: str, **fields: float) -> None:
            self.tracked.append(fields["target_fps"])

        async def _run_frame_backpressure_logic(self, display_id: str) -> None:
            display = self.display_clients[display_id]
            while True:  # about sixty pictures a second
                display["last_sent_frame_id"] = (display["last_sent_frame_id"] + 1) % 65536
                await asyncio.sleep(1 / 60)

    class Handler:
        def __init__(self) -> None:
            self.taken: list[str] = []

        async def on_message(
            self, message: str, display_id: str = "primary", conn_id: Any = None
        ) -> None:
            self.taken.append(message)

    return Server, Handler, capture


def short_of_cpu() -> Callable[[], tuple[int, int]]:
    """Threads that wait for as long as they run."""
    times = iter(range(0, 10**9, 1000))
    return lambda: (time := next(times), time)


async def test_an_idle_display_is_slowed_until_the_next_input(
    module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "cpu_times", short_of_cpu())
    monkeypatch.setattr(module, "UNTOUCHED_SECONDS", 0.2)
    server_class, handler_class, capture = make_selkies()
    module.yield_cpu(server_class, handler_class)
    server, handler = server_class(), handler_class()
    display = server.display_clients["primary"]
    following = asyncio.create_task(server._run_frame_backpressure_logic("primary"))

    async def is_lowest() -> bool:
        return bool(capture.rates) and capture.rates[-1] == module.LOWEST

    await eventually(is_lowest, "the display is captured at the lowest rate", 20)
    assert server._capture_fps(display) == module.LOWEST and server.tracked[-1] == module.LOWEST

    await handler.on_message("_stats_video,1", conn_id=7)
    assert server._capture_fps(display) == module.LOWEST, "what pages say by themselves is no input"

    await handler.on_message("kd,97", conn_id=7)
    assert (server._capture_fps(display), capture.rates[-1], server.tracked[-1]) == (
        60.0,
        60.0,
        60.0,
    )
    assert handler.taken == ["_stats_video,1", "kd,97"]

    await eventually(is_lowest, "it is slowed down again", 20)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert server._capture_fps(display) == 60.0, "the next page begins with its rate"
