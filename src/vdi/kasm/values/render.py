"""Install options -> the values file of one chart generation, ordered, with a comment where a value
needs a reason. Pure.

`PROFILES` holds the machines that Kasm's requests are cut for; the figures of the core are
requirement E5's.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import yaml

from vdi.kasm.generations import kasm_version
from vdi.kasm.generations.model import SIZES, Generation, Resources, Version, resources, words_of


def value_at(values: Mapping[str, Any], path: str) -> Any:
    """The value at a path; None where there is none. A null counts as none, as it does for Helm."""
    value: Any = values
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def set_at(tree: dict[str, Any], path: str, value: Any) -> None:
    """Put a value at a path, making the blocks on the way. A value in the way is replaced."""
    *way, leaf = path.split(".")
    for key in way:
        below = tree.get(key)
        if not isinstance(below, dict):
            below = tree[key] = {}
        tree = below
    tree[leaf] = value


def merged(*values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as Helm merges them: key by key, the last wins, lists as a whole."""
    result: dict[str, Any] = {}
    for each in values:
        for key, value in each.items():
            before = result.get(key)
            is_block = isinstance(before, Mapping) and isinstance(value, Mapping)
            result[key] = merged(before or {}, value) if is_block else value
    return result


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of machine. Without `resources` the chart's own presets stay."""

    name: str
    # The machine in words.
    node: str = ""
    # By component.
    resources: Mapping[str, Resources] = field(default_factory=dict)
    # Of the nginx beside a gateway.
    sidecar: Resources | None = None
    # Components that do not fit, and why.
    leaves_out: Mapping[str, str] = field(default_factory=dict)
    # Where the options name none.
    storage_class: str = ""

    @property
    def is_cut(self) -> bool:
        """Whether it is for one small node, which holds one pod of each component and size `small`
        only.
        """
        return bool(self.resources)

    def entries(
        self, generation: Generation, version: Version
    ) -> Iterator[tuple[str, object, str]]:
        """Values, in order, as path, value and comment, which cut the chart to this machine."""
        if not self.is_cut:
            return
        for component in generation.present(version):
            if component.may_be_absent:
                continue
            if component.key in self.leaves_out:
                yield component.switch, False, self.leaves_out[component.key]
                continue
            for container in component.containers:
                amounts = self.resources[component.key]
                if self.sidecar and len(component.containers) > 1 and "nginx" in container.name:
                    amounts = self.sidecar
                yield container.resources_path, block(amounts), ""


def block(amounts: Resources) -> dict[str, dict[str, str]]:
    """As Kubernetes and the charts write it."""
    return {
        "requests": {"cpu": amounts.cpu, "memory": amounts.memory},
        "limits": {"cpu": amounts.cpu_limit, "memory": amounts.memory_limit},
    }


_CORE = {
    "db": resources("250m 512Mi 500m 1Gi"),
    "redis": resources("100m 256Mi 200m 512Mi"),
    "manager": resources("500m 1Gi 1000m 2Gi"),
    "api": resources("250m 512Mi 500m 1Gi"),
    "proxy": resources("100m 128Mi 500m 512Mi"),
    "share": resources("100m 128Mi 250m 256Mi"),
}
# Only needed for sessions on Windows machines and other servers by RDP, VNC and SSH.
_GATEWAYS = ("guac", "rdp-gateway", "rdp-https-gateway", "connection-proxy")
CHART = Profile("chart")
NODE_4GB = Profile(
    "4gb",
    "2 CPUs and 4 GB",
    _CORE,
    leaves_out=dict.fromkeys(
        _GATEWAYS, "for RDP, VNC and SSH to other machines: does not fit a 4 GB node"
    ),
    storage_class="local-path",
)
NODE_8GB = Profile(
    "8gb",
    "4 CPUs and 8 GB",
    {**_CORE, **dict.fromkeys(_GATEWAYS, resources("100m 256Mi 500m 1Gi"))},
    sidecar=resources("50m 64Mi 250m 256Mi"),
    storage_class="local-path",
)
PROFILES = (CHART, NODE_4GB, NODE_8GB)


def profile_of(name: str) -> Profile:
    """The profile of this name. Raises ValueError with what is allowed."""
    for profile in PROFILES:
        if profile.name == name:
            return profile
    raise ValueError(
        f"--profile is {name!r}; allowed: {', '.join(profile.name for profile in PROFILES)}"
    )


