"""What goes together in a values file and what does not: the charts' own refusals, and known issues. Pure."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from vdi.findings.model import Finding, Remedy, Severity
from vdi.kasm.generations import Generation, Version
from vdi.kasm.value_paths import value_at
from vdi.kasm.values.options import is_host_name
from vdi.kasm.values.schema import known

_HOST = "allowed: a DNS name in lower-case letters without https:// and without a port"


class Code(StrEnum):
    """What is wrong with a value."""

    UNKNOWN_KEY = "unknown_key"
    """The chart, as it is described here, does not read this key."""
    INVALID_VALUE = "invalid_value"
    MISSING_VALUE = "missing_value"
    CONFLICTING_VALUES = "conflicting_values"
    OLD_NAME = "old_name"
    PLAIN_SECRET = "plain_secret"  # noqa: S105 - a code
    RISKY_VALUE = "risky_value"
    """It will install; read it before you do."""
    UNKNOWN_VERSION = "unknown_version"
    """The chart is newer than what is described here."""


def problem(code: Code, path: str, message: str, remedy: str = "", *, severity: Severity = Severity.ERROR) -> Finding:
    """A finding about the value at this path; `message` goes on where the path ends."""
    return Finding(code=code, severity=severity, object=path, message=f"{path} {message}", remedy=Remedy(remedy))


def in_words(finding: Finding) -> str:
    """A finding as one line."""
    return f"{finding.message} {finding.remedy.text}".strip()


@dataclass(frozen=True, slots=True)
class Subject:
    """A values file, and for which chart."""

    generation: Generation
    version: Version
    values: Mapping[str, Any]
    rendered: bool = False
    """It will be rendered without a cluster (helm template, GitOps)."""
    helm: Version = (4,)
    """Which Helm installs it."""

    @property
    def chart_words(self) -> str:
        """`kasm-helm 1.1190.6`."""
        return f"{self.generation.chart} {'.'.join(map(str, self.version))}"

    def get(self, path: str, default: Any = None) -> Any:
        """The value at a path; a null counts as not there, as it does for Helm."""
        found = value_at(self.values, path)
        return default if found is None else found

    def on(self, path: str, *, default: bool = False) -> bool:
        """Whether a switch is on."""
        return self.get(path, default) is True

    def is_known(self, path: str) -> bool:
        """Whether the chart reads it."""
        return known(self.generation, path, self.version)


def rules(subject: Subject) -> Iterator[Finding]:
    """Every rule that the file breaks. Types are right by now, or have been complained of."""
    yield from _version(subject)
    for name, rule in RULES.items():
        if name in subject.generation.value_rules:
            yield from rule(subject)


def _warning(code: Code, path: str, message: str, remedy: str = "") -> Finding:
    return problem(code, path, message, remedy, severity=Severity.WARNING)


def _version(subject: Subject) -> Iterator[Finding]:
    newest = subject.generation.newest
    if subject.version > newest:
        yield _warning(
            Code.UNKNOWN_VERSION,
            subject.chart_words,
            f"is newer than {'.'.join(map(str, newest))}, the newest version that this vdi supports: other keys may "
            "exist, and defaults may differ.",
            "Compare with the chart's own values: helm show values.",
        )


def _hostname(subject: Subject) -> Iterator[Finding]:
    path = subject.generation.paths["hostname"]
    value = subject.get(path, "")
    if not value:
        yield problem(
            Code.MISSING_VALUE, path, "is not set; it is the name that users open.", f"Set {path}: kasm.example.com"
        )
    elif isinstance(value, str) and not is_host_name(value):
        yield problem(Code.INVALID_VALUE, path, f"is {value!r}; {_HOST}.")


def _way_in(subject: Subject) -> Iterator[Finding]:
    kind = subject.get("proxyService.type", "LoadBalancer")
    ingress, route = subject.on("ingress.enabled"), subject.on("route.enabled")
    if ingress and route:
        yield problem(
            Code.CONFLICTING_VALUES,
            "route.enabled",
            "is true together with ingress.enabled; the chart rejects both.",
            "Keep one.",
        )
    if (ingress or route) and kind != "ClusterIP":
        yield problem(
            Code.CONFLICTING_VALUES,
            "proxyService.type",
            f"is {kind} while {'ingress' if ingress else 'route'}.enabled is true; the chart rejects that.",
            "Set proxyService.type: ClusterIP",
        )
    elif kind == "LoadBalancer":
        yield _warning(
            Code.RISKY_VALUE,
            "proxyService.type",
            "is LoadBalancer: on K3s it uses port 443 of each node, which Traefik uses.",
            "With Traefik set ClusterIP and ingress.enabled: true; without Traefik keep it.",
        )
    if subject.get("kasmZones") and not (ingress or route):
        yield problem(
            Code.CONFLICTING_VALUES,
            "kasmZones",
            "needs ingress.enabled or route.enabled: zones are distinguished by their host names.",
        )


def _zones(subject: Subject) -> Iterator[Finding]:
    given = subject.get("kasmZones")
    zones = [zone for zone in given if isinstance(zone, Mapping)] if isinstance(given, list) else []
    address, aliases = subject.generation.paths["zone_address"], subject.generation.zone_aliases
    for number, zone in enumerate(zones):
        path = f"kasmZones[{number}]"
        if not (zone.get("name") or zone.get(aliases.get("name", ""))):
            yield problem(Code.MISSING_VALUE, path, "has no name.", "Set name: ...")
        old = aliases.get(address, "")
        if not (zone.get(address) or zone.get(old)):
            yield problem(Code.MISSING_VALUE, path, f"has no {address}.", f"Set {address}: zone.kasm.example.com")
        if old in zone:
            yield _warning(Code.OLD_NAME, f"{path}.{old}", "is the old name.", f"Set {address}.")
    if sum(1 for zone in zones if zone.get("primary") is True) > 1:
        yield problem(Code.INVALID_VALUE, "kasmZones", "has several entries with primary: true; allowed: one.")


def _database(subject: Subject) -> Iterator[Finding]:
    external = subject.on("database.standalone")
    if external and subject.get("database.hostname", "") in ("", subject.generation.database_host):
        yield problem(
            Code.MISSING_VALUE,
            "database.hostname",
            "is not set while database.standalone is true.",
            "Name the PostgreSQL server.",
        )
    if external:
        major = subject.generation.postgres_major
        yield _warning(Code.RISKY_VALUE, "database.standalone", f"is true: the server must be PostgreSQL {major}.")
    elif deletes_database(subject):
        yield _warning(
            Code.RISKY_VALUE,
            "database.storage.retentionPolicy.whenDeleted",
            "is Delete (the chart's default): the data is deleted with the StatefulSet, also on an upgrade to "
            "another Kasm version.",
            "Write Retain.",
        )
    initialize, upgrade = subject.on("dbManagement.initialize", default=True), subject.on("dbManagement.upgrade.enable")
    if initialize and upgrade:
        yield problem(
            Code.CONFLICTING_VALUES,
            "dbManagement.upgrade.enable",
            "is true while dbManagement.initialize is true (the default); the chart accepts only one of them.",
            "For an upgrade set dbManagement.initialize: false",
        )
    if subject.on("dbManagement.upgrade.skipBackupAndRestore") and not external:
        yield problem(
            Code.CONFLICTING_VALUES,
            "dbManagement.upgrade.skipBackupAndRestore",
            "is true; allowed only with database.standalone: true.",
        )


def deletes_database(subject: Subject) -> bool:
    """Whether the volume of the chart's own database goes when its StatefulSet does."""
    paths = subject.generation.paths
    external, enabled = paths.get("database_external"), paths.get("retention_enabled")
    if (external and subject.on(external)) or (enabled and not subject.on(enabled)):
        return False
    last = subject.generation.retains_database_after
    default = "Retain" if last and subject.version > last else "Delete"
    return bool(subject.get(paths["retention"], default) == "Delete")


