"""Checks of nodes, GPUs and volumes, and of pods that keep an autoscaler from removing a node."""

import json
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vdi.api.session import VDISession
from vdi.cluster.objects import Node, Pod
from vdi.cluster.units import format_duration
from vdi.diagnosis.check import check
from vdi.diagnosis.snapshot import Raw, Snapshot
from vdi.doctor.codes import make_finding
from vdi.doctor.objects.components import find_operators
from vdi.doctor.objects.references import (
    LOCAL_PATH_CONFIG,
    local_path_namespaces,
    observe_gpus,
    open_modes,
    read_closed_modes,
)
from vdi.doctor.objects.sessions import active, diagnose_sessions, pinned_nodes
from vdi.findings.model import Finding, Remedy
from vdi.gpu.sharing import findings as gpu
from vdi.gpu.sharing.config import RESOURCE
from vdi.session.autoscaling import PLACEHOLDER
from vdi.session.effective import Desktop
from vdi.session.lifetime import idle_timeout
from vdi.session.naming import HOLD, MANAGED_BY, TEMPLATE_ANNOTATION

_PATIENCE = 60.0
# Seconds in which a node that joins gets ready.
_NEW_NODE = 30.0

_GPU_KINDS = ("nodes", "daemonsets", "pods@all", "clusterpolicies", "configmaps", "runtimeclasses")


@check("nodes")
def nodes_unwell(snapshot: Snapshot) -> Iterator[Finding]:
    """Nodes that do not answer, or are short of something."""
    for node in snapshot.nodes.values():
        name = node.metadata.name
        for condition in node.status.conditions:
            evidence = [
                f"condition {condition.type}={condition.status} since {condition.last_transition_time}:"
                f" {condition.message}"
            ]
            starting = condition.status == "False" and snapshot.age(condition.last_transition_time) <= _NEW_NODE
            if condition.type == "Ready" and condition.status != "True" and not starting:
                yield make_finding(
                    "node_not_ready",
                    f"node/{name}",
                    f"The node {name} is not ready:"
                    f" {condition.message or condition.reason or 'its kubelet does not respond'}.".replace("..", "."),
                    evidence=evidence,
                    remedy=Remedy(
                        "Check its power and network. On the node, check its service (of an agent: k3s-agent).",
                        (f"kubectl describe node {name}", "systemctl status k3s"),
                    ),
                )
            elif condition.type.endswith("Pressure") and condition.status == "True":
                what = condition.type.removesuffix("Pressure").lower()
                yield make_finding(
                    "node_under_pressure",
                    f"node/{name}",
                    f"The node {name} is short of {what}: it accepts no new pods and evicts running ones.",
                    evidence=evidence,
                    remedy=Remedy(
                        "On the node, find out what is full, and remove unused images.",
                        ("df -h /var/lib", "k3s crictl rmi --prune"),
                    )
                    if what == "disk"
                    else Remedy(
                        "Suspend desktops on it.", (f"kubectl describe node {name}", "vdi session ls --output wide")
                    ),
                )


@check(*_GPU_KINDS, "vditemplates", "vdisessions")
def gpus_missing(snapshot: Snapshot) -> Iterator[Finding]:
    """What `vdi gpu verify` finds, where GPUs matter: some are there, or desktops that start ask for some."""
    observed = observe_gpus(snapshot)
    asking = [
        diagnosis
        for diagnosis in active(diagnose_sessions(snapshot))
        if isinstance(diagnosis.desktop, Desktop)
        and diagnosis.desktop.gpu
        and diagnosis.desktop.gpu_resource == RESOURCE
    ]
    meant = bool(observed.plugins or observed.policy)
    if not meant and not (asking and not observed.gpu_nodes):
        return  # others advertise the GPUs, or no session requests any
    waiting = any(diagnosis.pod is None for diagnosis in asking)
    for one in gpu.find(observed):
        if one.code == "gpu_sharing_not_configured" and not observed.config_maps and not waiting:
            continue  # whole GPUs, and enough of them: somebody wants it so
        if one.code == "gpu_device_plugin_missing" and not meant and observed.gpu_nodes:
            continue
        yield make_finding(
            one.code,
            one.object,
            one.message,
            severity=one.severity,
            evidence=[*one.evidence, f"vdi gpu verify: {one.code} at {one.object}"],
            remedy=one.remedy,
            related_objects=[f"clusterpolicy/{observed.policy.name}"] if observed.policy else [],
        )


