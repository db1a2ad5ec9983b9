"""Faults of Kasm, hand-made: each breaks a healthy Kasm in one place. tests/kasm makes them for
real.
"""

from collections.abc import Callable

from unit.doctor.doctor_breaks import Faults
from unit.doctor.doctor_builders import BEGAN, deployment
from unit.doctor.kasm_builders import PLACE, Kasm
from vdi.kasm.generations.a import A
from vdi.kasm.generations.b import B
from vdi.kasm.generations.c import C
from vdi.kasm.generations.model import Generation

KASM_FAULTS = Faults(prefix="kasm_")
UNBOUND = "pod has unbound immediate PersistentVolumeClaims"
VIOLATION = (
    'pods "kasm-proxy-default-deployment-x" is forbidden: violates PodSecurity "restricted:latest":'
    ' runAsNonRoot != true (container "kasm-proxy-data-perms" must not set'
    " securityContext.runAsNonRoot=false)"
)


def fault(
    code: str, generation: Generation, name: str = ""
) -> Callable[[Callable[[Kasm], object]], None]:
    """A fault of a healthy Kasm of this generation, by the code of its cause."""

    def add(make: Callable[[Kasm], object]) -> None:
        KASM_FAULTS(code, name=name or make.__name__)(
            lambda cluster: make(Kasm(cluster, generation))
        )

    return add


@fault("kasm_probe_fails", A)
def init_1_of_5_in_a_is_the_manager(kasm: Kasm) -> None:
    kasm.pod("proxy")["spec"]["initContainers"].pop(0)  # without hardening
    kasm.pod("proxy")["status"]["initContainerStatuses"].pop(0)
    kasm.at_step("proxy", "manager")
    kasm.unready("manager", state={"running": {"startedAt": BEGAN}})
    kasm.warn_pod("manager", "Unhealthy", "Readiness probe failed: HTTP statuscode: 503")


@fault("kasm_crashes", B)
def init_1_of_5_in_b_is_the_api(kasm: Kasm) -> None:
    kasm.at_step("proxy", "api")
    ended = {"terminated": {"exitCode": 3, "reason": "Error"}}
    kasm.unready(
        "api", state={"waiting": {"reason": "CrashLoopBackOff"}}, lastState=ended, restartCount=4
    )
    pod = kasm.pod("api")
    container = pod["spec"]["containers"][0]["name"]
    kasm.cluster.logs[f"{PLACE}/{pod['metadata']['name']}/{container}"] = [
        "Traceback",
        "no such setting: zone",
    ]


def _unbound(kasm: Kasm, message: str, **spec: str) -> None:
    claim = kasm.cluster.one("persistentvolumeclaims", "data-kasm-db")
    claim["spec"], claim["status"] = spec, {"phase": "Pending"}
    kasm.off("db", message)


@fault("kasm_claim_class_missing", C)
def the_whole_chain_down_to_a_storage_class(kasm: Kasm) -> None:
    _unbound(kasm, f"{UNBOUND}.", storageClassName="longhorn")
    kasm.at_step("api", "db")
    kasm.at_step("manager", "api")
    kasm.at_step("proxy", "api")
    kasm.at_step("guac", "proxy")


@fault("kasm_claim_pending", A)
def provisioner_fails(kasm: Kasm) -> None:
    _unbound(kasm, "", storageClassName="local-path")
    kasm.warn(
        "PersistentVolumeClaim",
        "data-kasm-db",
        "ProvisioningFailed",
        "mkdir /data: permission denied",
    )


@fault("kasm_claim_pending", A)
def volume_lost(kasm: Kasm) -> None:
    kasm.cluster.one("persistentvolumeclaims", "data-kasm-db")["status"] = {"phase": "Lost"}
    kasm.off(
        "db",
        'persistentvolumeclaim "data-kasm-db" bound to non-existent persistentvolume "pv-kasm"',
    )


@fault("kasm_claim_missing", C)
def claim_gone(kasm: Kasm) -> None:
    kasm.cluster.drop("persistentvolumeclaims", "data-kasm-db")
    kasm.off("db", '0/1 nodes are available: persistentvolumeclaim "data-kasm-db" not found.')


@fault("kasm_pod_security", B)
def data_perms_refused(kasm: Kasm) -> None:
    kasm.without_pod("proxy")
    condition = {
        "type": "ReplicaFailure",
        "status": "True",
        "reason": "FailedCreate",
        "message": VIOLATION,
    }
    kasm.workload("proxy")["status"] = {"conditions": [condition]}


@fault("kasm_pods_refused", C)
def quota_reached(kasm: Kasm) -> None:
    kasm.without_pod("db")
    kasm.at_step("api", "db")
    failed = "create Pod kasm-db-1-19-0-0 in StatefulSet kasm-db-1-19-0 failed"
    note = f'{failed} error: pods "x" is forbidden: exceeded quota'
    kasm.warn("StatefulSet", "kasm-db-1-19-0", "FailedCreate", note)


