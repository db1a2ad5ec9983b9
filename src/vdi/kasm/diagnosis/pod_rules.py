"""Rules for causes in the pod itself: image, references, capacity, crashes. Pure."""

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from vdi.cluster.capacity import NodeCapacity
from vdi.cluster.explain import (
    IMAGE_REASONS,
    Subject,
    explain_pull,
    explain_unschedulable,
    first_line,
)
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
    for resource, words in (("cpu", _cpu), ("memory", _memory)):
        most = max((node.free.get(resource, 0) for node in nodes), default=None)
        if most is not None and requested.get(resource, 0) > most:
            has = f"the node with the most free capacity has {words(most)} left"
            lines.append(f"It requests {words(requested[resource])}; {has}")
    return f"{'; '.join(lines)}." if lines else ""


def _request_lines(pod: KasmPod) -> Iterator[str]:
    """Its requests, and the free capacity of each node, one line each."""
    requested = []
    for resource, words in (("cpu", _cpu), ("memory", _memory)):
        if resource in pod.pod.spec.takes:
            requested.append(f"{resource} {words(pod.pod.spec.takes[resource])}")
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
    volume="volume",
    node_selector="its nodeSelector",
    image="the values",
    pull_secrets="pull secrets",
)
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


def _lost(pod: KasmPod, _: KasmContainer | None) -> PodProblem | None:
    node = pod.snapshot.nodes.get(pod.node)
    if not pod.node or not pod.snapshot.nodes or (node and node.ready):
        return None
    return PodProblem(
        "kasm_on_lost_node",
        f"{pod.name} is on the node {pod.node}, which"
        f" {'does not respond' if node else 'no longer exists'}.",
        (f"spec.nodeName: {pod.node}",),
        Remedy.run(f"kubectl describe node {pod.node}"),
        (f"node/{pod.node}",),
    )


