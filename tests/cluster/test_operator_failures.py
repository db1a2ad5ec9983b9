"""Desktops that are lost: started again on the same home, with pauses and a limit. The test is the
kubelet.
"""

from datetime import UTC, datetime, timedelta

import pytest

from cluster.operator_stage import Object, Stage, condition
from support.clock import ShiftedClock
from vdi.kinds import SESSIONS
from vdi.kube.resource import CLAIMS, PODS

pytestmark = pytest.mark.timeout(150)
NAME = "alice-desktop"
CRASH = {"exitCode": 1, "reason": "Error", "startedAt": None, "finishedAt": None}


async def fail(stage: Stage, pod: Object, **status: str) -> None:
    """Play the kubelet: the pod has ended for good."""
    await stage.patch(
        PODS,
        pod["metadata"]["name"],
        {"status": {"phase": "Failed", **status}},
        subresource="status",
    )


async def set_container(
    stage: Stage, pod: Object, *, waiting: str, message: str = "", **rest: object
) -> None:
    """Play the kubelet: the desktop's container waits."""
    container = {"name": "desktop", "image": "x", "imageID": "", "ready": False, "restartCount": 0}
    container |= {"state": {"waiting": {"reason": waiting, "message": message}}, **rest}
    status = {
        "phase": "Pending",
        "containerStatuses": [container],
        "conditions": [{"type": "Ready", "status": "False"}],
    }
    await stage.patch(PODS, pod["metadata"]["name"], {"status": status}, subresource="status")


async def failures(stage: Stage, count: int) -> Object:
    def is_so(session: Object) -> object:
        return session["status"].get("failures", {}).get("count") == count

    return await stage.until(SESSIONS, NAME, is_so, f"{count} losses are counted")


@pytest.mark.long
async def test_desktop_out_of_memory_is_restarted_then_given_up(stage: Stage) -> None:
    template, clock = await stage.template(), ShiftedClock()
    async with stage.operator(clock):
        session = await stage.start(NAME, template)
        pod = await stage.pod_of(session)
        volumes = pod["spec"]["volumes"]
        for loss in range(1, 7):
            assert pod["spec"]["volumes"] == volumes, "the same home"
            killed = {"terminated": {**CRASH, "exitCode": 137, "reason": "OOMKilled"}}
            await set_container(
                stage, pod, waiting="CrashLoopBackOff", restartCount=3, lastState=killed
            )
            lost = await failures(stage, loss)
            assert lost["status"]["failures"]["reason"] == "OutOfMemory"
            await stage.podless(session)
            if loss == 6:
                break
            assert lost["status"]["phase"] == "Pending"
            assert "It is restarted at" in lost["status"]["message"]
            assert lost["status"]["startTime"] == session["status"]["startTime"], "the run goes on"
            clock.ahead += timedelta(minutes=5)
            await stage.touch(NAME)
            pod = await stage.next_pod(session, pod)
        given_up = await stage.reach(NAME, "Failed", "vdi session restart alice-desktop")
        assert "restarted 5 times without success" in given_up["status"]["message"]
        assert "spec.resources.memory" in given_up["status"]["message"]
        assert "startTime" not in given_up["status"]
        await stage.event("OutOfMemory")

        # Its home is free for others meanwhile, and a restart begins again.
        restart = {"metadata": {"annotations": {"vdi.kasm.io/restartedAt": "2026-11-20T12:00:00Z"}}}
        await stage.patch(SESSIONS, NAME, restart)
        await stage.run(NAME)
    assert len(await stage.all(CLAIMS)) == 1


@pytest.mark.long
async def test_pause_ends_by_itself(stage: Stage, template: str) -> None:
    async with stage.operator():
        session = await stage.start(NAME, template)
        pod = await stage.pod_of(session)
        words = (
            "Pod was rejected: Allocate failed due to requested number of devices unavailable for"
            " nvidia.com/gpu."
        )
        await fail(stage, pod, reason="UnexpectedAdmissionError", message=words)
        waiting = await stage.reach(NAME, "Pending", "refused the desktop")
        assert condition(waiting, "PodReady")["reason"] == "NodeRefused"
        await stage.next_pod(session, pod)
        running = await stage.run(NAME)
        assert running["status"]["failures"]["count"] == 1


async def test_deleted_pod_counts_as_one_loss(stage: Stage, template: str) -> None:
    async with stage.operator():
        session = await stage.start(NAME, template)
        pod = await stage.pod_of(session)
        await stage.delete(PODS, NAME)
        pod = await stage.next_pod(session, pod)
        await failures(stage, 1)
        running = await stage.run(NAME)
        assert running["status"]["failures"]["reason"] == "PodDeleted"
    async with stage.operator():
        await stage.start("other", template, user="bob@example.com")
        assert (await stage.pod_of(session))["metadata"]["uid"] == pod["metadata"]["uid"]
        assert (await failures(stage, 1))["status"]["phase"] == "Running"


@pytest.mark.long
async def test_unschedulable_pod_goes_back_to_the_queue(stage: Stage) -> None:
    """The scheduler may know more than we: a pod that it finds no place for goes, and its words
    stay.
    """
    nowhere = {
        "name": "data",
        "mountPath": "/data",
        "persistentVolumeClaim": {"claimName": "nowhere"},
    }
    template = await stage.template(volumes=[nowhere])
    async with stage.operator():
        session = await stage.session(NAME, template, persistence={"enabled": False})
        pod = await stage.pod_of(session)
        await stage.reach(NAME, "Creating", "'nowhere' does not exist yet")
        since = (datetime.now(UTC) - timedelta(seconds=20)).strftime("%Y-%m-%dT%H:%M:%SZ")
        words = "0/3 nodes are available: 3 node(s) had sunspots."
        no_room = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": words,
        }
        status = {"conditions": [{**no_room, "lastTransitionTime": since}]}
        await stage.patch(PODS, pod["metadata"]["name"], {"status": status}, subresource="status")
        waiting = await stage.reach(NAME, "Pending", "3 node(s) had sunspots")
        assert waiting["status"]["failures"]["reason"] == "Unschedulable"
        await stage.next_pod(session, pod)
        await stage.run(NAME)
