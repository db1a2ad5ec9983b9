"""Faults of a running installation, written without knowledge of the doctor's checks.

Each fault is a context: it breaks the node or an object, lasts, and restores what it has broken.
Beside it stand the root cause in an expert's words, and the words that the doctor's first finding
must contain.
"""

import base64
import copy
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from doctor.node_faults import RELEASE, SYSTEM, applied, environment, replicas, taken_away, without
from e2e.conftest import NAME
from e2e.desktops import Object, home_claim_of, reach, run_in, start, template
from e2e.world import NAMESPACE, World
from support.certificates import self_signed
from support.waiting import wait_until
from vdi.api.meta import RELEASE_NAMESPACE
from vdi.demo.run import DOMAIN
from vdi.devcluster import cluster
from vdi.devcluster.layout import layout_of
from vdi.devcluster.status import ComponentStatus

Break = Callable[[World], Iterator[None]]
NODE = f"vdi-{NAME}"
SESSIONS = ("-n", NAMESPACE)
_TRAEFIK_API, _VDI_API = "traefik.io/v1alpha1", "vdi.kasm.io/v1alpha1"
_ADMISSION_API = "admissionregistration.k8s.io/v1"
# A home that ends with its session: a home of an earlier run would already have its volume.
_OWN_HOME = {"scope": "Session"}


@dataclass(frozen=True)
class Fault:
    """A fault with the root cause that an expert names."""

    cause: str
    # Alternatives: one of these names and one of these words must be in the finding. Case does not
    # matter.
    objects: tuple[str, ...]
    words: tuple[str, ...]
    make: Callable[[World], AbstractContextManager[None]]
    # An object of the release that someone has changed. Its difference from Helm's manifest is the
    # cause, too: it names field, expected and observed value, and the command that restores it.
    differs: str = ""


FAULTS: dict[str, Fault] = {}


def fault(
    *, cause: str, objects: tuple[str, ...], words: tuple[str, ...], differs: str = ""
) -> Callable[[Break], Break]:
    """Registers a generator as a fault: it breaks up to its `yield`, and restores after it."""

    def register(make: Break) -> Break:
        FAULTS[make.__name__] = Fault(cause, objects, words, contextmanager(make), differs)
        return make

    return register


# Changes that are undone


def read(world: World, where: tuple[str, ...], kind: str, name: str) -> Object:
    found: Object = json.loads(world.kubectl(*where, "get", kind, name, "-o", "json"))
    return found


@contextmanager
def edited(
    world: World, where: tuple[str, ...], kind: str, name: str, change: Callable[[Object], object]
) -> Iterator[None]:
    """An object as someone has edited it by hand, while the context lasts."""
    before = read(world, where, kind, name)
    # So that `replace` overwrites what controllers write meanwhile.
    del before["metadata"]["resourceVersion"]
    after = copy.deepcopy(before)
    change(after)
    world.kubectl(*where, "replace", "-f", "-", stdin=json.dumps(after))
    try:
        yield
    finally:
        world.kubectl(*where, "replace", "-f", "-", stdin=json.dumps(before))


def replace_pods(world: World, component: str) -> None:
    """Delete the pods of the operator or the gateway. A rollout would keep the old ones when new
    ones do not start.
    """
    selector = f"app.kubernetes.io/component={component}"
    world.kubectl(*RELEASE, "delete", "pod", "-l", selector, "--wait=true", "--timeout=60s")


def restart(world: World, where: tuple[str, ...], name: str) -> None:
    """Restart a Deployment, and wait until all its pods are new and ready."""
    world.kubectl(*where, "rollout", "restart", f"deployment/{name}")
    world.kubectl(*where, "rollout", "status", f"deployment/{name}", "--timeout=180s")


@contextmanager
def restarted_after(world: World, where: tuple[str, ...], name: str) -> Iterator[None]:
    """The outermost context of a fault that is read at start: a restart after the inner contexts
    have restored it.
    """
    try:
        yield
    finally:
        restart(world, where, name)


def component_of(name: str) -> ComponentStatus:
    """A process of the node."""
    (found,) = [
        component for component in cluster.status(NAME).components if component.name == name
    ]
    return found


@contextmanager
def stopped(name: str) -> Iterator[None]:
    """A process of the node that exists and does nothing, while the context lasts."""
    pid = component_of(name).pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def firewall(*rule: str) -> Iterator[None]:
    """A rule at the top of a chain in the node's network namespace, while the context lasts."""
    iptables = ["nsenter", "--target", str(component_of("kubelet").pid), "--net", "iptables", "-w"]
    subprocess.run([*iptables, "-I", *rule], check=True, capture_output=True)
    try:
        yield
    finally:
        # The namespace is the same, but the kubelet may have another process id.
        iptables[2] = str(component_of("kubelet").pid)
        subprocess.run([*iptables, "-D", *rule], check=True, capture_output=True)


def restart_kubelet() -> None:
    """End the kubelet, and wait until the supervisor has started it again."""
    before = component_of("kubelet").pid
    os.kill(before, signal.SIGTERM)

    def runs_again() -> bool:
        now = component_of("kubelet")
        return now.state == "running" and now.pid not in (0, before)

    wait_until("the kubelet runs again", runs_again, 90, every=1.0)


