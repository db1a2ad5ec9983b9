"""Which values each generation's chart knows, and of what kind each is. Data and lookup; pure.

A kind is a word: `str`, `int`, `bool`, `map` and `list` (anything inside), `resources` (requests and limits), `address`
(an IP address), `zones`, or `a|b|c` (one of these words). A chart's own JSON schema is
not enough: B's lets unknown keys pass at the top level, C's everywhere; A's refuses them without naming the right one.
"""

import difflib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from vdi.kasm.generations import A, B, C, Generation, Version, VersionRange

Tree = Mapping[str, Any]
_RETENTION = "Retain|Delete"
_SIZE = "small|medium|large"

_A_IMAGE = {"name": "str", "image": "str", "tag": "str"}
_A_PART = {**_A_IMAGE, "addHealthChecks": "bool", "replicas": "int", "resources": "resources"}
_A_CHOICE = {**_A_PART, "deploy": "bool"}
_A_CERTIFICATE = {"name": "str", "create": "bool", "cert": "str", "key": "str"}
_TREE_A: Tree = {
    "global": {
        "namespace": "str",
        "clusterDomain": "str",
        "ingressClassName": "str",
        "image": {
            "pullSecrets": "str",
            "pullPolicy": "Always|IfNotPresent|Never",
            "restartPolicy": "Always|OnFailure|Never",
            "pullCredentials": "map",
        },
        "hostname": "str",
        "altHostnames": "list",
        "kasmPasswords": dict.fromkeys(
            ("redisPassword", "dbPassword", "managerToken", "serviceToken", "adminPassword", "userPassword"), "str"
        ),
    },
    "kasmApp": {
        "name": "str",
        "zoneName": "str",
        "applyHardening": "bool",
        "deploymentSize": _SIZE,
        "servicesToDeploy": {
            "kasmProxy": {**_A_PART, "serviceKeepalive": "int"},
            "db": {
                **_A_IMAGE,
                "addHealthChecks": "bool",
                "storageClassName": "str",
                "resources": "resources",
                "persistentVolumeClaimRetentionPolicy": {
                    "enabled": "bool",
                    "whenDeleted": _RETENTION,
                    "whenScaled": _RETENTION,
                },
            },
            "kasmApi": _A_PART,
            "kasmManager": _A_PART,
            "kasmGuac": _A_CHOICE,
            "rdpGateway": _A_CHOICE,
            "rdpHttpsGateway": _A_CHOICE,
            "kasmShare": _A_CHOICE,
            "kasmRedis": {**_A_IMAGE, "deploy": "bool", "addHealthChecks": "bool", "resources": "resources"},
        },
    },
    "kasmCerts": dict.fromkeys(("ingress", "kasmProxy", "rdpGateway", "db"), _A_CERTIFICATE),
}

