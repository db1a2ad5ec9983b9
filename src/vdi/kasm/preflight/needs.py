"""The planned release, read from the user's values, and its needs: pods, volumes, ingress. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from vdi.cluster.objects import PodResources
from vdi.cluster.units import parse_quantity
from vdi.kasm.generations import kasm_version
from vdi.kasm.generations.model import (
    SIZES,
    Component,
    Container,
    Generation,
    Resources,
    Version,
    words_of,
)
from vdi.kasm.values.render import Ingress, value_at

Values = Mapping[str, Any]


class PodNeed(msgspec.Struct, frozen=True):
    """So many pods of one kind. CPU in thousandths, memory in bytes, as `vdi.cluster.objects` has
    them.
    """

    name: str
    count: int
    takes: dict[str, int]


class ClaimNeed(msgspec.Struct, frozen=True):
    """A volume; an empty class is the cluster's default."""

    name: str
    size: int
    storage_class: str = ""


class Needs(msgspec.Struct, frozen=True):
    """Pods and claims that need capacity, and the source of the figures, in words."""

    source: str
    pods: tuple[PodNeed, ...] = ()
    claims: tuple[ClaimNeed, ...] = ()

    def total(self, resource: str) -> int:
        """Total of a resource over all pods."""
        return sum(pod.count * pod.takes.get(resource, 0) for pod in self.pods)


@dataclass(frozen=True, slots=True)
class PlannedRelease:
    """The release that the preflight plans for."""

    generation: Generation
    version: Version
    needs: Needs
    ingress: Ingress
    hostname: str = ""
    # Whether people's own RDP clients connect to Kasm at port 3389.
    rdp: bool = False
    namespace: str = "kasm"
    values: Values = field(default_factory=dict)


def plan_of_values(
    generation: Generation, version: Version, values: Values, namespace: str, release: str
) -> PlannedRelease:
    """From values for the chart, which may be empty. Raises ValueError."""
    return PlannedRelease(
        generation=generation,
        version=version,
        needs=Preset(generation, version, values, release).needs(),
        ingress=_ingress(generation, values),
        hostname=str(value_at(values, generation.paths["hostname"]) or ""),
        rdp=bool(value_at(values, "directRdpService.enabled")),
        namespace=namespace,
        values=values,
    )


def _ingress(generation: Generation, values: Values) -> Ingress:
    """As the chart decides it; without values as K3s has it, by its Traefik."""
    paths = generation.paths
    if not values or "ingress_enabled" not in paths or value_at(values, paths["ingress_enabled"]):
        return Ingress.TRAEFIK
    kind = value_at(values, paths["proxy_service_type"]) or "LoadBalancer"
    if kind == "LoadBalancer":
        return Ingress.LOADBALANCER
    return Ingress.NONE


