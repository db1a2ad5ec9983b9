"""Explanations of pods that are not ready: pod, claim and Events in, a reason and a sentence out.
Pure.

Status, CLI, doctor, helm and kasm share them. `explain` tries `RULES` in order, and the first rule
that answers wins; `explain_pull` reads the kubelet's messages about images, `explain_unschedulable`
the scheduler's.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from vdi.cluster.objects import ContainerStatus, Event, Node, PersistentVolumeClaim, Pod, Terminated
from vdi.cluster.reasons import PodReason
from vdi.cluster.units import parse_time
from vdi.printable import as_sentence


@dataclass(frozen=True, slots=True)
class Subject:
    """The words for a pod and its settings in sentences: by default a desktop and its template."""

    name: str = "the desktop"
    # The name at the beginning of a sentence.
    title: str = "The desktop"
    volume: str = "home volume"
    node_selector: str = "placement.nodeSelector"
    image: str = "the template's spec.image"
    pull_secrets: str = "the template's imagePullSecrets"
    memory: str = "spec.resources.memory"


DESKTOP = Subject()


def chart_subject(name: str) -> Subject:
    """A pod of a Helm release, such as `operator`, which is configured in the chart's values."""
    return Subject(
        name=f"the {name}",
        title=f"The {name}",
        volume="volume",
        node_selector="nodeSelector in the chart's values",
        image="the chart's values",
        pull_secrets="imagePullSecrets in the chart's values",
        memory="the chart's values",
    )


_SUMMARY = re.compile(
    r"(\d+)/(\d+) nodes are available: (.*?)\.?(?:\s+(?:preemption|no new claims).*)?$", re.DOTALL
)
_CLAUSES: tuple[tuple[str, PodReason, str], ...] = (
    # pattern of one clause, code, message; {n}: number of nodes, {what}: the group, others: of the
    # subject
    (r"Insufficient (?P<what>\S*gpu\S*)", PodReason.NO_GPU_FREE, "{n} without a free GPU ({what})"),
    (r"Insufficient memory", PodReason.NO_CAPACITY, "{n} without enough free memory"),
    (r"Insufficient cpu", PodReason.NO_CAPACITY, "{n} without enough free CPU"),
    (r"Insufficient (?P<what>\S+)", PodReason.NO_CAPACITY, "{n} without enough {what}"),
    (r"Too many pods", PodReason.NO_CAPACITY, "{n} with the maximum number of pods"),
    (
        r"(?:node\(s\) )?had volume node affinity conflict",
        PodReason.HOME_ON_OTHER_NODE,
        "{n} other than the one with the {volume}",
    ),
    (
        r"(?:node\(s\) )?didn't find available persistent volumes",
        PodReason.NO_VOLUME,
        "{n} without a volume to bind",
    ),
    (
        r"(?:node\(s\) )?did not have enough free storage",
        PodReason.NO_VOLUME,
        "{n} without enough free storage",
    ),
    (
        r"(?:node\(s\) )?had untolerated taint\(?s?\)? ?(?P<what>\{.*?\})?",
        PodReason.NODES_TAINTED,
        "{n} reserved by a taint ({what})",
    ),
    (
        r"(?:node\(s\) )?didn't match (?:Pod's )?node (?:affinity/)?selector",
        PodReason.NO_MATCHING_NODE,
        "{n} without the labels of {selector}",
    ),
    (r"(?:node\(s\) )?were unschedulable", PodReason.NODES_CORDONED, "{n} cordoned"),
)
# Messages of two of the scheduler's plugins, each with a cache of its own.
_MISSING_CLAIM = re.compile(
    r'(?:could not find v1\.)?persistentvolumeclaim "(?:[^"/]+/)?([^"/]+)"(?: not found|$)',
    re.IGNORECASE,
)
# The first of these among several causes becomes the reason: the one that a person can change most
# easily.
_ORDER = (
    PodReason.HOME_ON_OTHER_NODE,
    PodReason.NO_GPU_FREE,
    PodReason.NO_CAPACITY,
    PodReason.NO_VOLUME,
    PodReason.NO_MATCHING_NODE,
    PodReason.NODES_TAINTED,
    PodReason.NODES_CORDONED,
)


