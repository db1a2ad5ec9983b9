"""Where each value of one generation has gone in the next: the steps, and the look-up of a single path. Pure.

A path stands for everything below it; the longest one that fits decides.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from vdi.kasm.generations import ALL, A, B, C, Generation, Version, kasm_version
from vdi.kasm.value_paths import set_at
from vdi.kasm.values.schema import known, was_ever_known

_PARTS = {
    "kasmProxy": "components.proxy",
    "kasmApi": "components.api",
    "kasmManager": "components.manager",
    "kasmGuac": "components.guac",
    "rdpGateway": "components.rdpGateway",
    "rdpHttpsGateway": "components.rdpHttpsGateway",
    "db": "database",
}
_DEPLOY = "kasmApp.servicesToDeploy"
_NEW_IMAGES = "the new chart has its own images"


class Fate(StrEnum):
    """What became of a value."""

    KEPT = "kept"
    RENAMED = "renamed"
    DROPPED = "dropped"
    ADDED = "added"
    PERSON = "needs a person"


@dataclass(frozen=True, slots=True)
class Note:
    """One line of the report."""

    fate: Fate
    path: str
    """In the old file; of an added one in the new."""
    new_path: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Addition:
    """What the old chart did by itself and the new one does only when its values say so."""

    path: str
    value: object
    why: str
    unless: str = ""
    """A path of the old values that makes it needless."""


def _nothing_special(_path: str, _value: Any, _new: dict[str, Any]) -> None:
    """Every value is kept, renamed, dropped or for a person, as the tables say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One move, from a generation to the next. All that differs between two generations is here."""

    source: Generation
    target: Generation
    renamed: Mapping[str, str] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Paths that have no successor, and why."""
    person: Mapping[str, str] = field(default_factory=dict)
    """Paths that a person has to look at, and why."""
    special: Callable[[str, Any, dict[str, Any]], Note | None] = _nothing_special
    """(path, value, new values) -> what became of a value that is not merely moved; None for all others."""
    added: tuple[Addition, ...] = ()
    required: Mapping[str, str] = field(default_factory=dict)
    """Paths of the new values that a person has to fill in, and why."""
    across: Mapping[str, str] = field(default_factory=dict)
    """Paths of generations before `source` that `source` has no value for, and `target` has."""


_RENAMED_AB = {
    "global.hostname": "publicAddr",
    "global.clusterDomain": "clusterDomain",
    "global.image.pullPolicy": "imagePullPolicy",
    "global.image.restartPolicy": "restartPolicy",
    "global.image.pullSecrets": "imagePullSecrets.name",
    "kasmApp.deploymentSize": "deploymentSize",
    "kasmApp.applyHardening": "applySecurity",
    "kasmCerts.ingress.name": "certificate.secretName",
    f"{_DEPLOY}.db.storageClassName": "database.storage.storageClassName",
    f"{_DEPLOY}.db.persistentVolumeClaimRetentionPolicy.whenDeleted": "database.storage.retentionPolicy.whenDeleted",
    f"{_DEPLOY}.db.persistentVolumeClaimRetentionPolicy.whenScaled": "database.storage.retentionPolicy.whenScaled",
    "global.ingressClassName": "ingress.ingressClassName",
    **{f"{_DEPLOY}.{old}.resources": f"{new}.resources" for old, new in _PARTS.items()},
    **{f"{_DEPLOY}.{old}.deploy": f"{new}.enabled" for old, new in _PARTS.items()},
}
_DROPPED_AB = {
    **{f"{_DEPLOY}.{old}.name": "workloads are now named after the release" for old in _PARTS},
    **{f"{_DEPLOY}.{old}.tag": _NEW_IMAGES for old in _PARTS},
    **{
        f"{_DEPLOY}.{old}.addHealthChecks": "health checks are now one switch, applyHealthChecks (on)" for old in _PARTS
    },
    **{f"{_DEPLOY}.{old}.replicas": "replicas follow deploymentSize in generation B" for old in _PARTS},
    f"{_DEPLOY}.kasmShare": "the chart has no share service since 1.1181",
    f"{_DEPLOY}.kasmRedis": "the chart has no Redis since 1.1181",
    f"{_DEPLOY}.kasmProxy.serviceKeepalive": "this value no longer exists",
    f"{_DEPLOY}.db.persistentVolumeClaimRetentionPolicy.enabled": "the policy now always applies",
    "kasmApp.name": "objects are now named after the release",
    "kasmCerts.ingress.create": "the chart no longer creates certificates",
}
_PERSON_AB = {
    "global.namespace": "the namespace is now set with helm's option -n",
    "global.altHostnames": "put these names into the certificate, and into kasmZones if they are zones",
    "global.image.pullCredentials": (
        "put them into a Secret of type kubernetes.io/dockerconfigjson and set it in imagePullSecrets.name"
    ),
    "global.kasmPasswords": (
        "generation B creates its passwords itself; copy the old ones to Secret <release>-secrets before the "
        "upgrade, or the database will reject the new ones"
    ),
    "kasmApp.zoneName": "give the zone its address: kasmZones: [{name: ..., upstream_auth_addr: ...}]",
    "kasmCerts": "put this certificate into a Secret of type kubernetes.io/tls and set it in certificate.secretName",
    **{f"{_DEPLOY}.{old}.image": f"set your registry's image in {new}.image.repository" for old, new in _PARTS.items()},
}

