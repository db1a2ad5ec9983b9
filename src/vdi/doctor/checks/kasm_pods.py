"""Why one pod of Kasm does not get on, as far as that is its own affair: image, references, volumes, room, crashes."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from vdi.doctor.checks.kasm_room import arithmetic, requests
from vdi.doctor.kasm_parts import Box, Part
from vdi.findings.model import Remedy
from vdi.session.pulling import IMAGE_REASONS, explain_pull, first_line
from vdi.session.scheduling import explain_unschedulable

_PATIENCE = 20.0
"""Seconds for which a pod may be without a node: a rolling upgrade makes room by itself."""
_PROBE_PATIENCE = 60.0
"""Seconds for which a container may run before it answers."""
_STARTUP_PATIENCE = 200.0
"""As above, where a startup probe gives it time: generation C's API 180 seconds."""
_STALLED = 240.0
"""Seconds after which a start that nobody complains about is worth a word. An API may take 180 by its probe."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is the matter with a pod. No code: nothing is, it is on its way."""

    code: str
    words: str
    evidence: tuple[str, ...] = ()
    remedy: Remedy = field(default_factory=Remedy)
    related_objects: tuple[str, ...] = ()
    claim: str = ""
    """It is the claim's fault: ask there."""


Rule = Callable[[Part, Box | None], Trouble | None]


def own_trouble(part: Part) -> Trouble:
    """The first rule that answers; the last always does."""
    box = next(iter(part.unready), None)
    return next(answer for rule in RULES if (answer := rule(part, box)))


def whose(box: Box) -> str:
    """A container in words."""
    return f"{'init container' if box.is_init else 'container'} {box.name}"


def describe(part: Part, sentence: str = "") -> Remedy:
    """The command that shows all of a pod, after what is to be done."""
    return Remedy(sentence, (f"kubectl --namespace {part.namespace} describe pod {part.name}",))


def _lost(part: Part, _: Box | None) -> Trouble | None:
    node = part.snapshot.nodes.get(part.node)
    if not part.node or not part.snapshot.nodes or (node and node.ready):
        return None
    return Trouble(
        "kasm_on_lost_node",
        f"{part.name} is on the node {part.node}, which {'does not answer' if node else 'is gone'}.",
        (f"spec.nodeName: {part.node}",),
        Remedy.run(f"kubectl describe node {part.node}"),
        (f"node/{part.node}",),
    )


def _unscheduled(part: Part, _: Box | None) -> Trouble | None:
    if part.node:
        return None
    condition = part.condition("PodScheduled") or {}
    message = str(condition.get("message", ""))
    if missing := re.search(r'persistentvolumeclaim "([^"]+)" not found', message):
        return Trouble("", f"{part.name} needs the claim {missing[1]}.", claim=missing[1])
    if part.claims and ("persistentvolume" in message.lower() or not message):
        return Trouble("", f"{part.name} waits for its volume.", claim=part.claims[0])
    age = part.snapshot.age(condition.get("lastTransitionTime")) if condition else part.age
    if age < _PATIENCE:
        return Trouble("", f"{part.name} looks for a node.")
    if condition.get("status") != "False":
        return Trouble(
            "kasm_unschedulable",
            f"No scheduler has looked at {part.name} for {int(age)} s.",
            ("no condition PodScheduled",),
            Remedy.run("kubectl --namespace kube-system get pods"),
        )
    sentence = explain_unschedulable(message)[1]
    for ours, theirs in (("placement.nodeSelector", "its nodeSelector"), ("the desktop", part.name), ("home ", "")):
        sentence = sentence.replace(ours, theirs)
    return Trouble(
        "kasm_unschedulable",
        f"{part.name} is on no node. {sentence} {arithmetic(part)}".strip(),
        (f"PodScheduled: {first_line(message)}", *requests(part)),
        describe(part, f"Request less in the values (resources of {_component_words(part)}), or add a node."),
        tuple(f"node/{name}" for name in part.snapshot.nodes),
    )


def _component_words(part: Part) -> str:
    return part.labels.get("app.kubernetes.io/component") or part.labels.get("app.kubernetes.io/name") or part.name


