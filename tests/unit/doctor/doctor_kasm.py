"""Faults of Kasm, hand-made: each breaks a healthy Kasm in one place. tests/kasm makes them for real."""

from unit.doctor.doctor_builders import BEGAN, Cluster, Faults
from unit.doctor.kasm_builders import PLACE, Kasm
from vdi.kasm.generations.a import A
from vdi.kasm.generations.b import B
from vdi.kasm.generations.c import C

KASM_FAULTS = fault = Faults(prefix="kasm_")
VIOLATION = (
    'pods "kasm-proxy-default-deployment-x" is forbidden: violates PodSecurity "restricted:latest":'
    ' runAsNonRoot != true (container "kasm-proxy-data-perms" must not set securityContext.runAsNonRoot=false)'
)


@fault("kasm_probe_fails")
def init_1_of_5_in_a_is_the_manager(cluster: Cluster) -> None:
    kasm = Kasm(cluster, A)
    kasm.pod("proxy")["spec"]["initContainers"].pop(0)  # without hardening
    kasm.pod("proxy")["status"]["initContainerStatuses"].pop(0)
    kasm.at_step("proxy", "manager")
    kasm.unready("manager", state={"running": {"startedAt": BEGAN}})
    kasm.warn(
        "Pod", kasm.pod("manager")["metadata"]["name"], "Unhealthy", "Readiness probe failed: HTTP statuscode: 503"
    )


@fault("kasm_crashes")
def init_1_of_5_in_b_is_the_api(cluster: Cluster) -> None:
    kasm = Kasm(cluster, B)
    kasm.at_step("proxy", "api")
    ended = {"terminated": {"exitCode": 3, "reason": "Error"}}
    kasm.unready("api", state={"waiting": {"reason": "CrashLoopBackOff"}}, lastState=ended, restartCount=4)
    pod = kasm.pod("api")
    container = pod["spec"]["containers"][0]["name"]
    cluster.logs[f"{PLACE}/{pod['metadata']['name']}/{container}"] = ["Traceback", "no such setting: zone"]


@fault("kasm_claim_class_missing")
def the_whole_chain_down_to_a_storage_class(cluster: Cluster) -> None:
    kasm = Kasm(cluster, C)
    claim = cluster.one("persistentvolumeclaims", "data-kasm-db")
    claim["spec"] = {"storageClassName": "longhorn"}
    claim["status"] = {"phase": "Pending"}
    kasm.off("db", "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.")
    kasm.at_step("api", "db")
    kasm.at_step("manager", "api")
    kasm.at_step("proxy", "api")
    kasm.at_step("guac", "proxy")


@fault("kasm_claim_class_missing")
def no_default_storage_class(cluster: Cluster) -> None:
    kasm = Kasm(cluster, B)
    claim = cluster.one("persistentvolumeclaims", "data-kasm-db")
    claim["spec"], claim["status"] = {}, {"phase": "Pending"}
    kasm.off("db", "pod has unbound immediate PersistentVolumeClaims")


@fault("kasm_claim_pending")
def provisioner_fails(cluster: Cluster) -> None:
    kasm = Kasm(cluster, A)
    claim = cluster.one("persistentvolumeclaims", "data-kasm-db")
    claim["spec"], claim["status"] = {"storageClassName": "local-path"}, {"phase": "Pending"}
    kasm.off("db", "")
    kasm.warn("PersistentVolumeClaim", "data-kasm-db", "ProvisioningFailed", "mkdir /data: permission denied")


@fault("kasm_claim_pending")
def provisioner_says_nothing(cluster: Cluster) -> None:
    kasm = Kasm(cluster, A)
    claim = cluster.one("persistentvolumeclaims", "data-kasm-db")
    claim["spec"], claim["status"] = {"storageClassName": "local-path"}, {"phase": "Pending"}
    kasm.off("db", "")


@fault("kasm_claim_pending")
def volume_lost(cluster: Cluster) -> None:
    kasm = Kasm(cluster, A)
    cluster.one("persistentvolumeclaims", "data-kasm-db")["status"] = {"phase": "Lost"}
    kasm.off("db", 'persistentvolumeclaim "data-kasm-db" bound to non-existent persistentvolume "pv-kasm"')


@fault("kasm_claim_missing")
def claim_gone(cluster: Cluster) -> None:
    kasm = Kasm(cluster, C)
    cluster.drop("persistentvolumeclaims", "data-kasm-db")
    kasm.off("db", '0/1 nodes are available: persistentvolumeclaim "data-kasm-db" not found.')


@fault("kasm_pod_security")
def data_perms_refused(cluster: Cluster) -> None:
    kasm = Kasm(cluster, B)
    kasm.without_pod("proxy")
    condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": VIOLATION}
    kasm.workload("proxy")["status"] = {"conditions": [condition]}


