"""Generation A: chart `kasm-single-zone`, Kasm 1.16 and 1.17, a technical preview. Values under `global` and `kasmApp`.

Presets are those of the chart's last state (1.17).
"""

from vdi.kasm.generations.model import Component, Container, Generation, Health, InitContainer, KnownIssue, Resources

_DEPLOY = "kasmApp.servicesToDeploy"
_HARDENED = "kasmApp.applyHardening"
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

_API_WAIT = InitContainer("api-is-ready", "waits until the API answers", "api", port=8080, path="/api/__healthcheck")
_API_WAIT_NAMED = InitContainer(
    "kasm-api-is-ready", "waits until the API answers", "api", port=8080, path="/api/__healthcheck"
)
_API_WAITS = (_API_WAIT, _API_WAIT_NAMED)
_DB_ZONES = InitContainer(
    "db-is-ready", "waits until the database is initialised (a row in table zones)", "db", port=5432
)


def _same(resources: Resources) -> dict[str, Resources]:
    return dict.fromkeys(("small", "medium", "large"), resources)


def _workload(
    key: str,
    value: str,
    name: str,
    port: int,
    *,
    steps: tuple[InitContainer, ...],
    resources: Resources,
    replicas: dict[str, int],
    service: str = "",
    more_ports: tuple[int, ...] = (),
    optional: bool = True,
    health: Health | None = None,
) -> Component:
    return Component(
        key=key,
        kind="Deployment",
        name=f"{name}-deployment",
        labels={"app.kubernetes.io/name": name},
        service=service or name,
        ports=(port, *more_ports),
        health=health or Health(port, "/__healthcheck"),
        init_containers=steps,
        containers=(Container(f"{name}-container", _same(resources), f"{_DEPLOY}.{value}.resources"),),
        replicas=replicas,
        replicas_path=f"{_DEPLOY}.{value}.replicas" if value != "kasmRedis" else "",
        switch=f"{_DEPLOY}.{value}.deploy" if optional else "",
    )


_PROXY_STEPS = (
    InitContainer("proxy-data-perms", "hands the nginx folders over to uid 1000", only_when=_HARDENED, as_root=True),
    *_API_WAITS,
    InitContainer(
        "kasm-manager-is-ready", "waits until the manager answers", "manager", port=8181, path="/__healthcheck"
    ),
    InitContainer(
        "kasm-share-is-ready",
        "waits until the share service answers",
        "share",
        port=8182,
        path="/__healthcheck",
        only_when=f"{_DEPLOY}.kasmShare.deploy",
    ),
    InitContainer(
        "kasm-guac-is-ready",
        "waits until guac answers",
        "guac",
        port=3000,
        path="/__healthcheck",
        only_when=f"{_DEPLOY}.kasmGuac.deploy",
    ),
    InitContainer(
        "rdp-gateway-is-ready",
        "waits until the RDP gateway answers",
        "rdp-gateway",
        port=5555,
        path="/__healthcheck",
        only_when=f"{_DEPLOY}.rdpGateway.deploy",
    ),
)

