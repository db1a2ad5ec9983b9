from datetime import UTC, datetime
from pathlib import Path

import pytest

from support.builders import a_pod
from vdi.cluster.objects import ChildMeta, Event
from vdi.session.conditions import Reason
from vdi.session.decide import explain_api_error, name_taken
from vdi.session.explain import StartState, explain, explain_pull, main, start_state_from_list
from vdi.session.failures import find_loss, unscheduled_since

GATED = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}

FIXTURES = Path(__file__).parent / "fixtures"

SENTENCES = [
    ("image-not-found", "ImageNotFound", "registry.example.com/desktop:1 cannot be pulled: the registry has no such"),
    ("image-denied", "ImagePullDenied", "the registry has no such image or denies access to it; check name and tag in"),
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
    ("other-volume-unbound", "VolumePending", "A volume that the template mounts is not bound yet."),
    ("home-not-provisioned", "HomeNotProvisioned", 'storageclass.storage.k8s.io "fast" not found.'),
    ("home-lost", "HomeLost", "'home' no longer exists"),
    ("unschedulable-unheard-of", "Unschedulable", "3 node(s) had sunspots"),
    ("volume-mount-failed", "VolumeMount", 'SetUp failed for volume "nfs" : mount failed: exit status 32.'),
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


@pytest.mark.parametrize(("symptom", "code", "words"), SENTENCES, ids=[row[0] for row in SENTENCES])
def test_symptom_is_explained_in_words(symptom: str, code: str, words: str) -> None:
    answer = explain(start_state_from_list((FIXTURES / f"{symptom}.json").read_bytes()))
    assert answer.reason == code
    assert words in answer.sentence
    assert answer.sentence.endswith((".", ")"))
    assert "\n" not in answer.sentence


def test_every_fixture_has_its_sentence() -> None:
    symptoms = {path.stem for path in FIXTURES.glob("*.json") if not path.stem.endswith(".golden")}
    assert symptoms == {row[0] for row in SENTENCES}


def test_state_that_no_rule_knows_keeps_kubernetes_own_words() -> None:
    pod = a_pod(container={"state": {"waiting": {"reason": "Dancing", "message": "the container dances"}}})
    assert explain(StartState(pod)).sentence == "the container dances."


@pytest.mark.parametrize(
    ("note", "code", "words"),
    [
        ("HTTP probe failed with statuscode: 401", "ProbeRefused", "or name the Secret with the password in basicAuth"),
        (
            "HTTP probe failed with statuscode: 404",
            "ProbeRefused",
            "Set healthPath in the template to an existing page",
        ),
        ("HTTP probe failed with statuscode: 400", "ProbeRefused", "If it uses HTTPS, set scheme: HTTPS"),
        (
            'Get "https://10.42.0.5:8080/": http: server gave HTTP response to HTTPS client',
            "ProbeRefused",
            "it uses HTTP, but the template has scheme: HTTPS",
        ),
        ("HTTP probe failed with statuscode: 503", "Starting", "does not respond yet"),
        ('Get "http://10.42.0.5:8080/": dial tcp: connect: connection refused', "Starting", "does not respond yet"),
    ],
)
def test_an_image_that_answers_otherwise_than_its_template_says_is_named(note: str, code: str, words: str) -> None:
    pod = a_pod(container={"ready": False, "state": {"running": {"startedAt": "2026-11-20T08:00:03Z"}}})
    event = Event(ChildMeta(name="e"), reason="Unhealthy", note=f"Readiness probe failed: {note}")
    answer = explain(StartState(pod, events=(event,)))
    assert (answer.reason, answer.stuck) == (code, False)
    assert words in answer.sentence


def test_long_words_are_cut() -> None:
    pod = a_pod(container={"state": {"waiting": {"reason": "ErrImagePull", "message": "x" * 5000}}})
    assert len(explain(StartState(pod)).sentence) < 400


@pytest.mark.parametrize("arguments", [[], ["/nonexistent"], ["a", "b"]])
def test_command_names_what_it_cannot_use(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "allowed: python -m vdi.session.explain FILE" in capsys.readouterr().err


def test_command_prints_code_and_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(FIXTURES / "oom-killed.json")]) == 0
    assert capsys.readouterr().out.startswith("OutOfMemory: The desktop used more memory")


