"""The last check: whatever the API reports as not well and no other finding explains, in the API's
own words.

It knows no example of a fault. It looks at the objects that a session, a pool, a route or a release
names; a finding about such an object, or about one that it depends on, explains the state of the
object.
"""

import json
import re
import shlex
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vdi.api.meta import Condition
from vdi.api.pool import VDIPool
from vdi.api.session import FailureStatus, VDISession
from vdi.cluster.explain import DESKTOP, PASSING, StartState, chart_subject, explain, last_line
from vdi.cluster.objects import Event, PodCondition, Terminated
from vdi.cluster.reasons import PodReason
from vdi.doctor.codes import CODES, make_finding
from vdi.doctor.objects.components import last_warnings, release_workloads
from vdi.doctor.objects.references import hosts_by_certificate
from vdi.doctor.objects.sessions import OF_SESSIONS, SessionDiagnosis, diagnose_sessions
from vdi.findings.model import Finding, Remedy, Severity
from vdi.printable import as_sentence, escape
from vdi.session.conditions import Reason
from vdi.session.failures import NOT_ITS_FAULT, current_failures, is_short_of_room
from vdi.session.naming import FINALIZER, MANAGED_BY, POOL, SESSION_LABEL, derive_base
from vdi.session.pool import PoolReason
from vdi.session.prepull import PullReason
from vdi.snapshot.check import check
from vdi.snapshot.model import Snapshot
from vdi.snapshot.objects.meta import ConditionsStatus
from vdi.snapshot.objects.workloads import Pod

# Time in which a condition may pass by itself, a deleted object may go, and a container that ran
# for less had not started yet: it lacked something then, and runs now.
_PATIENCE_SECONDS = 60.0
# Time that a pod of a pool or a release has to get ready, while no rule of `vdi.cluster.explain`
# calls it stuck.
_START_SECONDS = 120.0
_EVENT_SECONDS = 600.0
# The kubelet reports a mount that still fails at least every 122 s: an older report about a running
# pod is over.
_MOUNT_SECONDS = 180.0
_RECENT_SECONDS = 3600.0
_LONGEST_QUOTE = 300
# Reason why a desktop was lost -> the field of its template that helps.
_REMEDIES: Mapping[str, str] = {
    PodReason.OUT_OF_MEMORY: "Raise resources.defaultMemory of its template, which was reached.",
    PodReason.OUT_OF_EPHEMERAL_STORAGE: (
        "Raise resources.defaultEphemeralStorage of its template, or use the home."
    ),
}
# Exit codes that are no failure: the program ended, or the runtime lost sight of it because the
# machine was off.
_NO_FAILURE = (0, 255)
# Exit code of a program that was ended by SIGKILL.
_KILLED = 137

