"""Components of a release as their workloads show them: operator, gateway, Traefik, TURN server. Pure.

Checks, probes and `vdi.release` find them here. Traefik may run outside the cluster, so its absence is no fault.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from vdi.cluster.explain import StartState, chart_subject, explain
from vdi.cluster.objects import Event, Pod
from vdi.diagnosis.snapshot import Raw, Snapshot
from vdi.session.cluster_settings import ClusterSettings
from vdi.settings import SettingsError, read_settings


@dataclass(frozen=True)
class Workload:
    """One Deployment or DaemonSet."""

    # `deployment` or `daemonset`.
    kind: str

    raw: Raw

    @property
    def namespace(self) -> str:
        """Where it runs."""
        return str(self.raw["metadata"]["namespace"])

    @property
    def name(self) -> str:
        """Its own name."""
        return str(self.raw["metadata"]["name"])

    @property
    def object(self) -> str:
        """As findings name it."""
        return f"{self.kind}/{self.namespace}/{self.name}"

    @property
    def upgrade(self) -> str:
        """The command that renders its release again, whichever Helm is there."""
        release = (self.raw["metadata"].get("annotations") or {}).get("meta.helm.sh/release-name", "vdi")
        named = f" --release {release}" if release != "vdi" else ""
        return f"vdi upgrade --namespace {self.namespace}{named}"

    @property
    def ready(self) -> int:
        """How many replicas answer."""
        status = self.raw.get("status") or {}
        return int(status.get("readyReplicas") or status.get("numberReady") or 0)

    @property
    def desired(self) -> int:
        """How many there should be."""
        if self.kind == "daemonset":
            return int((self.raw.get("status") or {}).get("desiredNumberScheduled") or 0)
        return int(self.raw["spec"].get("replicas", 1))


def workloads(snapshot: Snapshot) -> Iterator[Workload]:
    """All Deployments, then all DaemonSets."""
    for kind in ("deployment", "daemonset"):
        for raw in snapshot.raw(f"{kind}s"):
            yield Workload(kind, raw)


def find_turn_servers(snapshot: Snapshot) -> list[Workload]:
    """The chart's own TURN servers, by their label."""
    return [
        workload
        for workload in workloads(snapshot)
        if (workload.raw["metadata"].get("labels") or {}).get("app.kubernetes.io/name") == "coturn"
    ]


def last_warnings(events: Iterable[Event]) -> list[str]:
    """The two newest that say something, whole; `Error: ImagePullBackOff` and its like repeat the state only."""
    telling = [event for event in events if event.note and not event.note.startswith("Error: ")]
    newest = sorted(telling, key=lambda event: event.seen)[-2:]
    return [f"{event.reason}: {' '.join(event.note.split())}" for event in newest]


@dataclass(frozen=True)
class Deployment(Workload):
    """One Deployment of ours."""

    # The sessions' namespaces, as `VDI_NAMESPACE` has them.
    watches: tuple[str, ...]


def find_deployments(snapshot: Snapshot, container: str, variable: str) -> Iterator[tuple[Raw, dict[str, str]]]:
    """Those with a container of this name that has this variable of ours, with its whole environment."""
    for raw in snapshot.raw("deployments"):
        for one in raw["spec"]["template"]["spec"]["containers"]:
            environment = {variable["name"]: variable.get("value", "") for variable in one.get("env") or ()}
            if one["name"] == container and variable in environment:
                yield raw, environment


def pods_of(snapshot: Snapshot, deployment: Deployment) -> list[Pod]:
    """Its pods that are not leaving, by its selector."""
    labels = (deployment.raw["spec"].get("selector") or {}).get("matchLabels") or {}
    return [
        pod
        for pod in snapshot.pods
        if labels
        and pod.metadata.namespace == deployment.namespace
        and labels.items() <= dict(pod.metadata.labels).items()
        and not pod.terminating
    ]


def explain_pod(snapshot: Snapshot, pod: Pod, component: str) -> str:
    """Why a pod of the release is not ready, as a clause. `component`: `operator` or `gateway`."""
    node = snapshot.nodes.get(pod.spec.node_name)
    events = snapshot.events.get(("Pod", pod.metadata.namespace, pod.metadata.name), [])
    return explain(StartState(pod, None, tuple(events), node, subject=chart_subject(component))).sentence.rstrip(".")


def pod_evidence(snapshot: Snapshot, pod: Pod, words: str) -> list[str]:
    """What shows that a pod of the release is not ready: its state, and what kubelet and runtime wrote, as they did."""
    container = pod.desktop
    waiting, ended = (container.state.waiting, container.last_state.terminated) if container else (None, None)
    raw = (waiting.message if waiting else "") or (ended.message if ended and ended.reason == "StartError" else "")
    events = snapshot.events.get(("Pod", pod.metadata.namespace, pod.metadata.name), ())
    log = snapshot.logs.get(f"{pod.metadata.namespace}/{pod.metadata.name}") or []
    return [
        f"pod/{pod.metadata.name}: {pod.status.phase}, {words}",
        *([" ".join(raw.split())] if raw else []),
        *last_warnings(events),
        *(f"log: {line}" for line in log[-3:]),
    ]


