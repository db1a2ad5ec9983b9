"""Sessions that do not get their desktop, and why: in the words of the functions that the operator acts on."""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress

from vdi.api.session import Phase
from vdi.cluster.capacity import NodeCapacity, allows_placement, read_capacity
from vdi.cluster.explain import IMAGE_CODES
from vdi.cluster.reasons import PodReason
from vdi.cluster.units import amount
from vdi.diagnosis.check import check
from vdi.diagnosis.snapshot import Snapshot
from vdi.doctor.checks.desktops import code_of_words
from vdi.doctor.codes import make_finding
from vdi.doctor.objects.components import is_led, last_warnings, operator_for
from vdi.doctor.objects.sessions import REFUSED, SessionDiagnosis, active, diagnose_sessions
from vdi.findings.model import Finding, Remedy, Severity
from vdi.session.conditions import LASTING_QUEUE_REASONS, QUEUE_REASONS, Reason
from vdi.session.effective import Blocked, Desktop
from vdi.session.homes import own_claim
from vdi.session.naming import reservation_name

PATIENCE = 15.0
# Until a claim counts as missing that is there: pod and claim are created side by side, and the scheduler, which may
# see the pod first, tries again after up to 10 s.
_SCHEDULER_PATIENCE = 60.0

"""Seconds in which a kubelet's complaint may pass by itself."""
# Seconds that a start may take (F1).
SLOW = 30.0
# Seconds after its end in which the operator may be ending a session.
_OVERDUE = 60.0
_RECENT = 3600.0

_OF_PROBLEM: Mapping[str, str] = {
    Reason.TEMPLATE_NOT_FOUND: "template_missing",
    Reason.INVALID_TEMPLATE: "template_invalid",
    Reason.INVALID_SESSION: "session_over_limit",
    Reason.OVER_LIMIT: "session_over_limit",
    Reason.HOME_IN_USE: "home_in_use",
    Reason.HOST_TAKEN: "host_taken",
    Reason.NAME_TAKEN: "name_taken",
    PodReason.HOME_LOST: "home_lost",
    **dict.fromkeys(REFUSED, "pod_refused"),
}
_OF_ANSWER: Mapping[str, str] = {
    **dict.fromkeys(IMAGE_CODES, "image_unavailable"),
    PodReason.MISSING_SECRET: "reference_missing",
    PodReason.MISSING_CONFIG_MAP: "reference_missing",
    PodReason.MISSING_KEY: "reference_missing",
    PodReason.BAD_POD_CONFIG: "reference_missing",
    PodReason.CRASH_LOOP: "desktop_crashes",
    PodReason.POD_FAILED: "desktop_crashes",
    PodReason.OUT_OF_MEMORY: "desktop_out_of_memory",
    PodReason.EVICTED: "desktop_evicted",
    PodReason.OUT_OF_EPHEMERAL_STORAGE: "desktop_out_of_disk",
    PodReason.NODE_REFUSED: "node_refused",
    PodReason.NODE_LOST: "desktop_on_lost_node",
    PodReason.HOME_LOST: "home_lost",
    PodReason.HOME_NOT_PROVISIONED: "home_not_provisioned",
    PodReason.VOLUME_PERMISSION: "volume_not_mounted",
    PodReason.VOLUME_MOUNT: "volume_not_mounted",
    PodReason.VOLUME_ELSEWHERE: "volume_not_mounted",
    PodReason.BAD_MOUNT: "volume_not_mounted",
    PodReason.BAD_COMMAND: "desktop_cannot_start",
    PodReason.CANNOT_START: "desktop_cannot_start",
    PodReason.NODE_NETWORK: "node_network_broken",
}
_CRASHED = frozenset({"desktop_crashes", "session_failed"})
# Problems that no seconds take away. What is in use or taken may belong to a session that is just ending.
_LASTING = REFUSED | (_OF_PROBLEM.keys() - {Reason.HOME_IN_USE, Reason.NAME_TAKEN})
_GPU_REASONS = frozenset({Reason.GPUS_BUSY, Reason.NO_GPUS})
_FREE_A_GPU = Remedy("End or suspend a desktop.", ("vdi gpu status", "vdi session ls"))