_BAD_WHEN_TRUE = re.compile(
    "(Pressure|Failure|Failed|Degraded|Exceeded|Unavailable|Error|Stalled|Ignored|ResizePending)$|^Disruption"
)
# Conditions that only repeat another one, or name a normal step.
_NEUTRAL = {
    "ContainersReady",
    "Initialized",
    "PodReadyToStartContainers",
    "Issuing",
    "Resizing",
    "Unused",
}
# Reasons of a normal state: a pool whose desktops are taken all day, an image on its way, no node
# at the moment.
_NORMAL: set[str] = {PoolReason.FILLING, PullReason.PULLING, PullReason.NO_NODES}
# A new size that the user has to restart for, or make room for in the desktop: both are shown to
# the user.
_NORMAL |= {Reason.NEEDS_RESTART, Reason.IN_USE}
# Reasons that do not pass by themselves.
_LASTING: set[str] = {
    PoolReason.TEMPLATE_HAS_HOME,
    PoolReason.TEMPLATE_HAS_USER_VOLUMES,
    PoolReason.INVALID_SCHEDULE,
}
_LASTING |= {Reason.TEMPLATE_NOT_FOUND, Reason.INVALID_TEMPLATE, Reason.INFEASIBLE}
# Mode of a recording that is always made, and its state while it is.
_ALWAYS, _ON = "Always", "On"
# Warnings of a cluster that is well: probes and restarts show in the state of the pod, a session
# announces its end.
_NORMAL_EVENTS = {"Unhealthy", "BackOff", "NodeNotReady", "DNSConfigForming", Reason.END_PLANNED}
_NORMAL_EVENTS |= {Reason.EXPIRING_SOON, Reason.CLOSING_SOON, Reason.IDLE, Reason.NODE_CORDONED}
# Warnings of the catalogue that keep a desktop from starting. Other warnings are advice, and
# explain nothing.
_TELLING = {"start_slow", "home_in_use", "host_taken", "cpu_limit_low", "encoder_obsolete"}
# Finalizers of Kubernetes and of ours -> the event that removes them.
_FINALIZERS = {
    FINALIZER: "the operator removes it after its clean-up",
    "kubernetes.io/pvc-protection": "Kubernetes removes it when no pod uses the claim",
    "foregroundDeletion": "Kubernetes removes it when the objects that this one owns are deleted",
}
_NO_STATUS = ConditionsStatus()


@dataclass(frozen=True)
class _Subject:
    """An object, and the names of the objects whose findings explain its state, of a pod its owner
    first.
    """

    kind: str
    raw: Any
    chain: Sequence[str] = ()
    pod: Pod | None = None
    diagnosis: SessionDiagnosis | None = None

    @property
    def meta(self) -> Any:
        return self.raw.metadata

    @property
    def status(self) -> Any:
        return getattr(self.raw, "status", _NO_STATUS)

    @property
    def object(self) -> str:
        return "/".join(part for part in (self.kind, self.meta.namespace, self.meta.name) if part)

    @property
    def is_resting(self) -> bool:
        """Whether no good state is expected: a suspended or deleted session, a pod that ends or has
        ended.
        """
        if self.pod:
            return self.pod.terminating or self.pod.status.phase in ("Failed", "Succeeded")
        return self.diagnosis is not None and self.diagnosis.resting

    def kubectl(self, verb: str) -> str:
        place = ""
        if self.meta.namespace:
            place = f"--namespace {self.meta.namespace} "
        return f"kubectl {place}{verb} {self.kind} {self.meta.name}"

    def finding(
        self, code: str, message: str, evidence: Iterable[str], remedy: Remedy | None = None
    ) -> Finding:
        remedy, chain = remedy or Remedy.run(self.kubectl("describe")), self.chain
        return make_finding(
            code,
            self.object,
            _quote(message),
            evidence=evidence,
            remedy=remedy,
            related_objects=chain,
        )


@check(
    "vdisessions",
    "vditemplates",
    "pods",
    "nodes",
    "persistentvolumeclaims",
    reads=(*OF_SESSIONS, "certificates", "daemonsets", "statefulsets", "vdipools", "pods/log"),
    last=True,
)
def unexplained(snapshot: Snapshot, findings: Collection[Finding]) -> Iterator[Finding]:
    """Conditions, Warning Events, deletions and restarts that none of the findings so far
    explains.
    """
    explained = {finding.object for finding in findings if _explains(finding)}
    subjects: dict[str, _Subject] = {}
    for subject in _subjects(snapshot):
        subjects.setdefault(subject.object, subject)
    # A pod that stays keeps its session and its claim. Everything else follows from the owner,
    # which comes first.
    looks = [
        (_deletion, subject)
        for subject in sorted(subjects.values(), key=lambda subject: subject.pod is None)
    ]
    looks += [
        (look, subject) for subject in subjects.values() for look in (_condition, _restart, _event)
    ]
    for look, subject in looks:
        finding = look(snapshot, subject)
        if finding and explained.isdisjoint((subject.object, *finding.related_objects)):
            explained.add(subject.object)
            yield finding


