"""Kasm in a snapshot: its namespace, generation, workloads and pods, and the targets its init
containers wait for. Pure.

The targets of a chart that is not described are read from the init container's own command line.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar

from vdi.cluster.explain import PASSING
from vdi.cluster.objects import ContainerStatus, Event, Terminated
from vdi.kasm.generations import chart_of_label, of_label, of_workloads, parse_version
from vdi.kasm.generations.model import Component, Generation, InitContainer, Version
from vdi.snapshot.model import Snapshot, once
from vdi.snapshot.objects.meta import Meta
from vdi.snapshot.objects.network import Service
from vdi.snapshot.objects.workloads import Container, Job, Pod, WorkloadObject
from vdi.snapshot.waits import Target, parse_wait


@dataclass(frozen=True)
class KasmContainer:
    spec: Container
    status: ContainerStatus
    is_init: bool

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def image(self) -> str:
        return self.spec.image

    @property
    def target(self) -> Target | None:
        return parse_wait(self.spec.waits_for)

    @property
    def waiting(self) -> tuple[str, str]:
        """Reason and message for which it does not run; both empty where it runs, has ended, or was
        never mentioned.
        """
        waiting = self.status.state.waiting
        if waiting:
            return (waiting.reason, waiting.message)
        return ("", "")

    @property
    def running_since(self) -> str:
        """Since when it runs; empty: it does not."""
        if self.status.state.running:
            return self.status.state.running.started_at
        return ""

    @property
    def ended(self) -> Terminated | None:
        """Its last bad end, now or before the last restart."""
        for ended in (self.status.state.terminated, self.status.last_state.terminated):
            if ended and (ended.exit_code or ended.reason == "OOMKilled"):
                return ended
        return None

    @property
    def restarts(self) -> int:
        return self.status.restart_count

    @property
    def is_done(self) -> bool:
        """An init container that lets the next one begin."""
        if self.spec.restart_policy == "Always":
            return bool(self.status.started)
        ended = self.status.state.terminated
        return ended is not None and not ended.exit_code

    @property
    def is_crashing(self) -> bool:
        """It has ended badly, and does not run now."""
        return self.ended is not None and not self.running_since


@dataclass(frozen=True, eq=False)
class KasmPod:
    pod: Pod
    snapshot: Snapshot

    @property
    def name(self) -> str:
        return self.pod.metadata.name

    @property
    def namespace(self) -> str:
        return self.pod.metadata.namespace

    @property
    def object(self) -> str:
        return f"pod/{self.namespace}/{self.name}"

    @property
    def labels(self) -> dict[str, str]:
        return self.pod.metadata.labels

    @property
    def phase(self) -> str:
        return self.pod.status.phase

    @property
    def node(self) -> str:
        return self.pod.spec.node_name

    @property
    def age(self) -> float:
        return self.snapshot.age(self.pod.metadata.creation_timestamp)

    @property
    def ready(self) -> bool:
        ready = self.pod.condition("Ready")
        return ready is not None and ready.status == "True"

    @cached_property
    def steps(self) -> list[KasmContainer]:
        states = {status.name: status for status in self.pod.status.init_container_statuses}
        steps = self.pod.spec.init_containers
        return [
            KasmContainer(step, states.get(step.name, ContainerStatus(step.name)), True)
            for step in steps
        ]

    @cached_property
    def containers(self) -> list[KasmContainer]:
        states = {status.name: status for status in self.pod.status.container_statuses}
        containers = self.pod.spec.containers
        return [
            KasmContainer(each, states.get(each.name, ContainerStatus(each.name)), False)
            for each in containers
        ]

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
        return [container for container in self.containers if not container.status.ready]

    @property
    def has_begun(self) -> bool:
        """Whether any of its containers has run: then it has its network and its volumes."""
        states = [container.status.state for container in (*self.steps, *self.containers)]
        states += [container.status.last_state for container in (*self.steps, *self.containers)]
        return any(state.running or state.terminated for state in states)

    @property
    def failing_containers(self) -> Iterator[KasmContainer]:
        for container in () if self.ready else self.unready:
            if container.ended or (container.running_since and not container.is_init):
                yield container

    @property
    def claims(self) -> list[str]:
        sources = (volume.persistent_volume_claim for volume in self.pod.spec.volumes)
        return [source.claim_name for source in sources if source]

    @property
    def events(self) -> list[Event]:
        """Warnings about it, the newest last."""
        return sorted(self.snapshot.events_of(self.pod.metadata.uid), key=lambda event: event.seen)

    def newest(self, *reasons: str) -> Event | None:
        """The newest Warning with one of these reasons, but for those that say nothing."""
        for event in reversed(self.events):
            if event.reason in reasons and not PASSING.search(event.note):
                return event
        return None

    def log(self, container: KasmContainer, lines: int = 3) -> list[str]:
        log = self.snapshot.logs.get(f"{self.namespace}/{self.name}/{container.name}") or []
        return [line for line in log if line.strip()][-lines:]


CHART = "helm.sh/chart"
RELEASE = "meta.helm.sh/release-name"
INSTANCE = "app.kubernetes.io/instance"


class HasMeta(Protocol):
    """An object of a snapshot."""

    @property
    def metadata(self) -> Meta: ...


T = TypeVar("T", bound=HasMeta)


def _made_by_charts(snapshot: Snapshot) -> Iterator[HasMeta]:
    """Objects whose labels say whether a Kasm is there."""
    yield from snapshot.objects.pods
    yield from snapshot.objects.deployments
    yield from snapshot.objects.statefulsets


def is_kasms(item: HasMeta) -> bool:
    """Whether one of Kasm's charts has made it, by its label."""
    return of_label(item.metadata.labels.get(CHART, "")) is not None


