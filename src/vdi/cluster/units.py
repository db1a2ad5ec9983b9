"""Kubernetes quantities, durations and RFC 3339 times: text to exact values and back. Pure.

Every package that compares two amounts or two times uses these functions. The parsers are cached,
because each look at a session reads the same few texts.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import lru_cache
from math import ceil

# Whole numbers by name of a resource: `cpu` in thousandths of a CPU, `memory` in bytes, all else in
# its own unit.
Amounts = Mapping[str, int]
# The resource of which every pod takes one.
PODS = "pods"
# The node's local disk.
EPHEMERAL_STORAGE = "ephemeral-storage"

_QUANTITY = re.compile(
    r"([+-]?)(\d+(?:\.\d*)?|\.\d+)(n|u|m|k|[KMGTPE]i?|[eE][+-]?\d{1,2})?", re.ASCII
)
_DURATION = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,7})s)?", re.ASCII)
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
ALLOWED_DURATIONS = "durations above zero such as 30m, 8h, 1h30m"


@lru_cache(maxsize=1024)
def parse_quantity(text: str | int) -> Fraction:
    """A Kubernetes quantity (`500m`, `4Gi`, `1e3`, `2`) as an exact number.

    Raises ValueError with the value and what is allowed. `K` and `i` alone are not quantities, as
    in Kubernetes.
    """
    match = _QUANTITY.fullmatch(str(text))
    if match is None or match[3] == "K":
        raise ValueError(
            f"{str(text)!r} is not a quantity; allowed: numbers such as 2, 500m, 1.5Gi, 4Gi"
        )
    sign, digits, suffix = match.groups()
    number = Fraction(digits.removesuffix("."))
    if suffix in _BINARY:
        number *= 1024 ** _BINARY[suffix]
    elif suffix in _DECIMAL:
        number *= Fraction(10) ** _DECIMAL[suffix]
    elif suffix:
        number *= Fraction(10) ** int(suffix[1:])
    return -number if sign == "-" else number


@lru_cache(maxsize=4096)
def amount(resource: str, quantity: str) -> int:
    """A quantity as a whole number, rounded up as the scheduler does. Raises ValueError for any
    other text.
    """
    return ceil(parse_quantity(quantity) * (1000 if resource == "cpu" else 1))


def amounts(quantities: Mapping[str, str]) -> dict[str, int]:
    """Quantities (`allocatable`, `requests`) as whole numbers. Raises ValueError for any other
    text.
    """
    return {resource: amount(resource, quantity) for resource, quantity in quantities.items()}


def smaller_quantity(one: str, other: str) -> str:
    """Whichever of the two quantities is the smaller, spelt as it was given."""
    if parse_quantity(one) <= parse_quantity(other):
        return one
    return other


@lru_cache(maxsize=1024)
def parse_duration(text: str) -> timedelta:
    """A duration such as `30m`, `8h`, `1h30m`. Raises ValueError with the value and what is
    allowed; zero is not.
    """
    match = _DURATION.fullmatch(text)
    if match:
        hours, minutes, seconds = (int(part or 0) for part in match.groups())
    else:
        hours, minutes, seconds = 0, 0, 0
    length = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    if not length:
        raise ValueError(f"{text!r} is not a duration; allowed: {ALLOWED_DURATIONS}")
    return length


def format_duration(length: timedelta) -> str:
    """`1h30m` from a timedelta; the shortest spelling that `parse_duration` reads back (whole
    seconds).
    """
    seconds = int(length.total_seconds())
    parts = ((seconds // 3600, "h"), (seconds % 3600 // 60, "m"), (seconds % 60, "s"))
    return "".join(f"{number}{unit}" for number, unit in parts if number) or "0s"


@lru_cache(maxsize=1024)  # each look at a session reads the same few several times
def parse_time(text: str) -> datetime:
    """An instant from the API, with or without fractions of a second. Raises ValueError for any
    other text.
    """
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except OverflowError as error:  # in the year 1 or 9999, with an offset
        raise ValueError(str(error)) from error


@lru_cache(maxsize=1024)
def format_time(moment: datetime) -> str:
    """The instant as Kubernetes writes it: `2026-11-20T08:00:00Z`."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def pause_after(failures: int, first: timedelta, longest: timedelta) -> timedelta:
    """Exponential backoff: the pause after so many failures in a row doubles from `first` up to
    `longest`.
    """
    doubled: int = 2 ** min(failures - 1, 16)
    return min(longest, first * doubled)
