from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdi.cluster.units import (
    format_duration,
    parse_duration,
    parse_quantity,
    pause_after,
    smaller_quantity,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2", 2),
        ("500m", Fraction(1, 2)),
        ("4Gi", 4 * 1024**3),
        ("1.5Gi", 3 * 1024**3 // 2),
        (".5", Fraction(1, 2)),
        ("1e3", 1000),
        ("1E3", 1000),
        ("1E", 10**18),
        ("1k", 1000),
        ("100n", Fraction(1, 10**7)),
        ("-1Ki", -1024),
        ("2.", 2),
    ],
)
def test_quantity_is_exact(text: str, value: Fraction) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize(
    "text", ["", "4Gib", "4 Gi", "1K", "i", "Gi", "1,5", "1e", "4gi", "--1", "1_000", "٣"]
)
def test_invalid_quantity_is_refused_with_its_value(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity; allowed:") as refused:
        parse_quantity(text)
    assert repr(text) in str(refused.value)


@given(
    st.decimals(min_value=0, max_value=10**9, places=3),
    st.sampled_from(["", "Ki", "Mi", "Gi", "k", "M", "G", "m"]),
)
def test_quantities_are_ordered_as_their_numbers(number: Decimal, suffix: str) -> None:
    more = f"{number + 1}{suffix}"
    assert parse_quantity(f"{number}{suffix}") < parse_quantity(more)
    assert smaller_quantity(more, f"{number}{suffix}") == f"{number}{suffix}"


@given(st.integers(1, 10**6).map(lambda seconds: timedelta(seconds=seconds)))
def test_duration_survives_writing_and_reading(length: timedelta) -> None:
    assert parse_duration(format_duration(length)) == length


@pytest.mark.parametrize(
    "text", ["", "0s", "0h0m", "8 hours", "-1h", "8", "1m1h", "1.5h", "h", "8H", "1d"]
)
def test_invalid_duration_is_refused_with_its_value(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; allowed:") as refused:
        parse_duration(text)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 10), (2, 20), (5, 160), (6, 300), (5000, 300)]
)
def test_pause_doubles_up_to_the_longest(failures: int, seconds: int) -> None:
    assert pause_after(failures, timedelta(seconds=10), timedelta(minutes=5)) == timedelta(
        seconds=seconds
    )
