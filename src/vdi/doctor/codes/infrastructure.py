"""Codes of the infrastructure: nodes, GPUs, images, volumes, DNS, network policies, clocks."""

from functools import partial

from vdi.findings.model import Severity
from vdi.snapshot.check import Code
from vdi.snapshot.dns import DNS_DOWN

_code = partial(Code, layer="infrastructure")
_warning = partial(_code, severity=Severity.WARNING)
_VERIFY = "`vdi gpu verify`."

# Reasons why a desktop ends repeatedly, or does not respond.
CRASH_CAUSES = (
    "library_missing",
    "home_full",
    "home_not_writable",
    "desktop_port_wrong",
    "cpu_limit_low",
    "selkies_setting_invalid",
    "selkies_error",
    "shm_too_small",
)


def _gpu(
    code: str,
    means: str,
    remedy: str,
    *,
    severity: Severity = Severity.ERROR,
    follows: tuple[str, ...] = (),
) -> Code:
    # A cluster has one configuration of its GPUs: a fault of it explains every finding that lacks
    # GPUs.
    return _code(
        code, means, _VERIFY, remedy, severity=severity, follows=follows, cluster_wide=True
    )


_GPUS = (
    _gpu(
        "gpu_nodes_missing",
        "Desktops request GPUs, but no node has a GPU that Kubernetes knows of.",
        "Install driver, container toolkit and device plugin, or use a template with defaultGPU 0.",
    ),
    _gpu(
        "gpu_device_plugin_missing",
        "No device plugin reports GPUs to the kubelets.",
        "Install the GPU Operator or NVIDIA's device plugin.",
        follows=("gpu_nodes_missing",),
    ),
    _gpu(
        "gpu_sharing_not_configured",
        "The device plugin is not configured to share GPUs, and desktops wait for them, or a"
        " ConfigMap for time-slicing is not used.",
        "Configure how GPUs are shared.",
        follows=("gpu_nodes_missing", "gpu_device_plugin_missing"),
    ),
    _gpu(
        "gpu_config_map_missing",
        "The ClusterPolicy or the device plugin names a ConfigMap that does not exist.",
        "Configure the sharing again: this creates the ConfigMap.",
    ),
    _gpu(
        "gpu_config_invalid",
        "The device plugin cannot read a configuration in the ConfigMap.",
        "Correct that key, or let vdi write the configuration.",
    ),
    _gpu(
        "gpu_default_key_missing",
        "The default is not a key of the ConfigMap: the device plugin does not start.",
        "Configure the sharing again: this sets an existing key.",
    ),
    _gpu(
        "gpu_default_key_unset",
        "The ConfigMap is set without a default key, so no node uses it.",
        "Configure the sharing again: this sets the key.",
    ),
    _gpu(
        "gpu_policy_not_taken_up",
        "The GPU Operator has not applied the ClusterPolicy to the device plugin.",
        "Read the GPU Operator's log.",
    ),
    _gpu(
        "gpu_config_not_read",
        "The device plugin's pods are older than the last change of the ConfigMap.",
        "Restart the device plugin: running desktops keep their GPUs.",
        follows=("gpu_config_invalid", "gpu_config_map_missing", "gpu_default_key_missing"),
    ),
    _gpu(
        "gpu_device_plugin_not_ready",
        "Pods of the device plugin are not ready.",
        "Read what the device plugin is missing: often the driver or the toolkit on the node.",
        follows=(
            "gpu_config_map_missing",
            "gpu_config_invalid",
            "gpu_default_key_missing",
            "node_not_ready",
        ),
    ),
    _gpu(
        "gpu_config_reader_not_ready",
        "GPU Feature Discovery is not ready, so node labels are outdated.",
        "Read what GPU Feature Discovery is missing.",
        follows=("gpu_config_map_missing", "gpu_config_invalid", "gpu_default_key_missing"),
    ),
    _gpu(
        "gpu_node_config_unknown",
        "A node's label names a configuration that the ConfigMap does not have.",
        "Remove the label from the node, or add that configuration.",
    ),
    _gpu(
        "gpu_mig_mismatch",
        "MIG on the node and in its configuration differ.",
        "Configure the sharing again with the MIG strategy of the node.",
    ),
    _gpu(
        "gpu_capacity_wrong",
        "A node advertises another number of GPUs than its GPUs times the replicas.",
        "Restart the device plugin, then check the node again.",
        follows=(
            *(
                "gpu_config_not_read",
                "gpu_policy_not_taken_up",
                "gpu_default_key_missing",
                "gpu_default_key_unset",
            ),
            *("gpu_device_plugin_not_ready", "gpu_config_invalid"),
        ),
    ),
    _gpu(
        "gpu_count_unknown",
        "The number of GPUs of a node is unknown.",
        "Run GPU Feature Discovery: it labels nodes with their number of GPUs.",
        severity=Severity.UNKNOWN,
    ),
    _gpu(
        "gpu_unhealthy",
        "The device plugin considers a GPU unhealthy.",
        "Look for Xid errors of the driver on the node.",
    ),
    _gpu(
        "gpu_resource_twice",
        "A node advertises GPUs under two names.",
        "Restart the device plugin, or the kubelet of the node.",
        follows=("gpu_config_not_read",),
    ),
    _gpu(
        "gpu_labels_stale",
        "GPU Feature Discovery's labels contradict the numbers.",
        "Wait a minute, then restart GPU Feature Discovery.",
        follows=("gpu_config_not_read", "gpu_config_reader_not_ready", "gpu_capacity_wrong"),
    ),
    _gpu(
        "gpu_runtime_class_missing",
        "The RuntimeClass nvidia does not exist. K3s creates it when it finds the toolkit at its"
        " start.",
        "Install nvidia-container-toolkit on the node and restart K3s.",
        severity=Severity.WARNING,
    ),
    _gpu(
        "gpu_toolkit_paths_not_k3s",
        "The GPU Operator's toolkit configures a containerd that runs no pods of this cluster.",
        "Set the paths of K3s in toolkit.env of the ClusterPolicy.",
        severity=Severity.WARNING,
    ),
)

