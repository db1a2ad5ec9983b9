"""Faults: each breaks a healthy cluster in one place. `@fault("code")`: what is to be found, causes
alone.
"""

import copy
from operator import setitem
from typing import Any

from unit.doctor.doctor_breaks import Break, Faults, gone, put
from unit.doctor.doctor_builders import (
    BEGAN,
    JUST_NOW,
    POD,
    SPACE,
    Cluster,
    Object,
    deployment,
    meta_of,
    ready_condition,
)
from vdi.findings.model import Remedy
from vdi.snapshot.model import (
    NO_RESPONSE,
    Certificate,
    Difference,
    ServiceAttempt,
    Unreadable,
)

FAULTS = fault = Faults()
OLD = "2026-11-20T10:00:00Z"
DISK_LIMIT = "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. "
BAD_CONFIG = "CreateContainerConfigError"
TERMS = "spec.nodeAffinity.required.nodeSelectorTerms"
NOT_WRITABLE = "mkdir: cannot create directory '/home/user/.config': Permission denied"
LARGE = {"defaultGPU": 0, "defaultMemory": "900Gi"}
ENCODER_OF_SELKIES_1 = {"name": "SELKIES_ENCODER", "value": "nvh264enc"}
OVER_LIMIT_RANGE = (
    "The desktop's Pod violates the namespace's LimitRange: maximum memory usage per Container is"
    " 1Gi, but limit is 4Gi."
)
# As the operator reports it, which alone may read that Secret.
PASSWORD_REPLACED = "The Secret with the password was replaced after the desktop had started."


def attempt(*, pod: bool = True, address: bool = False) -> ServiceAttempt:
    """Connections to the Service of the first desktop: by default only its own address fails."""
    return ServiceAttempt(service=f"service/{SPACE}/alice-0", pod=pod, address=address)


# Control plane


@fault("crd_outdated")
def template_kind_old(cluster: Cluster) -> None:
    crd = cluster.one("customresourcedefinitions", "vditemplates.vdi.kasm.io")
    del crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"][
        "prePull"
    ]


@fault("operator_missing")
def operator_gone(cluster: Cluster) -> None:
    cluster.drop("deployments", "vdi-operator")
    cluster.drop("leases")
    cluster.session["metadata"]["deletionTimestamp"] = OLD  # its finalizer stays, too


@fault("session_unwatched")
def operator_watches_elsewhere(cluster: Cluster) -> None:
    cluster.operator_env[0]["value"] = "elsewhere"
    cluster.drop("leases")
    cluster.without_pod()


@fault("operator_settings_bad")
def setting_unreadable(cluster: Cluster) -> None:
    cluster.operator_env.append({"name": "VDI_URL_PORT", "value": "many"})
    cluster.one("deployments")["status"] = {}


@fault("operator_down")
def operator_not_ready(cluster: Cluster) -> None:
    cluster.one("deployments")["status"] = {}
    cluster.drop("leases")
    cluster.without_pod()


def second_operator(cluster: Cluster, **settings: str) -> None:
    second = copy.deepcopy(cluster.one("deployments", "vdi-operator"))
    second["metadata"] |= {"name": "lab-operator", "uid": "uid-lab"}
    for variable in second["spec"]["template"]["spec"]["containers"][0]["env"]:
        variable["value"] = settings.get(variable["name"], variable["value"])
    cluster.objects["deployments"].append(second)


@fault("operator_troubled")
def host_key_is_deleted(cluster: Cluster) -> None:
    """Only the leader reads it, and says so in its log."""
    cluster.without_pod()
    line = "trouble: keys: the Secret kasm/vdi-host-key does not exist. Restore it from a backup"
    cluster.logs[f"kasm/{POD}"] = [f'time=x level=warning logger=vdi.operator.runtime msg="{line}"']


@fault("operator_stuck")
def everybody_is_passed_over(cluster: Cluster) -> None:
    cluster.add_session("bob", "bob@example.com")
    for session in cluster.objects["vdisessions"]:
        cluster.drop("pods", session["metadata"]["name"])
        session["status"] = {"phase": "Pending"}