def _image(part: Part, box: Box | None) -> Trouble | None:
    reason, message = box.waiting if box else ("", "")
    if box is None or reason not in IMAGE_REASONS:
        return None
    event = part.newest("Failed")
    said = event.note if event and reason == "ImagePullBackOff" else message
    sentence = explain_pull(box.image, reason, said)[1]
    for ours, theirs in (
        ("the template's spec.image", "the values"),
        ("the template's imagePullSecrets", "pull secrets"),
    ):
        sentence = sentence.replace(ours, theirs)
    return Trouble(
        "kasm_image_unavailable",
        f"The {whose(box)} of {part.name} cannot start: {sentence[0].lower()}{sentence[1:]}",
        (f"{box.name}: {reason}", f"Failed: {event.note}" if event else first_line(said)),
        describe(part, f"Correct the image of {box.name} in the values and run helm upgrade."),
        (f"node/{part.node}",),
    )


def _reference(part: Part, box: Box | None) -> Trouble | None:
    reason, message = box.waiting if box else ("", "")
    event = None if part.has_begun else part.newest("FailedMount")
    text = message if reason == "CreateContainerConfigError" else event.note if event else ""
    kind, name, key = "", "", ""
    if found := re.search(r"couldn't find key (\S+) in (Secret|ConfigMap) (?:\S+/)?(\S+)", text):
        key, kind, name = found[1], found[2], found[3]
    elif found := re.search(r"references non-existent (secret|config) key: (\S+)", text):
        key, kind, name = found[2], {"secret": "Secret", "config": "ConfigMap"}[found[1]], "that it mounts"
    elif found := re.search(r'(secret|configmap) "([^"]+)" not found', text):
        kind, name = {"secret": "Secret", "configmap": "ConfigMap"}[found[1]], found[2]
    elif reason != "CreateContainerConfigError":
        return None
    wanted = f"the key {key!r} of the {kind} {name}" if key else f"the {kind} {name}" if kind else first_line(text)
    who = f"The {whose(box)} of {part.name}" if box and reason == "CreateContainerConfigError" else part.name
    return Trouble(
        "kasm_reference_missing",
        f"{who} needs {wanted}, which is not there." if kind else f"{who} cannot be set up: {wanted}",
        (f"{box.name}: {reason}" if box and reason else "", f"{event.reason}: {event.note}" if event else text),
        _supply(part, kind, name, key, text) if kind else describe(part),
        (f"{kind.lower()}/{part.namespace}/{name}",) if kind else (),
    )


def _supply(part: Part, kind: str, name: str, key: str, text: str) -> Remedy:
    """How the object that is missing, or its key, comes to be there."""
    if key:
        command = f"edit {kind.lower()} {name}"
    elif kind == "ConfigMap":
        command = f"create configmap {name} --from-file files"
    elif re.search(r"tls|cert", text):
        command = f"create secret tls {name} --cert fullchain.pem --key key.pem"
    else:
        command = f"create secret generic {name} --from-file files"
    return Remedy(
        "Run helm upgrade if it belongs to the chart; else supply it yourself.",
        (f"kubectl --namespace {part.namespace} {command}",),
    )


def _bad_start(part: Part, box: Box | None) -> Trouble | None:
    if box is None:
        return None
    reason, message = box.waiting
    ended = box.ended or {}
    if ended.get("reason") in ("StartError", "ContainerCannotRun"):
        reason, message = str(ended["reason"]), str(ended.get("message") or message)
    if reason not in ("RunContainerError", "CreateContainerError", "StartError", "ContainerCannotRun"):
        return None
    return Trouble(
        "kasm_cannot_start",
        f"The {whose(box)} of {part.name} cannot be started: {first_line(message) or reason}",
        (f"{box.name}: {reason}", message.strip()[:300]),
        describe(part, f"Correct image or command of {box.name}."),
    )


def _memory_out(part: Part, box: Box | None) -> Trouble | None:
    if box is None or (box.ended or {}).get("reason") != "OOMKilled":
        return None
    limit = ((box.spec.get("resources") or {}).get("limits") or {}).get("memory", "none set")
    return Trouble(
        "kasm_out_of_memory",
        f"The {whose(box)} of {part.name} used more memory than it may have (limit: {limit}) and was stopped.",
        (f"{box.name}: OOMKilled, restarts: {box.restarts}", f"limits.memory: {limit}"),
        Remedy(f"Raise the memory limit of {_component_words(part)} in the values and run helm upgrade."),
    )


