"""What operator and gateway have in common: a Deployment with a container of ours, and its pods. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from vdi.diagnosis.snapshot import Raw, Snapshot
from vdi.doctor.objects.events import last_warnings
from vdi.doctor.objects.workloads import Workload
from vdi.session.explain import StartState, explain
from vdi.session.observed import Pod
from vdi.session.subject import chart_subject


@dataclass(frozen=True)
class Deployment(Workload):
    """One Deployment of ours."""

    watches: tuple[str, ...]
    """The sessions' namespaces, as `VDI_NAMESPACE` has them."""


def find_deployments(snapshot: Snapshot, container: str, variable: str) -> Iterator[tuple[Raw, dict[str, str]]]:
    """Those with a container of this name that has this variable of ours, with its whole environment."""
    for raw in snapshot.raw("deployments"):
        for one in raw["spec"]["template"]["spec"]["containers"]:
            environment = {variable["name"]: variable.get("value", "") for variable in one.get("env") or ()}
            if one["name"] == container and variable in environment:
                yield raw, environment


def pods_of(snapshot: Snapshot, deployment: Deployment) -> list[Pod]:
    """Its pods that are not leaving, by its selector."""
    labels = (deployment.raw["spec"].get("selector") or {}).get("matchLabels") or {}
    return [
        pod
        for pod in snapshot.pods
        if labels
        and pod.metadata.namespace == deployment.namespace
        and labels.items() <= dict(pod.metadata.labels).items()
        and not pod.terminating
    ]


def explain_pod(snapshot: Snapshot, pod: Pod, component: str) -> str:
    """Why a pod of the release is not ready, as a clause. `component`: `operator` or `gateway`."""
    node = snapshot.nodes.get(pod.spec.node_name)
    events = snapshot.events.get(("Pod", pod.metadata.namespace, pod.metadata.name), [])
    return explain(StartState(pod, None, tuple(events), node, subject=chart_subject(component))).sentence.rstrip(".")


def pod_evidence(snapshot: Snapshot, pod: Pod, words: str) -> list[str]:
    """What shows that a pod of the release is not ready: its state, and what kubelet and runtime wrote, as they did."""
    container = pod.desktop
    waiting, ended = (container.state.waiting, container.last_state.terminated) if container else (None, None)
    raw = (waiting.message if waiting else "") or (ended.message if ended and ended.reason == "StartError" else "")
    events = snapshot.events.get(("Pod", pod.metadata.namespace, pod.metadata.name), ())
    log = snapshot.logs.get(f"{pod.metadata.namespace}/{pod.metadata.name}") or []
    return [
        f"pod/{pod.metadata.name}: {pod.status.phase}, {words}",
        *([" ".join(raw.split())] if raw else []),
        *last_warnings(events),
        *(f"log: {line}" for line in log[-3:]),
    ]


def unavailable_for(snapshot: Snapshot, deployment: Deployment) -> float:
    """Seconds for which too few of its replicas have answered, by its own condition; since it was made, without one."""
    conditions = (deployment.raw.get("status") or {}).get("conditions") or ()
    said: Raw = next(
        (condition for condition in conditions if condition["type"] == "Available" and condition["status"] == "False"),
        {},
    )
    return snapshot.age(said.get("lastTransitionTime") or deployment.raw["metadata"]["creationTimestamp"])
