"""Pre-pull of a template's image: the nodes that lack it, the pods that pull it, and the next step.
Pure.

A puller is a pod that is bound to one node, has the template's image and ends at once: by then the
kubelet has pulled the image. A node has the image when its status names it (`status.images`) or
when a puller has ended there. The kubelet names its 50 largest images only, so `PullMemory` keeps
the latter until the node names the image itself. An image that was named and no longer is has been
garbage collected, and is pulled again.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import msgspec

from vdi.api.meta import Condition
from vdi.api.template import PrePullFailure, PrePullStatus, VDITemplate
from vdi.cluster.capacity import allows_placement, demand_of, read_capacity
from vdi.cluster.explain import StartState, explain
from vdi.cluster.objects import Event, Node, Pod
from vdi.cluster.units import parse_time, pause_after
from vdi.session.children import restricted_container, restricted_pod
from vdi.session.conditions import renew_condition
from vdi.session.naming import MANAGED_BY, derive_base, owner_reference

# Nodes that pull the image of one template at the same time, to spare the registry.
AT_ONCE = 3
# Problems that may pass, such as no network yet, count as a failure after this time.
PULL_TIMEOUT = timedelta(seconds=60)
# Backoff of failed pulls on one node.
FIRST_PAUSE, LONGEST_PAUSE = timedelta(minutes=1), timedelta(minutes=30)
# Failed nodes in the status, which has to stay small in a large cluster.
MOST_NAMED = 20
# The condition of a template with `prePull`.
IMAGE_PULLED = "ImagePulled"
# Label of a puller (value: a name derived from the template's), and annotation (the template's
# name).
PREPULL = "vdi.kasm.io/prepull"
# Annotation of a puller: its node.
PREPULL_NODE = "vdi.kasm.io/prepull-node"
# Annotation of a puller: its image, as the template had it then.
PREPULL_IMAGE = "vdi.kasm.io/prepull-image"
# Reasons of a waiting container whose image was pulled: it cannot be started, and need not be.
_IMAGE_IS_THERE = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
)
_STILL_CREATING = frozenset({"", "ContainerCreating", "PodInitializing"})
_USER_ID = 1000
# Seconds. A large image over a slow line takes many minutes, not hours.
_LONGEST_PULL = 3600


class PullReason(StrEnum):
    """Reasons of the condition `ImagePulled`."""

    NO_NODES = "NoNodes"
    PULLED = "Pulled"
    PULLING = "Pulling"
    PULL_FAILED = "PullFailed"


class FailureReason(StrEnum):
    """Reasons why a puller failed on a node, beside those of `PodReason`."""

    PULLER_FAILED = "PullerFailed"
    NO_ROOM = "NoRoom"


@dataclass(slots=True)
class Failure:
    """A failed pull on one node."""

    count: int
    reason: str
    message: str
    # When it is tried again.
    again: datetime


@dataclass(slots=True)
class PullMemory:
    """Knowledge of one template's image that no object has. It lives as long as the process.

    After a restart a node that does not name the image gets one more puller, which finds it there
    and pulls nothing.
    """

    image: str = ""
    # By uid of a node that has the image: whether the node's status names it.
    has: dict[str, bool] = field(default_factory=dict)
    # By uid of a node.
    failures: dict[str, Failure] = field(default_factory=dict)

    def fail(self, node: Node, reason: str, message: str, now: datetime) -> None:
        """Record a failed pull, and the time of the next try."""
        before = self.failures.get(node.metadata.uid)
        count = before.count + 1 if before else 1
        again = now + pause_after(count, FIRST_PAUSE, LONGEST_PAUSE)
        self.failures[node.metadata.uid] = Failure(count, reason, message, again)

    def begin(self, image: str, nodes: Iterable[Node]) -> None:
        """Update from the nodes' status. Forget nodes that are gone, and everything when the image
        has changed.
        """
        if self.image != image:
            self.image = image
            self.has.clear()
            self.failures.clear()
        names = spellings(image)
        present = {
            node.metadata.uid: any(
                name in names for image in node.status.images for name in image.names or ()
            )
            for node in nodes
        }
        self.failures = {
            uid: failure for uid, failure in self.failures.items() if present.get(uid) is False
        }
        # A node that named the image and no longer does has garbage collected it. A node that never
        # named it may have it all the same, so the success of its puller counts.
        pulled = {uid for uid, named in self.has.items() if not named}
        self.has = {uid: named for uid, named in present.items() if named or uid in pulled}


@dataclass(frozen=True, slots=True)
class PullPlan:
    # Nodes that get a puller.
    create: tuple[Node, ...]
    # Pullers that are done, have failed or are no longer needed.
    remove: tuple[Pod, ...]
    # Nodes that should have the image.
    desired: tuple[Node, ...]
    # Names of the nodes whose pullers are at work, without those of `create`.
    pulling: tuple[str, ...]
    # The next moment at which time alone changes the plan.
    again: datetime | None


@dataclass(frozen=True, slots=True)
class PullResult:
    """Result of one puller: the image, or the reason why not."""

    pulled: bool
    reason: str = ""
    message: str = ""


def plan(
    template: VDITemplate,
    nodes: Sequence[Node],
    pullers: Iterable[tuple[Pod, Sequence[Event]]],
    memory: PullMemory,
    *,
    gpu_resource: str,
    now: datetime,
) -> PullPlan:
    """The next step towards the image on every node that may run the template's desktops; results
    go into `memory`.
    """
    memory.begin(template.spec.image, nodes)
    desired = {node.metadata.name: node for node in nodes if can_run(node, template, gpu_resource)}
    remove: list[Pod] = []
    pulling: set[str] = set()
    looks: list[datetime] = []
    for pod, events in pullers:
        notes = pod.metadata.annotations
        node = desired.get(notes.get(PREPULL_NODE, ""))
        ours = any(owner.uid == template.metadata.uid for owner in pod.metadata.owner_references)
        is_current = ours and notes.get(PREPULL_IMAGE) == template.spec.image
        if node is None or not is_current or memory.has.get(node.metadata.uid):
            remove.append(pod)
            continue
        if pod.metadata.deletion_timestamp:
            pulling.add(node.metadata.name)  # it counts until it is gone
            continue
        result = evaluate_puller(pod, events, now)
        if result is None:
            pulling.add(node.metadata.name)
            looks.append(max(now, _made(pod, now)) + PULL_TIMEOUT)
            continue
        remove.append(pod)
        if result.pulled:
            memory.has.setdefault(node.metadata.uid, False)
            memory.failures.pop(node.metadata.uid, None)
        else:
            memory.fail(node, result.reason, result.message, now)
    create = _next(desired.values(), pulling, memory, now)
    looks += [
        failure.again
        for node in desired.values()
        if (failure := memory.failures.get(node.metadata.uid)) and failure.again > now
    ]
    return PullPlan(
        create,
        tuple(remove),
        tuple(desired.values()),
        tuple(sorted(pulling)),
        min(looks, default=None),
    )


def _next(
    desired: Iterable[Node], pulling: set[str], memory: PullMemory, now: datetime
) -> tuple[Node, ...]:
    """The nodes that get a puller now. Nodes that were never tried go first: broken ones must not
    block the others.
    """
    due: list[tuple[int, str, Node]] = []
    for node in desired:
        name, failure = node.metadata.name, memory.failures.get(node.metadata.uid)
        if node.metadata.uid in memory.has or name in pulling or (failure and failure.again > now):
            continue
        due.append((failure.count if failure else 0, name, node))
    due.sort(key=lambda one: one[:2])
    return tuple(node for _, _, node in due[: max(0, AT_ONCE - len(pulling))])


def evaluate_puller(pod: Pod, events: Sequence[Event], now: datetime) -> PullResult | None:
    """The result of a puller; None while it is at work."""
    container, status = pod.desktop, pod.status
    waiting = container.state.waiting if container else None
    if _is_pulled(pod):
        return PullResult(pulled=True)
    if status.phase == "Failed":
        reasons = filter(None, (status.reason, status.message.strip().rstrip(".")))
        detail = ": ".join(reasons) or "no reason given"
        return PullResult(
            False,
            FailureReason.PULLER_FAILED,
            f"The pod that pulls the image ended before it was complete ({detail}).",
        )
    is_clear = waiting is not None and waiting.reason not in _STILL_CREATING
    if not is_clear and now - _made(pod, now) < PULL_TIMEOUT:
        return None
    scheduled = pod.condition("PodScheduled")
    if not pod.spec.node_name and scheduled and scheduled.status == "False":
        why = scheduled.message.strip().rstrip(".") or "the scheduler reports no reason"
        return PullResult(
            False,
            FailureReason.NO_ROOM,
            f"The node has no capacity for the small pod that pulls the image ({why}).",
        )
    explanation = explain(StartState(pod, events=tuple(events)))
    if explanation.stuck:
        return PullResult(False, explanation.reason, explanation.sentence)
    return None


def _is_pulled(pod: Pod) -> bool:
    container = pod.desktop
    if pod.status.phase == "Succeeded" or container is None:
        return pod.status.phase == "Succeeded"
    waiting = container.state.waiting
    return bool(container.image_id) or (waiting is not None and waiting.reason in _IMAGE_IS_THERE)


def can_run(node: Node, template: VDITemplate, gpu_resource: str) -> bool:
    """Whether a desktop of this template may be put on this node, however full it is now; the
    queue's own rules.
    """
    placement, gpus = template.spec.placement, template.spec.resources.default_gpu
    demand = demand_of({gpu_resource: gpus}, placement.node_selector.items(), placement.tolerations)
    try:
        capacity = read_capacity(node)
    except ValueError:  # the queue reports such a node, and starts no session there
        return False
    return (
        not capacity.closed
        and allows_placement(demand, capacity)
        and capacity.could_fit(demand.takes)
    )


def summarise(plan: PullPlan, memory: PullMemory) -> PrePullStatus:
    """`status.prePull` after the plan has been carried out."""
    names = {node.metadata.uid: node.metadata.name for node in plan.desired}
    failures = sorted(
        (names[uid], failure) for uid, failure in memory.failures.items() if uid in names
    )
    failed = [PrePullFailure(name, one.reason, one.message) for name, one in failures]
    created = (node.metadata.name for node in plan.create)
    return PrePullStatus(
        image=memory.image,
        desired=len(plan.desired),
        ready=sum(node.metadata.uid in memory.has for node in plan.desired),
        pulling=tuple(sorted({*plan.pulling, *created})),
        failed=tuple(failed[:MOST_NAMED]),
    )


def image_pulled(template: VDITemplate, progress: PrePullStatus, now: datetime) -> Condition:
    """The condition ImagePulled, with the first failure in its message."""
    reason, message = _summary(progress)
    before, generation = template.status.conditions, template.metadata.generation
    holds = reason is PullReason.PULLED
    return renew_condition(before, IMAGE_PULLED, holds, reason, message, now, generation=generation)


def _summary(progress: PrePullStatus) -> tuple[PullReason, str]:
    if progress.desired == 0:
        return (
            PullReason.NO_NODES,
            "No node can run desktops of this template now (spec.placement, GPUs, node readiness).",
        )
    if progress.ready == progress.desired:
        return PullReason.PULLED, ""
    so_far = f"{progress.ready} of {progress.desired} nodes have the image."
    if progress.failed:
        first = progress.failed[0]
        return (
            PullReason.PULL_FAILED,
            f"{so_far} {first.node}: {first.message} It is retried automatically.",
        )
    return PullReason.PULLING, so_far


def spellings(image: str) -> frozenset[str]:
    """The names under which a node may list an image: the whole one, and without the parts that
    Docker leaves out.
    """
    name, _, digest = image.partition("@")
    head, slash, _ = name.partition("/")
    if not slash or not ("." in head or ":" in head or head == "localhost"):
        name = f"docker.io/{name}"
    name = name.replace("index.docker.io/", "docker.io/", 1)
    if name.startswith("docker.io/") and name.count("/") == 1:
        name = name.replace("/", "/library/", 1)
    path, _, last = name.rpartition("/")
    repository, _, tag = last.partition(":")
    if digest:
        whole = f"{path}/{repository}@{digest}"
    else:
        whole = f"{path}/{repository}:{tag or 'latest'}"
    return frozenset(
        {whole, whole.removeprefix("docker.io/"), whole.removeprefix("docker.io/library/")}
    )


def _made(pod: Pod, now: datetime) -> datetime:
    if pod.metadata.creation_timestamp:
        return parse_time(pod.metadata.creation_timestamp)
    return now


def build_puller(template: VDITemplate, node: str, namespace: str) -> dict[str, Any]:
    placement = template.spec.placement
    only_there = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": _LONGEST_PULL,
        "terminationGracePeriodSeconds": 0,  # nothing to save, and nothing that two could write to
        **restricted_pod(_USER_ID),
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [only_there]
                }
            }
        },
        "containers": [_build_container(template.spec.image)],
    }
    if placement.tolerations:
        spec["tolerations"] = [
            msgspec.to_builtins(toleration) for toleration in placement.tolerations
        ]
    if template.spec.image_pull_secrets:
        spec["imagePullSecrets"] = [
            {"name": secret.name} for secret in template.spec.image_pull_secrets
        ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _puller_metadata(template, node, namespace),
        "spec": spec,
    }


def puller_name(template: VDITemplate, node: str) -> str:
    """The same for the same template, node and image, so a create whose response was lost cannot
    make a second one.
    """
    identity = "\0".join((template.metadata.uid, node, template.spec.image))
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    return f"prepull-{derive_base(template.metadata.name)[:40].rstrip('-')}-{digest}"


def _puller_metadata(template: VDITemplate, node: str, namespace: str) -> dict[str, Any]:
    meta = template.metadata
    return {
        "name": puller_name(template, node),
        "namespace": namespace,
        "labels": {**MANAGED_BY, PREPULL: derive_base(meta.name)},
        "annotations": {PREPULL: meta.name, PREPULL_NODE: node, PREPULL_IMAGE: template.spec.image},
        "ownerReferences": [owner_reference("VDITemplate", meta.name, meta.uid)],
    }


def _build_container(image: str) -> dict[str, Any]:
    return {
        "name": "pull",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        # An image without this program cannot be started, which is as good: by then the node has
        # pulled it.
        "command": ["true"],
        # As in a desktop without a GPU: images built for GPUs would get all of them.
        "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}],
        "resources": {
            "requests": {"cpu": "10m", "memory": "16Mi"},
            "limits": {"cpu": "100m", "memory": "64Mi"},
        },
        "securityContext": restricted_container(),
    }
