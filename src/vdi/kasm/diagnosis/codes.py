"""Codes of Kasm Workspaces, and the findings made of them: one link of a chain, and the one that it
follows from.

A code says why a pod is stuck in `Init:x/y`, down to what everything else waits for.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from vdi.findings.model import Finding, Remedy, Severity
from vdi.kasm.installation import Installation, KasmPod
from vdi.snapshot.check import Code, make_finding


def _code(code: str, means: str, proof: str, remedy: str, **more: Any) -> Code:
    return Code(layer="kasm", code=code, means=means, proof=proof, remedy=remedy, **more)


_NODES = ("node_not_ready", "node_under_pressure")

ROOTS = (
    _code(
        "kasm_circular_wait",
        "Pods of Kasm wait for each other in a cycle: none of them can ever start.",
        "The current init container of each pod, and the Services that they wait for.",
        "Remove one of the waits: upgrade to chart 1.1190.1 or newer, or correct"
        " extraInitContainers in the values.",
    ),
    _code(
        "kasm_claim_class_missing",
        "A claim of Kasm requests a StorageClass that does not exist, or none where the cluster"
        " has no default.",
        "spec.storageClassName of the claim, compared with the StorageClasses.",
        "Name an existing class in the values and delete the claim, which is still empty.",
    ),
    _code(
        "kasm_claim_missing",
        "A pod of Kasm mounts a claim that does not exist.",
        "The scheduler's message, and the claims.",
        "Run helm upgrade, which creates the chart's claims.",
    ),
    _code(
        "kasm_claim_pending",
        "The volume of a claim of Kasm is not created, or is lost.",
        "The claim's phase, and the provisioner's Events.",
        "Read the claim's Events and the provisioner's log.",
        follows=_NODES,
    ),
    _code(
        "kasm_pod_security",
        "Pod Security refuses a pod of Kasm, such as for init containers that run as root"
        " (data-perms).",
        "The API server's message about the refused pod.",
        "Give the namespace the level baseline, or turn off the hardening in the values.",
    ),
    _code(
        "kasm_pods_refused",
        "The API server refuses a pod of Kasm because of a quota, a limit, a webhook, or a missing"
        " account.",
        "Event FailedCreate.",
        "Raise the limit that the message names, or request less.",
    ),
    _code(
        "kasm_scaled_to_zero",
        "A component of Kasm is scaled to 0.",
        "spec.replicas of its Deployment or StatefulSet.",
        "Scale it up.",
    ),
    _code(
        "kasm_pods_missing",
        "A component of Kasm should have pods, but no controller creates them.",
        "spec.replicas, and the pods.",
        "Read the workload's Events; check whether the controller manager runs.",
    ),
    _code(
        "kasm_unschedulable",
        "No node can run a pod of Kasm: it requests more than is free, or labels that no node has.",
        "The scheduler's message; the requests of the pod, and what each node has left.",
        "Request less (components.*.resources), remove what you do not need, or add a node.",
        follows=_NODES,
    ),
    _code(
        "kasm_image_unavailable",
        "A node cannot pull an image of Kasm: of an init container, or of the pod itself.",
        "The container's reason, and the kubelet's Event.",
        "Correct registry, name, tag or pull secret in the values. Without internet access, mirror"
        " the image.",
        follows=_NODES,
    ),
    _code(
        "kasm_reference_missing",
        "A pod of Kasm needs a Secret, a ConfigMap or a key that does not exist.",
        "The container's reason, or Event FailedMount.",
        "Create it, or run helm upgrade if the chart creates it.",
    ),
    _code(
        "kasm_volume_not_mounted",
        "A volume cannot be mounted into a pod of Kasm.",
        "Event FailedMount or FailedAttachVolume.",
        "Read the pod's Events. On the node, check owner and mode of the folder.",
        follows=_NODES,
    ),
    _code(
        "kasm_network_broken",
        "The node cannot set up a pod of Kasm because of the network plugin or the container"
        " runtime.",
        "Event FailedCreatePodSandBox.",
        "Read the node's Events and its kubelet's log.",
        follows=_NODES,
    ),
    _code(
        "kasm_on_lost_node",
        "A pod of Kasm is on a node that does not respond or no longer exists.",
        "The pod's node, and that node's condition Ready.",
        "Bring the node back.",
        follows=_NODES,
    ),
    _code(
        "kasm_out_of_memory",
        "A container of Kasm used more memory than its limit.",
        "It ended as OOMKilled.",
        "Raise its memory limit in the values.",
    ),
    _code(
        "kasm_cannot_start",
        "The container runtime cannot start a container of Kasm.",
        "The container's reason.",
        "Correct the image or its command.",
    ),
    _code(
        "kasm_volume_not_writable",
        "A container of Kasm (usually the database's) cannot write to its volume: the folder"
        " belongs to root.",
        "The last line of its log: mkdir: Permission denied.",
        "On the node, make the folder of the volume writable. fsGroup has no effect on hostPath"
        " volumes.",
        follows=("local_path_mode_wrong", *_NODES),
    ),
    _code(
        "kasm_crashes",
        "A container of Kasm keeps crashing, or an init container ends with an error.",
        "Its exit code and the last line of its log.",
        "Read its log.",
    ),
    _code(
        "kasm_probe_fails",
        "A component of Kasm is running but does not pass its probe.",
        "Event Unhealthy.",
        "Read its log.",
    ),
    _code(
        "kasm_service_missing",
        "An init container waits for a name that no Service has: it loops forever, without an"
        " error.",
        "The host it waits for, compared with the Services of the namespace.",
        "Correct the name (a value, a zone, another release), or create the Service.",
    ),
    _code(
        "kasm_service_selects_nothing",
        "A Service of Kasm selects labels that no pod has.",
        "Its selector, compared with the labels of the workloads.",
        "Give the Service the labels of its workload; helm upgrade does so too.",
    ),
    _code(
        "kasm_service_port_wrong",
        "A Service of Kasm does not have the port that a pod waits for, or points to a port on"
        " which nothing listens.",
        "The Service's ports, compared with the port that a pod waits for and the ports of its own"
        " pods.",
        "Correct the port; helm upgrade does so too.",
    ),
    _code(
        "kasm_service_silent",
        "A Service of Kasm has ready pods, but a wait for it continues: a policy, DNS or a"
        " service mesh may block it.",
        "How long the wait has lasted, and the Service's endpoints.",
        "Send the request from inside the waiting pod.",
    ),
    _code(
        "kasm_outside_silent",
        "A pod of Kasm waits for a server outside the cluster (usually an external database).",
        "The host that it waits for is not a Service of the cluster.",
        "Check that the host is running, that its name is correct, and that no firewall blocks it.",
    ),
    _code(
        "kasm_db_init_failed",
        "The Job that creates the database's tables has given up.",
        "The Job's condition Failed.",
        "Fix what its message says, delete the Job, and run helm upgrade, which creates it again.",
    ),
    _code(
        "kasm_database_not_initialised",
        "The database responds, but API and manager cannot read the table zones: it has not"
        " been initialised, or its password differs from the Secret's.",
        "The pod still waits although the database is ready; the state of the db-init Job.",
        "Initialise an empty database. If the Secret is newer than its volume, restore the old"
        " password.",
    ),
    _code(
        "kasm_start_stalled",
        "A pod of Kasm has been starting for minutes without a reported reason.",
        "Its age, its state, and the absence of Events; how long the init container has run.",
        "Read the Events of the pod and the log of its init container.",
        follows=_NODES,
        severity=Severity.WARNING,
    ),
)

_ALL = (
    *ROOTS,
    _code(
        "kasm_pod_waiting",
        "A pod of Kasm is at an init container that waits for another pod.",
        "status.initContainerStatuses, and the init container's command line.",
        "Fix what it waits for. It then continues automatically.",
        follows=("dns_down", *(root.code for root in ROOTS)),
    ),
)
CODES = {one.code: one for one in _ALL}


@dataclass(frozen=True, slots=True)
class Link:
    """A finding with its cause."""

    finding: Finding
    cause: "Link | None" = None
    # Nothing is wrong yet: it starts, or waits for something that starts.
    is_starting: bool = False


class Explainer(Protocol):
    """Explains a pod; implemented by `chains.Walk`."""

    kasm: Installation

    def explain(self, pod: KasmPod) -> Link:
        """The link that explains this pod."""


def link(
    code: str,
    where: str,
    message: str,
    *,
    remedy: Remedy,
    evidence: Iterable[str] = (),
    related_objects: Iterable[str] = (),
    cause: Link | None = None,
    is_starting: bool = False,
    severity: Severity | None = None,
) -> Link:
    """A link of this code."""
    made = make_finding(
        CODES,
        code,
        where,
        message,
        remedy=remedy,
        evidence=evidence,
        related_objects=related_objects,
        severity=severity,
    )
    return Link(made, cause, is_starting)
