"""The end of a run against a real API server: announced, moved, capped, and exact whatever happens in between."""

from datetime import timedelta

import pytest

from cluster.operator_stage import Object, Stage, condition
from support.clock import ShiftedClock
from support.waiting import eventually
from vdi.cluster.units import parse_time
from vdi.kinds import SESSIONS
from vdi.kube.resource import EVENTS, PODS
from vdi.session.cluster_settings import ClusterSettings

pytestmark = pytest.mark.timeout(150)
NAME = "alice-desktop"


async def look_again(stage: Stage, clock: ShiftedClock) -> None:
    """Time that is put forward wakes no one by itself."""
    await stage.patch(SESSIONS, NAME, {"metadata": {"annotations": {"looked": str(clock.ahead)}}})


def types(session: Object) -> set[str]:
    return {one["type"] for one in session["status"]["conditions"]}


async def warned(stage: Stage, *, expected: bool) -> Object:
    async def look() -> Object | None:
        session = await stage.reach(NAME, "Running")
        return session if ("Expiring" in types(session)) == expected else None

    return await eventually(look, f"warned: {expected}")


async def test_end_is_announced_five_minutes_before_and_an_edit_moves_it(stage: Stage) -> None:
    template, clock = await stage.template(), ShiftedClock()
    async with stage.operator(clock):
        await stage.session(NAME, template, timeout="1h")
        assert "Expiring" not in types(await stage.run(NAME))
        clock.ahead = timedelta(minutes=55, seconds=1)
        await look_again(stage, clock)
        session = await warned(stage, expected=True)
        soon = condition(session, "Expiring")
        assert (soon["status"], soon["reason"]) == ("True", "ExpiringSoon")
        assert "a longer spec.timeout extends it" in soon["message"]

        async def reported() -> bool:
            return any(one["reason"] == "ExpiringSoon" for one in await stage.all(EVENTS))

        await eventually(reported, "an Event warns of it")
        await stage.patch(SESSIONS, NAME, {"spec": {"timeout": "2h"}})
        session = await warned(stage, expected=False)
        status = session["status"]
        assert parse_time(status["expiresAt"]) - parse_time(status["startTime"]) == timedelta(hours=2)
        clock.ahead = timedelta(hours=2)
        await look_again(stage, clock)
        await stage.gone(SESSIONS, NAME)


async def test_warning_and_end_come_by_themselves(stage: Stage) -> None:
    template = await stage.template()
    async with stage.operator():
        await stage.session(NAME, template, timeout="8s")
        await stage.run(NAME)
        await warned(stage, expected=True)
        await stage.gone(SESSIONS, NAME, 20)


async def test_the_cluster_caps_the_time_where_the_template_does_not(stage: Stage) -> None:
    template, clock = await stage.template(), ShiftedClock()
    async with stage.operator(clock, cluster=ClusterSettings(max_timeout="2h")):
        await stage.session(NAME, template, timeout="999999h")
        status = (await stage.run(NAME))["status"]
        assert parse_time(status["expiresAt"]) - parse_time(status["startTime"]) == timedelta(hours=2)
        clock.ahead = timedelta(hours=2)
        await look_again(stage, clock)
        await stage.gone(SESSIONS, NAME)


async def test_template_that_suspends_at_the_end_keeps_the_session(stage: Stage) -> None:
    template, clock = await stage.template(lifecycle={"onTimeout": "Suspend"}), ShiftedClock()
    async with stage.operator(clock):
        session = await stage.session(NAME, template, timeout="1h")
        await stage.run(NAME)
        clock.ahead = timedelta(hours=1)
        await look_again(stage, clock)

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


async def test_clock_of_a_run_survives_its_pod_and_its_operator(stage: Stage) -> None:
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
        third = await warned(stage, expected=True)
        for running in (second, third):
            for field in ("startTime", "expiresAt"):
                assert running["status"][field] == first["status"][field]
        later.ahead = timedelta(minutes=60)
        await look_again(stage, later)
        await stage.gone(SESSIONS, NAME)
        await stage.childless(session)
