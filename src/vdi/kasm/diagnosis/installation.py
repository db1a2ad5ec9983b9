"""Kasm in a snapshot: in which namespaces it is, of which generation its chart, and its pods. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from vdi.diagnosis.snapshot import Snapshot
from vdi.kasm.diagnosis.pods import KasmPod
from vdi.kasm.generations import Component, Generation, InitContainer, of_label, of_workloads

CHART = "helm.sh/chart"
INSTANCE = "app.kubernetes.io/instance"
Raw = dict[str, Any]
_WORKLOADS = {"deployments": "deployment", "statefulsets": "statefulset"}


def labels_of(found: Mapping[str, Any]) -> dict[str, str]:
    """An object's labels."""
    return found["metadata"].get("labels") or {}


def is_kasms(found: Mapping[str, Any]) -> bool:
    """Whether one of Kasm's charts has made it, by its label."""
    return of_label(labels_of(found).get(CHART, "")) is not None


def kasm_namespaces(snapshot: Snapshot) -> tuple[str, ...]:
    """Where Kasm is: the namespace that was asked about, or those with objects of its charts."""
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
        """Its name."""
        return str(self.raw["metadata"]["name"])

    @property
    def object(self) -> str:
        """As findings name it."""
        return f"{self.kind}/{self.raw['metadata']['namespace']}/{self.name}"

    @property
    def desired(self) -> int:
        """How many pods it should have."""
        return int(self.raw["spec"].get("replicas", 1))

    @property
    def pod_labels(self) -> dict[str, str]:
        """Labels of the pods that it makes."""
        found: dict[str, str] = (self.raw["spec"]["template"].get("metadata") or {}).get("labels") or {}
        return found

    @property
    def selector(self) -> dict[str, str]:
        """By which it finds its pods."""
        found: dict[str, str] = (self.raw["spec"].get("selector") or {}).get("matchLabels") or {}
        return found


@dataclass(frozen=True)
class Installation:
    """What is in one namespace."""

    snapshot: Snapshot
    namespace: str

    def _here(self, plural: str) -> list[Raw]:
        """Kasm's own, where charts are labelled; all of the namespace, where the chart is not known."""
        found = [one for one in self.snapshot.raw(plural) if one["metadata"].get("namespace") == self.namespace]
        return [one for one in found if is_kasms(one)] if self.is_labelled else found

    @cached_property
    def is_labelled(self) -> bool:
        """Whether a label says what is Kasm's."""
        return any(
            is_kasms(one)
            for plural in ("pods", *_WORKLOADS)
            for one in self.snapshot.raw(plural)
            if one["metadata"].get("namespace") == self.namespace
        )

    @cached_property
    def pods(self) -> list[KasmPod]:
        """Its pods that are not leaving and have not ended, by name."""
        found = [
            KasmPod(one, self.snapshot) for one in self._here("pods") if not one["metadata"].get("deletionTimestamp")
        ]
        live = [one for one in found if one.phase not in ("Succeeded", "Failed")]
        return sorted(live, key=lambda one: one.name)

    @cached_property
    def workloads(self) -> list[Workload]:
        """Its Deployments and StatefulSets."""
        return [Workload(one, kind) for plural, kind in _WORKLOADS.items() for one in self._here(plural)]

    @cached_property
    def services(self) -> dict[str, Raw]:
        """All Services of the namespace, by name: names are looked up among all of them."""
        found = [
            service
            for service in self.snapshot.raw("services")
            if service["metadata"].get("namespace") == self.namespace
        ]
        return {str(one["metadata"]["name"]): one for one in found}

    @cached_property
    def own_services(self) -> list[Raw]:
        """Its Services that choose pods."""
        return [one for one in self._here("services") if one["spec"].get("selector")]

    @cached_property
    def jobs(self) -> list[Raw]:
        """Its Jobs."""
        return self._here("jobs")

    @cached_property
    def charts(self) -> dict[str, int]:
        """Names with versions of its charts, by how many objects say so."""
        counts: dict[str, int] = {}
        for one in [*(workload.raw for workload in self.workloads), *self._here("pods")]:
            if label := labels_of(one).get(CHART):
                counts[label] = counts.get(label, 0) + 1
        return counts

    @cached_property
    def chart(self) -> str:
        """What most of its objects were made by, such as `kasm-1.1181.0`; empty where no label says so."""
        return max(self.charts, key=lambda chart: self.charts[chart]) if self.charts else ""

    @cached_property
    def release(self) -> str:
        """The Helm release; `RELEASE` where no label says so."""
        names = [labels_of(workload.raw).get(INSTANCE, "") for workload in self.workloads]
        return next((name for name in names if name), "RELEASE")

    @cached_property
    def generation(self) -> Generation | None:
        """Which of the three charts it is; None: none of them."""
        return of_label(self.chart) or of_workloads(workload.name for workload in self.workloads)

    def step_of(self, pod: KasmPod, container: str) -> tuple[Component, InitContainer] | None:
        """What is known of an init container by its name; None where the chart is not known, or has none such."""
        component = self.generation.component_of(pod.labels) if self.generation else None
        step = component.step(container) if component else None
        return (component, step) if component and step else None

    def pods_selected_by(self, selector: Mapping[str, str]) -> list[KasmPod]:
        """Its pods with these labels."""
        return [pod for pod in self.pods if selector.items() <= pod.labels.items()]

    def workloads_selected_by(self, selector: Mapping[str, str]) -> list[Workload]:
        """Workloads whose pods have these labels."""
        return [workload for workload in self.workloads if selector.items() <= workload.pod_labels.items()]

    def endpoints(self, service: str) -> tuple[int, int]:
        """How many pods stand behind a Service, and how many of them are ready."""
        slices = [
            endpoint_slice
            for endpoint_slice in self.snapshot.raw("endpointslices")
            if endpoint_slice["metadata"].get("namespace") == self.namespace
            and labels_of(endpoint_slice).get("kubernetes.io/service-name") == service
        ]
        found = [endpoint for each in slices for endpoint in each.get("endpoints") or ()]
        return len(found), sum((one.get("conditions") or {}).get("ready", True) is not False for one in found)


@lru_cache(maxsize=4)
def find_kasm(snapshot: Snapshot) -> tuple[Installation, ...]:
    """Kasm, wherever it is."""
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