@dataclass(frozen=True, slots=True)
class Preset:
    """A chart of one version with one set of values: the chart's presets, and what stands in their
    place.
    """

    generation: Generation
    version: Version
    values: Values
    release: str = "kasm"

    @property
    def size(self) -> str:
        """The deployment size. Raises ValueError for an unknown size."""
        path = self.generation.paths["size"]
        size = value_at(self.values, path) or SIZES[0]
        if size not in SIZES:
            raise ValueError(f"{path} is {size!r}; allowed: {', '.join(SIZES)}")
        return str(size)

    @property
    def zones(self) -> list[str]:
        """Names of the zones; `default` where none are configured. Raises ValueError where it is no
        list of them.
        """
        path = self.generation.paths.get("zones")
        zones = value_at(self.values, path) if path else None
        if zones is None:
            return ["default"]
        if not isinstance(zones, list) or not all(isinstance(zone, Mapping) for zone in zones):
            raise ValueError(f"{path} is {zones!r}; allowed: a list of zones, each with a name")
        return [str(zone.get("name") or zone.get("zone_name")) for zone in zones] or ["default"]

    def is_on(self, switch: str) -> bool:
        """Whether a switch leaves its part in: charts have them on, and a path with `!` before it
        off.
        """
        value = value_at(self.values, switch.removeprefix("!"))
        if switch.startswith("!"):
            return not value
        return value is None or bool(value)

    def real_name(self, pattern: str, zone: str = "default") -> str:
        """A name pattern with this release's parts in it."""
        version = kasm_version(words_of(self.version)).replace(".", "-")
        return pattern.format(release=self.release, zone=zone, version=version)

    def needs(self) -> Needs:
        """All of it. Raises ValueError for values that are no quantities, no numbers or no size."""
        pods, claims = [], []
        for component in self.generation.present(self.version):
            if not component.containers or (component.switch and not self.is_on(component.switch)):
                continue
            for zone in self.zones if "{zone}" in component.name else ["default"]:
                need = PodNeed(
                    self.real_name(component.name, zone),
                    self.count(component),
                    self._takes(component),
                )
                pods.append(need)
                if component.claim_gib:
                    claims.append(self._claim(component, need))
        source = (
            f"{self.generation.chart} {words_of(self.version)}, {self.generation.paths['size']}:"
            f" {self.size}"
        )
        return Needs(source, tuple(pods), tuple(claims))

    def count(self, component: Component) -> int:
        """Number of pods. Raises ValueError where the value is no number."""
        path = component.replicas_path
        replicas = 0
        if path:
            replicas = _whole_number(path, value_at(self.values, path))
        return replicas or component.replicas.get(self.size, 1)

    def _takes(self, component: Component) -> dict[str, int]:
        containers = [
            {"resources": self._resources(container)} for container in self.containers(component)
        ]
        steps = []
        for step in component.steps(self.version):
            is_there = not step.only_when or self.is_on(step.only_when)
            if step.resources is not None and is_there:
                steps.append({"resources": _block(step.resources)})
        return takes_of({"containers": containers, "initContainers": steps})

    def containers(self, component: Component) -> list[Container]:
        """Containers that the values leave in."""
        return [
            container
            for container in component.containers
            if not container.switch or self.is_on(container.switch)
        ]

    def _resources(self, container: Container) -> dict[str, Any]:
        """The user's block replaces the preset as a whole."""
        path = container.resources_path
        block = value_at(self.values, path)
        if not block:
            return _block(container.presets[self.size])
        return {
            part: _quantities(f"{path}.{part}", value_at(block, part))
            for part in ("requests", "limits")
        }

    def _claim(self, component: Component, need: PodNeed) -> ClaimNeed:
        paths, size, storage_class = self.generation.paths, component.claim_gib, ""
        if component.key == "db":
            storage_class = str(value_at(self.values, paths["storage_class"]) or "")
            path = paths.get("storage_size", "")
            size = (_whole_number(path, value_at(self.values, path)) if path else 0) or size
        return ClaimNeed(need.name, need.count * size * 2**30, storage_class)


def takes_of(spec: Mapping[str, Any]) -> dict[str, int]:
    """Resources that a pod of this spec takes of a node, as the scheduler counts them."""
    return msgspec.convert(spec, PodResources, strict=False).takes


def _whole_number(path: str, value: Any) -> int:
    if value and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise ValueError(f"{path} is {value!r}; allowed: a whole number, such as 8")
    return int(value or 0)


def _quantities(path: str, block: Any) -> dict[str, str]:
    named = {} if block is None else block
    if not isinstance(named, Mapping):
        named = {"": named}
    amounts = {str(name): str(amount) for name, amount in named.items()}
    for name, amount in amounts.items():
        try:
            wrong = not name or parse_quantity(amount) < 0
        except ValueError:
            wrong = True
        if wrong:
            raise ValueError(
                f"{path}.{name} is {amount!r}; allowed: quantities by name, such as cpu: 500m"
            )
    return amounts


def _block(resources: Resources) -> dict[str, Any]:
    requests = {"cpu": resources.cpu, "memory": resources.memory}
    return {"requests": {name: amount for name, amount in requests.items() if amount}}