def unavailable_for(snapshot: Snapshot, deployment: Deployment) -> float:
    """Seconds for which too few of its replicas have answered, by its own condition; since it was made, without one."""
    conditions = (deployment.raw.get("status") or {}).get("conditions") or ()
    said: Raw = next(
        (condition for condition in conditions if condition["type"] == "Available" and condition["status"] == "False"),
        {},
    )
    return snapshot.age(said.get("lastTransitionTime") or deployment.raw["metadata"]["creationTimestamp"])


LEASE = "vdi-operator"
# Seconds without a renewal after which no one leads: renewals come every 2, others take over after 10.
STALE_SECONDS = 30.0

# Seconds that a Lease which was given back may have no holder: the next one looks every second.
HANDOVER_SECONDS = 10.0


@dataclass(frozen=True)
class Operator(Deployment):
    """One Deployment of the operator."""

    settings: ClusterSettings
    # Why its settings cannot be used; empty: they can.
    problem: str
    counts_others: bool = True
    # Whether it asks an autoscaler for nodes.
    requests_nodes: bool = False

    @property
    def lease_namespace(self) -> str:
        """Where its Lease is."""
        return self.watches[0]

    @property
    def account(self) -> str:
        """Its ServiceAccount."""
        return str(self.raw["spec"]["template"]["spec"].get("serviceAccountName") or "default")


@lru_cache(maxsize=2)
def find_operators(snapshot: Snapshot) -> tuple[Operator, ...]:
    """Deployments with an operator's container, found by a variable of ours."""
    return tuple(
        _operator(raw, environment) for raw, environment in find_deployments(snapshot, "operator", "VDI_NAMESPACE")
    )


def operators_in_scope(snapshot: Snapshot) -> list[Operator]:
    """Those that watch what was asked about; all, where none does."""
    scope, found = snapshot.scope.namespace, find_operators(snapshot)
    return [one for one in found if scope in ("", *one.watches)] or list(found)


def _operator(raw: Raw, environment: dict[str, str]) -> Operator:
    try:
        settings = read_settings(environment)
    except SettingsError as error:
        watches = tuple(environment["VDI_NAMESPACE"].split(","))
        return Operator("deployment", raw, watches, ClusterSettings(), str(error))
    return Operator(
        "deployment",
        raw,
        settings.namespaces,
        settings.cluster,
        "",
        settings.count_other_workloads,
        settings.autoscaling.enabled,
    )


def operator_for(snapshot: Snapshot, namespace: str) -> Operator | None:
    """Whose sessions these are."""
    return next((operator for operator in find_operators(snapshot) if namespace in operator.watches), None)


def settings_for(snapshot: Snapshot, namespace: str) -> ClusterSettings:
    """The settings of this namespace's operator; the defaults where its Deployment is not seen."""
    operator = operator_for(snapshot, namespace)
    return operator.settings if operator else ClusterSettings()


def sick_pods(snapshot: Snapshot, operator: Operator) -> list[Pod]:
    """Those of its pods that run and are not ready."""
    return [pod for pod in pods_of(snapshot, operator) if not pod.ready and pod.status.phase == "Running"]


def lease_namespace(snapshot: Snapshot, namespace: str) -> str:
    """Where the Lease of this namespace's operator is; without a Deployment of it, there."""
    operator = operator_for(snapshot, namespace)
    return operator.lease_namespace if operator else namespace


def lease_of(snapshot: Snapshot, namespace: str) -> dict[str, Any] | None:
    """The Lease by which one of several operators leads that work in this namespace."""
    return snapshot.find("leases", LEASE, lease_namespace(snapshot, namespace))


def is_led(snapshot: Snapshot, namespace: str) -> bool:
    """Whether somebody works on the sessions there, or did a moment ago.

    While one replica hands over to another, the Lease has no holder.
    """
    spec = (lease_of(snapshot, namespace) or {}).get("spec") or {}
    renewed = spec.get("renewTime")
    return bool(renewed) and snapshot.age(renewed) < (STALE_SECONDS if spec.get("holderIdentity") else HANDOVER_SECONDS)


_TROUBLE = re.compile(r"(?:trouble: |waiting for the )(?P<what>[a-z0-9 .-]+): (?P<why>.+)")
_OVER = re.compile(r"no trouble any more: (?P<what>.+)")
_HISTORY = re.compile(r"history(?: is not written\b.*?|: .+? is put off for \d+ s): (?P<why>.+)")
_HISTORY_AGAIN = "history is written again"
_BEGUN = re.compile(r"serving https://")
_ENDED = re.compile(r"VDI_[A-Z_]+: .+|Error: .+|ended by a fault of its own.*")


