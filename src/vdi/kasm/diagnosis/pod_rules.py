"""Rules for causes in the pod itself: capacity, crashes, probes, and what `vdi.cluster.explain` says
of a container. Pure.
"""

import dataclasses
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from vdi.cluster.capacity import NodeCapacity
from vdi.cluster.explain import (
    IMAGE_CODES,
    Reference,
    StartState,
    Subject,
    explain,
    explain_unschedulable,
    first_line,
    read_reference,
)
from vdi.cluster.objects import ContainerStatus
from vdi.cluster.reasons import REFERENCE_REASONS, START_REASONS, VOLUME_REASONS, PodReason
from vdi.findings.model import Remedy
from vdi.kasm.capacity import free_capacity
from vdi.kasm.generations import of_label
from vdi.kasm.installation import KasmContainer, KasmPod

_MEBI = 1 << 20


def _nodes(pod: KasmPod) -> dict[str, NodeCapacity]:
    """Empty where only the pods of some namespaces are known."""
    if "pods@all" in pod.snapshot.unreadable_kinds:
        return {}
    return free_capacity(pod.snapshot)


def _arithmetic(pod: KasmPod) -> str:
    """Its requests, and the free capacity of the roomiest node."""
    requested, lines = pod.pod.spec.takes, []
    nodes = _nodes(pod).values()
    for resource, show in (("cpu", _cpu), ("memory", _memory)):
        most = max((node.free.get(resource, 0) for node in nodes), default=None)
        if most is not None and requested.get(resource, 0) > most:
            has = f"the node with the most free capacity has {show(most)} left"
            lines.append(f"It requests {show(requested[resource])}; {has}")
    return f"{'; '.join(lines)}." if lines else ""


def _request_lines(pod: KasmPod) -> Iterator[str]:
    """Its requests, and the free capacity of each node, one line each."""
    requested = []
    for resource, show in (("cpu", _cpu), ("memory", _memory)):
        if resource in pod.pod.spec.takes:
            requested.append(f"{resource} {show(pod.pod.spec.takes[resource])}")
    if requested:
        yield f"requested: {', '.join(requested)}"
    for name, node in _nodes(pod).items():
        cpu = pod.snapshot.nodes[name].status.allocatable.get("cpu", "?")
        yield (
            f"node/{name}: cpu {_cpu(node.free.get('cpu', 0))} left of {cpu}, memory"
            f" {_memory(node.free.get('memory', 0))} left of"
            f" {_memory(node.allocatable.get('memory', 0))}"
        )


def _cpu(number: int) -> str:
    return f"{number / 1000:g} CPU"


def _memory(number: int) -> str:
    return f"{number // _MEBI} MiB"


_KASM_POD = Subject(
    name="it",
    title="It",
    volume="volume",
    node_selector="its nodeSelector",
    image="the values",
    pull_secrets="pull secrets",
)
# Reason of `explain` -> code.
_CODE_OF_REASON: Mapping[str, str] = {
    **dict.fromkeys(IMAGE_CODES, "kasm_image_unavailable"),
    **dict.fromkeys(REFERENCE_REASONS, "kasm_reference_missing"),
    **dict.fromkeys(START_REASONS, "kasm_cannot_start"),
    **dict.fromkeys(VOLUME_REASONS, "kasm_volume_not_mounted"),
    PodReason.NODE_LOST: "kasm_on_lost_node",
    PodReason.NODE_NETWORK: "kasm_network_broken",
    PodReason.OUT_OF_MEMORY: "kasm_out_of_memory",
}
_DENIED = re.compile(
    r"(?:mkdir|initdb|cannot create|could not (?:create|change|open)|chown|chmod).*permission"
    r" denied",
    re.IGNORECASE,
)
# The volume is empty still.
_NOTHING_MADE = re.compile(r"mkdir|cannot create|could not create directory", re.IGNORECASE)
# Seconds for which a pod may be without a node: a rolling upgrade makes room by itself.
_PATIENCE = 20.0
# Seconds for which a container may run before it answers.
_PROBE_PATIENCE = 60.0
# As above, where a startup probe gives it time: generation C's API 180 seconds.
_STARTUP_PATIENCE = 200.0
# Seconds after which a start without any Event is reported. An API may take 180 by its probe.
_STALLED = 240.0


