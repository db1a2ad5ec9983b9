"""Generation B: chart `kasm` 1.1170.x and 1.1181.x, Kasm 1.17.0 and 1.18.1. Flat values.

Services have fixed names, workloads the release's. Redis and the share service went after 1.1170.
"""

from collections.abc import Mapping

from vdi.kasm.generations.model import (
    ALWAYS,
    SIZES,
    Component,
    Container,
    Generation,
    Health,
    InitContainer,
    KnownIssue,
    Resources,
    VersionRange,
)

_SECURED = "applySecurity"
_WITH_REDIS = VersionRange(until=(1, 1170))


def _limited(cpu: str, *cpu_limits: str) -> Mapping[str, Resources]:
    """The same requests at each size, with another CPU limit."""
    return dict(zip(SIZES, (Resources(cpu, "64Mi", limit, "512Mi") for limit in cpu_limits), strict=True))


_USUAL = _limited("150m", "500m", "500m", "500m")
_GUAC = _limited("500m", "1", "1500m", "2")
_RDP = _limited("150m", "500m", "1", "1500m")
_SIDE = _limited("100m", "500m", "500m", "500m")
_WAIT = Resources("100m", "32Mi", "200m", "128Mi")
_DATABASE = {
    "small": Resources("500m", "128Mi", "750m", "512Mi"),
    "medium": Resources("512m", "512Mi", "1500m", "2Gi"),
    "large": Resources("512m", "2Gi", "4", "8Gi"),
}
_PROXIES = {"small": 1, "medium": 2, "large": 4}
_FEW = {"small": 1, "medium": 2, "large": 3}
_ONE = {"small": 1, "medium": 1, "large": 1}


def _wait(
    name: str, what: str, key: str, port: int, path: str = "/__healthcheck", only_when: str = ""
) -> InitContainer:
    return InitContainer(name, what, key, port=port, path=path, only_when=only_when, resources=_WAIT)


_API_WAIT = _wait("kasm-api-is-ready", "waits until the API responds", "api", 8080, "/api/__healthcheck")


def _perms(
    name: str, only_when: str = _SECURED, what: str = ("changes the owner of its folders to uid 1000")
) -> InitContainer:
    return InitContainer(name, what, only_when=only_when, as_root=True)


def _workload(
    key: str,
    value: str,
    port: int,
    *,
    steps: tuple[InitContainer, ...],
    resources: Mapping[str, Resources],
    replicas: dict[str, int],
    name: str = "",
    container: str = "",
    per_zone: bool = False,
    more_ports: tuple[int, ...] = (),
    switch: str = "",
    health: Health | None = None,
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
        ports=(port, *more_ports),
        health=health or Health(port, "/__healthcheck"),
        init_containers=steps,
        containers=(
            Container(f"{{release}}-{container or name}-container", resources, f"components.{value}.resources"),
        ),
        replicas=replicas,
        switch=switch,
        may_be_absent=versions is not ALWAYS,
        versions=versions,
    )


