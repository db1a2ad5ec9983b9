"""Checks of sessions without a desktop, and of starts that are slow.

The reasons and their sentences come from the functions that the operator acts on
(`SessionDiagnosis.problem` and `answer`); here a reason becomes a code and a remedy.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress

from vdi.cluster.capacity import allows_placement, read_capacity
from vdi.cluster.explain import IMAGE_CODES, Explanation, explain_probe, not_responding_since
from vdi.cluster.reasons import (
    LASTING_REASONS,
    REFERENCE_REASONS,
    START_REASONS,
    VOLUME_REASONS,
    PodReason,
)
from vdi.cluster.units import amount
from vdi.doctor.checks.desktops import code_of_log
from vdi.doctor.checks.infrastructure import node_tools
from vdi.doctor.codes import make_finding
from vdi.doctor.objects.components import is_led, last_warnings, operator_for
from vdi.doctor.objects.sessions import (
    OF_SESSIONS,
    REFUSED,
    SessionDiagnosis,
    active_sessions,
    diagnose_sessions,
)
from vdi.findings.model import Finding, Remedy, Severity
from vdi.session.conditions import LASTING_QUEUE_REASONS, QUEUE_REASONS, Reason
from vdi.session.effective import Blocked, Desktop
from vdi.session.homes import own_claim
from vdi.session.isolation import lacking_node
from vdi.session.naming import TEMPLATE_REVISION, reservation_name
from vdi.snapshot.check import check, merge_patch
from vdi.snapshot.model import Snapshot
from vdi.snapshot.objects.workloads import Pod

# Time in which a kubelet's complaint may pass by itself.
_PATIENCE_SECONDS = 15.0
# Age of the pod at which a claim counts as missing although it exists. Pod and claim are created
# side by side, and the scheduler, which may see the pod first, tries again after up to 10 s.
_SCHEDULER_SECONDS = 60.0
# Time that a start may take.
_SLOW_SECONDS = 30.0
# Time after a session's end that the operator may take to end it.
_OVERDUE_SECONDS = 60.0
_RECENT_SECONDS = 3600.0
# CPU limit at which more of it hardly makes a start shorter.
_ENOUGH_MILLICPU = 1000

# Reason why a session has no pod -> code.
_CODE_OF_PROBLEM: Mapping[str, str] = {
    Reason.TEMPLATE_NOT_FOUND: "template_missing",
    Reason.INVALID_TEMPLATE: "template_invalid",
    Reason.INVALID_SESSION: "session_over_limit",
    Reason.OVER_LIMIT: "session_over_limit",
    Reason.HOME_IN_USE: "home_in_use",
    Reason.HOST_TAKEN: "host_taken",
    Reason.NAME_TAKEN: "name_taken",
    PodReason.HOME_LOST: "home_lost",
    PodReason.NO_IDMAPPED_MOUNTS: "user_namespace_unavailable",
    **dict.fromkeys(REFUSED, "pod_refused"),
}
# Reason why a pod is not ready -> code.
_CODE_OF_POD_REASON: Mapping[str, str] = {
    **dict.fromkeys(IMAGE_CODES, "image_unavailable"),
    **dict.fromkeys(REFERENCE_REASONS, "reference_missing"),
    **dict.fromkeys((PodReason.CRASH_LOOP, PodReason.POD_FAILED), "desktop_crashes"),
    PodReason.OUT_OF_MEMORY: "desktop_out_of_memory",
    PodReason.EVICTED: "desktop_evicted",
    PodReason.OUT_OF_EPHEMERAL_STORAGE: "desktop_out_of_disk",
    PodReason.NODE_REFUSED: "node_refused",
    PodReason.NODE_LOST: "desktop_on_lost_node",
    PodReason.HOME_LOST: "home_lost",
    PodReason.HOME_NOT_PROVISIONED: "home_not_provisioned",
    **dict.fromkeys(VOLUME_REASONS, "volume_not_mounted"),
    **dict.fromkeys(START_REASONS, "desktop_cannot_start"),
    PodReason.NO_GPU_FREE: "gpu_insufficient",
    PodReason.NO_IDMAPPED_MOUNTS: "user_namespace_unavailable",
    PodReason.NODE_NETWORK: "node_network_broken",
    PodReason.NOT_RESPONDING: "desktop_hung",
}
_CRASHED = frozenset({"desktop_crashes", "session_failed"})
# Liveness probes of a program that has ended.
_ENDED = re.compile(r"connection refused|connection reset|EOF")
# Problems that do not pass by themselves. A home or name in use may belong to a session that is
# just ending.
# A device plugin may just be starting.
_LASTING = (REFUSED | LASTING_QUEUE_REASONS | LASTING_REASONS | _CODE_OF_PROBLEM.keys()) - {
    Reason.HOME_IN_USE,
    Reason.NAME_TAKEN,
    Reason.NO_GPUS,
}
_GPU_REASONS = frozenset({Reason.GPUS_BUSY, Reason.NO_GPUS})
# Reasons of an image that no pull on the node cures.
_OF_TEMPLATE = frozenset({PodReason.IMAGE_NAME_INVALID, PodReason.IMAGE_NOT_FOUND})
# Code -> commands. The sentence is the catalogue's.
_COMMANDS: Mapping[str, tuple[str, ...]] = {
    "template_missing": ("kubectl get vditemplates",),
    "template_invalid": ("{edit_template}",),
    "session_over_limit": ("{edit}",),
    "home_in_use": ("vdi session ls -n {namespace}",),
    "host_taken": ("{edit}", "{kubectl} get configmap {reservation} --output yaml"),
    "home_lost": ("{kubectl} get pvc",),
    "reference_missing": ("{kubectl} get secrets,configmaps", "{edit_template}"),
    "desktop_hung": ("{restart}",),
    "desktop_cannot_start": (
        "kubectl get nodes --label-columns kubernetes.io/arch",
        "{edit_template}",
        "{restart}",
    ),
    "desktop_out_of_disk": ("{edit_template}", "{restart}"),
    "user_namespace_unavailable": ("kubectl get nodes --output wide", "{edit_template}"),
    **dict.fromkeys(("desktop_evicted", "node_refused"), ("kubectl describe node {node}",)),
    **dict.fromkeys(
        ("desktop_on_lost_node", "node_network_broken"), ("kubectl describe node {node}",)
    ),
}

# A message with which the API server refuses an object -> what helps, and the command that shows
# what to change.
_ADMISSION = (
    (
        re.compile(r"exceeded quota: ([\w.-]+)"),
        "Raise the ResourceQuota, or end other desktops.",
        "kubectl --namespace {namespace} edit resourcequota {0}",
    ),
    (
        re.compile(
            r"(?:maximum|minimum) \S+ usage per|per (?:Container|Pod|PersistentVolumeClaim) is"
        ),
        "Change the LimitRange, or request what it allows.",
        "kubectl --namespace {namespace} edit limitrange {limits}",
    ),
    (
        re.compile(r"violates PodSecurity"),
        "Lower the namespace's Pod Security level to baseline, or change the template.",
        (
            "kubectl label namespace {namespace} --overwrite"
            " pod-security.kubernetes.io/enforce=baseline"
        ),
    ),
    (
        re.compile(r"webhook \"([\w.-]+)\""),
        "Repair the service behind the webhook, or ask its administrator to allow the pod.",
        "kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations",
    ),
)


@check(
    "vdisessions",
    "vditemplates",
    "pods",
    "nodes",
    "persistentvolumeclaims",
    reads=(*OF_SESSIONS, "limitranges"),
)
def sessions_without_pod(snapshot: Snapshot) -> Iterator[Finding]:
    """Sessions that wait for something, or that the operator does not process."""
    for diagnosis in active_sessions(snapshot):
        if diagnosis.pod is not None:
            continue
        meta = diagnosis.session.metadata
        status = diagnosis.session.status
        problem = diagnosis.problem
        young = snapshot.age(meta.creation_timestamp) < _PATIENCE_SECONDS
        if problem and (not young or problem.reason in _LASTING):
            yield _waiting(diagnosis, problem)
        elif not young and diagnosis.idle_seconds > _SLOW_SECONDS:
            yield diagnosis.finding(
                "session_ignored",
                "Nothing blocks this session, but it has had no pod for"
                f" {int(diagnosis.idle_seconds)} s. The operator is not processing it.",
                evidence=[
                    f"metadata.generation: {meta.generation}",
                    f"status.observedGeneration: {status.observed_generation}",
                    f"status.message: {status.message or '(none)'}",
                ],
                remedy=diagnosis.restart_operator,
            )


@check(
    "vdisessions",
    "vditemplates",
    "pods",
    "nodes",
    "persistentvolumeclaims",
    "deployments",
    "leases",
    reads=OF_SESSIONS,
)
def operators_stuck(snapshot: Snapshot) -> Iterator[Finding]:
    """Operators that lead and do not process several sessions: one of their watches may be
    stuck.
    """
    ignored: dict[str, list[SessionDiagnosis]] = {}
    for diagnosis in diagnose_sessions(snapshot):
        if diagnosis.pod is not None or diagnosis.problem is not None:
            continue
        deleted = snapshot.age(diagnosis.session.metadata.deletion_timestamp) > 2 * _SLOW_SECONDS
        if deleted or (not diagnosis.resting and diagnosis.idle_seconds > _SLOW_SECONDS):
            ignored.setdefault(diagnosis.namespace, []).append(diagnosis)
    for namespace, diagnoses in sorted(ignored.items()):
        operator = operator_for(snapshot, namespace)
        # One session may be a special case. Several without a reason are a fault of the operator
        # that leads.
        if (
            operator is None
            or not operator.ready
            or not is_led(snapshot, namespace)
            or len(diagnoses) < 2
        ):
            continue
        names = sorted(diagnosis.name for diagnosis in diagnoses)
        yield make_finding(
            "operator_stuck",
            operator.object,
            f"The operator leads, but does not process {len(names)} sessions: one of its watches"
            " may be stuck.",
            evidence=[
                f"without pod or reason, or deleted but still present: {', '.join(names[:5])}"
            ],
            remedy=diagnoses[0].restart_operator,
            related_objects=diagnoses[0].related_objects,
        )


def _waiting(diagnosis: SessionDiagnosis, problem: Blocked) -> Finding:
    reason, status = problem.reason, diagnosis.session.status
    log = status.failures.log if status.failures else ""
    limits, named = _limit_ranges(diagnosis, problem.message), ""
    if limits:
        named = f" LimitRange: {limits}."
    code, severity = _code_of(diagnosis, problem, log)
    evidence = [f"reason: {reason}"]
    if status.queue and status.queue.position:
        evidence.append(f"status.queue.position: {status.queue.position}")
    evidence += [f"status.failures.log: {line}" for line in log.splitlines()[-3:]]
    return diagnosis.finding(
        code,
        problem.message + named,
        severity=severity,
        evidence=evidence,
        remedy=_remedy_of(code, diagnosis, reason, problem.message)
        or Remedy.run(diagnosis.restart_command),
    )


def _code_of(
    diagnosis: SessionDiagnosis, problem: Blocked, log: str
) -> tuple[str, Severity | None]:
    reason, desktop = problem.reason, diagnosis.desktop
    # A queue because capacity is in use passes by itself and is a warning. Where the end of no
    # desktop helps, it is an error.
    if reason in QUEUE_REASONS:
        if reason in _GPU_REASONS:
            code = "gpu_insufficient"
        else:
            code = "room_insufficient"
        is_feature = reason == Reason.NODE_FEATURE_MISSING
        if is_feature and isinstance(desktop, Desktop) and desktop.isolation.user_namespace:
            code = "user_namespace_unavailable"
        return code, Severity.ERROR if reason in LASTING_QUEUE_REASONS else Severity.WARNING
    code = _CODE_OF_PROBLEM.get(reason) or _CODE_OF_POD_REASON.get(reason, "session_failed")
    if code in _CRASHED:
        code = code_of_log(f"{problem.message}\n{log}") or code
    # Otherwise the operator tries again.
    is_lasting = reason in _CODE_OF_PROBLEM or problem.needs_change
    return code, None if is_lasting else Severity.WARNING


def _remedy_of(
    code: str, diagnosis: SessionDiagnosis, reason: str, message: str = ""
) -> Remedy | None:
    """The remedy of a session without a desktop; None: the code alone has none."""
    name, kubectl, restart = diagnosis.name, diagnosis.kubectl, diagnosis.restart_command
    if reason == Reason.INVALID_SESSION:
        sentence = "Correct the value that the message names."
        return Remedy(sentence, (f"{kubectl} edit vdisession {name}",))
    if code in _COMMANDS:
        return _usual_commands(code, diagnosis)
    match code:
        case "image_unavailable":
            return _remedy_of_image(diagnosis)
        case "desktop_crashes":
            return Remedy.run(_read_last_log(diagnosis), restart)
        case "desktop_out_of_memory":
            desktop, limit = diagnosis.desktop, "4096Mi"
            if isinstance(desktop, Desktop):
                limit = f"{2 * (amount('memory', desktop.memory) >> 20)}Mi"
            return Remedy.run(diagnosis.set_limit("memory", limit)[2], restart)
        case "name_taken":
            claim = own_claim(diagnosis.session)
            children = f"{kubectl} get pod,service,secret,ingressroute {name}"
            return Remedy.run(children, *([f"{kubectl} get pvc {claim}"] if claim else []))
        case "pod_refused":
            return _remedy_of_refusal(diagnosis, message)
        case "gpu_insufficient" | "room_insufficient" | "desktop_unschedulable":
            return _open_nodes(diagnosis) or _remedy_of_room(code, diagnosis, reason)
        case _:
            return None


def _usual_commands(code: str, diagnosis: SessionDiagnosis) -> Remedy:
    values = {
        "edit": f"{diagnosis.kubectl} edit vdisession {diagnosis.name}",
        "edit_template": f"kubectl edit vditemplate {diagnosis.template_name}",
        "kubectl": diagnosis.kubectl,
        "namespace": diagnosis.namespace,
        "restart": diagnosis.restart_command,
        "node": diagnosis.bound.spec.node_name if diagnosis.bound else "",
        "reservation": reservation_name(diagnosis.session.spec.hostname or diagnosis.name),
    }
    return Remedy.run(*(command.format(**values).rstrip() for command in _COMMANDS[code]))


def _remedy_of_refusal(diagnosis: SessionDiagnosis, message: str) -> Remedy:
    namespace = diagnosis.namespace
    for pattern, sentence, command in _ADMISSION:
        if match := pattern.search(message):
            limits = _limit_ranges(diagnosis, message)
            filled = command.format(*match.groups(), namespace=namespace, limits=limits)
            return Remedy(sentence, (filled.rstrip(),))
    labels = f"kubectl get namespace {namespace} --show-labels"
    return Remedy.run(f"{diagnosis.kubectl} describe resourcequota,limitrange", labels)


def _limit_ranges(diagnosis: SessionDiagnosis, message: str) -> str:
    """Names of the LimitRanges that refuse an object with this message."""
    names = []
    for one in diagnosis.snapshot.objects.limitranges:
        if one.metadata.namespace == diagnosis.namespace and one.refuses(message):
            names.append(one.metadata.name)
    return " ".join(names)


def _remedy_of_room(code: str, diagnosis: SessionDiagnosis, reason: str) -> Remedy | None:
    if code == "desktop_unschedulable":
        return None
    if reason in LASTING_QUEUE_REASONS:
        return Remedy(
            "Request less in the template or the session, or add a node that is large enough.",
            (
                f"kubectl edit vditemplate {diagnosis.template_name}",
                f"{diagnosis.kubectl} edit vdisession {diagnosis.name}",
            ),
        )
    if code == "gpu_insufficient":
        return Remedy("End or suspend a desktop.", ("vdi gpu status", "vdi session ls"))
    return Remedy.run("vdi session ls", "kubectl describe nodes")


def _open_nodes(diagnosis: SessionDiagnosis) -> Remedy | None:
    """Commands that make closed nodes usable which are large enough and have the template's labels;
    None: none is.

    Taints are named only where no other node could take the desktop: a control plane's, or those of
    nodes dedicated to other work, are meant.
    """
    if not isinstance(diagnosis.desktop, Desktop):
        return None
    demand = diagnosis.desktop.demand()
    fitting = []
    for node in diagnosis.snapshot.nodes.values():
        with suppress(ValueError):  # resources that cannot be read
            capacity = read_capacity(node)
            if (
                capacity.could_fit(demand.takes)
                and dict(demand.selector).items() <= capacity.labels.items()
            ):
                fitting.append(capacity)
    usable = [capacity for capacity in fitting if allows_placement(demand, capacity)]
    unschedulable = {
        node.metadata.name for node in diagnosis.snapshot.nodes.values() if node.spec.unschedulable
    }
    if cordoned := [
        f"kubectl uncordon {capacity.name}" for capacity in usable if capacity.name in unschedulable
    ]:
        return Remedy("Uncordon the nodes, unless someone is working on them.", tuple(cordoned))
    if usable:
        return None
    tainted = [
        f"kubectl taint nodes {capacity.name} {taint.key}:{taint.effect}-"
        for capacity in fitting
        for taint in capacity.taints
        if not any(tolerance.covers(taint) for tolerance in demand.tolerances)
    ]
    sentence = "Remove the taint, or tolerate it in the template's spec.placement.tolerations."
    if tainted:
        return Remedy(sentence, tuple(tainted))
    return None


@check("vdisessions", "pods", "nodes", "events", reads=(*OF_SESSIONS, "pods/log"))
def desktops_not_ready(snapshot: Snapshot) -> Iterator[Finding]:
    """Desktops with a pod that does not become ready."""
    for diagnosis in active_sessions(snapshot):
        if diagnosis.pod:
            finding = _hung(diagnosis, diagnosis.pod) or _stuck(diagnosis, diagnosis.pod)
            if finding:
                yield finding


def _hung(diagnosis: SessionDiagnosis, pod: Pod) -> Finding | None:
    answer, killed = diagnosis.answer, _killed_at(diagnosis, pod)
    if not killed or (answer and answer.reason != PodReason.CRASH_LOOP):
        return None
    return diagnosis.finding(
        "desktop_hung",
        "The desktop stopped responding, and the kubelet restarted it. Unsaved work is lost.",
        severity=None if answer else Severity.WARNING,
        evidence=[
            f"pod/{pod.metadata.name}: ended {killed}",
            *last_warnings(diagnosis.observed.events),
        ],
        remedy=Remedy.run(_read_last_log(diagnosis), diagnosis.restart_command),
    )


def _stuck(diagnosis: SessionDiagnosis, pod: Pod) -> Finding | None:
    answer, desktop = diagnosis.answer, diagnosis.desktop
    if answer is None or not answer.stuck or _may_pass(diagnosis, pod, answer):
        return None
    if pod.spec.node_name:
        otherwise = "session_failed"
    else:
        otherwise = "desktop_unschedulable"
    code = _CODE_OF_POD_REASON.get(answer.reason, otherwise)
    if code == "home_not_provisioned" and diagnosis.home is not None:
        code = "desktop_unschedulable"  # the claim has a finding of its own, with the cause
    log, denied = diagnosis.snapshot.log_of(pod), _denied_credentials(diagnosis)
    # With a log, `logs_speak` makes the finding of the cause, and this one is folded under it.
    if code in _CRASHED and not log:
        code = code_of_log(answer.sentence) or code
    message, remedy = denied or (answer.sentence, _remedy_of(code, diagnosis, answer.reason))
    if answer.reason == PodReason.OUT_OF_MEMORY:
        limit = f"{desktop.memory} " if isinstance(desktop, Desktop) else ""
        source = diagnosis.set_limit("memory", "")[1]
        message = (
            f"The desktop used more memory than its limit ({limit}from {source}), and was stopped."
        )
    return diagnosis.finding(
        code,
        message,
        evidence=[
            f"pod/{pod.metadata.name}: {answer.reason}",
            *last_warnings(diagnosis.observed.events),
            *(f"log: {line}" for line in log[-2:]),
        ],
        remedy=remedy or Remedy.run(f"{diagnosis.kubectl} describe pod {pod.metadata.name}"),
    )


def _may_pass(diagnosis: SessionDiagnosis, pod: Pod, answer: Explanation) -> bool:
    """Whether the cause is too young to be reported. One that cannot pass by itself never is."""
    if answer.reason in LASTING_REASONS or pod.status.phase == "Failed":
        return False
    may_be_late = answer.reason == PodReason.MISSING_HOME and diagnosis.home
    since = not_responding_since(pod) or pod.metadata.creation_timestamp
    return diagnosis.snapshot.age(since) < (
        _SCHEDULER_SECONDS if may_be_late else _PATIENCE_SECONDS
    )


def _killed_at(diagnosis: SessionDiagnosis, pod: Pod) -> str:
    """The time within the hour when its liveness probe ended a desktop that had been ready; empty:
    it did not.
    """
    ended = pod.desktop.last_state.terminated if pod.desktop else None
    at = ""
    if ended and ended.reason != "OOMKilled":
        at = ended.finished_at or ""
    was_ready = pod.ready or diagnosis.session.status.ready_time >= pod.metadata.creation_timestamp
    # A program that was killed from inside refuses the connection; one that hangs does not respond.
    failed = any(
        "Liveness probe failed" in event.note and not _ENDED.search(event.note)
        for event in diagnosis.observed.events
    )
    if was_ready and failed and diagnosis.snapshot.age(at) < _RECENT_SECONDS:
        return at
    return ""


def _read_last_log(diagnosis: SessionDiagnosis) -> str:
    """The command that shows how the desktop ended: of its pod, or what the status keeps of a pod
    that is deleted.
    """
    pod, kubectl = diagnosis.pod, diagnosis.kubectl
    if pod is None:
        shown = '{.status.failures.message}{"\\n"}{.status.failures.log}{"\\n"}'
        return f"{kubectl} get vdisession {diagnosis.name} --output jsonpath='{shown}'"
    previous = ""
    if pod.desktop and pod.desktop.last_state.terminated:
        previous = " --previous"
    return f"{kubectl} logs {pod.metadata.name}{previous}"


def _denied_credentials(diagnosis: SessionDiagnosis) -> tuple[str, Remedy] | None:
    """A sentence about the pull secret that the registry does not accept, and its remedy; None: it
    is not that.
    """
    pod, desktop, answer = diagnosis.pod, diagnosis.desktop, diagnosis.answer
    denied = answer is not None and answer.reason == PodReason.IMAGE_PULL_DENIED
    if (
        not denied
        or not isinstance(desktop, Desktop)
        or not desktop.image_pull_secrets
        or not pod
        or not pod.desktop
    ):
        return None
    names, registry = desktop.image_pull_secrets, _registry_of(desktop.image)
    event, waiting = diagnosis.observed.start_state(pod).newest("Failed"), pod.desktop.state.waiting
    said = f"{waiting.message if waiting else ''} {event.note if event else ''}"
    if not re.search(
        r"\b401\b|unauthori[sz]ed|incorrect username|no basic auth credentials", said, re.IGNORECASE
    ):
        return None
    if registry == "docker.io":
        server = "https://index.docker.io/v1/"
    else:
        server = registry
    # A password in the arguments of kubectl would be seen by others on that machine, and in the
    # shell's history.
    create = (
        f"{diagnosis.kubectl} create secret generic {secret} --type=kubernetes.io/dockerconfigjson"
        " --from-file=.dockerconfigjson=pull-secret/config.json --dry-run=client -o yaml | kubectl"
        " apply -f -"
        for secret in names
    )
    which = ", for the Secret of this registry," if len(names) > 1 else ""
    message = (
        f"The registry {registry} refuses the credentials of the Secret{'s' * bool(which)}"
        f" {', '.join(names)}."
    )
    sentence = (
        f"Log in to the registry with a Docker configuration of its own. Then{which} make the"
        " Secret from it:"
    )
    return message, Remedy(
        sentence,
        (f"docker --config pull-secret login {server}", *create, diagnosis.restart_command),
    )


def _registry_of(image: str) -> str:
    """The registry in an image's name; Docker Hub where it names none."""
    host, slash, _ = image.partition("/")
    if slash and (re.search(r"[.:]", host) or host == "localhost"):
        return host
    return "docker.io"


