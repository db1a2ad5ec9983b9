"""A pool's desktop becomes a person's without a restart; an image that cannot be pulled is reported
ahead.
"""

import pytest

from e2e.desktops import (
    Object,
    condition,
    live_pod_of,
    pool,
    reach,
    start,
    status_of,
    template,
    wait_for_pool,
)
from e2e.world import World
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(240)

UNCLAIMED = "vdi.kasm.io/pool=warm,!vdi.kasm.io/session"


@pytest.mark.long
def test_pool_desktop_is_claimed_and_replaced(sessions: World) -> None:
    with template(sessions, "warm", persistence={"enabled": False}) as name:
        with pool(sessions, name):
            wait_for_pool(sessions, name)
            (waiting,) = sessions.items("pod", "vdi.kasm.io/pool=warm")

            start(sessions, "paul", name)
            taken = live_pod_of(sessions, "paul")
            assert taken["metadata"]["uid"] == waiting["metadata"]["uid"]
            assert _container(taken)["containerID"] == _container(waiting)["containerID"]
            assert _container(taken)["restartCount"] == 0
            admitted = condition(sessions, "paul", "Admitted")
            assert admitted and admitted["reason"] == "ClaimedFromPool"
            with sessions.browser("paul") as browser:
                browser.open()

            assert wait_for_pool(sessions, name)["claimed"] == 1
        wait_until("nobody's desktops are gone", lambda: not sessions.items("pod", UNCLAIMED))
        reach(sessions, "paul", "Running")


@pytest.mark.ci
def test_failed_prepull_is_reported_by_the_template(sessions: World) -> None:
    with template(sessions, "nowhere", prePull=True, image="localhost/vdi/nothing:1") as name:
        failed = wait_until("the template says so", lambda: _pre_pull(sessions, name).get("failed"))
        assert "localhost/vdi/nothing:1" in failed[0]["message"]
    wait_until("no puller is left", lambda: not sessions.items("pod", "vdi.kasm.io/prepull"))


def test_present_image_needs_no_puller(sessions: World) -> None:
    with template(sessions, "here", prePull=True) as name:
        wait_until("the image is on the node", lambda: _pre_pull(sessions, name).get("ready") == 1)


def _container(pod: Object) -> Object:
    status: Object = pod["status"]["containerStatuses"][0]
    return status


def _pre_pull(world: World, name: str) -> Object:
    status: Object = status_of(world, name, "vditemplate").get("prePull", {})
    return status