@fault("kasm_pods_refused", C)
def job_refused(kasm: Kasm) -> None:
    kasm.workload("db-init")["status"] = {}
    kasm.at_step("api", "db")
    kasm.warn(
        "Job",
        "kasm-db-init",
        "FailedCreate",
        'Error creating: pods "x" is forbidden: exceeded quota: small',
    )


@fault("kasm_scaled_to_zero", A)
def database_stopped(kasm: Kasm) -> None:
    kasm.workload("db")["spec"]["replicas"] = 0
    kasm.without_pod("db")
    kasm.at_step("api", "db")
    kasm.at_step("proxy", "api")


@fault("kasm_unschedulable", C)
def too_large(kasm: Kasm) -> None:
    kasm.pod("api")["spec"]["containers"][0]["resources"] = {
        "requests": {"cpu": "100", "memory": "512Mi"}
    }
    kasm.off(
        "api", "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available"
    )
    kasm.at_step("proxy", "api")


@fault("kasm_unschedulable", C)
def no_scheduler(kasm: Kasm) -> None:
    kasm.off("manager")
    kasm.pod("manager")["status"]["conditions"] = []


@fault("kasm_image_unavailable", A)
def image_of_an_init_container(kasm: Kasm) -> None:
    waiting = {
        "reason": "ImagePullBackOff",
        "message": 'Back-off pulling image "alpine/curl:8.8.0"',
    }
    kasm.at_step("guac", "api", state={"waiting": waiting})
    kasm.warn_pod("guac", "Failed", "Failed to pull: dial tcp: i/o timeout")


@fault("kasm_reference_missing", B)
def key_missing(kasm: Kasm) -> None:
    words = "couldn't find key db-password in Secret kasm/kasm-secrets"
    kasm.at_step(
        "api", "db", state={"waiting": {"reason": "CreateContainerConfigError", "message": words}}
    )


@fault("kasm_reference_missing", C)
def secret_of_a_volume_missing(kasm: Kasm) -> None:
    kasm.at_place("proxy", 0, state={"waiting": {"reason": "PodInitializing"}})
    note = 'MountVolume.SetUp failed for volume "cert" : secret "kasm-tls" not found'
    kasm.warn_pod("proxy", "FailedMount", note)


@fault("kasm_volume_not_mounted", C)
def mount_fails(kasm: Kasm) -> None:
    kasm.unready("db", state={"waiting": {"reason": "ContainerCreating"}})
    kasm.warn_pod("db", "FailedMount", "mount.nfs: access denied by server")


@fault("kasm_network_broken", C)
def sandbox_fails(kasm: Kasm) -> None:
    kasm.at_place("manager", 0, state={"waiting": {"reason": "PodInitializing"}})
    kasm.warn_pod("manager", "FailedCreatePodSandBox", "no IP addresses available")


@fault("node_not_ready", A)
def node_lost(kasm: Kasm) -> None:
    lost = {"type": "Ready", "status": "Unknown", "lastTransitionTime": BEGAN}
    status = kasm.cluster.one("nodes")["status"] | {"conditions": [lost]}
    kasm.cluster.add("nodes", {"name": "node-2"}, spec={}, status=status)
    kasm.unready("db")
    kasm.pod("db")["spec"]["nodeName"] = "node-2"
    kasm.at_step("api", "db")


@fault("kasm_on_lost_node", A)
def node_gone(kasm: Kasm) -> None:
    kasm.unready("share")
    kasm.pod("share")["spec"]["nodeName"] = "node-9"


@fault("kasm_out_of_memory", C)
def memory_too_small(kasm: Kasm) -> None:
    ended = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    kasm.unready(
        "api", state={"waiting": {"reason": "CrashLoopBackOff"}}, lastState=ended, restartCount=2
    )


@fault("kasm_cannot_start", B)
def program_missing(kasm: Kasm) -> None:
    words = 'exec: "/usr/bin/startup.sh": stat /usr/bin/startup.sh: no such file or directory'
    kasm.unready("manager", state={"waiting": {"reason": "RunContainerError", "message": words}})


@fault("kasm_crashes", B)
def init_container_fails(kasm: Kasm) -> None:
    kasm.at_place(
        "proxy", 0, state={"terminated": {"exitCode": 1, "reason": "Error"}}, restartCount=2
    )