# Objects


def config_map(name: str, **data: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "data": data,
    }


def in_sessions(api: str, kind: str, name: str, spec: Object) -> Object:
    """An object of the sessions' namespace."""
    return {
        "apiVersion": api,
        "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    }


def allowed_pod(name: str) -> Object:
    """A pod that Pod Security `restricted` allows."""
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {"name": "main", "image": "localhost/vdi/desktop:dev", "securityContext": security}
    pod = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    return in_sessions("v1", "Pod", name, {"containers": [container], "securityContext": pod})


def certificate_with_another_key(host: str) -> dict[str, str]:
    """`stringData` of a TLS Secret: a valid certificate, and the private key of another one."""
    (certificate, _), (_, key) = (self_signed(host, days=90) for _ in range(2))
    return {"tls.crt": certificate, "tls.key": key}


# Objects edited by hand


@fault(
    cause=(
        "The Service vdi-gateway sends its port 8081 to port 9091 of the pod, and the gateway does"
        " not listen there."
    ),
    objects=("vdi-gateway",),
    words=("targetPort", "target port", "9091"),
)
def the_gateways_service_has_another_target_port(world: World) -> Iterator[None]:
    def change(service: Object) -> None:
        (port,) = [port for port in service["spec"]["ports"] if port["name"] == "internal"]
        port["targetPort"] = 9091

    with edited(world, RELEASE, "service", "vdi-gateway", change):
        start(world, "porter", "small")
        yield


@fault(
    cause="The selector of the Service vdi-gateway has the label track=stable, which no pod has.",
    objects=("vdi-gateway",),
    words=("selector", "selects no", "matches no pod"),
)
def the_gateways_service_selects_no_pod(world: World) -> Iterator[None]:
    with edited(
        world,
        RELEASE,
        "service",
        "vdi-gateway",
        lambda service: service["spec"]["selector"].update(track="stable"),
    ):
        yield


@fault(
    cause=(
        "The EndpointSlice vdi-gateway-restored adds a dead address, 10.255.255.9, to the Service"
        " vdi-gateway."
    ),
    objects=("vdi-gateway-restored", "10.255.255.9"),
    words=("endpoint", "address"),
)
def a_restored_endpoint_is_dead(world: World) -> Iterator[None]:
    """One of two requests to the gateway is lost."""
    meta = {
        "name": "vdi-gateway-restored",
        "namespace": RELEASE_NAMESPACE,
        "labels": {"kubernetes.io/service-name": "vdi-gateway"},
    }
    body: Object = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": meta,
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.255.255.9"], "conditions": {"ready": True}}],
        "ports": [{"name": "http", "port": 8080}, {"name": "internal", "port": 8081}],
    }
    with applied(world, body):
        yield


@fault(
    cause=(
        "The portal's IngressRoute vdi-gateway names the entry point `https`; Traefik's entry point"
        " is `websecure`."
    ),
    objects=("vdi-gateway",),
    words=("entryPoint", "entry point"),
)
def the_portals_route_has_another_entry_point(world: World) -> Iterator[None]:
    with edited(
        world,
        RELEASE,
        "ingressroutes.traefik.io",
        "vdi-gateway",
        lambda route: route["spec"].update(entryPoints=["https"]),
    ):
        yield


@fault(
    cause="The Middleware vdi-edge-auth asks vdi-gateway.kasm.svc, a Service that does not exist.",
    objects=("vdi-edge-auth",),
    words=("forwardAuth", "address", "vdi-gateway.kasm"),
)
def the_edge_asks_a_gateway_of_another_namespace(world: World) -> Iterator[None]:
    """An example of the documentation, applied as it is. Every desktop answers 500."""
    address = "http://vdi-gateway.kasm.svc:8081/edge/verify"
    with edited(
        world,
        SESSIONS,
        "middlewares.traefik.io",
        "vdi-edge-auth",
        lambda middleware: middleware["spec"]["forwardAuth"].update(address=address),
    ):
        start(world, "edgar", "small", wait=False)  # its address responds with 500
        reach(world, "edgar", "Running")
        yield


@fault(
    cause=(
        "The Middleware vdi-edge no longer contains vdi-edge-auth: desktops are served without the"
        " gateway's check."
    ),
    objects=("vdi-edge",),
    words=("vdi-edge-auth", "forwardAuth", "without the gateway", "gateway's check"),
)
def the_edge_no_longer_asks_the_gateway(world: World) -> Iterator[None]:
    """A quick fix during an outage that no one has taken back."""
    with edited(
        world,
        SESSIONS,
        "middlewares.traefik.io",
        "vdi-edge",
        lambda middleware: middleware["spec"]["chain"].update(
            middlewares=[{"name": "vdi-edge-headers"}]
        ),
    ):
        start(world, "open", "small")
        yield