def _explains(finding: Finding) -> bool:
    is_error = (
        CODES[finding.code].severity is Severity.ERROR and finding.severity is not Severity.UNKNOWN
    )
    return is_error or finding.code in _TELLING


def _subjects(snapshot: Snapshot) -> Iterator[_Subject]:
    """The objects to look at, each owner before the objects that it owns."""
    sessions, whole = diagnose_sessions(snapshot), not snapshot.scope.session
    pools = snapshot.objects.vdipools if whole else []
    users: dict[str, list[str]] = defaultdict(list)
    for user, name in (
        *((session.object, session.template_name) for session in sessions),
        *((f"vdipool/{pool.metadata.name}", pool.spec.template) for pool in pools),
    ):
        users[name].append(user)
    for pool in pools:
        yield _Subject("vdipool", pool, [f"vditemplate/{pool.spec.template}"])
    for template in snapshot.objects.vditemplates:
        if whole or template.metadata.name in users:
            yield _Subject("vditemplate", template, users[template.metadata.name])
    for session in sessions:
        yield from _of_session(snapshot, session)
    for pool in pools:
        yield from _ready_pods(snapshot, pool)
    for workload in release_workloads(snapshot):
        # A pod says more than its workload. One that is ready does not explain why another one
        # cannot be created.
        pods = snapshot.pods_of(workload.raw)
        yield from (_of_pod(pod, workload.object) for pod in pods)
        unready = (f"pod/{workload.namespace}/{pod.metadata.name}" for pod in pods if not pod.ready)
        yield _Subject(workload.kind, workload.raw, [*snapshot.nodes_of(workload.raw), *unready])
    if whole:
        yield from _others(snapshot)


def _ready_pods(snapshot: Snapshot, pool: VDIPool) -> Iterator[_Subject]:
    """Pods of a pool that no session has claimed."""
    name, owner = pool.metadata.name, f"vditemplate/{pool.spec.template}"
    for pod in snapshot.pods:
        labels = pod.metadata.labels
        if labels.get(POOL) == derive_base(name) and SESSION_LABEL not in labels:
            yield _of_pod(pod, f"vdipool/{name}", owner)


def _of_session(snapshot: Snapshot, diagnosis: SessionDiagnosis) -> Iterator[_Subject]:
    chain, namespace = diagnosis.related_objects, diagnosis.namespace
    pods = snapshot.pods_by_owner.get(diagnosis.session.metadata.uid, ())
    chain += [f"pod/{namespace}/{pod.metadata.name}" for pod in pods]
    yield _Subject("vdisession", diagnosis.session, chain, diagnosis=diagnosis)
    # A route or a Service has no part in the state of a pod or a claim.
    chain = [
        name for name in chain if not name.startswith(("ingressroute/", "service/", "secret/"))
    ]
    claims = {diagnosis.home.metadata.name} if diagnosis.home else set()
    for pod in pods:
        yield _of_pod(pod, *chain)
        claims.update(pod.writes_to)
    for name in sorted(claims):
        if claim := snapshot.find("persistentvolumeclaims", name, namespace):
            yield _Subject("persistentvolumeclaim", claim, chain)


def _of_pod(pod: Pod, *chain: str) -> _Subject:
    return _Subject("pod", pod, [*chain, f"node/{pod.spec.node_name}"], pod)


def _others(snapshot: Snapshot) -> Iterator[_Subject]:
    """Certificates of the routes, and all else that the operator has made."""
    for namespace, secret in hosts_by_certificate(snapshot):
        for request in snapshot.objects.certificates:
            if (request.metadata.namespace, request.spec.secret_name) == (namespace, secret):
                yield _Subject("certificate", request, [f"secret/{namespace}/{secret}"])
    for kind in ("persistentvolumeclaim", "service", "ingressroute"):
        for raw in snapshot.of_kind(f"{kind}s"):
            meta = raw.metadata
            if meta.labels.items() >= MANAGED_BY.items():
                owners = []
                for owner in meta.owner_references:
                    if owner.kind == "VDISession":
                        owners.append(owner.name)
                yield _Subject(
                    kind, raw, [f"vdisession/{meta.namespace}/{owner}" for owner in owners]
                )


