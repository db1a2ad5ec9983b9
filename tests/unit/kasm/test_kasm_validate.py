"""The checklist of an installed Kasm: whole in each generation, and each line good and bad."""

from typing import Any

import msgspec
import pytest

from unit.kasm.preflight_site import DENIED
from unit.kasm.validate_site import HOST, a_kasm, an_ingress, broken, dropped, edited, line_of, not_passing
from vdi.findings.model import Severity
from vdi.kasm.preflight.facts import Answer
from vdi.kasm.validate import Release, state_of, validate

LETTERS = ["A", "B", "C"]


@pytest.mark.parametrize("letter", LETTERS)
def test_a_whole_kasm_passes_every_line(letter: str) -> None:
    lines = validate(a_kasm(letter))
    assert [line for line in lines if line.severity is not Severity.OK] == []
    checks = [line.code for line in lines]
    assert {"release", "part proxy", "part db", "pods", "services", "volumes", "db-init", "web-ui"} <= set(checks)
    assert ("part redis" in checks) == (letter == "A")


def test_no_kasm_is_one_line() -> None:
    lines = validate(broken(a_kasm(), deployments=[], statefulsets=[]))
    assert [(line.code, line.severity) for line in lines] == [("release", Severity.ERROR)]


def test_the_release() -> None:
    good = a_kasm()
    stuck = msgspec.structs.replace(
        good, releases=(Release("kasm", 1, "deployed"), Release("kasm", 2, "pending-upgrade"))
    )
    line = line_of("release", stuck)
    assert line.severity is Severity.ERROR
    assert "revision 2 pending-upgrade" in line.observed
    assert "helm rollback kasm" in line.remedy.text
    assert line_of("release", msgspec.structs.replace(good, releases=())).severity is Severity.WARNING
    unread = msgspec.structs.replace(good, unread={"secrets": DENIED})
    assert line_of("release", unread).severity is Severity.UNKNOWN


@pytest.mark.parametrize("letter", LETTERS)
@pytest.mark.parametrize("part", ["proxy", "api", "manager"])
def test_a_workload_that_was_deleted(letter: str, part: str) -> None:
    found = dropped(a_kasm(letter), "deployments", f"-{part}" if letter != "A" else f"kasm-{part}")
    assert line_of(f"part {part}", found).severity is Severity.ERROR


def test_a_part_that_is_switched_off_has_no_line() -> None:
    found = dropped(dropped(a_kasm(), "statefulsets", "guac"), "services", "guac")
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
    found = edited(a_kasm(), "deployments", "api", status=status)
    assert line_of("part api", found).observed == "kasm-api-default 0 of 1 ready"
    assert line_of("part api", found).severity is Severity.ERROR


def step(name: str, **state: Any) -> dict[str, Any]:
    return {"name": name, "state": state}


def test_pod_in_init_is_named_with_its_waiting_step() -> None:
    done = {"terminated": {"exitCode": 0, "reason": "Completed"}}
    waiting = {"waiting": {"reason": "PodInitializing"}}
    steps = [step("api-is-ready", **done), step("kasm-manager-is-ready", running={}), step("guac-is-ready", **waiting)]
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
        ({"containerStatuses": [step("a", waiting={"reason": "CrashLoopBackOff"})]}, "CrashLoopBackOff"),
        ({"containerStatuses": [step("a", running={})], "phase": "Running"}, "Running, not ready"),
        ({"phase": "Pending"}, "Pending"),
        ({}, "Unknown"),
    ],
)
def test_the_state_of_a_pod(status: dict[str, Any], words: str) -> None:
    assert state_of({"metadata": {}, "status": status}) == words


def test_pods_of_jobs_and_of_others() -> None:
    good = a_kasm()
    labels = {"app.kubernetes.io/component": "db-init"}
    owner = [{"kind": "Job", "name": "kasm-db-init"}]
    tries = [
        {
            "metadata": {"name": f"kasm-db-init-{phase}", "labels": labels, "ownerReferences": owner},
            "status": {"phase": phase},
        }
        for phase in ("Failed", "Running", "Succeeded")
    ]
    strange = {"metadata": {"name": "other", "labels": {}}, "status": {"phase": "Pending"}}
    assert not_passing(broken(good, pods=[*good.all("pods"), *tries, strange])) == []


def test_services() -> None:
    good = a_kasm()
    slices = [
        {**endpoint_slice, "endpoints": []} if "manager" in endpoint_slice["metadata"]["name"] else endpoint_slice
        for endpoint_slice in good.all("endpointslices")
    ]
    silent = broken(good, endpointslices=slices)
    line = line_of("services", silent)
    assert line.severity is Severity.ERROR
    assert "without endpoints: kasm-manager-default" in line.observed
    gone = line_of("services", dropped(good, "services", "api"))
    assert "missing: kasm-api-default" in gone.observed


