"""Working hours against a real API server: refused, warned, cancelled, suspended; pools that fill
and empty.
"""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cluster.desktop_agent import Agent, run_desktop
from cluster.operator_stage import Object, Stage, condition
from cluster.test_operator_pool import Pool
from support.clock import ShiftedClock
from support.waiting import eventually
from vdi.api.schedule import Day
from vdi.cluster.units import format_time
from vdi.kinds import POOLS, SESSIONS
from vdi.session.cluster_settings import ClusterSettings

pytestmark = pytest.mark.timeout(150)
NAME = "alice-desktop"


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


async def suspended(stage: Stage) -> Object:
    session = await stage.reach(NAME, "Suspended", "The working hours of this desktop ended at")
    await stage.podless(session)
    return await stage.until(
        SESSIONS, NAME, lambda session: session["spec"].get("suspended"), "it stays suspended"
    )


async def test_desktop_is_suspended_after_working_hours(stage: Stage) -> None:
    end, schedule = in_two_hours()
    template, clock = await stage.template(schedule=schedule), ShiftedClock()
    async with stage.operator(clock):
        await stage.start(NAME, template)
        clock.ahead = end - timedelta(minutes=4) - datetime.now(UTC)
        await stage.touch(NAME)
        soon = condition(await stage.warned(NAME, "Closing"), "Closing")
        assert (soon["status"], soon["reason"]) == ("True", "ClosingSoon")
    later = ShiftedClock()  # killed, and back after the end
    later.ahead = end + timedelta(minutes=30) - datetime.now(UTC)
    async with stage.operator(later):
        session = await suspended(stage)
        assert condition(session, "Ready")["reason"] == "WorkingHoursOver"
        later.ahead = timedelta()  # pods are made at the API server's time
        await stage.suspend(NAME, suspended=False)
        await stage.run(NAME)


async def test_input_cancels_the_end_of_working_hours(stage: Stage, agent: Agent) -> None:
    end, schedule = in_two_hours()
    agent.graphics = {"renderer": "Software"}
    template, clock = await stage.template(schedule=schedule), ShiftedClock()
    async with stage.operator(clock, cluster=ClusterSettings(agent_port=agent.port)):
        await stage.session(NAME, template)
        await run_desktop(stage, NAME, agent)
        # A question on its way while the clock jumps would say that there was input just now. After
        # the first answer it is asked no more until the end of working hours comes near.
        await stage.until(
            SESSIONS,
            NAME,
            lambda session: "graphics" in session["status"],
            "the first question is answered",
        )
        agent.last_input -= 3600
        clock.ahead = end - timedelta(minutes=4) - datetime.now(UTC)
        await stage.touch(NAME)
        await stage.warned(NAME, "Closing")
        await eventually(lambda: agent.notices, "the desktop shows it")
        assert (agent.notices[0]["id"], agent.notices[0]["untilInput"]) == ("Closing", True)
        await eventually(lambda: agent.asked, "the desktop is asked for input")
        agent.touch()
        session = await stage.warned(NAME, "Closing", expected=False)
    again = ShiftedClock()
    again.ahead = end + timedelta(hours=1) - datetime.now(UTC)
    async with stage.operator(again, cluster=ClusterSettings(agent_port=agent.port)):
        await stage.touch(NAME)
        session = await stage.warned(NAME, "Closing", expected=False)
        assert not session["spec"].get("suspended"), (
            "a restarted operator knows that it was cancelled"
        )


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
    # Killed before the border, back at it.
    clock.ahead = ready - timedelta(minutes=6) - datetime.now(UTC)
    async with stage.operator(clock):
        assert (await stage.reach(NAME, "Suspended"))["spec"]["suspended"]
        clock.ahead += timedelta(minutes=2)
        await stage.touch(NAME)
        await stage.run(NAME)
        following = format_time(ready + timedelta(days=1))
        session = await stage.until(
            SESSIONS,
            NAME,
            lambda session: session["status"].get("nextStart") == following,
            f"next start {following}",
        )
        assert not session["spec"].get("suspended")
        await stage.suspend(NAME)
        await stage.reach(NAME, "Suspended")
    # Its user has suspended it: for this time it is not resumed again.
    async with stage.operator(clock):
        await stage.touch(NAME)
        assert (await stage.reach(NAME, "Suspended"))["spec"]["suspended"]
        await stage.suspend(NAME, suspended=False)
        await stage.run(NAME)
        clock.ahead = end - timedelta(minutes=4) - datetime.now(UTC)
        await stage.touch(NAME)
        await stage.warned(NAME, "Closing")
    clock.ahead = end + timedelta(minutes=30) - datetime.now(UTC)
    async with stage.operator(clock):
        await suspended(stage)


async def test_pool_follows_its_schedule(stage: Stage) -> None:
    end, schedule = in_two_hours()
    template, clock = await stage.template(persistence={"enabled": False}), ShiftedClock()
    async with stage.operator(clock):
        pool = await Pool.make(stage, template, 1, schedule=schedule)
        await eventually(pool.waiting, "a desktop is started in working hours")
        clock.ahead = end + timedelta(minutes=1) - datetime.now(UTC)
        await pool.touch()
        empty = await stage.until(
            POOLS,
            pool.name,
            lambda found: "outside the pool" in found.get("status", {}).get("message", ""),
            "it says why",
        )
        ready = empty["status"]["conditions"][0]
        assert (ready["type"], ready["status"], ready["reason"]) == (
            "Ready",
            "True",
            "OutsideSchedule",
        )
        await eventually(pool.is_empty, "it is removed after working hours")
        clock.ahead = end + timedelta(hours=21, minutes=1) - datetime.now(UTC)
        await pool.touch()
        await eventually(pool.waiting, "the next morning one is started again")