def _deletion(snapshot: Snapshot, subject: _Subject) -> Finding | None:
    """A deleted object that stays: its finalizers keep it, or its node does not stop it."""
    # The time of a pod is the end of its grace period.
    age, names = snapshot.age(subject.meta.deletion_timestamp), list(subject.meta.finalizers)
    if age < _PATIENCE_SECONDS:
        return None
    foreign, remedy = [name for name in names if name not in _FINALIZERS], None
    if foreign:
        # Only this finalizer, and only where it is: one that others have added meanwhile stays.
        place = f"/metadata/finalizers/{names.index(foreign[0])}"
        patch = [
            {"op": "test", "path": place, "value": foreign[0]},
            {"op": "remove", "path": place},
        ]
        change = f"{subject.kubectl('patch')} --type json --patch {shlex.quote(json.dumps(patch))}"
        sentence = (
            "Repair that controller. Only if it is gone for good, look at the object, then remove"
            f" {foreign[0]}:"
        )
        remedy = Remedy(sentence, (f"{subject.kubectl('get')} --output yaml", change))
    elif FINALIZER in names and subject.diagnosis:
        remedy = subject.diagnosis.restart_operator
    node = None
    if subject.pod:
        node = snapshot.nodes.get(subject.pod.spec.node_name)
    if foreign or (node and node.ready):
        # This is a cause: the findings of its session follow from it.
        subject = replace(
            subject, chain=[name for name in subject.chain if name.startswith("node/")]
        )
    whose = {
        name: _FINALIZERS.get(name, f"the controller of {name.partition('/')[0]} removes it")
        for name in names
    }
    kept = ", ".join(f"the finalizer {name} ({doing})" for name, doing in whose.items())
    kept = kept or "its node, which has not stopped it"
    evidence = [
        f"metadata.deletionTimestamp: {subject.meta.deletion_timestamp}",
        f"metadata.finalizers: {names}",
    ]
    message = f"It was deleted {int(age)} s ago and is kept by {kept}."
    return subject.finding("deletion_stuck", message, evidence, remedy)


def _condition(snapshot: Snapshot, subject: _Subject) -> Finding | None:
    """Conditions that are False, or True where that is bad, and a claim whose volume is gone."""
    events = _events_of(snapshot, subject)
    bad = list(_bad_conditions(snapshot, subject, events))
    if not bad:
        return None
    lines = []
    for one in bad:
        text = ": ".join(part for part in (one.reason, one.message) if part)
        lines.append(
            _quote(f"condition {one.type} is {one.status}: {text or 'it gives no reason'}")
        )
    warnings = []
    for line in last_warnings(events):
        if not any(line in said for said in lines):
            warnings.append(line)
    evidence = [*lines[1:], *warnings] or [
        f"since {bad[0].last_transition_time or 'an unknown time'}"
    ]
    return subject.finding("unexplained_condition", f"Its {lines[0]}", evidence)


def _bad_conditions(
    snapshot: Snapshot, subject: _Subject, events: list[Event]
) -> Iterator[PodCondition]:
    if subject.pod and (text := _unready(snapshot, subject, subject.pod, events)):
        yield PodCondition("Ready", "False", message=text)
    # A StatefulSet has no conditions: without a pod, only its Events speak.
    if subject.kind == "statefulset" and events and not snapshot.pods_of(subject.raw):
        newest = max(events, key=lambda event: event.seen)
        yield PodCondition("Ready", "False", message=newest.note)
    if getattr(subject.status, "phase", "") == "Lost":
        yield PodCondition("Bound", "False", message="its volume is gone (phase Lost)")
    if not subject.is_resting:
        yield from _failed_parts(snapshot, subject)
        for condition in subject.status.conditions:
            if _is_bad(snapshot, subject, condition):
                yield condition


