"""Checks of nodes, GPUs and volumes, and of pods that keep an autoscaler from removing a node.

What is wrong with shared GPUs is decided in `vdi.gpu.sharing.findings`, which `vdi gpu verify`
prints as well.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from vdi.api.session import VDISession
from vdi.cluster.units import format_duration
from vdi.doctor.codes import make_finding
from vdi.doctor.objects.components import Workload, find_operators, workloads
from vdi.doctor.objects.references import (
    local_path_namespaces,
    observe_gpus,
    open_modes,
    read_closed_modes,
)
from vdi.doctor.objects.routing import SERVICE
from vdi.doctor.objects.sessions import (
    HOST_NAME,
    OF_SESSIONS,
    SessionDiagnosis,
    active_sessions,
    find_relabelled,
    pinned_nodes,
)
from vdi.findings.model import Finding, Remedy, Severity
from vdi.gpu.sharing import findings as gpu
from vdi.gpu.sharing.config import RESOURCE
from vdi.kinds import SESSIONS
from vdi.session.autoscaling import PLACEHOLDER
from vdi.session.effective import Desktop
from vdi.session.lifetime import idle_timeout
from vdi.session.naming import HOLD, MANAGED_BY, TEMPLATE_ANNOTATION, service_name
from vdi.snapshot.check import check, merge_patch
from vdi.snapshot.model import NO_RESPONSE, Snapshot
from vdi.snapshot.objects.config import LOCAL_PATH_CONFIG, ConfigMap
from vdi.snapshot.objects.meta import Meta
from vdi.snapshot.objects.network import Service
from vdi.snapshot.objects.storage import Node, PersistentVolumeClaim, StorageClass
from vdi.snapshot.objects.workloads import Pod

_SYSTEM_LEASES = "leases@kube-system"
# Time without a renewal after which a component of the control plane does not work: it renews every
# 2 s.
_LEASE_SECONDS = 60.0
# Time that it has for a new pod or Service.
_CONTROL_PLANE_SECONDS = 30.0
_KUBELET_PORT = ":10250"
# Time that a provisioner has for a volume before its silence is reported.
_PROVISIONER_SECONDS = 60.0
# Time in which a node that joins gets ready.
_NEW_NODE_SECONDS = 30.0
# Words of a provisioner's name that say nothing about its workload.
_COMMON_WORDS = {"provisioner", "driver", "storage", "rancher", "io", "com", "org", "csi", "k8s"}
# Driver of NVIDIA's GPUs in ResourceSlices.
_DRA_DRIVER = "gpu.nvidia.com"
_GPU_KINDS = (
    *("nodes", "daemonsets", "pods@all"),
    *("clusterpolicies", "configmaps@gpu", "runtimeclasses"),
)
# Age at which a desktop without an end is reported.
_OLD_SECONDS = 3600.0
_CONTROL_PLANE = "node-role.kubernetes.io/control-plane"
_KARPENTER = "karpenter.sh/nodepool"
_SAFE = "cluster-autoscaler.kubernetes.io/safe-to-evict"
# Annotations of a node with which an autoscaler never removes it.
_KEEPS_NODE = {
    "cluster-autoscaler.kubernetes.io/scale-down-disabled": "true",
    "karpenter.sh/do-not-disrupt": "true",
}
# Annotations of a pod with which an autoscaler never evicts it.
_KEEPS_POD = {_SAFE: "false", "karpenter.sh/do-not-disrupt": "true"}
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
# Kinds whose pods come and go with their node.
_OF_NODE = frozenset({"DaemonSet", "Node"})
_MAX_COMMANDS = 6


def node_tools(snapshot: Snapshot, node: str) -> tuple[str, str]:
    """The service that runs this node's kubelet, and the command for its containers."""
    there = snapshot.nodes.get(node)
    if there is None or "+k3s" not in there.status.node_info.kubelet_version:
        return "kubelet", "crictl"
    return "k3s" if _CONTROL_PLANE in there.metadata.labels else "k3s-agent", "k3s crictl"