@dataclass(frozen=True, slots=True)
class PodProblem:
    """Problem of a pod. Without a code there is none: the pod is starting."""

    code: str
    message: str
    evidence: tuple[str, ...] = ()
    remedy: Remedy = field(default_factory=Remedy)
    related_objects: tuple[str, ...] = ()
    # It is the claim's fault: ask there.
    claim: str = ""


Rule = Callable[[KasmPod, KasmContainer | None], PodProblem | None]


def own_problem(pod: KasmPod) -> PodProblem:
    """The problem of the first rule that finds one; of none, the pod is on its way."""
    container = next(iter(pod.unready), None)
    for rule in RULES:
        if problem := rule(pod, container):
            return problem
    return _on_its_way(pod, container)


def whose(container: KasmContainer) -> str:
    return f"{'init container' if container.is_init else 'container'} {container.name}"


def describe(pod: KasmPod, sentence: str = "") -> Remedy:
    """The command that shows all of a pod, after what is to be done."""
    return Remedy(sentence, (f"kubectl --namespace {pod.namespace} describe pod {pod.name}",))


def _unbound(pod: KasmPod, _: KasmContainer | None) -> PodProblem | None:
    """A claim that the pod waits for. For some, the scheduler has to choose its node first."""
    condition = pod.pod.condition("PodScheduled")
    message = condition.message.lower() if condition else ""
    if pod.has_begun or not (pod.node or "persistentvolume" in message or not message):
        return None
    for name in pod.claims:
        there = pod.snapshot.claims.get((pod.namespace, name))
        if there is None or there.status.phase != "Bound":
            return PodProblem("", f"{pod.name} waits for its volume.", claim=name)
    return None


def _unscheduled(pod: KasmPod, _: KasmContainer | None) -> PodProblem | None:
    if pod.node:
        return None
    condition = pod.pod.condition("PodScheduled")
    age = pod.snapshot.age(condition.last_transition_time) if condition else pod.age
    if age < _PATIENCE:
        return PodProblem("", f"{pod.name} waits for a node.")
    if condition is None or condition.status != "False":
        return PodProblem(
            "kasm_unschedulable",
            f"No scheduler has processed {pod.name} for {int(age)} s.",
            ("no condition PodScheduled",),
            Remedy.run("kubectl --namespace kube-system get pods"),
        )
    subject = dataclasses.replace(_KASM_POD, name=pod.name, title=pod.name)
    sentence = explain_unschedulable(condition.message, subject)[1]
    return PodProblem(
        "kasm_unschedulable",
        f"{pod.name} cannot be scheduled. {sentence} {_arithmetic(pod)}".strip(),
        (f"PodScheduled: {first_line(condition.message)}", *_request_lines(pod)),
        describe(
            pod,
            f"Request less in the values (resources of {_component_words(pod)}), or add a node.",
        ),
        tuple(f"node/{name}" for name in pod.snapshot.nodes),
    )


def _component_words(pod: KasmPod) -> str:
    return (
        pod.labels.get("app.kubernetes.io/component")
        or pod.labels.get("app.kubernetes.io/name")
        or pod.name
    )


def _image_remedy(pod: KasmPod, container: KasmContainer) -> str:
    generation = of_label(pod.labels.get("helm.sh/chart", ""))
    component = None
    if generation:
        component = generation.component_of(pod.labels)
    if component and container.is_init:
        step = component.step(container.name)
    else:
        step = None
    if step is not None and step.image == container.image:
        return (
            f"This chart has no value to change the image {container.image} of {container.name}:"
            " mirror it under that name in the registry of the nodes, or give the nodes access to"
            " docker.io."
        )
    return f"Correct the image of {container.name} in the values and run helm upgrade."


