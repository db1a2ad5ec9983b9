import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stats import latency, percentile, ratio, spread


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.1, 100))
def test_percentile_is_a_measured_value(values: list[float], percent: float) -> None:
    found = percentile(values, percent)
    assert found in values
    assert found is not None
    assert sum(value <= found for value in values) >= percent / 100 * len(values)


def test_percentile_does_not_depend_on_the_order() -> None:
    assert percentile([3, 1, 2], 50) == 2
    assert percentile(range(1, 101), 99) == 99
    assert percentile(range(1, 51), 99) == 50


def test_no_measurements_have_no_percentile() -> None:
    assert percentile([], 50) is None
    assert latency([]) == {"n": 0, "p50_ms": None, "p99_ms": None, "max_ms": None}
    assert spread([]) == "-"


def test_latency_is_in_milliseconds() -> None:
    assert latency([0.001, 0.0025, 0.01004]) == {
        "n": 3,
        "p50_ms": 2.5,
        "p99_ms": 10.0,
        "max_ms": 10.0,
    }


@pytest.mark.parametrize(
    ("values", "shown"),
    [([7.0], "7"), ([4.0, 1.0, 9.0], "4 [1..9]"), ([1234.567, 2000.0], "1617 [1235..2000]")],
)
def test_spread_shows_median_and_both_ends(values: list[float], shown: str) -> None:
    assert spread(values) == shown


def test_ratio_compares_medians_of_measurements() -> None:
    assert ratio([2.0, 4.0, 90.0], [2.0]) == "2.00"
    assert ratio([1.0], [0.0]) == "-"
    assert ratio([], [1.0]) == "-"
