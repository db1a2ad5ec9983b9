"""`/scheduled-starts`: desktops that are to be ready at a time."""

from typing import Annotated, Literal

import msgspec

from vdi.api.constraints import doc
from vdi.gateway.api.operation import Call, Empty, Operation
from vdi.gateway.api.schemas import Name
from vdi.gateway.scheduled_starts import TIME
from vdi.gateway.store.scheduled_starts import ScheduledStart
from vdi.session.times import format_time

Day = Literal["MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN"]
_WEEKDAYS: tuple[Day, ...] = ("MON", "TUE", "WED", "THU", "FRI")


class NewScheduledStart(msgspec.Struct, rename="camel", forbid_unknown_fields=True, kw_only=True):
    """A start to schedule."""

    template: Annotated[str, msgspec.Meta(description="The template.", max_length=253)]
    time: Annotated[str, msgspec.Meta(description="Hour and minute, such as 08:30.", pattern=TIME)]
    days: Annotated[
        tuple[Day, ...], msgspec.Meta(description="Days of the week. Default: Monday to Friday.", min_length=1)
    ] = _WEEKDAYS
    time_zone: Annotated[str, msgspec.Meta(description="Time zone of the time, such as Europe/Berlin.", max_length=64)]
    session: Annotated[
        Name | None,
        msgspec.Meta(description="The desktop that is started or resumed. Default: derived from user and template."),
    ] = None


class ScheduledStartInfo(msgspec.Struct, rename="camel"):
    """One scheduled start."""

    id: Annotated[str, doc("Identifier in this API.")]
    template: Annotated[str, doc("The template.")]
    session: Annotated[str, doc("The desktop that is started or resumed.")]
    time: Annotated[str, doc("Hour and minute at which it should be ready.")]
    days: Annotated[tuple[str, ...], doc("Days of the week.")]
    time_zone: Annotated[str, doc("Time zone of the time.")]
    next_time: Annotated[
        str, doc("Next time at which it should be ready. It is started 5 minutes earlier.", format="date-time")
    ]
    last_time: Annotated[str | None, doc("The last such time.", format="date-time")] = None
    last_result: Annotated[
        str | None,
        doc(
            "The result: Started, Resumed, Running (it was already running), Ended (it was running and has been "
            "ended), Missed (no gateway was running), LoginNeeded (no recent login), or the code of a refusal, such as "
            "OverLimit."
        ),
    ] = None
    last_message: Annotated[str, doc("The result as a sentence for people, if there is one.")] = ""


class ScheduledStartList(msgspec.Struct):
    """Scheduled starts, oldest first."""

    items: Annotated[tuple[ScheduledStartInfo, ...], doc("All of your scheduled starts.")]


def _shown(start: ScheduledStart) -> ScheduledStartInfo:
    return ScheduledStartInfo(
        id=start.id,
        template=start.template,
        session=start.session,
        time=start.time,
        days=start.days,
        time_zone=start.time_zone,
        next_time=format_time(start.next_time),
        last_time=format_time(start.last_time) if start.last_time else None,
        last_result=start.last_result or None,
        last_message=start.last_message,
    )


async def list_scheduled_starts(call: Call[Empty, None]) -> ScheduledStartList:
    """My scheduled starts."""
    return ScheduledStartList(tuple(_shown(start) for start in await call.api.scheduled.of(call.user)))


async def create_scheduled_start(call: Call[Empty, NewScheduledStart]) -> ScheduledStartInfo:
    """A new one."""
    asked = call.body
    start = await call.api.scheduled.add(
        call.user,
        template=asked.template,
        time=asked.time,
        days=asked.days,
        time_zone=asked.time_zone,
        session=asked.session or "",
    )
    return _shown(start)


async def delete_scheduled_start(call: Call[Empty, None]) -> None:
    """No more of these starts."""
    await call.api.scheduled.delete(call.user, call.path("id"))


OPERATIONS = (
    Operation(
        method="GET", path="/scheduled-starts", name="listScheduledStarts", tag="Scheduled starts",
        handler=list_scheduled_starts, summary="Your scheduled starts, with the last result of each",
        answer=ScheduledStartList,
    ),
    Operation(
        method="POST", path="/scheduled-starts", name="createScheduledStart", tag="Scheduled starts",
        handler=create_scheduled_start, summary="Have a desktop ready at a given time on given days of the week",
        description="It is started or resumed 5 minutes earlier, if your limits allow it at that time.",
        body=NewScheduledStart, answer=ScheduledStartInfo, status=201, problems=("not-found", "over-limit"),
    ),
    Operation(
        method="DELETE", path="/scheduled-starts/{id}", name="deleteScheduledStart", tag="Scheduled starts",
        handler=delete_scheduled_start, summary="Delete one of your scheduled starts",
        description="A desktop that it has started keeps running.", problems=("not-found",),
    ),
)  # fmt: skip