@fault(
    cause=(
        "The TLSOption `default` demands a client certificate for every host that Traefik serves."
    ),
    objects=("TLSOption",),
    words=("client cert", "clientAuth"),
)
def traefik_demands_client_certificates(world: World) -> Iterator[None]:
    """Traefik uses a TLSOption with this name for all routes, whatever its namespace."""
    meta = {"name": "default", "namespace": RELEASE_NAMESPACE}
    spec = {"clientAuth": {"clientAuthType": "RequireAnyClientCert"}}
    with applied(
        world, {"apiVersion": _TRAEFIK_API, "kind": "TLSOption", "metadata": meta, "spec": spec}
    ):
        yield


@fault(
    cause=(
        "The private key in the Secret portal-tls does not belong to its certificate: Traefik does"
        " not use it."
    ),
    objects=("portal-tls",),
    words=("private key", "not match", "does not belong"),
)
def the_portals_certificate_has_another_key(world: World) -> Iterator[None]:
    """A renewal by hand that replaced one of the two files."""
    secret: Object = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": "portal-tls", "namespace": RELEASE_NAMESPACE},
        "stringData": certificate_with_another_key(f"*.{DOMAIN}"),
    }
    with (
        applied(world, secret),
        edited(
            world,
            RELEASE,
            "ingressroutes.traefik.io",
            "vdi-gateway",
            lambda route: route["spec"].update(tls={"secretName": "portal-tls"}),
        ),
    ):
        yield


# Admission, quotas and classes


@fault(
    cause=(
        "The webhook session-audit refuses every status of a session, because its Service does not"
        " exist."
    ),
    objects=("session-audit",),
    words=("webhook",),
)
def a_webhook_refuses_the_status_of_sessions(world: World) -> Iterator[None]:
    """The remains of a product that was uninstalled. The operator works, but cannot write what it
    does.
    """
    hook = {
        "name": "sessions.audit.example.com",
        "clientConfig": {"service": {"namespace": "default", "name": "session-audit", "path": "/"}},
        "rules": [
            {
                "apiGroups": ["vdi.kasm.io"],
                "apiVersions": ["*"],
                "operations": ["UPDATE"],
                "resources": ["vdisessions/status"],
            }
        ],
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 1,
    }
    body: Object = {"apiVersion": _ADMISSION_API, "kind": "ValidatingWebhookConfiguration"}
    with applied(world, {**body, "metadata": {"name": "session-audit"}, "webhooks": [hook]}):
        start(world, "audited", "small", wait=False)
        yield


@fault(
    cause=(
        "The ValidatingAdmissionPolicy cost-centres refuses desktops, which do not have the label"
        " cost-centre."
    ),
    objects=("cost-centres",),
    words=("label", "admission", "denied"),
)
def a_policy_demands_a_label_of_pods(world: World) -> Iterator[None]:
    rule = {
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "operations": ["CREATE"],
        "resources": ["pods"],
    }
    where = {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}}
    expression = "has(object.metadata.labels) && 'cost-centre' in object.metadata.labels"
    policy: Object = {
        "apiVersion": _ADMISSION_API,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "cost-centres"},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [rule], "namespaceSelector": where},
            "validations": [
                {"expression": expression, "message": "every pod needs the label cost-centre"}
            ],
        },
    }
    binding: Object = {
        "apiVersion": _ADMISSION_API,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "cost-centres"},
        "spec": {"policyName": "cost-centres", "validationActions": ["Deny"]},
    }
    trial = json.dumps(allowed_pod("trial"))

    def in_force() -> bool:
        words = world.kubectl("create", "--dry-run=server", "-f", "-", stdin=trial, check=False)
        return "needs the label cost-centre" in words

    with applied(world, policy), applied(world, binding):
        wait_until("the policy is in force", in_force, 30, every=0.5)
        start(world, "labelled", "small", wait=False)
        yield


@fault(
    cause=(
        "The binding of the policy vdi-who-may-name-whom was deleted: anyone may create sessions"
        " for other users."
    ),
    objects=("vdi-who-may-name-whom",),
    words=("binding", "policy"),
)
def the_policy_about_users_is_not_bound(world: World) -> Iterator[None]:
    name = f"vdi-who-may-name-whom.{RELEASE_NAMESPACE}.vdi"
    with taken_away(world, "validatingadmissionpolicybinding", name):
        yield


@fault(
    cause=(
        "The LimitRange container-limits allows containers 1Gi of memory, less than the template"
        " `small` has."
    ),
    objects=("container-limits",),
    words=("LimitRange", "maximum memory"),
)
def a_limit_range_is_below_the_template(world: World) -> Iterator[None]:
    limits = {"limits": [{"type": "Container", "max": {"memory": "1Gi"}}]}
    with applied(world, in_sessions("v1", "LimitRange", "container-limits", limits)):
        start(world, "thrifty", "small", wait=False)
        yield