_HOST = re.compile(
    r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*"
)
_HOST_WORDS = (
    "a DNS name in lower-case letters, such as kasm.example.com, without https:// and without a"
    " port"
)
_OBJECT = re.compile(
    r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
)
_OBJECT_WORDS = "a Kubernetes name: lower-case letters, digits, inner '-' and '.'"
_RELEASE = re.compile(r"(?=.{1,53}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?")


class Ingress(StrEnum):
    """Entry point for browsers."""

    TRAEFIK = "traefik"  # the chart's Ingress, served by the Traefik of K3s
    LOADBALANCER = "loadbalancer"  # a Service of type LoadBalancer on port 443, without an Ingress
    NONE = (  # neither: a Traefik (or another proxy) outside the chart routes to the proxy's Service
        "none"
    )


@dataclass(frozen=True, slots=True)
class InstallOptions:
    """Options that a person chooses. Everything else follows from them."""

    generation: Generation
    hostname: str
    version: Version | None = None  # of the chart; None is the newest that is known
    release: str = "kasm"
    size: str = "small"
    profile: Profile = CHART
    ingress: Ingress = Ingress.TRAEFIK
    # "" is the cluster's default; for a profile of one K3s node that is named, local-path.
    storage_class: str = ""
    tls_secret: str = ""

    @property
    def chart_version(self) -> Version:
        """The version whose values are meant."""
        return self.version or self.generation.newest


class BadOptionsError(Exception):
    """Raised for options that are wrong or do not go together; `problems` are whole sentences."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


def check(options: InstallOptions) -> None:
    """Raises BadOptionsError with every problem there is, each naming the option, the value and
    what is allowed.
    """
    if problems := tuple(_problems(options)):
        raise BadOptionsError(problems)


def is_host_name(text: str) -> bool:
    """Whether this can be the name of a host: a DNS name, and no address."""
    return _HOST.fullmatch(text) is not None and not text.replace(".", "").isdigit()


def _problems(options: InstallOptions) -> Iterator[str]:
    if not is_host_name(options.hostname):
        yield f"--hostname is {options.hostname!r}; allowed: {_HOST_WORDS}."
    if options.size not in SIZES:
        yield f"--size is {options.size!r}; allowed: {', '.join(SIZES)}."
    if not _RELEASE.fullmatch(options.release):
        yield (
            f"--release is {options.release!r}; allowed: small letters, digits and inner '-', at"
            " most 53."
        )
    for option, value in (
        ("--storage-class", options.storage_class),
        ("--tls-secret", options.tls_secret),
    ):
        if value and not _OBJECT.fullmatch(value):
            yield f"{option} is {value!r}; allowed: {_OBJECT_WORDS}."
    yield from _combination_problems(options)


def _combination_problems(options: InstallOptions) -> Iterator[str]:
    """Options that do not go together, or not with the chart."""
    generation, version = options.generation, options.chart_version
    chart = f"chart {generation.chart} {words_of(version)}"
    known = len(generation.oldest)
    if version < generation.oldest or version[:known] > generation.newest[:known]:
        versions = f"{words_of(generation.oldest)}.x to {words_of(generation.newest)}"
        yield f"--chart-version is {words_of(version)}; allowed for {generation.chart}: {versions}."
    if options.profile.is_cut and options.size != "small":
        yield (
            f"--profile is {options.profile.name} and --size is {options.size}: such a node holds"
            " --size small only; allowed for other sizes: --profile chart."
        )
    if "ingress_enabled" not in generation.paths and options.ingress is not Ingress.TRAEFIK:
        yield (
            f"--ingress is {options.ingress}; allowed for {chart}: traefik, as its Ingress is"
            " always made."
        )
    if not generation.creates_certificate(version) and not options.tls_secret:
        yield (
            f"--tls-secret is missing; {chart} mounts that Secret everywhere and does not make it."
        )


# Path, value, comment.
Entry = tuple[str, Any, str]


def render(options: InstallOptions) -> str:
    """The values file. Raises BadOptionsError."""
    check(options)
    return to_yaml(list(entries(options)), heading(options))


def heading(options: InstallOptions) -> str:
    """Comment at the head of the file: its purpose and its use."""
    version = words_of(options.chart_version)
    lines = [
        (
            f"Kasm {kasm_version(version)}: values for chart {options.generation.chart} {version}"
            f" (generation {options.generation.letter})."
        ),
        "There are no passwords in this file; docs/kasm.md explains where they come from.",
    ]
    if options.profile.node:
        lines.append(f"Sized for one K3s node with {options.profile.node}.")
    if options.ingress is Ingress.NONE:
        service = options.generation.component("proxy")
        name = ""
        if service:
            name = service.service.format(release=options.release, zone="default")
        lines.append(
            f"Nothing in these values gives browsers access: route {options.hostname} to Service"
            f" {name}, port 8080 (HTTP)."
        )
    return "\n".join(lines)


def entries(options: InstallOptions) -> Iterator[Entry]:
    """Every value that is set, in the chart's order of subjects."""
    paths = options.generation.paths
    yield paths["hostname"], options.hostname, "the name that users open; it must resolve to a node"
    yield paths["size"], options.size, _SIZES[options.size]
    yield (
        paths["pull_policy"],
        "IfNotPresent",
        "an image that exists on the node is not pulled again",
    )
    if "image_tag" in paths:
        version = kasm_version(words_of(options.chart_version))
        yield (
            paths["image_tag"],
            version,
            "some chart versions name images of the development branch",
        )
    yield from _way_in(options)
    yield from _replicas(options)
    yield from _database(options)
    yield from options.profile.entries(options.generation, options.chart_version)