def _remedy_of_image(diagnosis: SessionDiagnosis) -> Remedy:
    """The commands that make the image available. The template is read again only when the session
    restarts.
    """
    template, pod, desktop = diagnosis.template_name, diagnosis.pod, diagnosis.desktop
    why = diagnosis.answer or diagnosis.problem
    reason = why.reason if why else ""
    fix = (f"kubectl edit vditemplate {template}", diagnosis.restart_command)
    correct = f"Correct registry, name or tag in spec.image of template `{template}`"
    if reason == PodReason.IMAGE_PULL_DENIED:
        secrets = desktop.image_pull_secrets if isinstance(desktop, Desktop) else ()
        read = (f"{diagnosis.kubectl} get secret {secret}" for secret in secrets)
        return Remedy(f"{correct}, or its pull secret. Then restart the desktop.", (*read, *fix))
    if reason == PodReason.REGISTRY_BUSY:
        return Remedy(
            "Wait until the registry allows more pulls, or add a pull secret to the template.", fix
        )
    if reason in _OF_TEMPLATE or pod is None or pod.desktop is None or not pod.spec.node_name:
        return Remedy(f"{correct}. Then restart the desktop.", fix)
    node, image = pod.spec.node_name, pod.desktop.image
    if image.startswith("localhost/"):
        sentence = (
            f"{correct}. If the name is right, import the image on the node {node}: no registry"
            " has it."
        )
        return Remedy(sentence, fix)
    if reason == PodReason.REGISTRY_UNKNOWN:
        sentence = (
            f"{correct}. If the registry is right, fix DNS on the node {node}, and pull the image"
            " there."
        )
        return Remedy(sentence, (*fix, f"{node_tools(diagnosis.snapshot, node)[1]} pull {image}"))
    return _remedy_on_node(diagnosis.snapshot, node, image, reason)