def _supply(pod: KasmPod, missing: Reference, text: str) -> Remedy:
    """Remedy that creates the missing object or key."""
    if missing.key:
        command = f"edit {missing.kind.lower()} {missing.name}"
    elif missing.kind == "ConfigMap":
        command = f"create configmap {missing.name} --from-file files"
    elif re.search(r"tls|cert", text):
        command = f"create secret tls {missing.name} --cert fullchain.pem --key key.pem"
    else:
        command = f"create secret generic {missing.name} --from-file files"
    return Remedy(
        "Run helm upgrade if it belongs to the chart; otherwise create it yourself.",
        (f"kubectl --namespace {pod.namespace} {command}",),
    )


def _explained(pod: KasmPod, container: KasmContainer | None) -> PodProblem | None:
    """The reason that `vdi.cluster.explain` gives for the container at which the pod is."""
    limit = ""
    if container:
        limit = container.spec.resources.limits.get("memory", "none")
    answer = explain(_start_state(pod, container, limit))
    code = _CODE_OF_REASON.get(answer.reason)
    if code is None:
        return None
    subject, evidence = pod.name, [f"spec.nodeName: {pod.node}"]
    if container:
        subject = f"The {whose(container)} of {pod.name}"
        reason, message = container.waiting
        evidence += [f"{container.name}: {reason}", message, f"limits.memory: {limit}"]
    evidence += [f"{event.reason}: {event.note.strip()}" for event in pod.events[-2:]]
    related, remedy = [f"node/{pod.node}"], describe(pod)
    text = "\n".join(evidence)
    missing = read_reference(text) if code == "kasm_reference_missing" else None
    if missing and missing.name:
        remedy = _supply(pod, missing, text)
        related.append(f"{missing.kind.lower()}/{pod.namespace}/{missing.name}")
    elif container and code == "kasm_image_unavailable":
        remedy = describe(pod, _image_remedy(pod, container))
    elif code in ("kasm_on_lost_node", "kasm_network_broken"):
        remedy = Remedy.run(f"kubectl describe node {pod.node}")
    sentence = answer.sentence[0].lower() + answer.sentence[1:]
    words = f"{subject} is not ready: {sentence}"
    return PodProblem(code, words, tuple(evidence), remedy, tuple(related))


def _start_state(pod: KasmPod, container: KasmContainer | None, limit: str) -> StartState:
    """The pod as if this container were its only one."""
    node = pod.snapshot.nodes.get(pod.node)
    statuses: tuple[ContainerStatus, ...] = ()
    if container and (container.waiting[0] or container.status.is_started):
        statuses = (replace(container.status, image=container.image),)
    status = replace(pod.pod.status, init_container_statuses=(), container_statuses=statuses)
    # Mounts that failed before a container has run are over.
    events = [one for one in pod.events if not pod.has_begun or "Mount" not in one.reason]
    return StartState(
        replace(pod.pod, status=status),
        None,
        tuple(events),
        node,
        node_lost=bool(pod.snapshot.nodes) and not (node and node.ready),
        subject=dataclasses.replace(_KASM_POD, memory=f"the values (the limit is {limit})"),
    )


def _crash(pod: KasmPod, container: KasmContainer | None) -> PodProblem | None:
    ended = container.ended if container else None
    if container is None or ended is None or not (container.is_crashing or container.restarts >= 3):
        return None
    log_lines = pod.log(container)
    last = f" Last log line: {log_lines[-1].strip()[:200]}" if log_lines else ""
    return PodProblem(
        "kasm_crashes",
        f"The {whose(container)} of {pod.name} ended with exit code {ended.exit_code}"
        f" ({container.restarts} restarts).{last}".rstrip(".")
        + ".",
        (
            f"{container.name}: exit code {ended.exit_code}, {ended.reason}",
            *(f"log: {word}" for word in log_lines),
        ),
        Remedy.run(
            f"kubectl --namespace {pod.namespace} logs {pod.name} --container {container.name}"
            + (" --previous" if container.running_since else "")
        ),
    )


