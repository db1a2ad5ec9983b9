"""The checklist of an installed Kasm: whole in each generation, and each line good and bad."""

from typing import Any

import pytest
from msgspec.structs import replace

from unit.kasm.preflight_site import DENIED
from unit.kasm.validate_site import (
    HOST,
    Site,
    a_kasm,
    an_ingress,
    broken,
    dropped,
    edited,
    line_of,
    not_passing,
    validate,
)
from vdi.findings.model import Severity
from vdi.kasm.validate import Answer, Release, state_of
from vdi.snapshot.objects import convert_object

LETTERS = ["A", "B", "C"]


@pytest.mark.parametrize("letter", LETTERS)
def test_a_whole_kasm_passes_every_line(letter: str) -> None:
    lines = validate(a_kasm(letter))
    assert [line for line in lines if line.severity is not Severity.OK] == []
    checks = [line.code for line in lines]
    assert {
        "release",
        "part proxy",
        "part db",
        "pods",
        "services",
        "volumes",
        "db-init",
        "web-ui",
    } <= set(checks)
    assert ("part redis" in checks) == (letter == "A")


def test_no_kasm_is_one_line() -> None:
    lines = validate(broken(KASM, deployments=[], statefulsets=[]))
    assert [(line.code, line.severity) for line in lines] == [("release", Severity.ERROR)]


KASM, OF_B = a_kasm(), a_kasm("B")
STUCK = (Release("kasm", 1, "deployed"), Release("kasm", 2, "pending-upgrade"))
SLICES = [
    {**each, "endpoints": []} if "manager" in each["metadata"]["name"] else each
    for each in KASM.objects["endpointslices"]
]
NO_ENDPOINTS = broken(KASM, endpointslices=SLICES)
UNBOUND = edited(OF_B, "persistentvolumeclaims", "db", status={"phase": "Pending"})
NO_CLAIMS = broken(OF_B, persistentvolumeclaims=[])
EXTERNAL_DATABASE = dropped(
    dropped(dropped(NO_CLAIMS, "statefulsets", "db"), "services", "db"), "pods", "db"
)
WRONG_PART = broken(KASM, ingresses=[an_ingress("kasm-manager-default")])
IDLE = edited(KASM, "deployments", "api", status={"readyReplicas": 0})
CHART, HAVE = "kasm-helm 1.1190.6 (release kasm)", "Services have endpoints"
MANAGER, CLAIM = "kasm-manager-default", "data-kasm-db-statefulset-0"
NO_ADDRESS = broken(KASM, ingresses=[an_ingress("kasm-proxy-default", address="")])


def with_job(**conditions: str) -> Site:
    """With the Job that fills the database."""
    found = [
        {"type": name, "status": status, "message": "no more tries"}
        for name, status in conditions.items()
    ]
    return broken(
        KASM, jobs=[{"metadata": {"name": "kasm-db-init"}, "status": {"conditions": found}}]
    )


def with_web(status: int, found: Site = KASM, **answer: Any) -> Site:
    return replace(found, web=Answer(status, **answer))


UNTRUSTED = with_web(200, trusted=False)