@dataclass(frozen=True)
class Gateway(Deployment):
    """One Deployment of the gateway."""


@lru_cache(maxsize=2)
def find_gateways(snapshot: Snapshot) -> tuple[Gateway, ...]:
    """Deployments with a gateway's container, found by a variable of ours."""
    found = find_deployments(snapshot, "gateway", "VDI_GATEWAY_NAMESPACE")
    return tuple(
        Gateway("deployment", raw, tuple(environment.get("VDI_NAMESPACE", "").split(","))) for raw, environment in found
    )


def gateways_in_scope(snapshot: Snapshot) -> list[Gateway]:
    """Those for the sessions that were asked about."""
    return [
        gateway
        for gateway in find_gateways(snapshot)
        if snapshot.scope.namespace in ("", *gateway.watches, gateway.namespace)
    ]


def troubles(lines: list[str]) -> Iterator[tuple[str, str]]:
    """What a gateway lacks, and why, as the end of its log says: each once, as it was said last.

    It says so again every minute while it lasts, and that it is over.
    """
    said: dict[str, str] = {}
    for line in lines:
        words = _message_of(line)
        if _BEGUN.search(words):
            said.clear()
        elif over := _OVER.search(words):
            said.pop(over["what"], None)
        elif _HISTORY_AGAIN in words:
            said.pop("history", None)
        elif match := _HISTORY.search(words):
            said["history"] = match["why"]
        elif match := _TROUBLE.search(words):
            said[match["what"]] = match["why"]
    yield from said.items()


def last_words(lines: list[str]) -> str:
    """Why it has ended, as its log says; empty: it does not."""
    return next((match[0] for line in reversed(lines) if (match := _ENDED.search(_message_of(line)))), "")


def _message_of(line: str) -> str:
    """A line's message: it ends with the quotation mark of `msg="..."`, or with that and the rest of a JSON object."""
    return re.sub(r'"(, "error": .*)?\}?$', "", line)


_ENTRY_POINT = "--entrypoints."
_PROVIDER = "--providers.kubernetescrd"
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_UNIT_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@dataclass(frozen=True)
class Traefik(Workload):
    """One workload that runs Traefik, and what its arguments say. A file may say more."""

    args: tuple[str, ...]

    @property
    def entry_points(self) -> frozenset[str]:
        """Names of its entry points; empty: its arguments do not say."""
        return frozenset(arg.removeprefix(_ENTRY_POINT).split(".")[0] for arg in self._named(_ENTRY_POINT))

    @property
    def namespaces(self) -> frozenset[str]:
        """The namespaces whose routes it sees; empty: all."""
        lists = [arg.partition("=")[2] for arg in self._named(f"{_PROVIDER}.namespaces=")]
        return frozenset(name for names in lists for name in names.split(",") if name)

    @property
    def crosses_namespaces(self) -> bool:
        """Whether routes may name what is in another namespace."""
        return any(arg.partition("=")[2] in ("", "true") for arg in self._named(f"{_PROVIDER}.allowcrossnamespace"))

    @property
    def timeouts(self) -> dict[str, float]:
        """Timeouts of its entry points: argument -> seconds; 0: none. Defaults are not among them."""
        found = {}
        for arg in self.args:
            name, _, value = arg.partition("=")
            if ".transport.respondingtimeouts." in name.lower() and (seconds := read_go_duration(value)) is not None:
                found[arg] = seconds
        return found

    def _named(self, prefix: str) -> list[str]:
        # Traefik takes its options in any spelling; their values are the only part where capitals count.
        spelt = [f"{name.lower()}{sign}{value}" for name, sign, value in (arg.partition("=") for arg in self.args)]
        return [one for one in spelt if one.startswith(prefix)]


def read_go_duration(text: str) -> float | None:
    """Seconds of a duration as Traefik reads it: `1m30s`, `500ms`, or digits alone; None: it is not a duration."""
    if text.isdigit():
        return float(text)
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)


@lru_cache(maxsize=2)
def find_traefiks(snapshot: Snapshot) -> tuple[Traefik, ...]:
    """Workloads with Traefik's image."""
    found = []
    for workload in workloads(snapshot):
        for container in workload.raw["spec"]["template"]["spec"]["containers"]:
            name = PurePosixPath(str(container.get("image", ""))).name.partition(":")[0].partition("@")[0]
            if name in ("traefik", "mirrored-library-traefik"):
                found.append(Traefik(workload.kind, workload.raw, tuple(container.get("args") or ())))
    return tuple(found)