_CERTIFICATE = {
    "secretName": "str",
    "certManager": {
        "enabled": "bool",
        "addWildCard": "bool",
        "issuerName": "str",
        "issuerKind": "str",
        "issuerGroup": "str",
        "annotations": "map",
        "labels": "map",
    },
}
_INGRESS = {
    "enabled": "bool",
    "tls": "bool",
    "backendProtocol": "http|https",
    "ingressClassName": "str",
    "annotations": "map",
    "labels": "map",
}
_DATABASE = {
    "standalone": "bool",
    "hostname": "str",
    "port": "int",
    "kasmDbName": "str",
    "kasmDbUser": "str",
    "kasmDbSecret": {"name": "str", "key": "str"},
    "postgresMasterUser": {"username": "str", "secret": {"name": "str", "key": "str"}},
    "storage": {
        "storageClassName": "str",
        "pvcSize": "int",
        "retentionPolicy": {"whenDeleted": _RETENTION, "whenScaled": _RETENTION},
    },
    "annotations": "map",
    "labels": "map",
    "resources": "resources",
}
_BACKUP_CRON = {
    "enabled": "bool",
    "pvcName": "str",
    "schedule": "str",
    "timeZone": "str",
    "storageClass": "str",
    "pvcSize": "int",
}
_PLACEMENT = {
    "clusterDomain": "str",
    "nodeSelector": "map",
    "affinity": "map",
    "applySecurity": "bool",
    "applyHealthChecks": "bool",
    "restartPolicy": "Always|OnFailure|Never",
    "labels": "map",
    "extraObjects": "list|map|str",
}
_B_KINDS = (
    "certSecret",
    "configMap",
    "cron",
    "cronPod",
    "deployment",
    "pod",
    "pvc",
    "service",
    "secret",
    "statefulSet",
)
_B_PART = {
    "image": {"repository": "str", "tag": "str"},
    "annotations": "map",
    "labels": "map",
    "resources": "resources",
    "initContainers": "list",
    "extraVolumes": "list",
    "extraVolumeMounts": "list",
}
_B_CHOICE = {**_B_PART, "enabled": "bool"}
_TREE_B: Tree = {
    "deploymentSize": _SIZE,
    "publicAddr": "str",
    "kasmZones": "zones",
    "proxyService": {"type": "ClusterIP|LoadBalancer", "annotations": "map", "labels": "map"},
    "ingress": {**_INGRESS, "extraHosts": "list"},
    "route": {"enabled": "bool", "tls": "map", "annotations": "map", "labels": "map"},
    "certificate": _CERTIFICATE,
    "database": {**_DATABASE, "image": {"repository": "str", "tag": "str"}},
    "dbManagement": {
        "initialize": "bool",
        "upgrade": {
            "enable": "bool",
            "oldDbSecretsName": "str",
            "oldDbBackupPvc": "str",
            "oldDbBackupFileName": "str",
        },
        "backupCron": _BACKUP_CRON,
    },
    "components": {
        "proxy": _B_PART,
        "api": {**_B_PART, "ttlBeforeDelete": "int"},
        "manager": _B_PART,
        "guac": _B_CHOICE,
        "rdpGateway": _B_CHOICE,
        "rdpHttpsGateway": _B_CHOICE,
        "share": _B_CHOICE,
        "redis": _B_CHOICE,
    },
    "imagePullPolicy": "Always|IfNotPresent|Never",
    "imagePullSecrets": {
        "enabled": "bool",
        **dict.fromkeys(("name", "type", "server", "username", "password", "email"), "str"),
        "labels": "map",
        "annotations": "map",
    },
    **_PLACEMENT,
    "annotations": dict.fromkeys(_B_KINDS, "map"),
    "extraLabels": dict.fromkeys((*_B_KINDS, "job", "jobPod"), "map"),
}