def kasm_namespaces(snapshot: Snapshot) -> tuple[str, ...]:
    """Namespaces of Kasm: the requested one, or those with objects of its charts."""
    if snapshot.scope.kasm:
        return (snapshot.scope.namespace,)
    made = filter(is_kasms, _made_by_charts(snapshot))
    return tuple(sorted({item.metadata.namespace for item in made}))


@dataclass(frozen=True, slots=True)
class Workload:
    """A Deployment or StatefulSet."""

    raw: WorkloadObject
    kind: str

    @property
    def name(self) -> str:
        return self.raw.metadata.name

    @property
    def object(self) -> str:
        return f"{self.kind}/{self.raw.metadata.namespace}/{self.name}"

    @property
    def desired(self) -> int:
        return self.raw.spec.replicas

    @property
    def pod_labels(self) -> dict[str, str]:
        return self.raw.spec.template.metadata.labels

    @property
    def selector(self) -> dict[str, str]:
        return self.raw.spec.selector.match_labels


@dataclass(frozen=True, slots=True)
class InstalledChart:
    """The chart that has made the workloads of a namespace."""

    generation: Generation
    # Empty: no Helm release.
    release: str
    # Empty: no label says so.
    version: str

    @property
    def chart_version(self) -> Version:
        """The newest of its generation where no label says so."""
        if self.version:
            return parse_version(self.version)
        return self.generation.newest

    def owns(self, pod: Pod) -> bool:
        """Whether a pod of its namespace is one of its components."""
        return self.generation.component_of(pod.metadata.labels) is not None

    @property
    def words(self) -> str:
        version = self.version or "of an unknown version"
        if self.release:
            release = f"release {self.release}"
        else:
            release = "no Helm release"
        return f"{self.generation.chart} {version} ({release})"


def release_of(item: HasMeta) -> str:
    """The Helm release that an object belongs to."""
    return item.metadata.annotations.get(RELEASE, "")


