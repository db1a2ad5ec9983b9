"""The end of a run against a real API server: announced, moved, capped, and exact whatever happens in between."""

from datetime import timedelta

import pytest

from cluster.operator_stage import Object, Stage, condition
from support.clock import ShiftedClock
from support.waiting import eventually
from vdi.cluster.units import format_time, parse_time
from vdi.kinds import SESSIONS
from vdi.kube.resource import PODS

pytestmark = pytest.mark.timeout(150)
NAME = "alice-desktop"


async def test_end_is_announced_and_moved_by_an_edit(stage: Stage) -> None:
    template, clock = await stage.template(), ShiftedClock()
    async with stage.operator(clock):
        await stage.session(NAME, template, timeout="1h")
        await stage.run(NAME)
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
        assert parse_time(status["expiresAt"]) - parse_time(status["startTime"]) == timedelta(hours=2)
        clock.ahead = timedelta(hours=2)
        await stage.touch(NAME)
        await stage.gone(SESSIONS, NAME)


async def test_warning_and_end_need_no_event(stage: Stage) -> None:
    template = await stage.template()
    async with stage.operator():
        await stage.session(NAME, template, timeout="8s")
        await stage.run(NAME)
        await stage.warned(NAME, "Expiring")
        await stage.gone(SESSIONS, NAME, 20)


async def test_on_timeout_suspend_keeps_the_session(stage: Stage) -> None:
    template, clock = await stage.template(lifecycle={"onTimeout": "Suspend"}), ShiftedClock()
    async with stage.operator(clock):
        session = await stage.session(NAME, template, timeout="1h")
        await stage.run(NAME)
        clock.ahead = timedelta(hours=1)
        await stage.touch(NAME)

        async def rests() -> Object | None:
            found = await stage.reach(NAME, "Suspended", "This desktop has reached its time limit (spec.timeout: 1h)")
            return found if found["spec"]["suspended"] and not await stage.owned(PODS, session) else None

        resting = await eventually(rests, "suspended, and its pod is gone")
        assert condition(resting, "Ready")["reason"] == "TimedOut"
        clock.ahead = timedelta()  # pods are made at the API server's time
        await stage.patch(SESSIONS, NAME, {"spec": {"suspended": False}})
        running = await stage.run(NAME)
        status = running["status"]
        assert parse_time(status["expiresAt"]) - parse_time(status["startTime"]) == timedelta(hours=1)
        assert condition(running, "Ready")["reason"] == "Running"


async def test_planned_end_survives_a_restart_of_the_operator(stage: Stage) -> None:
    template, clock = await stage.template(), ShiftedClock()
    async with stage.operator(clock):
        await stage.session(NAME, template)
        await stage.run(NAME)
        end = format_time(clock.now() + timedelta(minutes=15))
        plan = {"time": end, "action": "Suspend", "message": "Maintenance until 18:00"}
        await stage.patch(SESSIONS, NAME, {"spec": {"plannedEnd": plan}})
        session = await stage.warned(NAME, "PlannedEnd")
        assert condition(session, "PlannedEnd")["message"].endswith("Maintenance until 18:00")
        assert session["status"]["expiresAt"] == end
        await stage.event("EndPlanned")
    later = ShiftedClock()
    later.ahead = timedelta(minutes=15)
    async with stage.operator(later):
        suspended = await stage.reach(NAME, "Suspended", "An administrator planned the end of this desktop for ")
        assert condition(suspended, "Ready")["reason"] == "EndedAsPlanned"

        async def is_over() -> Object | None:
            found = await stage.get(SESSIONS, NAME)
            return found if found and found["spec"].get("suspended") and "plannedEnd" not in found["spec"] else None

        await eventually(is_over, "suspended, and the plan is removed")
        await stage.patch(SESSIONS, NAME, {"spec": {"plannedEnd": plan | {"action": "Terminate"}}})
        await stage.gone(SESSIONS, NAME)


async def test_cancelled_end_is_withdrawn(stage: Stage) -> None:
    template = await stage.template()
    async with stage.operator():
        await stage.session(NAME, template)
        await stage.run(NAME)
        end = format_time(ShiftedClock().now() + timedelta(minutes=15))
        await stage.patch(SESSIONS, NAME, {"spec": {"plannedEnd": {"time": end, "action": "Terminate"}}})
        await stage.warned(NAME, "PlannedEnd")
        await stage.patch(SESSIONS, NAME, {"spec": {"plannedEnd": None}})
        session = await stage.warned(NAME, "PlannedEnd", expected=False)
        assert session["status"]["expiresAt"] > end


async def test_time_of_a_run_survives_pod_and_operator(stage: Stage) -> None:
    template, clock = await stage.template(), ShiftedClock()
    async with stage.operator(clock):
        session = await stage.session(NAME, template, timeout="1h")
        first = await stage.run(NAME)
        clock.ahead = timedelta(minutes=30)
        await stage.delete(PODS, NAME, grace_seconds=0)
        second = await stage.run(NAME)
    later = ShiftedClock()
    later.ahead = timedelta(minutes=59)
    async with stage.operator(later):
        third = await stage.warned(NAME, "Expiring")
        for running in (second, third):
            for field in ("startTime", "expiresAt"):
                assert running["status"][field] == first["status"][field]
        later.ahead = timedelta(minutes=60)
        await stage.touch(NAME)
        await stage.gone(SESSIONS, NAME)
        await stage.childless(session)
