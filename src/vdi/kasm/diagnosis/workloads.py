"""Why a part of Kasm has no pods: scaled to 0, refused by the API server, or never made. And its first Job."""

import re

from vdi.findings.model import Remedy, Severity
from vdi.kasm.diagnosis.installation import Installation, Workload
from vdi.kasm.diagnosis.link import Link, link
from vdi.session.pulling import first_line

_PATIENCE = 20.0
"""Seconds in which a controller makes its pods."""


def explain_workload(kasm: Installation, workload: Workload, *, awaited: bool) -> Link | None:
    """Why it has no pods; None: it has some."""
    if kasm.pods_selected_by(workload.selector):
        return None
    if workload.desired == 0:
        return link(
            "kasm_scaled_to_zero",
            workload.object,
            f"{workload.name} is scaled to 0: it runs no pod.",
            evidence=["spec.replicas: 0"],
            remedy=Remedy.run(
                f"kubectl --namespace {kasm.namespace} scale {workload.kind} {workload.name} --replicas 1"
            ),
            severity=Severity.ERROR if awaited else Severity.WARNING,
        )
    if refusal := _refusal(kasm, workload):
        return _refused(kasm, workload.object, workload.name, refusal)
    age = kasm.snapshot.age(workload.raw["metadata"].get("creationTimestamp"))
    return link(
        "kasm_pods_missing",
        workload.object,
        f"{workload.name} should have {workload.desired} pods, but has had none for {int(age)} s, and no Event gives "
        "a reason.",
        evidence=[f"spec.replicas: {workload.desired}, pods: 0"],
        remedy=Remedy.run(f"kubectl --namespace {kasm.namespace} describe {workload.kind} {workload.name}"),
        is_starting=age < _PATIENCE,
    )


def _refusal(kasm: Installation, workload: Workload) -> str:
    """With which words its pods were refused; empty: they were not."""
    for condition in (workload.raw.get("status") or {}).get("conditions") or ():
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return str(condition.get("message", ""))
    for (kind, namespace, name), events in kasm.snapshot.events.items():
        owns = name == workload.name or (kind == "ReplicaSet" and name.startswith(f"{workload.name}-"))
        refused = [event.note for event in events if event.reason == "FailedCreate"]
        if namespace == kasm.namespace and owns and refused:
            return refused[-1]
    return ""


def _refused(kasm: Installation, where: str, name: str, words: str) -> Link:
    if violation := re.search(r'violates PodSecurity "([^":]+)[^"]*": (.*)', words, re.DOTALL):
        containers = re.findall(r'container "([^"]+)"', violation[2])
        named = f" (container {', '.join(dict.fromkeys(containers))})" if containers else ""
        path = kasm.generation.paths.get("hardening", "") if kasm.generation else ""
        return link(
            "kasm_pod_security",
            where,
            f"Pod Security {violation[1]!r} of the namespace {kasm.namespace} refuses the pods of {name}{named}:"
            f" {first_line(violation[2])}",
            evidence=[words],
            remedy=Remedy(
                f"Relax Pod Security of the namespace, or set {path}: false in the values." if path else "",
                (f"kubectl label namespace {kasm.namespace} --overwrite pod-security.kubernetes.io/enforce=baseline",),
            ),
            related_objects=[f"namespace/{kasm.namespace}"],
        )
    reason = re.sub(r'^.*?pods? "[^"]*" is forbidden: ', "", words)
    return link(
        "kasm_pods_refused",
        where,
        f"The API server refuses the pods of {name}: {first_line(reason)}",
        evidence=[f"FailedCreate: {words}"],
        remedy=Remedy(
            "Correct what the message names.",
            (f"kubectl --namespace {kasm.namespace} get resourcequota,limitrange,serviceaccount",),
        ),
    )


def first_job(kasm: Installation) -> dict[str, object] | None:
    """The Job that makes the database's tables, if it is there: the newest, should there be several."""
    found = [job for job in kasm.jobs if "db-init" in job["metadata"]["name"]]
    return max(found, key=lambda one: one["metadata"].get("creationTimestamp", ""), default=None)


def job_refusal(kasm: Installation, name: str) -> Link | None:
    """Why the Job has no pod, where the API server refuses it."""
    for event in kasm.snapshot.events.get(("Job", kasm.namespace, name), ()):
        if event.reason == "FailedCreate":
            return _refused(kasm, f"job/{kasm.namespace}/{name}", name, event.note)
    return None