_C_KINDS = ("configMap", "cronJob", "cronPod", "deployment", "job", "pod", "pvc", "service", "secret", "statefulSet")
_C_IMAGE = {"registry": "str", "repository": "str", "tag": "str"}
_EXTRAS = dict.fromkeys(("extraVolumes", "extraVolumeMounts", "extraContainers", "extraInitContainers"), "list")
_TIMING = {"livenessProbe": "map", "readinessProbe": "map"}
_C_CONTAINER = {"image": _C_IMAGE, "resources": "resources", "healthCheckTiming": _TIMING}
_C_PART = {**_C_CONTAINER, "replicas": "int", "annotations": "map", "labels": "map", **_EXTRAS}
_C_CHOICE = {
    **_C_PART,
    "enabled": "bool",
    "nginxSidecar": {
        "resources": "resources",
        "healthCheckTiming": _TIMING,
        "extraVolumes": "list",
        "extraVolumeMounts": "list",
    },
}
_RECORDING = {"pvcSize": "int", "storageClassName": "str"}
_ENABLED = {"enabled": "bool"}
_TREE_C: Tree = {
    "deploymentSize": _SIZE,
    "publicAddr": "str",
    "kasmZones": "zones",
    "isOpenshift": "bool",
    "logFormat": "log|json",
    "nginxResolver": "address",
    "proxyService": {
        "type": "ClusterIP|LoadBalancer|NodePort",
        "nodePort": "int",
        "annotations": "map",
        "labels": "map",
    },
    "directRdpService": {
        "enabled": "bool",
        "rdpAccessURL": "str",
        "type": "LoadBalancer|NodePort",
        "loadBalancerPort": "int",
        "annotations": "map",
        "labels": "map",
        "perServiceSettings": "list",
    },
    "ingress": _INGRESS,
    "route": {
        "enabled": "bool",
        "backendProtocol": "http|https",
        "wildcardPolicy": "None|Subdomain",
        "tls": "map",
        "annotations": "map",
        "labels": "map",
    },
    "httpRoute": "map",
    "tlsRoute": "map",
    "tcpRoute": "map",
    "upstreamAuth": "map",
    "serviceAccount": "map",
    "networkPolicy": "map",
    "certificate": _CERTIFICATE,
    "trustedCaBundle": {"enabled": "bool", "configMapName": "str", "caCerts": "map"},
    "kasmSecrets": {"create": "bool", "name": "str", "passwords": "map", "annotations": "map", "labels": "map"},
    "useImageTags": "str",
    "database": {**_DATABASE, "image": _C_IMAGE, "healthCheckTiming": _TIMING, **_EXTRAS},
    "dbManagement": {
        "initialize": "bool",
        "initJobTTLSecondsAfterFinished": "int",
        "dbConnectionTimeout": "int",
        "upgrade": {
            "enable": "bool",
            "oldDbHostname": "str",
            "skipBackupAndRestore": "bool",
            "backupStorageClass": "str",
            "oldDbSecretsName": "str",
            "oldDbBackupFileName": "str",
        },
        "backupCron": _BACKUP_CRON,
    },
    "components": {
        "proxy": _C_PART,
        "api": {
            **_C_PART,
            "healthCheckTiming": {**_TIMING, "startupProbe": "map"},
            "threadPool": "int",
            "threadPoolLogInterval": "int",
        },
        "manager": {**_C_PART, "updateTimer": "int", "supportBundleTimer": "int"},
        "guac": {**_C_CHOICE, "guacClusterSize": "int", "recordingData": _RECORDING},
        "rdpGateway": {**_C_CHOICE, "iniConfigMapName": "str"},
        "rdpHttpsGateway": _C_CHOICE,
        "connectionProxy": {
            **_ENABLED,
            "replicas": "int",
            "annotations": "map",
            "labels": "map",
            "nginx": _C_CONTAINER,
            "guac": {**_ENABLED, **_C_CONTAINER, "guacClusterSize": "int", "recordingData": _RECORDING},
            "rdpGateway": {**_ENABLED, **_C_CONTAINER, "iniConfigMapName": "str"},
            "rdpHttpsGateway": {**_ENABLED, **_C_CONTAINER},
            **_EXTRAS,
        },
    },
    "imagePullPolicy": "Always|IfNotPresent|Never",
    "imagePullSecrets": {
        "enabled": "bool",
        **dict.fromkeys(("name", "registry", "username", "password", "email"), "str"),
        "labels": "map",
        "annotations": "map",
    },
    **_PLACEMENT,
    "annotations": "map",
    "extraAnnotations": dict.fromkeys(_C_KINDS, "map"),
    "extraLabels": dict.fromkeys(_C_KINDS, "map"),
    "extraVolumes": "list",
    "extraContainerVolumeMounts": "list",
    "extraInitVolumeMounts": "list",
    "extraContainers": "list",
    "extraInitContainers": "list",
    "kasmConfig": {
        **dict.fromkeys(("generatePreseed", "defaultUsers", "defaultApiUsers"), "bool"),
        "adminUsername": "str",
        "authDomain": "str",
        "existingDefaultPropertiesSecret": {"name": "str", "key": "str"},
        "config": "map",
    },
}
_TREES = {A.letter: _TREE_A, B.letter: _TREE_B, C.letter: _TREE_C}
_APART = VersionRange(until=(1, 1190, 7))
_SPANS: Mapping[str, Mapping[str, VersionRange]] = {
    A.letter: {"global.ingressClassName": VersionRange(since=(1, 16, 1))},
    B.letter: {
        "components.redis": VersionRange(until=(1, 1170)),
        "components.share": VersionRange(until=(1, 1170)),
    },
    C.letter: {
        "nginxResolver": VersionRange(since=(1, 1190, 5)),
        "kasmSecrets": VersionRange(since=(1, 1190, 5)),
        "kasmConfig": VersionRange(since=(1, 1190, 3)),
        "logFormat": VersionRange(since=(1, 1190, 1)),
        "dbManagement.dbConnectionTimeout": VersionRange(since=(1, 1190, 1)),
        "components.api.threadPool": VersionRange(since=(1, 1190, 1)),
        "components.api.threadPoolLogInterval": VersionRange(since=(1, 1190, 1)),
        "components.guac": _APART,
        "components.rdpGateway": _APART,
        "components.rdpHttpsGateway": _APART,
        "components.connectionProxy": VersionRange(since=(1, 1190, 8)),
        "proxyService.nodePort": VersionRange(since=(1, 1200)),
    },
}
ZONE_KEYS: Mapping[str, Mapping[str, str]] = {
    B.letter: {"name": "str", "upstream_auth_addr": "str"},
    C.letter: {
        **dict.fromkeys(("name", "zone_name", "proxy_hostname", "proxyAddress", "region_name"), "str"),
        "primary": "bool",
        "seedOnly": "bool",
    },
}
"""What an entry of kasmZones may hold."""