@check("nodes", "pods", "vdisessions")
def gpu_without_runtime_class(snapshot: Snapshot) -> Iterator[Finding]:
    """GPU desktops on K3s without runtimeClassName: containerd starts them without driver, with a black picture."""
    on_k3s = {node.name for node in observe_gpus(snapshot).nodes if node.on_k3s}
    for diagnosis in active(diagnose_sessions(snapshot)):
        pod = diagnosis.pod
        if pod is None or pod.spec.node_name not in on_k3s or not pod.spec.takes.get(RESOURCE):
            continue
        raw = snapshot.find("pods", pod.metadata.name, diagnosis.namespace)
        template = diagnosis.session.spec.template
        if raw and not raw["spec"].get("runtimeClassName"):
            patch = '\'{"spec":{"placement":{"runtimeClassName":"nvidia"}}}\''
            yield make_finding(
                "gpu_runtime_class_unset",
                f"vditemplate/{template}",
                f"Desktops of {template!r} have a GPU but no runtimeClassName, so K3s gives them no GPU.",
                evidence=[
                    f"pod/{pod.metadata.name}: spec.runtimeClassName is not set, node {pod.spec.node_name} is K3s",
                    "the containerd of K3s gives GPUs only to pods with the RuntimeClass nvidia",
                ],
                remedy=Remedy.run(f"kubectl patch vditemplate {template} --type merge --patch {patch}"),
            )


@check("persistentvolumeclaims", "storageclasses", "events", "pods")
def homes_pending(snapshot: Snapshot) -> Iterator[Finding]:
    """Homes without a volume: no such class, a provisioner that is silent, or one that says why."""
    classes = {storage_class["metadata"]["name"]: storage_class for storage_class in snapshot.raw("storageclasses")}
    for claim in snapshot.raw("persistentvolumeclaims"):
        meta = claim["metadata"]
        ours = (meta.get("labels") or {}).items() >= MANAGED_BY.items()
        if not ours or (claim.get("status") or {}).get("phase") != "Pending":
            continue
        where = f"persistentvolumeclaim/{meta['namespace']}/{meta['name']}"
        class_name = claim["spec"].get("storageClassName")
        if class_name not in classes:
            yield _class_missing(where, claim, sorted(classes))
            continue
        yield from _unprovisioned(snapshot, claim, classes[class_name], where)


def _class_missing(where: str, claim: Any, there: list[str]) -> Finding:
    meta, class_name = claim["metadata"], claim["spec"].get("storageClassName")
    template = (meta.get("annotations") or {}).get(TEMPLATE_ANNOTATION)
    chosen = min(there, key=lambda name: (name != "local-path", name), default="")
    patch = f'\'{{"spec":{{"persistence":{{"storageClass":"{chosen}"}}}}}}\''
    named = (
        f"kubectl patch vditemplate {template} --type merge --patch {patch}",
        f"kubectl --namespace {meta['namespace']} delete pvc {meta['name']}",
    )
    return make_finding(
        "storage_class_missing",
        where,
        f"The home requests the StorageClass {class_name!r}, which does not exist. Available: "
        f"{', '.join(there) or 'none'}.",
        evidence=[f"spec.storageClassName: {class_name}"],
        remedy=Remedy(
            f"Create that class, or name `{chosen}` in the template and delete this claim, which is still empty.", named
        )
        if chosen and template
        else Remedy(
            "Install its provisioner. K3s: start it without --disable=local-storage.", ("kubectl get storageclass",)
        ),
    )