# Reasons why there are fewer GPUs than configured.
GPU_SHARED_WRONG = tuple(code.code for code in _GPUS if code.severity is Severity.ERROR)

INFRASTRUCTURE = (
    _code(
        "node_not_ready",
        "A node does not respond. Its desktops cannot be reached; those with a home on it do not"
        " start elsewhere.",
        "The node's condition Ready.",
        "Check the node's power, network and kubelet.",
    ),
    _code(
        "node_under_pressure",
        "A node is short of memory, disk or process ids: it evicts pods and accepts no new ones.",
        "The node's conditions.",
        "Free disk space on the node, or suspend desktops there. local-path does not limit the size"
        " of a home.",
    ),
    _code(
        "kubelet_unreachable",
        "A node is ready, but the API server does not reach its kubelet: no logs, no shells.",
        "Failed requests for the logs of its pods.",
        "Open port 10250 of the node for the API server.",
        follows=("api_server_slow",),
    ),
    _code(
        "control_plane_silent",
        "kube-scheduler or kube-controller-manager does not work: new pods get no node, or new"
        " Services no endpoints.",
        "Pods without PodScheduled, Services without EndpointSlice, or the age of its Lease.",
        "Read its log; K3s: of the service k3s. Then restart it.",
        follows=("node_not_ready",),
        cluster_wide=True,
    ),
    *_GPUS,
    _warning(
        "node_kept",
        "An autoscaler can never remove a node: a desktop without an end, a pod that"
        " autoscalers do not evict, or an annotation keeps it.",
        "Annotations of the node and its pods, and the end of each desktop.",
        "Suspend unused desktops, and set lifecycle.idleTimeout with onIdle Suspend in their"
        " template. Remove the annotations that no one needs.",
    ),
    _warning(
        "gpu_runtime_class_unset",
        "On K3s a pod without runtimeClassName gets no GPU devices, unless nvidia is the"
        " default runtime.",
        "A GPU desktop on a K3s node without spec.runtimeClassName.",
        "Set the RuntimeClass in the template, for desktops that start from now on.",
    ),
    _code(
        "gpu_insufficient",
        "There is no free GPU for the session: all are in use (it starts automatically), or no node"
        " has any.",
        "The queue's own calculation, or the scheduler's message.",
        "End or suspend a desktop, share each GPU among more desktops, or add nodes.",
        follows=(*GPU_SHARED_WRONG, "node_not_ready", "node_under_pressure"),
    ),
    _code(
        "room_insufficient",
        "There is not enough capacity for the session: CPU, memory, pods, or a node for its"
        " template and home.",
        "The queue's own calculation.",
        "End or suspend a desktop, request less, or add nodes.",
        follows=("home_on_lost_node", "node_not_ready", "node_under_pressure"),
    ),
    _code(
        "user_namespace_unavailable",
        "A template requires user namespaces, and no node has them, or idmapped mounts for its"
        " volumes. With Auto (a warning): desktops run without them.",
        "The versions and runtime handlers in the node's status; the session's conditions and"
        " `status.isolation`.",
        "Update Linux (6.3), Kubernetes (1.33) and containerd (2.0) of the node, or use a"
        " StorageClass of ext4, xfs or btrfs; restart the desktops. Or set"
        ' isolation.userNamespaces: "Off", or Auto where it is Required.',
    ),
    _code(
        "desktop_unschedulable",
        "The scheduler finds no node for the desktop's pod.",
        "The pod's condition PodScheduled.",
        "Remove the obstacle on the nodes that the message names.",
        follows=(
            *(
                "storage_class_missing",
                "provisioner_silent",
                "home_not_provisioned",
                "home_on_lost_node",
            ),
            *("node_not_ready", "node_under_pressure"),
        ),
    ),
    _code(
        "image_unavailable",
        "The node cannot pull the desktop's image.",
        "The container's reason, and the kubelet's Event.",
        "Correct registry, name, tag or pull secret in the template and restart the desktop; or fix"
        " the node's access.",
        follows=("node_under_pressure",),
    ),
    _code(
        "reference_missing",
        "The desktop needs a Secret, ConfigMap or key that does not exist.",
        "The container's reason, or the kubelet's Event.",
        "Create it in the sessions' namespace, or remove it from the template.",
        follows=("basic_auth_secret_missing",),
    ),
    _code(
        "desktop_crashes",
        "The desktop keeps crashing.",
        "The container's last state, and the last lines of its log.",
        "Read the log of the last attempt.",
        follows=CRASH_CAUSES,
    ),
    _code(
        "desktop_hung",
        "A desktop that was ready does not respond, or the kubelet restarted it for that within the"
        " hour (a warning).",
        "The pod's condition Ready, which was True since the container's start, and the Events of"
        " its probes.",
        "Restart the desktop: unsaved work is lost, files in the home stay.",
        follows=("node_not_ready", "node_under_pressure", *CRASH_CAUSES),
    ),
    _warning(
        "selkies_setting_invalid",
        "Selkies does not know a value that the template sets, such as of its encoder.",
        "A line of the desktop's log: Invalid value(s) ... for ...",
        "Correct the variable in the template, then restart the desktop.",
        follows=("encoder_obsolete",),
    ),
    _warning(
        "secret_newer",
        "A Secret was changed after a desktop that has it in a variable had started.",
        "The Secret's last write, compared with the start of the container; or the operator's"
        " message.",
        "Restart the desktop.",
    ),
    _warning(
        "cpu_limit_low",
        "A desktop's CPU limit is so low that it takes minutes to start, or its liveness probe"
        " ends it.",
        "The CPU limit of the pod, and its source.",
        "Raise the CPU limit to 1 or more.",
    ),
    _warning(
        "memory_limit_high",
        "A desktop's memory limit is more than twice the memory of the largest node.",
        "The effective memory limit of the session, and the allocatable memory of all nodes.",
        "Lower the memory of the session or of its template (also resources.maxMemory).",
    ),
    _code(
        "desktop_cannot_start",
        "The container runtime cannot start the desktop's program.",
        "The container's reason.",
        "Correct the image: its program must exist, be executable, and be built for this"
        " processor.",
    ),
    _code(
        "desktop_out_of_memory",
        "The desktop used more memory than its limit.",
        "The container ended as OOMKilled, or its termination message begins with OutOfMemory.",
        "Raise the memory limit. Data in /dev/shm counts too.",
    ),
    _code(
        "desktop_out_of_disk",
        "The desktop used more local disk (ephemeral storage) than its limit.",
        "The pod's reason Evicted, and the kubelet's message with the limit.",
        "Raise the template's resources.defaultEphemeralStorage, or write large files to the home.",
    ),
    _code(
        "desktop_evicted",
        "The node evicted the desktop because it was short of a resource.",
        "The pod's reason Evicted.",
        "Free that resource on the node: the message names it.",
        follows=("node_under_pressure",),
    ),
    _code(
        "node_refused",
        "The kubelet refused the pod that the scheduler placed, as for two slices with"
        " failRequestsGreaterThanOne.",
        "The pod's reason, such as UnexpectedAdmissionError.",
        "Request one GPU: more slices add no computing time.",
        follows=GPU_SHARED_WRONG,
    ),
    _code(
        "desktop_on_lost_node",
        "The desktop is on a node that does not respond or no longer exists.",
        "The pod's node, and that node's condition Ready.",
        "Bring the node back.",
        follows=("node_not_ready",),
    ),
    _code(
        "node_network_broken",
        "The node cannot set up pods because of the network plugin or the container runtime.",
        "Event FailedCreatePodSandBox.",
        "Read the node's Events and its kubelet's log.",
        follows=("node_not_ready",),
    ),
    _code(
        "volume_not_mounted",
        "A volume cannot be mounted into the desktop: permission denied, still attached elsewhere,"
        " or missing.",
        "Event FailedMount, or the runtime's message.",
        "Read the pod's Events. On the node, check owner and mode of the folder.",
        follows=("home_on_lost_node", "node_not_ready"),
    ),
    _code(
        "storage_class_missing",
        "A home requests a StorageClass that does not exist.",
        "spec.storageClassName of the claim, compared with the StorageClasses.",
        "Create the StorageClass, or name an existing one in the template.",
    ),
    _warning(
        "storage_class_ambiguous",
        "Several StorageClasses are the default. A claim without a class gets the newest of them.",
        "The annotation storageclass.kubernetes.io/is-default-class.",
        "Keep one default, and set the annotation of the others to false.",
    ),
    _code(
        "home_not_provisioned",
        "The provisioner reports why it cannot create the volume; for local-path often: mkdir:"
        " Permission denied.",
        "Event ProvisioningFailed, or the log of local-path's helper pod.",
        "Fix what the message names. For local-path, the folder on the node must be writable for"
        " root.",
        follows=(
            "storage_class_missing",
            "local_path_mode_wrong",
            "node_under_pressure",
            "node_not_ready",
        ),
    ),
    _code(
        "local_path_mode_wrong",
        "The local-path provisioner creates folders that only root can write to.",
        "The mode in the script `setup` of the ConfigMap local-path-config.",
        "Give new volumes the mode 0777, as K3s does. Existing folders keep their mode.",
        cluster_wide=True,
    ),
    _code(
        "provisioner_silent",
        "A home waits for its volume, and the provisioner neither creates it nor reports a reason.",
        "The claim has been Pending for more than a minute, without an Event.",
        "Check whether the provisioner runs, and read its log.",
        follows=("node_not_ready", "control_plane_silent"),
    ),
    _code(
        "home_lost",
        "The volume of a home no longer exists; its claim is Lost.",
        "The claim's phase.",
        "Restore the volume from a backup. Without a backup, delete the claim for an empty home.",
    ),
    _code(
        "home_on_lost_node",
        "A local-path volume is a folder on one node, and that node no longer exists or does not"
        " respond.",
        "The volume's nodeAffinity, compared with the nodes.",
        "Bring the node back.",
        follows=("node_not_ready",),
    ),
    _code(
        "home_mounted_twice",
        "Two pods write to one home at the same time.",
        "The volumes of running pods.",
        "Delete the pod that belongs to no session.",
    ),
    _warning(
        "start_slow",
        "A start took more than 30 seconds.",
        "The times of session and pod for each stage: queue, scheduler, node (image and volume),"
        " desktop.",
        "Pull images in advance (prePull), keep desktops ready (VDIPool), or raise the CPU limit.",
        follows=(
            "node_not_ready",
            "node_under_pressure",
            "image_unavailable",
            *CRASH_CAUSES,
            "api_server_slow",
            "control_plane_silent",
        ),
    ),
)