def tree_of(generation: Generation) -> Tree:
    """The values that this generation knows, in its own order."""
    return _TREES[generation.letter]


def versions_of(generation: Generation, path: str) -> VersionRange | None:
    """In which chart versions a key exists, where not in all of the generation."""
    return _SPANS.get(generation.letter, {}).get(path)


def known(generation: Generation, path: str, version: Version | None = None) -> bool:
    """Whether a chart of this version reads this path (a block counts, and anything inside a free-form one)."""
    keys = path.split(".")
    blocks = (".".join(keys[: length + 1]) for length in range(len(keys)))
    spans = (versions_of(generation, block) for block in blocks)
    return was_ever_known(generation, path) and all(
        versions is None or versions.holds(version or generation.newest) for versions in spans
    )


def was_ever_known(generation: Generation, path: str) -> bool:
    """Whether a chart of any version of this generation reads this path."""
    node: Any = tree_of(generation)
    for key in path.split("."):
        if not isinstance(node, Mapping):
            return "map" in node or node == "resources"
        if key not in node:
            return False
        node = node[key]
    return True


@lru_cache(maxsize=8)
def all_paths(letter: str) -> tuple[str, ...]:
    """Every path of a generation, blocks included."""
    return tuple(_walk(_TREES[letter], ""))


def _walk(node: Tree, prefix: str) -> Iterator[str]:
    for key, below in node.items():
        yield f"{prefix}{key}"
        if isinstance(below, Mapping):
            yield from _walk(below, f"{prefix}{key}.")


def nearest(generation: Generation, path: str, version: Version | None = None) -> str:
    """The path of this generation that was probably meant; "" when none is near."""
    candidates = [path for path in all_paths(generation.letter) if known(generation, path, version)]
    parent, _, leaf = path.rpartition(".")
    siblings = [candidate for candidate in candidates if candidate.rpartition(".")[0] == parent]
    by_leaf = {sibling.rpartition(".")[2].casefold(): sibling for sibling in reversed(siblings)}
    if close := difflib.get_close_matches(leaf.casefold(), by_leaf, n=1, cutoff=0.75):
        return by_leaf[close[0]]
    if same := [candidate for candidate in candidates if candidate.rpartition(".")[2].casefold() == leaf.casefold()]:
        return min(same, key=len)
    found = difflib.get_close_matches(path, candidates, n=1, cutoff=0.85)
    return found[0] if found else ""
