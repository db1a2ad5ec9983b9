from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.builders import a_pod
from vdi.cluster.explain import (
    StartState,
    explain,
    explain_pull,
    find_idmap_error,
    last_lines,
    read_reference,
)
from vdi.cluster.objects import ChildMeta, Event, PersistentVolumeClaim, Pod
from vdi.cluster.reasons import PodReason

GATED = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}

FIXTURES = Path(__file__).parent / "fixtures"

SENTENCES = [
    (
        "image-not-found",
        "ImageNotFound",
        "registry.example.com/desktop:1 cannot be pulled: the registry has no such",
    ),
    (
        "image-denied",
        "ImagePullDenied",
        "the registry has no such image or denies access to it; check name and tag in",
    ),
    (
        "image-registry-unknown",
        "RegistryUnknown",
        "cannot resolve the registry's host name; check it in the template's",
    ),
    ("image-registry-unreachable", "RegistryUnreachable", "does not respond"),
    ("image-registry-not-trusted", "RegistryNotTrusted", "certificate"),
    ("image-name-invalid", "ImageNameInvalid", "not a valid image name"),
    ("image-pull-unheard-of", "ImagePull", "no space left on device."),
    ("no-gpu-free", "NoGPUFree", "on any of 2 nodes: 2 without a free GPU (nvidia.com/gpu)."),
    ("no-memory-one-node", "NoCapacity", "on the only node: 1 without enough free memory."),
    (
        "no-room-mixed",
        "NoCapacity",
        "1 without enough free CPU, 2 without enough free memory, 1 reserved by a taint (taint gpu",
    ),
    ("node-tainted", "NodesTainted", "(taint node.kubernetes.io/disk-pressure)."),
    ("node-tainted-new-words", "NodesTainted", "1 reserved by a taint (tainted)."),
    ("home-on-other-node", "HomeOnOtherNode", "1 other than the one with the home volume"),
    ("home-claim-missing", "MissingHome", "'home' does not exist"),
    ("home-claim-uncached", "MissingHome", "'home' does not exist"),
    ("home-unbound", "HomePending", "not bound yet"),
    ("home-bound-unnoticed", "SchedulerLate", "has not retried yet"),
    (
        "other-volume-unbound",
        "VolumePending",
        "A volume that the template mounts is not bound yet.",
    ),
    ("home-not-provisioned", "HomeNotProvisioned", 'storageclass.storage.k8s.io "fast" not found.'),
    ("home-lost", "HomeLost", "'home' no longer exists"),
    ("unschedulable-unheard-of", "Unschedulable", "3 node(s) had sunspots"),
    (
        "volume-mount-failed",
        "VolumeMount",
        'SetUp failed for volume "nfs" : mount failed: exit status 32.',
    ),
    ("volume-permission", "VolumePermission", "permission denied"),
    ("volume-on-other-node", "VolumeElsewhere", "attached to another node"),
    ("config-map-missing", "MissingConfigMap", "ConfigMap 'app-conf', which does not exist"),
    ("secret-missing", "MissingSecret", "Secret 'licence', which does not exist"),
    ("secret-key-missing", "MissingKey", "key 'token', which is missing in the Secret 'licence'"),
    ("runs-as-root", "BadPodConfig", "image will run as root"),
    ("bad-mount", "BadMount", "not a directory"),
    ("bad-command", "BadCommand", "executable file not found"),
    ("crash-loop", "CrashLoop", "exit code 1 and was restarted 4 times"),
    ("oom-killed", "OutOfMemory", "spec.resources.memory"),
    ("oom-killed-now", "OutOfMemory", "spec.resources.memory"),
    ("oom-killed-unseen", "OutOfMemory", "spec.resources.memory"),
    ("evicted", "Evicted", "node-1 ran short of resources"),
    ("gpu-admission-refused", "NodeRefused", "unavailable for nvidia.com/gpu"),
    ("out-of-cpu", "NodeRefused", "have enough resource: cpu"),
    ("sandbox-failed", "NodeNetwork", "no IP addresses available"),
    ("looking-for-a-node", "Scheduling", "Looking for a node"),
    ("preparing", "Preparing", "Node node-1 is preparing the image."),
    ("mount-tried-again", "Preparing", "Node node-1 is preparing the image."),
    ("preparing-home", "Preparing", "and its home volume"),
    ("starting-up", "Starting", "does not respond yet"),
]


def start_state_of(symptom: str) -> StartState:
    """From what `kubectl get pod,pvc,events -o json` printed: one pod, its claim, and Events."""
    text = (FIXTURES / f"{symptom}.json").read_bytes()
    items: list[dict[str, Any]] = msgspec.json.decode(text)["items"]
    pods = [msgspec.convert(item, Pod) for item in items if item["kind"] == "Pod"]
    claims = [
        msgspec.convert(item, PersistentVolumeClaim)
        for item in items
        if item["kind"] == "PersistentVolumeClaim"
    ]
    mine = [claim for claim in claims if claim.metadata.name == pods[0].home_claim]
    events = tuple(
        msgspec.convert(_as_new_event(item), Event) for item in items if item["kind"] == "Event"
    )
    return StartState(pods[0], mine[0] if mine else None, events)


