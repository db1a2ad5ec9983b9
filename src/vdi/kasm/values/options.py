"""The few options that make a whole values file, and which of them do not go together. Pure."""

import ipaddress
import re
from dataclasses import dataclass
from enum import StrEnum

from vdi.kasm.generations import SIZES, Generation, Version
from vdi.kasm.values.schema import known

_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*")
_HOST_WORDS = "a DNS name in lower-case letters, such as kasm.example.com, without https:// and without a port"
_OBJECT = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_OBJECT_WORDS = "a Kubernetes name: lower-case letters, digits, inner '-' and '.'"
_LONGEST_RELEASE = 53


class Profile(StrEnum):
    """For what machine the requests are cut."""

    CHART = "chart"
    """The chart's own presets."""
    NODE_4GB = "4gb"
    """One K3s node with 2 CPUs and 4 GB: the core, without guac and the RDP gateways."""
    NODE_8GB = "8gb"
    """One K3s node with 4 CPUs and 8 GB: everything."""


class Ingress(StrEnum):
    """How browsers come in."""

    TRAEFIK = "traefik"
    """The chart's Ingress, served by the Traefik of K3s."""
    LOADBALANCER = "loadbalancer"
    """A Service of type LoadBalancer on port 443, without an Ingress."""
    NONE = "none"
    """Neither: a Traefik (or another proxy) outside the chart routes to the proxy's Service."""


@dataclass(frozen=True, slots=True)
class ExternalDatabase:
    """A PostgreSQL that is there already. Passwords stand in Secrets, which are named here."""

    host: str
    port: int = 5432
    name: str = "kasm"
    user: str = "kasmapp"
    secret: str = ""
    """Secret with the password of `user`; "" is the one that the chart makes."""
    key: str = "db-password"
    master_user: str = ""
    """Who may create database and user at the first install; "" when both exist."""
    master_secret: str = ""
    master_key: str = "password"


@dataclass(frozen=True, slots=True)
class InstallOptions:
    """What a person decides. Everything else follows."""

    generation: Generation
    hostname: str
    version: Version | None = None
    """Of the chart; None is the newest that is known."""
    release: str = "kasm"
    size: str = "small"
    profile: Profile = Profile.CHART
    ingress: Ingress = Ingress.TRAEFIK
    storage_class: str = ""
    """"" is the cluster's default; for a profile of one K3s node that is named, local-path."""
    database: ExternalDatabase | None = None
    tls_secret: str = ""
    passwords_secret: str = ""
    """A Secret with the five passwords that exists already; "" is: the chart makes one."""
    resolver: str = ""
    """Address of the cluster's DNS, for charts that are rendered without a cluster; "" is: Helm looks it up."""

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
    """Raises BadOptionsError with every problem there is, each naming the option, the value and what is allowed."""
    problems = (*_names(options), *_combinations(options))
    if problems:
        raise BadOptionsError(problems)


def is_host_name(text: str) -> bool:
    """Whether this can be the name of a host: a DNS name, and no address."""
    return _HOST.fullmatch(text) is not None and not text.replace(".", "").isdigit()


def _names(options: InstallOptions) -> tuple[str, ...]:
    found = []
    if not is_host_name(options.hostname):
        found.append(f"--hostname is {options.hostname!r}; allowed: {_HOST_WORDS}.")
    if options.size not in SIZES:
        found.append(f"--size is {options.size!r}; allowed: {', '.join(SIZES)}.")
    if not _OBJECT.fullmatch(options.release) or "." in options.release or len(options.release) > _LONGEST_RELEASE:
        found.append(f"--release is {options.release!r}; allowed: small letters, digits and inner '-', at most 53.")
    if options.resolver and not is_address(options.resolver):
        found.append(
            f"--resolver is {options.resolver!r}; allowed: an IP address, that of Service kube-system/kube-dns."
        )
    names = {
        "--storage-class": options.storage_class,
        "--tls-secret": options.tls_secret,
        "--passwords-secret": options.passwords_secret,
    }
    if database := options.database:
        names |= {"--database-secret": database.secret, "--database-master-secret": database.master_secret}
        if not is_host_name(database.host) and not is_address(database.host):
            found.append(f"--database-host is {database.host!r}; allowed: a DNS name or an IP address.")
        if not 0 < database.port < 65536:
            found.append(f"--database-port is {database.port}; allowed: 1 to 65535.")
        if bool(database.master_user) != bool(database.master_secret):
            found.append("--database-master-user and --database-master-secret go together: give both or neither.")
    for option, value in names.items():
        if value and not _OBJECT.fullmatch(value):
            found.append(f"{option} is {value!r}; allowed: {_OBJECT_WORDS}.")
    return tuple(found)


def _combinations(options: InstallOptions) -> tuple[str, ...]:
    generation, version = options.generation, options.chart_version
    chart = f"chart {generation.chart} {'.'.join(map(str, version))}"
    found = []
    if version < generation.oldest or version[: len(generation.oldest)] > generation.newest[: len(generation.oldest)]:
        versions = f"{'.'.join(map(str, generation.oldest))}.x to {'.'.join(map(str, generation.newest))}"
        found.append(f"--chart-version is {'.'.join(map(str, version))}; allowed for {generation.chart}: {versions}.")
    if options.profile is not Profile.CHART and options.size != "small":
        found.append(
            f"--profile is {options.profile} and --size is {options.size}: such a node holds --size small only;"
            " allowed for other sizes: --profile chart."
        )
    if "ingress_enabled" not in generation.paths and options.ingress is not Ingress.TRAEFIK:
        found.append(f"--ingress is {options.ingress}; allowed for {chart}: traefik, as its Ingress is always made.")
    if "database_host" not in generation.paths and options.database:
        found.append(f"--database-host is {options.database.host!r}; {chart} knows its own database only.")
    if not generation.creates_certificate(version) and not options.tls_secret:
        found.append(f"--tls-secret is missing; {chart} mounts that Secret everywhere and does not make it.")
    if options.resolver and not known(generation, "nginxResolver", version):
        found.append(
            f"--resolver is {options.resolver}; {chart} has no such value (kasm-helm 1.1190.5 and newer have)."
        )
    if options.passwords_secret and not known(generation, "kasmSecrets", version):
        found.append(
            f"--passwords-secret is {options.passwords_secret!r}; {chart} makes its own Secret"
            " (kasm-helm 1.1190.5 and newer take one that exists)."
        )
    return tuple(found)


def is_address(text: str) -> bool:
    """An IP address, of either kind."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