def test_volumes() -> None:
    good = a_kasm("B")
    pending = edited(good, "persistentvolumeclaims", "db", status={"phase": "Pending"})
    line = line_of("volumes", pending)
    assert line.severity is Severity.ERROR
    assert "data-kasm-db-statefulset-0 Pending" in line.observed
    assert "describe persistentvolumeclaim data-kasm-db-statefulset-0" in line.remedy.text
    assert line_of("volumes", broken(good, persistentvolumeclaims=[])).severity is Severity.ERROR
    external = dropped(dropped(broken(good, persistentvolumeclaims=[]), "statefulsets", "db"), "services", "db")
    assert line_of("volumes", dropped(external, "pods", "db")).severity is Severity.OK


def a_job(**conditions: str) -> list[dict[str, Any]]:
    found = [{"type": name, "status": status, "message": "no more tries"} for name, status in conditions.items()]
    return [{"metadata": {"name": "kasm-db-init"}, "status": {"conditions": found}}]


def test_the_job_that_fills_the_database() -> None:
    good = a_kasm()
    assert line_of("db-init", broken(good, jobs=a_job(Complete="True"))).severity is Severity.OK
    assert line_of("db-init", broken(good, jobs=a_job())).severity is Severity.WARNING
    failed = line_of("db-init", broken(good, jobs=a_job(Failed="True")))
    assert failed.severity is Severity.ERROR
    assert "no more tries" in failed.message
    gone = line_of("db-init", good)
    assert gone.severity is Severity.OK
    assert gone.observed.startswith("deleted; the API is running")
    idle = edited(good, "deployments", "api", status={"readyReplicas": 0})
    assert line_of("db-init", idle).severity is Severity.UNKNOWN


# The way in


def test_an_ingress_to_the_wrong_part() -> None:
    found = broken(a_kasm(), ingresses=[an_ingress("kasm-manager-default")])
    line = line_of("way-in", found)
    assert line.severity is Severity.ERROR
    assert line.observed == "ingress kasm-ingress points to kasm-manager-default (manager)"


def test_an_ingress_without_a_controller() -> None:
    found = broken(a_kasm(), ingresses=[an_ingress("kasm-proxy-default", address="")])
    silent = msgspec.structs.replace(found, web=Answer("https://x", 0))
    assert line_of("way-in", silent).severity is Severity.WARNING
    assert line_of("way-in", found).severity is Severity.OK  # it answers, so somebody has


def test_ingressroute_is_an_entry_point() -> None:
    route = {
        "metadata": {"name": "kasm"},
        "spec": {
            "routes": [{"match": f"Host(`{HOST}`) && PathPrefix(`/`)", "services": [{"name": "kasm-proxy-default"}]}],
            "tls": {"secretName": "kasm-tls"},
        },
    }
    found = broken(a_kasm(), ingresses=[], ingressroutes=[route])
    assert line_of("way-in", found).observed == f"ingressroute kasm for {HOST}"
    assert not_passing(found) == []


@pytest.mark.parametrize(("address", "verdict"), [("192.0.2.10", Severity.OK), ("", Severity.ERROR)])
def test_load_balancer_is_an_entry_point(address: str, verdict: Severity) -> None:
    good = msgspec.structs.replace(a_kasm(), web=Answer("https://x", 0))
    proxy = next(service for service in good.all("services") if "proxy" in service["metadata"]["name"])
    given = {"ingress": [{"ip": address}] if address else []}
    outside = {
        "metadata": {"name": "kasm-proxy", "namespace": "kasm"},
        "spec": {"type": "LoadBalancer", "selector": proxy["spec"]["selector"], "ports": [{"port": 443}]},
        "status": {"loadBalancer": given},
    }
    found = broken(good, ingresses=[], services=[*good.all("services"), outside])
    assert line_of("way-in", found).severity is verdict


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "The name does not resolve to this cluster"),
        (404, f"has no route for {HOST}"),
        (502, "nothing behind it responds"),
        (500, "not the response of a healthy Kasm"),
    ],
)
def test_a_web_ui_that_does_not_answer(status: int, words: str) -> None:
    web = Answer("https://x", status, problem="refused")
    line = line_of("web-ui", msgspec.structs.replace(a_kasm(), web=web))
    assert line.severity is Severity.ERROR
    assert words in line.message


def test_a_web_ui_without_a_name_is_unknown() -> None:
    line = line_of("web-ui", msgspec.structs.replace(a_kasm(), web=None))
    assert line.severity is Severity.UNKNOWN
    assert "--hostname" in line.remedy.text


def test_a_web_ui_whose_certificate_is_not_trusted_is_a_warning() -> None:
    found = msgspec.structs.replace(a_kasm(), web=Answer("https://x", 200, trusted=False))
    assert "does not trust" in line_of("web-ui", found).observed
    assert line_of("web-ui", found).severity is Severity.WARNING
    assert "create secret tls kasm-tls" in line_of("web-ui", found).remedy.text


@pytest.mark.parametrize(
    "plural", ["deployments", "pods", "services", "endpointslices", "persistentvolumeclaims", "jobs", "ingresses"]
)
def test_unreadable_kinds_are_unknown(plural: str) -> None:
    good = a_kasm()
    kept = {name: found for name, found in good.objects.items() if name != plural}
    found = msgspec.structs.replace(good, objects=kept, unread={plural: DENIED})
    assert DENIED.words in [line.message for line in validate(found) if line.severity is Severity.UNKNOWN]
