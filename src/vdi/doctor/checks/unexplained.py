"""The last check: whatever the API reports as not well and no other finding explains, in the API's own words.

It knows no example of a fault. It looks at the objects that a session, a pool, a route or a release names; a finding
about such an object, or about one that it depends on, explains the state of the object.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from vdi.cluster.explain import DESKTOP, PASSING, StartState, chart_subject, explain
from vdi.cluster.objects import Event, Pod
from vdi.diagnosis.check import check, merge_patch
from vdi.diagnosis.snapshot import Raw, Snapshot
from vdi.doctor.codes import CODES, make_finding
from vdi.doctor.objects.components import last_warnings, release_workloads
from vdi.doctor.objects.references import hosts_by_certificate
from vdi.doctor.objects.sessions import SessionDiagnosis, diagnose_sessions
from vdi.findings.model import Finding, Remedy, Severity
from vdi.printable import escape
from vdi.session.conditions import Reason
from vdi.session.failures import NOT_ITS_FAULT, current_failures, is_short_of_room
from vdi.session.naming import MANAGED_BY, POOL, SESSION_LABEL, derive_base
from vdi.session.pool import PoolReason
from vdi.session.prepull import PullReason

# Time in which a condition may pass by itself, or a deleted object may go.
_PATIENCE_SECONDS = 60.0
# Time that a pod of a pool or a release has to get ready, while no rule of `vdi.cluster.explain` calls it stuck.
_START_SECONDS = 120.0
_EVENT_SECONDS = 600.0
# The kubelet reports a mount that still fails at least every 122 s: an older report about a running pod is over.
_MOUNT_SECONDS = 180.0
_RECENT_SECONDS = 3600.0
# A container that ran for less had not started yet: it lacked something then, and runs now.
_RUN_SECONDS = 60.0
_LONGEST_QUOTE = 300

_BAD_WHEN_TRUE = re.compile(
    r"(Pressure|Failure|Failed|Degraded|Exceeded|Unavailable|Error|Stalled|Ignored)$|^Disruption"
)
# Conditions that only repeat another one, or name a normal step.
_NEUTRAL = frozenset(
    {"ContainersReady", "Initialized", "PodReadyToStartContainers", "Issuing", "Resizing", "FileSystemResizePending"}
)
# Reasons of a normal state: a pool whose desktops are taken all day, an image on its way, no node at the moment.
_NORMAL = frozenset({PoolReason.FILLING, PullReason.PULLING, PullReason.NO_NODES, "PodCompleted", "SchedulingGated"})
# Reasons that do not pass by themselves.
_LASTING = frozenset(
    {
        *(PoolReason.TEMPLATE_HAS_HOME, PoolReason.TEMPLATE_HAS_USER_VOLUMES, PoolReason.INVALID_SCHEDULE),
        *(Reason.TEMPLATE_NOT_FOUND, Reason.INVALID_TEMPLATE, "ProgressDeadlineExceeded"),
    }
)
# Warnings of a cluster that is well. Probes and restarts show in the state of the pod; the others announce an end.
_NORMAL_EVENTS = frozenset(
    {
        *("Unhealthy", "BackOff", "NodeNotReady", "DNSConfigForming"),
        *(Reason.EXPIRING_SOON, Reason.CLOSING_SOON, Reason.IDLE, Reason.NODE_CORDONED),
    }
)
# Warnings of the catalogue that keep a desktop from starting. Other warnings explain nothing: they are advice.
_TELLING = frozenset({"start_slow", "home_in_use", "host_taken", "turn_down", "cpu_limit_low", "encoder_obsolete"})
_OF_BINDING = re.compile("Provision|Binding")
# Exit code that the runtime gives a container of which it lost sight.
_UNKNOWN_EXIT = 255
# Finalizers of Kubernetes -> the event that removes them.
_FINALIZERS = {
    "kubernetes.io/pvc-protection": "Kubernetes removes it when no pod uses the claim",
    "foregroundDeletion": "Kubernetes removes it when the objects that this one owns are deleted",
}


@dataclass(frozen=True)
class _Subject:
    """An object, and the names of the objects whose findings explain its state."""

    kind: str
    raw: Raw
    chain: Sequence[str] = ()
    # Of a pod: its struct, and the workload of the release that it belongs to; without one it is a desktop.
    pod: Pod | None = None
    workload: str = ""
    diagnosis: SessionDiagnosis | None = None

    @property
    def meta(self) -> Raw:
        meta: Raw = self.raw["metadata"]
        return meta

    @property
    def status(self) -> Raw:
        return self.raw.get("status") or {}

    @property
    def object(self) -> str:
        return "/".join(part for part in (self.kind, self.meta.get("namespace"), self.meta["name"]) if part)

    @property
    def is_resting(self) -> bool:
        """Whether no good state is expected: a suspended or deleted session, a pod that ends or has ended."""
        pod, diagnosis = self.pod, self.diagnosis
        ended = pod is not None and (pod.terminating or pod.status.phase in ("Failed", "Succeeded"))
        return ended or (diagnosis is not None and diagnosis.resting)

    def kubectl(self, verb: str) -> str:
        place = f"--namespace {self.meta['namespace']} " if self.meta.get("namespace") else ""
        return f"kubectl {place}{verb} {self.kind} {self.meta['name']}"

    def finding(self, code: str, message: str, evidence: Iterable[str], remedy: Remedy | None = None) -> Finding:
        remedy = remedy or Remedy.run(self.kubectl("describe"))
        return make_finding(
            code, self.object, _quote(message), evidence=evidence, remedy=remedy, related_objects=self.chain
        )


@check("vdisessions", "vditemplates", "pods", "nodes", "persistentvolumeclaims", last=True)
def unexplained(snapshot: Snapshot, found: Collection[Finding]) -> Iterator[Finding]:
    """Conditions, Warning Events, deletions and restarts that none of the findings so far explains."""
    explained = {finding.object for finding in found if _explains(finding)}
    subjects: dict[str, _Subject] = {}
    for subject in _subjects(snapshot):
        subjects.setdefault(subject.object, subject)
    for subject in subjects.values():
        for look in (_deletion, _condition, _restart, _lost_desktop, _event):
            finding = look(snapshot, subject)
            if finding and explained.isdisjoint((subject.object, *finding.related_objects)):
                # Owners come first, so this explains the objects that the subject owns, too.
                explained.add(subject.object)
                yield finding


def _explains(finding: Finding) -> bool:
    is_error = CODES[finding.code].severity is Severity.ERROR and finding.severity is not Severity.UNKNOWN
    return is_error or finding.code in _TELLING


def _subjects(snapshot: Snapshot) -> Iterator[_Subject]:
    """The objects to look at, each owner before the objects that it owns."""
    diagnoses, whole = diagnose_sessions(snapshot), not snapshot.scope.session
    pools = [_Subject("vdipool", pool) for pool in snapshot.raw("vdipools") if whole]
    users: dict[str, list[str]] = defaultdict(list)
    for diagnosis in diagnoses:
        users[diagnosis.template_name].append(diagnosis.object)
    for pool in pools:
        users[pool.raw["spec"]["template"]].append(pool.object)
        yield replace(pool, chain=[f"vditemplate/{pool.raw['spec']['template']}"])
    for template in snapshot.raw("vditemplates"):
        name = template["metadata"]["name"]
        if whole or name in users:
            yield _Subject("vditemplate", template, users[name])
    for diagnosis in diagnoses:
        yield from _of_session(snapshot, diagnosis)
    for pool in pools:
        base, chain = derive_base(pool.meta["name"]), [pool.object, f"vditemplate/{pool.raw['spec']['template']}"]
        for pod in snapshot.pods:
            if pod.metadata.labels.get(POOL) == base and SESSION_LABEL not in pod.metadata.labels:
                yield _of_pod(snapshot, pod, chain)
    for workload in release_workloads(snapshot):
        yield _Subject(workload.kind, workload.raw, snapshot.nodes_of(workload.raw))
        for pod in snapshot.pods_of(workload.raw):
            yield replace(_of_pod(snapshot, pod, [workload.object]), workload=workload.name)
    if whole:
        yield from _others(snapshot)


def _of_session(snapshot: Snapshot, diagnosis: SessionDiagnosis) -> Iterator[_Subject]:
    chain, namespace = diagnosis.related_objects, diagnosis.namespace
    session = snapshot.find("vdisessions", diagnosis.name, namespace) or {}
    yield _Subject("vdisession", session, chain, diagnosis=diagnosis)
    # A route or a Service has no part in the state of a pod or a claim.
    chain = [name for name in chain if not name.startswith(("ingressroute/", "service/", "secret/"))]
    claims = {diagnosis.home.metadata.name} if diagnosis.home else set()
    for pod in snapshot.pods_by_owner.get(diagnosis.session.metadata.uid, ()):
        yield _of_pod(snapshot, pod, chain)
        claims.update(pod.writes_to)
    for name in sorted(claims):
        if claim := snapshot.find("persistentvolumeclaims", name, namespace):
            yield _Subject("persistentvolumeclaim", claim, chain)


def _of_pod(snapshot: Snapshot, pod: Pod, chain: list[str]) -> _Subject:
    raw = snapshot.find("pods", pod.metadata.name, pod.metadata.namespace) or {}
    return _Subject("pod", raw, [*chain, f"node/{pod.spec.node_name}"], pod)


def _others(snapshot: Snapshot) -> Iterator[_Subject]:
    """Certificates of the routes, and all else that the operator has made."""
    served = hosts_by_certificate(snapshot)
    for raw in snapshot.raw("certificates"):
        namespace, secret = raw["metadata"]["namespace"], (raw.get("spec") or {}).get("secretName", "")
        if (namespace, secret) in served:
            yield _Subject("certificate", raw, [f"secret/{namespace}/{secret}"])
    for kind in ("persistentvolumeclaim", "service", "ingressroute"):
        for raw in snapshot.raw(f"{kind}s"):
            meta = raw["metadata"]
            if (meta.get("labels") or {}).items() >= MANAGED_BY.items():
                owners = [owner["name"] for owner in meta.get("ownerReferences") or () if owner["kind"] == "VDISession"]
                yield _Subject(kind, raw, [f"vdisession/{meta['namespace']}/{owner}" for owner in owners])


def _deletion(snapshot: Snapshot, subject: _Subject) -> Finding | None:
    """A deleted object that stays: its finalizers keep it, or its node does not stop it."""
    # The time of a pod is the end of its grace period.
    age, names = snapshot.age(subject.meta.get("deletionTimestamp")), list(subject.meta.get("finalizers") or ())
    if age < _PATIENCE_SECONDS:
        return None
    whose = {name: _FINALIZERS.get(name, f"the controller of {name.partition('/')[0]} removes it") for name in names}
    foreign, remedy = [name for name in names if name not in _FINALIZERS], None
    if foreign:
        patch = {"metadata": {"finalizers": [name for name in names if name != foreign[0]] or None}}
        remedy = Remedy(
            f"Repair that controller. Only if it is gone permanently, look at the object, then remove {foreign[0]}:",
            (
                subject.kubectl("get") + " --output yaml",
                merge_patch(subject.kind, subject.meta["name"], patch, subject.meta.get("namespace", "")),
            ),
        )
    node = snapshot.nodes.get(subject.pod.spec.node_name) if subject.pod else None
    if foreign or (node and node.ready):
        # This is a cause: the findings of its session follow from it.
        subject = replace(subject, chain=[name for name in subject.chain if name.startswith("node/")])
    kept = ", ".join(f"{name} ({words})" for name, words in whose.items()) or "its node, which has not stopped it"
    evidence = [f"metadata.deletionTimestamp: {subject.meta['deletionTimestamp']}", f"metadata.finalizers: {names}"]
    return subject.finding(
        "deletion_stuck", f"It was deleted {int(age)} s ago and is kept by {kept}.", evidence, remedy
    )


def _condition(snapshot: Snapshot, subject: _Subject) -> Finding | None:
    """Conditions that are False, or True where that is bad, and a claim whose volume is gone."""
    events = _events_of(snapshot, subject)
    bad = (
        []
        if subject.is_resting
        else [one for one in subject.status.get("conditions") or () if _is_bad(snapshot, subject, one)]
    )
    if subject.status.get("phase") == "Lost":
        bad.insert(0, {"type": "Bound", "status": "False", "message": "the volume is gone (phase Lost)"})
    if subject.pod and (unready := _unready(snapshot, subject, subject.pod, events)):
        bad.insert(0, unready)
    lines = [
        f"condition {one['type']} is {one['status']}: "
        + (": ".join(part for part in (one.get("reason"), one.get("message")) if part) or "it gives no reason")
        for one in bad
    ]
    return (
        subject.finding("unexplained_condition", f"Its {lines[0]}", [*map(_quote, lines), *last_warnings(events)])
        if lines
        else None
    )


def _is_bad(snapshot: Snapshot, subject: _Subject, condition: Raw) -> bool:
    kind, reason, since = condition["type"], condition.get("reason", ""), condition.get("lastTransitionTime")
    if kind in _NEUTRAL or reason in _NORMAL or (subject.pod and kind in ("Ready", "PodScheduled")):
        return False
    if condition["status"] != ("True" if _BAD_WHEN_TRUE.search(kind) else "False"):
        return False
    # The conditions of a session that was suspended are False for hours, and stay so while it starts again.
    starting = subject.diagnosis.starting_seconds if subject.diagnosis else None
    ages = [snapshot.age(since) if since else None, starting]
    return reason in _LASTING or all(age >= _PATIENCE_SECONDS for age in ages if age is not None)


def _unready(snapshot: Snapshot, subject: _Subject, pod: Pod, events: list[Event]) -> Raw | None:
    """The condition Ready of a pod, with the words that explain a desktop: its own only name the container."""
    if pod.ready or pod.terminating or pod.gated or pod.status.phase == "Succeeded":
        return None
    condition = pod.condition("Ready")
    age = snapshot.age((condition.last_transition_time if condition else "") or pod.metadata.creation_timestamp)
    # A Deployment has replaced its failed pod long ago; nor is a machine that was switched off a fault.
    if pod.status.phase == "Failed" and (age > _RECENT_SECONDS or pod.status.reason == "Terminated"):
        return None
    words = chart_subject(subject.workload) if subject.workload else DESKTOP
    answer = explain(StartState(pod, None, tuple(events), snapshot.nodes.get(pod.spec.node_name), subject=words))
    over = age >= (_PATIENCE_SECONDS if answer.stuck else _START_SECONDS)
    return {"type": "Ready", "status": "False", "message": answer.sentence} if over else None


def _restart(snapshot: Snapshot, subject: _Subject) -> Finding | None:
    """A container that was killed for its memory, or that failed while it ran, within the hour."""
    for container in subject.status.get("containerStatuses") or () if subject.pod else ():
        ended = (container.get("lastState") or {}).get("terminated") or {}
        name, code, finished = container["name"], ended.get("exitCode", 0), ended.get("finishedAt")
        if not finished or snapshot.age(finished) > _RECENT_SECONDS:
            continue
        words = f"ended with exit code {code}"
        if ended.get("reason") == "OOMKilled":
            words = "used more memory than its limit"
        elif (
            code in (0, _UNKNOWN_EXIT)
            or snapshot.age(ended.get("startedAt")) - snapshot.age(finished) < _RUN_SECONDS
            or _machine_was_off(snapshot, subject.raw["spec"].get("nodeName", ""), finished)
        ):
            continue
        said = str(ended.get("message") or "").strip().splitlines()[-1:]
        return subject.finding(
            "container_restarted",
            f"Its container {name} {words} {int(snapshot.age(finished))} s ago, and was restarted.",
            [f"restartCount: {container.get('restartCount')}, lastState.terminated: {finished}", *map(_quote, said)],
            Remedy.run(
                f"kubectl --namespace {subject.meta['namespace']} logs {subject.meta['name']} -c {name} --previous"
            ),
        )
    return None


def _machine_was_off(snapshot: Snapshot, node: str, ended: str) -> bool:
    """Whether no container of the node has run since before this end."""
    return all(
        status.state.running.started_at > ended
        for pod in snapshot.pods
        if pod.spec.node_name == node
        for status in pod.status.container_statuses
        if status.state.running
    )


def _lost_desktop(snapshot: Snapshot, subject: _Subject) -> Finding | None:
    """A desktop whose pod was lost and replaced, until the new one has shown that it can run."""
    if subject.diagnosis is None or subject.is_resting:
        return None
    session = subject.diagnosis.session
    failures, pod_name = current_failures(session), session.status.pod_name or session.metadata.name
    is_own = failures and failures.reason not in NOT_ITS_FAULT and not is_short_of_room(session)
    # The pod of an eviction is gone. Its Event is about this session if it is younger than the session.
    youngest = min(_EVENT_SECONDS, snapshot.age(session.metadata.creation_timestamp))
    evictions = [
        event
        for event in snapshot.events.get(("Pod", session.metadata.namespace, pod_name), ())
        if event.reason == "Evicted" and snapshot.age(event.seen) <= youngest
    ]
    if not is_own and not evictions:
        return None
    words = evictions[-1].note if evictions else failures.message if failures else ""
    evidence = [f"status.failures: {failures.count}, {failures.reason}" if failures else "", *last_warnings(evictions)]
    return subject.finding("container_restarted", f"Its desktop was lost and started again: {words}", evidence)


def _event(snapshot: Snapshot, subject: _Subject) -> Finding | None:
    """A Warning that came after its object had become ready. Before that, the state of the object speaks."""
    conditions = [one for one in subject.status.get("conditions") or () if one["type"] in ("Ready", "Available")]
    good = [one for one in conditions if one["status"] == "True" or subject.is_resting]
    since = max((one.get("lastTransitionTime") or "" for one in good), default="")
    is_bound = subject.status.get("phase") == "Bound"
    later = [
        event
        for event in _events_of(snapshot, subject)
        if (since and event.seen > since) or (is_bound and not _OF_BINDING.search(event.reason))
    ]
    if not later or (subject.pod and subject.is_resting):
        return None
    newest = max(later, key=lambda event: event.seen)
    return subject.finding(
        "unexplained_event", f"{newest.reason}: {newest.note}", [f"Event of {newest.seen}", *last_warnings(later)]
    )


def _events_of(snapshot: Snapshot, subject: _Subject) -> list[Event]:
    return [
        event
        for event in snapshot.events_of(subject.meta.get("uid", ""))
        if event.reason not in _NORMAL_EVENTS and not PASSING.search(event.note)
        if snapshot.age(event.seen) <= (_MOUNT_SECONDS if "Mount" in event.reason else _EVENT_SECONDS)
    ]


def _quote(text: str) -> str:
    """Words of an object: one line that ends as a sentence does, bounded and printable."""
    line = escape(" ".join(text.split()))
    line = line if len(line) <= _LONGEST_QUOTE else f"{line[: _LONGEST_QUOTE - 3]}..."
    return line if line.endswith((".", ":")) else f"{line}."


CHECKS = (unexplained,)