def _remedy_on_node(snapshot: Snapshot, node: str, image: str, reason: str) -> Remedy:
    """The commands that make a node pull an image whose name is right."""
    service, crictl = node_tools(snapshot, node)
    pull = f"{crictl} pull {image}"
    if reason == PodReason.REGISTRY_NOT_TRUSTED and service != "kubelet":
        sentence = (
            f"On the node {node}, save the registry's CA as /etc/rancher/k3s/registry-ca.crt. Name"
            f" it in registries.yaml there (configs, `{_registry_of(image)}`, tls, ca_file)."
        )
        return Remedy(sentence, (f"systemctl restart {service}", pull))
    if reason == PodReason.REGISTRY_WITHOUT_TLS:
        sentence = (
            "Give the registry a certificate, or, in a network that you trust, name"
            f" http://{_registry_of(image)} as its endpoint on the node {node} (K3s: mirrors in"
            " /etc/rancher/k3s/registries.yaml)."
        )
        return Remedy(sentence, (pull,))
    access = reason in (PodReason.REGISTRY_UNREACHABLE, PodReason.REGISTRY_NOT_TRUSTED)
    if access:
        what = "its access to the registry"
    else:
        what = "what the message names"
    return Remedy(f"On the node {node}, fix {what}, and pull the image.", (pull,))


