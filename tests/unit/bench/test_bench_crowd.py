"""The aim of `python -m bench.streaming --crowd`; the desktops themselves need a cluster."""

from typing import Any

import pytest

from bench.crowd import AT_REST, MOVING, verdicts


def taken(count: int, beside: str, *milliseconds: float, lost: int = 0) -> dict[str, Any]:
    return {
        "typists": count,
        "beside": beside,
        "ms": list(milliseconds),
        "keys_without_effect": lost,
        "frames_per_second": 29.96,
        "typist_cores": 0.123,
        "watched_cores": 0.404,
        "own_cores": 0.8,
        "node_cores": 1.9,
    }


@pytest.mark.parametrize(
    ("milliseconds", "lost", "met"),
    [((30.0, 50.0), 0, True), ((30.0, 50.1), 0, False), ((30.0,), 1, False)],
)
def test_goal_is_typing_latency_beside_a_moving_picture(
    milliseconds: tuple[float, ...], lost: int, met: bool
) -> None:
    [said] = verdicts([taken(3, AT_REST, 900.0), taken(3, MOVING, *milliseconds, lost=lost)])
    assert said.startswith("met") is met
    assert "3 who type beside a moving picture" in said
