"""`vdi schedule` through a real gateway's API, and what it makes of days, times and time zones."""

import json
from pathlib import Path

import pytest

from unit.cli.conftest import Vdi
from unit.cli.test_remote_commands import remote
from vdi.cli.errors import CliError
from vdi.cli.schedule import local_time_zone, parse_days, parse_time_of_day

__all__ = ["remote"]

pytestmark = pytest.mark.timeout(120)

WEEKDAYS = ["MON", "TUE", "WED", "THU", "FRI"]
ADD = ("schedule", "add", "--template", "ubuntu", "--at", "8:30", "--time-zone", "Europe/Berlin")


def test_a_start_is_scheduled_listed_and_deleted(remote: Vdi) -> None:
    assert remote("schedule", "ls").err == "no scheduled starts\n"
    said = remote(*ADD).out.splitlines()
    assert said[0] == (
        "alice-ubuntu will be ready at 08:30 Europe/Berlin on MON, TUE, WED, THU, FRI; next: 2026-11-23T07:30:00Z"
    )
    (start,) = json.loads(remote("schedule", "ls", "-o", "json").out)["items"]
    assert said[1] == f"to delete it: vdi schedule rm {start['id']}"
    header, row = remote("schedule", "ls").out.splitlines()
    assert header.split()[:4] == ["ID", "SESSION", "TEMPLATE", "TIME"]
    assert row.split() == [
        *(start["id"], "alice-ubuntu", "ubuntu", "08:30", ",".join(WEEKDAYS), "Europe/Berlin"),
        *("2026-11-23T07:30:00Z", "-"),
    ]
    assert json.loads(remote("schedule", "rm", start["id"], "-o", "json").out) == {"deleted": [start["id"]]}
    gone = remote("schedule", "rm", start["id"])
    assert gone.code == 1 and "no scheduled start" in gone.err


def test_what_cannot_be_scheduled_is_refused_with_what_is_allowed(remote: Vdi) -> None:
    made = remote(*ADD, "--days", "sat,sun", "--name", "weekend", "-o", "json")
    assert json.loads(made.out)["days"] == ["SAT", "SUN"] and json.loads(made.out)["session"] == "weekend"
    for words, reason in (
        ((*ADD, "--at", "25:00"), "--at: '25:00' is not a time of day"),
        ((*ADD, "--days", "MON-FRY"), "--days: 'MON-FRY' is not a day of the week"),
        (
            (*ADD, "--time-zone", "Europe/Atlantis"),
            "timeZone: 'Europe/Atlantis' is not a time zone, such as Europe/Berlin",
        ),
    ):
        refused = remote(*words)
        assert refused.code == 2 and reason in refused.err, refused
    unknown = remote(*ADD, "--template", "cad")
    assert unknown.code == 1 and "there is no template 'cad' that you can start" in unknown.err


def test_without_a_gateway_it_says_where_to_log_in(vdi: Vdi) -> None:
    refused = vdi("schedule", "ls")
    assert refused.code == 2 and "vdi login https://portal.vdi.example.com" in refused.err


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("MON-FRI", WEEKDAYS),
        ("sun", ["SUN"]),
        ("FRI-MON", ["MON", "FRI", "SAT", "SUN"]),
        ("TUE, MON-TUE", ["MON", "TUE"]),
    ],
)
def test_days_are_single_days_lists_and_ranges(text: str, days: list[str]) -> None:
    assert parse_days(text) == days


@pytest.mark.parametrize("text", ["", "MON-", "8", "MONDAY", "MON-FRI-SUN"])
def test_other_days_are_refused(text: str) -> None:
    with pytest.raises(CliError, match="--days"):
        parse_days(text)


def test_a_time_of_day_has_two_digits_each() -> None:
    assert (parse_time_of_day("8:05"), parse_time_of_day("23:59")) == ("08:05", "23:59")
    for text in ("8", "8:5", "24:00", "08:30:00", "8.30"):
        with pytest.raises(CliError, match="--at"):
            parse_time_of_day(text)


def test_the_time_zone_is_that_of_the_machine_or_has_to_be_named(tmp_path: Path) -> None:
    link = tmp_path / "localtime"
    with pytest.raises(CliError, match="--time-zone: the time zone of this machine is not known"):
        local_time_zone({}, link)
    zones = tmp_path / "zoneinfo/Europe"
    zones.mkdir(parents=True)
    (zones / "Berlin").write_text("")
    link.symlink_to(zones / "Berlin")
    assert local_time_zone({}, link) == "Europe/Berlin"
    assert local_time_zone({"TZ": ":America/New_York"}, link) == "America/New_York"
