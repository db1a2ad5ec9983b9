"""Messages in pages: their times become elements that the browser turns into its own time zone."""

from datetime import UTC, datetime

import pytest

from vdi.gateway.web.template_filters import cpus, duration, local_times

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def clock_element(instant: str, shown: str) -> str:
    return f'<time datetime="{instant}" data-say="clock">{shown}</time>'


@pytest.mark.parametrize(
    ("near", "message", "shown"),
    [
        (
            NOON,
            "Ends at 16:05 UTC.",
            f"Ends at {clock_element('2026-11-20T16:05:00Z', '16:05 UTC')}.",
        ),
        (
            NOON,
            "Idle since 07:30 UTC.",
            f"Idle since {clock_element('2026-11-20T07:30:00Z', '07:30 UTC')}.",
        ),
        (
            NOON.replace(hour=23),
            "Ends at 00:05 UTC.",
            f"Ends at {clock_element('2026-11-21T00:05:00Z', '00:05 UTC')}.",
        ),
        (
            NOON.replace(hour=0),
            "At 23:50 UTC.",
            f"At {clock_element('2026-11-19T23:50:00Z', '23:50 UTC')}.",
        ),
        (
            NOON,
            "Expired (2026-12-01T08:00:00Z).",
            'Expired (<time datetime="2026-12-01T08:00:00Z">1 Dec 2026, 08:00 UTC</time>).',
        ),
        (NOON, "2026-02-31T08:00:00Z and 25:00 UTC", "2026-02-31T08:00:00Z and 25:00 UTC"),
        (NOON, "image x:12:30 <b>", "image x:12:30 &lt;b&gt;"),
        (NOON, "", ""),
    ],
)
def test_times_of_a_message_are_elements_and_all_else_is_escaped(
    near: datetime, message: str, shown: str
) -> None:
    assert local_times(message, near) == shown


@pytest.mark.parametrize(
    ("text", "shown"), [("8h", "8 h"), ("1h30m", "1 h 30 min"), ("45s", "45s")]
)
def test_a_duration_of_the_api_reads_as_one_of_the_page(text: str, shown: str) -> None:
    assert duration(text) == shown


@pytest.mark.parametrize(
    ("quantity", "shown"),
    [("1000m", "1 CPU"), ("500m", "0.5 CPU"), ("2", "2 CPUs"), ("many", "many CPU")],
)
def test_cpus_are_counted_in_whole_ones(quantity: str, shown: str) -> None:
    assert cpus(quantity) == shown