@fault("template_missing")
def template_gone(cluster: Cluster) -> None:
    cluster.without_pod()
    cluster.drop("vditemplates")


@fault("template_invalid")
def template_bad(cluster: Cluster) -> None:
    cluster.without_pod()
    cluster.template["env"] = [{"name": "SELKIES_MASTER_TOKEN", "value": "x"}]


@fault("session_over_limit")
def too_much_memory(cluster: Cluster) -> None:
    cluster.without_pod()
    cluster.session["spec"]["resources"] = {"gpu": 1, "memory": "900Gi"}


def _said(code: str, name: str, reason: str, **status: Any) -> None:
    @fault(code, name=name)
    def reported(cluster: Cluster) -> None:
        cluster.without_pod(reason, f"These are the operator's words about {reason}.", **status)


_said("pod_refused", "quota_used_up", "QuotaExceeded")
_said("pod_refused", "pod_security", "PodSecurity", phase="Failed")


@fault("pod_refused")
def limit_range_below_the_template(cluster: Cluster) -> None:
    cluster.without_pod("Refused", OVER_LIMIT_RANGE, phase="Failed")
    for name, most in (("other-limits", "64Gi"), ("container-limits", "1Gi")):
        limits = [{"type": "Container", "max": {"memory": most}, "default": {"memory": "1Gi"}}]
        cluster.add("limitranges", meta_of(SPACE, name), spec={"limits": limits})


_said("home_in_use", "home_of_another", "HomeInUse")
_said("host_taken", "host_of_another", "HostTaken")
_said("name_taken", "name_of_another", "NameTaken", phase="Failed")
_said("session_failed", "given_up", "Restarting", phase="Failed")


@fault("pod_refused")
def home_over_the_quota(cluster: Cluster) -> None:
    """The session is admitted; the API server refuses its home."""
    message = "The home exceeds the quota: small-disk, requested: requests.storage=10Gi."
    cluster.without_pod("QuotaExceeded", message)
    admitted = cluster.session["status"]["conditions"][0]
    refused = {**admitted, "type": "HomeBound"}
    admitted |= {"status": "True", "reason": "Admitted", "message": ""}
    cluster.session["status"]["conditions"].append(refused)


def _failures(cluster: Cluster, reason: str, count: int) -> Object:
    message = "The desktop used more memory than its limit and was stopped."
    reported = {
        "reason": reason,
        "message": message,
        "time": "2026-11-20T11:59:30Z",
        "generation": 1,
    }
    cluster.without_pod(failures={"count": count, "restartedAt": "", **reported})
    found: Object = cluster.session["status"]
    return found


@fault("not_readable")
def routes_forbidden(cluster: Cluster) -> None:
    del cluster.objects["ingressroutes"]
    cluster.unread.append(
        Unreadable(
            "ingressroutes", "bob may not list ingressroutes.", Remedy("kubectl create role ...")
        )
    )


def differs(
    cluster: Cluster, name: str, field: str = "", observed: str = "", expected: str = ""
) -> None:
    """An object of the operator's release is missing, or someone has changed this field."""
    operator = cluster.one("deployments", "vdi-operator")["metadata"]
    operator["annotations"] = {"meta.helm.sh/release-name": "vdi"}
    operator["labels"] = {"app.kubernetes.io/component": "operator"}
    changed: Object = {
        "field": field,
        "observed": observed,
        "expected": expected,
        "manager": "kubectl-edit",
        "time": OLD,
    }
    rollback = "helm rollback vdi 3 --namespace kasm"
    cluster.differences.append(
        Difference(
            object=name,
            release="kasm/vdi",
            rollback=rollback,
            component="operator",
            **(changed if field else {}),
        )
    )


# Infrastructure


