"""Why a part of Kasm has no pods, or a volume is not there: scaled to 0, refused, never made, not provisioned. Pure."""

import re
from typing import Any

from vdi.findings.model import Remedy, Severity
from vdi.kasm.diagnosis.codes import Link, link
from vdi.kasm.diagnosis.installation import Installation, KasmPod, Workload
from vdi.kube.resource import IS_DEFAULT_CLASS
from vdi.session.pulling import first_line

_POD_PATIENCE = 20.0
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
        is_starting=age < _POD_PATIENCE,
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


_CLAIM_PATIENCE = 60.0
"""Seconds in which a provisioner makes a volume."""


def explain_claim(kasm: Installation, name: str, pod: KasmPod) -> Link:
    """Why this claim is not bound."""
    where = f"persistentvolumeclaim/{kasm.namespace}/{name}"
    describe = f"kubectl --namespace {kasm.namespace} describe pvc {name}"
    claim = kasm.snapshot.find("persistentvolumeclaims", name, kasm.namespace)
    if claim is None:
        return link(
            "kasm_claim_missing",
            where,
            f"{pod.name} mounts the claim {name}, which does not exist.",
            evidence=[f"pod/{pod.name}: spec.volumes names {name}"],
            remedy=Remedy(f"Create it, or run helm upgrade of the release {kasm.release}, which does."),
        )
    phase = (claim.get("status") or {}).get("phase", "Pending")
    if phase == "Lost":
        return link(
            "kasm_claim_pending",
            where,
            f"The claim {name} is Lost: its volume {claim['spec'].get('volumeName', '')} no longer exists, and its "
            "data is lost.",
            evidence=["status.phase: Lost"],
            remedy=Remedy("Restore the volume from a backup.", (describe,)),
        )
    classes = {
        storage_class["metadata"]["name"]: storage_class for storage_class in kasm.snapshot.raw("storageclasses")
    }
    class_name = claim["spec"].get("storageClassName")
    known = "storageclasses" not in kasm.snapshot.unreadable_kinds
    if known and class_name not in classes and not claim["spec"].get("volumeName"):
        return _class_missing(kasm, pod, name, class_name, sorted(classes))
    return _unprovisioned(kasm, claim, classes.get(class_name or "", {}), phase)


def _class_missing(kasm: Installation, pod: KasmPod, name: str, class_name: str | None, there: list[str]) -> Link:
    # A StatefulSet's claims cannot be changed: it is deleted with them.
    sets = (workload for workload in kasm.workloads if workload.kind == "statefulset" and workload.selector)
    owners = (f"statefulset/{one.name} " for one in sets if one.selector.items() <= pod.labels.items())
    to_delete = f"{next(owners, '')}persistentvolumeclaim/{name}"
    path = kasm.generation.paths.get("storage_class", "") if kasm.generation else ""
    value = f"Set {path} in the values" if path else "Correct its storageClassName"
    available = f"available: {', '.join(there) or 'none'}."
    if class_name:
        message = f"The claim {name} requests the StorageClass {class_name!r}, which does not exist; {available}"
        how = f"{value}, delete what is listed below (the volume is empty), then run helm upgrade."
        remedy = Remedy(how, (f"kubectl --namespace {kasm.namespace} delete {to_delete}",))
    else:
        message = f"The claim {name} sets no StorageClass, and the cluster has no default; {available}"
        remedy = Remedy("Install a provisioner, and make its StorageClass the default.")
        if there:
            remedy = Remedy.run(f"kubectl annotate storageclass {there[0]} {IS_DEFAULT_CLASS}=true")
    evidence = [f"spec.storageClassName: {class_name or '(none)'}", "status.phase: Pending"]
    where = f"persistentvolumeclaim/{kasm.namespace}/{name}"
    return link("kasm_claim_class_missing", where, message, evidence=evidence, remedy=remedy)


def _unprovisioned(kasm: Installation, claim: Any, made_by: Any, phase: str) -> Link:
    name, snapshot = claim["metadata"]["name"], kasm.snapshot
    where = f"persistentvolumeclaim/{kasm.namespace}/{name}"
    events = snapshot.events.get(("PersistentVolumeClaim", kasm.namespace, name), [])
    failed = [event for event in events if event.reason == "ProvisioningFailed"]
    chosen = (claim["metadata"].get("annotations") or {}).get("volume.kubernetes.io/selected-node", "")
    age = snapshot.age(claim["metadata"].get("creationTimestamp"))
    provisioner = made_by.get("provisioner", "the provisioner")
    describe = f"kubectl --namespace {kasm.namespace} describe pvc {name}"
    if failed:
        return link(
            "kasm_claim_pending",
            where,
            f"The provisioner {provisioner} cannot create the volume of {name}: {first_line(failed[-1].note)}",
            evidence=[f"ProvisioningFailed: {failed[-1].note}"],
            remedy=Remedy.run(describe),
            related_objects=[f"node/{chosen}"],
        )
    return link(
        "kasm_claim_pending",
        where,
        f"The claim {name} has waited {int(age)} s for {provisioner}, which reports nothing.",
        evidence=[f"status.phase: {phase}, no Event ProvisioningFailed", f"selected node: {chosen or 'none yet'}"],
        remedy=Remedy(f"Check whether {provisioner} is running.", ("kubectl get pods --all-namespaces", describe)),
        related_objects=[f"node/{chosen}"],
        is_starting=age < _CLAIM_PATIENCE,
    )