def _unprovisioned(snapshot: Snapshot, claim: Any, storage_class: Any, where: str) -> Iterator[Finding]:
    meta = claim["metadata"]
    provisioner = storage_class.get("provisioner", "")
    # A claim that waits for its first consumer gets the node once there is one.
    chosen = (meta.get("annotations") or {}).get("volume.kubernetes.io/selected-node")
    if storage_class.get("volumeBindingMode") == "WaitForFirstConsumer" and not chosen:
        return
    events = snapshot.events.get(("PersistentVolumeClaim", meta["namespace"], meta["name"]), [])
    failed = [event for event in events if event.reason == "ProvisioningFailed"]
    helpers = [key for key in snapshot.logs if meta["uid"] in key and "/helper-pod-" in key]
    if failed or helpers:
        said = failed[-1].note.strip().splitlines()[0] if failed else snapshot.logs[helpers[0]][-1:][0]
        yield make_finding(
            "home_not_provisioned",
            where,
            f"The provisioner {provisioner} cannot create the volume: {said.rstrip('.')}.",
            evidence=[f"ProvisioningFailed: {one.note}" for one in failed[-1:]]
            + [f"log {key}: {line}" for key in helpers for line in snapshot.logs[key][-2:]],
            remedy=Remedy.run(f"kubectl --namespace {meta['namespace']} describe pvc {meta['name']}"),
            related_objects=[f"node/{chosen}"],
        )
    elif snapshot.age(meta["creationTimestamp"]) > _PATIENCE:
        yield make_finding(
            "provisioner_silent",
            where,
            f"The home has waited {int(snapshot.age(meta['creationTimestamp']))} s for the provisioner "
            f"{provisioner}, which reports nothing.",
            evidence=["status.phase: Pending, no Event ProvisioningFailed", f"selected node: {chosen or 'any'}"],
            remedy=Remedy.run("kubectl --namespace kube-system logs deployment/local-path-provisioner"),
            related_objects=[f"node/{chosen}"],
        )