@check("nodes")
def nodes_unwell(snapshot: Snapshot) -> Iterator[Finding]:
    """Nodes that do not respond, or are short of a resource."""
    for name, node in snapshot.nodes.items():
        service, crictl = node_tools(snapshot, name)
        for condition in node.status.conditions:
            evidence = [
                f"condition {condition.type}={condition.status} since"
                f" {condition.last_transition_time}: {condition.message}"
            ]
            starting = (
                condition.status == "False"
                and snapshot.age(condition.last_transition_time) <= _NEW_NODE_SECONDS
            )
            if condition.type == "Ready" and condition.status != "True" and not starting:
                why = condition.message or condition.reason or "its kubelet does not respond"
                yield make_finding(
                    "node_not_ready",
                    f"node/{name}",
                    f"The node {name} is not ready: {why.rstrip('.')}.",
                    evidence=evidence,
                    remedy=Remedy(
                        "Check its power and network. On the node, check its service.",
                        (f"kubectl describe node {name}", f"systemctl status {service}"),
                    ),
                )
            elif condition.type.endswith("Pressure") and condition.status == "True":
                what = condition.type.removesuffix("Pressure").lower()
                remedy = Remedy(
                    "Suspend desktops on it.",
                    (f"kubectl describe node {name}", "vdi session ls --output wide"),
                )
                if what == "disk":
                    remedy = Remedy(
                        "On the node, find out whether bytes or inodes are used up, and remove"
                        " unused images.",
                        ("df -h /var/lib", "df -i /var/lib", f"{crictl} rmi --prune"),
                    )
                yield make_finding(
                    "node_under_pressure",
                    f"node/{name}",
                    f"The node {name} is short of {what}: it accepts no new pods and evicts running"
                    " ones.",
                    evidence=evidence,
                    remedy=remedy,
                )


@check("nodes", "pods", "pods/log")
def kubelets_unreachable(snapshot: Snapshot) -> Iterator[Finding]:
    """Nodes that are ready and of whose pods the API server gets no log."""
    errors: dict[str, str] = {}
    reached = set()
    for pod in snapshot.pods:
        key = f"{pod.metadata.namespace}/{pod.metadata.name}"
        error = snapshot.log_errors.get(key, "")
        if _KUBELET_PORT in error or error == NO_RESPONSE:
            errors[pod.spec.node_name] = error
        elif error or key in snapshot.logs:
            reached.add(pod.spec.node_name)
    for name in sorted(errors.keys() - reached):
        node = snapshot.nodes.get(name)
        if node and node.ready:
            yield make_finding(
                "kubelet_unreachable",
                f"node/{name}",
                f"The API server does not reach the kubelet of node {name} (port 10250), so logs"
                f" and shells of its pods fail: {errors[name].rstrip('.')}.",
                evidence=[errors[name]],
                remedy=Remedy.run(f"systemctl status {node_tools(snapshot, name)[0]}"),
            )


@check("pods", "services", "endpointslices", "vdisessions", reads=(*OF_SESSIONS, _SYSTEM_LEASES))
def control_plane_silent(snapshot: Snapshot) -> Iterator[Finding]:
    """kube-scheduler and kube-controller-manager, by their effects and their Leases."""
    proofs = {
        "kube-scheduler": _unplaced(snapshot),
        "kube-controller-manager": _without_slices(snapshot),
    }
    for name, proof in proofs.items():
        if proof := proof or _stale_lease(snapshot, name):
            yield make_finding(
                "control_plane_silent",
                f"component/{name}",
                f"{name} does not work: {proof}.",
                evidence=[proof],
                remedy=Remedy.run("kubectl --namespace kube-system get pods,lease"),
            )


def _stale_lease(snapshot: Snapshot, name: str) -> str:
    leases = [one for one in snapshot.objects.leases if one.metadata.namespace == "kube-system"]
    ages = {one.metadata.name: snapshot.age(one.spec.renew_time) for one in leases}
    # Those of the API servers are among them, by the clocks of the same machines.
    seconds = ages.get(name, 0.0) - min(ages.values(), default=0.0)
    if name not in ages or seconds < _LEASE_SECONDS:
        return ""
    return f"its Lease has not been renewed for {seconds:.0f} s"