@fault(
    cause=(
        "The ResourceQuota small-disk allows 1Gi of storage in the namespace, and a new home"
        " requests 10Gi."
    ),
    objects=("small-disk",),
    words=("quota", "requests.storage"),
)
def a_quota_lets_no_home_in(world: World) -> Iterator[None]:
    quota = in_sessions("v1", "ResourceQuota", "small-disk", {"hard": {"requests.storage": "1Gi"}})

    def is_counted() -> bool:
        return bool((world.get("resourcequota", "small-disk") or {}).get("status", {}).get("hard"))

    with applied(world, quota), template(world, "camp", persistence=_OWN_HOME) as name:
        wait_until("the quota is counted", is_counted, 60)  # one without status does not count yet
        start(world, "camper", name, wait=False)
        yield


@fault(
    cause="The template `urgent` names the PriorityClass desktops-gold, which does not exist.",
    objects=("desktops-gold",),
    words=("PriorityClass",),
)
def a_priority_class_is_missing(world: World) -> Iterator[None]:
    with template(
        world, "urgent", podTemplate={"spec": {"priorityClassName": "desktops-gold"}}
    ) as name:
        start(world, "hurry", name, wait=False)
        yield


@fault(
    cause="The template `accelerated` names the RuntimeClass nvidia, which does not exist.",
    objects=("nvidia",),
    words=("RuntimeClass",),
)
def a_runtime_class_is_missing(world: World) -> Iterator[None]:
    """A K3s from before NVIDIA's container toolkit was installed."""
    with template(world, "accelerated", placement={"runtimeClassName": "nvidia"}) as name:
        start(world, "runner", name, wait=False)
        yield


@fault(
    cause=(
        "The namespace kube-system enforces Pod Security `restricted`, which refuses local-path's"
        " helper pods."
    ),
    objects=("kube-system",),
    words=("Pod Security", "PodSecurity"),
)
def pod_security_stops_the_provisioner(world: World) -> Iterator[None]:
    """Hardening by a checklist. What runs goes on; the next new home waits."""
    label = "pod-security.kubernetes.io/enforce"
    world.kubectl("label", "namespace", "kube-system", f"{label}=restricted", "--overwrite")
    try:
        with template(world, "hardened", persistence=_OWN_HOME) as name:
            start(world, "checked", name, wait=False)
            yield
    finally:
        world.kubectl("label", "namespace", "kube-system", f"{label}-")


# The node


@fault(
    cause=(
        f"The node {NODE} has the taint dedicated=training:NoSchedule, which no template tolerates."
    ),
    objects=(NODE,),
    words=("taint",),
)
def the_node_is_tainted(world: World) -> Iterator[None]:
    world.kubectl("taint", "node", NODE, "dedicated=training:NoSchedule")
    try:
        start(world, "trainee", "small", wait=False)
        yield
    finally:
        world.kubectl("taint", "node", NODE, "dedicated-")


@fault(
    cause=(
        f"The label kubernetes.io/hostname of node {NODE} was changed: the volumes of its homes"
        " name the old value."
    ),
    objects=(NODE,),
    words=("label", "kubernetes.io/hostname"),
)
def the_nodes_host_name_label_is_changed(world: World) -> Iterator[None]:
    label = "kubernetes.io/hostname"
    before = read(world, (), "node", NODE)["metadata"]["labels"][label]
    start(world, "settler", "small")
    world.vdi("session", "suspend", "settler")
    reach(world, "settler", "Suspended")
    world.kubectl("label", "node", NODE, f"{label}=gpu-rack-1", "--overwrite")
    try:
        world.vdi("session", "resume", "settler")
        yield
    finally:
        world.kubectl("label", "node", NODE, f"{label}={before}", "--overwrite")


@fault(
    cause=f"The node {NODE} offers 0 nvidia.com/gpu: its device plugin no longer reports them.",
    objects=(NODE,),
    words=("nvidia.com/gpu",),
)
def the_nodes_gpus_are_gone(world: World) -> Iterator[None]:
    """As after an error of the driver. The process that advertises simulated GPUs stands still
    meanwhile.
    """
    numbers = {"nvidia.com/gpu": "0"}
    status = json.dumps({"status": {"capacity": numbers, "allocatable": numbers}})
    with stopped("fake-gpus"), template(world, "render", resources={"defaultGPU": 1}) as name:
        world.kubectl(
            "patch", "node", NODE, "--subresource=status", "--type=merge", "--patch", status
        )
        start(world, "artist", name, wait=False)
        yield


@fault(
    cause=(
        "VDI_GPU_RESOURCE of the operator is nvidia.com/gpu.shared, but the node offers"
        " nvidia.com/gpu."
    ),
    objects=("nvidia.com/gpu.shared",),
    words=("advertise", "offer", "no node has", "VDI_GPU_RESOURCE", "gpuResource"),
)
def the_operator_requests_gpus_by_another_name(world: World) -> Iterator[None]:
    with (
        environment(world, "vdi-operator", "VDI_GPU_RESOURCE=nvidia.com/gpu.shared"),
        template(world, "shared", resources={"defaultGPU": 1}) as name,
    ):
        world.kubectl(*RELEASE, "rollout", "status", "deployment/vdi-operator", "--timeout=120s")
        start(world, "sharer", name, wait=False)
        yield


