"""Codes of Kasm Workspaces: why a pod is stuck in `Init:x/y`, down to what everything else waits for."""

from functools import partial

from vdi.diagnosis.code import Code
from vdi.findings.model import Severity

_code = partial(Code, layer="kasm")

_NODES = ("node_not_ready", "node_under_pressure")

ROOTS = (
    _code(
        code="kasm_circular_wait",
        means=(
            "Pods of Kasm wait for each other in a cycle: none of them can ever start. The gateways wait for the "
            "API through the proxy, so a proxy that waits for a gateway closes the cycle."
        ),
        proof="The current init container of each pod, and the Services that they wait for.",
        remedy="Remove one of the waits: upgrade to chart 1.1190.1 or newer, or correct extraInitContainers in the"
        " values.",
    ),
    _code(
        code="kasm_claim_class_missing",
        means=(
            "A claim of Kasm (usually the database's) requests a StorageClass that does not exist, or none where "
            "the cluster has no default."
        ),
        proof="spec.storageClassName of the claim, compared with the StorageClasses.",
        remedy="Name an existing class in the values and delete the claim, which is still empty.",
    ),
    _code(
        code="kasm_claim_missing",
        means="A pod of Kasm mounts a claim that does not exist.",
        proof="The scheduler's message, and the claims.",
        remedy="Run helm upgrade, which creates the chart's claims.",
    ),
    _code(
        code="kasm_claim_pending",
        means="The volume of a claim of Kasm is not created, or is lost.",
        proof="The claim's phase, and the provisioner's Events.",
        remedy="Read the claim's Events and the provisioner's log.",
        follows=_NODES,
    ),
    _code(
        code="kasm_pod_security",
        means=(
            "Pod Security refuses a pod of Kasm. Init containers that change the owner of files (data-perms) run "
            "as root, which the level restricted does not allow."
        ),
        proof="The API server's message about the refused pod.",
        remedy="Give the namespace the level baseline, or turn off the hardening in the values.",
    ),
    _code(
        code="kasm_pods_refused",
        means="The API server refuses a pod of Kasm because of a quota, a limit, a webhook, or a missing account.",
        proof="Event FailedCreate.",
        remedy="Raise the limit that the message names, or request less.",
    ),
    _code(
        code="kasm_scaled_to_zero",
        means="A component of Kasm is scaled to 0.",
        proof="spec.replicas of its Deployment or StatefulSet.",
        remedy="Scale it up.",
    ),
    _code(
        code="kasm_pods_missing",
        means="A component of Kasm should have pods, but no controller creates them.",
        proof="spec.replicas, and the pods.",
        remedy="Read the workload's Events; check whether the controller manager runs.",
    ),
    _code(
        code="kasm_unschedulable",
        means=(
            "No node can run a pod of Kasm: it requests more than is free, or labels that no node has. The charts "
            "request several CPUs in total."
        ),
        proof="The scheduler's message; the requests of the pod, and what each node has left.",
        remedy="Request less (components.*.resources), remove what you do not need, or add a node.",
        follows=_NODES,
    ),
    _code(
        code="kasm_image_unavailable",
        means="A node cannot pull an image of Kasm: of an init container, or of the pod itself.",
        proof="The container's reason, and the kubelet's Event.",
        remedy="Correct registry, name, tag or pull secret in the values. Without internet access, mirror the image.",
        follows=_NODES,
    ),
    _code(
        code="kasm_reference_missing",
        means=(
            "A pod of Kasm needs a Secret, a ConfigMap or a key that does not exist. With a volume the pod shows "
            "Init:0/y, although its first init container has never run."
        ),
        proof="The container's reason, or Event FailedMount.",
        remedy="Create it, or run helm upgrade if the chart creates it.",
    ),
    _code(
        code="kasm_volume_not_mounted",
        means="A volume cannot be mounted into a pod of Kasm.",
        proof="Event FailedMount or FailedAttachVolume.",
        remedy="Read the pod's Events. On the node, check owner and mode of the folder.",
        follows=_NODES,
    ),
    _code(
        code="kasm_network_broken",
        means="The node cannot set up a pod of Kasm because of the network plugin or the container runtime.",
        proof="Event FailedCreatePodSandBox.",
        remedy="Read the node's Events and its kubelet's log.",
        follows=_NODES,
    ),
    _code(
        code="kasm_on_lost_node",
        means="A pod of Kasm is on a node that does not respond or no longer exists.",
        proof="The pod's node, and that node's condition Ready.",
        remedy="Bring the node back.",
        follows=_NODES,
    ),
    _code(
        code="kasm_out_of_memory",
        means="A container of Kasm used more memory than its limit.",
        proof="It ended as OOMKilled.",
        remedy="Raise its memory limit in the values.",
    ),
    _code(
        code="kasm_cannot_start",
        means="The container runtime cannot start a container of Kasm.",
        proof="The container's reason.",
        remedy="Correct the image or its command.",
    ),
    _code(
        code="kasm_volume_not_writable",
        means="A container of Kasm (usually the database's) cannot write to its volume: the folder belongs to root.",
        proof="The last line of its log: mkdir: Permission denied.",
        remedy="On the node, make the folder of the volume writable. fsGroup has no effect on hostPath volumes.",
        follows=("local_path_mode_wrong", *_NODES),
    ),
    _code(
        code="kasm_crashes",
        means="A container of Kasm keeps crashing, or an init container ends with an error.",
        proof="Its exit code and the last line of its log.",
        remedy="Read its log.",
    ),
    _code(
        code="kasm_probe_fails",
        means="A component of Kasm is running but does not pass its probe, so its Service has no endpoint.",
        proof="Event Unhealthy.",
        remedy="Read its log.",
    ),
    _code(
        code="kasm_service_missing",
        means="An init container waits for a name that no Service has: it loops forever, without an error.",
        proof="The host it waits for, compared with the Services of the namespace.",
        remedy="Correct the name (a value, a zone, another release), or create the Service.",
    ),
    _code(
        code="kasm_service_selects_nothing",
        means="A Service of Kasm selects labels that no pod has, so pods that wait for it wait forever.",
        proof="Its selector, compared with the labels of the workloads.",
        remedy="Give the Service the labels of its workload; helm upgrade does so too.",
    ),
    _code(
        code="kasm_service_port_wrong",
        means=(
            "A Service of Kasm does not have the port that a pod waits for, or points to a port on which nothing "
            "listens."
        ),
        proof="The Service's ports, compared with the port that a pod waits for and the ports of its own pods.",
        remedy="Correct the port; helm upgrade does so too.",
    ),
    _code(
        code="kasm_service_silent",
        means=(
            "A Service of Kasm has ready pods, but a wait for it continues: a network policy, DNS in the pod, or a "
            "service mesh may block it."
        ),
        proof="How long the wait has lasted, and the Service's endpoints.",
        remedy="Send the request from inside the waiting pod.",
    ),
    _code(
        code="kasm_outside_silent",
        means="A pod of Kasm waits for a server outside the cluster (usually an external database).",
        proof="The host that it waits for is not a Service of the cluster.",
        remedy="Check that the host is running, that its name is correct, and that no firewall blocks it.",
    ),
    _code(
        code="kasm_db_init_failed",
        means="The Job that creates the database's tables has given up: API and manager wait for the tables forever.",
        proof="The Job's condition Failed.",
        remedy="Fix what its message says, delete the Job, and run helm upgrade, which creates it again.",
    ),
    _code(
        code="kasm_database_not_initialised",
        means=(
            "The database responds, but API and manager cannot read what they wait for (a row in the table zones): "
            "it has not been initialised, or its password differs from the Secret's."
        ),
        proof="The pod still waits although the database is ready; the state of the db-init Job.",
        remedy="Initialise an empty database. If the Secret is newer than its volume, restore the old password.",
    ),
    _code(
        code="kasm_start_stalled",
        severity=Severity.WARNING,
        means=(
            "A pod of Kasm has been starting for minutes without a reported reason, or has spent ten "
            "minutes in an init container whose command line does not name a host."
        ),
        proof="Its age, its state, and the absence of Events; how long the init container has run.",
        remedy="Read the Events of the pod and the log of its init container.",
        follows=_NODES,
    ),
)

_ALL = (
    *ROOTS,
    _code(
        code="kasm_pod_waiting",
        means=(
            "A pod of Kasm is at an init container that waits for another pod. Init:1/5 is a "
            "different container in each chart, so use the container's name."
        ),
        proof="status.initContainerStatuses, and the init container's command line.",
        remedy="Fix what it waits for. It then continues automatically.",
        follows=("dns_down", *(root.code for root in ROOTS)),
    ),
)
CODES = {one.code: one for one in _ALL}
