"""Working hours against a real API server: refused, warned, cancelled, suspended; pools that fill and empty."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import msgspec
import pytest

from cluster.desktop_agent import Agent, run_desktop
from cluster.operator_stage import Object, Stage, condition
from support.clock import ShiftedClock
from support.waiting import eventually
from vdi.api.schedule import Day
from vdi.cluster.units import format_time
from vdi.kinds import POOLS, SESSIONS, TEMPLATES
from vdi.kube.errors import Invalid
from vdi.kube.resource import NODES, PODS
from vdi.session.cluster_settings import ClusterSettings

pytestmark = pytest.mark.timeout(150)
NAME = "alice-desktop"
NO_HOME: dict[str, Any] = {"persistence": {"enabled": False}}


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    async with Agent("127.0.0.9").serve() as agent:
        yield agent


def window(start: datetime, end: datetime) -> dict[str, str]:
    return {"start": f"{start.minute} {start.hour} * * *", "end": f"{end.minute} {end.hour} * * *"}


def in_two_hours() -> tuple[datetime, dict[str, Any]]:
    """The end of a working day that has begun an hour ago, and its schedule."""
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    end = now + timedelta(hours=2)
    return end, {"windows": [window(now - timedelta(hours=1), end)]}


async def look_again(stage: Stage, clock: ShiftedClock) -> None:
    """Time that is put forward wakes no one by itself."""
    await stage.patch(SESSIONS, NAME, {"metadata": {"annotations": {"looked": str(clock.ahead)}}})


async def warned(stage: Stage, *, expected: bool) -> Object:
    async def look() -> Object | None:
        session = await stage.reach(NAME, "Running")
        kinds = {found["type"] for found in session["status"]["conditions"]}
        return session if ("Closing" in kinds) == expected else None

    return await eventually(look, f"warned: {expected}")


async def graphics_known(stage: Stage) -> bool:
    """The desktop's first answer is in the status; it is asked no more until the end of working hours comes near."""
    return "graphics" in (await stage.reach(NAME, "Running"))["status"]


async def suspended(stage: Stage) -> Object:
    async def look() -> Object | None:
        session = await stage.reach(NAME, "Suspended", "The working hours of this desktop ended at")
        return session if session["spec"].get("suspended") and not await stage.owned(PODS, session) else None

    return await eventually(look, "it is suspended, and its pod is gone")


async def test_a_desktop_is_suspended_at_the_end_of_working_hours(stage: Stage) -> None:
    end, schedule = in_two_hours()
    template, clock = await stage.template(schedule=schedule), ShiftedClock()
    async with stage.operator(clock):
        await stage.session(NAME, template)
        await stage.run(NAME)
        clock.ahead = end - timedelta(minutes=4) - datetime.now(UTC)
        await look_again(stage, clock)
        soon = condition(await warned(stage, expected=True), "Closing")
        assert (soon["status"], soon["reason"]) == ("True", "ClosingSoon")
    later = ShiftedClock()  # killed, and back after the end
    later.ahead = end + timedelta(minutes=30) - datetime.now(UTC)
    async with stage.operator(later):
        session = await suspended(stage)
        assert condition(session, "Ready")["reason"] == "WorkingHoursOver"
        later.ahead = timedelta()  # pods are made at the API server's time
        await stage.patch(SESSIONS, NAME, {"spec": {"suspended": False}})
        await stage.run(NAME)


async def test_input_cancels_the_end_where_the_template_allows_it(stage: Stage, agent: Agent) -> None:
    end, schedule = in_two_hours()
    agent.graphics = {"renderer": "Software"}
    template, clock = await stage.template(schedule=schedule), ShiftedClock()
    async with stage.operator(clock, cluster=ClusterSettings(agent_port=agent.port)):
        await stage.session(NAME, template)
        await run_desktop(stage, NAME, agent)
        # A question on its way while the clock jumps would say that there was input just now.
        await eventually(partial(graphics_known, stage), "the first question is answered")
        agent.last_input -= 3600
        clock.ahead = end - timedelta(minutes=4) - datetime.now(UTC)
        await look_again(stage, clock)
        await warned(stage, expected=True)
        await eventually(lambda: agent.notices, "the desktop shows it")
        assert (agent.notices[0]["id"], agent.notices[0]["untilInput"]) == ("Closing", True)
        await eventually(lambda: agent.asked, "the desktop is asked for input")
        agent.touch()
        session = await warned(stage, expected=False)
        clock.ahead = end + timedelta(minutes=30) - datetime.now(UTC)
        await look_again(stage, clock)

        async def looked() -> Object | None:
            found = await stage.reach(NAME, "Running")
            return found if found["metadata"]["annotations"]["looked"] == str(clock.ahead) else None

        session = await eventually(looked, "it was looked at")
        assert not session["spec"].get("suspended")
    again = ShiftedClock()
    again.ahead = end + timedelta(hours=1) - datetime.now(UTC)
    async with stage.operator(again, cluster=ClusterSettings(agent_port=agent.port)):
        await look_again(stage, again)
        session = await warned(stage, expected=False)
        assert not session["spec"].get("suspended"), "a restarted operator knows that it was cancelled"


