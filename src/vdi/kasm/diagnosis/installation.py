"""Kasm in a snapshot: its namespace, generation, workloads and pods, and the targets its init containers wait for.
Pure.

The targets of a chart that is not described are read from the init container's own command line.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from vdi.cluster.explain import PASSING
from vdi.cluster.objects import Event
from vdi.kasm.generations import of_label, of_workloads
from vdi.kasm.generations.model import Component, Generation, InitContainer
from vdi.snapshot.model import Snapshot, once

_VARIABLE = re.compile(r"\$(?:\((\w+)\)|\{(\w+)(?::?-[^}]*)?\}|(\w+))")
_URL = re.compile(r"(https?)://(?:[^\s/@\"']+@)?([\w.-]+)(?::(\d+))?(/[^\s\"'?;)]*)?")
_HOST = re.compile(r"(?:^|\s)(?:-h|--host)[=\s]*\"?([\w.-]+)")
_PORT = re.compile(r"(?:^|\s)(?:-p|--port)[=\s]*\"?(\d+)")
_NC = re.compile(r"\bnc\s+(?:-\w+\s+(?:\d+\s+)?)*([\w.-]+)\s+(\d+)")
_LOOKUP = re.compile(r"\b(?:nslookup|getent\s+hosts)\s+\"?([\w.-]+)")
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "redis": 6379}


@dataclass(frozen=True, slots=True)
class Target:
    scheme: str
    host: str
    port: int
    path: str

    @property
    def is_tables(self) -> bool:
        """Whether it waits for what is in the database, beyond its answer."""
        return self.scheme == "postgresql" and self.path == "/zones"


def read_wait(container: Mapping[str, Any]) -> str:
    """The address that this container waits for; empty where its command line does not say."""
    given = {variable["name"]: str(variable.get("value", "")) for variable in container.get("env") or ()}
    words = [*(container.get("command") or ()), *(container.get("args") or ())]
    text = _VARIABLE.sub(
        lambda match: given.get(next(name for name in match.groups() if name), ""), " ".join(map(str, words))
    )
    return next((found for look in (_database, _redis, _url, _connection, _lookup) if (found := look(text, given))), "")


def parse_wait(address: str) -> Target | None:
    """The address taken apart; None for an empty one."""
    if not address:
        return None
    pods = urlsplit(address)
    return Target(pods.scheme, pods.hostname or "", pods.port or _PORTS.get(pods.scheme, 0), pods.path)


def _after(program: str, text: str) -> str:
    """The rest of the line on which this program is called; empty where it is not."""
    match = re.search(rf"\b{program}\b([^\n;|]*)", text)
    return match[1] if match else ""


def _database(text: str, given: Mapping[str, str]) -> str:
    query = _after("psql", text)
    called = query or _after("pg_isready", text)
    if not called:
        return ""
    host, port = _HOST.search(called), _PORT.search(called)
    name = host[1] if host else given.get("PGHOST") or given.get("POSTGRES_HOST", "")
    number = port[1] if port else given.get("PGPORT") or "5432"
    tables = "/zones" if query and "zones" in text else ""
    return f"postgresql://{name}:{number}{tables}" if name else ""


def _redis(text: str, _: Mapping[str, str]) -> str:
    called = _after("redis-cli", text)
    host, port = _HOST.search(called), _PORT.search(called)
    return f"redis://{host[1]}:{port[1] if port else 6379}" if host else ""


def _url(text: str, _: Mapping[str, str]) -> str:
    match = _URL.search(text)
    if match is None:
        return ""
    scheme, host, port, path = match.groups()
    return f"{scheme}://{host}:{port or _PORTS[scheme]}{path or '/'}"


def _connection(text: str, _: Mapping[str, str]) -> str:
    match = _NC.search(text)
    return f"tcp://{match[1]}:{match[2]}" if match else ""


def _lookup(text: str, _: Mapping[str, str]) -> str:
    match = _LOOKUP.search(text)
    return f"dns://{match[1]}" if match else ""


Raw = dict[str, Any]


@dataclass(frozen=True)
class KasmContainer:
    spec: Raw
    status: Raw
    is_init: bool

    @property
    def name(self) -> str:
        return str(self.spec["name"])

    @property
    def image(self) -> str:
        return str(self.spec.get("image", ""))

    @property
    def target(self) -> Target | None:
        return parse_wait(str(self.spec.get("waitsFor", "")))

    def _state(self, which: str, kind: str) -> Raw | None:
        return (self.status.get(which) or {}).get(kind)

    @property
    def waiting(self) -> tuple[str, str]:
        """Reason and message for which it does not run; both empty where it runs, has ended, or was never mentioned."""
        found = self._state("state", "waiting") or {}
        return str(found.get("reason", "")), str(found.get("message", ""))

    @property
    def running_since(self) -> str:
        """Since when it runs; empty: it does not."""
        return str((self._state("state", "running") or {}).get("startedAt", ""))

    @property
    def ended(self) -> Raw | None:
        """Its last bad end, now or before the last restart."""
        for found in (self._state("state", "terminated"), self._state("lastState", "terminated")):
            if found and (found.get("exitCode") or found.get("reason") == "OOMKilled"):
                return found
        return None

    @property
    def restarts(self) -> int:
        return int(self.status.get("restartCount", 0))

    @property
    def is_done(self) -> bool:
        """An init container that lets the next one begin."""
        if self.spec.get("restartPolicy") == "Always":
            return bool(self.status.get("started"))
        ended = self._state("state", "terminated")
        return ended is not None and not ended.get("exitCode")

    @property
    def is_crashing(self) -> bool:
        """It has ended badly, and does not run now."""
        return self.ended is not None and not self.running_since


@dataclass(frozen=True, eq=False)
class KasmPod:
    raw: Raw
    snapshot: Snapshot

    @property
    def name(self) -> str:
        return str(self.raw["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.raw["metadata"]["namespace"])

    @property
    def object(self) -> str:
        return f"pod/{self.namespace}/{self.name}"

    @property
    def labels(self) -> dict[str, str]:
        return self.raw["metadata"].get("labels") or {}

    @property
    def phase(self) -> str:
        return str(self._status.get("phase", ""))

    @property
    def node(self) -> str:
        return str(self.raw["spec"].get("nodeName", ""))

    @property
    def age(self) -> float:
        return self.snapshot.age(self.raw["metadata"].get("creationTimestamp"))

    @property
    def _status(self) -> Raw:
        return self.raw.get("status") or {}

    def condition(self, kind: str) -> Raw | None:
        return next(
            (condition for condition in self._status.get("conditions") or () if condition["type"] == kind), None
        )

    @property
    def ready(self) -> bool:
        found = self.condition("Ready")
        return found is not None and found["status"] == "True"

    def _boxes(self, spec: str, status: str) -> list[KasmContainer]:
        states = {one["name"]: one for one in self._status.get(status) or ()}
        found = self.raw["spec"].get(spec) or ()
        return [KasmContainer(one, states.get(one["name"], {}), spec == "initContainers") for one in found]

    @cached_property
    def steps(self) -> list[KasmContainer]:
        return self._boxes("initContainers", "initContainerStatuses")

    @cached_property
    def containers(self) -> list[KasmContainer]:
        return self._boxes("containers", "containerStatuses")

    @property
    def done(self) -> int:
        """Number of init containers that have completed: the `x` of `Init:x/y`."""
        return sum(step.is_done for step in self.steps)

    @property
    def step(self) -> KasmContainer | None:
        """The init container that it is at; None: all are done."""
        return next((step for step in self.steps if not step.is_done), None)

    @property
    def state(self) -> str:
        """As `kubectl get pods` names it, as far as it concerns the init containers."""
        if self.step and self.node:
            return f"Init:{self.done}/{len(self.steps)}"
        return self.phase or "Pending"

    @property
    def unready(self) -> list[KasmContainer]:
        """Containers that are not ready: the current init container, or containers of the pod."""
        if self.step:
            return [self.step]
        return [container for container in self.containers if not container.status.get("ready")]

    @property
    def has_begun(self) -> bool:
        """Whether any of its containers has run: then it has its network and its volumes."""
        states = [
            container.status.get(one) or {}
            for container in (*self.steps, *self.containers)
            for one in ("state", "lastState")
        ]
        return any(state.get("running") or state.get("terminated") for state in states)

    @property
    def failing_containers(self) -> Iterator[KasmContainer]:
        for one in () if self.ready else self.unready:
            if one.ended or (one.running_since and not one.is_init):
                yield one

    @property
    def claims(self) -> list[str]:
        sources = (volume.get("persistentVolumeClaim") for volume in self.raw["spec"].get("volumes") or ())
        return [str(source["claimName"]) for source in sources if source]

    @property
    def events(self) -> list[Event]:
        """Warnings about it, the newest last."""
        return sorted(self.snapshot.events_of(self.raw["metadata"].get("uid", "")), key=lambda one: one.seen)

    def newest(self, *reasons: str) -> Event | None:
        """The newest Warning with one of these reasons, but for those that say nothing."""
        matching = [event for event in self.events if event.reason in reasons and not PASSING.search(event.note)]
        return matching[-1] if matching else None

    def log(self, container: KasmContainer, lines: int = 3) -> list[str]:
        found = self.snapshot.logs.get(f"{self.namespace}/{self.name}/{container.name}") or []
        return [line for line in found if line.strip()][-lines:]


CHART = "helm.sh/chart"
INSTANCE = "app.kubernetes.io/instance"
_WORKLOADS = {"deployments": "deployment", "statefulsets": "statefulset"}


def labels_of(found: Mapping[str, Any]) -> dict[str, str]:
    return found["metadata"].get("labels") or {}


def is_kasms(found: Mapping[str, Any]) -> bool:
    """Whether one of Kasm's charts has made it, by its label."""
    return of_label(labels_of(found).get(CHART, "")) is not None