def _condition(cluster: Cluster, kind: str, status: str) -> None:
    condition = next(
        one for one in cluster.one("nodes")["status"]["conditions"] if one["type"] == kind
    )
    condition |= {"status": status, "lastTransitionTime": OLD, "message": "as the kubelet says"}


@fault("node_not_ready")
def node_lost(cluster: Cluster) -> None:
    _condition(cluster, "Ready", "Unknown")


def _pod_failed(reason: str, message: str) -> Break:
    return lambda cluster: cluster.not_ready(phase="Failed", reason=reason, message=message)


@fault("node_under_pressure")
def disk_full(cluster: Cluster) -> None:
    _condition(cluster, "DiskPressure", "True")
    _pod_failed("Evicted", "The node was low on resource: ephemeral-storage.")(cluster)


@fault("gpu_insufficient")
def no_node_has_gpus(cluster: Cluster) -> None:
    cluster.without_pod("NoGPUs", "No node offers nvidia.com/gpu.", queue={"reason": "NoGPUs"})
    cluster.template["resources"] = {"defaultGPU": 9, "maxGPU": 9}


@fault("gpu_insufficient")
def gpus_busy_and_operator_silent(cluster: Cluster) -> None:
    """The queue's own calculation, since the operator has said nothing."""
    cluster.without_pod()
    cluster.template["resources"] = {"defaultGPU": 8}
    job = cluster.add_pod("job")
    job["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "4"}}


@fault("room_insufficient")
def no_memory(cluster: Cluster) -> None:
    cluster.without_pod()
    cluster.one("nodes")["status"]["allocatable"]["memory"] = "512Mi"


@fault("user_namespace_unavailable")
def node_without_user_namespaces(cluster: Cluster) -> None:
    cluster.without_pod()
    cluster.template["isolation"] = {"userNamespaces": "Required"}


@fault("user_namespace_unavailable")
def desktops_without_user_namespaces(cluster: Cluster) -> None:
    """Auto. The reason of the other desktop is its volume, and no finding."""
    cluster.add_session("bob", "bob@example.com")
    for name, why in {
        "alice-0": "node node-1 has containerd 1.6",
        "bob": "the filesystem is not known",
    }.items():
        status = cluster.one("vdisessions", name)["status"]
        status["isolation"] = {"message": f"There is no user namespace: {why}."}


@fault("user_namespace_unavailable")
def volume_without_idmapped_mounts(cluster: Cluster) -> None:
    """Required, on a volume that the node could not mount: the operator's report, not the capacity,
    is the reason.
    """
    cluster.without_pod()
    conditions = [
        {
            "type": "Admitted",
            "status": "False",
            "reason": "NoIdmappedMounts",
            "message": "No user ids.",
        }
    ]
    cluster.one("vdisessions")["status"]["conditions"] = conditions


@fault("desktop_unschedulable")
def no_node_fits(cluster: Cluster) -> None:
    cluster.unscheduled("0/1 nodes are available: 1 node(s) had untolerated taint {dedicated: x}.")


@fault("desktop_cannot_start")
def program_missing(cluster: Cluster) -> None:
    words = 'exec: "vdi-desktop": executable file not found in $PATH'
    cluster.waits("RunContainerError", words)


@fault("desktop_on_lost_node", "home_on_lost_node")
def node_removed(cluster: Cluster) -> None:
    node = cluster.one("nodes")["metadata"]
    node["name"] = node["labels"]["kubernetes.io/hostname"] = "node-2"


@fault("desktop_on_lost_node", "home_on_lost_node")
def node_removed_and_pod_deleted(cluster: Cluster) -> None:
    """Kubernetes has deleted the pod, and no kubelet ends it."""
    node_removed(cluster)
    cluster.pod["metadata"]["deletionTimestamp"] = OLD


@fault("node_network_broken")
def no_sandbox(cluster: Cluster) -> None:
    cluster.waits("ContainerCreating")
    cluster.warn_pod("FailedCreatePodSandBox", "no IP addresses available")


@fault("volume_not_mounted")
def mount_denied(cluster: Cluster) -> None:
    cluster.waits("ContainerCreating")
    cluster.warn_pod("FailedMount", "MountVolume.SetUp failed: Permission denied")


def pending_claim(cluster: Cluster) -> Object:
    claim = cluster.one("persistentvolumeclaims")
    claim["status"]["phase"] = "Pending"
    del claim["spec"]["volumeName"]
    claim["metadata"]["annotations"]["volume.kubernetes.io/selected-node"] = "node-1"
    cluster.unscheduled(
        "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."
    )
    return claim


@fault("provisioner_silent")
def provisioner_scaled_to_0(cluster: Cluster) -> None:
    """Reported at once: the claim is seconds old."""
    pending_claim(cluster)["metadata"]["creationTimestamp"] = JUST_NOW
    local_path(cluster, SETUP.format("0777"))
    provisioner = cluster.one("deployments", "local-path-provisioner")
    provisioner["spec"]["replicas"], provisioner["status"] = 0, {}


@fault("kubelet_unreachable")
def firewall_before_the_kubelet(cluster: Cluster) -> None:
    words = 'Get "https://192.0.2.1:10250/containerLogs/a/b/c": dial tcp 192.0.2.1:10250: refused'
    cluster.log_errors = {f"kasm/{POD}": words, "vdi-sessions/alice-0": NO_RESPONSE}


@fault("control_plane_silent")
def scheduler_hangs(cluster: Cluster) -> None:
    cluster.not_ready()
    del cluster.pod["spec"]["nodeName"]
    cluster.pod["metadata"]["creationTimestamp"] = "2026-11-20T11:59:15Z"
    cluster.pod["status"] = {"phase": "Pending"}


@fault("control_plane_silent")
def controller_manager_hangs(cluster: Cluster) -> None:
    cluster.one("services", "alice-0")["metadata"]["creationTimestamp"] = BEGAN
    cluster.drop("endpointslices", "alice-0-x")


def system_lease(cluster: Cluster, name: str, time: str) -> None:
    cluster.add("leases", meta_of("kube-system", name), spec={"renewTime": f"2026-11-20T{time}Z"})


@fault("control_plane_silent")
def controller_manager_does_not_renew(cluster: Cluster) -> None:
    system_lease(cluster, "apiserver-x", "11:59:55.000000")
    system_lease(cluster, "kube-scheduler", "11:59:58.000000")
    system_lease(cluster, "kube-controller-manager", "11:58:50.000000")


@fault()
def all_leases_are_as_old_as_the_power_cut(cluster: Cluster) -> None:
    system_lease(cluster, "apiserver-x", "11:00:05.000000")
    system_lease(cluster, "kube-controller-manager", "11:00:00.000000")


@fault("storage_class_missing")
def class_gone(cluster: Cluster) -> None:
    pending_claim(cluster)
    cluster.drop("storageclasses")


@fault("home_not_provisioned")
def provisioner_says_why(cluster: Cluster) -> None:
    claim = pending_claim(cluster)["metadata"]["name"]
    cluster.warn(
        "PersistentVolumeClaim", claim, "ProvisioningFailed", "mkdir /opt/x: permission denied"
    )


@fault("home_not_provisioned")
def helper_pod_says_why(cluster: Cluster) -> None:
    uid = pending_claim(cluster)["metadata"]["uid"]
    cluster.logs[f"kube-system/helper-pod-create-pvc-{uid}"] = [
        "mkdir: can't create directory: Permission denied"
    ]


def local_path(cluster: Cluster, setup: str) -> None:
    cluster.objects["deployments"].append(
        deployment(
            "local-path-provisioner", "kube-system", {"app": "p"}, {"containers": [{"name": "p"}]}
        )
    )
    cluster.add("configmaps", meta_of("kube-system", "local-path-config"), data={"setup": setup})


# As K3s has it, with 0777.
SETUP = '#!/bin/sh\nset -eu\nmkdir -m {} -p "$VOL_DIR"\nchmod 700 "$VOL_DIR/.."\n'


@fault("local_path_mode_wrong")
def new_homes_are_roots_alone(cluster: Cluster) -> None:
    """The cause of homes that are not writable."""
    local_path(cluster, SETUP.format("0700"))
    cluster.crashes()
    cluster.say(NOT_WRITABLE)


@fault("home_lost")
def volume_gone(cluster: Cluster) -> None:
    cluster.without_pod()
    cluster.one("persistentvolumeclaims")["status"]["phase"] = "Lost"


@fault("home_mounted_twice")
def two_on_one_home(cluster: Cluster) -> None:
    cluster.objects["pods"].append(cluster.pod | {"metadata": meta_of(SPACE, "intruder")})


@fault("start_slow")
def slow_image(cluster: Cluster) -> None:
    ready_condition(cluster.pod)["lastTransitionTime"] = "2026-11-20T11:01:05Z"
    cluster.pod["status"]["containerStatuses"][0]["state"] = {
        "running": {"startedAt": "2026-11-20T11:01:00Z"}
    }


# Data plane


@fault("traefik_crds_missing")
def no_traefik_kinds(cluster: Cluster) -> None:
    cluster.objects["ingressroutes"] = []
    cluster.absent.append("ingressroutes")


@fault("traefik_not_watching")
def traefik_looks_elsewhere(cluster: Cluster) -> None:
    cluster.traefik_args.append("--providers.kubernetesCRD.namespaces=kasm,web")


def _route(name: str, code: str, spec: Object | None = None, **rule: Any) -> None:
    @fault(code, name=name)
    def edited(cluster: Cluster) -> None:
        found = cluster.one("ingressroutes")["spec"]
        found["routes"][0].update(rule)
        found.update(spec or {})


_route("route_of_another_host", "route_host_mismatch", match="Host(`bob.vdi.example.com`)")


@fault("route_host_mismatch")
def domain_of_the_operator_is_edited(cluster: Cluster) -> None:
    """One finding for all sessions, whose routes and addresses agree."""
    cluster.add_session("bob", "bob@example.com")
    cluster.certificates = []
    setting = next(one for one in cluster.operator_env if one["name"] == "VDI_DOMAIN")
    setting["value"] = "desktops.example.org"


_route(
    "regexp_of_traefik_2",
    "route_host_mismatch",
    match="HostRegexp(`{user:[a-z]+}.vdi.example.com`)",
)
_route(
    "two_hosts_of_traefik_2",
    "route_host_mismatch",
    match="Host(`a.vdi.example.com`, `b.vdi.example.com`)",
)
_route("entry_point_wrong", "route_entry_point_unknown", {"entryPoints": ["secure"]})
_route("middleware_gone", "middleware_missing", middlewares=[{"name": "nobody"}])


@fault("middleware_missing")
def link_of_a_chain_is_gone(cluster: Cluster) -> None:
    cluster.one("ingressroutes")["spec"]["routes"][0]["middlewares"] = [{"name": "vdi-edge"}]
    chain = {"middlewares": [{"name": "vdi-edge-headers"}, {"name": "vdi-edge-auth"}]}
    for name, spec in (("vdi-edge", {"chain": chain}), ("vdi-edge-auth", {})):
        cluster.add("middlewares", meta_of(SPACE, name), spec=spec)


_route(
    "middleware_elsewhere",
    "middleware_missing",
    middlewares=[{"name": "auth", "namespace": "kasm"}],
)


def _certificate(code: str, name: str, **change: Any) -> None:
    @fault(code, name=name)
    def changed(cluster: Cluster) -> None:
        good = {
            "names": ("*.vdi.example.com",),
            "begins": "2026-11-01T00:00:00Z",
            "ends": "2027-02-01T00:00:00Z",
        }
        cluster.certificates = [
            Certificate(namespace=SPACE, secret="wildcard", **{**good, **change})
        ]


_certificate("certificate_missing", "no_certificate", problem="missing")
_certificate("certificate_missing", "no_pem", problem="its tls.crt is not a certificate in PEM")
_certificate("certificate_expired", "certificate_over", ends="2026-11-19T00:00:00Z")
_certificate("certificate_expired", "certificate_too_young", begins="2026-11-21T00:00:00Z")
_certificate("certificate_expires_soon", "certificate_nearly_over", ends="2026-11-25T00:00:00Z")
_certificate("certificate_for_other_names", "one_label_too_few", names=("*.example.com",))


def _log(code: str, name: str, line: str, *, crash: bool = False) -> None:
    @fault(code, name=name)
    def said(cluster: Cluster) -> None:
        if crash:
            cluster.crashes()
        cluster.say("starting", line)


_library = (
    "ImportError: libwayland-server.so.0: cannot open shared object file: No such file or directory"
)
_log("library_missing", "waiting_for_stream", _library)
_shared = "x: error while loading shared libraries: libX.so.6: cannot open"
_log("library_missing", "crash_for_a_library", _shared, crash=True)
_log("home_not_writable", "home_of_root", NOT_WRITABLE, crash=True)
_log(
    "home_not_writable",
    "home_0700",
    "PermissionError: [Errno 13] Permission denied: '/home/user/.cache'",
)
_log("selkies_error", "no_display", "Error: cannot open display :0")
_log("selkies_error", "port_in_use", "OSError: [Errno 98] address already in use")
_log(
    "selkies_setting_invalid",
    "encoder_unknown",
    "WARNING:root:Invalid value(s) 'h266enc' for encoder, using default",
)


@fault("desktop_hung")
def desktop_frozen(cluster: Cluster) -> None:
    """It was ready, and its program answers no more."""
    cluster.not_ready(phase="Running")
    ready_condition(cluster.pod)["lastTransitionTime"] = "2026-11-20T11:59:30Z"
    timeout = (
        "Readiness probe failed: Get http://10.42.0.5:8080/api/health: context deadline exceeded"
    )
    cluster.warn_pod("Unhealthy", timeout)


@fault("desktop_hung")
def restarted_because_it_hung(cluster: Cluster) -> None:
    """The kubelet has restarted it, and it is ready again."""
    container = cluster.pod["status"]["containerStatuses"][0]
    ended = {
        "exitCode": 137,
        "reason": "Error",
        "startedAt": BEGAN,
        "finishedAt": "2026-11-20T11:50:00Z",
    }
    container |= {"restartCount": 1, "lastState": {"terminated": ended}}
    cluster.warn_pod("Unhealthy", "Liveness probe failed: context deadline exceeded")


@fault("storage_class_ambiguous")
def two_default_classes(cluster: Cluster) -> None:
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    cluster.one("storageclasses")["metadata"] |= {
        "creationTimestamp": BEGAN,
        "annotations": default,
    }
    longhorn = {"name": "longhorn", "creationTimestamp": JUST_NOW, "annotations": default}
    cluster.add("storageclasses", longhorn, provisioner="driver.longhorn.io")


@fault("desktop_port_wrong")
def listens_on_another_port_than_the_template_says(cluster: Cluster) -> None:
    """First its start is slow, then the liveness probe ends it again and again."""
    spec = cluster.template
    spec |= {"port": 8081, "env": [{"name": "SELKIES_PORT", "value": "8080"}]}
    cluster.not_ready(restarts=2, last={"exitCode": 137, "reason": "Error"}, phase="Running")
    refused = (
        "Readiness probe failed: Get http://10.42.0.5:8081/api/health: dial tcp: connect:"
        " connection refused"
    )
    cluster.warn_pod("Unhealthy", refused)


@fault("desktop_port_wrong")
def starts_for_minutes_on_another_port(cluster: Cluster) -> None:
    """As its own log says."""
    cluster.template["port"] = 3000
    cluster.not_ready(phase="Running")
    refused = (
        "Readiness probe failed: Get http://10.42.0.5:3000/api/health: dial tcp: connect:"
        " connection refused"
    )
    cluster.warn_pod("Unhealthy", refused)
    cluster.say("INFO: Uvicorn running on http://0.0.0.0:8080")


@fault("route_shadowed")
def another_route_takes_the_host(cluster: Cluster) -> None:
    match = f"Host(`{cluster.session['metadata']['name']}.vdi.example.com`)"
    rule = {
        "kind": "Rule",
        "match": match,
        "priority": 500,
        "services": [{"name": "web", "port": 80}],
    }
    cluster.add(
        "ingressroutes",
        meta_of(SPACE, "web"),
        spec={"entryPoints": ["websecure"], "routes": [rule]},
    )


@fault("traefik_down")
def traefik_scaled_to_0(cluster: Cluster) -> None:
    traefik = cluster.one("deployments", "traefik")
    traefik["spec"]["replicas"], traefik["status"] = 0, {}


_log(
    "home_full",
    "home_full_while_it_runs",
    "OSError: [Errno 28] No space left on device: '/home/user/.cache/x'",
)
_log(
    "home_full",
    "home_full_and_crashes",
    "cp: error writing '/home/user/a': No space left on device",
    crash=True,
)


@fault("cpu_limit_low")
def a_hundredth_of_a_processor(cluster: Cluster) -> None:
    cluster.template["resources"] |= {"defaultCPU": "10m"}
    cluster.not_ready(restarts=3, last={"exitCode": 137, "reason": "Error"}, phase="Running")
    cluster.pod["spec"]["containers"][0]["resources"] = {"limits": {"cpu": "10m"}}
    cluster.say("something that has nothing to do with it")


# Nodes that an autoscaler could remove


def with_autoscaler(cluster: Cluster) -> None:
    env = {
        "NAMESPACE": "vdi-sessions-placeholders",
        "IMAGE": "x:1",
        "PRIORITY_CLASS": "vdi-placeholder",
    }
    cluster.operator_env.extend(
        {"name": f"VDI_PLACEHOLDER_{name}", "value": value} for name, value in env.items()
    )
    cluster.one("pods", POD)["metadata"]["ownerReferences"] = [
        {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "name": "vdi-operator-7d",
            "uid": "rs",
            "controller": True,
        }
    ]
    cluster.session["status"]["expiresAt"] = "2026-11-20T19:00:00Z"


@fault("node_kept")
def desktop_without_an_end(cluster: Cluster) -> None:
    with_autoscaler(cluster)
    del cluster.session["status"]["expiresAt"]
    cluster.session["status"]["homeClaim"] = cluster.one("persistentvolumeclaims")["metadata"][
        "name"
    ]


@fault("node_kept")
def node_annotated_to_stay(cluster: Cluster) -> None:
    with_autoscaler(cluster)
    annotations = {"cluster-autoscaler.kubernetes.io/scale-down-disabled": "true"}
    cluster.one("nodes")["metadata"]["annotations"] = annotations


@fault("node_kept")
def pods_that_no_autoscaler_evicts(cluster: Cluster) -> None:
    with_autoscaler(cluster)
    cluster.add_pod("toolbox")
    cluster.add_pod("batch", annotations={"karpenter.sh/do-not-disrupt": "true"})


FAULTS.table(
    ("operator_down", "operator_scaled_away", put("deployments", "spec.replicas", 0)),
    ("operator_without_lease", "lease_not_renewed", put("leases", "spec.renewTime", OLD)),
    ("lease_of_a_stranger", "another_leads", put("leases", "spec.holderIdentity", "laptop_99")),
    ("operators_collide", "two_operators_for_one_namespace", second_operator),
    (
        "operators_collide",
        "two_releases_with_one_domain",
        lambda cluster: second_operator(cluster, VDI_NAMESPACE="lab"),
    ),
    (
        "",
        "two_releases_side_by_side",
        lambda cluster: second_operator(cluster, VDI_NAMESPACE="lab", VDI_DOMAIN="lab.example.com"),
    ),
    (
        "release_differs",
        "binding_gone",
        lambda cluster: differs(cluster, "rolebinding/kasm/vdi-operator"),
    ),
    (
        "release_differs",
        "role_cut",
        lambda cluster: differs(
            cluster, "role/vdi-sessions/vdi-operator", "rules[0].verbs", "[get]", "[get, list]"
        ),
    ),
    ("deletion_stuck", "finalizer_stays", put("vdisessions", "metadata.deletionTimestamp", OLD)),
    ("session_ignored", "no_one_looks", lambda cluster: cluster.without_pod()),
    ("desktop_crashes", "pause_after_a_crash", lambda cluster: _failures(cluster, "CrashLoop", 4)),
    (
        "check_failed",
        "nonsense_in_an_object",
        put("nodes", "status.conditions.0.lastHeartbeatTime", "soon"),
    ),
    ("desktop_crashes", "crash_loop", lambda cluster: cluster.crashes(message="bye")),
    (
        "desktop_out_of_memory",
        "memory_used_up",
        lambda cluster: cluster.crashes("OOMKilled", restarts=1),
    ),
    ("provisioner_silent", "provisioner_says_nothing", pending_claim),
    (
        "secret_newer",
        "password_changed_under_the_desktop",
        put("vdisessions", "status.message", PASSWORD_REPLACED),
    ),
    (
        "home_on_lost_node",
        "home_elsewhere",
        put("persistentvolumes", f"{TERMS}.0.matchExpressions.0.values", ["n-9"]),
    ),
    (
        "home_on_lost_node",
        "host_name_label_changed",
        put("nodes", "metadata.labels", {"kubernetes.io/hostname": "gpu-rack-1"}),
    ),
    ("traefik_down", "traefik_not_ready", put("deployments/traefik", "status", {})),
    ("route_missing", "no_route", gone("ingressroutes")),
    ("service_missing", "no_service", gone("services")),
    (
        "service_without_endpoints",
        "no_one_behind_the_service",
        put("endpointslices", "endpoints", []),
    ),
    ("shm_too_small", "shared_memory_of_1_mib", put("vditemplates", "spec.shmSize", "1Mi")),
    (
        "memory_limit_high",
        "limit_above_the_largest_node",
        put("vditemplates", "spec.resources", LARGE),
    ),
    (
        "encoder_obsolete",
        "encoder_of_selkies_1",
        put("vditemplates", "spec.env", [ENCODER_OF_SELKIES_1]),
    ),
    (
        "api_server_slow",
        "each_request_takes_two_seconds",
        lambda cluster: setattr(cluster, "api_seconds", 2.04),
    ),
    (
        "kube_proxy_down",
        "a_new_service_has_no_address",
        lambda cluster: setattr(cluster, "service_attempt", attempt()),
    ),
    ("crd_missing", "pool_kind_missing", gone("customresourcedefinitions", "vdipools.vdi.kasm.io")),
    (
        "image_unavailable",
        "image_wrong",
        lambda cluster: cluster.waits("ErrImagePull", "manifest unknown"),
    ),
    (
        "reference_missing",
        "secret_missing",
        lambda cluster: cluster.waits(BAD_CONFIG, 'secret "keys" not found'),
    ),
    ("desktop_evicted", "evicted", _pod_failed("Evicted", "low on memory")),
    ("desktop_out_of_disk", "disk_limit_reached", _pod_failed("Evicted", DISK_LIMIT)),
    (
        "node_refused",
        "two_slices",
        _pod_failed("UnexpectedAdmissionError", "request for 2 replicas"),
    ),
)
fault("desktop_out_of_memory", name="given_up_for_memory")(
    lambda cluster: setitem(_failures(cluster, "OutOfMemory", 6), "phase", "Failed")
)
fault("local_path_mode_wrong", name="the_mode_of_new_homes_is_changed_afterwards")(
    lambda cluster: local_path(cluster, 'mkdir -p "${VOL_DIR}"\nchmod 0750 "${VOL_DIR}"\n')
)