def explain_unschedulable(message: str, subject: Subject = DESKTOP) -> tuple[PodReason, str]:
    """Code and sentence for the message of `PodScheduled=False`; the scheduler's own message where
    no rule fits.
    """
    claim = _MISSING_CLAIM.search(message)
    if claim:
        return (
            PodReason.MISSING_HOME,
            f"Preparing the files: the volume claim {claim[1]!r} does not exist yet.",
        )
    if "unbound immediate PersistentVolumeClaims" in message:
        return (
            PodReason.HOME_PENDING,
            f"The {subject.volume} is not bound yet. {subject.title} starts when it is.",
        )
    if "is being deleted" in message and "persistentvolumeclaim" in message:
        return (
            PodReason.HOME_LEAVING,
            f"The {subject.volume} is being deleted. {subject.title} starts with a new one.",
        )
    summary = _SUMMARY.search(message.strip())
    if summary is None:
        why = message.strip() or "the scheduler reports no reason"
        return PodReason.UNSCHEDULABLE, f"No node can run {subject.name}: {why}"
    # Commas separate the clauses, but a taint may contain one. Each clause begins with a number of
    # nodes.
    clauses = re.split(r", (?=\d+ )", summary[3])
    causes = [_explain_clause(clause.strip(), subject) for clause in clauses]
    codes = [code for code, _ in causes]
    code = next((one for one in _ORDER if one in codes), PodReason.UNSCHEDULABLE)
    if int(summary[2]) == 0:
        return PodReason.NO_NODE, "The cluster has no node."
    if summary[2] == "1":
        nodes = "the only node"
    else:
        nodes = f"any of {summary[2]} nodes"
    return (
        code,
        f"There is not enough capacity on {nodes}: {', '.join(clause_text for _, clause_text in causes)}.",
    )


def _explain_clause(clause: str, subject: Subject) -> tuple[PodReason, str]:
    count, _, rest = clause.partition(" ")
    for pattern, code, text in _CLAUSES:
        if match := re.match(pattern, rest):
            named = match.groupdict().get("what") or ""
            if named.startswith("{"):
                taint = f"taint {named.strip('{}: ')}"
            else:
                taint = named
            return code, text.format(
                n=count,
                what=taint or "tainted",
                volume=subject.volume,
                selector=subject.node_selector,
            )
    return PodReason.UNSCHEDULABLE, clause.rstrip(".")


# Reasons of a waiting container that concern its image.
IMAGE_REASONS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
    }
)
_CAUSES = (
    # pattern in the message or the reason itself, code, words
    (
        "InvalidImageName",
        PodReason.IMAGE_NAME_INVALID,
        "its name is not a valid image name; fix {field}",
    ),
    (
        "ErrImageNeverPull",
        PodReason.IMAGE_NOT_PRESENT,
        "it is not on the node, and the pull policy does not allow pulling it",
    ),
    (
        r"\b40[13]\b|denied|unauthori[sz]ed|forbidden|authentication required",
        PodReason.IMAGE_PULL_DENIED,
        # registries answer so for an image that does not exist, too
        (
            "the registry has no such image or denies access to it; check name and tag in {field},"
            " and {secrets}"
        ),
    ),
    (  # before "not found", which containerd says after it
        r"no match for platform|no matching manifest",
        PodReason.IMAGE_WRONG_PLATFORM,
        (
            "it has no build for the node's architecture; build one, or place the template's"
            " desktops on other nodes"
        ),
    ),
    (
        r"not found|manifest unknown|does not exist|no such image|\b404\b",
        PodReason.IMAGE_NOT_FOUND,
        "the registry has no such image; check name and tag in {field}",
    ),
    (
        r"no such host|server misbehaving",
        PodReason.REGISTRY_UNKNOWN,
        "the node cannot resolve the registry's host name; check it in {field}",
    ),
    (
        r"HTTP response to HTTPS client",
        PodReason.REGISTRY_WITHOUT_TLS,
        "the registry speaks plain HTTP, and the node expects TLS",
    ),
    (
        r"x509|certificate",
        PodReason.REGISTRY_NOT_TRUSTED,
        "the node does not trust the registry's certificate",
    ),
    (
        r"toomanyrequests|rate limit|\b429\b",
        PodReason.REGISTRY_BUSY,
        "the registry limits the rate of pulls",
    ),
    (
        (
            r"connection refused|timeout|i/o timeout|no route to host|unreachable|deadline"
            r" exceeded|TLS handshake|EOF"
        ),
        PodReason.REGISTRY_UNREACHABLE,
        "the registry does not respond to the node",
    ),
)
_UNKNOWN = PodReason.IMAGE_PULL
# Prefixes of containerd and runc before the actual reason, each around the next.
_RUNTIME = re.compile(
    r"(?:failed to create (?:containerd task|shim task|shim)|OCI runtime create failed|runc create"
    r" failed"
    r"|unable to start container process|error during container init|rpc error: code = \w+ desc ="
    r" [^:]+): "
)
# Names in a message are ignored: an image called certificate-tool:404 does not tell what went
# wrong.
_NAMES = re.compile(r'"[^" ]+"|https?://\S+|\bsha256:[0-9a-f]+')
# Codes that `explain_pull` gives.
IMAGE_CODES = frozenset({code for _, code, _ in _CAUSES} | {_UNKNOWN})


