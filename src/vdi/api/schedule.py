"""Working hours of templates and pools."""

from typing import Annotated

import msgspec

from vdi.api.constraints import CRON, TIME_ZONE, doc

CronText = Annotated[
    str,
    doc("Minute, hour, day of the month, month and day of the week, as in cron: 0 18 * * MON-FRI.", CRON, maxLength=64),
]
TimeZoneText = Annotated[
    str, doc("Time zone of the times, such as Europe/Berlin (IANA name).", TIME_ZONE, minLength=1, maxLength=64)
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
    """When a pool keeps desktops ready. Outside these times it keeps none."""

    windows: Windows
    time_zone: TimeZoneText = "Etc/UTC"


class TemplateSchedule(msgspec.Struct, rename="camel", omit_defaults=True):
    """Working hours: desktops that run at the end of a window are suspended, after a warning."""

    windows: Windows
    time_zone: TimeZoneText = "Etc/UTC"
    cancel_on_activity: Annotated[
        bool,
        doc(
            "true: a user who uses mouse or keyboard while the warning is shown keeps the desktop until the end of "
            "the next window."
        ),
    ] = True
