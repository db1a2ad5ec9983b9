"""Where each value of one generation has gone in the next. Data, and the look-up of a single path; pure.

A path stands for everything below it; the longest one that fits decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from vdi.kasm.generations import ALL, A, B, C, Generation, Version
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
_NEW_IMAGES = "the new chart brings its own images"


@dataclass(frozen=True, slots=True)
class Step:
    """One move: renamed paths, paths that have no successor and why, and paths that a person has to look at."""

    source: Generation
    target: Generation
    renamed: Mapping[str, str]
    dropped: Mapping[str, str]
    person: Mapping[str, str]


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
    **{f"{_DEPLOY}.{old}.name": "workloads are named after the release now" for old in _PARTS},
    **{f"{_DEPLOY}.{old}.tag": _NEW_IMAGES for old in _PARTS},
    **{
        f"{_DEPLOY}.{old}.addHealthChecks": "health checks are one switch now, applyHealthChecks (on)" for old in _PARTS
    },
    **{f"{_DEPLOY}.{old}.replicas": "replicas follow deploymentSize in generation B" for old in _PARTS},
    f"{_DEPLOY}.kasmShare": "the chart has no share service since 1.1181",
    f"{_DEPLOY}.kasmRedis": "the chart has no Redis since 1.1181",
    f"{_DEPLOY}.kasmProxy.serviceKeepalive": "there is no such value any more",
    f"{_DEPLOY}.db.persistentVolumeClaimRetentionPolicy.enabled": "the policy always holds now",
    "kasmApp.name": "objects are named after the release now",
    "kasmCerts.ingress.create": "the chart makes no certificates any more",
}
_PERSON_AB = {
    "global.namespace": "the namespace is helm's (-n) now",
    "global.altHostnames": "put these names into the certificate, and into kasmZones where they are zones",
    "global.image.pullCredentials": "put them into a Secret of type kubernetes.io/dockerconfigjson and name it in"
    " imagePullSecrets.name",
    "global.kasmPasswords": "generation B makes its passwords itself; carry the old ones over in Secret"
    " <release>-secrets before the upgrade, or the database will refuse the new one",
    "kasmApp.zoneName": "give the zone its address: kasmZones: [{name: ..., upstream_auth_addr: ...}]",
    "kasmCerts": "put this certificate into a Secret of type kubernetes.io/tls and name it in certificate.secretName",
    **{
        f"{_DEPLOY}.{old}.image": f"name your registry's image in {new}.image.repository" for old, new in _PARTS.items()
    },
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
    "components.api.ttlBeforeDelete": "it is dbManagement.initJobTTLSecondsAfterFinished, 300 by itself",
    "annotations.certSecret": "there is no such value any more",
    "extraLabels.certSecret": "there is no such value any more",
    "extraLabels.jobPod": "there is no such value any more",
    "imagePullSecrets.type": "the chart makes Secrets of one type only",
    "ingress.extraHosts": "there is no such value any more",
    "dbManagement.upgrade.oldDbBackupPvc": "the chart makes the volume for the backup itself",
    "database.image.tag": _NEW_IMAGES,
    **{
        f"components.{part}.image.tag": _NEW_IMAGES
        for part in ("proxy", "api", "manager", "guac", "rdpGateway", "rdpHttpsGateway")
    },
}
_PERSON_BC = {
    "imagePullSecrets.password": "put it into a Secret and name that in imagePullSecrets.name",
    "dbManagement.upgrade.oldDbBackupFileName": "only needed for a dump that you have made yourself",
}
STEPS = (
    Step(A, B, _RENAMED_AB, _DROPPED_AB, _PERSON_AB),
    Step(B, C, _RENAMED_BC, _DROPPED_BC, _PERSON_BC),
)

ACROSS: Mapping[str, str] = {
    f"{_DEPLOY}.{old}.replicas": f"{new}.replicas" for old, new in _PARTS.items() if old != "db"
}
"""From A to C past B, which has no such values."""

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
            across = ACROSS.get(path) if other is A and generation is C else None
            new = across or _carried(other, generation, path)
            if new and known(generation, new, version):
                return new, other
            together = moved(TOGETHER, new) if new else None
            return (together, other) if together and known(generation, together, version) else ("", other)
    return "", None


def _carried(source: Generation, target: Generation, path: str) -> str:
    start, end = ALL.index(source), ALL.index(target)
    steps = STEPS[start:end] if start < end else tuple(reversed(STEPS[end:start]))
    for step in steps:
        table = step.renamed if start < end else _inverse(step.renamed)
        path = moved(table, path) or path
    return path


def _inverse(table: Mapping[str, str]) -> dict[str, str]:
    return {new: old for old, new in table.items()}
