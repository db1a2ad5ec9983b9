"""What `python -m bench.streaming --crowd` is asked and prints; the desktops themselves need a cluster."""

from typing import Any

import pytest

from bench.crowd import AT_REST, MOVING, table, verdicts
from bench.streaming import parse


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


def test_each_size_of_the_crowd_has_a_line_for_rest_and_one_for_the_moving_picture() -> None:
    text = table([taken(1, AT_REST, 15.0, 25.0), taken(3, MOVING, *range(1, 101), lost=2)], cpus=2)
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]
    assert lines[-2] == ["1", "nothing moves", "2", "15.0", "25.0", "0", "0.12", "0.40", "30.0", "0.80", "1.90"]
    assert lines[-1] == ["3", "a moving picture", "102", "50.0", "95.0", "2", "0.12", "0.40", "30.0", "0.80", "1.90"]


@pytest.mark.parametrize(
    ("milliseconds", "lost", "met"), [((30.0, 50.0), 0, True), ((30.0, 50.1), 0, False), ((30.0,), 1, False)]
)
def test_the_aim_is_for_typing_beside_a_moving_picture(milliseconds: tuple[float, ...], lost: int, met: bool) -> None:
    [said] = verdicts([taken(3, AT_REST, 900.0), taken(3, MOVING, *milliseconds, lost=lost)])
    assert said.startswith("met") is met
    assert "3 who type beside a moving picture" in said


def test_a_crowd_is_three_by_default() -> None:
    assert parse([]).crowd is None
    assert parse(["--crowd"]).crowd == [3]
    assert parse(["--crowd", "1", "5"]).crowd == [1, 5]