def _certificate(subject: Subject) -> Iterator[Finding]:
    if subject.get("certificate.secretName"):
        return
    managed = subject.on("certificate.certManager.enabled")
    if managed or not subject.generation.creates_certificate(subject.version):
        yield problem(
            Code.MISSING_VALUE,
            "certificate.secretName",
            "is not set; pods mount that Secret and do not start without it.",
            "Set a Secret of type kubernetes.io/tls (kubectl create secret tls), or one that cert-manager fills.",
        )
    else:
        yield _warning(
            Code.RISKY_VALUE,
            "certificate.secretName",
            "is not set: the chart creates a certificate that no browser trusts.",
        )


def _plain_secrets(subject: Subject) -> Iterator[Finding]:
    for path in subject.generation.plain_secrets:
        found = subject.get(path)
        for leaf in [path] if isinstance(found, str) else _filled(found, path):
            if path == "kasmCerts" and not leaf.endswith(".key"):
                continue
            yield _warning(
                Code.PLAIN_SECRET,
                leaf,
                "is a secret in a plain file, and in Helm's record of the release.",
                _secret_way(subject),
            )


def _filled(found: Any, prefix: str) -> Iterator[str]:
    if isinstance(found, Mapping):
        for key, below in found.items():
            yield from _filled(below, f"{prefix}.{key}")
    elif isinstance(found, str) and found and not found.lstrip().startswith("#"):
        yield prefix


