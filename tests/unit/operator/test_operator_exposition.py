"""What we write is what Prometheus' own parser reads."""

from collections.abc import Iterable
from math import inf

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from vdi.operator.exposition import Counter, Histogram, gauge

Sample = tuple[str, tuple[tuple[str, str], ...], float]


def parsed(lines: Iterable[str]) -> tuple[str, str, set[Sample]]:
    """Type, help and samples of the one metric in the text."""
    (family,) = text_string_to_metric_families("".join(lines))
    return (
        family.type,
        family.documentation,
        {(one.name, tuple(sorted(one.labels.items())), one.value) for one in family.samples},
    )


@given(st.text(), st.text(), st.integers(0, 10**12))
def test_a_counter_is_read_back_whatever_its_labels_hold(one: str, other: str, number: int) -> None:
    counter = Counter("things_total", "What\nis \\ counted.", ["one", "other"])
    counter.add(one, other, number=number)
    counter.add(one, other)
    kind, words, samples = parsed(counter.lines())
    assert (kind, words) == ("counter", "What\nis \\ counted.")
    assert samples == {("things_total", (("one", one), ("other", other)), number + 1)}


@given(st.lists(st.floats(0, 10)))
def test_a_histogram_counts_what_is_at_most_as_large_as_each_bound(values: list[float]) -> None:
    histogram = Histogram("length_seconds", "How long.", (0.5, 1, 5))
    for value in values:
        histogram.observe(value)
    kind, _, samples = parsed(histogram.lines())
    assert kind == "histogram"
    found = {(name, *labels): value for name, labels, value in samples}
    for bound, text in ((0.5, "0.5"), (1, "1.0"), (5, "5.0"), (inf, "+Inf")):
        assert found["length_seconds_bucket", ("le", text)] == sum(value <= bound for value in values)
    assert found["length_seconds_count",] == len(values)
    assert found["length_seconds_sum",] == sum(values)


def test_rows_of_a_histogram_are_told_apart_by_their_labels() -> None:
    histogram = Histogram("length_seconds", "How long.", (1,), ["who"])
    histogram.show("b")
    histogram.observe(3, "a")
    found = {(name, *labels): value for name, labels, value in parsed(histogram.lines())[2]}
    assert found["length_seconds_count", ("who", "a")] == 1
    assert found["length_seconds_count", ("who", "b")] == 0
    assert found["length_seconds_bucket", ("le", "1.0"), ("who", "a")] == 0


def test_a_gauge_with_and_without_labels() -> None:
    assert parsed(gauge("load", "Now.", 1.5)) == ("gauge", "Now.", {("load", (), 1.5)})
    assert parsed(gauge("load", "Now.", {("a",): 1, ("b",): -2}, ["of"]))[2] == {
        ("load", (("of", "a"),), 1.0),
        ("load", (("of", "b"),), -2.0),
    }
    assert parsed(gauge("leads", "Now.", True))[2] == {("leads", (), 1.0)}