def explain_pull(
    image: str, reason: str, message: str, subject: Subject = DESKTOP
) -> tuple[PodReason, str]:
    """Code and sentence for a failed pull; the kubelet's own message where no rule fits."""
    said = _NAMES.sub("", message)
    for pattern, code, text in _CAUSES:
        if reason == pattern or re.search(pattern, said, re.IGNORECASE):
            why = text.format(field=subject.image, secrets=subject.pull_secrets)
            return code, f"The image {image} cannot be pulled: {why}."
    return _UNKNOWN, f"The image {image} cannot be pulled: {first_line(message) or reason}"


def last_line(text: str) -> str:
    """The last line that is not blank, at most 200 characters."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


def last_lines(text: str) -> str:
    """The last lines that are not blank: at most 10, and 1000 characters."""
    return "\n".join([line.rstrip() for line in text.splitlines() if line.strip()][-10:])[-1000:]


def first_line(text: str) -> str:
    """The first line without the layers of the container runtime, at most 300 characters, ending as
    a sentence does.
    """
    line = ""
    if text.strip():
        line = _RUNTIME.sub("", text.strip().splitlines()[0].strip()).removesuffix(": unknown")
    return as_sentence(line, 300)


# Messages of Events that are no fault: the kubelet retries in a moment, and it works.
PASSING = re.compile(
    r"^Error: "  # `Error: ImagePullBackOff` only repeats the state
    r"|failed to sync \w+ cache"  # a busy kubelet
    # the API server's node authorizer does not know the pod's node yet
    r"|token bound to a pod scheduled on a different node|no relationship found between node"
)

# Eviction of a pod above its own limit, as opposed to one on a node that is full.
_OVER_DISK_LIMIT = re.compile(r"local storage usage exceeds|local ephemeral storage limit")


@dataclass(frozen=True, slots=True)
class StartState:
    """Everything that explains the start of one pod."""

    pod: Pod
    claim: PersistentVolumeClaim | None = None
    events: tuple[Event, ...] = ()
    node: Node | None = None
    # The pod's node is not ready, or no longer exists.
    node_lost: bool = False
    subject: Subject = DESKTOP

    def newest(self, *reasons: str) -> Event | None:
        """The newest Event with one of these reasons and a meaningful message."""
        matching = []
        for e in self.events:
            if e.reason in reasons and e.note and not PASSING.search(e.note):
                matching.append(e)
        return max(matching, key=lambda event: event.seen, default=None)


class Explanation(NamedTuple):
    """The reason why a pod is not ready, and a sentence for people."""

    # A `PodReason`, or the kubelet's own reason of a waiting container.
    reason: str
    sentence: str
    # False: a normal step of a start.
    stuck: bool = True


Rule = Callable[[StartState], Explanation | None]


def explain(start: StartState) -> Explanation:
    """The reason why this pod is not ready. The last rule always answers."""
    return next(explanation for rule in RULES if (explanation := rule(start)))


def _pod_failed(start: StartState) -> Explanation | None:
    status = start.pod.status
    if status.phase not in ("Failed", "Succeeded"):
        return None
    node = start.pod.spec.node_name or "its node"
    detail = ""
    if status.message:
        detail = f" ({status.message.strip().rstrip('.')})"
    if status.reason == "Evicted" and _OVER_DISK_LIMIT.search(status.message):
        sentence = (
            f"{start.subject.title} used more local disk than its limit, and {node} evicted"
            f" it{detail}."
        )
        return Explanation(PodReason.OUT_OF_EPHEMERAL_STORAGE, sentence)
    if status.reason == "Evicted":
        return Explanation(
            PodReason.EVICTED,
            f"{node} ran short of resources and evicted {start.subject.name}{detail}.",
        )
    if status.reason.startswith("OutOf") or status.reason == "UnexpectedAdmissionError":
        return Explanation(PodReason.NODE_REFUSED, f"{node} refused {start.subject.name}{detail}.")
    return Explanation(
        PodReason.POD_FAILED,
        f"{start.subject.title}'s pod has ended and is not restarted:"
        f" {status.reason or status.phase}{detail}.",
    )


def _node_lost(start: StartState) -> Explanation | None:
    # A desktop that writes to a volume is not started elsewhere before it is certain that the first
    # one has ended: two pods that write to one volume would destroy files.
    pod, node = start.pod, start.pod.spec.node_name
    if not start.node_lost or not node:
        return None
    if start.node:
        what = f"The node {node} does not respond"
    else:
        what = f"The node {node} no longer exists"
    if not pod.terminating:
        return Explanation(
            PodReason.NODE_LOST,
            f"{what}. If this continues, Kubernetes deletes {start.subject.name} after a few"
            " minutes.",
        )
    if not pod.writes_to:
        return Explanation(
            PodReason.NODE_LOST, f"{what}. {start.subject.title} is restarted on another node."
        )
    return Explanation(
        PodReason.NODE_LOST,
        f"{what}, and may still be writing to {pod.writes_to[0]!r}: {start.subject.name} is"
        " restarted when the node is back. If the node is switched off permanently, an"
        f" administrator releases the volume (kubectl taint nodes {node}"
        " node.kubernetes.io/out-of-service=nodeshutdown:NoExecute).",
    )


def _pod_terminating(start: StartState) -> Explanation | None:
    if not start.pod.terminating:
        return None
    evicted = start.pod.condition("DisruptionTarget")
    if evicted and evicted.status == "True":
        why = evicted.message.strip().rstrip(".") or evicted.reason
        return Explanation(
            PodReason.EVICTED,
            f"{start.subject.title} must leave {start.pod.spec.node_name or 'its node'}: {why}.",
        )
    return Explanation(
        PodReason.POD_STOPPING,
        f"{start.subject.title}'s pod is being deleted; a new one follows.",
        stuck=False,
    )


def was_out_of_memory(ended: Terminated) -> bool:
    """Whether the kernel killed the container, or a program without which it ends, since its memory
    was used up.
    """
    # By the runtime, or by the image's own termination message: the runtime may learn of the kill
    # too late.
    return ended.reason == "OOMKilled" or ended.message.startswith(f"{PodReason.OUT_OF_MEMORY}: ")


def _out_of_memory(start: StartState) -> Explanation | None:
    desktop = start.pod.desktop
    ended = desktop and (desktop.state.terminated or desktop.last_state.terminated)
    if not ended or not was_out_of_memory(ended):
        return None
    return Explanation(
        PodReason.OUT_OF_MEMORY,
        f"{start.subject.title} used more memory than its limit and was stopped. Request more in "
        f"{start.subject.memory}.",
    )


def _image(start: StartState) -> Explanation | None:
    desktop, reason, message = _waiting(start)
    if desktop is None or reason not in IMAGE_REASONS:
        return None
    if reason == "ImagePullBackOff":
        # Its own message only says that the kubelet backs off. The Event of the failure before it
        # has the cause.
        event = start.newest("Failed")
        message = event.note if event else message
    return Explanation(*explain_pull(desktop.image or "the image", reason, message, start.subject))


_MISSING = {
    "Secret": PodReason.MISSING_SECRET,
    "ConfigMap": PodReason.MISSING_CONFIG_MAP,
    "PersistentVolumeClaim": PodReason.MISSING_CLAIM,
}
_KINDS = {kind.lower(): kind for kind in _MISSING} | {"config": "ConfigMap"}


class Reference(NamedTuple):
    """An object that a container or a volume names and that does not exist. `key`: what is missing
    in it; `name` empty: the message does not say it.
    """

    kind: str
    name: str = ""
    key: str = ""

    @property
    def clause(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        if self.key:
            return f"the key {self.key!r}, which is missing in the {self.kind}{name}"
        return f"the {self.kind}{name}, which does not exist"


def read_reference(message: str) -> Reference | None:
    """The missing object in a message of the kubelet."""
    if key := re.search(r"couldn't find key (\S+) in (Secret|ConfigMap) (?:\S+/)?(\S+)", message):
        return Reference(key[2], key[3], key[1])
    if key := re.search(r"references non-existent (secret|config) key: (\S+)", message):
        return Reference(_KINDS[key[1]], key=key[2])
    gone = re.search(r'(secret|configmap|persistentvolumeclaim) "([^"]+)" not found', message)
    return Reference(_KINDS[gone[1]], gone[2]) if gone else None


def _missing_reference(start: StartState) -> Explanation | None:
    """A missing Secret, ConfigMap or key, in the environment or as a volume."""
    _, reason, message = _waiting(start)
    text = ""
    if reason == "CreateContainerConfigError":
        text = message
    elif reason in ("", "ContainerCreating", "PodInitializing"):
        event = start.newest("FailedMount")
        text = event.note if event else ""
    if missing := read_reference(text):
        code = PodReason.MISSING_KEY if missing.key else _MISSING[missing.kind]
        return Explanation(code, f"{start.subject.title} needs {missing.clause}.")
    if reason == "CreateContainerConfigError":
        return Explanation(
            PodReason.BAD_POD_CONFIG,
            f"{start.subject.title} cannot be created: {first_line(message)}",
        )
    return None


# Reasons of a container that the runtime could not start, waiting or terminated. Their messages are
# the runtime's.
_NOT_STARTED = frozenset(
    {"RunContainerError", "CreateContainerError", "StartError", "ContainerCannotRun"}
)


def _built_for_another(start: StartState) -> Explanation:
    architecture = None
    if start.node:
        architecture = start.node.metadata.labels.get("kubernetes.io/arch")
    return Explanation(
        PodReason.BAD_COMMAND,
        "The image's program cannot be started: exec format error. It is built for another"
        f" architecture than the node's{f' ({architecture})' if architecture else ''}, or is a"
        " script without `#!`.",
    )


# Messages of runc and of crun for a filesystem, or a kernel, that maps no user ids.
_IDMAP_ERROR = re.compile(r"MOUNT_ATTR_IDMAP|mount_setattr|idmap mounts")


def find_idmap_error(pod: Pod) -> str:
    """The runtime's message that a volume cannot be mounted in the pod's user namespace; empty: no
    such error.
    """
    desktop = pod.desktop
    if pod.spec.host_users or desktop is None or desktop.state.running:
        return ""
    # Only of containers that did not start: a program of the desktop can write any termination
    # message.
    for state in (desktop.state, desktop.last_state):
        error = state.waiting or state.terminated
        if error and error.reason in _NOT_STARTED and _IDMAP_ERROR.search(error.message):
            return first_line(error.message)
    return ""


def _no_idmapped_mounts(start: StartState) -> Explanation | None:
    error = find_idmap_error(start.pod)
    if not error:
        return None
    sentence = (
        f"Node {start.pod.spec.node_name} cannot mount a volume in the user namespace of"
        f" {start.subject.name}"
    )
    return Explanation(PodReason.NO_IDMAPPED_MOUNTS, f"{sentence}: {error}")


def _bad_start(start: StartState) -> Explanation | None:
    """A container that the runtime could not start: a mount or a program is at fault."""
    desktop, reason, message = _waiting(start)
    ended = desktop.last_state.terminated if desktop else None
    if ended and ended.reason in ("StartError", "ContainerCannotRun"):
        reason, message = ended.reason, ended.message or message
    if reason not in _NOT_STARTED:
        return None
    if "exec format error" in message:
        return _built_for_another(start)
    if re.search(r"mount|mkdir|rootfs|not a directory", message):
        return Explanation(
            PodReason.BAD_MOUNT,
            f"Something cannot be mounted into {start.subject.name}: {first_line(message)}",
        )
    if re.search(r"executable file not found|no such file or directory|permission denied", message):
        return Explanation(
            PodReason.BAD_COMMAND, f"The image's program cannot be started: {first_line(message)}"
        )
    return Explanation(
        PodReason.CANNOT_START, f"The container cannot be started: {first_line(message) or reason}"
    )


def _crash_loop(start: StartState) -> Explanation | None:
    desktop, reason, _ = _waiting(start)
    if desktop is None:
        return None
    ended = desktop.state.terminated or desktop.last_state.terminated
    if not ended or not (
        desktop.restart_count or reason == "CrashLoopBackOff" or desktop.state.terminated
    ):
        return None
    # One that was ready since its last crash hangs now.
    if desktop.ready or (
        desktop.state.running and (not desktop.restart_count or not_responding_since(start.pod))
    ):
        return None
    last_log = last_line(ended.message)
    # runc starts the program after the container counts as started.
    if last_log.endswith("exec format error"):
        return _built_for_another(start)
    if desktop.restart_count <= 1:
        times = "once"
    else:
        times = f"{desktop.restart_count} times"
    why = f"last log line: {last_log!r}" if last_log else "it left no message"
    return Explanation(
        PodReason.CRASH_LOOP,
        f"{start.subject.title} stopped with exit code {ended.exit_code} and was restarted {times};"
        f" {why}.",
    )


def _volume(start: StartState) -> Explanation | None:
    claim = start.claim
    if claim and claim.status.phase == "Lost":
        return Explanation(
            PodReason.HOME_LOST,
            f"The volume of the home {claim.metadata.name!r} no longer exists; its claim is lost.",
        )
    if claim and claim.status.phase == "Pending" and (event := start.newest("ProvisioningFailed")):
        return Explanation(
            PodReason.HOME_NOT_PROVISIONED,
            f"The {start.subject.volume} cannot be created: {first_line(event.note)}",
        )
    event = start.newest("FailedMount", "FailedAttachVolume")
    if not start.pod.spec.node_name or not _is_creating(start) or event is None:
        return None
    if "Multi-Attach" in event.note:
        sentence = (
            "A volume is still attached to another node; it is attached here when that node"
            " releases it."
        )
        return Explanation(PodReason.VOLUME_ELSEWHERE, sentence)
    if re.search(r"permission denied", event.note, re.IGNORECASE):
        sentence = f"A volume cannot be mounted, permission denied: {first_line(event.note)}"
        return Explanation(PodReason.VOLUME_PERMISSION, sentence)
    return Explanation(
        PodReason.VOLUME_MOUNT, f"A volume cannot be mounted: {first_line(event.note)}"
    )


def _sandbox(start: StartState) -> Explanation | None:
    event = start.newest("FailedCreatePodSandBox")
    if not start.pod.spec.node_name or not _is_creating(start) or event is None:
        return None
    return Explanation(
        PodReason.NODE_NETWORK, f"The node cannot set up the pod: {first_line(event.note)}"
    )


def _gated(start: StartState) -> Explanation | None:
    if not start.pod.gated:
        return None
    sentence = f"{start.subject.title} waits until another controller removes its scheduling gate."
    return Explanation(PodReason.SCHEDULING_GATED, sentence, stuck=False)


def _unschedulable(start: StartState) -> Explanation | None:
    condition = start.pod.condition("PodScheduled")
    if start.pod.spec.node_name or not condition or condition.status != "False":
        return None
    code, sentence = explain_unschedulable(condition.message, start.subject)
    if code == PodReason.HOME_PENDING and start.claim and start.claim.status.phase == "Bound":
        # The scheduler's message is older than the binding of the volume, or it means another
        # volume.
        if sum(volume.persistent_volume_claim is not None for volume in start.pod.spec.volumes) > 1:
            return Explanation(
                PodReason.VOLUME_PENDING, "A volume that the template mounts is not bound yet."
            )
        words = f"The {start.subject.volume} is bound; the scheduler has not retried yet."
        return Explanation(PodReason.SCHEDULER_LATE, words)
    return Explanation(code, sentence)


# Messages of the kubelet for a probe that got a response, and the mistake. Other responses are
# normal during a start.
_REFUSALS = (
    (
        r"statuscode: 40[13]\b",
        (
            "its health path requires a password. Set healthPath in the template to a path without"
            " one, or name the Secret with the password in basicAuthSecret"
        ),
    ),
    (
        r"statuscode: 404\b",
        "this page does not exist. Set healthPath in the template to an existing page",
    ),
    (
        r"server gave HTTP response to HTTPS client",
        "it uses HTTP, but the template has scheme: HTTPS. Set it to HTTP",
    ),
    (
        r"statuscode: 400\b|malformed HTTP (?:response|status)",
        "it does not accept plain HTTP. If it uses HTTPS, set scheme: HTTPS in the template",
    ),
)


# Messages of the kubelet for a probe that failed, and a clause that says how.
_PROBE_FAILURES = (
    (r"connection refused", "nothing listens on its port"),
    (
        r"deadline exceeded|Client\.Timeout|timed? ?out",
        "it does not answer its health check in time",
    ),
    (r"statuscode: (\d+)", "it answers its health check with status {0}"),
)


def explain_probe(start: StartState) -> str:
    """A clause that says how the kubelet's last probe failed; empty: no Event says so."""
    event = start.newest("Unhealthy")
    matches = (
        ((re.search(pattern, event.note), sentence) for pattern, sentence in _PROBE_FAILURES)
        if event
        else ()
    )
    return next((sentence.format(*match.groups()) for match, sentence in matches if match), "")