@fault("kasm_pods_refused")
def quota_reached(cluster: Cluster) -> None:
    kasm = Kasm(cluster, C)
    kasm.without_pod("db")
    kasm.at_step("api", "db")
    note = (
        'create Pod kasm-db-1-19-0-0 in StatefulSet kasm-db-1-19-0 failed error: pods "x" is forbidden: exceeded quota'
    )
    kasm.warn("StatefulSet", "kasm-db-1-19-0", "FailedCreate", note)


@fault("kasm_pods_refused")
def job_refused(cluster: Cluster) -> None:
    kasm = Kasm(cluster, C)
    kasm.workload("db-init")["status"] = {}
    kasm.at_step("api", "db")
    kasm.warn("Job", "kasm-db-init", "FailedCreate", 'Error creating: pods "x" is forbidden: exceeded quota: small')


@fault("kasm_scaled_to_zero")
def database_stopped(cluster: Cluster) -> None:
    kasm = Kasm(cluster, A)
    kasm.workload("db")["spec"]["replicas"] = 0
    kasm.without_pod("db")
    kasm.at_step("api", "db")
    kasm.at_step("proxy", "api")


@fault("kasm_pods_missing")
def no_one_makes_pods(cluster: Cluster) -> None:
    Kasm(cluster, B).without_pod("guac")


@fault("kasm_unschedulable")
def too_large(cluster: Cluster) -> None:
    kasm = Kasm(cluster, C)
    kasm.pod("api")["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "100", "memory": "512Mi"}}
    kasm.off("api", "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available")
    kasm.at_step("proxy", "api")


@fault("kasm_unschedulable")
def no_scheduler(cluster: Cluster) -> None:
    kasm = Kasm(cluster, C)
    kasm.off("manager")
    kasm.pod("manager")["status"]["conditions"] = []


@fault("kasm_image_unavailable")
def image_of_an_init_container(cluster: Cluster) -> None:
    kasm = Kasm(cluster, A)
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "alpine/curl:8.8.0"'}
    container = kasm.at_step("guac", "api", state={"waiting": waiting})
    kasm.warn("Pod", kasm.pod("guac")["metadata"]["name"], "Failed", "Failed to pull: dial tcp: i/o timeout")
    assert container["state"]


@fault("kasm_reference_missing")
def key_missing(cluster: Cluster) -> None:
    kasm = Kasm(cluster, B)
    words = "couldn't find key db-password in Secret kasm/kasm-secrets"
    kasm.at_step("api", "db", state={"waiting": {"reason": "CreateContainerConfigError", "message": words}})


@fault("kasm_reference_missing")
def secret_of_a_volume_missing(cluster: Cluster) -> None:
    kasm = Kasm(cluster, C)
    kasm.at_place("proxy", 0, state={"waiting": {"reason": "PodInitializing"}})
    note = 'MountVolume.SetUp failed for volume "cert" : secret "kasm-tls" not found'
    kasm.warn("Pod", kasm.pod("proxy")["metadata"]["name"], "FailedMount", note)


@fault("kasm_volume_not_mounted")
def mount_fails(cluster: Cluster) -> None:
    kasm = Kasm(cluster, C)
    kasm.unready("db", state={"waiting": {"reason": "ContainerCreating"}})
    kasm.warn("Pod", kasm.pod("db")["metadata"]["name"], "FailedMount", "mount.nfs: access denied by server")


@fault("kasm_network_broken")
def sandbox_fails(cluster: Cluster) -> None:
    kasm = Kasm(cluster, C)
    kasm.at_place("manager", 0, state={"waiting": {"reason": "PodInitializing"}})
    kasm.warn("Pod", kasm.pod("manager")["metadata"]["name"], "FailedCreatePodSandBox", "no IP addresses available")


@fault("node_not_ready")
def node_lost(cluster: Cluster) -> None:
    kasm = Kasm(cluster, A)
    node = dict(cluster.one("nodes"), metadata={"name": "node-2"})
    node["status"] = {
        **node["status"],
        "conditions": [{"type": "Ready", "status": "Unknown", "lastTransitionTime": BEGAN}],
    }
    cluster.objects["nodes"].append(node)
    kasm.unready("db")
    kasm.pod("db")["spec"]["nodeName"] = "node-2"
    kasm.at_step("api", "db")


@fault("kasm_on_lost_node")
def node_gone(cluster: Cluster) -> None:
    kasm = Kasm(cluster, A)
    kasm.unready("share")
    kasm.pod("share")["spec"]["nodeName"] = "node-9"


@fault("kasm_out_of_memory")
def memory_too_small(cluster: Cluster) -> None:
    kasm = Kasm(cluster, C)
    ended = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    kasm.unready("api", state={"waiting": {"reason": "CrashLoopBackOff"}}, lastState=ended, restartCount=2)


@fault("kasm_cannot_start")
def program_missing(cluster: Cluster) -> None:
    kasm = Kasm(cluster, B)
    words = 'exec: "/usr/bin/startup.sh": stat /usr/bin/startup.sh: no such file or directory'
    kasm.unready("manager", state={"waiting": {"reason": "RunContainerError", "message": words}})


@fault("kasm_crashes")
def init_container_fails(cluster: Cluster) -> None:
    kasm = Kasm(cluster, B)
    kasm.at_place("proxy", 0, state={"terminated": {"exitCode": 1, "reason": "Error"}}, restartCount=2)


@fault("kasm_volume_not_writable")
def database_may_not_write(cluster: Cluster) -> None:
    kasm = Kasm(cluster, A)
    ended = {"terminated": {"exitCode": 1, "reason": "Error"}}
    kasm.unready("db", state={"waiting": {"reason": "CrashLoopBackOff"}}, lastState=ended, restartCount=4)
    pod = kasm.pod("db")
    container = pod["spec"]["containers"][0]["name"]
    said = "mkdir: cannot create directory '/var/lib/postgresql/data': Permission denied"
    cluster.logs[f"kasm/{pod['metadata']['name']}/{container}"] = ["starting", said]


@fault("kasm_service_missing")
def name_wrong(cluster: Cluster) -> None:
    kasm = Kasm(cluster, B)
    kasm.at_step("manager", "api")
    container = kasm.pod("manager")["spec"]["initContainers"][0]
    container["args"] = [
        "while ! curl http://kasm-apis.kasm.svc.cluster.local:8080/api/__healthcheck; do sleep 5; done"
    ]


@fault("kasm_service_selects_nothing")
def selector_wrong(cluster: Cluster) -> None:
    kasm = Kasm(cluster, A)
    kasm.find("services", "api")["spec"]["selector"] = {"app.kubernetes.io/name": "kasm-api-server"}
    kasm.without_endpoints("api")
    kasm.at_step("proxy", "api")


@fault("kasm_service_port_wrong")
def port_of_the_service_wrong(cluster: Cluster) -> None:
    kasm = Kasm(cluster, C)
    kasm.find("services", "manager")["spec"]["ports"] = [{"port": 8180}]
    kasm.at_step("proxy", "manager")


@fault("kasm_service_port_wrong")
def target_port_wrong(cluster: Cluster) -> None:
    Kasm(cluster, C).find("services", "proxy")["spec"]["ports"] = [{"port": 8080, "targetPort": 9090}]


@fault("kasm_service_silent")
def answers_do_not_come_through(cluster: Cluster) -> None:
    Kasm(cluster, C).at_step("proxy", "manager")


@fault("kasm_outside_silent")
def external_database_silent(cluster: Cluster) -> None:
    kasm = Kasm(cluster, C)
    kasm.at_step("api", "db")
    kasm.pod("api")["spec"]["initContainers"][-1]["env"][0]["value"] = "pg.example.com"


@fault("dns_down")
def names_are_not_found(cluster: Cluster) -> None:
    kasm = Kasm(cluster, A)
    labels = {"k8s-app": "kube-dns"}
    meta = {"name": "coredns", "namespace": "kube-system", "labels": labels, "creationTimestamp": BEGAN}
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": {"spec": {"containers": []}}}
    cluster.objects["deployments"].append({"metadata": meta, "spec": spec, "status": {}})
    kasm.at_step("proxy", "api")


@fault("kasm_db_init_failed")
def tables_not_made(cluster: Cluster) -> None:
    kasm = Kasm(cluster, B)
    failed = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "too many attempts"}
    kasm.workload("db-init")["status"] = {"conditions": [failed]}
    kasm.at_step("api", "db")


