"""Generation A: chart `kasm-single-zone`, Kasm 1.16 and 1.17, a technical preview. Values under
`global` and `kasmApp`.

Requests and replicas of 1.16 and 1.17 differ; names, ports and init containers are the same.
"""

from collections.abc import Iterator, Mapping

from vdi.kasm.generations.model import (
    Component,
    Container,
    Generation,
    InitContainer,
    Resources,
    VersionRange,
    counts,
    presets,
)
from vdi.kasm.generations.value_keys import KEYS_A

_DEPLOY = "kasmApp.servicesToDeploy"
_HARDENED = "kasmApp.applyHardening"
_CURL, _BUSYBOX, _REDIS = "alpine/curl:8.8.0", "busybox", "redis:5-alpine"
# What one component requests, and how many pods it has, at each size.
_Sizing = tuple[Mapping[str, Resources], Mapping[str, int]]

_RDP_16 = (
    presets("100m 64Mi 200m 128Mi", "150m 64Mi 300m 256Mi", "150m 64Mi 500m 512Mi"),
    counts(1, 1, 3),
)
_SIZES_16: Mapping[str, _Sizing] = {
    "proxy": (
        presets("100m 64Mi 250m 128Mi", "150m 64Mi 500m 192Mi", "150m 64Mi 750m 512Mi"),
        counts(2, 2, 4),
    ),
    "api": (
        presets("150m 64Mi 250m 192Mi", "150m 64Mi 500m 384Mi", "300m 64Mi 1 512Mi"),
        counts(3, 3, 6),
    ),
    "manager": (
        presets("150m 64Mi 350m 192Mi", "150m 64Mi 500m 256Mi", "300m 64Mi 1 512Mi"),
        counts(2, 2, 4),
    ),
    "share": (
        presets("100m 64Mi 200m 128Mi", "100m 64Mi 300m 256Mi", "200m 64Mi 400m 384Mi"),
        counts(1, 2, 3),
    ),
    "guac": (
        presets("250m 64Mi - 256Mi", "500m 64Mi - 512Mi", "750m 64Mi - 768Mi"),
        counts(1, 2, 3),
    ),
    "rdp-gateway": _RDP_16,
    "rdp-https-gateway": _RDP_16,
    "redis": (
        presets("100m 64Mi 200m 128Mi", "100m 64Mi 300m 256Mi", "100m 64Mi 500m 512Mi"),
        counts(1),
    ),
    "db": (presets("500m 128Mi 750m 384Mi", "512m 512Mi 1500m 2Gi", "512m 2Gi 4 8Gi"), counts(1)),
}
_USUAL, _SIDE = presets("150m 64Mi 500m 512Mi"), presets("100m 64Mi 500m 512Mi")
_SIZES_17: Mapping[str, _Sizing] = {
    **dict.fromkeys(("proxy", "api", "manager"), (_USUAL, counts(1, 4, 8))),
    "share": (_SIDE, counts(1, 2, 3)),
    "guac": (presets("500m 64Mi - 512Mi"), counts(1, 2, 3)),
    **dict.fromkeys(("rdp-gateway", "rdp-https-gateway"), (_USUAL, counts(1, 2, 3))),
    "redis": (_SIDE, counts(1)),
    "db": (presets("500m 128Mi 750m 512Mi", "512m 512Mi 1500m 2Gi", "512m 2Gi 4 8Gi"), counts(1)),
}


def _wait(
    name: str, words: str, key: str, port: int, value: str = "", path: str = "/__healthcheck"
) -> InitContainer:
    only_when = f"{_DEPLOY}.{value}.deploy" if value else ""
    return InitContainer(name, f"waits until {words}", key, port, path, only_when, image=_CURL)


def _perms(
    name: str, only_when: str = _HARDENED, what: str = "its folders to uid 1000"
) -> InitContainer:
    return InitContainer(
        name, f"changes the owner of {what}", only_when=only_when, as_root=True, image=_BUSYBOX
    )