NETWORK = (
    DNS_DOWN,
    _code(
        "kube_proxy_down",
        "kube-proxy of a node does not work: addresses of Services lead to pods that are gone.",
        "Connections from the machine that runs the doctor to a Service of ours or of DNS, and to its"
        " pod. Outside the cluster nothing is known.",
        "Restart kube-proxy there. K3s contains it: restart the node's service k3s or k3s-agent.",
        follows=("node_not_ready",),
        cluster_wide=True,
    ),
    _code(
        "network_policy_blocks",
        "NetworkPolicies block connections that Traefik, the gateway or the operator need.",
        "The policies that select the pods, evaluated as a network plugin does; unknown parts count"
        " as allowed.",
        "Allow the connection in the chart's values (traefik.peers, network), or delete the"
        " policy.",
        follows=("release_differs",),
    ),
    _warning(
        "clock_wrong",
        "Clocks differ: tokens count as not yet valid or expired, and Leases as stale.",
        "A time recorded by the cluster is in the future of the machine that runs the doctor.",
        "Set up time synchronisation (systemd-timesyncd, chrony) on the node and here.",
    ),
    _warning(
        "api_server_slow",
        "The API server takes more than a second for a small request: operator and portal are"
        " equally slow.",
        "The slowest of two small requests, one after the other, from the machine that runs the"
        " doctor.",
        "Check the server's disk, on which etcd or SQLite depends, its CPU, and the network.",
        cluster_wide=True,
    ),
    _warning(
        "api_certificate_ends",
        "The API server's certificate expires soon. K3s renews it at its start, in the last 90"
        " days.",
        "The certificate that the API server presents.",
        "Restart K3s on one server after the other (kubeadm: kubeadm certs renew all).",
    ),
)
