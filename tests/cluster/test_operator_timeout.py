"""The end of a run against a real API server: announced, moved, capped, and exact whatever happens
in between.
"""

from datetime import timedelta

import pytest

from cluster.operator_stage import Stage, condition
from support.clock import ShiftedClock
from vdi.cluster.units import format_time, parse_time
from vdi.kinds import SESSIONS
from vdi.kube.resource import PODS

pytestmark = pytest.mark.timeout(150)
NAME = "alice-desktop"


async def test_end_is_announced_and_moved_by_an_edit(stage: Stage) -> None:
    template, clock = await stage.template(), ShiftedClock()
    async with stage.operator(clock):
        await stage.start(NAME, template, timeout="1h")
        await stage.warned(NAME, "Expiring", expected=False)
        clock.ahead = timedelta(minutes=55, seconds=1)
        await stage.touch(NAME)
        session = await stage.warned(NAME, "Expiring")
        soon = condition(session, "Expiring")
        assert (soon["status"], soon["reason"]) == ("True", "ExpiringSoon")
        assert "a longer spec.timeout extends it" in soon["message"]
        await stage.event("ExpiringSoon")
        await stage.patch(SESSIONS, NAME, {"spec": {"timeout": "2h"}})
        session = await stage.warned(NAME, "Expiring", expected=False)
        status = session["status"]
        assert parse_time(status["expiresAt"]) - parse_time(status["startTime"]) == timedelta(
            hours=2
        )
        clock.ahead = timedelta(hours=2)
        await stage.touch(NAME)
        await stage.gone(SESSIONS, NAME)


async def test_warning_and_end_need_no_event(stage: Stage, template: str) -> None:
    async with stage.operator():
        await stage.start(NAME, template, timeout="8s")
        await stage.warned(NAME, "Expiring")
        await stage.gone(SESSIONS, NAME, 20)


async def test_on_timeout_suspend_keeps_the_session(stage: Stage) -> None:
    template, clock = await stage.template(lifecycle={"onTimeout": "Suspend"}), ShiftedClock()
    async with stage.operator(clock):
        session = await stage.start(NAME, template, timeout="1h")
        clock.ahead = timedelta(hours=1)
        await stage.touch(NAME)
        resting = await stage.reach(
            NAME, "Suspended", "This desktop has reached its time limit (spec.timeout: 1h)"
        )
        await stage.podless(session)
        await stage.until(
            SESSIONS, NAME, lambda session: session["spec"].get("suspended"), "it stays suspended"
        )
        assert condition(resting, "Ready")["reason"] == "TimedOut"
        clock.ahead = timedelta()  # pods are made at the API server's time
        await stage.suspend(NAME, suspended=False)
        running = await stage.run(NAME)
        status = running["status"]
        assert parse_time(status["expiresAt"]) - parse_time(status["startTime"]) == timedelta(
            hours=1
        )
        assert condition(running, "Ready")["reason"] == "Running"


async def test_planned_end_can_be_cancelled_and_survives_a_restart(stage: Stage) -> None:
    template, clock = await stage.template(), ShiftedClock()
    async with stage.operator(clock):
        await stage.start(NAME, template)
        end = format_time(clock.now() + timedelta(minutes=15))
        plan = {"time": end, "action": "Suspend", "message": "Maintenance until 18:00"}
        await stage.patch(SESSIONS, NAME, {"spec": {"plannedEnd": plan}})
        session = await stage.warned(NAME, "PlannedEnd")
        assert condition(session, "PlannedEnd")["message"].endswith("Maintenance until 18:00")
        assert session["status"]["expiresAt"] == end
        await stage.event("EndPlanned")
        await stage.patch(SESSIONS, NAME, {"spec": {"plannedEnd": None}})
        assert (await stage.warned(NAME, "PlannedEnd", expected=False))["status"]["expiresAt"] > end
        await stage.patch(SESSIONS, NAME, {"spec": {"plannedEnd": plan}})
        await stage.warned(NAME, "PlannedEnd")
    later = ShiftedClock()
    later.ahead = timedelta(minutes=15)
    async with stage.operator(later):
        suspended = await stage.reach(
            NAME, "Suspended", "An administrator planned the end of this desktop for "
        )
        assert condition(suspended, "Ready")["reason"] == "EndedAsPlanned"
        await stage.until(
            SESSIONS,
            NAME,
            lambda session: (
                session["spec"].get("suspended") and "plannedEnd" not in session["spec"]
            ),
            "suspended, and the plan is removed",
        )
        await stage.patch(SESSIONS, NAME, {"spec": {"plannedEnd": plan | {"action": "Terminate"}}})
        await stage.gone(SESSIONS, NAME)


async def test_time_of_a_run_survives_pod_and_operator(stage: Stage) -> None:
    template, clock = await stage.template(), ShiftedClock()
    async with stage.operator(clock):
        session = await stage.start(NAME, template, timeout="1h")
        clock.ahead = timedelta(minutes=30)
        await stage.delete(PODS, NAME, grace_seconds=0)
        second = await stage.run(NAME)
    later = ShiftedClock()
    later.ahead = timedelta(minutes=59)
    async with stage.operator(later):
        third = await stage.warned(NAME, "Expiring")
        for running in (second, third):
            for field in ("startTime", "expiresAt"):
                assert running["status"][field] == session["status"][field]
        later.ahead = timedelta(minutes=60)
        await stage.touch(NAME)
        await stage.gone(SESSIONS, NAME)
        await stage.childless(session)
