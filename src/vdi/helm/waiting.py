"""What the objects of a namespace wait for, in words: pods, claims, Jobs, Services. Pure.

For any workload, where `vdi.session.explain` speaks of desktops; what image pulls and the scheduler say is read by the
same functions.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from vdi.helm.snapshot import Job, NamespaceSnapshot, Pod, Service
from vdi.session.observed import ChildMeta, ContainerStatus, Event, PersistentVolumeClaim
from vdi.session.pulling import IMAGE_REASONS, explain_pull, first_line, last_line
from vdi.session.scheduling import explain_unschedulable


class Pending(NamedTuple):
    """One object that is not ready, and why."""

    object: str
    """`pod/kasm/vdi-operator-...`."""
    code: str
    sentence: str
    stuck: bool = True
    """False: an ordinary step of a start."""


class Situation(NamedTuple):
    """How far it is."""

    ready: int
    """Pods that are ready, or have done their work."""
    pods: int
    pending: tuple[Pending, ...] = ()

    @property
    def stuck(self) -> tuple[Pending, ...]:
        """What will not go on by itself."""
        return tuple(waiting for waiting in self.pending if waiting.stuck)

    @property
    def words(self) -> str:
        """One line."""
        first = next(iter((*self.stuck, *self.pending)), None)
        more = f" (and {len(self.pending) - 1} more)" if len(self.pending) > 1 else ""
        counted = f"{self.ready} of {self.pods} pods ready"
        return f"{counted}; {first.object}: {first.sentence}{more}" if first else counted


def assess(snapshot: NamespaceSnapshot, began: str = "") -> Situation:
    """What is not ready. Events about things that are no pods count from `began` (RFC 3339) on."""
    pods = [pod for pod in snapshot.pods if not _done(pod)]
    current = [pod for pod in pods if pod.metadata.deletion_timestamp is None]
    pending = [
        *(_pod(pod, _about(snapshot.events, "Pod", pod.metadata)) for pod in current if not _is_ready(pod)),
        *_unmade(snapshot.events, began),
        *(
            found
            for claim in snapshot.claims
            if (found := _claim(claim, _about(snapshot.events, "PersistentVolumeClaim", claim.metadata)))
        ),
        *(found for job in snapshot.jobs if (found := _job(job))),
        *(_service(service) for service in snapshot.services if _has_no_address(service)),
    ]
    finished = len(snapshot.pods) - len(pods)
    ready = sum(map(_is_ready, current))
    unique = {(waiting.object, waiting.code): waiting for waiting in pending}
    return Situation(ready + finished, len(current) + finished, tuple(unique.values()))


def _done(pod: Pod) -> bool:
    """Its work is done; or it failed and its Job, which makes another or fails, has the word."""
    ended = pod.status.phase == "Failed" and any(owner.kind == "Job" for owner in pod.owners)
    return pod.status.phase == "Succeeded" or ended


def _is_ready(pod: Pod) -> bool:
    condition = pod.condition("Ready")
    return condition is not None and condition.status == "True" and pod.metadata.deletion_timestamp is None


def _pod(pod: Pod, events: list[Event]) -> Pending:
    name = f"pod/{pod.metadata.namespace}/{pod.metadata.name}"
    if pod.status.phase == "Failed":
        why = pod.status.message.strip() or pod.status.reason or "its containers ended"
        return Pending(name, pod.status.reason or "Failed", f"It failed: {first_line(why)}")
    scheduled = pod.condition("PodScheduled")
    if not pod.spec.node_name:
        if scheduled is None or scheduled.status == "True":
            return Pending(name, "Scheduling", "It waits for a node.", stuck=False)
        code, sentence = explain_unschedulable(scheduled.message)
        waits = code == "HomePending"
        return Pending(name, "VolumePending" if waits else code, _neutral(sentence), stuck=not waits)
    for status in (*pod.status.init_container_statuses, *pod.status.container_statuses):
        if (found := _container(status, events, pod)) is not None:
            return found._replace(object=name)
    return _progress(name, pod, events)


def _container(status: ContainerStatus, events: list[Event], pod: Pod) -> Pending | None:
    """Why this container is not as it should be; None: it is on its way, or there."""
    waiting, ended = status.state.waiting, status.state.terminated or status.last_state.terminated
    reason, message = (waiting.reason, waiting.message) if waiting else ("", "")
    if reason in IMAGE_REASONS:
        if reason == "ImagePullBackOff":
            message = _newest(events, "Failed") or message
        code, _ = explain_pull(status.image, reason, message)
        words = _PULL.get(code, first_line(message) or reason)
        return Pending("", code, f"The image {status.image or 'of ' + status.name} cannot be pulled: {words}")
    if reason == "CreateContainerConfigError":
        return Pending("", "BadPodConfig", f"Container {status.name} cannot be created: {first_line(message)}")
    if reason in ("RunContainerError", "CreateContainerError") or (ended and ended.reason in _START):
        words = first_line(message or (ended.message if ended else "")) or reason
        return Pending("", "CannotStart", f"Container {status.name} cannot be started: {words}")
    if ended and ended.reason == "OOMKilled" and not status.ready:
        return Pending("", "OutOfMemory", f"Container {status.name} used more memory than its limit.")
    if ended and ended.exit_code != 0 and not status.ready and (status.restart_count or status.state.terminated):
        times = "once" if status.restart_count <= 1 else f"{status.restart_count} times"
        logs = f"kubectl -n {pod.metadata.namespace} logs {pod.metadata.name} -c {status.name}"
        said = f"last log line: {last_line(ended.message)!r}" if ended.message.strip() else f"see {logs}"
        words = f"Container {status.name} stopped with exit code {ended.exit_code} and was restarted {times}; {said}"
        return Pending("", "CrashLoop", f"{words}.")
    return None


_START = ("StartError", "ContainerCannotRun")
_PULL: Mapping[str, str] = {
    "ImageNameInvalid": "its name is not a valid image name.",
    "ImageNotPresent": "it is not on the node, and the pull policy does not allow pulling it.",
    "ImagePullDenied": "the registry has no such image or denies access to it; check name, tag and imagePullSecrets.",
    "ImageWrongPlatform": "it has no build for the node's architecture.",
    "ImageNotFound": "the registry has no such image; check name and tag.",
    "RegistryUnknown": "the node cannot resolve the registry's host name; check it.",
    "RegistryNotTrusted": "the node does not trust the registry's certificate.",
    "RegistryBusy": "the registry limits the rate of pulls.",
    "RegistryUnreachable": "the registry does not respond to the node.",
}


def _progress(name: str, pod: Pod, events: list[Event]) -> Pending:
    """Nothing is wrong with a container: it is being made, or does not answer yet."""
    containers = (*pod.status.init_container_statuses, *pod.status.container_statuses)
    runs = any(
        container.state.running for container in containers
    )  # then its volumes are mounted, whatever an Event said before
    if not runs and (note := _newest(events, "FailedMount", "FailedAttachVolume")):
        return Pending(name, "VolumeMount", f"A volume cannot be mounted: {first_line(note)}")
    if not runs and (note := _newest(events, "FailedCreatePodSandBox")):
        return Pending(name, "NodeNetwork", f"The node cannot set up the pod: {first_line(note)}")
    for status in pod.status.init_container_statuses:
        if status.state.running and not status.ready:
            return Pending(name, "Initialising", f"Its init container {status.name} is running.", stuck=False)
    running = next(
        (container for container in pod.status.container_statuses if container.state.running and not container.ready),
        None,
    )
    if running is None:
        return Pending(name, "Preparing", f"Node {pod.spec.node_name} is preparing its image.", stuck=False)
    if note := _newest(events, "Unhealthy"):
        return Pending(
            name, "NotAnswering", f"Container {running.name} is running but does not respond: {first_line(note)}"
        )
    return Pending(name, "Starting", f"Container {running.name} is running but does not respond yet.", stuck=False)


def _unmade(events: Iterable[Event], began: str) -> Iterator[Pending]:
    """Pods that a workload could not make: quota, Pod Security, a missing account."""
    for event in events:
        if event.reason == "FailedCreate" and event.regarding.kind != "Pod" and event.seen >= began:
            name = f"{event.regarding.kind.lower()}/{event.metadata.namespace}/{event.regarding.name}"
            yield Pending(name, "PodsRefused", f"Its pods are refused: {first_line(event.note)}")


def _claim(claim: PersistentVolumeClaim, events: list[Event]) -> Pending | None:
    name = f"persistentvolumeclaim/{claim.metadata.namespace}/{claim.metadata.name}"
    if claim.status.phase == "Lost":
        return Pending(name, "VolumeLost", "Its volume no longer exists.")
    if claim.status.phase != "Pending" or claim.metadata.deletion_timestamp is not None:
        return None
    if note := _newest(events, "ProvisioningFailed"):
        return Pending(name, "NotProvisioned", f"Its volume cannot be created: {first_line(note)}")
    if _newest(events, "FailedBinding"):
        return Pending(name, "NoStorageClass", "It sets no StorageClass, and the cluster has no default.")
    return None  # it waits for its first pod, which says more


def _job(job: Job) -> Pending | None:
    failed = next(
        (condition for condition in job.status.conditions if condition.type == "Failed" and condition.status == "True"),
        None,
    )
    if failed is None:
        return None
    name = f"job/{job.metadata.namespace}/{job.metadata.name}"
    logs = f"kubectl -n {job.metadata.namespace} logs job/{job.metadata.name}"
    return Pending(name, "JobFailed", f"It failed: {first_line(failed.message) or failed.reason} See {logs}")


def _has_no_address(service: Service) -> bool:
    return service.spec.type == "LoadBalancer" and not service.status.load_balancer.ingress


def _service(service: Service) -> Pending:
    name = f"service/{service.metadata.namespace}/{service.metadata.name}"
    words = (
        "It has no address yet: nothing on this cluster serves Services of type LoadBalancer, or its ports are in use."
    )
    return Pending(name, "NoAddress", words)


def _about(events: Iterable[Event], kind: str, meta: ChildMeta) -> list[Event]:
    return [
        event
        for event in events
        if event.regarding.kind == kind
        and event.regarding.name == meta.name
        and event.metadata.namespace == meta.namespace
        if event.regarding.uid in ("", meta.uid)
    ]


def _newest(events: Iterable[Event], *reasons: str) -> str:
    """The note of the newest Event with one of these reasons; `Error: ImagePullBackOff` repeats the state only."""
    fitting = [
        event for event in events if event.reason in reasons and event.note and not event.note.startswith("Error: ")
    ]
    newest = max(fitting, key=lambda event: event.seen, default=None)
    return newest.note if newest else ""


def _neutral(sentence: str) -> str:
    """The scheduler's words are made for desktops elsewhere."""
    return re.sub(r"\bhome volume\b", "volume", sentence).replace("the desktop", "the pod")
