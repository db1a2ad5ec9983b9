"""Generation A: chart `kasm-single-zone`, Kasm 1.16 and 1.17, a technical preview. Values under `global` and `kasmApp`.

Requests and replicas of 1.16 and 1.17 differ; names, ports and init containers are the same.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vdi.kasm.generations.model import (
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

_DEPLOY = "kasmApp.servicesToDeploy"
_HARDENED = "kasmApp.applyHardening"
_FIRST = VersionRange(until=(1, 16, 0))
_V16 = VersionRange(until=(1, 16))
_V17 = VersionRange(since=(1, 17))
_CURL, _BUSYBOX, _REDIS = "alpine/curl:8.8.0", "busybox", "redis:5-alpine"


@dataclass(frozen=True, slots=True)
class _Sizing:
    """What one component requests, and how many pods it has, at each size."""

    resources: Mapping[str, Resources]
    replicas: Mapping[str, int]


def _sizing(small: Resources, medium: Resources, large: Resources, replicas: tuple[int, int, int]) -> _Sizing:
    return _Sizing(dict(zip(SIZES, (small, medium, large), strict=True)), dict(zip(SIZES, replicas, strict=True)))


def _same(resources: Resources, replicas: tuple[int, int, int]) -> _Sizing:
    return _sizing(resources, resources, resources, replicas)


_RDP_16 = _sizing(
    Resources("100m", "64Mi", "200m", "128Mi"),
    Resources("150m", "64Mi", "300m", "256Mi"),
    Resources("150m", "64Mi", "500m", "512Mi"),
    (1, 1, 3),
)
_SIZES_16 = {
    "proxy": _sizing(
        Resources("100m", "64Mi", "250m", "128Mi"),
        Resources("150m", "64Mi", "500m", "192Mi"),
        Resources("150m", "64Mi", "750m", "512Mi"),
        (2, 2, 4),
    ),
    "api": _sizing(
        Resources("150m", "64Mi", "250m", "192Mi"),
        Resources("150m", "64Mi", "500m", "384Mi"),
        Resources("300m", "64Mi", "1", "512Mi"),
        (3, 3, 6),
    ),
    "manager": _sizing(
        Resources("150m", "64Mi", "350m", "192Mi"),
        Resources("150m", "64Mi", "500m", "256Mi"),
        Resources("300m", "64Mi", "1", "512Mi"),
        (2, 2, 4),
    ),
    "share": _sizing(
        Resources("100m", "64Mi", "200m", "128Mi"),
        Resources("100m", "64Mi", "300m", "256Mi"),
        Resources("200m", "64Mi", "400m", "384Mi"),
        (1, 2, 3),
    ),
    "guac": _sizing(
        Resources("250m", "64Mi", "", "256Mi"),
        Resources("500m", "64Mi", "", "512Mi"),
        Resources("750m", "64Mi", "", "768Mi"),
        (1, 2, 3),
    ),
    "rdp-gateway": _RDP_16,
    "rdp-https-gateway": _RDP_16,
    "redis": _sizing(
        Resources("100m", "64Mi", "200m", "128Mi"),
        Resources("100m", "64Mi", "300m", "256Mi"),
        Resources("100m", "64Mi", "500m", "512Mi"),
        (1, 1, 1),
    ),
    "db": _sizing(
        Resources("500m", "128Mi", "750m", "384Mi"),
        Resources("512m", "512Mi", "1500m", "2Gi"),
        Resources("512m", "2Gi", "4", "8Gi"),
        (1, 1, 1),
    ),
}
_USUAL = Resources("150m", "64Mi", "500m", "512Mi")
_SIDE = Resources("100m", "64Mi", "500m", "512Mi")
_SIZES_17 = {
    "proxy": _same(_USUAL, (1, 4, 8)),
    "api": _same(_USUAL, (1, 4, 8)),
    "manager": _same(_USUAL, (1, 4, 8)),
    "share": _same(_SIDE, (1, 2, 3)),
    "guac": _same(Resources("500m", "64Mi", "", "512Mi"), (1, 2, 3)),
    "rdp-gateway": _same(_USUAL, (1, 2, 3)),
    "rdp-https-gateway": _same(_USUAL, (1, 2, 3)),
    "redis": _same(_SIDE, (1, 1, 1)),
    "db": _sizing(
        Resources("500m", "128Mi", "750m", "512Mi"),
        Resources("512m", "512Mi", "1500m", "2Gi"),
        Resources("512m", "2Gi", "4", "8Gi"),
        (1, 1, 1),
    ),
}


def _wait(
    name: str, what: str, key: str, port: int, path: str = "/__healthcheck", only_when: str = ""
) -> InitContainer:
    return InitContainer(name, what, key, port=port, path=path, only_when=only_when, image=_CURL)


def _perms(
    name: str, only_when: str = _HARDENED, what: str = ("changes the owner of its folders to uid 1000")
) -> InitContainer:
    return InitContainer(name, what, only_when=only_when, as_root=True, image=_BUSYBOX)


_API_WAIT = _wait("kasm-api-is-ready", "waits until the API responds", "api", 8080, "/api/__healthcheck")
_PROXY_STEPS = (
    _perms("proxy-data-perms", what="changes the owner of the nginx folders to uid 1000"),
    _API_WAIT,
    _wait("kasm-manager-is-ready", "waits until the manager responds", "manager", 8181),
    _wait(
        "kasm-share-is-ready",
        "waits until the share service responds",
        "share",
        8182,
        only_when=f"{_DEPLOY}.kasmShare.deploy",
    ),
    _wait("kasm-guac-is-ready", "waits until guac responds", "guac", 3000, only_when=f"{_DEPLOY}.kasmGuac.deploy"),
    _wait(
        "rdp-gateway-is-ready",
        "waits until the RDP gateway responds",
        "rdp-gateway",
        5555,
        only_when=f"{_DEPLOY}.rdpGateway.deploy",
    ),
)


def _components(sizes: Mapping[str, _Sizing], versions: VersionRange) -> Iterator[Component]:
    def workload(
        key: str,
        value: str,
        name: str,
        *ports: int,
        steps: tuple[InitContainer, ...],
        service: str = "",
        optional: bool = True,
        health: Health | None = None,
    ) -> Component:
        return Component(
            key=key,
            kind="Deployment",
            name=f"{name}-deployment",
            labels={"app.kubernetes.io/name": name},
            service=service or name,
            ports=ports,
            health=health or Health(ports[0], "/__healthcheck"),
            init_containers=steps,
            containers=(Container(f"{name}-container", sizes[key].resources, f"{_DEPLOY}.{value}.resources"),),
            replicas=sizes[key].replicas,
            replicas_path=f"{_DEPLOY}.{value}.replicas" if value != "kasmRedis" else "",
            switch=f"{_DEPLOY}.{value}.deploy" if optional else "",
            versions=versions,
        )

    yield workload(
        "proxy",
        "kasmProxy",
        "kasm-proxy",
        *(8080, 8443),
        steps=_PROXY_STEPS,
        optional=False,
        health=Health(what="nginx -t in the container, and a connection to port 8080"),
    )
    yield workload(
        "api",
        "kasmApi",
        "kasm-api",
        8080,
        steps=(
            InitContainer(
                "db-is-ready", "waits until the database is initialised (a row in table zones)", "db", port=5432
            ),
        ),
        optional=False,
        health=Health(8080, "/api/__healthcheck"),
    )
    yield workload("manager", "kasmManager", "kasm-manager", 8181, steps=(_API_WAIT,), optional=False)
    redis_wait = InitContainer(
        "redis-is-ready", "waits until Redis responds with PONG", "redis", port=6379, image=_REDIS
    )
    yield workload("share", "kasmShare", "kasm-share", 8182, steps=(redis_wait, _API_WAIT))
    yield workload(
        "guac",
        "kasmGuac",
        "kasm-guac",
        *(3000, 3001, 3002, 3003, 3004),
        steps=(_perms("guac-tmp-perms"), _API_WAIT),
    )
    yield workload(
        "rdp-gateway",
        "rdpGateway",
        "rdp-gateway",
        *(5555, 3389),
        steps=(_perms("rdp-gateway-tmp-perms", only_when=""), _API_WAIT),
    )
    yield workload(
        "rdp-https-gateway",
        "rdpHttpsGateway",
        "rdp-https-gw",
        9443,
        steps=(_API_WAIT, _perms("rdp-https-gateway-tmp-perms")),
        service="rdp-https-gateway",
        health=Health(9443, "/rdp-https-gateway/__healthcheck", "https"),
    )
    yield workload(
        "redis", "kasmRedis", "kasm-redis", 6379, steps=(), health=Health(what="redis-cli ping in the container")
    )
    yield Component(
        key="db",
        kind="StatefulSet",
        name="kasm-db-statefulset",
        labels={"app.kubernetes.io/name": "kasm-db"},
        service="db",
        ports=(5432,),
        health=Health(what="psql -d kasm -U kasmapp -c 'SELECT 1' in the container"),
        init_containers=(_perms("db-data-perms", only_when="", what="changes the owner of the data folder to uid 70"),),
        containers=(Container("kasm-db-container", sizes["db"].resources, f"{_DEPLOY}.db.resources"),),
        replicas=sizes["db"].replicas,
        claim_gib=8,
        versions=versions,
    )


_PASSWORDS = {
    "dbPassword": "db-password",
    "redisPassword": "redis-password",
    "managerToken": "manager-token",
    "serviceToken": "service-token",
    "adminPassword": "admin-password",
    "userPassword": "user-password",
}
_INIT_JOB = Component(
    key="db-init",
    kind="Job",
    name="kasm-db-init-job",
    labels={"app.kubernetes.io/name": "kasm-db-init"},
    init_containers=(InitContainer("db-is-ready", "waits until the database accepts connections", "db", port=5432),),
    may_be_absent=True,
)

A = Generation(
    letter="A",
    is_published=False,
    plain_secrets=("global.kasmPasswords", "global.image.pullCredentials", "kasmCerts"),
    value_rules=frozenset({"hostname", "plain_secrets", "replicas"}),
    new_passwords={f"global.kasmPasswords.{value}": key for value, key in _PASSWORDS.items()},
    uninstall_options=("--no-hooks",),  # its post-delete hook writes the Secret once more, with other passwords
    requires_replicas=True,
    chart="kasm-single-zone",
    kasm="Kasm 1.16 and 1.17",
    source="kasm-single-zone (a folder of github.com/kasmtech/kasm-helm, at the branch of the Kasm version)",
    newest=(1, 17, 0),
    oldest=(1, 16),
    postgres_major=14,
    minimum_helm=(3,),
    components=(*_components(_SIZES_16, _V16), *_components(_SIZES_17, _V17), _INIT_JOB),
    paths={
        "hostname": "global.hostname",
        "size": "kasmApp.deploymentSize",
        "hardening": _HARDENED,
        "pull_policy": "global.image.pullPolicy",
        "ingress_class": "global.ingressClassName",
        "storage_class": f"{_DEPLOY}.db.storageClassName",
        "tls_secret": "kasmCerts.ingress.name",
        "tls_create": "kasmCerts.ingress.create",
        "retention": f"{_DEPLOY}.db.persistentVolumeClaimRetentionPolicy.whenDeleted",
        "retention_enabled": f"{_DEPLOY}.db.persistentVolumeClaimRetentionPolicy.enabled",
    },
    known_issues=(
        KnownIssue(
            "kasm_a_ingress_class",
            "the Ingress is always created, and neither its class nor its annotations can be set",
            "use the cluster's default IngressClass, or move to chart 1.16.1 or newer, which has "
            "global.ingressClassName",
            _FIRST,
        ),
        KnownIssue(
            "kasm_a_ingress_always",
            "the Ingress is always created and cannot be turned off",
            "use the cluster's Traefik, or move to generation B",
            VersionRange(since=(1, 16, 1)),
        ),
        KnownIssue(
            "kasm_root_init_container",
            "init containers run as root: rdp-gateway-tmp-perms and db-data-perms always, others with "
            "kasmApp.applyHardening, which is on by default",
            "run the namespace at Pod Security baseline, not restricted",
        ),
        KnownIssue(
            "kasm_extra_image",
            f"init containers use images in addition to Kasm's own, and no value changes their names: {_CURL} "
            f"(waits), {_BUSYBOX} (root steps), {_REDIS} (wait for Redis)",
            "mirror them under these names if the cluster has no internet access",
        ),
    ),
    secrets="kasm-secrets",
)
