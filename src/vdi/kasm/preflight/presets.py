"""What a generation of the chart asks for with the user's values: presets, and what stands in their place. Pure.

The chart itself is not at hand here: that is what rendered manifests are for, which `preflight_needs` reads exactly.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vdi.kasm.generations import kasm_version
from vdi.kasm.generations.model import SIZES, Component, Container, Generation, Resources, Version
from vdi.kasm.preflight.facts import takes_of
from vdi.kasm.preflight.needs import ClaimNeed, Needs, PodNeed
from vdi.kasm.value_paths import value_at
from vdi.session.units import parse_quantity

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Preset:
    """A chart of one version with one set of values."""

    generation: Generation
    version: Version
    values: Values
    release: str = "kasm"
    given_size: str = ""
    """Taken before that of the values."""

    @property
    def size(self) -> str:
        """The deployment size. Raises ValueError for an unknown size."""
        path = self.generation.paths["size"]
        found = self.given_size or value_at(self.values, path)
        if found is None:
            return SIZES[0]
        if found not in SIZES:
            raise ValueError(f"{path} is {found!r}; allowed: {', '.join(SIZES)}")
        return str(found)

    @property
    def zones(self) -> list[str]:
        """Names of the zones; `default` where none are configured. Raises ValueError where it is no list of them."""
        path = self.generation.paths.get("zones")
        found = value_at(self.values, path) if path else None
        if found is None:
            return ["default"]
        if not isinstance(found, list) or not all(isinstance(each, Mapping) for each in found):
            raise ValueError(f"{path} is {found!r}; allowed: a list of zones, each with a name")
        return [str(each.get("name") or each.get("zone_name")) for each in found] or ["default"]

    def is_on(self, switch: str) -> bool:
        """Whether a switch leaves its part in: charts have them on, and a path with `!` before it off."""
        found = value_at(self.values, switch.removeprefix("!"))
        return not found if switch.startswith("!") else found is None or bool(found)

    def real_name(self, pattern: str, zone: str = "default") -> str:
        """A name pattern with this release's parts in it."""
        version = kasm_version(".".join(str(number) for number in self.version)).replace(".", "-")
        return pattern.format(release=self.release, zone=zone, version=version)

    def needs(self) -> Needs:
        """All of it. Raises ValueError for values that are no quantities or no size."""
        numbers = ".".join(str(number) for number in self.version)
        source = f"{self.generation.chart} {numbers}, {self.generation.paths['size']}: {self.size}"
        pods: list[PodNeed] = []
        claims: list[ClaimNeed] = []
        for component in self.generation.present(self.version):
            if not component.containers or (component.switch and not self.is_on(component.switch)):
                continue
            for zone in self.zones if "{zone}" in component.name else ["default"]:
                need = PodNeed(self.real_name(component.name, zone), self.count(component), self._takes(component))
                pods.append(need)
                claims += self._claims(component, need)
        return Needs(source, tuple(pods), tuple(claims))

    def count(self, component: Component) -> int:
        """How many pods. Raises ValueError where the values say something else than a number."""
        given = value_at(self.values, component.replicas_path) if component.replicas_path else None
        if given and (not isinstance(given, int) or given < 0):
            raise ValueError(f"{component.replicas_path} is {given!r}; allowed: a whole number")
        return int(given or component.replicas.get(self.size, 1))

    def _takes(self, component: Component) -> dict[str, int]:
        containers = [{"resources": self._resources(container)} for container in self.containers(component)]
        steps = [
            {"resources": _block(step.resources)}
            for step in component.steps(self.version)
            if step.resources is not None and (not step.only_when or self.is_on(step.only_when))
        ]
        return takes_of({"containers": containers, "initContainers": steps})

    def containers(self, component: Component) -> Iterator[Container]:
        """Those that the values leave in."""
        return (container for container in component.containers if not container.switch or self.is_on(container.switch))

    def _resources(self, container: Container) -> dict[str, Any]:
        """The user's block replaces the preset as a whole."""
        given = value_at(self.values, container.resources_path)
        if not given:
            return _block(container.presets[self.size])
        path = container.resources_path
        return {part: _quantities(f"{path}.{part}", value_at(given, part)) for part in ("requests", "limits")}

    def _claims(self, component: Component, need: PodNeed) -> Iterator[ClaimNeed]:
        if not component.claim_gib:
            return
        paths, size, storage_class = self.generation.paths, component.claim_gib * 2**30, ""
        if component.key == "db":
            storage_class = str(value_at(self.values, paths["storage_class"]) or "")
            given = value_at(self.values, paths["storage_size"]) if "storage_size" in paths else None
            size = _gib(paths["storage_size"], given) if given else size
        yield ClaimNeed(need.name, need.count * size, storage_class)


def _gib(path: str, given: Any) -> int:
    """Bytes of what the chart takes for a number of GiB."""
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise ValueError(f"{path} is {given!r}; allowed: a number of GiB, such as 8")
    return given * 2**30


def _quantities(path: str, given: Any) -> dict[str, str]:
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(f"{path} is {given!r}; allowed: quantities by name, such as cpu: 500m")
    for name, amount in (given or {}).items():
        try:
            wrong = parse_quantity(str(amount)) < 0
        except ValueError:
            wrong = True
        if wrong:
            raise ValueError(f"{path}.{name} is {amount!r}; allowed: a quantity such as 500m or 1Gi")
    return {str(name): str(amount) for name, amount in (given or {}).items()}


def _block(resources: Resources) -> dict[str, Any]:
    requests = {"cpu": resources.cpu, "memory": resources.memory}
    return {"requests": {name: amount for name, amount in requests.items() if amount}}