def not_responding_since(pod: Pod) -> str:
    """The time since when a running container that was ready has not been; empty: it is, or it
    never was.
    """
    # The condition's time moves only when its status flips. After the start of this container, it
    # was True before.
    ready, running = pod.condition("Ready"), pod.desktop.state.running if pod.desktop else None
    if (
        ready is None
        or ready.status == "True"
        or running is None
        or pod.terminating
        or not running.started_at
    ):
        return ""
    since = ready.last_transition_time
    if since and parse_time(since) > parse_time(running.started_at):
        return since
    return ""


def _not_responding(start: StartState) -> Explanation | None:
    if not not_responding_since(start.pod):
        return None
    how = explain_probe(start) or "it does not respond"
    return Explanation(PodReason.NOT_RESPONDING, f"{start.subject.title} was ready, but now {how}.")


def _probe_refused(start: StartState) -> Explanation | None:
    """A program that responds on the port, but not as the template says."""
    desktop, event = start.pod.desktop, start.newest("Unhealthy")
    if desktop is None or desktop.ready or not desktop.state.running or event is None:
        return None
    why = next((sentence for pattern, sentence in _REFUSALS if re.search(pattern, event.note)), "")
    sentence = f"{start.subject.title} responds to its health check, but {why}."
    if why:
        return Explanation(PodReason.PROBE_REFUSED, sentence, stuck=False)
    return None