def _unplaced(snapshot: Snapshot) -> str:
    """A clause about the desktop's pod that the scheduler has passed over; empty: there is none."""
    metas = (pod.metadata for pod in snapshot.pods if pod.condition("PodScheduled"))
    placed = max((meta.creation_timestamp for meta in metas), default="")
    for diagnosis in active_sessions(snapshot):
        pod = diagnosis.pod
        if pod and not (pod.spec.node_name or pod.condition("PodScheduled")):
            created = pod.metadata.creation_timestamp
            age = snapshot.age(created)
            if created > placed and age > _CONTROL_PLANE_SECONDS:
                return f"no scheduler has processed the pod {pod.metadata.name} for {age:.0f} s"
    return ""


def _without_slices(snapshot: Snapshot) -> str:
    # For each Service with a selector there is one, if only an empty one.
    served = set()
    for one in snapshot.objects.endpointslices:
        served.add((one.metadata.namespace, one.metadata.labels.get(SERVICE)))
    for diagnosis in active_sessions(snapshot):
        namespace, name = diagnosis.namespace, service_name(diagnosis.name)
        service: Service | None = snapshot.find("services", name, namespace)
        if service and service.spec.selector and (namespace, name) not in served:
            age = snapshot.age(service.metadata.creation_timestamp)
            if age > _CONTROL_PLANE_SECONDS:
                return f"the Service {namespace}/{name} has had no EndpointSlice for {age:.0f} s"
    return ""


@check(*_GPU_KINDS, "vditemplates", "vdisessions", reads=(*OF_SESSIONS, "resourceslices"))
def gpus_missing(snapshot: Snapshot) -> Iterator[Finding]:
    """Findings of `vdi gpu verify`, where GPUs matter: some exist, or desktops request some."""
    observed = observe_gpus(snapshot)
    requesting = []
    for diagnosis in active_sessions(snapshot):
        desktop = diagnosis.desktop
        if isinstance(desktop, Desktop) and desktop.gpu and desktop.gpu_resource == RESOURCE:
            requesting.append(diagnosis)
    waiting = any(diagnosis.pod is None for diagnosis in requesting)
    lost = list(_nodes_without_their_gpus(snapshot)) if waiting else []
    yield from lost
    managed = bool(observed.plugins or observed.policy)
    if not managed and (observed.gpu_nodes or not requesting):
        return  # another program advertises the GPUs, or no session requests any
    policies = []
    if observed.policy:
        policies.append(f"clusterpolicy/{observed.policy.metadata.name}")
    for one in gpu.find(observed):
        if one.code == "gpu_sharing_not_configured" and not observed.config_maps and not waiting:
            continue  # whole GPUs, and enough of them: that is meant
        if one.code == "gpu_nodes_missing" and lost:
            continue
        message, remedy = one.message, one.remedy
        if one.code == "gpu_nodes_missing" and (sliced := _gpus_in_slices(snapshot)):
            message, remedy = _only_in_slices(one, sliced)
        yield make_finding(
            one.code,
            one.object,
            message,
            severity=one.severity,
            evidence=[*one.evidence, f"vdi gpu verify: {one.code} at {one.object}"],
            remedy=remedy,
            related_objects=policies,
        )


def _nodes_without_their_gpus(snapshot: Snapshot) -> Iterator[Finding]:
    severity = Severity.WARNING if observe_gpus(snapshot).gpu_nodes else None
    for name, node in snapshot.nodes.items():
        # The kubelet sets the number of a device plugin that has gone to 0 until its restart.
        if node.status.capacity.get(RESOURCE) == "0":
            yield make_finding(
                "gpu_nodes_missing",
                f"node/{name}",
                f"The node {name} advertises 0 {RESOURCE}, after it had some: its device plugin"
                " reports no GPUs.",
                evidence=[f"status.capacity: {RESOURCE}: 0"],
                remedy=Remedy(
                    "On the node, check the driver. Then restart its device plugin.",
                    ("nvidia-smi", f"kubectl get pods -A --field-selector spec.nodeName={name}"),
                ),
                severity=severity,
            )


def _only_in_slices(missing: Finding, sliced: Sequence[str]) -> tuple[str, Remedy]:
    message = (
        f"{missing.message.rstrip('.')}, only ResourceSlices: {', '.join(sliced)}. Desktops"
        f" request {RESOURCE}."
    )
    sentence = "Run NVIDIA's device plugin on these nodes, in place of its DRA driver."
    return message, Remedy(sentence, missing.remedy.commands)