@check("vdisessions", "pods", "nodes", reads=OF_SESSIONS)
def starts_slow(snapshot: Snapshot) -> Iterator[Finding]:
    """Starts of the last hour that took more than 30 s, or do so now, and the stage that took
    longest.
    """
    for diagnosis in active_sessions(snapshot):
        pod = diagnosis.pod
        if pod is None or _is_no_guide(diagnosis, pod):
            continue
        stages = _stages(snapshot, pod)
        total, longest = sum(stages.values()), max(stages, key=lambda stage: stages[stage])
        if total <= _SLOW_SECONDS:
            continue
        begin = "Its start took" if pod.ready else "It has been starting for"
        if int(stages[longest]) == int(total):
            part = "All"
        else:
            part = f"{int(stages[longest])} s"
        where, remedy = _slow_stage(longest, diagnosis, pod)
        yield diagnosis.finding(
            "start_slow",
            f"{begin} {int(total)} s. {part} of that is {where}.",
            evidence=[", ".join(f"{name} {int(value)} s" for name, value in stages.items())],
            remedy=remedy,
        )


def _is_no_guide(diagnosis: SessionDiagnosis, pod: Pod) -> bool:
    """Whether the times of this start say nothing about the next one."""
    notes, template = pod.metadata.annotations, diagnosis.template
    if (diagnosis.answer and diagnosis.answer.stuck) or notes.get("vdi.kasm.io/run-started"):
        return True
    if not pod.ready:
        return False
    # The times are those of a later start, perhaps after the machine was off.
    restarted = pod.desktop is not None and pod.desktop.restart_count > 0
    # The template was changed since: the next start shows whether that helped.
    revision, changed = notes.get(TEMPLATE_REVISION), False
    if template and revision:
        changed = revision != str(template.metadata.generation)
    condition = pod.condition("Ready")
    since = condition.last_transition_time if condition else None
    return restarted or changed or diagnosis.snapshot.age(since) > _RECENT_SECONDS