@pytest.mark.parametrize(
    ("found", "check", "severity", "observed"),
    [
        (replace(KASM, releases=STUCK), "release", "error", f"{CHART}, revision 2 pending-upgrade"),
        (replace(KASM, releases=()), "release", "warning", f"{CHART}, without Helm's record"),
        (replace(KASM, unread=frozenset({"secrets"})), "release", "unknown", "not read"),
        (NO_ENDPOINTS, "services", "error", f"6 of 7 {HAVE}; without endpoints: {MANAGER}"),
        (
            dropped(KASM, "services", "api"),
            "services",
            "error",
            f"6 of 6 {HAVE}; missing: kasm-api-default",
        ),
        (UNBOUND, "volumes", "error", f"0 of 1 claims are bound; {CLAIM} Pending"),
        (NO_CLAIMS, "volumes", "error", "0 of 0 claims are bound"),
        (EXTERNAL_DATABASE, "volumes", "ok", "0 of 0 claims are bound"),
        (with_job(Complete="True"), "db-init", "ok", "kasm-db-init complete"),
        (with_job(), "db-init", "warning", "kasm-db-init is running"),
        (with_job(Failed="True"), "db-init", "error", "kasm-db-init failed"),
        (
            KASM,
            "db-init",
            "ok",
            "deleted; the API is running, which waits until the database is initialised",
        ),
        (IDLE, "db-init", "unknown", "deleted; the API is not running"),
        (WRONG_PART, "way-in", "error", f"ingress kasm-ingress points to {MANAGER} (manager)"),
        (with_web(0, NO_ADDRESS), "way-in", "warning", f"ingress kasm-ingress for {HOST}"),
        (
            NO_ADDRESS,
            "way-in",
            "ok",
            f"ingress kasm-ingress for {HOST}",
        ),  # it answers, so somebody has
        (with_web(0, problem="refused"), "web-ui", "error", "no response: refused"),
        (with_web(404), "web-ui", "error", "404"),
        (with_web(502), "web-ui", "error", "502"),
        (with_web(500), "web-ui", "error", "500"),
        (replace(KASM, web=None), "web-ui", "unknown", "not read"),
        (
            UNTRUSTED,
            "web-ui",
            "warning",
            "200, with a certificate that this machine does not trust",
        ),
    ],
)
def test_each_line_is_good_and_bad(found: Site, check: str, severity: str, observed: str) -> None:
    line = line_of(check, found)
    assert (line.severity, line.observed) == (severity, observed)


@pytest.mark.parametrize(
    ("found", "check", "words"),
    [
        (with_job(Failed="True"), "db-init", "no more tries"),
        (with_web(0, problem="refused"), "web-ui", "The name does not resolve to this cluster"),
        (with_web(404), "web-ui", f"has no route for {HOST}"),
        (with_web(502), "web-ui", "nothing behind it responds"),
        (with_web(500), "web-ui", "not the response of a healthy Kasm"),
    ],
)
def test_message_says_why(found: Site, check: str, words: str) -> None:
    assert words in line_of(check, found).message


@pytest.mark.parametrize(
    ("found", "check", "words"),
    [
        (replace(KASM, releases=STUCK), "release", "helm rollback kasm"),
        (UNBOUND, "volumes", f"describe persistentvolumeclaim {CLAIM}"),
        (replace(KASM, web=None), "web-ui", "--hostname"),
        (UNTRUSTED, "web-ui", "create secret tls kasm-tls"),
    ],
)
def test_remedy_says_what_to_do(found: Site, check: str, words: str) -> None:
    assert words in line_of(check, found).remedy.text


@pytest.mark.parametrize("letter", LETTERS)
@pytest.mark.parametrize("part", ["proxy", "api", "manager"])
def test_a_workload_that_was_deleted(letter: str, part: str) -> None:
    found = dropped(a_kasm(letter), "deployments", f"-{part}" if letter != "A" else f"kasm-{part}")
    assert line_of(f"part {part}", found).severity is Severity.ERROR


def test_a_part_that_is_switched_off_has_no_line() -> None:
    found = dropped(dropped(KASM, "statefulsets", "guac"), "services", "guac")
    assert "part guac" not in [line.code for line in validate(found)]
    assert not_passing(found) == []


@pytest.mark.parametrize(
    "status",
    [
        {"readyReplicas": 0},
        {"readyReplicas": 1, "updatedReplicas": 0, "replicas": 1},
        {"readyReplicas": 1, "updatedReplicas": 1, "replicas": 2},  # the ready one is the old one
        {"observedGeneration": 0},
    ],
)
def test_a_workload_that_is_not_ready(status: dict[str, int]) -> None:
    found = edited(KASM, "deployments", "api", status=status)
    assert line_of("part api", found).observed == "kasm-api-default 0 of 1 ready"
    assert line_of("part api", found).severity is Severity.ERROR


def step(name: str, **state: Any) -> dict[str, Any]:
    return {"name": name, "state": state}