def _secret_way(subject: Subject) -> str:
    if subject.is_known("kasmSecrets.name"):
        return "Put it into a Secret (vdi kasm values secret) and set that one."
    return "Remove it: the chart creates its own. Put a password that you must choose into a Secret."


def _passwords(subject: Subject) -> Iterator[Finding]:
    if not subject.get("kasmSecrets.create", default=True) and not subject.get("kasmSecrets.name"):
        yield problem(
            Code.MISSING_VALUE,
            "kasmSecrets.name",
            "is not set while kasmSecrets.create is false.",
            "Set the existing Secret.",
        )
    if subject.get("kasmSecrets.name") and not subject.get("database.kasmDbSecret.name"):
        name = subject.get("kasmSecrets.name")
        yield _warning(
            Code.RISKY_VALUE,
            "kasmSecrets.name",
            f"is {name!r}, but some init containers still read the database's password from <release>-secrets.",
            f"Unless that is its name, set database.kasmDbSecret: {{name: {name}, key: db-password}}",
        )


def _resolver(subject: Subject) -> Iterator[Finding]:
    if subject.rendered and subject.is_known("nginxResolver") and not subject.get("nginxResolver"):
        yield problem(
            Code.MISSING_VALUE,
            "nginxResolver",
            "is not set; rendered without a cluster the chart sets 127.0.0.11, where nothing responds.",
            "Set the address of Service kube-system/kube-dns (on K3s 10.43.0.10 unless it was changed).",
        )


def _replicas(subject: Subject) -> Iterator[Finding]:
    """The chart's own null is dropped by Helm 4 before the values meet the schema; Helm 3 keeps it."""
    components = subject.generation.present(subject.version)
    paths = [component.replicas_path for component in components if component.replicas_path]
    missing = [path for path in paths if subject.get(path) is None]
    if missing and subject.helm >= (4,):
        parent = missing[0].rpartition(".")[0].rpartition(".")[0]
        names = ", ".join(path.split(".")[-2] for path in missing)
        yield problem(
            Code.MISSING_VALUE,
            parent,
            f"has no replicas for {names}; with Helm 4 the chart rejects that, also for disabled components.",
            "Set replicas: 1 for each of them.",
        )


def _images(subject: Subject) -> Iterator[Finding]:
    if (tag := subject.get("useImageTags", "")) == "develop" or (not tag and subject.version <= (1, 1190, 3)):
        yield _warning(
            Code.RISKY_VALUE,
            "useImageTags",
            "is develop: images of the development branch.",
            "Set the version of Kasm, such as 1.19.0",
        )


def _direct_rdp(subject: Subject) -> Iterator[Finding]:
    if subject.on("directRdpService.enabled") and not (
        subject.get("directRdpService.perServiceSettings") or subject.get("directRdpService.rdpAccessURL")
    ):
        yield problem(
            Code.MISSING_VALUE,
            "directRdpService.perServiceSettings",
            "is empty while directRdpService.enabled is true.",
            "Add one entry with rdpAccessURL for each replica.",
        )


RULES: Mapping[str, Callable[[Subject], Iterator[Finding]]] = {
    "hostname": _hostname,
    "way_in": _way_in,
    "zones": _zones,
    "database": _database,
    "certificate": _certificate,
    "plain_secrets": _plain_secrets,
    "passwords": _passwords,
    "resolver": _resolver,
    "replicas": _replicas,
    "images": _images,
    "direct_rdp": _direct_rdp,
}
"""In the order in which their findings are shown."""