def kasm_namespaces(snapshot: Snapshot) -> tuple[str, ...]:
    """Namespaces of Kasm: the requested one, or those with objects of its charts."""
    if snapshot.scope.kasm:
        return (snapshot.scope.namespace,)
    made = [one for plural in ("pods", *_WORKLOADS) for one in snapshot.raw(plural) if is_kasms(one)]
    return tuple(sorted({one["metadata"]["namespace"] for one in made}))


@dataclass(frozen=True, slots=True)
class Workload:
    """A Deployment or StatefulSet."""

    raw: Raw
    kind: str

    @property
    def name(self) -> str:
        return str(self.raw["metadata"]["name"])

    @property
    def object(self) -> str:
        return f"{self.kind}/{self.raw['metadata']['namespace']}/{self.name}"

    @property
    def desired(self) -> int:
        return int(self.raw["spec"].get("replicas", 1))

    @property
    def pod_labels(self) -> dict[str, str]:
        found: dict[str, str] = (self.raw["spec"]["template"].get("metadata") or {}).get("labels") or {}
        return found

    @property
    def selector(self) -> dict[str, str]:
        found: dict[str, str] = (self.raw["spec"].get("selector") or {}).get("matchLabels") or {}
        return found


@dataclass(frozen=True)
class Installation:
    """Kasm in one namespace."""

    snapshot: Snapshot
    namespace: str

    def _all(self, plural: str) -> list[Raw]:
        return [one for one in self.snapshot.raw(plural) if one["metadata"].get("namespace") == self.namespace]

    def _here(self, plural: str) -> list[Raw]:
        """Kasm's own, where charts are labelled; all of the namespace, where the chart is not known."""
        found = self._all(plural)
        return [one for one in found if is_kasms(one)] if self.is_labelled else found

    @cached_property
    def is_labelled(self) -> bool:
        """Whether a label says what is Kasm's."""
        return any(is_kasms(one) for plural in ("pods", *_WORKLOADS) for one in self._all(plural))

    @cached_property
    def pods(self) -> list[KasmPod]:
        """Its pods that are not leaving and have not ended, by name."""
        kept = [one for one in self._here("pods") if not one["metadata"].get("deletionTimestamp")]
        live = [
            pod for pod in (KasmPod(one, self.snapshot) for one in kept) if pod.phase not in ("Succeeded", "Failed")
        ]
        return sorted(live, key=lambda one: one.name)

    @cached_property
    def workloads(self) -> list[Workload]:
        return [Workload(one, kind) for plural, kind in _WORKLOADS.items() for one in self._here(plural)]

    @cached_property
    def services(self) -> dict[str, Raw]:
        """All Services of the namespace, by name: names are looked up among all of them."""
        return {str(one["metadata"]["name"]): one for one in self._all("services")}

    @cached_property
    def own_services(self) -> list[Raw]:
        return [one for one in self._here("services") if one["spec"].get("selector")]

    @cached_property
    def jobs(self) -> list[Raw]:
        return self._here("jobs")

    @cached_property
    def chart(self) -> str:
        """Chart of most of its objects, such as `kasm-1.1181.0`; empty where no label says so."""
        found = [*(workload.raw for workload in self.workloads), *self._here("pods")]
        counts = Counter(label for one in found if (label := labels_of(one).get(CHART)))
        return counts.most_common(1)[0][0] if counts else ""

    @cached_property
    def release(self) -> str:
        """The Helm release; `RELEASE` where no label says so."""
        names = [labels_of(workload.raw).get(INSTANCE, "") for workload in self.workloads]
        return next((name for name in names if name), "RELEASE")

    @cached_property
    def generation(self) -> Generation | None:
        """Its generation of the chart; None for an unknown one."""
        return of_label(self.chart) or of_workloads(workload.name for workload in self.workloads)

    def step_of(self, pod: KasmPod, container: str) -> tuple[Component, InitContainer] | None:
        """Description of an init container by its name; None where the chart is not known, or has none such."""
        component = self.generation.component_of(pod.labels) if self.generation else None
        step = component.step(container) if component else None
        return (component, step) if component and step else None

    def pods_selected_by(self, selector: Mapping[str, str]) -> list[KasmPod]:
        return [pod for pod in self.pods if selector.items() <= pod.labels.items()]

    def workloads_selected_by(self, selector: Mapping[str, str]) -> list[Workload]:
        return [workload for workload in self.workloads if selector.items() <= workload.pod_labels.items()]

    def endpoints(self, service: str) -> tuple[int, int]:
        """Number of pods behind a Service, and of the ready ones."""
        slices = [
            each for each in self._all("endpointslices") if labels_of(each).get("kubernetes.io/service-name") == service
        ]
        found = [endpoint for each in slices for endpoint in each.get("endpoints") or ()]
        return len(found), sum((one.get("conditions") or {}).get("ready", True) is not False for one in found)


@once
def find_kasm(snapshot: Snapshot) -> tuple[Installation, ...]:
    return tuple(Installation(snapshot, namespace) for namespace in kasm_namespaces(snapshot))


_LOGGED = 12


def containers_to_log(snapshot: Snapshot) -> Iterator[tuple[str, str, str]]:
    """Namespace, pod and container of those whose last words say why: they have ended, or run and are not ready."""
    found = [
        (kasm.namespace, pod.name, container.name)
        for kasm in find_kasm(snapshot)
        for pod in kasm.pods
        for container in pod.failing_containers
    ]
    yield from found[:_LOGGED]