def _gpus_in_slices(snapshot: Snapshot) -> list[str]:
    """Nodes that offer NVIDIA's GPUs by Dynamic Resource Allocation."""
    specs = (resource_slice.spec for resource_slice in snapshot.objects.resourceslices)
    return sorted({spec.node_name for spec in specs if spec.driver == _DRA_DRIVER})


@check("nodes", "pods", "vdisessions", reads=(*OF_SESSIONS, *_GPU_KINDS))
def gpu_without_runtime_class(snapshot: Snapshot) -> Iterator[Finding]:
    """GPU desktops on K3s without runtimeClassName: containerd starts them without driver, with a
    black picture.
    """
    on_k3s = {node.name for node in observe_gpus(snapshot).nodes if node.on_k3s}
    for diagnosis in active_sessions(snapshot):
        pod, template = diagnosis.pod, diagnosis.template_name
        if pod is None or pod.spec.node_name not in on_k3s or not pod.spec.takes.get(RESOURCE):
            continue
        corrected = diagnosis.template and diagnosis.template.spec.placement.runtime_class_name
        if not pod.spec.runtime_class_name and not corrected:
            patch = {"spec": {"placement": {"runtimeClassName": "nvidia"}}}
            yield make_finding(
                "gpu_runtime_class_unset",
                f"vditemplate/{template}",
                f"Desktops of {template!r} have a GPU but no runtimeClassName, so K3s gives them no"
                " GPU.",
                evidence=[
                    (
                        f"pod/{pod.metadata.name}: spec.runtimeClassName is not set, node"
                        f" {pod.spec.node_name} is K3s"
                    ),
                    "the containerd of K3s gives GPUs only to pods with the RuntimeClass nvidia",
                ],
                remedy=Remedy.run(merge_patch("vditemplate", template, patch)),
            )


def _is_home(claim: PersistentVolumeClaim) -> bool:
    return claim.metadata.labels.items() >= MANAGED_BY.items()


@check(
    "persistentvolumeclaims",
    "storageclasses",
    "events",
    "pods",
    reads=("daemonsets", "deployments", "nodes", "statefulsets", "pods/log"),
)
def homes_pending(snapshot: Snapshot) -> Iterator[Finding]:
    """Homes without a volume: no such class, or a provisioner that fails or is silent."""
    classes = {
        storage_class.metadata.name: storage_class
        for storage_class in snapshot.objects.storageclasses
    }
    for claim in snapshot.objects.persistentvolumeclaims:
        if _is_home(claim) and claim.status.phase == "Pending":
            where = f"persistentvolumeclaim/{claim.metadata.namespace}/{claim.metadata.name}"
            storage_class = classes.get(claim.spec.storage_class_name or "")
            if storage_class is None:
                yield _class_missing(where, claim, sorted(classes))
            else:
                yield from _unprovisioned(snapshot, claim, storage_class, where)


def _class_missing(where: str, claim: PersistentVolumeClaim, there: list[str]) -> Finding:
    meta, class_name = claim.metadata, claim.spec.storage_class_name
    template = meta.annotations.get(TEMPLATE_ANNOTATION)
    chosen = min(there, key=lambda name: (name != "local-path", name), default="")
    kubectl = f"kubectl --namespace {meta.namespace}"
    if chosen and template:
        remedy = Remedy(
            f"Create that class, or name `{chosen}` in the template and delete this claim, which is"
            " still empty.",
            (
                merge_patch(
                    "vditemplate", template, {"spec": {"persistence": {"storageClass": chosen}}}
                ),
                *(f"{kubectl} {verb} pvc {meta.name}" for verb in ("describe", "delete")),
            ),
        )
    else:
        remedy = Remedy(
            "Install its provisioner. K3s: start it without --disable=local-storage.",
            ("kubectl get storageclass",),
        )
    return make_finding(
        "storage_class_missing",
        where,
        f"The home requests the StorageClass {class_name!r}, which does not exist. Available: "
        f"{', '.join(there) or 'none'}.",
        evidence=[f"spec.storageClassName: {class_name}"],
        remedy=remedy,
    )


