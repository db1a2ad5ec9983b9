"""What can be wrong with shared GPUs, on a cluster where eight desktops share each."""

from typing import Any

from unit.doctor.doctor_breaks import Break, Faults, gone, put
from unit.doctor.doctor_builders import Cluster, Object, meta_of
from vdi.gpu.sharing.config import Sharing, render_config


def shared(cluster: Cluster) -> None:
    """The device plugin alone, which reads a ConfigMap that shares each of two GPUs by eight."""
    container: Object = {
        "name": "nvidia-device-plugin",
        "image": "nvcr.io/nvidia/k8s-device-plugin:v0.17.1",
    }
    container["env"] = [{"name": "CONFIG_FILE", "value": "/config/any"}]
    container["volumeMounts"] = [{"name": "config", "mountPath": "/config"}]
    volumes = [
        {"name": "config", "configMap": {"name": "time-slicing-config"}},
        {"name": "plugins", "hostPath": {"path": "/var/lib/kubelet/device-plugins"}},
    ]
    _add_daemonset(cluster, "plugin", container, volumes)
    owner = {"uid": "uid-plugin", "kind": "DaemonSet", "name": "plugin", "apiVersion": "apps/v1"}
    cluster.add_pod("plugin-1", "gpu-operator", ownerReferences=[owner])
    meta = meta_of("gpu-operator", "time-slicing-config", creationTimestamp="2026-11-20T10:00:00Z")
    cluster.add("configmaps", meta, data={"any": render_config(Sharing(8))})
    node = cluster.one("nodes")
    node["metadata"]["labels"] |= {"nvidia.com/gpu.present": "true", "nvidia.com/gpu.count": "2"}
    for part in ("capacity", "allocatable"):
        node["status"][part] = {**node["status"][part], "nvidia.com/gpu": "16"}


def _add_daemonset(
    cluster: Cluster, name: str, container: Object, volumes: list[Object], ready: int = 1
) -> None:
    status = {
        "desiredNumberScheduled": 1,
        "numberReady": ready,
        "updatedNumberScheduled": 1,
        "observedGeneration": 1,
    }
    spec = {"template": {"spec": {"containers": [container], "volumes": volumes}}}
    cluster.add("daemonsets", meta_of("gpu-operator", name, generation=1), spec=spec, status=status)


def by_policy(cluster: Cluster) -> None:
    """The same under the GPU Operator."""
    shared(cluster)
    plugin = cluster.one("daemonsets")["spec"]["template"]["spec"]
    mount = [{"name": "config", "mountPath": "/available-configs"}]
    env = [
        {"name": "DEFAULT_CONFIG", "value": "any"},
        {"name": "CONFIG_FILE_SRCDIR", "value": "/available-configs"},
    ]
    plugin["containers"].append(
        {"name": "config-manager", "image": "x", "env": env, "volumeMounts": mount}
    )
    config = {"name": "time-slicing-config", "default": "any"}
    policy: Object = {
        "metadata": {"name": "cluster-policy"},
        "spec": {"devicePlugin": {"config": config}},
    }
    policy["spec"]["toolkit"] = {"enabled": False}
    cluster.objects["clusterpolicies"] = [
        {**policy, "status": {"state": "ready", "namespace": "gpu-operator"}}
    ]


GPU_FAULTS = fault = Faults(on=shared)


def _advertise(
    cluster: Cluster, number: int, resource: str = "nvidia.com/gpu", part: str = ""
) -> None:
    status = cluster.one("nodes")["status"]
    for one in (part,) if part else ("capacity", "allocatable"):
        status[one] = {**status[one], resource: str(number)}