def test_pod_in_init_is_named_with_its_waiting_step() -> None:
    done = {"terminated": {"exitCode": 0, "reason": "Completed"}}
    waiting = {"waiting": {"reason": "PodInitializing"}}
    steps = [
        step("api-is-ready", **done),
        step("kasm-manager-is-ready", running={}),
        step("guac-is-ready", **waiting),
    ]
    status = {"phase": "Pending", "conditions": [], "initContainerStatuses": steps}
    found = edited(a_kasm("A"), "pods", "kasm-proxy", status=status)
    line = line_of("pods", found)
    assert line.severity is Severity.ERROR
    assert "kasm-proxy-deployment-0 Init:1/3 (kasm-manager-is-ready)" in line.observed
    assert line.remedy.text == "vdi kasm diagnose --namespace kasm"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (
            {"initContainerStatuses": [step("a", waiting={"reason": "ImagePullBackOff"})]},
            "Init:0/1 (a, ImagePullBackOff)",
        ),
        ({"initContainerStatuses": [step("a", terminated={"exitCode": 1})]}, "Init:0/1 (a)"),
        (
            {"containerStatuses": [step("a", waiting={"reason": "CrashLoopBackOff"})]},
            "CrashLoopBackOff",
        ),
        ({"containerStatuses": [step("a", running={})], "phase": "Running"}, "Running, not ready"),
        ({"phase": "Pending"}, "Pending"),
        ({}, "Unknown"),
    ],
)
def test_the_state_of_a_pod(status: dict[str, Any], words: str) -> None:
    pod = convert_object("pods", {"metadata": {"name": "x"}, "status": status})
    assert state_of(pod) == words


def test_pods_of_jobs_and_of_others() -> None:
    labels = {"app.kubernetes.io/component": "db-init"}
    owner = [{"apiVersion": "batch/v1", "kind": "Job", "name": "kasm-db-init", "uid": "1"}]
    tries = [
        {
            "metadata": {
                "name": f"kasm-db-init-{phase}",
                "labels": labels,
                "ownerReferences": owner,
            },
            "status": {"phase": phase},
        }
        for phase in ("Failed", "Running", "Succeeded")
    ]
    strange = {"metadata": {"name": "other", "labels": {}}, "status": {"phase": "Pending"}}
    assert not_passing(broken(KASM, pods=[*KASM.objects["pods"], *tries, strange])) == []


def test_ingressroute_is_an_entry_point() -> None:
    route = {
        "metadata": {"name": "kasm"},
        "spec": {
            "routes": [
                {
                    "match": f"Host(`{HOST}`) && PathPrefix(`/`)",
                    "services": [{"name": "kasm-proxy-default"}],
                }
            ],
            "tls": {"secretName": "kasm-tls"},
        },
    }
    found = broken(KASM, ingresses=[], ingressroutes=[route])
    assert line_of("way-in", found).observed == f"ingressroute kasm for {HOST}"
    assert not_passing(found) == []


@pytest.mark.parametrize(
    ("address", "verdict"), [("192.0.2.10", Severity.OK), ("", Severity.ERROR)]
)
def test_load_balancer_is_an_entry_point(address: str, verdict: Severity) -> None:
    proxy = next(
        service for service in KASM.objects["services"] if "proxy" in service["metadata"]["name"]
    )
    outside = {
        "metadata": {"name": "kasm-proxy", "namespace": "kasm"},
        "spec": {
            "type": "LoadBalancer",
            "selector": proxy["spec"]["selector"],
            "ports": [{"port": 443}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": address}] if address else []}},
    }
    found = broken(KASM, ingresses=[], services=[*KASM.objects["services"], outside])
    assert line_of("way-in", with_web(0, found)).severity is verdict


@pytest.mark.parametrize(
    "plural",
    [
        "deployments",
        "pods",
        "services",
        "endpointslices",
        "persistentvolumeclaims",
        "jobs",
        "ingresses",
    ],
)
def test_unreadable_kinds_are_unknown(plural: str) -> None:
    found = replace(KASM, unread=frozenset({plural}))
    assert DENIED.words in [
        line.message for line in validate(found) if line.severity is Severity.UNKNOWN
    ]


def test_volumes_are_unknown_without_the_pods_that_name_them() -> None:
    found = replace(KASM, unread=frozenset({"pods"}))
    assert line_of("volumes", found).severity is Severity.UNKNOWN