def _unprovisioned(
    snapshot: Snapshot, claim: PersistentVolumeClaim, storage_class: StorageClass, where: str
) -> Iterator[Finding]:
    meta, provisioner = claim.metadata, storage_class.provisioner
    # A claim that waits for its first consumer gets this annotation when the scheduler has chosen
    # the pod's node.
    chosen = meta.annotations.get("volume.kubernetes.io/selected-node")
    if storage_class.volume_binding_mode == "WaitForFirstConsumer" and not chosen:
        return
    describe = f"kubectl --namespace {meta.namespace} describe pvc {meta.name}"
    maker, age = _maker_of(snapshot, provisioner), snapshot.age(meta.creation_timestamp)
    message, evidence = _refused_volume(snapshot, meta)
    if message:
        remedy = Remedy.run(describe)
        if maker and "violates PodSecurity" in message:
            message = f"Pod Security of the namespace {maker.namespace} refuses its pod: {message}"
            level = "pod-security.kubernetes.io/enforce=privileged"
            remedy = Remedy(
                "Lower the level of that namespace.",
                (f"kubectl label namespace {maker.namespace} --overwrite {level}",),
            )
        yield make_finding(
            "home_not_provisioned",
            where,
            f"The provisioner {provisioner} cannot create the volume: {message.rstrip('.')}.",
            evidence=evidence,
            remedy=remedy,
            related_objects=[f"node/{chosen}"],
        )
    elif maker and not maker.ready:
        show = Remedy.run(f"{maker.kubectl} describe pods")
        yield make_finding(
            "provisioner_silent",
            where,
            f"The home waits for its volume: {maker.object} has no ready replica of"
            f" {maker.desired}.",
            evidence=[f"status.phase: Pending, provisioner {provisioner}"],
            remedy=show if maker.desired else maker.scale_up(),
            related_objects=[maker.object, *snapshot.nodes_of(maker.raw)],
        )
    elif age > _PROVISIONER_SECONDS:
        if maker:
            logs = [f"{maker.kubectl} logs {maker.kind}/{maker.name}"]
        else:
            logs = []
        yield make_finding(
            "provisioner_silent",
            where,
            f"The home has waited {int(age)} s for the provisioner {provisioner}, which reports"
            " nothing.",
            evidence=[
                "status.phase: Pending, no Event ProvisioningFailed",
                f"selected node: {chosen or 'any'}",
            ],
            remedy=Remedy.run(*logs, describe),
            related_objects=[f"node/{chosen}"],
        )


def _refused_volume(snapshot: Snapshot, meta: Meta) -> tuple[str, list[str]]:
    """The reason why no volume was made for this claim, and the evidence; empty: no Event says."""
    message, evidence = "", []
    for event in snapshot.events_of(meta.uid):
        if event.reason == "ProvisioningFailed":
            message = event.note.strip().splitlines()[0]
            evidence = [f"ProvisioningFailed: {event.note}"]
    # local-path makes the folder in a helper pod. Where no Event has the reason, the log of that
    # pod does.
    for key, log in snapshot.logs.items():
        if log and meta.uid in key and "/helper-pod-" in key:
            message = message or log[-1]
            evidence += [f"log {key}: {line}" for line in log[-2:]]
    return message, evidence


def _maker_of(snapshot: Snapshot, provisioner: str) -> Workload | None:
    """The workload that makes volumes for this provisioner, by its name: one that is ready, where
    there are several.
    """
    names = {*re.split(r"[./]", provisioner)} - _COMMON_WORDS
    named = [one for one in workloads(snapshot) if any(word in one.name for word in names)]
    return max(named, key=lambda one: one.ready, default=None)


@check("storageclasses")
def defaults_ambiguous(snapshot: Snapshot) -> Iterator[Finding]:
    """Several default StorageClasses, of which claims without a class get the newest."""
    metas = (storage_class.metadata for storage_class in snapshot.objects.storageclasses)
    defaults = []
    for meta in metas:
        if meta.annotations.get(_DEFAULT_CLASS) == "true":
            defaults.append(meta)
    names = [meta.name for meta in sorted(defaults, key=lambda meta: meta.creation_timestamp)]
    if len(names) > 1:
        unset = (
            f"kubectl annotate storageclass {name} --overwrite {_DEFAULT_CLASS}=false"
            for name in names[:-1]
        )
        yield make_finding(
            "storage_class_ambiguous",
            f"storageclass/{names[-1]}",
            f"{len(names)} StorageClasses are the default. Claims without a class get the newest,"
            f" {names[-1]}.",
            evidence=[f"storageclass/{name}: {_DEFAULT_CLASS}=true" for name in names],
            remedy=Remedy.run("kubectl get storageclass", *unset),
        )


