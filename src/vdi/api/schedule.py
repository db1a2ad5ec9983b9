"""Working hours of templates, pools and sessions."""

from enum import StrEnum
from typing import Annotated

import msgspec

from vdi.api.constraints import CRON, TIME_OF_DAY, TIME_ZONE, doc

CronText = Annotated[
    str,
    doc("Five fields as in cron, such as 0 18 * * MON-FRI.", CRON, maxLength=64),
]
TimeZoneText = Annotated[
    str, doc("Time zone of the times (IANA name).", TIME_ZONE, minLength=1, maxLength=64)
]


class Window(msgspec.Struct, rename="camel", omit_defaults=True):
    """One window of working hours: from each start to the next end."""

    start: CronText
    end: CronText


Windows = Annotated[
    tuple[Window, ...],
    doc(
        "Working hours; windows may overlap.",
        minItems=1,
        maxItems=16,
        **{"x-kubernetes-list-type": "atomic"},
    ),
]


class PoolSchedule(msgspec.Struct, rename="camel", omit_defaults=True):
    """Times at which a pool keeps desktops ready. Outside these times it keeps none."""

    windows: Windows
    time_zone: TimeZoneText = "Etc/UTC"


class TemplateSchedule(msgspec.Struct, rename="camel", omit_defaults=True):
    """Working hours: desktops that run at the end of a window are suspended, after a warning."""

    windows: Windows
    time_zone: TimeZoneText = "Etc/UTC"
    cancel_on_activity: Annotated[
        bool,
        doc(
            "true: a user who uses mouse or keyboard while the warning is shown keeps the desktop"
            " until the end of the next window."
        ),
    ] = True


class Day(StrEnum):
    """Values of `spec.schedule.days` of a session."""

    MON = "MON"
    TUE = "TUE"
    WED = "WED"
    THU = "THU"
    FRI = "FRI"
    SAT = "SAT"
    SUN = "SUN"


WEEKDAYS = (Day.MON, Day.TUE, Day.WED, Day.THU, Day.FRI)


class SessionSchedule(msgspec.Struct, rename="camel", omit_defaults=True, gc=False):
    """Times at which a suspended desktop is resumed automatically, and suspended again."""

    start: Annotated[
        str, doc("Time of day at which the desktop is ready, such as 08:30. It is resumed 5 minutes earlier.",
                 TIME_OF_DAY, maxLength=5)
    ]  # fmt: skip
    end: Annotated[
        str | None,
        doc(
            "Time of day at which the desktop is suspended, such as 18:00, after a warning that"
            " input cancels. An end before the start is on the next day. Default: it runs until its"
            " time limit or idle timeout.",
            TIME_OF_DAY,
            maxLength=5,
        ),
    ] = None
    days: Annotated[
        tuple[str, ...],
        doc(
            "Days of the week.",
            items={"type": "string", "enum": [day.value for day in Day]},
            minItems=1,
            maxItems=7,
            **{"x-kubernetes-list-type": "set"},
        ),
    ] = tuple(day.value for day in WEEKDAYS)
    time_zone: TimeZoneText = "Etc/UTC"