def _wait_for_gpu(cluster: Cluster) -> None:
    cluster.template["resources"] = {"defaultGPU": 1}
    cluster.without_pod(
        "GPUsBusy", "All GPUs are in use.", queue={"position": 1, "reason": "GPUsBusy"}
    )
    job = cluster.add_pod("job")
    job["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "2"}}


@fault("gpu_nodes_missing", on=lambda _: None)
def no_gpu_anywhere(cluster: Cluster) -> None:
    for part in ("capacity", "allocatable"):
        cluster.one("nodes")["status"][part].pop("nvidia.com/gpu", None)
    cluster.template["resources"] = {"defaultGPU": 1}
    cluster.without_pod("NoGPUs", "No node offers nvidia.com/gpu.", queue={"reason": "NoGPUs"})


@fault("gpu_nodes_missing", on=lambda _: None)
def gpus_of_a_node_are_gone(cluster: Cluster) -> None:
    """As the kubelet leaves the number when the device plugin has ended."""
    _advertise(cluster, 0)
    cluster.template["resources"] = {"defaultGPU": 1}
    cluster.without_pod("NoGPUs", "No node offers nvidia.com/gpu.", queue={"reason": "NoGPUs"})


@fault("gpu_sharing_not_configured")
def whole_gpus_are_not_enough(cluster: Cluster) -> None:
    spec: Any = cluster.one("daemonsets")["spec"]["template"]["spec"]
    spec["volumes"].pop(0)
    spec["containers"][0]["env"] = []
    _advertise(cluster, 2)
    _wait_for_gpu(cluster)
    cluster.objects["configmaps"] = []


@fault("gpu_default_key_unset", on=by_policy)
def no_default(cluster: Cluster) -> None:
    """As the mission's own command leaves it: named, without default."""
    del cluster.one("clusterpolicies")["spec"]["devicePlugin"]["config"]["default"]
    cluster.one("daemonsets")["spec"]["template"]["spec"]["containers"][1]["env"].pop(0)
    _advertise(cluster, 2)


@fault("gpu_policy_not_taken_up", on=by_policy)
def gpu_operator_asleep(cluster: Cluster) -> None:
    cluster.one("daemonsets")["spec"]["template"]["spec"]["volumes"].pop(0)
    _advertise(cluster, 2)


@fault("gpu_config_not_read")
def plugin_not_restarted(cluster: Cluster) -> None:
    """A node advertises 2 and not 16, since the plugin is older than the ConfigMap."""
    cluster.one("configmaps")["metadata"]["creationTimestamp"] = "2026-11-20T11:30:00Z"
    _advertise(cluster, 2)


@fault("gpu_config_reader_not_ready")
def discovery_fails(cluster: Cluster) -> None:
    reader: Object = {
        "name": "config-manager",
        "env": [{"name": "CONFIG_FILE_SRCDIR", "value": "/available"}],
    }
    reader["volumeMounts"] = [{"name": "config", "mountPath": "/available"}]
    volumes = [{"name": "config", "configMap": {"name": "time-slicing-config"}}]
    _add_daemonset(cluster, "gfd", reader, volumes, ready=0)


def _k3s(cluster: Cluster) -> None:
    cluster.one("nodes")["status"]["nodeInfo"]["kubeletVersion"] = "v1.34.9+k3s1"


@fault("gpu_toolkit_paths_not_k3s", on=by_policy)
def toolkit_of_another_containerd(cluster: Cluster) -> None:
    _k3s(cluster)
    cluster.objects["runtimeclasses"] = [{"metadata": {"name": "nvidia"}}]
    cluster.one("clusterpolicies")["spec"]["toolkit"] = {"enabled": True}


@fault("gpu_runtime_class_unset")
def black_picture(cluster: Cluster) -> None:
    _k3s(cluster)
    cluster.objects["runtimeclasses"] = [{"metadata": {"name": "nvidia"}}]
    cluster.pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = "1"
    cluster.template["resources"] = {"defaultGPU": 1}


def _draws_in_software(name: str, reason: str, message: str) -> None:
    @fault("graphics_in_software", name=name, on=lambda _: None)
    def reported(cluster: Cluster) -> None:
        cluster.template["resources"] = {"defaultGPU": 1}
        graphics = {"renderer": "Software", "reason": reason, "message": message, "encoder": "x264"}
        cluster.session["status"]["graphics"] = graphics


@fault("gpu_encoder_missing", on=lambda _: None)
def gpu_for_computing(cluster: Cluster) -> None:
    cluster.template["resources"] = {"defaultGPU": 1}
    cluster.one("nodes")["metadata"]["labels"]["nvidia.com/gpu.product"] = "NVIDIA-H100-80GB-HBM3"


def _label(name: str, value: str = "") -> Break:
    """The node has this label, or lacks it."""

    def change(cluster: Cluster) -> None:
        labels = cluster.one("nodes")["metadata"]["labels"]
        labels.pop(f"nvidia.com/{name}", None)
        labels |= {f"nvidia.com/{name}": value} if value else {}

    return change


GPU_FAULTS.table(
    ("gpu_config_map_missing", "config_map_gone", gone("configmaps")),
    ("gpu_config_invalid", "config_is_no_yaml", put("configmaps", "data.any", "version: [v2")),
    ("gpu_device_plugin_not_ready", "plugin_fails", put("daemonsets", "status.numberReady", 0)),
    ("gpu_capacity_wrong", "one_and_not_eight", lambda cluster: _advertise(cluster, 2)),
    ("gpu_count_unknown", "no_one_counts", _label("gpu.count")),
    ("gpu_unhealthy", "broken_gpu", lambda cluster: _advertise(cluster, 8, part="allocatable")),
    (
        "gpu_resource_twice",
        "two_names",
        lambda cluster: _advertise(cluster, 16, "nvidia.com/gpu.shared"),
    ),
    ("gpu_runtime_class_missing", "no_runtime_class", _k3s),
)
GPU_FAULTS.table(
    ("gpu_device_plugin_missing", "plugin_gone", gone("daemonsets")),
    (
        "gpu_default_key_missing",
        "default_is_no_key",
        put("configmaps", "data", {"other": render_config(Sharing(8))}),
    ),
    ("gpu_node_config_unknown", "label_of_nothing", _label("device-plugin.config", "huge")),
    ("gpu_labels_stale", "labels_of_yesterday", _label("gpu.replicas", "4")),
    on=by_policy,
)
fault("gpu_mig_mismatch", name="cut_by_mig")(
    lambda cluster: cluster.one("nodes")["metadata"]["labels"].update(
        {"nvidia.com/mig.config": "all-1g", "nvidia.com/mig.strategy": "single"}
    )
)
for name, reason, message in (
    (
        "capability_left_out",
        "GraphicsCapabilityMissing",
        "NVIDIA_DRIVER_CAPABILITIES='video' lacks graphics",
    ),
    (
        "zink_draws_nothing",
        "ZinkFailed",
        "Zink does not draw on NVIDIA L4: no response within 10 s",
    ),
    ("no_device_in_the_pod", "NoGPU", "the pod has no GPU"),
    ("intel_gpu_on_x11", "NotSupported", "OpenGL on the GPU of /dev/dri/renderD128 needs Wayland"),
):
    _draws_in_software(name, reason, message)
