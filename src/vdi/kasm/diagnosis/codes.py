"""Codes of Kasm Workspaces: why a pod is stuck in `Init:x/y`, down to what everything else waits for."""

from functools import partial

from vdi.diagnosis.code import Code
from vdi.findings.model import Severity

_code = partial(Code, layer="kasm")

_NODES = ("node_not_ready", "node_under_pressure")

ROOTS = (
    _code(
        code="kasm_circular_wait",
        means="Pods of Kasm wait for each other in a circle: none of them can ever start. The"
        " gateways wait for the API through the proxy, so a proxy that waits for a gateway closes the circle.",
        proof="The init container that each pod is at, and the Services that they wait for.",
        remedy="Remove one of the waits: upgrade to chart 1.1190.1 or newer, or correct extraInitContainers in the"
        " values.",
    ),
    _code(
        code="kasm_claim_class_missing",
        means="A claim of Kasm (the database's, mostly) asks for a StorageClass that does not exist, or for none where"
        " the cluster has no default.",
        proof="spec.storageClassName of the claim, against the StorageClasses.",
        remedy="Name an existing class in the values and delete the claim, which is still empty.",
    ),
    _code(
        code="kasm_claim_missing",
        means="A pod of Kasm mounts a claim that is not there.",
        proof="The scheduler's words, and the claims.",
        remedy="Run helm upgrade, which creates the chart's claims.",
    ),
    _code(
        code="kasm_claim_pending",
        means="The volume of a claim of Kasm is not made, or is lost.",
        proof="The claim's phase, and the provisioner's Events.",
        remedy="Read the claim's Events and the provisioner's log.",
        follows=_NODES,
    ),
    _code(
        code="kasm_pod_security",
        means="Pod Security refuses a pod of Kasm. Init containers that change the owner of files (data-perms) run as"
        " root, which the level restricted does not allow.",
        proof="The words with which the API server refused the pod.",
        remedy="Give the namespace the level baseline, or turn the hardening off in the values.",
    ),
    _code(
        code="kasm_pods_refused",
        means="The API server does not take a pod of Kasm: a quota, a limit, a webhook, or an account that is missing.",
        proof="Event FailedCreate.",
        remedy="Raise the limit that the message names, or request less.",
    ),
    _code(
        code="kasm_scaled_to_zero",
        means="A part of Kasm is scaled to 0.",
        proof="spec.replicas of its Deployment or StatefulSet.",
        remedy="Scale it up.",
    ),
    _code(
        code="kasm_pods_missing",
        means="A part of Kasm should have pods, and no controller makes them.",
        proof="spec.replicas, and the pods.",
        remedy="Read the workload's Events; check whether the controller manager runs.",
    ),
    _code(
        code="kasm_unschedulable",
        means="No node takes a pod of Kasm: it asks for more than is free, or for labels that no node has. The charts"
        " ask for several CPUs in all.",
        proof="The scheduler's words; what the pod asks for, and what each node has left.",
        remedy="Request less (components.*.resources), remove what you do not need, or add a node.",
        follows=_NODES,
    ),
    _code(
        code="kasm_image_unavailable",
        means="A node cannot fetch an image of Kasm: of an init container, or of the pod itself.",
        proof="The container's reason, and the kubelet's Event.",
        remedy="Correct registry, name, tag or pull secret in the values; without internet, mirror the image.",
        follows=_NODES,
    ),
    _code(
        code="kasm_reference_missing",
        means="A pod of Kasm needs a Secret, a ConfigMap or a key that is not there. With a volume the pod shows as"
        " Init:0/y, though its first init container has never run.",
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
        means="The node cannot set up a pod of Kasm: network plugin or container runtime are at fault.",
        proof="Event FailedCreatePodSandBox.",
        remedy="Read the node's Events and its kubelet's log.",
        follows=_NODES,
    ),
    _code(
        code="kasm_on_lost_node",
        means="A pod of Kasm is on a node that does not answer, or is gone.",
        proof="The pod's node, and that node's condition Ready.",
        remedy="Bring the node back.",
        follows=_NODES,
    ),
    _code(
        code="kasm_out_of_memory",
        means="A container of Kasm used more memory than it may have.",
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
        means="A container of Kasm (the database's, mostly) may not write to its volume: the folder is root's.",
        proof="Its last words: mkdir: Permission denied.",
        remedy="On the node, make the folder of the volume writable. fsGroup has no effect on hostPath volumes.",
        follows=("local_path_mode_wrong", *_NODES),
    ),
    _code(
        code="kasm_crashes",
        means="A container of Kasm ends again and again, or an init container ends with an error.",
        proof="Its exit code and its last words.",
        remedy="Read its log.",
    ),
    _code(
        code="kasm_probe_fails",
        means="A part of Kasm runs and does not pass its probe, so its Service has no endpoint.",
        proof="Event Unhealthy.",
        remedy="Read its log.",
    ),
    _code(
        code="kasm_service_missing",
        means="An init container waits for a name that no Service has: it loops for ever, without an error.",
        proof="What it waits for, against the Services of the namespace.",
        remedy="Correct the name (a value, a zone, another release), or create the Service.",
    ),
    _code(
        code="kasm_service_selects_nothing",
        means="A Service of Kasm looks for labels that no pod has: whoever waits for it waits for ever.",
        proof="Its selector, against the labels of the workloads.",
        remedy="Give the Service the labels of its workload; helm upgrade does so too.",
    ),
    _code(
        code="kasm_service_port_wrong",
        means="A Service of Kasm does not have the port that is waited for, or leads to a port on which nothing"
        " listens.",
        proof="The Service's ports, against the wait and the ports of its pods.",
        remedy="Correct the port; helm upgrade does so too.",
    ),
    _code(
        code="kasm_service_silent",
        means="A Service of Kasm has ready pods, and yet a wait for it goes on: network policy, DNS inside of the pod,"
        " or a service mesh are in between.",
        proof="How long the wait has run, and the Service's endpoints.",
        remedy="Send the request from inside the waiting pod.",
    ),
    _code(
        code="kasm_outside_silent",
        means="A pod of Kasm waits for a server outside of the cluster (an external database, mostly).",
        proof="The host that it waits for is no Service of the cluster.",
        remedy="Check whether that host runs, whether its name is right, and the firewall between.",
    ),
    _code(
        code="kasm_db_init_failed",
        means="The Job that makes the database's tables has given up: API and manager wait for the tables for ever.",
        proof="The Job's condition Failed.",
        remedy="Fix what it says, delete the Job, and run helm upgrade, which creates it again.",
    ),
    _code(
        code="kasm_database_not_initialised",
        means="The database answers, and what API and manager look for in it (a row in the table zones) cannot be read:"
        " it has not been initialised, or its password is not the Secret's.",
        proof="The wait goes on although the database is ready; the db-init Job.",
        remedy="Initialise an empty database. If the Secret is newer than its volume, restore the old password.",
    ),
    _code(
        code="kasm_start_stalled",
        severity=Severity.WARNING,
        means="A pod of Kasm has been starting for minutes without a reason; or for ten minutes it has been at an"
        " init container that does not say whom it waits for.",
        proof="Its age, its state, and that there is no Event; how long the init container has run.",
        remedy="Read the Events of the pod and the log of its init container.",
        follows=_NODES,
    ),
)

_ALL = (
    *ROOTS,
    _code(
        code="kasm_pod_waiting",
        means="A pod of Kasm is at an init container that waits for another pod. The same Init:1/5 is another"
        " container"
        " in another chart: go by its name.",
        proof="status.initContainerStatuses, and the init container's command line.",
        remedy="Fix what it waits for: it goes on by itself.",
        follows=("dns_down", *(root.code for root in ROOTS)),
    ),
)
CODES = {one.code: one for one in _ALL}
