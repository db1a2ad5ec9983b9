"""The shape in which a chart generation is described. Data only; filled in by `a`, `b` and `c`.

Names are patterns: `{release}` is the Helm release, `{zone}` the Kasm zone (`default` unless zones
are configured), `{version}` the Kasm version with dashes. `matches` holds real names against them.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

SIZES = ("small", "medium", "large")
# A chart version as numbers: `(1, 1190, 6)`.
Version = tuple[int, ...]

# The web UI answers 200 to this path, through the way in.
HEALTH_PATH = "/api/__healthcheck"

_PLACEHOLDERS = {
    "release": r"[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?",
    "zone": r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?",
    "version": r"[0-9]+(?:-[a-z0-9]+)*",
}


def words_of(version: Version) -> str:
    return ".".join(map(str, version))


@lru_cache(maxsize=256)
def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)
    return re.compile(
        "".join(
            _PLACEHOLDERS[part] if odd % 2 else re.escape(part) for odd, part in enumerate(parts)
        )
    )


def matches(template: str, name: str) -> bool:
    """Whether a real name can come from this pattern."""
    return _pattern(template).fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Resources:
    """Requests and limits of one container, as Kubernetes quantities; "" is: the chart sets
    none.
    """

    cpu: str
    memory: str
    cpu_limit: str = ""
    memory_limit: str = ""


def resources(row: str) -> Resources:
    """`CPU MEMORY CPU_LIMIT MEMORY_LIMIT`; `-` stands for none."""
    return Resources(*("" if word == "-" else word for word in row.split()))


def presets(*rows: str) -> dict[str, Resources]:
    """A row for each size; a single row is for all of them."""
    return dict(
        zip(SIZES, map(resources, rows if len(rows) > 1 else rows * len(SIZES)), strict=True)
    )


def counts(*numbers: int) -> dict[str, int]:
    """Number of pods at each size; a single number is for all of them."""
    return dict(zip(SIZES, numbers if len(numbers) > 1 else numbers * len(SIZES), strict=True))


@dataclass(frozen=True, slots=True)
class VersionRange:
    """From which to which chart version something exists, both included; None is an open end.

    `until` (1, 16) includes every 1.16.x.
    """

    since: Version | None = None
    until: Version | None = None

    def holds(self, version: Version) -> bool:
        """Whether a chart of this version has it."""
        after = self.since is None or version >= self.since
        return after and (self.until is None or version[: len(self.until)] <= self.until)


ALWAYS = VersionRange()


@dataclass(frozen=True, slots=True)
class InitContainer:
    """One step before a pod's own containers start. Which step a pod is at is read by name, never
    by its number.
    """

    name: str
    # What it does, as the end of a sentence: `waits until ...`.
    what: str
    # Key of the component that it waits for; "" when it waits for none.
    waits_for: str = ""
    port: int = 0
    path: str = ""
    # Values path that has to be true for it to be there; "" is always.
    only_when: str = ""
    # Runs as uid 0, which Pod Security `restricted` refuses.
    as_root: bool = False
    # None: the chart sets none.
    resources: Resources | None = None
    # An image that no value changes: only a mirror provides it. "" is one of Kasm's, which the
    # values name.
    image: str = ""
    versions: VersionRange = ALWAYS


@dataclass(frozen=True, slots=True)
class Container:
    """A container of a component, with what it requests at each size."""

    name: str
    presets: Mapping[str, Resources]
    # Values path whose block replaces the preset as a whole.
    resources_path: str
    # Values path; false leaves the container out. "" when it cannot be left out alone.
    switch: str = ""


@dataclass(frozen=True, slots=True)
class Component:
    """One workload of the chart with its Service."""

    # `proxy`, `api`, `manager`, `db`, `db-init`, `guac`, ...: the same word in each generation.
    key: str
    kind: str
    name: str
    # Labels of its pods, as patterns.
    labels: Mapping[str, str]
    service: str = ""
    ports: tuple[int, ...] = ()
    # In the order in which they run.
    init_containers: tuple[InitContainer, ...] = ()
    containers: tuple[Container, ...] = ()
    # How many pods at each size.
    replicas: Mapping[str, int] = field(default_factory=dict)
    replicas_path: str = ""
    # Values path; false leaves the component out. "" when it is always there.
    switch: str = ""
    # Its absence is no failure: optional, or a Job that is deleted after it has succeeded.
    may_be_absent: bool = False
    # Size of its persistent volume, 0 for none.
    claim_gib: int = 0
    versions: VersionRange = ALWAYS

    def owns(self, pod_labels: Mapping[str, str]) -> bool:
        """Whether a pod with these labels is one of this component."""
        return all(
            matches(value, pod_labels.get(label, "")) for label, value in self.labels.items()
        )

    def steps(self, version: Version) -> tuple[InitContainer, ...]:
        """The init containers that a chart of this version has, in order."""
        return tuple(step for step in self.init_containers if step.versions.holds(version))

    def step(self, name: str) -> InitContainer | None:
        """The init container of this name, whatever the version."""
        return next((step for step in self.init_containers if matches(step.name, name)), None)


@dataclass(frozen=True)
class ValueKeys:
    """The values that a chart reads.

    `text` has one line for each block: its path, then its keys. `{a,b}` stands for each of these
    words; `*` marks a key below which anything may stand.
    """

    text: str
    # Paths that not every version of the chart reads.
    versions: Mapping[str, VersionRange] = field(default_factory=dict)
    # What an entry of kasmZones may hold.
    zone: tuple[str, ...] = ()

    @cached_property
    def _leaves(self) -> tuple[str, ...]:
        return tuple(_parse_keys(self.text))

    @cached_property
    def _free(self) -> frozenset[str]:
        return frozenset(leaf.removesuffix("*") for leaf in self._leaves if leaf.endswith("*"))

    @cached_property
    def paths(self) -> tuple[str, ...]:
        return tuple(
            dict.fromkeys(
                block for leaf in self._leaves for block in blocks_of(leaf.removesuffix("*"))
            )
        )

    def read_ever(self, path: str) -> bool:
        """Whether a chart of any version reads this path: a block counts, and anything inside a
        free-form one.
        """
        return path in self.paths or any(block in self._free for block in blocks_of(path))

    def read(self, path: str, version: Version) -> bool:
        """Whether a chart of this version reads this path."""
        return self.read_ever(path) and all(span.holds(version) for span in self.spans(path))

    def spans(self, path: str) -> list[VersionRange]:
        """In which versions a path and the blocks around it exist, where not in all."""
        return [self.versions[block] for block in blocks_of(path) if block in self.versions]


def blocks_of(path: str) -> Iterator[str]:
    return itertools.accumulate(path.split("."), lambda before, key: f"{before}.{key}")


def _parse_keys(text: str) -> Iterator[str]:
    for line in text.strip().splitlines():
        block, _, keys = line.partition(":")
        for path in _expand(block.strip()):
            for word in keys.split():
                yield from (f"{path}.{leaf}" if path else leaf for leaf in _expand(word))


def _expand(word: str) -> Iterator[str]:
    choice = re.search(r"\{([^{}]*)\}", word)
    if choice is None:
        yield word
        return
    for part in choice[1].split(","):
        yield from _expand(f"{word[: choice.start()]}{part}{word[choice.end() :]}")


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One of the charts. All that differs between them is a field here; no code asks which
    generation it has.
    """

    letter: str
    # `name` in its Chart.yaml, which is also what `helm list` and the label helm.sh/chart begin
    # with.
    chart: str
    # Another chart that installs it together with something else.
    umbrella: str = ""
    # Which versions of Kasm it installs, in words.
    kasm: str
    # What to give to helm as the chart; "": there is no published chart.
    source: str
    # The newest known chart version; what is meant where no version is given.
    newest: Version
    oldest: Version
    postgres_major: int
    minimum_helm: Version
    components: tuple[Component, ...]
    # The values that the chart reads.
    keys: ValueKeys
    # Where each setting stands in the values. An absent key: the chart has no such value.
    paths: Mapping[str, str]
    # Values that hold a secret in plain text.
    plain_secrets: tuple[str, ...]
    # Which versions make one where no Secret is named; None: none does, and pods wait for the
    # Secret without end.
    makes_certificate: VersionRange | None = ALWAYS
    # Its schema requires `replicas` of every component that has them, and Helm 4 drops the nulls of
    # its own values.
    requires_replicas: bool = False
    # Newer charts than this keep the database's volume when the StatefulSet goes; None: none does.
    retains_database_after: Version | None = None
    # Values without which another Kasm starts with an empty database: its StatefulSet has the
    # version in its name.
    carries_database: Mapping[str, bool] = field(default_factory=dict)
    # No workload of it has a name that ends like this.
    foreign_suffix: str = ""
    # Option of helm upgrade that ends a circle of init containers; empty: no option does.
    breaks_circular_wait: str = ""

    def component(self, key: str, version: Version | None = None) -> Component | None:
        """The component of this key in a chart of this version; None where this chart has none."""
        return next((each for each in self.present(version) if each.key == key), None)

    def present(self, version: Version | None = None) -> Iterator[Component]:
        """The components that a chart of this version can have."""
        return (
            component
            for component in self.components
            if component.versions.holds(version or self.newest)
        )

    def component_of(self, pod_labels: Mapping[str, str]) -> Component | None:
        """The component that a pod with these labels is one of, whatever the version."""
        return next(
            (component for component in self.components if component.owns(pod_labels)), None
        )

    def creates_certificate(self, version: Version) -> bool:
        """Whether a chart of this version makes a certificate where none is named."""
        return self.makes_certificate is not None and self.makes_certificate.holds(version)
