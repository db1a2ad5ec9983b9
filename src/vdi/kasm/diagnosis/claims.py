"""Why a volume of Kasm is not there."""

from typing import Any

from vdi.findings.model import Remedy
from vdi.kasm.diagnosis.installation import Installation
from vdi.kasm.diagnosis.link import Link, link
from vdi.kasm.diagnosis.pods import KasmPod
from vdi.kube.resource import IS_DEFAULT_CLASS
from vdi.session.pulling import first_line

_PATIENCE = 60.0
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
    return link(
        "kasm_claim_class_missing",
        f"persistentvolumeclaim/{kasm.namespace}/{name}",
        (
            f"The claim {name} requests the StorageClass {class_name!r}, which does not exist; available: "
            f"{', '.join(there) or 'none'}."
        )
        if class_name
        else (
            f"The claim {name} sets no StorageClass, and the cluster has no default; available: "
            f"{', '.join(there) or 'none'}."
        ),
        evidence=[f"spec.storageClassName: {class_name or '(none)'}", "status.phase: Pending"],
        remedy=Remedy(
            f"{value}, delete what is listed below (the volume is empty), then run helm upgrade.",
            (f"kubectl --namespace {kasm.namespace} delete {to_delete}",),
        )
        if class_name
        else Remedy.run(f"kubectl annotate storageclass {there[0]} {IS_DEFAULT_CLASS}=true")
        if there
        else Remedy("Install a provisioner, and make its StorageClass the default."),
    )


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
        is_starting=age < _PATIENCE,
    )