def _as_new_event(item: dict[str, Any]) -> dict[str, Any]:
    """A core `v1` Event (what kubectl prints) under the names of `events.k8s.io/v1`."""
    renamed = {
        "message": "note",
        "involvedObject": "regarding",
        "lastTimestamp": "deprecatedLastTimestamp",
    }
    return {renamed.get(key, key): value for key, value in item.items() if value is not None}


@pytest.mark.parametrize(("symptom", "code", "words"), SENTENCES, ids=[row[0] for row in SENTENCES])
def test_symptom_is_explained(symptom: str, code: str, words: str) -> None:
    answer = explain(start_state_of(symptom))
    assert answer.reason == code
    assert words in answer.sentence
    assert answer.sentence.endswith((".", ")"))
    assert "\n" not in answer.sentence


def test_every_fixture_has_its_sentence() -> None:
    symptoms = {path.stem for path in FIXTURES.glob("*.json") if not path.stem.endswith(".golden")}
    assert symptoms == {row[0] for row in SENTENCES}


# Of runc 1.5 through containerd, and of crun through CRI-O.
RUNC = (
    "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc"
    " create failed: unable to start container process: error during container init: failed to"
    " fulfil mount request: failed to set MOUNT_ATTR_IDMAP on /volumes/pvc-1: invalid argument"
    " (maybe the filesystem used doesn't support idmap mounts on this kernel?): unknown"
)
CRUN = (
    "container create failed: mount_setattr `/home/user` (maybe the file system used doesn't"
    " support idmap mounts on this kernel?): Invalid argument"
)
BACK_OFF = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}


@pytest.mark.parametrize(
    ("state", "last", "refused"),
    [
        ({"waiting": {"reason": "RunContainerError", "message": RUNC}}, {}, True),
        ({"waiting": {"reason": "CreateContainerError", "message": CRUN}}, {}, True),
        ({"terminated": {"exitCode": 128, "reason": "StartError", "message": RUNC}}, {}, True),
        (
            BACK_OFF,
            {"terminated": {"exitCode": 128, "reason": "StartError", "message": RUNC}},
            True,
        ),
        # It has started since, so nothing is wrong with its mounts.
        ({"running": {}}, {"terminated": {"reason": "StartError", "message": RUNC}}, False),
        # Its own last words, which a program of the desktop chooses.
        (BACK_OFF, {"terminated": {"exitCode": 128, "reason": "Error", "message": RUNC}}, False),
        (
            {
                "waiting": {
                    "reason": "RunContainerError",
                    "message": "failed to mount /x: not a directory",
                }
            },
            {},
            False,
        ),
    ],
)
@pytest.mark.parametrize("where", ["containerStatuses", "initContainerStatuses"])
def test_refused_user_namespace_is_told_from_other_errors(
    state: dict[str, Any], last: dict[str, Any], refused: bool, where: str
) -> None:
    pod = a_pod(status={where: [{"name": "desktop", "state": state, "lastState": last}]})
    assert not find_idmap_error(pod), "it has no user namespace"
    pod.spec.host_users = False
    assert ("support idmap mounts" in find_idmap_error(pod)) == refused
    explanation = explain(StartState(pod))
    assert (explanation.reason == PodReason.NO_IDMAPPED_MOUNTS) == refused
    assert (
        "Node node-1 cannot mount a volume in the user namespace" in explanation.sentence
    ) == refused


def test_unknown_state_keeps_kubernetes_message() -> None:
    pod = a_pod(
        container={"state": {"waiting": {"reason": "Dancing", "message": "the container dances"}}}
    )
    assert explain(StartState(pod)).sentence == "the container dances."


@pytest.mark.parametrize(
    ("note", "code", "words"),
    [
        (
            "HTTP probe failed with statuscode: 401",
            "ProbeRefused",
            "or name the Secret with the password in basicAuth",
        ),
        (
            "HTTP probe failed with statuscode: 404",
            "ProbeRefused",
            "Set healthPath in the template to an existing page",
        ),
        (
            "HTTP probe failed with statuscode: 400",
            "ProbeRefused",
            "If it uses HTTPS, set scheme: HTTPS",
        ),
        (
            'Get "https://10.42.0.5:8080/": http: server gave HTTP response to HTTPS client',
            "ProbeRefused",
            "it uses HTTP, but the template has scheme: HTTPS",
        ),
        ("HTTP probe failed with statuscode: 503", "Starting", "does not respond yet"),
        (
            'Get "http://10.42.0.5:8080/": dial tcp: connect: connection refused',
            "Starting",
            "does not respond yet",
        ),
    ],
)
def test_refused_probe_names_the_wrong_setting(note: str, code: str, words: str) -> None:
    pod = a_pod(
        container={"ready": False, "state": {"running": {"startedAt": "2026-11-20T08:00:03Z"}}}
    )
    event = Event(ChildMeta(name="e"), reason="Unhealthy", note=f"Readiness probe failed: {note}")
    answer = explain(StartState(pod, events=(event,)))
    assert (answer.reason, answer.stuck) == (code, False)
    assert words in answer.sentence