_API_WAIT = _wait("kasm-api-is-ready", "the API responds", "api", 8080, path="/api/__healthcheck")
_DB_WAIT = InitContainer(
    "db-is-ready", "waits until the database is initialised (a row in table zones)", "db", port=5432
)
_REDIS_WAIT = InitContainer(
    "redis-is-ready", "waits until Redis responds with PONG", "redis", port=6379, image=_REDIS
)
_PROXY_STEPS = (
    _perms("proxy-data-perms", what="the nginx folders to uid 1000"),
    _API_WAIT,
    _wait("kasm-manager-is-ready", "the manager responds", "manager", 8181),
    _wait("kasm-share-is-ready", "the share service responds", "share", 8182, "kasmShare"),
    _wait("kasm-guac-is-ready", "guac responds", "guac", 3000, "kasmGuac"),
    _wait("rdp-gateway-is-ready", "the RDP gateway responds", "rdp-gateway", 5555, "rdpGateway"),
)
_ALWAYS_THERE = ("proxy", "api", "manager")


def _components(sizes: Mapping[str, _Sizing], versions: VersionRange) -> Iterator[Component]:
    def workload(
        key: str,
        value: str,
        name: str,
        *ports: int,
        steps: tuple[InitContainer, ...],
        service: str = "",
    ) -> Component:
        return Component(
            key=key,
            kind="Deployment",
            name=f"{name}-deployment",
            labels={"app.kubernetes.io/name": name},
            service=service or name,
            ports=ports,
            init_containers=steps,
            containers=(
                Container(f"{name}-container", sizes[key][0], f"{_DEPLOY}.{value}.resources"),
            ),
            replicas=sizes[key][1],
            replicas_path=f"{_DEPLOY}.{value}.replicas" if key != "redis" else "",
            switch=f"{_DEPLOY}.{value}.deploy" if key not in _ALWAYS_THERE else "",
            versions=versions,
        )

    yield workload("proxy", "kasmProxy", "kasm-proxy", 8080, 8443, steps=_PROXY_STEPS)
    yield workload("api", "kasmApi", "kasm-api", 8080, steps=(_DB_WAIT,))
    yield workload("manager", "kasmManager", "kasm-manager", 8181, steps=(_API_WAIT,))
    yield workload("share", "kasmShare", "kasm-share", 8182, steps=(_REDIS_WAIT, _API_WAIT))
    guac_steps = (_perms("guac-tmp-perms"), _API_WAIT)
    yield workload("guac", "kasmGuac", "kasm-guac", 3000, 3001, 3002, 3003, 3004, steps=guac_steps)
    rdp_steps = (_perms("rdp-gateway-tmp-perms", only_when=""), _API_WAIT)
    yield workload("rdp-gateway", "rdpGateway", "rdp-gateway", 5555, 3389, steps=rdp_steps)
    https_steps = (_API_WAIT, _perms("rdp-https-gateway-tmp-perms"))
    https = ("rdp-https-gateway", "rdpHttpsGateway", "rdp-https-gw")
    yield workload(*https, 9443, steps=https_steps, service="rdp-https-gateway")
    yield workload("redis", "kasmRedis", "kasm-redis", 6379, steps=())
    yield Component(
        key="db",
        kind="StatefulSet",
        name="kasm-db-statefulset",
        labels={"app.kubernetes.io/name": "kasm-db"},
        service="db",
        ports=(5432,),
        init_containers=(_perms("db-data-perms", only_when="", what="the data folder to uid 70"),),
        containers=(Container("kasm-db-container", sizes["db"][0], f"{_DEPLOY}.db.resources"),),
        replicas=sizes["db"][1],
        claim_gib=8,
        versions=versions,
    )


_INIT_JOB = Component(
    key="db-init",
    kind="Job",
    name="kasm-db-init-job",
    labels={"app.kubernetes.io/name": "kasm-db-init"},
    init_containers=(
        InitContainer(
            "db-is-ready", "waits until the database accepts connections", "db", port=5432
        ),
    ),
    may_be_absent=True,
)

A = Generation(
    letter="A",
    chart="kasm-single-zone",
    kasm="Kasm 1.16 and 1.17",
    source="",
    newest=(1, 17, 0),
    oldest=(1, 16),
    postgres_major=14,
    minimum_helm=(3,),
    components=(
        *_components(_SIZES_16, VersionRange(until=(1, 16))),
        *_components(_SIZES_17, VersionRange(since=(1, 17))),
        _INIT_JOB,
    ),
    keys=KEYS_A,
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
    plain_secrets=(
        "global.kasmPasswords",
        "global.image.pullCredentials",
        *(f"kasmCerts.{part}.key" for part in ("ingress", "kasmProxy", "rdpGateway", "db")),
    ),
    requires_replicas=True,
)
