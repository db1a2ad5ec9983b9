"""Tables, ages, JSON and YAML."""

import json
from datetime import UTC, datetime

import pytest
import yaml

from vdi.cli.output import ListOutput, age, columns, duration, print_objects
from vdi.cli.terminal import style

NOW = datetime(2026, 11, 20, 8, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.9, "0s"),
        (45, "45s"),
        (60, "1m"),
        (192, "3m12s"),
        (3600, "1h"),
        (8 * 3600 + 5, "8h"),
        (9000, "2h30m"),
        (2 * 86400 + 4 * 3600, "2d4h"),
        (100 * 86400 + 59, "100d"),
        (-5, "0s"),
    ],
)
def test_duration_has_at_most_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_age_counts_from_the_api_s_own_time_format() -> None:
    assert age("2026-11-20T07:56:48Z", NOW) == "3m12s"


def test_columns_align_and_keep_every_character() -> None:
    lines = columns(["NAME", "URL"], [["a", "https://a.example.com"], ["long-name", "-"]])
    assert lines == ["NAME        URL", "a           https://a.example.com", "long-name   -"]


def test_columns_colour_the_phase_without_moving_what_follows() -> None:
    plain = columns(["PHASE", "URL"], [["Running", "x"], ["Suspended", "y"]])
    assert f"{style('Running  ', 'green')}   x" in plain
    assert plain[0] == "PHASE       URL"


def a_session(name: str = "a") -> dict[str, object]:
    return {"kind": "VDISession", "metadata": {"name": name, "managedFields": [{"manager": "x"}]}}


@pytest.mark.parametrize("form", [ListOutput.JSON, ListOutput.YAML])
def test_lists_print_as_the_list_that_kubectl_prints(
    form: ListOutput, capsys: pytest.CaptureFixture[str]
) -> None:
    print_objects([a_session("a"), a_session("b")], form, name=lambda _: "", table=lambda *_: [])
    text = capsys.readouterr().out
    data = json.loads(text) if form is ListOutput.JSON else yaml.safe_load(text)
    assert data["kind"] == "List"
    assert [item["metadata"] for item in data["items"]] == [{"name": "a"}, {"name": "b"}]