@dataclass(frozen=True)
class Installation:
    """Kasm in one namespace."""

    snapshot: Snapshot
    namespace: str

    def all_of(self, plural: str) -> list[Any]:
        """All objects of a kind in the namespace, Kasm's or not."""
        return self._all(self.snapshot.of_kind(plural))

    def _all(self, objects: Iterable[T]) -> list[T]:
        return [item for item in objects if item.metadata.namespace == self.namespace]

    def _here(self, objects: Iterable[T]) -> list[T]:
        """Kasm's own, where charts are labelled; all of the namespace, where the chart is not
        known.
        """
        here = self._all(objects)
        if self.is_labelled:
            return list(filter(is_kasms, here))
        return here

    @cached_property
    def is_labelled(self) -> bool:
        """Whether a label says what is Kasm's."""
        return any(map(is_kasms, self._all(_made_by_charts(self.snapshot))))

    @cached_property
    def pods(self) -> list[KasmPod]:
        """Its pods that are not leaving and have not ended, by name."""
        kept = [
            KasmPod(pod, self.snapshot)
            for pod in self._here(self.snapshot.objects.pods)
            if not pod.terminating and pod.status.phase not in ("Succeeded", "Failed")
        ]
        return sorted(kept, key=lambda pod: pod.name)

    @cached_property
    def workloads(self) -> list[Workload]:
        objects = self.snapshot.objects
        return [
            *(Workload(raw, "deployment") for raw in self._here(objects.deployments)),
            *(Workload(raw, "statefulset") for raw in self._here(objects.statefulsets)),
        ]

    @cached_property
    def services(self) -> dict[str, Service]:
        """All Services of the namespace, by name: names are looked up among all of them."""
        return {
            service.metadata.name: service for service in self._all(self.snapshot.objects.services)
        }

    @cached_property
    def own_services(self) -> list[Service]:
        return [
            service
            for service in self._here(self.snapshot.objects.services)
            if service.spec.selector
        ]

    @cached_property
    def jobs(self) -> list[Job]:
        return self._here(self.snapshot.objects.jobs)

    @cached_property
    def chart(self) -> str:
        """Chart of most of its objects, such as `kasm-1.1181.0`; empty where no label says so."""
        workloads = (workload.raw.metadata for workload in self.workloads)
        metas = [*workloads, *(pod.metadata for pod in self._here(self.snapshot.objects.pods))]
        labels = (meta.labels.get(CHART) for meta in metas)
        counts = Counter(label for label in labels if label)
        return counts.most_common(1)[0][0] if counts else ""

    @cached_property
    def release(self) -> str:
        """The Helm release; `RELEASE` where no label says so."""
        names = [workload.raw.metadata.labels.get(INSTANCE, "") for workload in self.workloads]
        return next((name for name in names if name), "RELEASE")

    @cached_property
    def installed(self) -> InstalledChart | None:
        """By the chart's label on a workload, else by the workloads' names."""
        objects = self.snapshot.objects
        workloads = self._all([*objects.deployments, *objects.statefulsets])
        for workload in workloads:
            chart = workload.metadata.labels.get(CHART, "")
            if generation := of_label(chart):
                return InstalledChart(generation, release_of(workload), chart_of_label(chart)[1])
        generation = of_workloads(workload.metadata.name for workload in workloads)
        if generation is None:
            return None
        releases = (release_of(workload) for workload in workloads)
        return InstalledChart(generation, next((name for name in releases if name), ""), "")

    @cached_property
    def generation(self) -> Generation | None:
        """Its generation of the chart; None for an unknown one."""
        return of_label(self.chart) or of_workloads(workload.name for workload in self.workloads)

    def step_of(self, pod: KasmPod, container: str) -> tuple[Component, InitContainer] | None:
        """Description of an init container by its name; None where the chart is not known, or has
        none such.
        """
        component = None
        if self.generation:
            component = self.generation.component_of(pod.labels)
        step = component.step(container) if component else None
        if component and step:
            return (component, step)
        return None

    def pods_selected_by(self, selector: Mapping[str, str]) -> list[KasmPod]:
        return [pod for pod in self.pods if selector.items() <= pod.labels.items()]

    def workloads_selected_by(self, selector: Mapping[str, str]) -> list[Workload]:
        return [each for each in self.workloads if selector.items() <= each.pod_labels.items()]

    def endpoints(self, service: str) -> tuple[int, int]:
        """Number of pods behind a Service, and of the ready ones."""
        total = ready = 0
        for each in self._all(self.snapshot.objects.endpointslices):
            if each.metadata.labels.get("kubernetes.io/service-name") == service:
                total += len(each.endpoints)
                ready += sum(endpoint.conditions.ready is not False for endpoint in each.endpoints)
        return total, ready


@once
def find_kasm(snapshot: Snapshot) -> tuple[Installation, ...]:
    return tuple(Installation(snapshot, namespace) for namespace in kasm_namespaces(snapshot))


_LOGGED = 12


def containers_to_log(snapshot: Snapshot) -> Iterator[tuple[str, str, str]]:
    """Namespace, pod and container of those whose last words say why: they have ended, or run and
    are not ready.
    """
    containers = []
    for kasm in find_kasm(snapshot):
        for pod in kasm.pods:
            for container in pod.failing_containers:
                containers.append((kasm.namespace, pod.name, container.name))
    yield from containers[:_LOGGED]