@fault(
    cause=(
        f"containerd on node {NODE} does not respond, so the kubelet reports the node as not ready."
    ),
    objects=(NODE,),
    words=("containerd", "container runtime", "PLEG"),
)
def containerd_hangs(world: World) -> Iterator[None]:
    with stopped("containerd"):
        yield


@fault(
    cause="kube-scheduler does not work: the desktop's pod has no node, and no one says why.",
    objects=("scheduler",),
    words=(
        "kube-scheduler",
        "scheduler does not",
        "scheduler is not",
        "scheduler has not",
        "no scheduler",
    ),
)
def the_scheduler_hangs(world: World) -> Iterator[None]:
    with stopped("kube-scheduler"):
        start(world, "unplaced", "small", wait=False)
        yield


@fault(
    cause=(
        "kube-controller-manager does not work: no EndpointSlice is made, so Traefik cannot reach"
        " new desktops."
    ),
    objects=("controller-manager", "controller manager"),
    words=("endpoint", "does not", "is not", "not run", "down", "hangs"),
)
def the_controller_manager_hangs(world: World) -> Iterator[None]:
    """The desktop has no home, whose volume would wait too. It becomes Running, and its address
    answers 503.
    """
    with (
        stopped("kube-controller-manager"),
        template(world, "homeless", persistence={"enabled": False}) as name,
    ):
        start(world, "unrouted", name, wait=False)
        yield


@fault(
    cause=(
        f"The kubelet's evictionSoft counts the disk of node {NODE} as full below 99 % free space."
    ),
    objects=(NODE,),
    words=("DiskPressure", "disk pressure", "disk"),
)
def the_kubelet_calls_its_disk_full(world: World) -> Iterator[None]:
    """The grace period of an hour keeps the kubelet from evictions meanwhile."""
    file = layout_of(NAME).config / "kubelet.json"
    before = file.read_text()
    soft = {
        "evictionSoft": {"nodefs.available": "99%"},
        "evictionSoftGracePeriod": {"nodefs.available": "1h"},
    }
    file.write_text(json.dumps(json.loads(before) | soft))
    try:
        restart_kubelet()
        world.kubectl("wait", f"node/{NODE}", "--for=condition=DiskPressure=True", "--timeout=90s")
        start(world, "packer", "small", wait=False)
        yield
    finally:
        file.write_text(before)
        restart_kubelet()
        world.kubectl("wait", f"node/{NODE}", "--for=condition=DiskPressure=False", "--timeout=90s")
        # Pods that the kubelet has refused meanwhile: their controllers have made others.
        world.kubectl("delete", "pod", "-A", "--field-selector=status.phase=Failed")


@fault(
    cause=(
        f"A firewall on node {NODE} rejects port 10250: the API server reaches no log and no shell"
        " of its pods."
    ),
    objects=(NODE, "10250"),
    words=("10250", "kubelet"),
)
def a_firewall_closes_the_kubelets_port(world: World) -> Iterator[None]:
    start(world, "mute", "small")
    with firewall("INPUT", "-p", "tcp", "--dport", "10250", "-j", "REJECT"):
        yield


# Network and names


@fault(
    cause=(
        "A firewall on the node drops what pods send to the API server: the operator and the"
        " gateway are cut off."
    ),
    objects=("API server", "kubernetes.default", "6443"),
    words=("reach", "timed out", "timeout", "no response", "respond", "connect"),
)
def a_firewall_parts_pods_from_the_api_server(world: World) -> Iterator[None]:
    """kubectl comes from outside the node and still works, so all looks well at first."""
    with firewall("INPUT", "-i", "veth+", "-p", "tcp", "--dport", "6443", "-j", "DROP"):
        yield


@fault(
    cause=(
        "The NetworkPolicy lock-down in kube-system lets no packet to CoreDNS, which is ready and"
        " answers no one."
    ),
    objects=("lock-down",),
    words=("NetworkPolicy", "network policy", "DNS"),
)
def a_network_policy_hides_the_dns(world: World) -> Iterator[None]:
    """The node enforces no policies: a packet rule does what K3s would. The kubelet's probes pass,
    as they do there.
    """
    meta = {"name": "lock-down", "namespace": "kube-system"}
    policy: Object = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": meta,
    }
    pods = json.loads(world.kubectl(*SYSTEM, "get", "pod", "-l", "k8s-app=kube-dns", "-o", "json"))[
        "items"
    ]
    with (
        applied(world, {**policy, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}),
        firewall("FORWARD", "-d", pods[0]["status"]["podIP"], "-j", "DROP"),
    ):
        yield


@fault(
    cause=(
        "The Corefile of CoreDNS serves the zone k8s.local, and pods ask for names in"
        " cluster.local."
    ),
    objects=("coredns",),
    words=("Corefile", "cluster.local", "zone"),
)
def coredns_serves_another_zone(world: World) -> Iterator[None]:
    def change(config: Object) -> None:
        config["data"]["Corefile"] = config["data"]["Corefile"].replace(
            "cluster.local", "k8s.local"
        )

    with (
        restarted_after(world, SYSTEM, "coredns"),
        edited(world, SYSTEM, "configmap", "coredns", change),
    ):
        restart(world, SYSTEM, "coredns")
        start(world, "nameless", "small", wait=False)  # Traefik no longer finds the gateway's name
        reach(world, "nameless", "Running")
        yield


