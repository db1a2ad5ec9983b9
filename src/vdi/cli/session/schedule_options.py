"""Times, days and time zones as `vdi session schedule` takes them."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from vdi.api.schedule import Day
from vdi.cli.errors import USAGE, CliError

_DAYS = tuple(day.value for day in Day)
LOCAL_TIME = Path("/etc/localtime")


def parse_time_of_day(option: str, text: str) -> str:
    """`8:30` as `08:30`. Raises CliError."""
    found = re.fullmatch(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", text)
    if not found:
        raise CliError(f"{option}: {text!r} is not a time of day; allowed: 00:00 to 23:59", USAGE)
    return f"{int(found[1]):02}:{found[2]}"


def parse_days(text: str) -> list[str]:
    """`MON-WED,SAT` as the days one by one. Raises CliError."""
    chosen: set[str] = set()
    for part in text.upper().replace(" ", "").split(","):
        first, _, last = part.partition("-") if "-" in part else (part, "", part)
        if first not in _DAYS or last not in _DAYS:
            allowed = f"{', '.join(_DAYS)}, and ranges such as MON-FRI"
            raise CliError(f"--days: {part!r} is not a day of the week; allowed: {allowed}", USAGE)
        begin, end = _DAYS.index(first), _DAYS.index(last)
        chosen.update(_DAYS[begin : end + 1] if begin <= end else (*_DAYS[begin:], *_DAYS[: end + 1]))
    return [day for day in _DAYS if day in chosen]


def local_time_zone(environment: Mapping[str, str], link: Path) -> str:
    """The name of this machine's time zone. Raises CliError where it is not known."""
    if zone := environment.get("TZ", "").removeprefix(":"):
        return zone
    target = os.path.realpath(link)
    _, found, zone = target.partition("/zoneinfo/")
    if not found:
        words = "the time zone of this machine is not known; name one, such as Europe/Berlin"
        raise CliError(f"--time-zone: {words}", USAGE)
    return zone