@check("vdisessions", "vditemplates", "pods", "nodes", "persistentvolumeclaims")
def sessions_without_pod(snapshot: Snapshot) -> Iterator[Finding]:
    """Sessions that wait for something, or for nothing that anybody knows."""
    for diagnosis in active(diagnose_sessions(snapshot)):
        meta = diagnosis.session.metadata
        if diagnosis.pod is not None:
            continue
        problem, young = diagnosis.problem, snapshot.age(meta.creation_timestamp) < PATIENCE
        if problem and (not young or problem.reason in _LASTING):
            yield _waiting(diagnosis, problem)
        elif young:
            continue
        elif _idle_for(diagnosis) > SLOW:
            yield make_finding(
                "session_ignored",
                diagnosis.object,
                f"Nothing blocks this session, but it has had no pod for {int(_idle_for(diagnosis))} s. The "
                "operator is not processing it.",
                evidence=[
                    f"metadata.generation: {meta.generation}",
                    f"status.observedGeneration: {diagnosis.session.status.observed_generation}",
                    f"status.message: {diagnosis.session.status.message or '(none)'}",
                ],
                remedy=diagnosis.restart_operator,
                related_objects=diagnosis.related_objects,
            )


@check("vdisessions", "vditemplates", "pods", "nodes", "persistentvolumeclaims", "deployments", "leases")
def operators_stuck(snapshot: Snapshot) -> Iterator[Finding]:
    """Operators that lead, and pass over several sessions: a watch of theirs may be stuck."""
    passed_over: dict[str, list[SessionDiagnosis]] = {}
    for diagnosis in diagnose_sessions(snapshot):
        deleted = snapshot.age(diagnosis.session.metadata.deletion_timestamp) > 2 * SLOW and not diagnosis.pods
        ignored = (
            not diagnosis.resting
            and diagnosis.pod is None
            and _idle_for(diagnosis) > SLOW
            and diagnosis.problem is None
        )
        if deleted or ignored:
            passed_over.setdefault(diagnosis.namespace, []).append(diagnosis)
    for namespace, found_here in sorted(passed_over.items()):
        operator = operator_for(snapshot, namespace)
        if operator is None or not operator.ready or not is_led(snapshot, namespace) or len(found_here) < 2:
            continue
        names = [diagnosis.session.metadata.name for diagnosis in found_here]
        yield make_finding(
            "operator_stuck",
            operator.object,
            f"The operator leads, but does not process {len(names)} sessions: one of its watches may be stuck.",
            evidence=[f"without pod or reason, or deleted but still present: {', '.join(sorted(names)[:5])}"],
            remedy=found_here[0].restart_operator,
            related_objects=found_here[0].related_objects,
        )


def _idle_for(diagnosis: SessionDiagnosis) -> float:
    """Seconds since something was last said of it."""
    times = [
        condition.last_transition_time
        for condition in diagnosis.session.status.conditions
        if condition.last_transition_time
    ]
    return diagnosis.snapshot.age(max([diagnosis.session.metadata.creation_timestamp, *times]))


