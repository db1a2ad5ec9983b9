"""Generation B: chart `kasm` 1.1181.x, Kasm 1.18.1. Flat values; Services have fixed names, workloads the release's."""

from vdi.kasm.generations.model import Component, Container, Generation, Health, InitContainer, KnownIssue, Resources

_SECURED = "applySecurity"
_USUAL = Resources("150m", "64Mi", "500m", "512Mi")
_GUAC = Resources("500m", "64Mi", "", "512Mi")
_SIDE = Resources("100m", "64Mi", "500m", "512Mi")
_DATABASE = {
    "small": Resources("500m", "128Mi", "750m", "512Mi"),
    "medium": Resources("512m", "512Mi", "1500m", "2Gi"),
    "large": Resources("512m", "2Gi", "4", "8Gi"),
}
_MANY = {"small": 1, "medium": 4, "large": 8}
_FEW = {"small": 1, "medium": 2, "large": 3}
_ONE = {"small": 1, "medium": 1, "large": 1}

_API_WAIT = InitContainer(
    "kasm-api-is-ready", "waits until the API answers", "api", port=8080, path="/api/__healthcheck"
)


def _same(resources: Resources) -> dict[str, Resources]:
    return dict.fromkeys(("small", "medium", "large"), resources)


def _perms(name: str, only_when: str = _SECURED) -> InitContainer:
    return InitContainer(name, "hands its folders over to uid 1000", only_when=only_when, as_root=True)


def _workload(
    key: str,
    value: str,
    port: int,
    *,
    steps: tuple[InitContainer, ...],
    resources: Resources,
    replicas: dict[str, int],
    per_zone: bool = False,
    more_ports: tuple[int, ...] = (),
    switch: str = "",
    health: Health | None = None,
    may_be_absent: bool = False,
) -> Component:
    zone = "-{zone}" if per_zone else ""
    return Component(
        key=key,
        kind="Deployment",
        name=f"{{release}}-{key}{zone}-deployment",
        labels={"app.kubernetes.io/component": key},
        service=f"kasm-{key}{zone}",
        ports=(port, *more_ports),
        health=health or Health(port, "/__healthcheck"),
        init_containers=steps,
        containers=(
            Container(f"{{release}}-{key}{zone}-container", _same(resources), f"components.{value}.resources"),
        ),
        replicas=replicas,
        switch=switch,
        may_be_absent=may_be_absent,
    )


_COMPONENTS = (
    _workload(
        "proxy",
        "proxy",
        8080,
        steps=(
            InitContainer(
                "{release}-proxy-data-perms",
                "hands the nginx folders over to uid 1000",
                only_when=_SECURED,
                as_root=True,
            ),
            _API_WAIT,
            InitContainer(
                "kasm-manager-{zone}-is-ready",
                "waits until the manager of its zone answers",
                "manager",
                port=8181,
                path="/__healthcheck",
            ),
            InitContainer(
                "kasm-guac-is-ready",
                "waits until guac answers",
                "guac",
                port=3000,
                path="/__healthcheck",
                only_when="components.guac.enabled",
            ),
            InitContainer(
                "kasm-rdp-gateway-is-ready",
                "waits until the RDP gateway answers",
                "rdp-gateway",
                port=5555,
                path="/__healthcheck",
                only_when="components.rdpGateway.enabled",
            ),
        ),
        resources=_USUAL,
        replicas=_MANY,
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
                "db-is-ready", "waits until the database is initialised (a row in table zones)", "db", port=5432
            ),
        ),
        resources=_USUAL,
        replicas=_MANY,
        health=Health(8080, "/api/__healthcheck"),
    ),
    _workload("manager", "manager", 8181, steps=(_API_WAIT,), resources=_USUAL, replicas=_MANY, per_zone=True),
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
        steps=(_perms("{release}-rdp-gateway-tmp-perms", only_when=""), _API_WAIT),
        resources=_USUAL,
        replicas=_FEW,
        more_ports=(3389,),
        switch="components.rdpGateway.enabled",
    ),
    _workload(
        "rdp-https-gateway",
        "rdpHttpsGateway",
        9443,
        steps=(_API_WAIT, _perms("{release}-rdp-https-gateway-tmp-perms")),
        resources=_USUAL,
        replicas=_FEW,
        switch="components.rdpHttpsGateway.enabled",
        health=Health(9443, "/rdp-https-gateway/__healthcheck", "https"),
    ),
    _workload(
        "share",
        "share",
        8182,
        steps=(InitContainer("redis-is-ready", "waits until Redis answers PONG", "redis", port=6379), _API_WAIT),
        resources=_SIDE,
        replicas=_FEW,
        switch="components.share.enabled",
        may_be_absent=True,
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
        may_be_absent=True,
    ),
    Component(
        key="db",
        kind="StatefulSet",
        name="{release}-db-statefulset",
        labels={"app.kubernetes.io/component": "db"},
        service="kasm-db",
        ports=(5432,),
        health=Health(what="psql -d kasm -U kasmapp -c 'SELECT 1' in the container"),
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
        init_containers=(InitContainer("db-is-ready", "waits until the database takes connections", "db", port=5432),),
        switch="dbManagement.initialize",
        may_be_absent=True,
    ),
)

B = Generation(
    letter="B",
    plain_secrets=("imagePullSecrets.password", "route.tls.key"),
    value_rules=frozenset({"hostname", "way_in", "zones", "database", "certificate", "plain_secrets"}),
    makes_certificate=False,
    chart="kasm",
    kasm="Kasm 1.18.1",
    source="kasm --repo https://helm.kasm.com",
    newest=(1, 1181, 0),
    oldest=(1, 1181),
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
            "with applySecurity init containers run as root (proxy-data-perms and others)",
            "run the namespace at Pod Security baseline, not restricted",
        ),
    ),
    secrets="{release}-secrets",
)
