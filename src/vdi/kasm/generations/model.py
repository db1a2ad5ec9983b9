"""The shape in which a chart generation is described. Data only; filled in by `a`, `b` and `c`.

Names are patterns: `{release}` is the Helm release, `{zone}` the Kasm zone (`default` unless zones are configured),
`{version}` the Kasm version with dashes. `Component.owns` and `InitContainer.is_named` match real names against them.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

SIZES = ("small", "medium", "large")
Version = tuple[int, ...]
"""A chart version as numbers: `(1, 1190, 6)`."""

_PLACEHOLDERS = {
    "release": r"[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?",
    "zone": r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?",
    "version": r"[0-9]+(?:-[a-z0-9]+)*",
}


@lru_cache(maxsize=256)
def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)
    return re.compile("".join(_PLACEHOLDERS[part] if odd % 2 else re.escape(part) for odd, part in enumerate(parts)))


def matches(template: str, name: str) -> bool:
    """Whether a real name can come from this pattern."""
    return _pattern(template).fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Resources:
    """Requests and limits of one container, as Kubernetes quantities; "" is: the chart sets none."""

    cpu: str
    memory: str
    cpu_limit: str = ""
    memory_limit: str = ""


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
    """One step before a pod's own containers start. Which step a pod is at is read by name, never by its number."""

    name: str
    what: str
    """What it does, as the end of a sentence: `waits until ...`."""
    waits_for: str = ""
    """Key of the component that it waits for; "" when it waits for none."""
    port: int = 0
    path: str = ""
    only_when: str = ""
    """Values path that has to be true for it to be there; "" is always."""
    as_root: bool = False
    """Runs as uid 0, which Pod Security `restricted` refuses."""
    resources: Resources | None = None
    """None: the chart sets none."""
    image: str = ""
    """An image whose name stands in the template: no value changes it, only a mirror provides it. "" is one of Kasm's
    images, which the values name."""
    versions: VersionRange = ALWAYS

    def is_named(self, name: str) -> bool:
        """Whether a container of this name is this one."""
        return matches(self.name, name)


@dataclass(frozen=True, slots=True)
class Container:
    """A container of a component, with what it asks for at each size."""

    name: str
    presets: Mapping[str, Resources]
    resources_path: str
    """Values path whose block replaces the preset as a whole."""
    switch: str = ""
    """Values path; false leaves the container out. "" when it cannot be left out alone."""


@dataclass(frozen=True, slots=True)
class Health:
    """How one asks a component whether it is well. Port 0: there is no HTTP to ask (`what` says how instead)."""

    port: int = 0
    path: str = ""
    scheme: str = "http"
    what: str = ""


@dataclass(frozen=True, slots=True)
class Component:
    """One workload of the chart with its Service."""

    key: str
    """`proxy`, `api`, `manager`, `db`, `db-init`, `guac`, `rdp-gateway`, `rdp-https-gateway`, `connection-proxy`,
    `share`, `redis`: the same word in each generation."""
    kind: str
    name: str
    labels: Mapping[str, str]
    """Labels of its pods, as patterns."""
    service: str = ""
    ports: tuple[int, ...] = ()
    health: Health = field(default_factory=Health)
    init_containers: tuple[InitContainer, ...] = ()
    """In the order in which they run."""
    containers: tuple[Container, ...] = ()
    replicas: Mapping[str, int] = field(default_factory=dict)
    """How many pods at each size."""
    replicas_path: str = ""
    switch: str = ""
    """Values path; false leaves the component out. "" when it is always there."""
    may_be_absent: bool = False
    """Its absence is no failure: optional, or a Job that is deleted after it has succeeded."""
    claim_gib: int = 0
    """Size of its persistent volume, 0 for none."""
    versions: VersionRange = ALWAYS

    def owns(self, pod_labels: Mapping[str, str]) -> bool:
        """Whether a pod with these labels is one of this component."""
        return all(matches(value, pod_labels.get(label, "")) for label, value in self.labels.items())

    def steps(self, version: Version) -> tuple[InitContainer, ...]:
        """The init containers that a chart of this version has, in order."""
        return tuple(step for step in self.init_containers if step.versions.holds(version))

    def step(self, name: str) -> InitContainer | None:
        """The init container of this name, whatever the version."""
        return next((step for step in self.init_containers if step.is_named(name)), None)


