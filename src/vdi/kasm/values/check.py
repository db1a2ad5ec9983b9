"""A user's own values file against the generation it is for: findings, each with what to write in
its place. Pure.

Helm is silent about most keys that a chart does not read: `global.hostname` in generation C changes
nothing at all. So every key is looked up, and one of another generation or of a tutorial is
answered with this chart's name for it. Rules name what installs and does harm; what the chart
refuses by itself, helm says.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from vdi.findings.model import Finding, Remedy, Severity
from vdi.kasm.generations import ALL
from vdi.kasm.generations.model import Component, Generation, Version, words_of
from vdi.kasm.values.render import is_host_name, value_at


class Code(StrEnum):
    """Kind of problem with a value."""

    UNKNOWN_KEY = "unknown_key"  # the chart, as it is described here, does not read this key
    INVALID_VALUE = "invalid_value"
    MISSING_VALUE = "missing_value"
    PLAIN_SECRET = "plain_secret"  # noqa: S105 - a code
    RISKY_VALUE = "risky_value"  # it will install; read it before you do
    UNKNOWN_VERSION = "unknown_version"  # the chart is newer than what is described here


@dataclass(frozen=True, slots=True)
class Subject:
    """A values file, and for which chart."""

    generation: Generation
    version: Version
    values: Mapping[str, Any]

    @property
    def chart_words(self) -> str:
        return f"{self.generation.chart} {words_of(self.version)}"

    def get(self, setting: str, default: Any = None) -> Any:
        """The value of a setting; a null counts as not there, as it does for Helm."""
        path = self.generation.paths.get(setting, "")
        value = value_at(self.values, path) if path else None
        return default if value is None else value

    def path(self, setting: str) -> str:
        """Path of a setting; empty where this chart does not have it."""
        path = self.generation.paths.get(setting, "")
        if path and self.generation.keys.read(path, self.version):
            return path
        return ""


def check_values(subject: Subject) -> tuple[Finding, ...]:
    """Errors first, then warnings; each group in the file's order."""
    findings = list(_keys(subject, subject.values, ""))
    for rule in _RULES:
        findings += rule(subject)
    return tuple(sorted(findings, key=lambda each: each.severity is not Severity.ERROR))


