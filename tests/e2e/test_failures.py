"""Desktops that fail on a real node: out of memory, a program that ends at once. Said in words,
tried again, fixed.
"""

import os
import subprocess

import pytest

from e2e.desktops import Object, live_pod_of, pod_of, reach, run_in, start, started, status_of
from e2e.world import NAMESPACE, World
from support.waiting import wait_until
from vdi.devcluster.machine import POD_PIDS

pytestmark = pytest.mark.timeout(420)


def first_loss(world: World, name: str) -> Object:
    """The first loss that the status counts; another pod has been tried by then.

    The kubelet restarts the container a few times, with its own pauses, before the pod counts as
    lost.
    """
    first = wait_until("a pod", lambda: pod_of(world, name))["metadata"]["uid"]
    lost: Object = wait_until(
        "a loss is counted", lambda: status_of(world, name).get("failures"), 150
    )
    assert lost["count"] == 1

    def another() -> bool:
        pod = pod_of(world, name)
        return pod is not None and pod["metadata"]["uid"] != first

    wait_until("another try", another)
    return lost


@pytest.mark.long
def test_out_of_memory_is_named_and_fixed_by_more_memory(sessions: World) -> None:
    too_little = {"defaultGPU": 0, "defaultMemory": "96Mi", "maxMemory": "2Gi"}
    with started(sessions, "otto", wait=False, resources=too_little):
        lost = first_loss(sessions, "otto")
        assert lost["reason"] == "OutOfMemory"
        assert "memory" in lost["message"]
        sessions.kubectl(
            "patch", "vdi", "otto", "--type=merge", "-p", '{"spec":{"resources":{"memory":"2Gi"}}}'
        )
        sessions.vdi("session", "restart", "otto")
        reach(sessions, "otto", "Running", seconds=60)


@pytest.mark.long
def test_out_of_memory_never_loses_files(sessions: World) -> None:
    start(sessions, "olga", "small", "--memory", "1Gi")
    run_in(sessions, "olga", "echo kept > ~/kept.txt")
    pod = live_pod_of(sessions, "olga")["metadata"]["name"]
    hog = "python3 -c 'x = bytearray(3 * 1024**3)' 2>&1; echo ended with $?"
    assert "ended with 0" not in sessions.kubectl("exec", pod, "--", "sh", "-c", hog, check=False)
    reach(sessions, "olga", "Running", seconds=120)
    assert run_in(sessions, "olga", "cat ~/kept.txt") == "kept\n"


# Children that do nothing, until no more can be made; then their number.
_FORK_BOMB = """
import os, time
children = 0
while True:
    try:
        if os.fork() == 0:
            os.execv("/bin/sleep", ["sleep", "600"])
    except BlockingIOError:
        break
    children += 1
print(children, flush=True)
time.sleep(600)
"""


@pytest.mark.ci
def test_fork_bomb_leaves_its_neighbours_alone(sessions: World) -> None:
    start(sessions, "nina", "small")
    start(sessions, "boris", "small", "--memory", "4Gi")
    pod = live_pod_of(sessions, "boris")["metadata"]["name"]
    argv = ["kubectl", "-n", NAMESPACE, "exec", pod, "--", "python3", "-c", _FORK_BOMB]
    environment = {**os.environ, "KUBECONFIG": str(sessions.kubeconfig)}
    with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True) as bomb:
        try:
            assert bomb.stdout
            children = int(bomb.stdout.readline())
            assert POD_PIDS // 2 < children < POD_PIDS
            script = "for i in $(seq 200); do sleep 5 & done; wait; echo $i"
            assert run_in(sessions, "nina", script).strip() == "200"
        finally:
            bomb.kill()


@pytest.mark.long
def test_exiting_program_is_explained_as_a_crash_loop(sessions: World) -> None:
    with started(sessions, "curt", wait=False, image="docker.io/library/debian:13-slim"):
        assert first_loss(sessions, "curt")["reason"] == "CrashLoop"
        status = status_of(sessions, "curt")
        assert status["message"]
        assert status["phase"] in ("Creating", "Pending")