def _failed_parts(snapshot: Snapshot, subject: _Subject) -> Iterator[PodCondition]:
    """The session's recording, if it has failed or its template promises it and it is not made."""
    if subject.diagnosis:
        status = subject.diagnosis.session.status
    else:
        status = None
    if status is None or status.recording is None:
        return
    recording = status.recording
    is_late = snapshot.age(status.ready_time) >= _PATIENCE_SECONDS
    if recording.state == "Failed" or (
        recording.state != _ON and recording.mode == _ALWAYS and is_late
    ):
        yield PodCondition("recording", recording.state, message=recording.message)


def _is_bad(snapshot: Snapshot, subject: _Subject, condition: Condition | PodCondition) -> bool:
    kind, reason, since = condition.type, condition.reason, condition.last_transition_time
    if kind in _NEUTRAL or reason in _NORMAL or (subject.pod and kind in ("Ready", "PodScheduled")):
        return False
    if condition.status != ("True" if _BAD_WHEN_TRUE.search(kind) else "False"):
        return False
    # The conditions of a session that was suspended are False for hours, and stay so while it
    # starts again.
    starting = None
    if subject.diagnosis:
        starting = subject.diagnosis.starting_seconds
    ages = [snapshot.age(since) if since else None, starting]
    return reason in _LASTING or all(age >= _PATIENCE_SECONDS for age in ages if age is not None)


def _unready(snapshot: Snapshot, subject: _Subject, pod: Pod, events: list[Event]) -> str:
    """The words that explain a pod which is not ready, since its condition only names the
    container; empty: it is.
    """
    if pod.ready or pod.terminating or pod.gated or pod.status.phase == "Succeeded":
        return ""
    condition = pod.condition("Ready")
    age = snapshot.age(
        (condition.last_transition_time if condition else "") or pod.metadata.creation_timestamp
    )
    # A Deployment has replaced its failed pod long ago; nor is a machine that was switched off a
    # fault.
    if pod.status.phase == "Failed" and (
        age > _RECENT_SECONDS or pod.status.reason == "Terminated"
    ):
        return ""
    kind, _, name = subject.chain[0].rpartition("/")
    if kind.startswith(("deployment/", "daemonset/", "statefulset/")):
        named = chart_subject(name)
    else:
        named = DESKTOP
    answer = explain(
        StartState(pod, None, tuple(events), snapshot.nodes.get(pod.spec.node_name), subject=named)
    )
    patience = _PATIENCE_SECONDS if answer.stuck else _START_SECONDS
    return answer.sentence if age >= patience else ""


def _restart(snapshot: Snapshot, subject: _Subject) -> Finding | None:
    """A container that was killed for its memory or failed while it ran, within the hour; a desktop
    that was lost.

    The second counts until the new desktop has shown that it can run.
    """
    if subject.diagnosis and not subject.is_resting:
        session = subject.diagnosis.session
        failures = current_failures(session)
        is_its_fault = failures and failures.reason not in NOT_ITS_FAULT
        if failures and is_its_fault and not is_short_of_room(session):
            return _lost_desktop(snapshot, subject, session, failures)
    for container in subject.pod.status.container_statuses if subject.pod else ():
        ended = container.last_state.terminated
        how = _end_of_container(snapshot, subject.pod, ended)
        if ended is None or not how:
            continue
        name, age = container.name, int(snapshot.age(ended.finished_at))
        logs = subject.kubectl("logs").replace(" pod ", " ")
        return subject.finding(
            "container_restarted",
            f"Its container {name} {how} {age} s ago, and was restarted.",
            [
                f"lastState.terminated: exit code {ended.exit_code}, {ended.finished_at}",
                _quote(last_line(ended.message)),
            ],
            Remedy.run(f"{logs} --container {name} --previous"),
        )
    return None