def _leaves(values: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _problem(
    code: Code, path: str, message: str, remedy: str = "", severity: Severity = Severity.ERROR
) -> Finding:
    """A finding about the value at this path; `message` goes on where the path ends."""
    return Finding(
        code=code,
        severity=severity,
        object=path,
        message=f"{path} {message}",
        remedy=Remedy(remedy),
    )


def _warning(code: Code, path: str, message: str, remedy: str = "") -> Finding:
    return _problem(code, path, message, remedy, Severity.WARNING)


def _keys(subject: Subject, values: Mapping[str, Any], prefix: str) -> Iterator[Finding]:
    for key, value in values.items():
        path = f"{prefix}{key}"
        if not subject.generation.keys.read(path, subject.version):
            yield from _unknown(subject, path, value)
        elif path == subject.path("zones"):
            yield from _zone_keys(subject, path, value)
        elif isinstance(value, Mapping):
            yield from _keys(subject, value, f"{path}.")


def _zone_keys(subject: Subject, path: str, zones: Any) -> Iterator[Finding]:
    keys, address = subject.generation.keys.zone, subject.generation.paths["zone_address"]
    others = {generation.paths.get("zone_address") for generation in ALL}
    for number, zone in enumerate(zones if isinstance(zones, list) else []):
        for key in zone if isinstance(zone, Mapping) else []:
            if key not in keys:
                if key in others:
                    remedy = f"Set {address}"
                else:
                    remedy = f"Allowed: {', '.join(keys)}."
                yield _problem(
                    Code.UNKNOWN_KEY,
                    f"{path}[{number}].{key}",
                    "is not read by this chart.",
                    remedy,
                )


def _unknown(subject: Subject, path: str, value: Any) -> Iterator[Finding]:
    """Findings for a key that the chart does not read; for a block with better answers inside, one
    for each key.
    """
    meant = meant_by(subject, path)
    if meant is None and isinstance(value, Mapping) and _is_answered_inside(subject, path, value):
        for key, below in value.items():
            yield from _unknown(subject, f"{path}.{key}", below)
        return
    keys, chart, remedy = subject.generation.keys, f"chart {subject.chart_words}", ""
    message = f"is not read by {chart}."
    if spans := keys.spans(path) if keys.read_ever(path) else []:
        message = f"is not read by {chart}, only {_span_words(spans[0].since, spans[0].until)}."
    elif owner := next((each for each in ALL if each.keys.read_ever(path)), None):
        message = (
            f"is a value of generation {owner.letter} ({owner.chart}); {chart} does not read it."
        )
    if meant is not None:
        remedy = f"Set {meant[0]}" if meant[0] else f"Remove it: {meant[1]}."
    elif not spans and (near := _nearest(subject, path)):
        remedy = f"Did you mean {near}?"
    yield _problem(Code.UNKNOWN_KEY, path, message, remedy)


def _is_answered_inside(subject: Subject, path: str, value: Mapping[str, Any]) -> bool:
    for key, below in value.items():
        if meant_by(subject, f"{path}.{key}") is not None:
            return True
        if isinstance(below, Mapping) and _is_answered_inside(subject, f"{path}.{key}", below):
            return True
    return False


def _span_words(since: Version | None, until: Version | None) -> str:
    span = f"from {words_of(since)}" if since else ""
    if until:
        return f"{span} up to {words_of(until)}".lstrip()
    return span


# Keys of other charts and of tutorials, which no chart of Kasm's has ever read: which setting they
# stand for.
_HABITS: Mapping[str, str] = {
    "global.storageClass": "storage_class",
    "postgres.primary.persistence.storageClass": "storage_class",
    "postgresql.primary.persistence.storageClass": "storage_class",
    "global.ingress.enabled": "ingress_enabled",
    "global.ingress.className": "ingress_class",
}
# Blocks of the same kind: which component their `resources` and `replicas` are about.
_BLOCKS: Mapping[str, str] = {
    "postgres.primary": "db",
    "postgresql.primary": "db",
    "redis": "redis",
    "kasmProxy": "proxy",
    "kasmApi": "api",
    "kasmManager": "manager",
    "kasmShare": "share",
    "kasmGuac": "guac",
    "rdpGateway": "rdp-gateway",
    "rdpHttpsGateway": "rdp-https-gateway",
}
_ABSENT = {
    "ingress_enabled": "the chart always creates its Ingress",
    "ingress_class": "the class of its Ingress cannot be set",
}


def meant_by(subject: Subject, path: str) -> tuple[str, str] | None:
    """The key that this chart reads instead, or "" and the reason why it has none; None where
    nothing is known.
    """
    others = [each for each in ALL if each is not subject.generation]
    settings = {
        **{path: setting for each in others for setting, path in each.paths.items()},
        **_HABITS,
    }
    if setting := settings.get(path):
        return subject.path(setting), _ABSENT.get(setting, "the chart has no such value")
    for block, key in _BLOCKS.items():
        part, _, rest = path.removeprefix(f"{block}.").partition(".")
        if path.startswith(f"{block}.") and part in ("resources", "replicas"):
            return _of_component(subject, key, part, rest)
    for component in (component for each in others for component in each.components):
        for part, own in _parts(component).items():
            if own and (path == own or path.startswith(f"{own}.")):
                return _of_component(subject, component.key, part, path[len(own) + 1 :])
    return None


def _parts(component: Component) -> dict[str, str]:
    resources = ""
    if component.containers:
        resources = component.containers[0].resources_path
    return {"resources": resources, "replicas": component.replicas_path, "switch": component.switch}


def _of_component(subject: Subject, key: str, part: str, rest: str) -> tuple[str, str]:
    component = subject.generation.component(key, subject.version)
    if component is None:
        return "", f"the chart has no component {key}"
    own = _parts(component)[part]
    return f"{own}.{rest}" if own and rest else own, f"the chart has no {part} for {key}"


def _nearest(subject: Subject, path: str) -> str:
    """The path of this chart that was probably meant; "" when none is near."""
    keys = subject.generation.keys
    candidates = []
    for candidate in keys.paths:
        if keys.read(candidate, subject.version):
            candidates.append(candidate)
    parent, _, leaf = path.rpartition(".")
    siblings = []
    for candidate in candidates:
        if candidate.rpartition(".")[0] == parent:
            siblings.append(candidate)
    by_leaf = {sibling.rpartition(".")[2].casefold(): sibling for sibling in reversed(siblings)}
    if close := difflib.get_close_matches(leaf.casefold(), by_leaf, n=1, cutoff=0.75):
        return by_leaf[close[0]]
    same = []
    for each in candidates:
        if each.rpartition(".")[2].casefold() == leaf.casefold():
            same.append(each)
    return min(same, key=len, default="")


def _version(subject: Subject) -> Iterable[Finding]:
    newest = subject.generation.newest
    if subject.version > newest:
        message = (
            f"is newer than {words_of(newest)}, the newest version that this vdi supports: other"
            " keys may exist."
        )
        yield _warning(
            Code.UNKNOWN_VERSION, subject.chart_words, message, "Compare with helm show values."
        )


def _hostname(subject: Subject) -> Iterable[Finding]:
    path, value = subject.path("hostname"), subject.get("hostname", "")
    if not value:
        message = "is not set; it is the name that users open."
        yield _problem(Code.MISSING_VALUE, path, message, f"Set {path}: kasm.example.com")
    elif not isinstance(value, str) or not is_host_name(value):
        message = (
            f"is {value!r}; allowed: a DNS name in lower-case letters without https:// and without"
            " a port."
        )
        yield _problem(Code.INVALID_VALUE, path, message)


def _way_in(subject: Subject) -> Iterable[Finding]:
    path, switch = subject.path("proxy_service_type"), subject.path("ingress_enabled")
    if path and subject.get("proxy_service_type", "LoadBalancer") == "LoadBalancer":
        message = "is LoadBalancer: on K3s it uses port 443 of each node, which Traefik uses."
        yield _warning(
            Code.RISKY_VALUE, path, message, f"With Traefik set ClusterIP and {switch}: true."
        )


def _database(subject: Subject) -> Iterable[Finding]:
    if subject.get("database_external") is True:
        if not subject.get("database_host"):
            message = f"is not set while {subject.path('database_external')} is true."
            yield _problem(
                Code.MISSING_VALUE,
                subject.path("database_host"),
                message,
                "Name the PostgreSQL server.",
            )
        message = f"is true: the server must be PostgreSQL {subject.generation.postgres_major}."
        yield _warning(Code.RISKY_VALUE, subject.path("database_external"), message)
        return
    last = subject.generation.retains_database_after
    default = "Retain" if last and subject.version > last else "Delete"
    applies = not subject.path("retention_enabled") or subject.get("retention_enabled") is True
    if applies and subject.get("retention", default) == "Delete":
        message = (
            "is Delete (the chart's default): the data is deleted with the StatefulSet, also on an"
            " upgrade."
        )
        yield _warning(Code.RISKY_VALUE, subject.path("retention"), message, "Write Retain.")


def _certificate(subject: Subject) -> Iterable[Finding]:
    is_made = subject.generation.creates_certificate(subject.version)
    if not subject.get("tls_secret") and not is_made:
        message = "is not set; pods mount that Secret and do not start without it."
        remedy = (
            "Set a Secret of type kubernetes.io/tls (kubectl create secret tls), or one that"
            " cert-manager fills."
        )
        yield _problem(Code.MISSING_VALUE, subject.path("tls_secret"), message, remedy)


def _secrets(subject: Subject) -> Iterable[Finding]:
    remedy = (
        "Remove it: the chart creates its own. Put a password that you must choose into a Secret."
    )
    if subject.path("passwords_secret"):
        remedy = "Put it into a Secret and set that one."
    for path in subject.generation.plain_secrets:
        value = value_at(subject.values, path)
        leaves = _leaves(value, f"{path}.") if isinstance(value, Mapping) else [path]
        for leaf in leaves:
            text = value_at(subject.values, leaf)
            # The chart's place holder begins with #.
            if isinstance(text, str) and text and not text.lstrip().startswith("#"):
                message = "is a secret in a plain file, and in Helm's record of the release."
                yield _warning(Code.PLAIN_SECRET, leaf, message, remedy)
    name, database = subject.get("passwords_secret"), subject.path("database_secret")
    if name and not subject.get("database_secret"):
        message = (
            f"is {name!r}, but some init containers still read the database's password from"
            " <release>-secrets."
        )
        remedy = f"Unless that is its name, set {database}: {{name: {name}, key: db-password}}"
        yield _warning(Code.RISKY_VALUE, subject.path("passwords_secret"), message, remedy)


def _images(subject: Subject) -> Iterable[Finding]:
    if subject.get("image_tag") == "develop":
        message = "is develop: images of the development branch."
        yield _warning(
            Code.RISKY_VALUE, subject.path("image_tag"), message, "Set the version of Kasm."
        )


_RULES = (_version, _hostname, _way_in, _database, _certificate, _secrets, _images)