def _progress(start: StartState) -> Explanation:
    pod, desktop = start.pod, start.pod.desktop
    if not pod.spec.node_name:
        return Explanation(PodReason.SCHEDULING, "Looking for a node with capacity.", stuck=False)
    if desktop is None or _is_creating(start):
        if start.claim and start.claim.status.phase != "Bound":
            volume = f" and its {start.subject.volume}"
        else:
            volume = ""
        return Explanation(
            PodReason.PREPARING,
            f"Node {pod.spec.node_name} is preparing the image{volume}.",
            stuck=False,
        )
    if desktop.state.waiting:
        waiting = desktop.state.waiting
        return Explanation(
            waiting.reason or PodReason.WAITING,
            first_line(waiting.message) or f"Waiting: {waiting.reason}",
        )
    return Explanation(
        PodReason.STARTING,
        f"{start.subject.title} is starting and does not respond yet.",
        stuck=False,
    )


RULES: tuple[Rule, ...] = (
    _pod_failed,
    _node_lost,
    _pod_terminating,
    _out_of_memory,
    _image,
    _missing_reference,
    _no_idmapped_mounts,
    _bad_start,
    _crash_loop,
    _volume,
    _sandbox,
    _gated,
    _unschedulable,
    _not_responding,
    _probe_refused,
    _progress,
)


def _waiting(start: StartState) -> tuple[ContainerStatus | None, str, str]:
    desktop = start.pod.desktop
    waiting = desktop.state.waiting if desktop else None
    return desktop, waiting.reason if waiting else "", waiting.message if waiting else ""


def _is_creating(start: StartState) -> bool:
    desktop, reason, _ = _waiting(start)
    return desktop is None or reason in ("ContainerCreating", "PodInitializing")
