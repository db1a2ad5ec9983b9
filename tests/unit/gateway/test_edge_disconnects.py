"""Connections that are cut at the same age again and again are distinguished from those of
people.
"""

import pytest

from vdi.gateway.edge.verify import DisconnectDetector


def cuts(*times: float, path: str = "/api/websockets") -> DisconnectDetector:
    found = DisconnectDetector()
    for at in times:
        found.opened("alice-desktop", "g1", path, at)
    return found


def test_four_gaps_of_one_length_are_a_proxy() -> None:
    found = cuts(100, 161, 222, 283.5, 344)
    assert list(found.problems(350)) == [
        "websockets of alice-desktop: they are disconnected every 61 s"
    ]
    assert list(found.problems(420)) == [], "it lasts now, or the page was closed"


@pytest.mark.parametrize(
    "times",
    [
        (100, 161, 222, 283),  # may be chance
        (100, 161, 300, 340, 420),  # somebody reloads
        (100, 102, 104, 106, 108),  # a page that fails by itself
        (0, 3600, 7200, 10800, 14400),  # somebody who comes every hour
    ],
)
def test_what_is_no_proxy(times: tuple[float, ...]) -> None:
    assert list(cuts(*times).problems(times[-1] + 1)) == []


def test_pages_are_independent_and_old_ones_forgotten() -> None:
    found = DisconnectDetector()
    for beat in range(5):
        found.opened("alice-desktop", "g1", "/api/websockets", 60 * beat)
        found.opened("alice-desktop", "g2", "/api/websockets", 60 * beat + 17 * (beat % 2))
    assert list(found.problems(250)) == [
        "websockets of alice-desktop: they are disconnected every 60 s"
    ]
    for number in range(1000):
        found.opened("bob-desktop", f"other-{number}", "/api/websockets", 250)
    assert list(found.problems(251)) == []
