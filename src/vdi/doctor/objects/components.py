"""Components of a release as their workloads show them: operator, gateway, Traefik, TURN server.
Pure.

Checks, probes and `vdi.release` find them here. Traefik may run outside the cluster, so its absence
is no fault.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath

from vdi.cluster.explain import StartState, chart_subject, explain
from vdi.cluster.objects import Event
from vdi.cluster.units import parse_time
from vdi.findings.model import Remedy
from vdi.session.cluster_settings import ClusterSettings
from vdi.settings import SettingsError, read_settings
from vdi.snapshot.model import Snapshot, once
from vdi.snapshot.objects.meta import Lease, LeaseSpec
from vdi.snapshot.objects.workloads import FileSource, Pod, WorkloadObject, WorkloadPodSpec

LEASE = "vdi-operator"
# Seconds without a renewal after which no replica leads: renewals come every 2, another one takes
# over after 10.
STALE_SECONDS = 30.0
# Seconds that a Lease which was given back may have no holder: the next replica looks every second.
HANDOVER_SECONDS = 10.0

# Operator and gateway repeat each trouble in their logs every minute while it lasts, and report its
# end.
_TROUBLE = re.compile(r"(?:trouble: |waiting for the )(?P<what>[a-z0-9 .-]+): (?P<why>.+)")
_OVER = re.compile(r"no trouble any more: (?P<what>.+)")
_HISTORY = re.compile(r"history(?: is not written\b.*?|: .+? is put off for \d+ s): (?P<why>.+)")
_HISTORY_AGAIN = "history is written again"
_BEGUN = re.compile(r"serving https://")
_ENDED = re.compile(
    r"VDI_[A-Z_]+: .+|Error: .+|ended by a fault of its own.*|no response from the API server .+"
)

# A line of the operator about an object that it tries again: the error lasts.
_RETRY = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\dT[\d:.]+)\S* .*: again in (?P<delay>[\d.]+) s: (?P<why>.+)"
)
# Pauses between attempts grow from fractions of a second: this one follows several errors.
_LONG_PAUSE_SECONDS = 4.0
# Time of an attempt.
_ATTEMPT_SECONDS = 10.0

# Kinds with which `Component` explains the state of its workload.
OF_WORKLOADS = ("nodes", "events", "networkpolicies", "pods", "pods/log")

_ENTRY_POINT = "--entrypoints."
_PROVIDER = "--providers.kubernetescrd"
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_UNIT_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@dataclass(frozen=True)
class Workload:
    """A Deployment, DaemonSet or StatefulSet. `kind`: its name in findings, such as
    `deployment`.
    """

    kind: str
    raw: WorkloadObject

    @property
    def namespace(self) -> str:
        return self.raw.metadata.namespace

    @property
    def name(self) -> str:
        return self.raw.metadata.name

    @property
    def object(self) -> str:
        """Its name in findings: `deployment/kasm/vdi-operator`."""
        return f"{self.kind}/{self.namespace}/{self.name}"

    @property
    def kubectl(self) -> str:
        """kubectl in its namespace, for commands of remedies."""
        return f"kubectl --namespace {self.namespace}"

    @property
    def release(self) -> str:
        """Name of its Helm release; empty: none made it."""
        return self.raw.metadata.annotations.get("meta.helm.sh/release-name", "")

    @property
    def component(self) -> str:
        """Its part of the release, by its label: `operator`, `gateway`."""
        return self.raw.metadata.labels.get("app.kubernetes.io/component", "")

    @property
    def upgrade(self) -> str:
        """The command that renders its release again, with Helm 3 or 4."""
        named = ""
        if self.release not in ("", "vdi"):
            named = f" --release {self.release}"
        return f"vdi upgrade --namespace {self.namespace}{named}"

    @property
    def pod_spec(self) -> WorkloadPodSpec:
        return self.raw.spec.template.spec

    @property
    def pod_labels(self) -> dict[str, str]:
        return self.raw.spec.template.metadata.labels

    @property
    def created(self) -> str:
        return self.raw.metadata.creation_timestamp

    @property
    def ready(self) -> int:
        """Number of replicas that are ready."""
        return self.raw.status.ready_replicas or self.raw.status.number_ready

    @property
    def desired(self) -> int:
        """Number of replicas that there should be."""
        if self.kind == "daemonset":
            return self.raw.status.desired_number_scheduled
        return self.raw.spec.replicas

    def scale_up(self, replicas: int = 1) -> Remedy:
        """Remedy for a Deployment that was scaled to 0."""
        return Remedy(
            "Scale it up again.",
            (f"{self.kubectl} scale deployment {self.name} --replicas {replicas}",),
        )

    def secret_of_volume(self, name: str) -> FileSource | None:
        """The `secret` of its pods' volume of this name."""
        return next(
            (volume.secret for volume in self.pod_spec.volumes if volume.name == name), None
        )

    def secret_keys(self) -> Iterator[tuple[str, str, str]]:
        """Variable, Secret and key, for each variable of its containers that a Secret has."""
        for container in self.pod_spec.containers:
            for variable in container.env:
                if variable.value_from and (source := variable.value_from.secret_key_ref):
                    yield variable.name, source.name, source.key


