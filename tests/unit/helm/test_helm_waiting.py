"""Objects that are not ready -> why, in words."""

from typing import Any

import msgspec
import pytest

from vdi.helm.snapshot import Job, NamespaceSnapshot, Pod, Service
from vdi.helm.waiting import assess
from vdi.session.observed import Event, PersistentVolumeClaim

META = {"name": "x", "namespace": "kasm", "uid": "u"}
SCHEDULED = [{"type": "PodScheduled", "status": "True"}]


def a_pod(**status: Any) -> Pod:
    node = {} if status.pop("node", True) is None else {"nodeName": "n1"}
    return msgspec.convert({"metadata": META, "spec": node, "status": {"phase": "Pending", **status}}, Pod)


def an_event(reason: str, note: str, kind: str = "Pod", seen: str = "2026-11-20T18:00:00Z") -> Event:
    return msgspec.convert(
        {
            "metadata": {"name": "e", "namespace": "kasm"},
            "regarding": {"kind": kind, "name": "x"},
            "reason": reason,
            "note": note,
            "eventTime": seen,
        },
        Event,
    )


def waiting(reason: str, message: str = "", **more: Any) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"name": "c", "image": "registry.example.com/a:1", "state": state, **more}


def ended(code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


def snapshot(pod: Pod | None = None, **more: Any) -> NamespaceSnapshot:
    empty: dict[str, Any] = {"claims": [], "jobs": [], "services": [], "events": []}
    return NamespaceSnapshot(pods=[pod] if pod else [], **{**empty, **more})


RUNS = {"running": {"startedAt": ""}}
NO_ROOM = "0/1 nodes are available: 1 Insufficient memory. preemption: 0/1 nodes are available."
PODS = [
    ({"node": None}, "", "", "Scheduling", "waits for a node"),
    (
        {"node": None, "conditions": [{"type": "PodScheduled", "status": "False", "message": NO_ROOM}]},
        "",
        "",
        "NoCapacity",
        "without enough free memory",
    ),
    (
        {"containerStatuses": [waiting("ImagePullBackOff")]},
        "Failed",
        "manifest unknown",
        "ImageNotFound",
        "registry.example.com/a:1 cannot be pulled: the registry has no such image; check name and tag.",
    ),
    (
        {"initContainerStatuses": [waiting("ErrImagePull", "401 unauthorized")]},
        "",
        "",
        "ImagePullDenied",
        "imagePullSecrets",
    ),
    (
        {"containerStatuses": [waiting("CreateContainerConfigError", 'secret "db" not found')]},
        "",
        "",
        "BadPodConfig",
        'secret "db" not found',
    ),
    (
        {"containerStatuses": [waiting("RunContainerError", "exec: no such file")]},
        "",
        "",
        "CannotStart",
        "exec: no such file",
    ),
    (
        {
            "containerStatuses": [
                waiting("CrashLoopBackOff", lastState=ended(2, message="a\nbad setting"), restartCount=3)
            ]
        },
        "",
        "",
        "CrashLoop",
        "exit code 2 and was restarted 3 times; last log line: 'bad setting'",
    ),
    (
        {"containerStatuses": [waiting("CrashLoopBackOff", lastState=ended(1), restartCount=1)]},
        "",
        "",
        "CrashLoop",
        "see kubectl -n kasm logs x -c c",
    ),
    (
        {"containerStatuses": [waiting("CrashLoopBackOff", lastState=ended(137, "OOMKilled"), restartCount=1)]},
        "",
        "",
        "OutOfMemory",
        "more memory than its limit",
    ),
    (
        {"containerStatuses": [waiting("ContainerCreating")]},
        "FailedMount",
        'secret "tls" not found',
        "VolumeMount",
        'secret "tls" not found',
    ),
    (  # mounted in the end, or the init container would not run
        {
            "initContainerStatuses": [{"name": "wait", "image": "x", "state": RUNS}],
            "containerStatuses": [waiting("PodInitializing")],
        },
        "FailedMount",
        'secret "tls" not found',
        "Initialising",
        "init container wait is running",
    ),
    ({"containerStatuses": [waiting("ContainerCreating")]}, "", "", "Preparing", "preparing its image"),
    (
        {"containerStatuses": [{"name": "c", "state": RUNS}]},
        "Unhealthy",
        "Readiness probe failed: 503",
        "NotAnswering",
        "Readiness probe failed: 503",
    ),
    ({"containerStatuses": [{"name": "c", "state": RUNS}]}, "", "", "Starting", "does not respond yet"),
    (
        {"initContainerStatuses": [{"name": "migrate", "state": RUNS}]},
        "",
        "",
        "Initialising",
        "init container migrate is running",
    ),
    ({"phase": "Failed", "reason": "Evicted", "message": "low on disk"}, "", "", "Evicted", "low on disk"),
]


@pytest.mark.parametrize(("status", "reason", "note", "code", "words"), PODS, ids=[pod[3] + pod[2] for pod in PODS])
def test_why_a_pod_is_not_ready(status: dict[str, Any], reason: str, note: str, code: str, words: str) -> None:
    events = [an_event(reason, note)] if reason else []
    situation = assess(snapshot(a_pod(**dict(status)), events=events))
    (pending,) = situation.pending
    assert (pending.object, pending.code) == ("pod/kasm/x", code)
    assert words in pending.sentence
    assert "desktop" not in pending.sentence
    assert (situation.ready, situation.pods) == (0, 1)
    ordinary = {"Scheduling", "Preparing", "Starting", "Initialising"}
    assert pending.stuck is (code not in ordinary)


def test_what_is_ready_or_done_waits_for_nothing() -> None:
    for pod in (a_pod(conditions=[{"type": "Ready", "status": "True"}], phase="Running"), a_pod(phase="Succeeded")):
        situation = assess(snapshot(pod))
        assert situation.pending == () and situation.words == "1 of 1 pods ready"
    leaving = msgspec.convert({"metadata": {**META, "deletionTimestamp": "2026-11-20T18:00:00Z"}}, Pod)
    assert assess(snapshot(leaving)) == (0, 0, ())


def test_pods_that_are_refused_claims_jobs_and_services() -> None:
    refused = an_event("FailedCreate", 'pods "x-1" is forbidden: exceeded quota', "ReplicaSet")
    claim = msgspec.convert({"metadata": META, "status": {"phase": "Pending"}}, PersistentVolumeClaim)
    provisioning = an_event("ProvisioningFailed", "no such pool", "PersistentVolumeClaim")
    failed = [{"type": "Failed", "status": "True", "message": "Job has reached the specified backoff limit"}]
    job = msgspec.convert({"metadata": META, "status": {"conditions": failed}}, Job)
    service = msgspec.convert(
        {"metadata": META, "spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {}}}, Service
    )
    situation = assess(
        snapshot(None, claims=[claim], jobs=[job], services=[service], events=[refused, provisioning]),
        began="2026-11-20T17:59:00Z",
    )
    assert [one.code for one in situation.pending] == ["PodsRefused", "NotProvisioned", "JobFailed", "NoAddress"]
    assert "exceeded quota" in situation.pending[0].sentence
    assert "kubectl -n kasm logs job/x" in situation.pending[2].sentence
    assert situation.words.startswith("0 of 0 pods ready; replicaset/kasm/x: Its pods are refused")
    assert situation.words.endswith("(and 3 more)")
    assert assess(snapshot(None, claims=[claim])).pending == (), "it waits for its first pod"
    assert assess(snapshot(None, events=[refused]), began="2026-11-20T19:00:00Z").pending == (), "an old story"