_COMPONENTS = (
    _workload(
        "proxy",
        "kasmProxy",
        "kasm-proxy",
        8080,
        steps=_PROXY_STEPS,
        resources=_USUAL,
        replicas=_MANY,
        more_ports=(8443,),
        optional=False,
        health=Health(what="nginx -t in the container, and a connection to port 8080"),
    ),
    _workload(
        "api",
        "kasmApi",
        "kasm-api",
        8080,
        steps=(_DB_ZONES,),
        resources=_USUAL,
        replicas=_MANY,
        optional=False,
        health=Health(8080, "/api/__healthcheck"),
    ),
    _workload(
        "manager",
        "kasmManager",
        "kasm-manager",
        8181,
        steps=_API_WAITS,
        resources=_USUAL,
        replicas=_MANY,
        optional=False,
    ),
    _workload(
        "share",
        "kasmShare",
        "kasm-share",
        8182,
        steps=(InitContainer("redis-is-ready", "waits until Redis answers PONG", "redis", port=6379), *_API_WAITS),
        resources=_SIDE,
        replicas=_FEW,
    ),
    _workload(
        "guac",
        "kasmGuac",
        "kasm-guac",
        3000,
        steps=(
            InitContainer("guac-tmp-perms", "hands its folders over to uid 1000", only_when=_HARDENED, as_root=True),
            *_API_WAITS,
        ),
        resources=_GUAC,
        replicas=_FEW,
        more_ports=(3001, 3002, 3003, 3004),
    ),
    _workload(
        "rdp-gateway",
        "rdpGateway",
        "rdp-gateway",
        5555,
        steps=(
            InitContainer(
                "rdp-gateway-data-perms", "hands its folders over to uid 1000", only_when=_HARDENED, as_root=True
            ),
            *_API_WAITS,
        ),
        resources=_USUAL,
        replicas=_FEW,
        more_ports=(3389,),
    ),
    _workload(
        "rdp-https-gateway",
        "rdpHttpsGateway",
        "rdp-https-gw",
        9443,
        steps=_API_WAITS,
        resources=_USUAL,
        replicas=_FEW,
        service="rdp-https-gateway",
        health=Health(9443, "/rdp-https-gateway/__healthcheck", "https"),
    ),
    _workload(
        "redis",
        "kasmRedis",
        "kasm-redis",
        6379,
        steps=(),
        resources=_SIDE,
        replicas=_ONE,
        health=Health(what="redis-cli ping in the container"),
    ),
    Component(
        key="db",
        kind="StatefulSet",
        name="kasm-db-statefulset",
        labels={"app.kubernetes.io/name": "kasm-db"},
        service="db",
        ports=(5432,),
        health=Health(what="psql -d kasm -U kasmapp -c 'SELECT 1' in the container"),
        init_containers=(
            InitContainer("db-data-perms", "hands the data folder over to uid 70", only_when=_HARDENED, as_root=True),
        ),
        containers=(Container("kasm-db-container", _DATABASE, f"{_DEPLOY}.db.resources"),),
        replicas=_ONE,
        claim_gib=8,
    ),
    Component(
        key="db-init",
        kind="Job",
        name="kasm-db-init-job",
        labels={"app.kubernetes.io/name": "kasm-db-init"},
        init_containers=(InitContainer("db-is-ready", "waits until the database takes connections", "db", port=5432),),
        may_be_absent=True,
    ),
)

A = Generation(
    letter="A",
    is_published=False,
    plain_secrets=("global.kasmPasswords", "global.image.pullCredentials", "kasmCerts"),
    value_rules=frozenset({"hostname", "plain_secrets"}),
    chart="kasm-single-zone",
    kasm="Kasm 1.16 and 1.17",
    source="kasm-single-zone (a folder of github.com/kasmtech/kasm-helm, at the branch of the Kasm version)",
    newest=(1, 17, 0),
    oldest=(1, 16),
    postgres_major=14,
    minimum_helm=(3,),
    components=_COMPONENTS,
    paths={
        "hostname": "global.hostname",
        "size": "kasmApp.deploymentSize",
        "hardening": _HARDENED,
        "pull_policy": "global.image.pullPolicy",
        "storage_class": f"{_DEPLOY}.db.storageClassName",
        "tls_secret": "kasmCerts.ingress.name",
        "tls_create": "kasmCerts.ingress.create",
        "retention": f"{_DEPLOY}.db.persistentVolumeClaimRetentionPolicy.whenDeleted",
        "retention_enabled": f"{_DEPLOY}.db.persistentVolumeClaimRetentionPolicy.enabled",
    },
    known_issues=(
        KnownIssue(
            "kasm_a_ingress_class",
            "the Ingress is always made, and neither its class nor its annotations can be set",
            "let the cluster's default IngressClass serve it, or move to generation B",
        ),
        KnownIssue(
            "kasm_root_init_container",
            "with kasmApp.applyHardening init containers run as root (proxy-data-perms and others)",
            "run the namespace at Pod Security baseline, not restricted",
        ),
        KnownIssue(
            "kasm_extra_image",
            "the wait containers use alpine/curl:8.8.0, an image beside Kasm's own",
            "mirror it too where the cluster has no way out",
        ),
    ),
    secrets="kasm-secrets",
)