@fault("kasm_volume_not_writable", A)
def database_may_not_write(kasm: Kasm) -> None:
    ended = {"terminated": {"exitCode": 1, "reason": "Error"}}
    kasm.unready(
        "db", state={"waiting": {"reason": "CrashLoopBackOff"}}, lastState=ended, restartCount=4
    )
    pod = kasm.pod("db")
    container = pod["spec"]["containers"][0]["name"]
    said = "mkdir: cannot create directory '/var/lib/postgresql/data': Permission denied"
    kasm.cluster.logs[f"kasm/{pod['metadata']['name']}/{container}"] = ["starting", said]


@fault("kasm_service_missing", B)
def name_wrong(kasm: Kasm) -> None:
    kasm.at_step("manager", "api")
    container = kasm.pod("manager")["spec"]["initContainers"][0]
    container["args"] = [
        "while ! curl http://kasm-apis.kasm.svc.cluster.local:8080/api/__healthcheck; do x; done"
    ]


@fault("kasm_service_selects_nothing", A)
def selector_wrong(kasm: Kasm) -> None:
    kasm.find("services", "api")["spec"]["selector"] = {"app.kubernetes.io/name": "kasm-api-server"}
    kasm.without_endpoints("api")
    kasm.at_step("proxy", "api")


@fault("kasm_service_port_wrong", C)
def port_of_the_service_wrong(kasm: Kasm) -> None:
    kasm.find("services", "manager")["spec"]["ports"] = [{"port": 8180}]
    kasm.at_step("proxy", "manager")


@fault("kasm_outside_silent", C)
def external_database_silent(kasm: Kasm) -> None:
    kasm.at_step("api", "db")
    kasm.pod("api")["spec"]["initContainers"][-1]["env"][0]["value"] = "pg.example.com"


@fault("dns_down", A)
def names_are_not_found(kasm: Kasm) -> None:
    labels = {"k8s-app": "kube-dns"}
    dns = deployment("coredns", "kube-system", labels, {"containers": []})
    dns["metadata"]["labels"], dns["spec"]["replicas"], dns["status"] = labels, 0, {}
    kasm.cluster.objects["deployments"].append(dns)
    kasm.at_step("proxy", "api")


@fault("kasm_db_init_failed", B)
def tables_not_made(kasm: Kasm) -> None:
    failed = {
        "type": "Failed",
        "status": "True",
        "reason": "BackoffLimitExceeded",
        "message": "too many attempts",
    }
    kasm.workload("db-init")["status"] = {"conditions": [failed]}
    kasm.at_step("api", "db")


@fault("kasm_database_not_initialised", C)
def no_one_makes_tables(kasm: Kasm) -> None:
    kasm.cluster.drop("jobs", "kasm-db-init")
    kasm.at_step("api", "db")
    kasm.at_step("manager", "db")


@fault("kasm_circular_wait", C)
def circle_of_waits(kasm: Kasm) -> None:
    kasm.add_wait("proxy", "kasm-guac-is-ready")
    kasm.at_step("proxy", "guac")
    kasm.at_step("guac", "proxy")
    kasm.at_step("rdp-gateway", "proxy")


@fault("kasm_start_stalled", C)
def an_init_container_hangs_and_does_not_say_on_whom(kasm: Kasm) -> None:
    kasm.pod("api")["spec"]["initContainers"].insert(
        0, {"name": "own-step", "image": "example.com/own:1"}
    )
    kasm.pod("api")["status"]["initContainerStatuses"].insert(0, {"name": "own-step"})
    kasm.at_place("api", 0)
    kasm.at_step("proxy", "api")


_RUNS = {"running": {"startedAt": BEGAN}}
_PORTS = [{"port": 8080, "targetPort": 9090}]
_TABLE: tuple[tuple[str, Generation, str, Callable[[Kasm], object]], ...] = (
    (
        "kasm_claim_class_missing",
        B,
        "no_default_storage_class",
        lambda kasm: _unbound(kasm, UNBOUND),
    ),
    (
        "kasm_claim_pending",
        A,
        "provisioner_says_nothing",
        lambda kasm: _unbound(kasm, "", storageClassName="local-path"),
    ),
    ("kasm_pods_missing", B, "no_one_makes_pods", lambda kasm: kasm.without_pod("guac")),
    (
        "kasm_service_silent",
        C,
        "answers_do_not_come_through",
        lambda kasm: kasm.at_step("proxy", "manager"),
    ),
    (
        "kasm_service_port_wrong",
        C,
        "target_port_wrong",
        lambda kasm: kasm.find("services", "proxy")["spec"].update(ports=_PORTS),
    ),
    (
        "kasm_database_not_initialised",
        A,
        "password_changed",
        lambda kasm: kasm.at_step("api", "db"),
    ),
    ("kasm_start_stalled", A, "no_one_says_why", lambda kasm: kasm.unready("redis", state=_RUNS)),
)
for _code, _generation, _name, _make in _TABLE:
    fault(_code, _generation, _name)(_make)