def _lost_desktop(
    snapshot: Snapshot, subject: _Subject, session: VDISession, failures: FailureStatus
) -> Finding:
    lost, meta = snapshot.age(failures.time), session.metadata
    # The pod is gone, and its name is that of the next one: the time tells whose Events these are.
    events = snapshot.events.get(("Pod", meta.namespace, session.status.pod_name), ())
    near = []
    for one in events:
        if abs(snapshot.age(one.seen) - lost) < _PATIENCE_SECONDS:
            near.append(one)
    why = " ".join([failures.message, *last_warnings(near)])
    sentence = _REMEDIES.get(failures.reason)
    edit = f"kubectl edit vditemplate {session.spec.template}"
    return subject.finding(
        "container_restarted",
        f"Its desktop was lost and started again: {why}",
        [f"status.failures: {failures.count}, {failures.reason}"],
        Remedy(sentence, (edit,)) if sentence else None,
    )


def _end_of_container(snapshot: Snapshot, pod: Pod | None, ended: Terminated | None) -> str:
    """A clause that says how a container failed within the hour; empty: it did not."""
    if ended is None or not ended.finished_at:
        return ""
    age = snapshot.age(ended.finished_at)
    if age > _RECENT_SECONDS:
        return ""
    if ended.reason == "OOMKilled":
        return "used more memory than its limit"
    if ended.exit_code == _KILLED:
        return "was killed, neither for its memory limit nor by the kubelet"
    had_not_started = snapshot.age(ended.started_at) - age < _PATIENCE_SECONDS
    if ended.exit_code in _NO_FAILURE or had_not_started:
        return ""
    if _machine_was_off(snapshot, pod, ended.finished_at):
        return ""
    return f"ended with exit code {ended.exit_code}"


def _machine_was_off(snapshot: Snapshot, pod: Pod | None, ended: str) -> bool:
    """Whether no container of the pod's node has run since before this end."""
    beside = (one for one in snapshot.pods if pod and one.spec.node_name == pod.spec.node_name)
    running = (
        container.state.running for one in beside for container in one.status.container_statuses
    )
    return all(state.started_at > ended for state in running if state)


def _event(snapshot: Snapshot, subject: _Subject) -> Finding | None:
    """A Warning that came after its object had become ready. Before that, the state of the object
    speaks.
    """
    conditions = [one for one in subject.status.conditions if one.type in ("Ready", "Available")]
    good = []
    for one in conditions:
        if one.status == "True" or subject.is_resting:
            good.append(one.last_transition_time)
    # A claim has no such condition. Whatever kept it from being bound is over.
    bound = getattr(subject.status, "phase", "") == "Bound"
    later = [
        event
        for event in _events_of(snapshot, subject)
        if (good and event.seen > max(good))
        or (bound and not re.search("Provision|Binding|Expanding", event.reason))
    ]
    if not later or (subject.pod and subject.is_resting):
        return None
    newest = max(later, key=lambda event: event.seen)
    others = [event for event in later if event is not newest]
    evidence = [f"Event of {newest.seen}", *last_warnings(others)]
    return subject.finding("unexplained_event", f"{newest.reason}: {newest.note}", evidence)


def _events_of(snapshot: Snapshot, subject: _Subject) -> list[Event]:
    return [
        event
        for event in snapshot.events_of(subject.meta.uid)
        if event.reason not in _NORMAL_EVENTS and not PASSING.search(event.note)
        if snapshot.age(event.seen)
        <= (_MOUNT_SECONDS if "Mount" in event.reason else _EVENT_SECONDS)
    ]


def _quote(text: str) -> str:
    """Words of an object: one line that ends as a sentence does, bounded and printable."""
    return as_sentence(escape(" ".join(text.split())), _LONGEST_QUOTE)


CHECKS = (unexplained,)