@check("deployments", LOCAL_PATH_CONFIG)
def local_path_modes(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the local-path provisioner makes folders that a desktop may write to."""
    for namespace in local_path_namespaces(snapshot.objects):
        script = str(
            ((snapshot.find("configmaps", LOCAL_PATH_CONFIG, namespace) or {}).get("data") or {}).get("setup", "")
        )
        if not (modes := read_closed_modes(script)):
            continue
        lines = [line.strip() for line in script.splitlines() if read_closed_modes(line)]
        patch = shlex.quote(json.dumps({"data": {"setup": open_modes(script)}}))
        yield make_finding(
            "local_path_mode_wrong",
            f"configmap/{namespace}/{LOCAL_PATH_CONFIG}",
            f"New local-path volumes have mode {modes[0]}: only root can write to them.",
            evidence=[f"data.setup: {line}" for line in lines],
            remedy=Remedy.run(
                f"kubectl --namespace {namespace} patch configmap {LOCAL_PATH_CONFIG} --type merge --patch {patch}"
            ),
        )


@check("persistentvolumeclaims", "persistentvolumes", "nodes", "vdisessions", "vditemplates", "pods")
def homes_on_lost_nodes(snapshot: Snapshot) -> Iterator[Finding]:
    """Homes that can be reached only from nodes that are gone or do not answer."""
    by_home = {
        diagnosis.home.metadata.name: diagnosis for diagnosis in active(diagnose_sessions(snapshot)) if diagnosis.home
    }
    for name, diagnosis in sorted(by_home.items()):
        assert diagnosis.home is not None  # noqa: S101 - chosen by it
        pinned = pinned_nodes(snapshot, diagnosis.home)
        if not pinned or any((node := snapshot.nodes.get(one)) and node.ready for one in pinned):
            continue
        gone = [one for one in pinned if one not in snapshot.nodes]
        state = "is no longer in this cluster" if gone else "does not respond"
        yield make_finding(
            "home_on_lost_node",
            f"persistentvolumeclaim/{diagnosis.namespace}/{name}",
            f"The home of the session {diagnosis.session.metadata.name} is on the node {', '.join(pinned)}, which "
            f"{state}. A local-path volume cannot be used from another node.",
            evidence=[
                f"persistentvolume/{diagnosis.home.spec.volume_name}: spec.nodeAffinity names {', '.join(pinned)}"
            ],
            # Whether its files are given up is for whoever knows that the node is gone for good: no command for that.
            remedy=Remedy(
                f"Bring the node {pinned[0]} back: it has the files.",
                (f"kubectl get pv {diagnosis.home.spec.volume_name} --output yaml",)
                if gone
                else (f"kubectl describe node {pinned[0]}",),
            ),
            related_objects=[f"node/{one}" for one in pinned],
        )


@check("pods", "persistentvolumeclaims")
def homes_mounted_twice(snapshot: Snapshot) -> Iterator[Finding]:
    """Two pods that write to one home that is for one: browsers and editors spoil each other's files."""
    users: dict[tuple[str, str], list[str]] = defaultdict(list)
    for pod in snapshot.pods:
        if pod.status.phase not in ("Succeeded", "Failed") and pod.home_claim in pod.writes_to:
            users[pod.metadata.namespace, str(pod.home_claim)].append(pod.metadata.name)
    for (namespace, claim), pods in sorted(users.items()):
        ours = snapshot.find("persistentvolumeclaims", claim, namespace)
        present = snapshot.claims.get((namespace, claim))
        if len(pods) < 2 or not ours or (present and present.is_shared):
            continue
        if (ours["metadata"].get("labels") or {}).items() >= MANAGED_BY.items():
            yield make_finding(
                "home_mounted_twice",
                f"persistentvolumeclaim/{namespace}/{claim}",
                f"{len(pods)} pods write to one home at the same time: {', '.join(sorted(pods))}.",
                evidence=[f"pod/{pod}: volume home is {claim}" for pod in sorted(pods)],
                remedy=Remedy.run(*_strangers(snapshot, namespace, pods)),
            )


def _strangers(snapshot: Snapshot, namespace: str, pods: list[str]) -> list[str]:
    """How to delete the pods that belong to no session; how to look, where all belong to one."""
    ours = {
        pod.metadata.name
        for session in snapshot.all_sessions
        for pod in snapshot.pods_by_owner.get(session.metadata.uid, ())
    }
    strangers = [f"kubectl --namespace {namespace} delete pod {name}" for name in sorted(pods) if name not in ours]
    return strangers or [f"kubectl --namespace {namespace} get pods --show-labels"]


CHECKS = (
    nodes_unwell,
    gpus_missing,
    gpu_without_runtime_class,
    homes_pending,
    local_path_modes,
    homes_on_lost_nodes,
    homes_mounted_twice,
)

# How long a desktop without an end has run before it is reported.
_OLD_SECONDS = 3600.0
_CONTROL_PLANE = "node-role.kubernetes.io/control-plane"
_KARPENTER = "karpenter.sh/nodepool"
_SAFE = "cluster-autoscaler.kubernetes.io/safe-to-evict"
# Annotations of a node with which an autoscaler never removes it.
_KEEPS_NODE = {"cluster-autoscaler.kubernetes.io/scale-down-disabled": "true", "karpenter.sh/do-not-disrupt": "true"}
# Annotations of a pod with which an autoscaler never evicts it.
_KEEPS_POD = {_SAFE: "false", "karpenter.sh/do-not-disrupt": "true"}
# Kinds whose pods come and go with their node.
_OF_NODE = frozenset({"DaemonSet", "Node"})
_MOST_COMMANDS = 6


@dataclass(frozen=True)
class _Keeper:
    """One thing that keeps a node for ever."""

    # What it is, for the message.
    one: str
    several: str
    evidence: str
    commands: tuple[str, ...]


@check("nodes", "pods@all", "deployments", "vdisessions", "vditemplates", "persistentvolumes")
def nodes_kept(snapshot: Snapshot) -> Iterator[Finding]:
    """Nodes for desktops on a cluster with an autoscaler, that stay although no one may need them."""
    if not any(operator.requests_nodes for operator in find_operators(snapshot)):
        return
    sessions, pods = _sessions_by_node(snapshot), _pods_by_node(snapshot)
    for name, node in sorted(snapshot.nodes.items()):
        here = sessions.get(name, [])
        if not _is_for_desktops(snapshot, node, bool(here)):
            continue
        raw = snapshot.find("nodes", name) or {}
        keepers = [
            *_annotations(name, raw),
            *(keeper for session, _ in here if (keeper := _endless(snapshot, session))),
            *(keeper for pod in pods.get(name, []) if (keeper := _unmovable(pod))),
        ]
        if not keepers:
            continue
        yield make_finding(
            "node_kept",
            f"node/{name}",
            f"An autoscaler cannot remove the node {name}: {_count(keepers)}.",
            evidence=[
                *(keeper.evidence for keeper in keepers),
                *(_describe_desktop(snapshot, session, pod, name) for session, pod in here),
            ],
            remedy=Remedy(
                commands=tuple(command for keeper in keepers for command in keeper.commands)[:_MOST_COMMANDS]
            ),
            related_objects=[f"vdisession/{s.metadata.namespace}/{s.metadata.name}" for s, _ in here],
        )


def _sessions_by_node(snapshot: Snapshot) -> dict[str, list[tuple[VDISession, Pod]]]:
    by_node: dict[str, list[tuple[VDISession, Pod]]] = defaultdict(list)
    for session in snapshot.all_sessions:
        for pod in snapshot.pods_by_owner.get(session.metadata.uid, []):
            if pod.spec.node_name and not pod.terminating:
                by_node[pod.spec.node_name].append((session, pod))
    return by_node


def _pods_by_node(snapshot: Snapshot) -> dict[str, list[Raw]]:
    by_node: dict[str, list[Raw]] = defaultdict(list)
    ours = {session.metadata.uid for session in snapshot.all_sessions}
    for pod in snapshot.raw("pods"):
        owners = pod["metadata"].get("ownerReferences") or ()
        ended = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
        if not ended and not any(owner.get("uid") in ours for owner in owners):
            by_node[pod["spec"].get("nodeName", "")].append(pod)
    return by_node


def _is_for_desktops(snapshot: Snapshot, node: Node, has_desktops: bool) -> bool:
    """Whether it is a node that comes and goes with desktops, as far as that can be seen."""
    labels = node.metadata.labels
    if _CONTROL_PLANE in labels:
        return False
    selectors = (template.spec.placement.node_selector for template in snapshot.templates.values())
    chosen = any(selector and selector.items() <= labels.items() for selector in selectors)
    return has_desktops or chosen or _KARPENTER in labels


def _annotations(name: str, raw: Raw) -> Iterator[_Keeper]:
    for key in _matching(raw, _KEEPS_NODE):
        yield _Keeper(
            "an annotation of the node",
            "annotations of the node",
            f"node/{name}: annotation {key}={_KEEPS_NODE[key]}",
            (f"kubectl annotate node {name} {key}-",),
        )


def _endless(snapshot: Snapshot, session: VDISession) -> _Keeper | None:
    """A desktop that nothing but a person ends."""
    template = snapshot.templates.get(session.spec.template)
    if template is None or template.spec.schedule or session.status.expires_at:
        return None
    if idle_timeout(session, template) is not None or snapshot.age(session.status.start_time) < _OLD_SECONDS:
        return None
    name, namespace = session.metadata.name, session.metadata.namespace
    return _Keeper(
        "a desktop without an end",
        "desktops without an end",
        f"vdisession/{namespace}/{name}: runs for {_hours(snapshot.age(session.status.start_time))}, without "
        f"idleTimeout, timeout and schedule (template {session.spec.template})",
        (f"vdi session suspend {name} --namespace {namespace}",),
    )


def _unmovable(pod: Raw) -> _Keeper | None:
    """A pod that autoscalers leave where it is. Pods of DaemonSets and of the node itself do not count."""
    metadata = pod["metadata"]
    owners = [owner for owner in metadata.get("ownerReferences") or () if owner.get("controller")]
    if PLACEHOLDER in (metadata.get("labels") or {}) or any(owner.get("kind") in _OF_NODE for owner in owners):
        return None
    where, name = metadata.get("namespace", ""), metadata["name"]
    keys = _matching(pod, _KEEPS_POD)
    if keys:
        why = f"annotation {keys[0]}={_KEEPS_POD[keys[0]]}"
        command = f"kubectl annotate pod {name} --namespace {where} {keys[0]}-"
    elif not owners and (metadata.get("annotations") or {}).get(_SAFE) != "true":
        why = "no controller creates it again"
        command = f"kubectl annotate pod {name} --namespace {where} {_SAFE}=true"
    else:
        return None
    return _Keeper("a pod that is not evicted", "pods that are not evicted", f"pod/{where}/{name}: {why}", (command,))


def _matching(raw: Raw, expected: Mapping[str, str]) -> list[str]:
    annotations = (raw.get("metadata") or {}).get("annotations") or {}
    return [key for key, value in expected.items() if annotations.get(key) == value]


def _describe_desktop(snapshot: Snapshot, session: VDISession, pod: Pod, node: str) -> str:
    """When this desktop leaves the node by itself, and what refuses to let it be evicted."""
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
        facts.append(f"its home {claim.metadata.name} is on this node's disk, and is lost with the node")
    name = f"vdisession/{session.metadata.namespace}/{session.metadata.name}"
    return f"{name}: {'; '.join(facts) or 'nothing ends it'}"


def _count(keepers: list[_Keeper]) -> str:
    counts = Counter((keeper.one, keeper.several) for keeper in keepers)
    parts = [one if count == 1 else f"{count} {several}" for (one, several), count in counts.items()]
    return f"{', '.join(parts)} {'keeps' if len(keepers) == 1 else 'keep'} it"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.0f} h"


NODES_KEPT_CHECKS = (nodes_kept,)