_EXTRA = ("configMap", "cronPod", "deployment", "pod", "pvc", "service", "secret", "statefulSet")
_RENAMED_BC = {
    **{f"annotations.{kind}": f"extraAnnotations.{kind}" for kind in _EXTRA},
    "annotations.cron": "extraAnnotations.cronJob",
    "extraLabels.cron": "extraLabels.cronJob",
    "imagePullSecrets.server": "imagePullSecrets.registry",
    **{
        f"components.{part}.initContainers": f"components.{part}.extraInitContainers"
        for part in ("proxy", "api", "manager", "guac", "rdpGateway", "rdpHttpsGateway")
    },
}
_DROPPED_BC = {
    "components.share": "generation C has no share service",
    "components.redis": "generation C has no Redis",
    "components.api.ttlBeforeDelete": "it is now dbManagement.initJobTTLSecondsAfterFinished, default 300",
    "annotations.certSecret": "this value no longer exists",
    "extraLabels.certSecret": "this value no longer exists",
    "extraLabels.jobPod": "this value no longer exists",
    "imagePullSecrets.type": "the chart creates Secrets of one type only",
    "ingress.extraHosts": "this value no longer exists",
    "dbManagement.upgrade.oldDbBackupPvc": "the chart creates the volume for the backup itself",
    "database.image.tag": _NEW_IMAGES,
    **{
        f"components.{part}.image.tag": _NEW_IMAGES
        for part in ("proxy", "api", "manager", "guac", "rdpGateway", "rdpHttpsGateway")
    },
}
_PERSON_BC = {
    "imagePullSecrets.password": "put it into a Secret and set that in imagePullSecrets.name",
    "dbManagement.upgrade.oldDbBackupFileName": "only needed for a dump that you created yourself",
}
_OWN_IMAGES = ("kasmweb/", "redis")


def _special_ab(path: str, value: Any, new: dict[str, Any]) -> Note | None:
    if path == "global.image.pullSecrets" and value:
        set_at(new, "imagePullSecrets.enabled", True)
        set_at(new, "imagePullSecrets.name", value)
        return Note(Fate.RENAMED, path, "imagePullSecrets.name")
    if path == "kasmApp.zoneName" and value in ("", "default"):
        return Note(Fate.DROPPED, path, why="the chart creates one zone called default automatically")
    if path in ("global.namespace", "kasmApp.name") and not value:
        return Note(Fate.DROPPED, path, why="it was empty")
    if path.startswith(("global.kasmPasswords.", "kasmCerts.")) and _is_empty(value):
        return Note(Fate.DROPPED, path, why="it was empty")
    if path.startswith("kasmApp.servicesToDeploy.") and path.endswith(".image") and str(value).startswith(_OWN_IMAGES):
        return Note(Fate.DROPPED, path, why="the new chart has its own images")
    return None


def _is_empty(value: Any) -> bool:
    """Nothing, or the chart's place holder, which is a comment inside of a text."""
    return value in ("", None) or (isinstance(value, str) and value.lstrip().startswith("#"))


def _special_bc(path: str, value: Any, new: dict[str, Any]) -> Note | None:
    if path == "kasmZones":
        set_at(new, path, [_zone(zone, first=number == 0) for number, zone in enumerate(value or [])])
        return Note(Fate.KEPT, path, path, "upstream_auth_addr is now proxy_hostname; the first zone is marked primary")
    if path == "database.standalone" and value is True:
        set_at(new, path, value)
        return Note(Fate.PERSON, path, path, "move the data to a PostgreSQL 16 server before the upgrade")
    if path == "database.hostname" and value == "kasm-db":
        return Note(Fate.DROPPED, path, why="the bundled database's Service is now <release>-db")
    if path.endswith(".image.repository"):
        registry, _, rest = str(value).partition("/")
        if "." in registry or ":" in registry or registry == "localhost":
            set_at(new, path, rest)
            set_at(new, f"{path.removesuffix('repository')}registry", registry)
            return Note(Fate.KEPT, path, path, "the registry is now a separate value (image.registry)")
    if path in ("dbManagement.initialize", "dbManagement.upgrade.enable"):
        set_at(new, path, path == "dbManagement.upgrade.enable")
        return Note(Fate.KEPT, path, path, "set for the upgrade of an existing Kasm")
    return _special_ab(path, value, new)  # keys of A that were left in a file of B