def test_long_messages_are_truncated() -> None:
    pod = a_pod(container={"state": {"waiting": {"reason": "ErrImagePull", "message": "x" * 5000}}})
    assert len(explain(StartState(pod)).sentence) < 400


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (
            "failed to pull and unpack image: no match for platform in manifest: not found",
            "ImageWrongPlatform",
        ),
        (
            "no matching manifest for linux/arm64/v8 in the manifest list entries",
            "ImageWrongPlatform",
        ),
        ("registry.example.com/desktop:2: not found", "ImageNotFound"),
        (
            'failed to pull "r.example.com/denied/x509:404": dial tcp 10.0.0.9:443: i/o timeout',
            "RegistryUnreachable",
        ),
        ("failed to copy: sha256:ab404403cd: no space left on device", "ImagePull"),
    ],
)
def test_pull_errors_are_told_apart(message: str, code: str) -> None:
    assert explain_pull("registry.example.com/desktop:2", "ErrImagePull", message)[0] == code


def test_crash_is_reported_with_the_last_log_line() -> None:
    ended = {
        "exitCode": 1,
        "reason": "Error",
        "message": "starting\nXvfb: no space left on device\n\n",
    }
    container = {"restartCount": 3, "lastState": {"terminated": ended}}
    answer = explain(
        StartState(
            a_pod(container={**container, "state": {"waiting": {"reason": "CrashLoopBackOff"}}})
        )
    )
    assert "last log line: 'Xvfb: no space left on device'" in answer.sentence
    silent = {**container, "lastState": {"terminated": {**ended, "message": ""}}}
    answer = explain(
        StartState(
            a_pod(container={**silent, "state": {"waiting": {"reason": "CrashLoopBackOff"}}})
        )
    )
    assert answer.sentence.endswith("it left no message."), (
        "its pod, and so its log, may be deleted already"
    )


@pytest.mark.parametrize(
    ("started", "changed", "reason"),
    [
        ("08:00:03", "08:00:09", "NotResponding"),  # it flipped after the start, so it was ready
        ("08:00:03", "08:00:03", "Starting"),
        ("08:00:09", "08:00:03", "Starting"),  # another container was ready
    ],
)
def test_desktop_that_was_ready_is_not_starting(started: str, changed: str, reason: str) -> None:
    condition = {"type": "Ready", "status": "False", "lastTransitionTime": f"2026-11-20T{changed}Z"}
    container: dict[str, Any] = {"state": {"running": {"startedAt": f"2026-11-20T{started}Z"}}}
    answer = explain(StartState(a_pod(container=container, status={"conditions": [condition]})))
    assert answer.reason == reason
    assert answer.stuck == (reason == "NotResponding")
    crashed = {"restartCount": 1, "lastState": {"terminated": {"exitCode": 137, "reason": "Error"}}}
    answer = explain(
        StartState(a_pod(container=container | crashed, status={"conditions": [condition]}))
    )
    assert answer.reason == (reason if reason == "NotResponding" else "CrashLoop")


def test_last_lines_are_bounded() -> None:
    assert len(last_lines("x" * 5000)) == 1000
    assert last_lines("a\n\n b \n") == "a\n b"


def test_gated_pod_is_not_stuck() -> None:
    gated = a_pod(node="", status={"conditions": [GATED]})
    explanation = explain(StartState(gated))
    words = "The desktop waits until another controller removes its scheduling gate."
    assert (explanation.reason, explanation.sentence, explanation.stuck) == (
        PodReason.SCHEDULING_GATED,
        words,
        False,
    )


@pytest.mark.parametrize(
    ("message", "reference", "clause"),
    [
        (
            "couldn't find key a in Secret vdi/keys",
            ("Secret", "keys", "a"),
            "the key 'a', which is missing in the Secret 'keys'",
        ),
        (
            "references non-existent config key: a",
            ("ConfigMap", "", "a"),
            "the key 'a', which is missing in the ConfigMap",
        ),
        (
            'configmap "keys" not found',
            ("ConfigMap", "keys", ""),
            "the ConfigMap 'keys', which does not exist",
        ),
        ("no space left on device", None, ""),
    ],
)
def test_missing_object_is_read_from_the_message(
    message: str, reference: tuple[str, str, str] | None, clause: str
) -> None:
    found = read_reference(message)
    assert found == reference
    assert (found.clause if found else "") == clause
