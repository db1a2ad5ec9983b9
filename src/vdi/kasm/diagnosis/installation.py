"""Kasm in a snapshot: its namespace, generation, workloads and pods, and the targets its init
containers wait for. Pure.

The targets of a chart that is not described are read from the init container's own command line.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeVar

from vdi.cluster.explain import PASSING
from vdi.cluster.objects import ContainerStatus, Event, Terminated
from vdi.kasm.generations import of_label, of_workloads
from vdi.kasm.generations.model import Component, Generation, InitContainer
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
        return (waiting.reason, waiting.message) if waiting else ("", "")

    @property
    def running_since(self) -> str:
        """Since when it runs; empty: it does not."""
        return self.status.state.running.started_at if self.status.state.running else ""

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
            KasmContainer(one, states.get(one.name, ContainerStatus(one.name)), False)
            for one in containers
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
        for one in () if self.ready else self.unready:
            if one.ended or (one.running_since and not one.is_init):
                yield one

    @property
    def claims(self) -> list[str]:
        sources = (volume.persistent_volume_claim for volume in self.pod.spec.volumes)
        return [source.claim_name for source in sources if source]

    @property
    def events(self) -> list[Event]:
        """Warnings about it, the newest last."""
        return sorted(self.snapshot.events_of(self.pod.metadata.uid), key=lambda one: one.seen)

    def newest(self, *reasons: str) -> Event | None:
        """The newest Warning with one of these reasons, but for those that say nothing."""
        matching = [
            event
            for event in self.events
            if event.reason in reasons and not PASSING.search(event.note)
        ]
        return matching[-1] if matching else None

    def log(self, container: KasmContainer, lines: int = 3) -> list[str]:
        found = self.snapshot.logs.get(f"{self.namespace}/{self.name}/{container.name}") or []
        return [line for line in found if line.strip()][-lines:]


CHART = "helm.sh/chart"
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


def is_kasms(found: HasMeta) -> bool:
    """Whether one of Kasm's charts has made it, by its label."""
    return of_label(found.metadata.labels.get(CHART, "")) is not None


def kasm_namespaces(snapshot: Snapshot) -> tuple[str, ...]:
    """Namespaces of Kasm: the requested one, or those with objects of its charts."""
    if snapshot.scope.kasm:
        return (snapshot.scope.namespace,)
    made = [one for one in _made_by_charts(snapshot) if is_kasms(one)]
    return tuple(sorted({one.metadata.namespace for one in made}))


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


@dataclass(frozen=True)
class Installation:
    """Kasm in one namespace."""

    snapshot: Snapshot
    namespace: str

    def _all(self, objects: Iterable[T]) -> list[T]:
        return [one for one in objects if one.metadata.namespace == self.namespace]

    def _here(self, objects: Iterable[T]) -> list[T]:
        """Kasm's own, where charts are labelled; all of the namespace, where the chart is not
        known.
        """
        found = self._all(objects)
        return [one for one in found if is_kasms(one)] if self.is_labelled else found

    @cached_property
    def is_labelled(self) -> bool:
        """Whether a label says what is Kasm's."""
        return any(is_kasms(one) for one in self._all(_made_by_charts(self.snapshot)))

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
            *(Workload(one, "deployment") for one in self._here(objects.deployments)),
            *(Workload(one, "statefulset") for one in self._here(objects.statefulsets)),
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
        counts = Counter(meta.labels[CHART] for meta in metas if meta.labels.get(CHART))
        return counts.most_common(1)[0][0] if counts else ""

    @cached_property
    def release(self) -> str:
        """The Helm release; `RELEASE` where no label says so."""
        names = [workload.raw.metadata.labels.get(INSTANCE, "") for workload in self.workloads]
        return next((name for name in names if name), "RELEASE")

    @cached_property
    def generation(self) -> Generation | None:
        """Its generation of the chart; None for an unknown one."""
        return of_label(self.chart) or of_workloads(workload.name for workload in self.workloads)

    def step_of(self, pod: KasmPod, container: str) -> tuple[Component, InitContainer] | None:
        """Description of an init container by its name; None where the chart is not known, or has
        none such.
        """
        component = self.generation.component_of(pod.labels) if self.generation else None
        step = component.step(container) if component else None
        return (component, step) if component and step else None

    def pods_selected_by(self, selector: Mapping[str, str]) -> list[KasmPod]:
        return [pod for pod in self.pods if selector.items() <= pod.labels.items()]

    def workloads_selected_by(self, selector: Mapping[str, str]) -> list[Workload]:
        return [
            workload
            for workload in self.workloads
            if selector.items() <= workload.pod_labels.items()
        ]

    def endpoints(self, service: str) -> tuple[int, int]:
        """Number of pods behind a Service, and of the ready ones."""
        slices = [
            each
            for each in self._all(self.snapshot.objects.endpointslices)
            if each.metadata.labels.get("kubernetes.io/service-name") == service
        ]
        endpoints = [endpoint for each in slices for endpoint in each.endpoints]
        return len(endpoints), sum(endpoint.conditions.ready is not False for endpoint in endpoints)


@once
def find_kasm(snapshot: Snapshot) -> tuple[Installation, ...]:
    return tuple(Installation(snapshot, namespace) for namespace in kasm_namespaces(snapshot))


_LOGGED = 12


def containers_to_log(snapshot: Snapshot) -> Iterator[tuple[str, str, str]]:
    """Namespace, pod and container of those whose last words say why: they have ended, or run and
    are not ready.
    """
    found = [
        (kasm.namespace, pod.name, container.name)
        for kasm in find_kasm(snapshot)
        for pod in kasm.pods
        for container in pod.failing_containers
    ]
    yield from found[:_LOGGED]