_SIZES = {
    "small": "for 10 to 15 sessions",
    "medium": "for 25 to 30 sessions",
    "large": "for 50 sessions and more",
}


def _way_in(options: InstallOptions) -> Iterator[Entry]:
    paths = options.generation.paths
    if "proxy_service_type" in paths:
        if options.ingress is Ingress.LOADBALANCER:
            yield (
                paths["proxy_service_type"],
                "LoadBalancer",
                "uses port 443 of the node: on K3s, Traefik must be disabled",
            )
        else:
            yield (
                paths["proxy_service_type"],
                "ClusterIP",
                "a LoadBalancer would conflict with Traefik on port 443",
            )
        yield paths["ingress_enabled"], options.ingress is Ingress.TRAEFIK, ""
    if options.ingress is Ingress.TRAEFIK and options.generation.keys.read(
        paths["ingress_class"], options.chart_version
    ):
        yield paths["ingress_class"], "traefik", "the Traefik of K3s"
    if options.tls_secret:
        yield (
            paths["tls_secret"],
            options.tls_secret,
            "a Secret of type kubernetes.io/tls in the same namespace",
        )
        if "tls_create" in paths:
            yield paths["tls_create"], False, "it already exists"


def _replicas(options: InstallOptions) -> Iterator[Entry]:
    """Replica counts that the chart requires: also of components that are off, whatever the profile
    says.
    """
    if not options.generation.requires_replicas:
        return
    comment = "the chart rejects values without replicas when Helm 4 installs it"
    for component in options.generation.present(options.chart_version):
        if component.replicas_path:
            if options.profile.is_cut:
                count = 1
            else:
                count = component.replicas[options.size]
            yield component.replicas_path, count, comment
            comment = ""


def _database(options: InstallOptions) -> Iterator[Entry]:
    paths = options.generation.paths
    if options.storage_class:
        yield paths["storage_class"], options.storage_class, ""
    elif options.profile.storage_class:
        yield paths["storage_class"], options.profile.storage_class, "the storage class of K3s"
    if "retention_enabled" in paths:
        yield paths["retention_enabled"], True, ""
    yield (
        paths["retention"],
        "Retain",
        "Delete would delete the data with the StatefulSet, also on an upgrade",
    )


def nested(all_entries: Iterable[Entry]) -> dict[str, Any]:
    """Entries as the tree that they make."""
    tree: dict[str, Any] = {}
    for path, value, _ in all_entries:
        set_at(tree, path, value)
    return tree


def to_yaml(all_entries: list[Entry], head: str = "") -> str:
    """Entries as YAML, each comment above its key. Blocks stand where their first entry stands."""
    comments = {path: comment for path, _, comment in all_entries if comment}
    lines = [f"# {line}" for line in head.splitlines()]
    lines += _lines(nested(all_entries), "", comments, top=True)
    return "\n".join(lines) + "\n"


def _lines(
    tree: Mapping[str, Any], prefix: str, comments: Mapping[str, str], *, top: bool = False
) -> Iterator[str]:
    indent = "  " * prefix.count(".")
    for key, value in tree.items():
        if top:
            yield ""
        if comment := comments.get(f"{prefix}{key}"):
            yield f"{indent}# {comment}"
        if isinstance(value, Mapping) and value:
            yield f"{indent}{_scalar(key)}:"
            yield from _lines(value, f"{prefix}{key}.", comments)
        else:
            yield f"{indent}{_scalar(key)}: {_scalar(value)}"


def _scalar(value: Any) -> str:
    """One value in YAML's words, on one line; a text that could be read as something else is
    quoted.
    """
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("...\n").strip()