def _waiting(diagnosis: SessionDiagnosis, problem: Blocked) -> Finding:
    reason, name, namespace = problem.reason, diagnosis.session.metadata.name, diagnosis.namespace
    template = diagnosis.session.spec.template
    code = _OF_PROBLEM.get(reason) or _OF_ANSWER.get(reason, "session_failed")
    if code in _CRASHED:
        code = code_of_words(problem.message) or code
    severity = None
    if reason in QUEUE_REASONS:
        code = "gpu_insufficient" if reason in _GPU_REASONS else "room_insufficient"
        severity = Severity.ERROR if reason in LASTING_QUEUE_REASONS else Severity.WARNING
    elif reason not in _OF_PROBLEM and not problem.needs_change:
        severity = Severity.WARNING  # it is tried again
    remedies = {
        "template_missing": Remedy(
            f"Create the template {template!r}, or create the session with one that exists.",
            ("kubectl get vditemplates",),
        ),
        "template_invalid": Remedy.run(f"kubectl edit vditemplate {template}"),
        "session_over_limit": Remedy.run(f"kubectl --namespace {namespace} edit vdisession {name}"),
        "home_in_use": Remedy.run(f"vdi session ls -n {namespace}"),
        "host_taken": Remedy(
            "Give the session another spec.hostname. The ConfigMap names the user who owns this one.",
            (
                f"kubectl --namespace {namespace} edit vdisession {name}",
                f"kubectl --namespace {namespace} get configmap"
                f" {reservation_name(diagnosis.session.spec.hostname or name)} --output yaml",
            ),
        ),
        "name_taken": Remedy.run(
            f"kubectl --namespace {namespace} get pod,service,secret,ingressroute {name}",
            *([f"kubectl --namespace {namespace} get pvc {claim}"] if (claim := own_claim(diagnosis.session)) else []),
        ),
        "pod_refused": _admit(problem.message, namespace),
        "gpu_insufficient": _open_nodes(diagnosis) or _FREE_A_GPU,
        "room_insufficient": _open_nodes(diagnosis) or Remedy.run("vdi session ls", "kubectl describe nodes"),
        "home_lost": Remedy.run(f"kubectl --namespace {namespace} get pvc"),
    }
    queue, again = diagnosis.session.status.queue, _restart(diagnosis)
    return make_finding(
        code,
        diagnosis.object,
        problem.message,
        severity=severity,
        evidence=[
            f"reason: {reason}",
            f"status.queue.position: {queue.position}" if queue and queue.position else "",
        ],
        remedy=remedies.get(code) or (_help_for(code, diagnosis) if reason in _OF_ANSWER else again),
        related_objects=diagnosis.related_objects,
    )


# What the API server says when it refuses an object, what helps, and the command that shows what to change.
_ADMISSION = (
    (
        re.compile(r"exceeded quota: ([\w.-]+)"),
        "Raise the ResourceQuota, or end other desktops.",
        "kubectl --namespace {namespace} edit resourcequota {0}",
    ),
    (
        re.compile(
            r"(?:maximum|minimum) (?:cpu|memory|storage)[^:]* usage per|per (?:Container|Pod|PersistentVolumeClaim) is"
        ),
        "Change the LimitRange, or request what it allows.",
        "kubectl --namespace {namespace} get limitrange --output yaml",
    ),
    (
        re.compile(r"violates PodSecurity"),
        "Lower the namespace's Pod Security level to baseline, or change the template.",
        "kubectl label namespace {namespace} --overwrite pod-security.kubernetes.io/enforce=baseline",
    ),
    (
        re.compile(r"webhook \"([\w.-]+)\""),
        "Repair the service behind the webhook, or ask its administrator to allow the pod.",
        "kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations",
    ),
)


def _admit(message: str, namespace: str) -> Remedy:
    for pattern, sentence, command in _ADMISSION:
        if match := pattern.search(message):
            return Remedy(sentence, (command.format(*match.groups(), namespace=namespace),))
    return Remedy.run(
        f"kubectl --namespace {namespace} describe resourcequota,limitrange",
        f"kubectl get namespace {namespace} --show-labels",
    )


def _open_nodes(diagnosis: SessionDiagnosis) -> Remedy | None:
    """How nodes that are large enough, with the labels that the template selects, become usable; None: none is closed.

    A taint is spoken of only where no other node could take the desktop: those of control planes, or of nodes that are
    dedicated to something else, are meant.
    """
    if not isinstance(diagnosis.desktop, Desktop):
        return None
    demand = diagnosis.desktop.demand()
    fitting = [
        capacity
        for capacity in _capacities(diagnosis.snapshot)
        if capacity.could_fit(demand.takes) and dict(demand.selector).items() <= capacity.labels.items()
    ]
    usable = [capacity for capacity in fitting if allows_placement(demand, capacity)]
    unschedulable = {node.metadata.name for node in diagnosis.snapshot.nodes.values() if node.spec.unschedulable}
    if cordoned := [f"kubectl uncordon {capacity.name}" for capacity in usable if capacity.name in unschedulable]:
        return Remedy("Uncordon the nodes, unless someone is working on them.", tuple(cordoned))
    if usable:
        return None
    tainted = [
        f"kubectl taint nodes {capacity.name} {taint.key}:{taint.effect}-"
        for capacity in fitting
        for taint in capacity.taints
        if not any(tolerance.covers(taint) for tolerance in demand.tolerances)
    ]
    if tainted:
        sentence = "Remove the taint, or tolerate it in the template's spec.placement.tolerations."
        return Remedy(sentence, tuple(tainted))
    return None


