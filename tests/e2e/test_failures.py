"""Desktops that fail on a real node: out of memory, a program that ends at once. Said in words, tried again, fixed."""

import pytest

from e2e.desktops import Object, pod_of, reach, run_in, start, template
from e2e.world import World
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(420)


def failures_of(world: World, name: str) -> Object:
    session = world.get("vdi", name) or {}
    found: Object = session.get("status", {}).get("failures") or {}
    return found


@pytest.mark.long
def test_out_of_memory_is_named_and_fixed_by_more_memory(sessions: World) -> None:
    """The kubelet restarts the container three times, with its own pauses, before the pod counts as lost."""
    with template(sessions, "tight", resources={"defaultGPU": 0, "defaultMemory": "96Mi", "maxMemory": "2Gi"}):
        start(sessions, "otto", "tight", wait=False)
        first = wait_until("a pod", lambda: pod_of(sessions, "otto"))
        lost = wait_until("a loss is counted", lambda: failures_of(sessions, "otto"), 150)
        assert lost["count"] == 1
        assert lost["reason"] == "OutOfMemory"
        assert "memory" in lost["message"]

        def another() -> bool:
            pod = pod_of(sessions, "otto")
            return pod is not None and pod["metadata"]["uid"] != first["metadata"]["uid"]

        wait_until("another try", another)
        sessions.kubectl("patch", "vdi", "otto", "--type=merge", "-p", '{"spec":{"resources":{"memory":"2Gi"}}}')
        sessions.vdi("session", "restart", "otto")
        reach(sessions, "otto", "Running", seconds=60)


@pytest.mark.long
def test_out_of_memory_never_loses_files(sessions: World) -> None:
    start(sessions, "olga", "small", "--memory", "1Gi")
    run_in(sessions, "olga", "echo kept > ~/kept.txt")
    hog = "python3 -c 'x = bytearray(3 * 1024**3)' 2>&1; echo ended with $?"
    pod = pod_of(sessions, "olga")
    assert pod
    said = sessions.kubectl("exec", pod["metadata"]["name"], "--", "sh", "-c", hog, check=False)
    assert "ended with 0" not in said
    reach(sessions, "olga", "Running", seconds=120)
    assert run_in(sessions, "olga", "cat ~/kept.txt") == "kept\n"


@pytest.mark.long
def test_exiting_program_is_explained_as_a_crash_loop(sessions: World) -> None:
    with template(sessions, "brief", image="docker.io/library/debian:13-slim"):
        start(sessions, "curt", "brief", wait=False)
        first = wait_until("a pod", lambda: pod_of(sessions, "curt"))
        lost = wait_until("a loss is counted", lambda: failures_of(sessions, "curt"), 150)
        assert (lost["count"], lost["reason"]) == (1, "CrashLoop")

        def another() -> bool:
            pod = pod_of(sessions, "curt")
            return pod is not None and pod["metadata"]["uid"] != first["metadata"]["uid"]

        wait_until("another try", another)
        session = sessions.get("vdi", "curt")
        assert session
        assert session["status"]["message"]
        assert session["status"]["phase"] in ("Creating", "Pending")