def workloads(snapshot: Snapshot) -> Iterator[Workload]:
    """All Deployments, DaemonSets and StatefulSets."""
    for kind in ("deployment", "daemonset", "statefulset"):
        for raw in snapshot.of_kind(f"{kind}s"):
            yield Workload(kind, raw)


def find_servers(snapshot: Snapshot, name: str) -> list[Workload]:
    """The chart's own servers of this name: coturn, postgresql, redis."""
    return [
        workload
        for workload in workloads(snapshot)
        if workload.raw.metadata.labels.get("app.kubernetes.io/name") == name
    ]


def last_warnings(events: Iterable[Event]) -> list[str]:
    """The two newest Events as evidence. `Error: ImagePullBackOff` and the like only repeat the
    state.
    """
    telling = [event for event in events if event.note and not event.note.startswith("Error: ")]
    newest = sorted(telling, key=lambda event: event.seen)[-2:]
    return [f"{event.reason}: {' '.join(event.note.split())}" for event in newest]


@dataclass(frozen=True)
class Component(Workload):
    """A Deployment of the chart that serves namespaces of sessions. `watches`: those in its
    VDI_NAMESPACE.
    """

    watches: tuple[str, ...]

    def pods(self, snapshot: Snapshot) -> list[Pod]:
        """Its pods that are not being deleted."""
        return [pod for pod in snapshot.pods_of(self.raw) if not pod.terminating]

    def depends_on(self, snapshot: Snapshot) -> list[str]:
        """Objects whose findings may explain that it does not work."""
        policies = (policy.metadata for policy in snapshot.objects.networkpolicies)
        here = []
        for meta in policies:
            if self.namespace == meta.namespace:
                here.append(f"networkpolicy/{self.namespace}/{meta.name}")
        return [self.object, *snapshot.nodes_of(self.raw), *here]

    def explain_down(self, snapshot: Snapshot) -> tuple[str, list[str]]:
        """A clause that says why no replica is ready, and its evidence in the words of kubelet,
        runtime and log.
        """
        subject = chart_subject(type(self).__name__.lower())
        why_down = "it is scaled to 0" if self.desired == 0 else ""
        evidence = [f"status.readyReplicas: {self.ready} of {self.desired}"]
        for pod in self.pods(snapshot):
            events, log = snapshot.events_of(pod.metadata.uid), snapshot.log_of(pod)
            node = snapshot.nodes.get(pod.spec.node_name)
            why = explain(
                StartState(pod, None, tuple(events), node, subject=subject)
            ).sentence.rstrip(".")
            waiting = pod.desktop.state.waiting if pod.desktop else None
            last = pod.desktop.last_state.terminated if pod.desktop else None
            raw = (waiting.message if waiting else "") or (
                last.message if last and last.reason == "StartError" else ""
            )
            evidence += [
                f"pod/{pod.metadata.name}: {pod.status.phase}, {why}",
                " ".join(raw.split()),
            ]
            evidence += [*last_warnings(events), *(f"log: {line}" for line in log[-3:])]
            why_down = why_down or last_words(log) or why
        failures = (one for one in self.raw.status.conditions if one.type == "ReplicaFailure")
        evidence += [f"{condition.type}: {condition.message}" for condition in failures]
        return why_down or "it has no pods", evidence


def _find_components(
    deployments: Iterable[WorkloadObject], container: str, variable: str
) -> Iterator[tuple[WorkloadObject, dict[str, str]]]:
    """Deployments with a container of this name and this variable of the chart, with its
    environment.
    """
    for deployment in deployments:
        for one in deployment.spec.template.spec.containers:
            environment = {variable.name: variable.value for variable in one.env}
            if one.name == container and variable in environment:
                yield deployment, environment


