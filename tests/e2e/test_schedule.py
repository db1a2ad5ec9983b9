"""Working hours of two minutes on a real node: the pool is filled and emptied, the desktop is
warned and suspended, also by an operator that was killed before the end and comes back after it.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from e2e.desktops import condition, pod_of, pool, reach, start, template, wait_for_pool
from e2e.world import World
from support.waiting import wait_until
from vdi.api.meta import RELEASE_NAMESPACE

pytestmark = pytest.mark.timeout(700)
OPERATOR = "deploy/vdi-operator"
UNCLAIMED = "vdi.kasm.io/pool=hours,!vdi.kasm.io/session"
MINUTE = timedelta(minutes=1)


def window(begin: datetime, minutes: int) -> dict[str, str]:
    """Once an hour."""
    return {
        "start": f"{begin.minute} * * * *",
        "end": f"{(begin + minutes * MINUTE).minute} * * * *",
    }


def spare(world: World) -> list[str]:
    """Desktops of the pool that no one has."""
    pods = world.items("pod", UNCLAIMED)
    return [pod["metadata"]["uid"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]


def kill_operator(world: World) -> None:
    """It has no time to hand its work over, and none comes in its place."""
    world.kubectl("-n", RELEASE_NAMESPACE, "scale", OPERATOR, "--replicas=0")
    words = ("-l", "app.kubernetes.io/component=operator", "--grace-period=0", "--force")
    world.kubectl("-n", RELEASE_NAMESPACE, "delete", "pod", *words)


@pytest.mark.long
def test_schedule_continues_after_the_operator_was_killed(sessions: World) -> None:
    world = sessions
    # The desktop has to be there before the first window opens, or it would be one of the pool's.
    opens = (datetime.now(UTC) + timedelta(seconds=150)).replace(second=0, microsecond=0)
    closes, opens_again = opens + 2 * MINUTE, opens + 4 * MINUTE
    schedule: dict[str, Any] = {"windows": [window(opens, 2), window(opens_again, 20)]}
    with (
        template(world, "hours", persistence={"enabled": False}, schedule=schedule) as name,
        pool(world, name, schedule=schedule),
    ):
        start(world, "wanda", name)
        assert spare(world) == [], "outside the pool's schedule"
        wait_for_pool(world, name, 210)
        assert opens <= datetime.now(UTC) < closes and len(spare(world)) == 1
        warning = wait_until(
            "the desktop is warned", lambda: condition(world, "wanda", "Closing"), 120
        )
        assert warning["reason"] == "ClosingSoon" and datetime.now(UTC) < closes

        try:
            kill_operator(world)
            wait_until("working hours are over", lambda: datetime.now(UTC) > closes, 120)
            assert pod_of(world, "wanda") and len(spare(world)) == 1, "no one acts"
        finally:
            world.kubectl("-n", RELEASE_NAMESPACE, "scale", OPERATOR, "--replicas=1")
        reach(world, "wanda", "Suspended", "The working hours of this desktop ended at", seconds=90)
        wait_until("the pool is empty", lambda: not spare(world))
        assert pod_of(world, "wanda") is None
        assert datetime.now(UTC) < opens_again

        wait_for_pool(world, name, 150)
        assert datetime.now(UTC) >= opens_again and len(spare(world)) == 1, "one, not two"
        world.vdi("session", "resume", "wanda", "--wait")
        reach(world, "wanda", "Running")
        assert condition(world, "wanda", "Closing") is None
