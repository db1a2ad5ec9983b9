"""Filters of the templates: numbers, times, names and reasons in words. Pure."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from zlib import crc32

from markupsafe import Markup, escape

from vdi.api.session import GuestRole, describe_role
from vdi.cluster.units import format_time, parse_duration, parse_quantity, parse_time
from vdi.gateway.store.history import EndReason
from vdi.gateway.web.assets import icon_problem, icon_shapes, is_picture, shown_icon
from vdi.session.actions import is_expired
from vdi.session.schedule import describe_schedule
from vdi.session.template_image import describe_encoder, describe_renderer

_HUES = 6
_ACCESS = {role.value: describe_role(role) for role in GuestRole}
_END_REASONS = {
    EndReason.USER: "Ended by its owner",
    EndReason.ADMIN: "Ended by an administrator",
    EndReason.TIMEOUT: "Time limit reached",
    EndReason.IDLE: "Idle timeout",
    EndReason.SUSPENDED: "Suspended",
    EndReason.FAILED: "Failed",
    EndReason.DELETED: "Deleted in the cluster",
    EndReason.UNKNOWN: "Ended for an unknown reason",
}
_TIME_IN_TEXT = re.compile(
    r"\b(?P<instant>\d{4}-(?:0\d|1[0-2])-[0-3]\dT[0-2]\d:[0-5]\d:[0-5]\dZ)"
    r"|\b(?P<hour>[01]\d|2[0-3]):(?P<minute>[0-5]\d) UTC\b"
)


def letter(name: str) -> str:
    """The first letter or digit of a name, for its tile."""
    return next((character.upper() for character in name if character.isalnum()), "?")


def hue(name: str) -> int:
    """Number of the colour of a name's tile: always the same one."""
    return crc32(name.encode()) % _HUES


def length(span: timedelta) -> str:
    """`3 h 12 min`: the two largest units, which is all that a person wants to know."""
    minutes = int(span.total_seconds()) // 60
    if minutes < 1:
        return "less than a minute"
    days, hours = divmod(minutes // 60, 24)
    parts = ((days, "d"), (hours, "h"), (minutes % 60, "min"))
    return " ".join(f"{number} {unit}" for number, unit in [part for part in parts if part[0]][:2])


def in_words(span: timedelta) -> str:
    """`2 hours 30 minutes`, for a sentence or a choice; empty below a minute."""
    minutes = int(span.total_seconds()) // 60
    parts = ((minutes // 60, "hour"), (minutes % 60, "minute"))
    return " ".join(count(number, unit) for number, unit in parts if number)


def seconds(number: float | None) -> str:
    """`2.3 s`, `5 min`; empty where it is not known."""
    if number is None:
        return ""
    if number < 60:
        return f"{number:.{int(number < 10)}f} s"
    return length(timedelta(seconds=number))


def hours(number: float) -> str:
    """`2.5 h`, `12 min`; `0` for none."""
    if number >= 1:
        return f"{number:,.1f} h"
    if number:
        return length(timedelta(hours=number))
    return "0"


def end_reason(reason: EndReason | None) -> str:
    """The reason of an end in words; empty for a session or a run that has not ended."""
    return _END_REASONS[reason] if reason else ""


def moment(value: str | datetime | None) -> str:
    """`20 Nov 2026, 08:00 UTC`; empty for none. The browser turns it into its own time zone."""
    if not value:
        return ""
    instant = parse_time(value) if isinstance(value, str) else value
    return instant.strftime("%-d %b %Y, %H:%M UTC")


def local_times(text: str, near: datetime) -> Markup:
    """A message with its times as elements that the browser turns into its own time zone; all else
    is escaped.

    A message has times of day such as `16:05 UTC`: the one that is nearest to `near` is meant.
    """
    pieces: list[Markup] = []
    end = 0
    for time in _TIME_IN_TEXT.finditer(text):
        pieces += [escape(text[end : time.start()]), _time_element(time, near)]
        end = time.end()
    return Markup().join([*pieces, escape(text[end:])])


def _time_element(time: re.Match[str], near: datetime) -> Markup:
    if time["instant"]:
        try:
            return Markup('<time datetime="{}">{}</time>').format(time[0], moment(time[0]))
        except ValueError:  # 31 February, in a message from elsewhere
            return escape(time[0])
    today = near.astimezone(UTC).replace(
        hour=int(time["hour"]), minute=int(time["minute"]), second=0, microsecond=0
    )
    nearest = min(
        (today + timedelta(days=days) for days in (-1, 0, 1)),
        key=lambda instant: abs(instant - near),
    )
    return Markup('<time datetime="{}" data-say="clock">{}</time>').format(
        format_time(nearest), time[0]
    )


def machine_time(value: str | datetime) -> str:
    """RFC 3339, for the `datetime` attribute."""
    if isinstance(value, str):
        return value
    return format_time(value)


def duration(text: str) -> str:
    """`1 h 30 min` from `1h30m`; as it is where it is shorter than a minute."""
    span = parse_duration(text)
    if span >= timedelta(minutes=1):
        return length(span)
    return text


def access(role: str) -> str:
    """A guest's role in the words of the form that shares a desktop."""
    return _ACCESS.get(role, role)


def count(number: int, one: str, many: str = "") -> str:
    """`1 desktop`, `2 desktops`, `1,000 desktops`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def byte_size(quantity: str) -> str:
    """`4 GiB` from `4Gi`; as it is where it is spelt otherwise."""
    number, unit = quantity[:-2], quantity[-2:]
    if unit in ("Ki", "Mi", "Gi", "Ti"):
        return f"{number} {unit}B"
    return quantity


def cpus(quantity: str) -> str:
    """`0.5 CPU` from `500m`, `2 CPUs` from `2`; as it is where it is not a quantity."""
    try:
        number = parse_quantity(quantity)
    except ValueError:
        return f"{quantity} CPU"
    return f"{float(number):g} CPU{'s' * (number > 1)}"


def memory(quantity: str) -> str:
    """`4 GiB` from `4Gi`, `4G memory` from `4G`."""
    shown = byte_size(quantity)
    if shown != quantity:
        return shown
    return f"{quantity} memory"


# By their names in the templates; `length` there is Jinja's own, which counts items.
FILTERS: Mapping[str, Callable[..., Any]] = {
    "letter": letter,
    "hue": hue,
    "span": length,
    "seconds": seconds,
    "hours": hours,
    "end_reason": end_reason,
    "moment": moment,
    "machine_time": machine_time,
    "local_times": local_times,
    "count_of": count,
    "duration": duration,
    "access": access,
    "byte_size": byte_size,
    "cpus": cpus,
    "memory": memory,
    "describe_encoder": describe_encoder,
    "describe_renderer": describe_renderer,
    "describe_schedule": describe_schedule,
    "icon_problem": icon_problem,
    "shown_icon": shown_icon,
    "is_expired": is_expired,
    "is_picture": is_picture,
    "shapes": icon_shapes,
}
