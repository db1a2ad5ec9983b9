"""The numbers of a probe."""

from hypothesis import given
from hypothesis import strategies as st

from vdi.latency_probe.measurements import Measurements, evaluate, percentile


def figures(taken: list[float], lost: int = 0) -> Measurements:
    return Measurements(1.4, 60.0, taken, lost, 800.0, 300, 0)


@given(st.lists(st.integers(0, 500), min_size=1, max_size=60), st.sampled_from([0.5, 0.95]))
def test_percentile_is_the_smallest_value_with_its_share(values: list[int], share: float) -> None:
    found = percentile(values, share)
    assert found is not None
    assert sum(one <= found for one in values) >= share * len(values)
    assert sum(one < found for one in values) < share * len(values)


def test_the_goal() -> None:
    kept = evaluate("a", "https://a", figures([30.0] * 38 + [200.0] * 2))
    assert (kept.p50_ms, kept.p95_ms, kept.within_goal) == (30.0, 30.0, True)
    over = evaluate("a", "https://a", figures([30.0] * 37 + [200.0] * 3))
    assert (over.p95_ms, over.within_goal) == (200.0, False)
    assert not evaluate("a", "https://a", figures([30.0] * 40, lost=1)).within_goal
    none = evaluate("a", "https://a", figures([], lost=40))
    assert (none.p50_ms, none.p95_ms, none.within_goal) == (None, None, False)