async def test_session_schedule_resumes_across_a_killed_operator(stage: Stage) -> None:
    ready = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(hours=2)
    end = ready + timedelta(hours=2)
    every_day = [day.value for day in Day]
    schedule = {"start": f"{ready:%H:%M}", "end": f"{end:%H:%M}", "days": every_day}
    template, clock = await stage.template(), ShiftedClock()
    async with stage.operator(clock):
        await stage.session(NAME, template, suspended=True, schedule=schedule)
        session = await stage.reach(NAME, "Suspended")
        assert session["status"]["nextStart"] == format_time(ready)
    clock.ahead = ready - timedelta(minutes=6) - datetime.now(UTC)  # killed before the border, back at it
    async with stage.operator(clock):
        assert (await stage.reach(NAME, "Suspended"))["spec"]["suspended"]
        clock.ahead += timedelta(minutes=2)
        await look_again(stage, clock)
        await stage.run(NAME)
        session = await following(stage, format_time(ready + timedelta(days=1)))
        assert not session["spec"].get("suspended")
        await stage.patch(SESSIONS, NAME, {"spec": {"suspended": True}})
        await stage.reach(NAME, "Suspended")
    async with stage.operator(clock):  # its user has suspended it: for this time it is not resumed again
        await look_again(stage, clock)
        assert (await stage.reach(NAME, "Suspended"))["spec"]["suspended"]
        await stage.patch(SESSIONS, NAME, {"spec": {"suspended": False}})
        await stage.run(NAME)
        clock.ahead = end - timedelta(minutes=4) - datetime.now(UTC)
        await look_again(stage, clock)
        await warned(stage, expected=True)
    clock.ahead = end + timedelta(minutes=30) - datetime.now(UTC)
    async with stage.operator(clock):
        await suspended(stage)


async def following(stage: Stage, expected: str) -> Object:
    """Wait until the status names this time as the next."""

    async def look() -> Object | None:
        session = await stage.get(SESSIONS, NAME)
        return session if session and session.get("status", {}).get("nextStart") == expected else None

    return await eventually(look, f"the next start is {expected}")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"start": "8:30"}, "'8:30' is not a time of day from 00:00 to 23:59, such as 08:30"),
        ({"start": "08:30", "end": "08:30"}, "'08:30' is start, or in the 5 minutes before it"),
        ({"start": "00:02", "end": "23:58"}, "'23:58' is start, or in the 5 minutes before it"),
        ({"start": "08:30", "days": []}, "should have at least 1 items"),
        ({"start": "08:30", "days": ["MON", "MON"]}, "Duplicate value"),
        ({"start": "08:30", "days": ["Monday"]}, "supported values"),
        ({"start": "08:30", "timeZone": "Local"}, "'Local' is not a time zone"),
    ],
)
async def test_wrong_schedule_of_a_session_is_refused(stage: Stage, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(Invalid, match=words):
        await stage.session(NAME, "any", schedule=fields)


async def test_a_pool_is_filled_and_emptied_by_its_schedule(stage: Stage) -> None:
    end, schedule = in_two_hours()
    template, clock = await stage.template(**NO_HOME), ShiftedClock()
    name = f"{stage.namespace}-hours"
    body = {
        "apiVersion": POOLS.api_version,
        "kind": POOLS.kind,
        "metadata": {"name": name},
        "spec": {"template": template, "replicas": 1, "schedule": schedule},
    }

    async def waiting() -> list[Object]:
        pods = await stage.all(PODS)
        mine = [pod for pod in pods if pod["metadata"].get("annotations", {}).get("vdi.kasm.io/pool") == name]
        return [pod for pod in mine if "deletionTimestamp" not in pod["metadata"]]

    async def look() -> None:
        patch = {"metadata": {"annotations": {"looked": str(clock.ahead)}}}
        await stage.api.patch(POOLS, name, patch, into=dict)

    async def is_empty() -> Object | None:
        pool: Object = await stage.api.get(POOLS, name, into=dict)
        return pool if not await waiting() and "outside the pool" in pool["status"].get("message", "") else None

    assert await stage.api.list(NODES, into=dict)
    await stage.api.create(POOLS, body, into=dict)
    try:
        async with stage.operator(clock):
            await eventually(waiting, "a desktop is started in working hours")
            clock.ahead = end + timedelta(minutes=1) - datetime.now(UTC)
            await look()
            pool = await eventually(is_empty, "it is removed after working hours")
            ready = pool["status"]["conditions"][0]
            assert (ready["type"], ready["status"], ready["reason"]) == ("Ready", "True", "OutsideSchedule")
            clock.ahead = end + timedelta(hours=21, minutes=1) - datetime.now(UTC)
            await look()
            await eventually(waiting, "the next morning one is started again")
    finally:
        await stage.api.delete(POOLS, name, into=msgspec.Raw)


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ({"windows": []}, "should have at least 1 items"),
        ({"windows": [{"start": "0 9 * *", "end": "0 18 * * *"}]}, "'0 9 * *' is not five fields as in cron"),
        ({"windows": [{"start": "0 9 * * *", "end": "60 18 * * *"}]}, "'60 18 * * *' is not five fields as in cron"),
        (
            {"windows": [{"start": "0 9 * * *", "end": "0 18 * * *"}], "timeZone": "Europe Berlin"},
            "'Europe Berlin' is not a time zone",
        ),
    ],
)
async def test_a_wrong_schedule_is_refused_with_its_field(stage: Stage, schedule: Object, words: str) -> None:
    template = await stage.template()
    with pytest.raises(Invalid) as refused:
        await stage.api.patch(TEMPLATES, template, {"spec": {"schedule": schedule}}, into=dict)
    assert words in str(refused.value)
    assert "spec.schedule" in str(refused.value)