@check("deployments", "configmaps@local-path")
def local_path_modes(snapshot: Snapshot) -> Iterator[Finding]:
    """A local-path provisioner that makes folders to which a desktop may not write."""
    for namespace in local_path_namespaces(snapshot):
        config_map: ConfigMap | None = snapshot.find("configmaps", LOCAL_PATH_CONFIG, namespace)
        script = config_map.data.get("setup", "") if config_map else ""
        if modes := read_closed_modes(script):
            patch = {"data": {"setup": open_modes(script)}}
            yield make_finding(
                "local_path_mode_wrong",
                f"configmap/{namespace}/{LOCAL_PATH_CONFIG}",
                f"New local-path volumes have mode {modes[0]}: only root can write to them.",
                evidence=[
                    f"data.setup: {line.strip()}"
                    for line in script.splitlines()
                    if read_closed_modes(line)
                ],
                remedy=Remedy.run(merge_patch("configmap", LOCAL_PATH_CONFIG, patch, namespace)),
            )


@check(
    "persistentvolumeclaims", "persistentvolumes", "nodes", "vdisessions", "vditemplates", "pods"
)
def homes_on_lost_nodes(snapshot: Snapshot) -> Iterator[Finding]:
    """Homes on nodes that do not exist or do not respond."""
    homes = {
        one.home.metadata.name: (one, one.home) for one in active_sessions(snapshot) if one.home
    }
    for name, (diagnosis, home) in sorted(homes.items()):
        pinned = pinned_nodes(snapshot, home)
        relabelled = find_relabelled(snapshot, home)
        nodes = [snapshot.nodes.get(one) for one in pinned]
        if not pinned or any(node and node.ready and node is not relabelled for node in nodes):
            continue
        if relabelled:
            yield _relabelled(diagnosis, home, relabelled)
            continue
        if None in nodes:
            state = "is no longer in this cluster"
            command = f"kubectl get pv {home.spec.volume_name} --output yaml"
        else:
            state, command = "does not respond", f"kubectl describe node {pinned[0]}"
        names = ", ".join(pinned)
        yield make_finding(
            "home_on_lost_node",
            f"persistentvolumeclaim/{diagnosis.namespace}/{name}",
            f"The home of the session {diagnosis.name} is on the node {names}, which {state}. A"
            " local-path volume cannot be used from another node.",
            evidence=[f"persistentvolume/{home.spec.volume_name}: spec.nodeAffinity names {names}"],
            # No command deletes the claim: only a person knows that the node, and with it the
            # files, is gone for good.
            remedy=Remedy(f"Bring the node {pinned[0]} back: it has the files.", (command,)),
            related_objects=[f"node/{one}" for one in pinned],
        )


def _relabelled(diagnosis: SessionDiagnosis, home: PersistentVolumeClaim, node: Node) -> Finding:
    name, label = node.metadata.name, node.metadata.labels[HOST_NAME]
    return make_finding(
        "home_on_lost_node",
        f"persistentvolumeclaim/{diagnosis.namespace}/{home.metadata.name}",
        f"The label {HOST_NAME} of the node {name} is {label}. The home of the session"
        f" {diagnosis.name} is only used where it is {name}.",
        evidence=[f"persistentvolume/{home.spec.volume_name}: spec.nodeAffinity names {name}"],
        remedy=Remedy.run(f"kubectl label node {name} {HOST_NAME}={name} --overwrite"),
        related_objects=[f"node/{name}"],
    )