@dataclass(frozen=True)
class Operator(Component):
    """A Deployment of the operator. `problem`: why its settings cannot be used; empty when they
    can.
    """

    settings: ClusterSettings
    problem: str
    # Whether it requests nodes from an autoscaler.
    requests_nodes: bool = False

    @property
    def lease_namespace(self) -> str:
        return self.watches[0]

    @property
    def account(self) -> str:
        return self.pod_spec.service_account_name or "default"


@once
def find_operators(snapshot: Snapshot) -> tuple[Operator, ...]:
    """All operators of the cluster."""
    return operators_among(snapshot.objects.deployments)


def operators_among(deployments: Iterable[WorkloadObject]) -> tuple[Operator, ...]:
    operators = []
    for raw, environment in _find_components(deployments, "operator", "VDI_NAMESPACE"):
        try:
            read = read_settings(environment)
        except SettingsError as error:
            watches = tuple(environment["VDI_NAMESPACE"].split(","))
            operators.append(Operator("deployment", raw, watches, ClusterSettings(), str(error)))
        else:
            requests = read.autoscaling.enabled
            operators.append(
                Operator("deployment", raw, read.namespaces, read.cluster, "", requests)
            )
    return tuple(operators)


def operators_in_scope(snapshot: Snapshot) -> list[Operator]:
    """Operators that watch the requested namespace; all, where none does."""
    scope, operators = snapshot.scope.namespace, find_operators(snapshot)
    return [operator for operator in operators if scope in ("", *operator.watches)] or list(
        operators
    )


def operator_for(snapshot: Snapshot, namespace: str) -> Operator | None:
    """The operator that watches this namespace."""
    return next(
        (operator for operator in find_operators(snapshot) if namespace in operator.watches), None
    )


def settings_for(snapshot: Snapshot, namespace: str) -> ClusterSettings:
    """Settings of this namespace's operator; the defaults where its Deployment is not seen."""
    operator = operator_for(snapshot, namespace)
    if operator:
        return operator.settings
    return ClusterSettings()


def lease_namespace(snapshot: Snapshot, namespace: str) -> str:
    """Namespace of the Lease by which an operator of this namespace leads; itself, without a
    Deployment.
    """
    operator = operator_for(snapshot, namespace)
    if operator:
        return operator.lease_namespace
    return namespace


def read_lease(snapshot: Snapshot, namespace: str) -> LeaseSpec | None:
    """`spec` of that Lease, if there is one."""
    lease: Lease | None = snapshot.find("leases", LEASE, lease_namespace(snapshot, namespace))
    return lease.spec if lease else None


def is_led(snapshot: Snapshot, namespace: str) -> bool:
    """Whether an operator leads there, or did a moment ago: during a handover the Lease has no
    holder.
    """
    spec = read_lease(snapshot, namespace)
    if spec is None or not spec.renew_time:
        return False
    return snapshot.age(spec.renew_time) < (
        STALE_SECONDS if spec.holder_identity else HANDOVER_SECONDS
    )


@dataclass(frozen=True)
class Gateway(Component):
    """A Deployment of the gateway."""

    def unavailable_for(self, snapshot: Snapshot) -> float:
        """Seconds since too few replicas are ready, by its condition Available; without it, since
        its creation.
        """
        conditions = self.raw.status.conditions
        since = (
            one.last_transition_time
            for one in conditions
            if (one.type, one.status) == ("Available", "False")
        )
        return snapshot.age(next(since, "") or self.created)


@once
def find_gateways(snapshot: Snapshot) -> tuple[Gateway, ...]:
    found = _find_components(snapshot.objects.deployments, "gateway", "VDI_GATEWAY_NAMESPACE")
    return tuple(
        Gateway("deployment", raw, tuple(environment.get("VDI_NAMESPACE", "").split(",")))
        for raw, environment in found
    )


def gateways_in_scope(snapshot: Snapshot) -> list[Gateway]:
    """Gateways of the requested sessions."""
    scope = snapshot.scope.namespace
    return [
        gateway
        for gateway in find_gateways(snapshot)
        if scope in ("", *gateway.watches, gateway.namespace)
    ]


def troubles(lines: list[str]) -> dict[str, str]:
    """Dependency that a gateway lacks -> latest reason, from the end of its log, without those that
    it has again.
    """
    lacking: dict[str, str] = {}
    for line in lines:
        message = _message_of(line)
        if _BEGUN.search(message):
            lacking.clear()
        elif over := _OVER.search(message):
            lacking.pop(over["what"], None)
        elif _HISTORY_AGAIN in message:
            lacking.pop("history", None)
        elif match := _HISTORY.search(message):
            lacking["history"] = match["why"]
        elif match := _TROUBLE.search(message):
            lacking[match["what"]] = match["why"]
    return lacking