@fault(
    cause=(
        "The gateway's VDI_OIDC_ISSUER, https://login.example.invalid, cannot be reached: no one"
        " can sign in there."
    ),
    objects=("login.example.invalid",),
    words=("issuer", "OIDC", "provider", "single sign-on"),
    differs=f"deployment/{RELEASE_NAMESPACE}/vdi-gateway",
)
def the_identity_provider_is_unknown(world: World) -> Iterator[None]:
    host = urlsplit(world.portal).netloc
    visit = (
        "import contextlib, urllib.request as u\nwith contextlib.suppress(OSError):\n   "
        f" u.urlopen(u.Request('http://127.0.0.1:8080/login/oidc', headers={{'Host': {host!r}}}),"
        " timeout=30)"
    )
    pairs = ("VDI_OIDC_ISSUER=https://login.example.invalid", "VDI_OIDC_CLIENT_ID=vdi")
    with environment(world, "vdi-gateway", *pairs):
        world.kubectl(*RELEASE, "rollout", "status", "deployment/vdi-gateway", "--timeout=120s")
        world.kubectl(*RELEASE, "exec", "deployment/vdi-gateway", "--", "python3", "-c", visit)
        yield


# Storage


@fault(
    cause=(
        f"The ConfigMap local-path-config lists node {NODE} without a path: the provisioner makes"
        " no volume there."
    ),
    objects=("local-path",),
    words=("no local path", "nodePathMap", "paths"),
)
def the_provisioner_has_no_folder(world: World) -> Iterator[None]:
    def change(config: Object) -> None:
        content = json.loads(config["data"]["config.json"])
        content["nodePathMap"].append({"node": NODE, "paths": []})
        config["data"]["config.json"] = json.dumps(content)

    with (
        restarted_after(world, SYSTEM, "local-path-provisioner"),
        template(world, "tent", persistence=_OWN_HOME) as name,
        edited(world, SYSTEM, "configmap", "local-path-config", change),
    ):
        restart(world, SYSTEM, "local-path-provisioner")
        start(world, "nomad", name, wait=False)
        yield


@fault(
    cause=(
        "Someone has deleted the claim of a home in use: its files are gone as soon as the desktop"
        " stops."
    ),
    objects=("home-keeper-small",),
    words=("terminating", "being deleted", "is deleted", "was deleted", "deletion"),
)
def a_home_in_use_is_being_deleted(world: World) -> Iterator[None]:
    start(world, "keeper", "small")
    claim = home_claim_of(world, "keeper")
    world.kubectl("delete", "pvc", claim, "--wait=false")
    try:
        yield
    finally:
        world.kubectl("delete", "vdi", "keeper", "--wait=true", "--timeout=60s")
        world.kubectl("wait", f"pvc/{claim}", "--for=delete", "--timeout=60s")


# Rights, tokens, settings and keys


@fault(
    cause=(
        "automountServiceAccountToken of the ServiceAccount vdi-operator is false: the operator has"
        " no token."
    ),
    objects=("vdi-operator",),
    words=("automount", "token"),
)
def the_operators_account_mounts_no_token(world: World) -> Iterator[None]:
    """Hardening by a script that edits every ServiceAccount. It shows at the next restart."""
    with (
        restarted_after(world, RELEASE, "vdi-operator"),
        edited(
            world,
            RELEASE,
            "serviceaccount",
            "vdi-operator",
            lambda account: account.update(automountServiceAccountToken=False),
        ),
    ):
        replace_pods(world, "operator")
        yield


@fault(
    cause=(
        "The Role vdi-operator no longer allows `create` on secrets, so new desktops get no Secret."
    ),
    objects=("vdi-operator",),
    words=("secrets",),
)
def the_operator_may_create_no_secrets(world: World) -> Iterator[None]:
    """A review of rights that went too far: all the rest of the Role is as it was."""

    def change(role: Object) -> None:
        (rule,) = [rule for rule in role["rules"] if "secrets" in rule["resources"]]
        rule["resources"].remove("secrets")
        verbs = [verb for verb in rule["verbs"] if verb != "create"]
        role["rules"].append({"apiGroups": [""], "resources": ["secrets"], "verbs": verbs})

    with edited(world, SESSIONS, "role", "vdi-operator", change):
        start(world, "secretive", "small", wait=False)
        yield


@fault(
    cause=(
        "The ConfigMap vdi-gateway has the key limits.yml, and the gateway reads limits.yaml: it"
        " does not start."
    ),
    objects=("vdi-gateway",),
    words=("limits.yaml",),
)
def the_limits_have_another_file_name(world: World) -> Iterator[None]:
    with (
        restarted_after(world, RELEASE, "vdi-gateway"),
        edited(
            world,
            RELEASE,
            "configmap",
            "vdi-gateway",
            lambda config: config.update(data={"limits.yml": config["data"]["limits.yaml"]}),
        ),
    ):
        replace_pods(world, "gateway")
        yield