@check("pods", "persistentvolumeclaims")
def homes_mounted_twice(snapshot: Snapshot) -> Iterator[Finding]:
    """Two pods that write to a ReadWriteOnce home: browsers and editors corrupt each other's
    files.
    """
    # Name of each pod, and whether it is a session's.
    users: dict[tuple[str, str], dict[str, bool]] = defaultdict(dict)
    for pod in snapshot.pods:
        if pod.status.phase not in ("Succeeded", "Failed") and pod.home_claim in pod.writes_to:
            is_ours = any(owner.kind == SESSIONS.kind for owner in pod.metadata.owner_references)
            users[pod.metadata.namespace, str(pod.home_claim)][pod.metadata.name] = is_ours
    for (namespace, claim), pods in sorted(users.items()):
        home = snapshot.claims.get((namespace, claim))
        if len(pods) < 2 or home is None or home.is_shared or not _is_home(home):
            continue
        kubectl = f"kubectl --namespace {namespace}"
        others = [name for name, is_ours in sorted(pods.items()) if not is_ours]
        # It is shown first, because it may be somebody's.
        strangers = []
        for name in others:
            for verb in ("describe", "delete"):
                strangers.append(f"{kubectl} {verb} pod {name}")
        yield make_finding(
            "home_mounted_twice",
            f"persistentvolumeclaim/{namespace}/{claim}",
            f"{len(pods)} pods write to one home at the same time: {', '.join(sorted(pods))}.",
            evidence=[f"pod/{pod}: volume home is {claim}" for pod in sorted(pods)],
            remedy=Remedy.run(*(strangers or [f"{kubectl} get pods --show-labels"])),
        )


@dataclass(frozen=True)
class _Keeper:
    """An object that keeps a node forever, with its name in the message for one and for several."""

    one: str
    several: str
    evidence: str
    command: str


@check(
    "nodes",
    "pods@all",
    "deployments",
    "vdisessions",
    "vditemplates",
    "persistentvolumes",
    reads=("persistentvolumeclaims",),
)
def nodes_kept(snapshot: Snapshot) -> Iterator[Finding]:
    """Nodes for desktops that an autoscaler can never remove, although no one may need them."""
    if not any(operator.requests_nodes for operator in find_operators(snapshot)):
        return
    sessions, pods = _sessions_by_node(snapshot), _pods_by_node(snapshot)
    for name, node in sorted(snapshot.nodes.items()):
        here = sessions.get(name, [])
        if not _is_for_desktops(snapshot, node, bool(here)):
            continue
        keepers = [_annotation(name, key) for key in _matching(node.metadata, _KEEPS_NODE)]
        for session, _ in here:
            keepers += _endless(snapshot, session)
        for pod in pods.get(name, []):
            keepers += _unmovable(pod)
        if keepers:
            yield _kept_by(snapshot, name, keepers, here)


def _kept_by(
    snapshot: Snapshot,
    node: str,
    keepers: list[_Keeper],
    desktops: list[tuple[VDISession, Pod]],
) -> Finding:
    parts = []
    for (one, several), count in Counter((one.one, one.several) for one in keepers).items():
        parts.append(one if count == 1 else f"{count} {several}")
    verb = "keeps" if len(keepers) == 1 else "keep"
    return make_finding(
        "node_kept",
        f"node/{node}",
        f"An autoscaler cannot remove the node {node}: {', '.join(parts)} {verb} it.",
        evidence=[
            *(keeper.evidence for keeper in keepers),
            *(_describe_desktop(snapshot, session, pod, node) for session, pod in desktops),
        ],
        remedy=Remedy.run(*(keeper.command for keeper in keepers[:_MAX_COMMANDS])),
        related_objects=[_name_of(session) for session, _ in desktops],
    )


def _name_of(session: VDISession) -> str:
    return f"vdisession/{session.metadata.namespace}/{session.metadata.name}"


def _sessions_by_node(snapshot: Snapshot) -> dict[str, list[tuple[VDISession, Pod]]]:
    by_node: dict[str, list[tuple[VDISession, Pod]]] = defaultdict(list)
    for session in snapshot.all_sessions:
        for pod in snapshot.pods_by_owner.get(session.metadata.uid, []):
            if pod.spec.node_name and not pod.terminating:
                by_node[pod.spec.node_name].append((session, pod))
    return by_node


def _pods_by_node(snapshot: Snapshot) -> dict[str, list[Pod]]:
    """Running pods that are not desktops."""
    by_node: dict[str, list[Pod]] = defaultdict(list)
    ours = {session.metadata.uid for session in snapshot.all_sessions}
    for pod in snapshot.pods:
        ended = pod.status.phase in ("Succeeded", "Failed")
        if not ended and not any(owner.uid in ours for owner in pod.metadata.owner_references):
            by_node[pod.spec.node_name].append(pod)
    return by_node