def lasting_errors(lines: list[str], now: datetime) -> dict[str, str]:
    """Errors for which the operator tries again and again, each with its last line."""
    errors: dict[str, str] = {}
    for line in lines:
        retry = _RETRY.search(line)
        if retry is None:
            continue
        age, pause = (now - parse_time(f"{retry['time']}Z")).total_seconds(), float(retry["delay"])
        # After a success there is no further line.
        if pause >= _LONG_PAUSE_SECONDS and age <= pause + _ATTEMPT_SECONDS:
            errors[_message_of(retry["why"]).replace('\\"', '"')] = line
    return errors


def last_words(lines: list[str]) -> str:
    """The line of a log that says why the gateway has ended; empty: none does."""
    return next(
        (match[0] for line in reversed(lines) if (match := _ENDED.search(_message_of(line)))), ""
    )


def _message_of(line: str) -> str:
    # A message ends with the quotation mark of `msg="..."`, or with that and the rest of a JSON
    # object.
    return re.sub(r'"(, "error": .*)?\}?$', "", line)


@dataclass(frozen=True)
class Traefik(Workload):
    """A workload that runs Traefik, as its arguments configure it. Options in a file are not
    seen.
    """

    args: tuple[str, ...]

    @property
    def entry_points(self) -> frozenset[str]:
        """Names of its entry points; empty: the arguments name none."""
        return frozenset(
            arg.removeprefix(_ENTRY_POINT).split(".")[0] for arg in self._named(_ENTRY_POINT)
        )

    @property
    def namespaces(self) -> frozenset[str]:
        """The namespaces whose routes it sees; empty: all."""
        lists = [arg.partition("=")[2] for arg in self._named(f"{_PROVIDER}.namespaces=")]
        return frozenset(name for names in lists for name in names.split(",") if name)

    def watches(self, namespace: str) -> bool:
        return not self.namespaces or namespace in self.namespaces

    @property
    def crosses_namespaces(self) -> bool:
        """Whether routes may name objects of another namespace."""
        return any(
            arg.partition("=")[2] in ("", "true")
            for arg in self._named(f"{_PROVIDER}.allowcrossnamespace")
        )

    @property
    def timeouts(self) -> dict[str, float]:
        """Timeouts of its entry points: argument -> seconds; 0: none. Defaults are not among
        them.
        """
        seconds_by_arg = {}
        for arg in self.args:
            name, _, value = arg.partition("=")
            if (
                ".transport.respondingtimeouts." in name.lower()
                and (seconds := read_go_duration(value)) is not None
            ):
                seconds_by_arg[arg] = seconds
        return seconds_by_arg

    def _named(self, prefix: str) -> list[str]:
        # Traefik's options are case-insensitive, their values are not.
        spelt = [
            f"{name.lower()}{sign}{value}"
            for name, sign, value in (arg.partition("=") for arg in self.args)
        ]
        return [one for one in spelt if one.startswith(prefix)]


def read_go_duration(text: str) -> float | None:
    """Seconds of a duration as Traefik reads it: `1m30s`, `500ms`, or digits alone; None: it is not
    a duration.
    """
    if text.isdigit():
        return float(text)
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)


@once
def find_traefiks(snapshot: Snapshot) -> tuple[Traefik, ...]:
    return traefiks_among(workloads(snapshot))


def traefiks_among(workloads: Iterable[Workload]) -> tuple[Traefik, ...]:
    traefiks = []
    for workload in workloads:
        for container in workload.pod_spec.containers:
            name = PurePosixPath(container.image).name.partition(":")[0].partition("@")[0]
            if name in ("traefik", "mirrored-library-traefik"):
                traefiks.append(Traefik(workload.kind, workload.raw, container.args))
    return tuple(traefiks)


def release_workloads(snapshot: Snapshot) -> list[Workload]:
    """Operators, gateways, Traefik and TURN servers in the scope, and all else that their Helm
    releases have made.
    """
    ours: list[Workload] = [*operators_in_scope(snapshot), *gateways_in_scope(snapshot)]
    releases = {(workload.namespace, workload.release) for workload in ours if workload.release}
    beside = []
    for workload in workloads(snapshot):
        if (workload.namespace, workload.release) in releases:
            beside.append(workload)
    return [*ours, *find_traefiks(snapshot), *find_servers(snapshot, "coturn"), *beside]