@dataclass(frozen=True, slots=True)
class KnownIssue:
    """What one should know before an installation, and what to do; nothing in the values tells of it."""

    key: str
    what: str
    remedy: str
    versions: VersionRange = ALWAYS


@dataclass(frozen=True, slots=True)
class Generation:
    """One of the three charts."""

    letter: str
    chart: str
    """`name` in its Chart.yaml, which is also what `helm list` and the label helm.sh/chart begin with."""
    kasm: str
    """Which versions of Kasm it installs, in words."""
    source: str
    """What to give to helm as the chart."""
    newest: Version
    """The newest chart version whose release is known; what is meant where no version is given."""
    oldest: Version
    postgres_major: int
    minimum_helm: Version
    components: tuple[Component, ...]
    paths: Mapping[str, str]
    """Where each setting stands in the values: `hostname`, `size`, `storage_class`, `proxy_service_type`,
    `ingress_enabled`, `ingress_class`, `tls_secret`, `database_external`, `database_host`, ... An absent key: the chart
    has no such value."""
    known_issues: tuple[KnownIssue, ...]
    secrets: str
    """Name pattern of the Secret with the passwords."""
    plain_secrets: tuple[str, ...]
    """Values that hold a secret in plain text."""
    value_rules: frozenset[str]
    """Which rules of `vdi.kasm.values.rules` its values obey, by name."""
    health_path: str = "/api/__healthcheck"
    """What the web UI answers 200 to, through the way in."""
    is_published: bool = True
    """Whether helm can download the chart from `source`."""
    makes_certificate: VersionRange | None = ALWAYS
    """Which chart versions make one where no Secret with a certificate is named; None: none does, and pods that mount
    the Secret wait for it without end."""
    new_passwords: Mapping[str, str] = field(default_factory=dict)
    """Keys of the Secret with the passwords, by the value that each is taken from. Every installation replaces that
    Secret, with new passwords where these values give none. Empty: an installation keeps a Secret that is there."""
    uninstall_options: tuple[str, ...] = ()
    """Options of helm uninstall without which the passwords would not be kept."""
    requires_replicas: bool = False
    """Its schema requires `replicas` of every component that has them, and Helm 4 drops the nulls of its own values."""
    zone_aliases: Mapping[str, str] = field(default_factory=dict)
    """Old names of a zone's keys that it still reads, by the key."""
    database_host: str = "kasm-db"
    """The default of `database_host`; empty: the chart has no default."""
    retains_database_after: Version | None = None
    """Newer charts than this keep the database's volume when the StatefulSet goes; None: none does."""
    has_versioned_database: bool = False
    """The database's StatefulSet has the version of Kasm in its name: another version has another one."""
    foreign_suffix: str = ""
    """No workload of it has a name that ends like this."""
    breaks_circular_wait: str = ""
    """Option of helm upgrade that ends a circle of init containers; empty: no option does."""

    def component(self, key: str, version: Version | None = None) -> Component | None:
        """The component of this key in a chart of this version; None where this chart has none."""
        return next((each for each in self.present(version) if each.key == key), None)

    def present(self, version: Version | None = None) -> Iterator[Component]:
        """The components that a chart of this version can have."""
        return (component for component in self.components if component.versions.holds(version or self.newest))

    def component_of(self, pod_labels: Mapping[str, str]) -> Component | None:
        """The component that a pod with these labels is one of, whatever the version."""
        return next((component for component in self.components if component.owns(pod_labels)), None)

    def creates_certificate(self, version: Version) -> bool:
        """Whether a chart of this version makes a certificate where none is named."""
        return self.makes_certificate is not None and self.makes_certificate.holds(version)

    def known_issues_of(self, version: Version | None = None) -> tuple[KnownIssue, ...]:
        """Those of a chart of this version."""
        return tuple(issue for issue in self.known_issues if issue.versions.holds(version or self.newest))