def _capacities(snapshot: Snapshot) -> Iterator[NodeCapacity]:
    """The nodes whose resources can be read."""
    for node in snapshot.nodes.values():
        with suppress(ValueError):
            yield read_capacity(node)


@check("vdisessions", "pods", "nodes", "events")
def desktops_not_ready(snapshot: Snapshot) -> Iterator[Finding]:
    """Desktops with a pod that does not get ready."""
    for diagnosis in active(diagnose_sessions(snapshot)):
        pod, answer = diagnosis.pod, diagnosis.answer
        if pod is None or answer is None or not answer.stuck:
            continue
        patience = _SCHEDULER_PATIENCE if answer.reason == PodReason.MISSING_HOME and diagnosis.home else PATIENCE
        if snapshot.age(pod.metadata.creation_timestamp) < patience and pod.status.phase != "Failed":
            continue
        code = _OF_ANSWER.get(answer.reason, "desktop_unschedulable" if not pod.spec.node_name else "session_failed")
        if answer.reason == PodReason.NO_GPU_FREE:
            code = "gpu_insufficient"
        if code == "home_not_provisioned" and diagnosis.home is not None:
            code = "desktop_unschedulable"  # why there is no volume is the claim's own finding
        log = snapshot.logs.get(f"{diagnosis.namespace}/{pod.metadata.name}") or []
        if code in _CRASHED and not log:
            code = code_of_words(answer.sentence) or code
        yield make_finding(
            code,
            diagnosis.object,
            f"The desktop used more memory than its limit ({_memory_limit(diagnosis)}), and was stopped."
            if answer.reason == PodReason.OUT_OF_MEMORY
            else answer.sentence,
            evidence=[
                f"pod/{pod.metadata.name}: {answer.reason}",
                *last_warnings(diagnosis.observed.events),
                *(f"log: {line}" for line in log[-2:]),
            ],
            remedy=_help_for(code, diagnosis),
            related_objects=diagnosis.related_objects,
        )


def _help_for(code: str, diagnosis: SessionDiagnosis) -> Remedy:
    name, namespace, template = diagnosis.session.metadata.name, diagnosis.namespace, diagnosis.session.spec.template
    bound = diagnosis.pod or diagnosis.stranded
    pod, node = (bound.metadata.name, bound.spec.node_name) if bound else (name, "")
    describe_node = Remedy.run(f"kubectl describe node {node}")
    if code == "desktop_unschedulable" and (opened := _open_nodes(diagnosis)):
        return opened
    remedies = {
        "image_unavailable": _fetch(diagnosis),
        "reference_missing": Remedy.run(
            f"kubectl --namespace {namespace} get secrets,configmaps", f"kubectl edit vditemplate {template}"
        ),
        "desktop_crashes": Remedy.run(f"kubectl --namespace {namespace} logs {pod} --previous"),
        "desktop_out_of_memory": Remedy.run(_raise_memory(diagnosis), f"vdi session restart {name} -n {namespace}"),
        "desktop_evicted": describe_node,
        "desktop_out_of_disk": Remedy(
            "Raise resources.defaultEphemeralStorage in the template, or write large files to the home.",
            (f"kubectl edit vditemplate {template}", f"vdi session restart {name} -n {namespace}"),
        ),
        "node_refused": describe_node,
        "desktop_on_lost_node": describe_node,
        "node_network_broken": describe_node,
        "gpu_insufficient": _FREE_A_GPU,
    }
    return remedies.get(code) or Remedy.run(f"kubectl --namespace {namespace} describe pod {pod}")