_COMPONENTS = (
    _workload(
        "proxy",
        "proxy",
        8080,
        steps=(
            _perms("{release}-proxy-data-perms", what="changes the owner of the nginx folders to uid 1000"),
            _API_WAIT,
            _wait("kasm-manager-{zone}-is-ready", "waits until the manager of its zone responds", "manager", 8181),
            _wait("kasm-guac-is-ready", "waits until guac responds", "guac", 3000, only_when="components.guac.enabled"),
            _wait(
                "kasm-rdp-gateway-is-ready",
                "waits until the RDP gateway responds",
                "rdp-gateway",
                5555,
                only_when="components.rdpGateway.enabled",
            ),
        ),
        resources=_USUAL,
        replicas=_PROXIES,
        container="proxy",
        per_zone=True,
        more_ports=(8443,),
        health=Health(what="nginx -t in the container, and a connection to port 8080"),
    ),
    _workload(
        "api",
        "api",
        8080,
        steps=(
            InitContainer(
                "db-is-ready",
                "waits until the database is initialised (a row in table zones)",
                "db",
                port=5432,
                resources=_WAIT,
            ),
        ),
        resources=_USUAL,
        replicas=_FEW,
        health=Health(8080, "/api/__healthcheck"),
    ),
    _workload("manager", "manager", 8181, steps=(_API_WAIT,), resources=_USUAL, replicas=_FEW, per_zone=True),
    _workload(
        "guac",
        "guac",
        3000,
        steps=(_perms("{release}-guac-tmp-perms"), _API_WAIT),
        resources=_GUAC,
        replicas=_FEW,
        more_ports=(3001, 3002, 3003, 3004),
        switch="components.guac.enabled",
    ),
    _workload(
        "rdp-gateway",
        "rdpGateway",
        5555,
        steps=(_perms("{release}-rdp-gw-tmp-perms", only_when=""), _API_WAIT),
        resources=_RDP,
        replicas=_FEW,
        name="rdp-gw",
        more_ports=(3389,),
        switch="components.rdpGateway.enabled",
    ),
    _workload(
        "rdp-https-gateway",
        "rdpHttpsGateway",
        9443,
        steps=(_API_WAIT, _perms("{release}-rdp-https-gw-tmp-perms")),
        resources=_RDP,
        replicas=_FEW,
        name="rdp-https-gw",
        switch="components.rdpHttpsGateway.enabled",
        health=Health(9443, "/rdp-https-gateway/__healthcheck", "https"),
    ),
    _workload(
        "share",
        "share",
        8182,
        steps=(InitContainer("redis-is-ready", "waits until Redis responds with PONG", "redis", port=6379), _API_WAIT),
        resources=_SIDE,
        replicas=_FEW,
        switch="components.share.enabled",
        versions=_WITH_REDIS,
    ),
    _workload(
        "redis",
        "redis",
        6379,
        steps=(),
        resources=_SIDE,
        replicas=_ONE,
        switch="components.redis.enabled",
        health=Health(what="redis-cli ping in the container"),
        versions=_WITH_REDIS,
    ),
    Component(
        key="db",
        kind="StatefulSet",
        name="{release}-db-statefulset",
        labels={"app.kubernetes.io/component": "db"},
        service="kasm-db",
        ports=(5432,),
        health=Health(what="psql -d kasm -U kasmapp -c 'SELECT 1' in the container"),
        init_containers=(
            _perms("{release}-db-data-perms", only_when="", what=("changes the owner of the data folder to uid 70")),
        ),
        containers=(Container("{release}-db-container", _DATABASE, "database.resources"),),
        replicas=_ONE,
        switch="!database.standalone",
        claim_gib=8,
    ),
    Component(
        key="db-init",
        kind="Job",
        name="{release}-db-init-job",
        labels={"app.kubernetes.io/component": "db-init"},
        init_containers=(
            InitContainer("db-is-ready", "waits until the database accepts connections", "db", port=5432),
        ),
        switch="dbManagement.initialize",
        may_be_absent=True,
    ),
)

B = Generation(
    letter="B",
    plain_secrets=("imagePullSecrets.password", "route.tls.key"),
    value_rules=frozenset({"hostname", "way_in", "zones", "database", "certificate", "plain_secrets"}),
    makes_certificate=None,
    chart="kasm",
    kasm="Kasm 1.17.0 and 1.18.1",
    source="kasm --repo https://helm.kasm.com",
    newest=(1, 1181, 1),
    oldest=(1, 1170),
    postgres_major=14,
    minimum_helm=(3,),
    components=_COMPONENTS,
    paths={
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
        "database_port": "database.port",
        "database_name": "database.kasmDbName",
        "database_user": "database.kasmDbUser",
        "database_secret": "database.kasmDbSecret",
        "database_master": "database.postgresMasterUser",
        "initialize": "dbManagement.initialize",
    },
    known_issues=(
        KnownIssue(
            "kasm_root_init_container",
            "init containers run as root: rdp-gw-tmp-perms and db-data-perms always, others with applySecurity, "
            "which is on by default",
            "run the namespace at Pod Security baseline, not restricted",
        ),
    ),
    secrets="{release}-secrets",
)