def _slow_stage(stage: str, diagnosis: SessionDiagnosis, pod: Pod) -> tuple[str, Remedy]:
    """A clause that says where the time went, and what makes the stage shorter."""
    template, answer, desktop = diagnosis.template_name, diagnosis.answer, diagnosis.desktop
    edit = f"kubectl edit vditemplate {template}"
    if stage == "schedule" and diagnosis.home and diagnosis.home.status.phase == "Pending":
        command = f"{diagnosis.kubectl} describe pvc {diagnosis.home.metadata.name}"
        return "the wait for the volume of its home", Remedy(
            "See what the claim waits for.", (command,)
        )
    if stage == "schedule":
        command = "kubectl --namespace kube-system get pods -l component=kube-scheduler"
        return "the search for a node", Remedy.run(command)
    if stage == "prepare":
        command = merge_patch("vditemplate", template, {"spec": {"prePull": True}})
        return "image and volume, on the node", Remedy("Pull the image in advance.", (command,))
    where = "the desktop itself, until its readiness probe passed"
    how = explain_probe(diagnosis.observed.start_state(pod))
    if answer and answer.reason == PodReason.PROBE_REFUSED:
        remedy = Remedy(
            "Correct the template, then restart the desktop.", (edit, diagnosis.restart_command)
        )
        return f"the desktop itself. {answer.sentence.rstrip('.')}", remedy
    if answer:
        where = f"the desktop itself: {how or 'its readiness probe has not passed'}"
    if isinstance(desktop, Desktop) and amount("cpu", desktop.cpu) < _ENOUGH_MILLICPU:
        sentence = f"Raise the CPU limit ({desktop.cpu}), or keep desktops ready in a VDIPool."
        return where, Remedy(sentence, (edit,))
    sentence = "Read in its log what it waits for, or keep desktops ready in a VDIPool."
    return where, Remedy(sentence, (f"{diagnosis.kubectl} logs {pod.metadata.name}",))


