"""Generation B: chart `kasm` 1.1170.x and 1.1181.x, Kasm 1.17.0 and 1.18.1. Flat values.

Services have fixed names, workloads the release's. Redis and the share service went after 1.1170.
"""

from collections.abc import Mapping
from functools import partial

from vdi.kasm.generations.model import (
    ALWAYS,
    Component,
    Container,
    Generation,
    InitContainer,
    Resources,
    VersionRange,
    counts,
    presets,
    resources,
)
from vdi.kasm.generations.value_keys import KEYS_B

_SECURED = "applySecurity"
_WITH_REDIS = VersionRange(until=(1, 1170))
_USUAL, _SIDE = presets("150m 64Mi 500m 512Mi"), presets("100m 64Mi 500m 512Mi")
_GUAC = presets("500m 64Mi 1 512Mi", "500m 64Mi 1500m 512Mi", "500m 64Mi 2 512Mi")
_RDP = presets("150m 64Mi 500m 512Mi", "150m 64Mi 1 512Mi", "150m 64Mi 1500m 512Mi")
_DATABASE = presets("500m 128Mi 750m 512Mi", "512m 512Mi 1500m 2Gi", "512m 2Gi 4 8Gi")
_FEW = counts(1, 2, 3)
_InitContainer = partial(InitContainer, resources=resources("100m 32Mi 200m 128Mi"))
_API_WAIT = _InitContainer(
    "kasm-api-is-ready", "waits until the API responds", "api", 8080, "/api/__healthcheck"
)
_DB_WAIT = _InitContainer(
    "db-is-ready", "waits until the database is initialised (a row in table zones)", "db", port=5432
)


def _wait(name: str, words: str, key: str, port: int, only_when: str = "") -> InitContainer:
    return _InitContainer(name, f"waits until {words}", key, port, "/__healthcheck", only_when)


def _perms(
    name: str, only_when: str = _SECURED, what: str = "its folders to uid 1000"
) -> InitContainer:
    return InitContainer(name, f"changes the owner of {what}", only_when=only_when, as_root=True)


def _workload(
    key: str,
    value: str,
    *ports: int,
    steps: tuple[InitContainer, ...],
    resources: Mapping[str, Resources],
    replicas: Mapping[str, int] = _FEW,
    name: str = "",
    container: str = "",
    per_zone: bool = False,
    versions: VersionRange = ALWAYS,
) -> Component:
    zone = "-{zone}" if per_zone else ""
    name = name or f"{key}{zone}"
    return Component(
        key=key,
        kind="Deployment",
        name=f"{{release}}-{name}-deployment",
        labels={"app.kubernetes.io/component": key},
        service=f"kasm-{key}{zone}",
        ports=ports,
        init_containers=steps,
        containers=(
            Container(
                f"{{release}}-{container or name}-container",
                resources,
                f"components.{value}.resources",
            ),
        ),
        replicas=replicas,
        switch=f"components.{value}.enabled" if key not in ("proxy", "api", "manager") else "",
        may_be_absent=versions is not ALWAYS,
        versions=versions,
    )


_PROXY_STEPS = (
    _perms("{release}-proxy-data-perms", what="the nginx folders to uid 1000"),
    _API_WAIT,
    _wait("kasm-manager-{zone}-is-ready", "the manager of its zone responds", "manager", 8181),
    _wait("kasm-guac-is-ready", "guac responds", "guac", 3000, "components.guac.enabled"),
    _wait(
        "kasm-rdp-gateway-is-ready",
        "the RDP gateway responds",
        "rdp-gateway",
        5555,
        "components.rdpGateway.enabled",
    ),
)
_REDIS_WAIT = InitContainer(
    "redis-is-ready", "waits until Redis responds with PONG", "redis", port=6379
)
_COMPONENTS = (
    _workload(
        *("proxy", "proxy", 8080, 8443),
        steps=_PROXY_STEPS,
        resources=_USUAL,
        replicas=counts(1, 2, 4),
        container="proxy",
        per_zone=True,
    ),
    _workload("api", "api", 8080, steps=(_DB_WAIT,), resources=_USUAL),
    _workload("manager", "manager", 8181, steps=(_API_WAIT,), resources=_USUAL, per_zone=True),
    _workload(
        *("guac", "guac", 3000, 3001, 3002, 3003, 3004),
        steps=(_perms("{release}-guac-tmp-perms"), _API_WAIT),
        resources=_GUAC,
    ),
    _workload(
        *("rdp-gateway", "rdpGateway", 5555, 3389),
        steps=(_perms("{release}-rdp-gw-tmp-perms", only_when=""), _API_WAIT),
        resources=_RDP,
        name="rdp-gw",
    ),
    _workload(
        *("rdp-https-gateway", "rdpHttpsGateway", 9443),
        steps=(_API_WAIT, _perms("{release}-rdp-https-gw-tmp-perms")),
        resources=_RDP,
        name="rdp-https-gw",
    ),
    _workload(
        "share",
        "share",
        8182,
        steps=(_REDIS_WAIT, _API_WAIT),
        resources=_SIDE,
        versions=_WITH_REDIS,
    ),
    _workload(
        "redis", "redis", 6379, steps=(), resources=_SIDE, replicas=counts(1), versions=_WITH_REDIS
    ),
    Component(
        key="db",
        kind="StatefulSet",
        name="{release}-db-statefulset",
        labels={"app.kubernetes.io/component": "db"},
        service="kasm-db",
        ports=(5432,),
        init_containers=(
            _perms("{release}-db-data-perms", only_when="", what="the data folder to uid 70"),
        ),
        containers=(Container("{release}-db-container", _DATABASE, "database.resources"),),
        replicas=counts(1),
        switch="!database.standalone",
        claim_gib=8,
    ),
    Component(
        key="db-init",
        kind="Job",
        name="{release}-db-init-job",
        labels={"app.kubernetes.io/component": "db-init"},
        init_containers=(
            InitContainer(
                "db-is-ready", "waits until the database accepts connections", "db", port=5432
            ),
        ),
        switch="dbManagement.initialize",
        may_be_absent=True,
    ),
)
PATHS: Mapping[str, str] = {
    "hostname": "publicAddr",
    "size": "deploymentSize",
    "zones": "kasmZones",
    "zone_address": "upstream_auth_addr",
    "hardening": _SECURED,
    "pull_policy": "imagePullPolicy",
    "storage_class": "database.storage.storageClassName",
    "storage_size": "database.storage.pvcSize",
    "retention": "database.storage.retentionPolicy.whenDeleted",
    "proxy_service_type": "proxyService.type",
    "ingress_enabled": "ingress.enabled",
    "ingress_class": "ingress.ingressClassName",
    "tls_secret": "certificate.secretName",
    "database_external": "database.standalone",
    "database_host": "database.hostname",
    "database_secret": "database.kasmDbSecret",
    "initialize": "dbManagement.initialize",
}

B = Generation(
    letter="B",
    chart="kasm",
    kasm="Kasm 1.17.0 and 1.18.1",
    source="kasm --repo https://helm.kasm.com",
    newest=(1, 1181, 1),
    oldest=(1, 1170),
    postgres_major=14,
    minimum_helm=(3,),
    components=_COMPONENTS,
    keys=KEYS_B,
    paths=PATHS,
    plain_secrets=("imagePullSecrets.password", "route.tls.key"),
    makes_certificate=None,
)
