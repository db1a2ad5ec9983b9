"""A pool's desktop becomes a person's without a restart; an image that cannot be pulled is reported ahead."""

import pytest
import yaml

from e2e.desktops import Object, condition, pod_of, reach, start, template
from e2e.world import World
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(240)

UNCLAIMED = "vdi.kasm.io/pool=warm,!vdi.kasm.io/session"


@pytest.mark.long
def test_pool_desktop_is_claimed_and_replaced(sessions: World) -> None:
    with template(sessions, "warm", persistence={"enabled": False}) as name:
        pool = {
            "apiVersion": "vdi.kasm.io/v1alpha1",
            "kind": "VDIPool",
            "metadata": {"name": "warm"},
            "spec": {"template": name, "replicas": 1},
        }
        sessions.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(pool))
        try:
            wait_until("a desktop is ready", lambda: _status(sessions).get("ready") == 1, 90)
            (waiting,) = sessions.items("pod", "vdi.kasm.io/pool=warm")

            start(sessions, "paul", name)
            taken = pod_of(sessions, "paul")
            assert taken
            assert taken["metadata"]["uid"] == waiting["metadata"]["uid"]
            assert _container(taken)["containerID"] == _container(waiting)["containerID"]
            assert _container(taken)["restartCount"] == 0
            admitted = condition(sessions, "paul", "Admitted")
            assert admitted and admitted["reason"] == "ClaimedFromPool"
            with sessions.browser("paul") as browser:
                browser.open()

            wait_until("the pool is filled up", lambda: _status(sessions).get("ready") == 1, 90)
            assert _status(sessions)["claimed"] == 1
        finally:
            sessions.kubectl("delete", "vdipool", "warm")
        wait_until("nobody's desktops are gone", lambda: not sessions.items("pod", UNCLAIMED))
        reach(sessions, "paul", "Running")


def test_failed_prepull_is_reported_by_the_template(sessions: World) -> None:
    with template(sessions, "nowhere", prePull=True, image="localhost/vdi/nothing:1") as name:
        words = wait_until("the template says so", lambda: _pre_pull_failure(sessions, name))
        assert "localhost/vdi/nothing:1" in words
    wait_until("no puller is left", lambda: not sessions.items("pod", "vdi.kasm.io/prepull"))


def test_present_image_needs_no_puller(sessions: World) -> None:
    with template(sessions, "here", prePull=True) as name:
        wait_until("the image is on the node", lambda: _pre_pull(sessions, name).get("ready") == 1)


def _status(world: World) -> Object:
    status: Object = (world.get("vdipool", "warm") or {}).get("status", {})
    return status


def _container(pod: Object) -> Object:
    status: Object = pod["status"]["containerStatuses"][0]
    return status


def _pre_pull(world: World, name: str) -> Object:
    status: Object = (world.get("vditemplate", name) or {}).get("status", {}).get("prePull", {})
    return status


def _pre_pull_failure(world: World, name: str) -> str:
    failed = _pre_pull(world, name).get("failed", [])
    return failed[0]["message"] if failed else ""