def _is_for_desktops(snapshot: Snapshot, node: Node, has_desktops: bool) -> bool:
    """Whether it is a node that an autoscaler adds for desktops, as far as its labels show it."""
    labels = node.metadata.labels
    if _CONTROL_PLANE in labels:
        return False
    selectors = (template.spec.placement.node_selector for template in snapshot.templates.values())
    chosen = any(selector and selector.items() <= labels.items() for selector in selectors)
    return has_desktops or chosen or _KARPENTER in labels


def _annotation(node: str, key: str) -> _Keeper:
    evidence = f"node/{node}: annotation {key}={_KEEPS_NODE[key]}"
    command = f"kubectl annotate node {node} {key}-"
    return _Keeper("an annotation of the node", "annotations of the node", evidence, command)


def _endless(snapshot: Snapshot, session: VDISession) -> Iterator[_Keeper]:
    """A desktop that only a person ends."""
    template = snapshot.templates.get(session.spec.template)
    age = snapshot.age(session.status.start_time)
    if template is None or template.spec.schedule or session.status.expires_at:
        return
    if idle_timeout(session, template) is None and age >= _OLD_SECONDS:
        yield _Keeper(
            "a desktop without an end",
            "desktops without an end",
            f"{_name_of(session)}: runs for {age / 3600:.0f} h, without idleTimeout, timeout and"
            f" schedule (template {session.spec.template})",
            f"vdi session suspend {session.metadata.name} --namespace {session.metadata.namespace}",
        )


def _unmovable(pod: Pod) -> Iterator[_Keeper]:
    """A pod that autoscalers do not evict. Pods of DaemonSets and static pods do not count."""
    metadata = pod.metadata
    owners = [owner for owner in metadata.owner_references if owner.controller]
    if PLACEHOLDER in metadata.labels or any(owner.kind in _OF_NODE for owner in owners):
        return
    where, name = metadata.namespace, metadata.name
    if keys := _matching(metadata, _KEEPS_POD):
        why, change = f"annotation {keys[0]}={_KEEPS_POD[keys[0]]}", f"{keys[0]}-"
    elif not owners and metadata.annotations.get(_SAFE) != "true":
        why, change = "no controller creates it again", f"{_SAFE}=true"
    else:
        return
    command = f"kubectl annotate pod {name} --namespace {where} {change}"
    evidence = f"pod/{where}/{name}: {why}"
    yield _Keeper("a pod that is not evicted", "pods that are not evicted", evidence, command)


def _matching(meta: Meta, expected: Mapping[str, str]) -> list[str]:
    return [key for key, value in expected.items() if meta.annotations.get(key) == value]


def _describe_desktop(snapshot: Snapshot, session: VDISession, pod: Pod, node: str) -> str:
    """The time when this desktop ends by itself, and what refuses its eviction."""
    template = snapshot.templates.get(session.spec.template)
    timeout, facts = idle_timeout(session, template), []
    if timeout is not None:
        facts.append(f"ends after {format_duration(timeout)} without activity")
    if session.status.expires_at:
        facts.append(f"ends at {session.status.expires_at}")
    if template and template.spec.schedule:
        facts.append("ends with its template's working hours")
    if pod.metadata.labels.get(HOLD) == "true":
        facts.append("its PodDisruptionBudget refuses evictions until drainNotice is over")
    claim = snapshot.claims.get((session.metadata.namespace, session.status.home_claim))
    if claim and node in pinned_nodes(snapshot, claim):
        facts.append(
            f"its home {claim.metadata.name} is on this node's disk, and is lost with the node"
        )
    return f"{_name_of(session)}: {'; '.join(facts) or 'nothing ends it'}"


CHECKS = (
    nodes_unwell,
    kubelets_unreachable,
    control_plane_silent,
    gpus_missing,
    gpu_without_runtime_class,
    homes_pending,
    defaults_ambiguous,
    local_path_modes,
    homes_on_lost_nodes,
    homes_mounted_twice,
    nodes_kept,
)