def _not_writable(pod: KasmPod, container: KasmContainer | None) -> PodProblem | None:
    if container is None or not container.is_crashing or not pod.claims:
        return None
    refusals = list(filter(_DENIED.search, pod.log(container, 20)))
    if not refusals:
        return None
    refusal = refusals[-1]
    claim = pod.snapshot.claims.get((pod.namespace, pod.claims[0]))
    volume = claim.spec.volume_name if claim else ""
    path = pod.snapshot.volume_path(volume)
    if not path:
        remedy = Remedy.run(f"kubectl --namespace {pod.namespace} describe pvc {pod.claims[0]}")
    elif _NOTHING_MADE.search(refusal):
        folder = shlex.quote(path)
        remedy = Remedy(
            f"On the node {pod.node}, make the folder of the volume writable.",
            (f"chmod a+rwx {folder}",),
        )
    else:  # a database refuses files that are not its own, and those that others may write
        remedy = Remedy(
            f"On the node {pod.node}, look whose the volume's files are: they must be the"
            " container's user's.",
            (f"ls -lnR {shlex.quote(path)}",),
        )
    return PodProblem(
        "kasm_volume_not_writable",
        f"The {whose(container)} of {pod.name} cannot write to its volume {pod.claims[0]}.",
        (
            f"{container.name}: exit code {container.ended.exit_code if container.ended else None}",
            f"log: {refusal.strip()}",
        ),
        remedy,
        (f"persistentvolumeclaim/{pod.namespace}/{pod.claims[0]}", f"node/{pod.node}"),
    )


def _is_preparing(container: KasmContainer | None) -> bool:
    """Nothing of it has run yet, and no reason of its own is given."""
    return container is None or (
        container.waiting[0] in ("", "ContainerCreating", "PodInitializing")
        and not container.running_since
    )


def _probe_fails(pod: KasmPod, container: KasmContainer | None) -> PodProblem | None:
    if container is None or container.is_init or not container.running_since:
        return None
    event = pod.newest("Unhealthy")
    seconds = pod.snapshot.age(container.running_since)
    if event is None or seconds < (
        _STARTUP_PATIENCE if "Startup" in event.note else _PROBE_PATIENCE
    ):
        return None
    log_lines = pod.log(container)
    return PodProblem(
        "kasm_probe_fails",
        f"The {whose(container)} of {pod.name} has run for {int(seconds)} s but does not pass its"
        f" probe: {first_line(event.note)}",
        (f"Unhealthy: {event.note.strip()}", *(f"log: {word}" for word in log_lines)),
        Remedy.run(
            f"kubectl --namespace {pod.namespace} logs {pod.name} --container {container.name}"
        ),
    )


def _on_its_way(pod: KasmPod, container: KasmContainer | None) -> PodProblem:
    if container is not None and container.is_init and container.running_since:
        return PodProblem("", f"The {whose(container)} of {pod.name} runs.")
    if _is_preparing(container):
        doing = "is starting"
    else:
        doing = "is running but does not respond yet"
    if pod.age > _STALLED:
        return PodProblem(
            "kasm_start_stalled",
            f"{pod.name} {doing}. It has been in this state for {int(pod.age)} s, and no Event"
            " gives a reason.",
            (f"state: {pod.state}, no Event with a reason",),
            describe(pod),
            (f"node/{pod.node}",),
        )
    return PodProblem("", f"{pod.name} {doing}.")


RULES: tuple[Rule, ...] = (
    *(_unbound, _unscheduled, _explained),
    *(_not_writable, _crash, _probe_fails),
)