REFUSALS = [
    (
        'pods "a" is forbidden: violates PodSecurity "restricted:latest": volume types (volume "x" uses nfs)',
        "PodSecurity",
        True,
        "Pod Security level: violates PodSecurity",
    ),
    (
        'pods "a" is forbidden: exceeded quota: q, requested: limits.memory=4Gi, used: limits.memory=8Gi, limited: 8Gi',
        "QuotaExceeded",
        False,
        "quota: exceeded quota: q, requested: limits.memory=4Gi",
    ),
    (
        'pods "a" is forbidden: maximum memory usage per Container is 2Gi, but limit is 4Gi',
        "Refused",
        True,
        "LimitRange: maximum memory usage",
    ),
    (
        'pods "a" is forbidden: unable to create new content in namespace x because it is being terminated',
        "Refused",
        True,
        "namespace is being deleted",
    ),
    ('pods is forbidden: User "o" cannot create resource "pods" in API group ""', "Refused", True, "(RBAC)"),
    (
        'Pod "a" is invalid: spec.volumes[0].name: Invalid value: "X"',
        "Refused",
        True,
        "the desktop's Pod: spec.vol",
    ),
    (
        'Internal error occurred: failed calling webhook "pods.example.com": failed to call: connection refused',
        "Refused",
        False,
        "is blocked by an admission webhook that does not respond",
    ),
]


@pytest.mark.parametrize(("message", "reason", "stuck", "words"), REFUSALS, ids=[row[3] for row in REFUSALS])
def test_refusal_of_the_api_server_is_explained(message: str, reason: str, stuck: bool, words: str) -> None:
    problem = explain_api_error("Pod", message)
    assert (problem.condition, problem.reason, problem.needs_change) == ("Admitted", reason, stuck)
    assert words in problem.message


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("failed to pull and unpack image: no match for platform in manifest: not found", "ImageWrongPlatform"),
        ("no matching manifest for linux/arm64/v8 in the manifest list entries", "ImageWrongPlatform"),
        ("registry.example.com/desktop:2: not found", "ImageNotFound"),
        ('failed to pull "r.example.com/denied/x509:404": dial tcp 10.0.0.9:443: i/o timeout', "RegistryUnreachable"),
        ("failed to copy: sha256:ab404403cd: no space left on device", "ImagePull"),
    ],
)
def test_an_image_for_another_processor_is_reported_from_one_that_is_not_there(message: str, code: str) -> None:
    assert explain_pull("registry.example.com/desktop:2", "ErrImagePull", message)[0] == code


def test_refused_route_blames_the_route() -> None:
    assert explain_api_error("IngressRoute", "", kind_missing=True).condition == "RouteReady"
    assert "its CRD is not installed" in explain_api_error("IngressRoute", "", kind_missing=True).message
    assert name_taken("Secret", "a-auth").condition == "Admitted"


def test_crash_is_reported_in_the_last_words_of_the_desktop() -> None:
    ended = {"exitCode": 1, "reason": "Error", "message": "starting\nXvfb: no space left on device\n\n"}
    container = {"restartCount": 3, "lastState": {"terminated": ended}}
    answer = explain(StartState(a_pod(container={**container, "state": {"waiting": {"reason": "CrashLoopBackOff"}}})))
    assert "last log line: 'Xvfb: no space left on device'" in answer.sentence
    silent = {**container, "lastState": {"terminated": {**ended, "message": ""}}}
    answer = explain(StartState(a_pod(container={**silent, "state": {"waiting": {"reason": "CrashLoopBackOff"}}})))
    assert "kubectl logs --previous alice-desktop" in answer.sentence


def test_a_gated_pod_waits_for_another_controller_and_is_not_stuck() -> None:
    gated = a_pod(node="", status={"conditions": [GATED]})
    explanation = explain(StartState(gated))
    words = "The desktop waits until another controller removes its scheduling gate."
    assert (explanation.reason, explanation.sentence, explanation.stuck) == (Reason.SCHEDULING_GATED, words, False)
    assert unscheduled_since(gated) is None
    assert find_loss(gated, None, (), datetime.max.replace(tzinfo=UTC)) is None
