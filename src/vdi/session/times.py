"""RFC 3339 instants as Kubernetes writes them (UTC, whole seconds). Pure."""

from datetime import UTC, datetime
from functools import lru_cache


@lru_cache(maxsize=1024)  # each look at a session reads the same few several times
def parse_time(text: str) -> datetime:
    """An instant from the API, with or without fractions of a second. Raises ValueError for any other text."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except OverflowError as error:  # in the year 1 or 9999, with an offset
        raise ValueError(str(error)) from error


@lru_cache(maxsize=1024)
def format_time(moment: datetime) -> str:
    """`2026-11-20T08:00:00Z`."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"