@fault(
    cause=(
        "The key in the Secret vdi-desktop-key is too short: the operator works on no session"
        " without a good key."
    ),
    objects=("vdi-desktop-key",),
    words=("32 bytes", "too short", "no entry", "backup"),
    differs=f"secret/{RELEASE_NAMESPACE}/vdi-desktop-key",
)
def the_desktops_key_was_restored_badly(world: World) -> Iterator[None]:
    meta = {"name": "vdi-desktop-key", "namespace": RELEASE_NAMESPACE}
    data = {"key": base64.b64encode(b"restored").decode()}
    short: Object = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": meta,
        "immutable": True,
        "data": data,
    }
    with (
        restarted_after(world, RELEASE, "vdi-operator"),
        taken_away(world, *RELEASE, "secret", "vdi-desktop-key"),
        applied(world, short),
    ):
        replace_pods(world, "operator")
        start(world, "keyless", "small", wait=False)
        yield


@fault(
    cause=(
        "A second operator, vdi-operator-canary, holds the Lease and makes routes for another"
        " domain, all refused."
    ),
    objects=("vdi-operator-canary",),
    words=("Lease", "leader", "leads", "second operator", "another operator", "two operators"),
)
def a_second_operator_leads(world: World) -> Iterator[None]:
    """A copy of the Deployment for a trial. The release's own operators are healthy, and stand
    by.
    """
    deployment = read(world, RELEASE, "deployment", "vdi-operator")["spec"]
    labels = {"app": "vdi-operator-canary"}
    pod = {**deployment["template"], "metadata": {"labels": labels}}
    (domain,) = [one for one in pod["spec"]["containers"][0]["env"] if one["name"] == "VDI_DOMAIN"]
    domain["value"] = "desktops.example.com"
    canary: Object = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "vdi-operator-canary", "namespace": RELEASE_NAMESPACE},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": pod},
    }

    def canary_leads() -> bool:
        lease = read(world, SESSIONS, "lease", "vdi-operator")["spec"]
        return str(lease.get("holderIdentity", "")).startswith("vdi-operator-canary")

    with applied(world, canary):
        world.kubectl(
            *RELEASE, "rollout", "status", "deployment/vdi-operator-canary", "--timeout=120s"
        )
        with without(world, RELEASE, "vdi-operator"):
            wait_until("the canary leads", canary_leads, 60, every=1.0)
        start(world, "misled", "small", wait=False)
        yield


@fault(
    cause=(
        "The CRD vdisessions.vdi.kasm.io has lost its subresource `status`: the operator can write"
        " no status."
    ),
    objects=("vdisessions.vdi.kasm.io", "vdisessions"),
    words=("subresource", "CRD", "CustomResourceDefinition"),
)
def the_crd_has_no_status(world: World) -> Iterator[None]:
    """As after a conversion by a tool that knows only schemas."""

    def change(crd: Object) -> None:
        for version in crd["spec"]["versions"]:
            version.get("subresources", {}).pop("status", None)

    with edited(world, (), "crd", "vdisessions.vdi.kasm.io", change):
        start(world, "stateless", "small", wait=False)
        yield


@fault(
    cause=(
        "The finalizer backup.example.com/wait keeps the session from being deleted; no one"
        " removes it."
    ),
    objects=("retired",),
    words=("finalizer",),
)
def a_finalizer_of_others_holds_a_session(world: World) -> Iterator[None]:
    theirs = "backup.example.com/wait"
    start(world, "retired", "small")
    addition = [{"op": "add", "path": "/metadata/finalizers/-", "value": theirs}]
    world.kubectl("patch", "vdi", "retired", "--type=json", "--patch", json.dumps(addition))
    world.kubectl("delete", "vdi", "retired", "--wait=false")
    try:
        yield
    finally:
        left = [
            one
            for one in read(world, SESSIONS, "vdi", "retired")["metadata"]["finalizers"]
            if one != theirs
        ]
        world.kubectl(
            "patch",
            "vdi",
            "retired",
            "--type=merge",
            "--patch",
            json.dumps({"metadata": {"finalizers": left}}),
        )


# The gateway and its database


@fault(
    cause=(
        "The gateway has 2 replicas on one SQLite file and without Redis: they do not share logins"
        " and revocations."
    ),
    objects=("vdi-gateway",),
    words=("Redis", "SQLite", "PostgreSQL"),
    differs=f"deployment/{RELEASE_NAMESPACE}/vdi-gateway",
)
def two_gateways_use_one_file(world: World) -> Iterator[None]:
    """The chart refuses this, kubectl does not."""
    world.kubectl(*RELEASE, "scale", "deployment", "vdi-gateway", "--replicas=2")
    try:
        yield
    finally:
        replicas(world, RELEASE, "vdi-gateway", 1)