def _fetch(diagnosis: SessionDiagnosis) -> Remedy:
    """What makes the image available. A desktop that is being started reads its template again only at a restart."""
    template, pod, why = diagnosis.session.spec.template, diagnosis.pod, diagnosis.answer or diagnosis.problem
    reason = why.reason if why else ""
    fix = (f"kubectl edit vditemplate {template}", *_restart(diagnosis).commands)
    correct = f"Correct registry, name or tag in spec.image of template `{template}`"
    if reason == PodReason.IMAGE_PULL_DENIED:
        desktop = diagnosis.desktop
        secrets = desktop.image_pull_secrets if isinstance(desktop, Desktop) else ()
        read = (f"kubectl --namespace {diagnosis.namespace} get secret {secret}" for secret in secrets)
        return Remedy(f"{correct}, or its pull secret. Then restart the desktop.", (*read, *fix))
    if reason == PodReason.REGISTRY_BUSY:
        return Remedy("Wait until the registry allows more pulls, or add a pull secret to the template.", fix)
    if reason in _OF_TEMPLATE or pod is None or pod.desktop is None or not pod.spec.node_name:
        return Remedy(f"{correct}. Then restart the desktop.", fix)
    node, image = pod.spec.node_name, pod.desktop.image
    if image.startswith("localhost/"):
        sentence = f"{correct}. If the name is right, import the image on the node {node}: no registry has it."
        return Remedy(sentence, fix)
    pull = f"{_crictl(diagnosis.snapshot, node)} pull {image}"
    if reason == PodReason.REGISTRY_UNKNOWN:
        sentence = f"{correct}. If the registry is right, fix DNS on the node {node}, and pull the image there."
        return Remedy(sentence, (*fix, pull))
    if reason in (PodReason.REGISTRY_UNREACHABLE, PodReason.REGISTRY_NOT_TRUSTED):
        return Remedy(f"On the node {node}, fix its access to the registry, and pull the image.", (pull,))
    return Remedy(f"On the node {node}, fix what the message names, and pull the image.", (pull,))


# Reasons that no pull on the node takes away.
_OF_TEMPLATE = frozenset({PodReason.IMAGE_NAME_INVALID, PodReason.IMAGE_NOT_FOUND})


def _crictl(snapshot: Snapshot, node: str) -> str:
    """The command on this node: K3s has it as a command of its own."""
    found_node = snapshot.find("nodes", node) or {}
    version = found_node.get("status", {}).get("nodeInfo", {}).get("kubeletVersion", "")
    return "k3s crictl" if "+k3s" in version else "crictl"


def _memory_limit(diagnosis: SessionDiagnosis) -> str:
    """The memory limit, and where it comes from; empty: not known."""
    desktop, session = diagnosis.desktop, diagnosis.session
    if not isinstance(desktop, Desktop):
        return ""
    own = session.spec.resources and session.spec.resources.memory
    return f"limit {desktop.memory} from {'the session' if own else f'template `{session.spec.template}`'}"


def _raise_memory(diagnosis: SessionDiagnosis) -> str:
    """The command that doubles the memory limit where it comes from; it shows what to decide on."""
    desktop, session = diagnosis.desktop, diagnosis.session
    own = session.spec.resources and session.spec.resources.memory
    limit = 2 * (amount("memory", desktop.memory) >> 20) if isinstance(desktop, Desktop) else 4096
    if own:
        patch = f'{{"spec":{{"resources":{{"memory":"{limit}Mi"}}}}}}'
        name = session.metadata.name
        return f"kubectl --namespace {diagnosis.namespace} patch vdisession {name} --type merge --patch '{patch}'"
    patch = f'{{"spec":{{"resources":{{"defaultMemory":"{limit}Mi"}}}}}}'
    return f"kubectl patch vditemplate {session.spec.template} --type merge --patch '{patch}'"


def _restart(diagnosis: SessionDiagnosis) -> Remedy:
    return Remedy.run(f"vdi session restart {diagnosis.session.metadata.name} -n {diagnosis.namespace}")