def _stages(snapshot: Snapshot, pod: Pod) -> dict[str, float]:
    """Seconds of each stage of the pod's start so far. Time before the pod, in the queue, is not
    its start.
    """
    scheduled, ready = pod.condition("PodScheduled"), pod.condition("Ready")
    running = pod.desktop.state.running if pod.desktop else None
    ends = {
        "schedule": (
            scheduled.last_transition_time if scheduled and scheduled.status == "True" else ""
        ),
        "prepare": running.started_at if running else "",
        "boot": ready.last_transition_time if pod.ready and ready else "",
    }
    stages, began = {}, pod.metadata.creation_timestamp
    for stage, end in ends.items():
        stages[stage] = max(0.0, snapshot.age(began) - snapshot.age(end))
        if not end:
            break
        began = end
    return stages


@check("vdisessions", "pods", reads=OF_SESSIONS)
def sessions_overdue(snapshot: Snapshot) -> Iterator[Finding]:
    """Desktops that still run although their time limit was reached."""
    for diagnosis in active_sessions(snapshot):
        ends = diagnosis.session.status.expires_at
        if diagnosis.pod is not None and snapshot.age(ends) > _OVERDUE_SECONDS:
            yield diagnosis.finding(
                "session_overdue",
                f"Its time limit was reached {snapshot.age(ends):.0f} s ago, but its desktop is"
                " still running.",
                evidence=[
                    f"status.expiresAt: {ends}",
                    f"pod/{diagnosis.pod.metadata.name}: {diagnosis.pod.status.phase}",
                ],
                remedy=diagnosis.read_operator_log,
            )


@check("vdisessions", "nodes", reads=("pods",))
def user_namespaces_missing(snapshot: Snapshot) -> Iterator[Finding]:
    """Nodes whose lack leaves desktops without a user namespace, which their templates use where
    they can (Auto).
    """
    for diagnosis in active_sessions(snapshot):
        isolation = diagnosis.session.status.isolation
        if isolation and (name := lacking_node(isolation.message)) in snapshot.nodes:
            yield make_finding(
                "user_namespace_unavailable",
                f"node/{name}",  # `run_checks` keeps one finding of a node
                isolation.message,
                evidence=[f"{diagnosis.object}: status.isolation"],
                remedy=_remedy_of("user_namespace_unavailable", diagnosis, "") or Remedy(),
                severity=Severity.WARNING,
            )


CHECKS = (
    *(sessions_without_pod, operators_stuck, desktops_not_ready, starts_slow, sessions_overdue),
    user_namespaces_missing,
)