def _crash(part: Part, box: Box | None) -> Trouble | None:
    ended = box.ended if box else None
    if box is None or ended is None or not (box.is_crashing or box.restarts >= 3):
        return None
    words = part.log(box)
    last = f" Its last words: {words[-1].strip()[:200]}" if words else ""
    return Trouble(
        "kasm_crashes",
        f"The {whose(box)} of {part.name} ended with exit code {ended.get('exitCode')}"
        f" ({box.restarts} restarts).{last}".rstrip(".")
        + ".",
        (
            f"{box.name}: exit code {ended.get('exitCode')}, {ended.get('reason', '')}",
            *(f"log: {one}" for one in words),
        ),
        Remedy.run(
            f"kubectl --namespace {part.namespace} logs {part.name} --container {box.name}"
            + (" --previous" if box.running_since else "")
        ),
    )


def _is_preparing(box: Box | None) -> bool:
    """Nothing of it has run yet, and no reason of its own is given."""
    return box is None or (box.waiting[0] in ("", "ContainerCreating", "PodInitializing") and not box.running_since)


def _unmounted(part: Part, _: Box | None) -> Trouble | None:
    if part.has_begun:
        return None
    pending = [name for name in part.claims if not _is_bound(part, name)]
    if pending:
        return Trouble("", f"{part.name} waits for its volume.", claim=pending[0])
    if event := part.newest("FailedCreatePodSandBox"):
        return Trouble(
            "kasm_network_broken",
            f"The node {part.node} cannot set {part.name} up: {first_line(event.note)}",
            (f"{event.reason}: {event.note}",),
            Remedy(
                "Describe the node; on the node itself, read the journal.",
                (f"kubectl describe node {part.node}", "journalctl -u k3s"),
            ),
            (f"node/{part.node}",),
        )
    event = part.newest("FailedMount", "FailedAttachVolume")
    if event is None:
        return None
    return Trouble(
        "kasm_volume_not_mounted",
        f"A volume cannot be mounted into {part.name}: {first_line(event.note)}",
        (f"{event.reason}: {event.note}",),
        describe(part),
        (f"node/{part.node}",),
    )


def _is_bound(part: Part, claim: str) -> bool:
    found = part.snapshot.claims.get((part.namespace, claim))
    return found is not None and found.status.phase == "Bound"


def _unanswered(part: Part, box: Box | None) -> Trouble | None:
    if box is None or box.is_init or not box.running_since:
        return None
    event = part.newest("Unhealthy")
    seconds = part.snapshot.age(box.running_since)
    if event is None or seconds < (_STARTUP_PATIENCE if "Startup" in event.note else _PROBE_PATIENCE):
        return None
    words = part.log(box)
    return Trouble(
        "kasm_probe_fails",
        f"The {whose(box)} of {part.name} has run for {int(seconds)} s and does not pass its probe:"
        f" {first_line(event.note)}",
        (f"Unhealthy: {event.note.strip()}", *(f"log: {one}" for one in words)),
        Remedy.run(f"kubectl --namespace {part.namespace} logs {part.name} --container {box.name}"),
    )


def _on_its_way(part: Part, box: Box | None) -> Trouble | None:
    if box is not None and box.is_init and box.running_since:
        return Trouble("", f"The {whose(box)} of {part.name} runs.")
    doing = "is getting ready" if _is_preparing(box) else "runs and does not answer yet"
    if part.age > _STALLED:
        return Trouble(
            "kasm_start_stalled",
            f"{part.name} {doing}, for {int(part.age)} s now, and nobody says why.",
            (f"state: {part.state}, no Event that says more",),
            describe(part),
            (f"node/{part.node}",),
        )
    return Trouble("", f"{part.name} {doing}.")


RULES: tuple[Rule, ...] = (
    _lost,
    _unscheduled,
    _memory_out,
    _image,
    _reference,
    _bad_start,
    _crash,
    _unmounted,
    _unanswered,
    _on_its_way,
)