@fault(
    cause="The gateway's volume `data` is mounted read-only, so it cannot write its database.",
    objects=("vdi-gateway",),
    words=("read-only", "readonly", "read only"),
)
def the_gateways_data_is_read_only(world: World) -> Iterator[None]:
    def change(deployment: Object) -> None:
        mounts = deployment["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
        (data,) = [mount for mount in mounts if mount["name"] == "data"]
        data["readOnly"] = True

    with (
        restarted_after(world, RELEASE, "vdi-gateway"),
        edited(world, RELEASE, "deployment", "vdi-gateway", change),
    ):
        yield


@fault(
    cause="The gateway's database /data/vdi.db is damaged: SQLite does not recognise the file.",
    objects=("vdi-gateway", "vdi.db"),
    words=("not a database", "malformed", "corrupt", "damaged"),
)
def the_database_is_damaged(world: World) -> Iterator[None]:
    """As a power cut can leave the first page of the file."""
    volume = read(world, RELEASE, "pvc", "vdi-gateway")["spec"]["volumeName"]
    spec = read(world, (), "pv", volume)["spec"]
    file = Path((spec.get("hostPath") or spec["local"])["path"]) / "vdi.db"
    replicas(world, RELEASE, "vdi-gateway", 0)
    content = file.read_bytes()
    try:
        file.write_bytes(b"\xff" * 4096 + content[4096:])
        world.kubectl(*RELEASE, "scale", "deployment", "vdi-gateway", "--replicas=1")
        yield
    finally:
        replicas(world, RELEASE, "vdi-gateway", 0)
        file.write_bytes(content)
        for part in ("-wal", "-shm"):
            file.with_name(file.name + part).unlink(missing_ok=True)
        replicas(world, RELEASE, "vdi-gateway", 1)


# Templates, pools and desktops


@fault(
    cause=(
        "The pool `icebox` uses the template `small`, whose desktops have a home: a pool cannot"
        " keep those ready."
    ),
    objects=("icebox",),
    words=("home",),
)
def a_pool_of_desktops_with_homes(world: World) -> Iterator[None]:
    spec = {"template": "small", "replicas": 1}
    with applied(
        world,
        {"apiVersion": _VDI_API, "kind": "VDIPool", "metadata": {"name": "icebox"}, "spec": spec},
    ):
        yield


@fault(
    cause="The template `over-tls` has scheme HTTPS, but its image serves HTTP: no probe succeeds.",
    objects=("over-tls",),
    words=("HTTPS", "scheme"),
)
def the_template_expects_https(world: World) -> Iterator[None]:
    with template(world, "over-tls", scheme="HTTPS") as name:
        start(world, "cipher", name, wait=False)
        yield


@fault(
    cause=(
        "lifecycle.maxTimeout of the template `brisk` is 20s: its desktops are suspended before"
        " they can be used."
    ),
    objects=("brisk",),
    words=("maxTimeout", "20s", "20 s"),
)
def the_template_ends_desktops_at_once(world: World) -> Iterator[None]:
    """20h was meant."""
    with template(world, "brisk", lifecycle={"maxTimeout": "20s", "onTimeout": "Suspend"}) as name:
        start(world, "sprinter", name, wait=False)
        reach(world, "sprinter", "Suspended", seconds=90)
        yield


@fault(
    cause=(
        "The ConfigMap welcome-script has no key startup.sh, which startupScript of the template"
        " names."
    ),
    objects=("welcome-script",),
    words=("startup.sh",),
)
def the_startup_script_has_another_key(world: World) -> Iterator[None]:
    script = {"configMapKeyRef": {"name": "welcome-script"}}
    with (
        applied(world, config_map("welcome-script", **{"start.sh": "#!/bin/sh\n"})),
        template(world, "greeting", startupScript=script) as name,
    ):
        start(world, "greeted", name, wait=False)
        yield


@fault(
    cause=(
        "The start-up script of the template `hoard` writes 300 MB to /tmp; its ephemeral storage"
        " is 100Mi."
    ),
    objects=("hoard",),
    words=("ephemeral", "local disk"),
)
def the_startup_script_fills_the_disk(world: World) -> Iterator[None]:
    """The kubelet evicts the desktop some seconds after each start."""
    resources = {"defaultGPU": 0, "maxMemory": "4Gi", "defaultEphemeralStorage": "100Mi"}
    script = {"configMapKeyRef": {"name": "filler"}}
    text = "#!/bin/sh\nhead -c 300000000 /dev/zero > /tmp/cache.bin\n"
    with (
        applied(world, config_map("filler", **{"startup.sh": text})),
        template(world, "hoard", startupScript=script, resources=resources) as name,
    ):
        start(world, "hoarder", name, wait=False)
        yield


@fault(
    cause=(
        "vdi-agent in the desktop `dozer` does not respond: the desktop never counts as idle and"
        " keeps its place."
    ),
    objects=("dozer",),
    words=("agent", "idle", "in use"),
)
def the_desktops_agent_hangs(world: World) -> Iterator[None]:
    """A stopped process in the desktop, whose picture goes on."""
    with template(world, "lapse", lifecycle={"idleTimeout": "1m"}) as name:
        start(world, "dozer", name)
        run_in(world, "dozer", "pkill -STOP -f '[v]di-agent'")
        yield