@fault("kasm_database_not_initialised")
def no_one_makes_tables(cluster: Cluster) -> None:
    kasm = Kasm(cluster, C)
    cluster.drop("jobs", "kasm-db-init")
    kasm.at_step("api", "db")
    kasm.at_step("manager", "db")


@fault("kasm_database_not_initialised")
def password_changed(cluster: Cluster) -> None:
    Kasm(cluster, A).at_step("api", "db")


@fault("kasm_circular_wait")
def circle_of_waits(cluster: Cluster) -> None:
    kasm = Kasm(cluster, C)
    kasm.add_wait("proxy", "kasm-guac-is-ready")
    kasm.at_step("proxy", "guac")
    kasm.at_step("guac", "proxy")
    kasm.at_step("rdp-gateway", "proxy")


@fault("kasm_start_stalled")
def an_init_container_hangs_and_does_not_say_on_whom(cluster: Cluster) -> None:
    kasm = Kasm(cluster, C)
    kasm.pod("api")["spec"]["initContainers"].insert(0, {"name": "own-step", "image": "example.com/own:1"})
    kasm.pod("api")["status"]["initContainerStatuses"].insert(0, {"name": "own-step"})
    kasm.at_place("api", 0)
    kasm.at_step("proxy", "api")


@fault("kasm_start_stalled")
def no_one_says_why(cluster: Cluster) -> None:
    Kasm(cluster, A).unready("redis", state={"running": {"startedAt": BEGAN}})