def _unscheduled(pod: KasmPod, _: KasmContainer | None) -> PodProblem | None:
    if pod.node:
        return None
    condition = pod.pod.condition("PodScheduled")
    message = condition.message if condition else ""
    if missing := re.search(r'persistentvolumeclaim "([^"]+)" not found', message):
        return PodProblem("", f"{pod.name} needs the claim {missing[1]}.", claim=missing[1])
    if pod.claims and ("persistentvolume" in message.lower() or not message):
        return PodProblem("", f"{pod.name} waits for its volume.", claim=pod.claims[0])
    if condition:
        age = pod.snapshot.age(condition.last_transition_time)
    else:
        age = pod.age
    if age < _PATIENCE:
        return PodProblem("", f"{pod.name} waits for a node.")
    if condition is None or condition.status != "False":
        return PodProblem(
            "kasm_unschedulable",
            f"No scheduler has processed {pod.name} for {int(age)} s.",
            ("no condition PodScheduled",),
            Remedy.run("kubectl --namespace kube-system get pods"),
        )
    sentence = explain_unschedulable(message, replace(_KASM_POD, name=pod.name, title=pod.name))[1]
    return PodProblem(
        "kasm_unschedulable",
        f"{pod.name} cannot be scheduled. {sentence} {_arithmetic(pod)}".strip(),
        (f"PodScheduled: {first_line(message)}", *_request_lines(pod)),
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


def _image(pod: KasmPod, container: KasmContainer | None) -> PodProblem | None:
    reason, message = container.waiting if container else ("", "")
    if container is None or reason not in IMAGE_REASONS:
        return None
    event = pod.newest("Failed")
    if event and reason == "ImagePullBackOff":
        said = event.note
    else:
        said = message
    sentence = explain_pull(container.image, reason, said, _KASM_POD)[1]
    return PodProblem(
        "kasm_image_unavailable",
        f"The {whose(container)} of {pod.name} cannot start: {sentence[0].lower()}{sentence[1:]}",
        (f"{container.name}: {reason}", f"Failed: {event.note}" if event else first_line(said)),
        describe(pod, _image_remedy(pod, container)),
        (f"node/{pod.node}",),
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


@dataclass(frozen=True, slots=True)
class _Reference:
    """A missing object that a container or a volume names; `key`: what is missing in it."""

    kind: str
    name: str
    key: str = ""

    @property
    def words(self) -> str:
        whole = f"the {self.kind} {self.name}"
        if self.key:
            return f"the key {self.key!r} of {whole}"
        return whole


_KINDS = {"secret": "Secret", "configmap": "ConfigMap", "config": "ConfigMap"}


def _read_reference(text: str) -> _Reference | None:
    """The missing object in a message of the kubelet."""
    if match := re.search(r"couldn't find key (\S+) in (Secret|ConfigMap) (?:\S+/)?(\S+)", text):
        return _Reference(match[2], match[3], match[1])
    if match := re.search(r"references non-existent (secret|config) key: (\S+)", text):
        return _Reference(_KINDS[match[1]], "that it mounts", match[2])
    if match := re.search(r'(secret|configmap) "([^"]+)" not found', text):
        return _Reference(_KINDS[match[1]], match[2])
    return None


def _reference(pod: KasmPod, container: KasmContainer | None) -> PodProblem | None:
    reason, message = container.waiting if container else ("", "")
    is_refused = reason == "CreateContainerConfigError"
    event = None if pod.has_begun else pod.newest("FailedMount")
    text = message
    if not is_refused:
        text = event.note if event else ""
    missing = _read_reference(text)
    if missing is None and not is_refused:
        return None
    if container and is_refused:
        who = f"The {whose(container)} of {pod.name}"
    else:
        who = pod.name
    evidence = (
        f"{container.name}: {reason}" if container and reason else "",
        f"{event.reason}: {event.note}" if event else text,
    )
    if missing is None:
        words = f"{who} cannot be created: {first_line(text)}"
        return PodProblem("kasm_reference_missing", words, evidence, describe(pod))
    return PodProblem(
        "kasm_reference_missing",
        f"{who} needs {missing.words}, which does not exist.",
        evidence,
        _supply(pod, missing, text),
        (f"{missing.kind.lower()}/{pod.namespace}/{missing.name}",),
    )


def _supply(pod: KasmPod, missing: _Reference, text: str) -> Remedy:
    """Remedy that creates the missing object or key."""
    name = missing.name
    if missing.key:
        command = f"edit {missing.kind.lower()} {name}"
    elif missing.kind == "ConfigMap":
        command = f"create configmap {name} --from-file files"
    elif re.search(r"tls|cert", text):
        command = f"create secret tls {name} --cert fullchain.pem --key key.pem"
    else:
        command = f"create secret generic {name} --from-file files"
    return Remedy(
        "Run helm upgrade if it belongs to the chart; otherwise create it yourself.",
        (f"kubectl --namespace {pod.namespace} {command}",),
    )


def _bad_start(pod: KasmPod, container: KasmContainer | None) -> PodProblem | None:
    if container is None:
        return None
    reason, message = container.waiting
    ended = container.ended
    if ended and ended.reason in ("StartError", "ContainerCannotRun"):
        reason, message = ended.reason, ended.message or message
    if reason not in (
        "RunContainerError",
        "CreateContainerError",
        "StartError",
        "ContainerCannotRun",
    ):
        return None
    return PodProblem(
        "kasm_cannot_start",
        f"The {whose(container)} of {pod.name} cannot be started: {first_line(message) or reason}",
        (f"{container.name}: {reason}", " ".join(message.split())),
        describe(pod, f"Correct image or command of {container.name}."),
    )


def _memory_out(pod: KasmPod, container: KasmContainer | None) -> PodProblem | None:
    if container is None or container.ended is None or container.ended.reason != "OOMKilled":
        return None
    limit = container.spec.resources.limits.get("memory", "none set")
    return PodProblem(
        "kasm_out_of_memory",
        f"The {whose(container)} of {pod.name} used more memory than its limit ({limit}) and was"
        " stopped.",
        (f"{container.name}: OOMKilled, restarts: {container.restarts}", f"limits.memory: {limit}"),
        Remedy(
            f"Raise the memory limit of {_component_words(pod)} in the values and run helm upgrade."
        ),
    )


def _crash(pod: KasmPod, container: KasmContainer | None) -> PodProblem | None:
    ended = container.ended if container else None
    if container is None or ended is None or not (container.is_crashing or container.restarts >= 3):
        return None
    words = pod.log(container)
    last = f" Last log line: {words[-1].strip()[:200]}" if words else ""
    return PodProblem(
        "kasm_crashes",
        f"The {whose(container)} of {pod.name} ended with exit code {ended.exit_code}"
        f" ({container.restarts} restarts).{last}".rstrip(".")
        + ".",
        (
            f"{container.name}: exit code {ended.exit_code}, {ended.reason}",
            *(f"log: {word}" for word in words),
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
    words = refusals[-1]
    claim = pod.snapshot.claims.get((pod.namespace, pod.claims[0]))
    volume = claim.spec.volume_name if claim else ""
    path = pod.snapshot.volume_path(volume)
    if not path:
        remedy = Remedy.run(f"kubectl --namespace {pod.namespace} describe pvc {pod.claims[0]}")
    elif _NOTHING_MADE.search(words):
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
            f"log: {words.strip()}",
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


def _unmounted(pod: KasmPod, _: KasmContainer | None) -> PodProblem | None:
    if pod.has_begun:
        return None
    for name in pod.claims:
        if not _is_bound(pod, name):
            return PodProblem("", f"{pod.name} waits for its volume.", claim=name)
    if event := pod.newest("FailedCreatePodSandBox"):
        return PodProblem(
            "kasm_network_broken",
            f"The node {pod.node} cannot set up {pod.name}: {first_line(event.note)}",
            (f"{event.reason}: {event.note}",),
            Remedy(
                "Describe the node; on the node itself, read the journal.",
                (f"kubectl describe node {pod.node}", "journalctl -u k3s"),
            ),
            (f"node/{pod.node}",),
        )
    event = pod.newest("FailedMount", "FailedAttachVolume")
    if event is None:
        return None
    return PodProblem(
        "kasm_volume_not_mounted",
        f"A volume cannot be mounted into {pod.name}: {first_line(event.note)}",
        (f"{event.reason}: {event.note}",),
        describe(pod),
        (f"node/{pod.node}",),
    )


def _is_bound(pod: KasmPod, claim: str) -> bool:
    there = pod.snapshot.claims.get((pod.namespace, claim))
    return there is not None and there.status.phase == "Bound"


def _probe_fails(pod: KasmPod, container: KasmContainer | None) -> PodProblem | None:
    if container is None or container.is_init or not container.running_since:
        return None
    event = pod.newest("Unhealthy")
    seconds = pod.snapshot.age(container.running_since)
    if event is None or seconds < (
        _STARTUP_PATIENCE if "Startup" in event.note else _PROBE_PATIENCE
    ):
        return None
    words = pod.log(container)
    return PodProblem(
        "kasm_probe_fails",
        f"The {whose(container)} of {pod.name} has run for {int(seconds)} s but does not pass its"
        f" probe: {first_line(event.note)}",
        (f"Unhealthy: {event.note.strip()}", *(f"log: {word}" for word in words)),
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
    _lost,
    _unscheduled,
    _memory_out,
    _image,
    _reference,
    _bad_start,
    _not_writable,
    _crash,
    _unmounted,
    _probe_fails,
)