def _zone(zone: Any, *, first: bool) -> Any:
    if not isinstance(zone, Mapping):
        return zone
    renamed = {{"upstream_auth_addr": "proxy_hostname"}.get(key, key): value for key, value in zone.items()}
    return {**renamed, "primary": True} if first else renamed


_KEEP_DATABASE = Addition(
    "database.storage.retentionPolicy.whenDeleted",
    "Retain",
    "Delete would also delete the data",
    unless="database.standalone",
)
_CERTIFICATE = {"certificate.secretName": "set a Secret of type kubernetes.io/tls: pods mount it"}
STEPS = (
    Step(
        source=A,
        target=B,
        renamed=_RENAMED_AB,
        dropped=_DROPPED_AB,
        person=_PERSON_AB,
        special=_special_ab,
        added=(
            Addition("proxyService.type", "ClusterIP", "generation A had no LoadBalancer"),
            Addition("ingress.enabled", True, "generation A always created its Ingress"),
            _KEEP_DATABASE,
        ),
        required=_CERTIFICATE,
    ),
    Step(
        source=B,
        target=C,
        renamed=_RENAMED_BC,
        dropped=_DROPPED_BC,
        person=_PERSON_BC,
        special=_special_bc,
        added=(
            Addition(
                "dbManagement.initialize",
                False,
                "this Kasm exists: initialising would start with an empty database",
            ),
            Addition(
                "dbManagement.upgrade.enable",
                True,
                "dumps the database before the change and restores it afterwards",
            ),
            Addition(
                "useImageTags",
                kasm_version(".".join(str(number) for number in C.newest)),
                "some chart versions name images of the development branch",
            ),
            _KEEP_DATABASE,
        ),
        required=_CERTIFICATE,
        across={f"{_DEPLOY}.{old}.replicas": f"{new}.replicas" for old, new in _PARTS.items() if old != "db"},
    ),
)

CONNECTION = "components.connectionProxy"
TOGETHER: Mapping[str, str] = {
    **{
        f"components.{part}.{leaf}": f"{CONNECTION}.{part}.{leaf}"
        for part in ("guac", "rdpGateway", "rdpHttpsGateway")
        for leaf in ("enabled", "image", "resources", "healthCheckTiming")
    },
    "components.guac.guacClusterSize": f"{CONNECTION}.guac.guacClusterSize",
    "components.guac.recordingData": f"{CONNECTION}.guac.recordingData",
    "components.guac.replicas": f"{CONNECTION}.replicas",
    "components.guac.nginxSidecar.resources": f"{CONNECTION}.nginx.resources",
    "components.rdpGateway.iniConfigMapName": f"{CONNECTION}.rdpGateway.iniConfigMapName",
}
"""Within generation C, after 1.1190.7: three workloads became one."""


def longest(table: Mapping[str, str], path: str) -> str | None:
    """The longest entry of a table that is this path or a block around it."""
    while path:
        if path in table:
            return path
        path = path.rpartition(".")[0]
    return None


def moved(table: Mapping[str, str], path: str) -> str | None:
    """The path's new name by this table; None when the table does not speak of it."""
    entry = longest(table, path)
    return None if entry is None else table[entry] + path[len(entry) :]


def renamed_to(generation: Generation, path: str, version: Version | None = None) -> tuple[str, Generation | None]:
    """This generation's name for a path of another one, and whose path it was; ("", None) when no generation has it."""
    for other in ALL:
        if other is generation:
            if (new := moved(TOGETHER, path)) and known(generation, new, version):
                return new, other
            if (new := moved(_inverse(TOGETHER), path)) and known(generation, new, version):
                return new, other
        elif was_ever_known(other, path):
            new = _carried(other, generation, path)
            if new and known(generation, new, version):
                return new, other
            together = moved(TOGETHER, new) if new else None
            return (together, other) if together and known(generation, together, version) else ("", other)
    return "", None


def _carried(source: Generation, target: Generation, path: str) -> str:
    start, end = ALL.index(source), ALL.index(target)
    steps = STEPS[start:end] if start < end else tuple(reversed(STEPS[end:start]))
    for step in steps:
        across = step.across.get(path) if source is not step.source and start < end else None
        table = step.renamed if start < end else _inverse(step.renamed)
        path = across or moved(table, path) or path
    return path


def _inverse(table: Mapping[str, str]) -> dict[str, str]:
    return {new: old for old, new in table.items()}