@check("vdisessions", "pods", "nodes")
def starts_slow(snapshot: Snapshot) -> Iterator[Finding]:
    """Starts that take, or have taken within the last hour, more than 30 s: which stage took the time."""
    for diagnosis in active(diagnose_sessions(snapshot)):
        pod = diagnosis.pod
        if pod is None or (diagnosis.answer and diagnosis.answer.stuck):
            continue
        if pod.ready and pod.desktop and pod.desktop.restart_count:
            continue  # the times are those of a later start, perhaps after the machine was off
        stages = _stages(diagnosis)
        took = sum(seconds for _, seconds in stages)
        ended = next(
            (condition.last_transition_time for condition in pod.status.conditions if condition.type == "Ready"), ""
        )
        if took <= SLOW or pod.metadata.annotations.get("vdi.kasm.io/run-started"):
            continue
        if pod.ready and snapshot.age(ended) > _RECENT:
            continue
        stage, seconds = max(stages, key=lambda stage: stage[1])
        yield make_finding(
            "start_slow",
            diagnosis.object,
            f"Its start {'took' if pod.ready else 'has taken'} {int(took)} s{'' if pod.ready else ' so far'}:"
            f" {int(seconds)} s of that {_STAGES[stage]}",
            evidence=[", ".join(f"{name} {int(value)} s" for name, value in stages)],
            remedy=_quicker(stage, diagnosis.session.spec.template),
            related_objects=diagnosis.related_objects,
        )


_STAGES = {
    "schedule": "until a node was found.",
    "prepare": "on the node, for image and volume.",
    "boot": "in the desktop itself, until its probe passed.",
}


def _quicker(stage: str, template: str) -> Remedy:
    """What makes this stage of a start shorter."""
    pre_pull = '\'{"spec":{"prePull":true}}\''
    return {
        "schedule": Remedy.run("kubectl --namespace kube-system get pods -l component=kube-scheduler"),
        "prepare": Remedy(
            "Pull the image in advance.", (f"kubectl patch vditemplate {template} --type merge --patch {pre_pull}",)
        ),
        "boot": Remedy(
            f"Raise spec.resources.defaultCPU of template `{template}`, or keep desktops ready in a VDIPool.",
            (f"kubectl edit vditemplate {template}",),
        ),
    }[stage]


def _stages(diagnosis: SessionDiagnosis) -> list[tuple[str, float]]:
    """Seconds of each stage of the pod's start, as far as it has come. What was before the pod is not its start."""
    snapshot, pod = diagnosis.snapshot, diagnosis.pod
    assert pod is not None  # noqa: S101 - the caller has looked
    marks = []
    scheduled = pod.condition("PodScheduled")
    running = pod.desktop.state.running if pod.desktop else None
    ready = pod.condition("Ready")
    marks.append(("schedule", scheduled.last_transition_time if scheduled and scheduled.status == "True" else ""))
    marks.append(("prepare", running.started_at if running else ""))
    marks.append(("boot", ready.last_transition_time if pod.ready and ready else ""))
    before = pod.metadata.creation_timestamp
    stages = []
    for stage, at in marks:
        spent = snapshot.age(before) - (snapshot.age(at) if at else 0.0)
        stages.append((stage, max(0.0, spent)))
        if not at:
            break
        before = at
    return stages


@check("vdisessions")
def sessions_failed(snapshot: Snapshot) -> Iterator[Finding]:
    """Sessions that the operator has given up, for a reason that is no condition of a pod."""
    for diagnosis in active(diagnose_sessions(snapshot)):
        status = diagnosis.session.status
        if status.phase == Phase.FAILED and diagnosis.pod is not None and diagnosis.answer is None:
            yield make_finding(
                "session_failed",
                diagnosis.object,
                status.message or "It is Failed, and its status does not contain a reason.",
                evidence=[f"status.phase: {status.phase}"],
                remedy=_restart(diagnosis),
                related_objects=diagnosis.related_objects,
            )


@check("vdisessions", "pods")
def sessions_overdue(snapshot: Snapshot) -> Iterator[Finding]:
    """Desktops that run on although their time is over."""
    for diagnosis in active(diagnose_sessions(snapshot)):
        ends = diagnosis.session.status.expires_at
        if diagnosis.pod is not None and snapshot.age(ends) > _OVERDUE:
            yield make_finding(
                "session_overdue",
                diagnosis.object,
                f"Its time limit was reached {snapshot.age(ends):.0f} s ago, but its desktop is still running.",
                evidence=[
                    f"status.expiresAt: {ends}",
                    f"pod/{diagnosis.pod.metadata.name}: {diagnosis.pod.status.phase}",
                ],
                remedy=diagnosis.read_operator_log,
                related_objects=diagnosis.related_objects,
            )


CHECKS = (sessions_without_pod, operators_stuck, desktops_not_ready, starts_slow, sessions_failed, sessions_overdue)
