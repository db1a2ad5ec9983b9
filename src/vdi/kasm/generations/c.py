"""Generation C: chart `kasm-helm` 1.1190.x, Kasm 1.19. Everything is named after the release.

Up to 1.1190.7 guac and the two RDP gateways are workloads of their own; afterwards they are
containers of one StatefulSet, the connection proxy. Requests equal limits for the CPU at every
size.
"""

from collections.abc import Mapping
from dataclasses import replace

from vdi.kasm.generations.b import PATHS
from vdi.kasm.generations.model import (
    ALWAYS,
    HEALTH_PATH,
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
from vdi.kasm.generations.value_keys import KEYS_C

_TRUSTED = "trustedCaBundle.enabled"
_FIRST = VersionRange(until=(1, 1190, 0))
_APART = VersionRange(until=(1, 1190, 7))
_SCALED, _ONE = counts(1, 2, 3), counts(1)

_PROXY = presets("500m 512Mi 500m 512Mi", "500m 512Mi 500m 1Gi", "500m 512Mi 500m 1Gi")
_SERVER = presets("500m 512Mi 500m 1Gi", "500m 512Mi 500m 1Gi", "500m 1Gi 500m 2Gi")
_DATABASE = presets("750m 512Mi 750m 512Mi", "1500m 2Gi 1500m 2Gi", "4 8Gi 4 8Gi")
_GUAC = presets("1 512Mi 1 1Gi", "1500m 512Mi 1500m 2Gi", "2 1Gi 2 4Gi")
_RDP = presets("500m 512Mi 500m 512Mi", "1 512Mi 1 512Mi", "1500m 512Mi 1500m 512Mi")
_NGINX = presets("500m 256Mi 500m 256Mi", "500m 384Mi 500m 384Mi", "1 512Mi 1 512Mi")
_WAIT = resources("200m 128Mi 200m 128Mi")
# Whatever the size and whatever `components.api.resources` says.
_DB_WAIT = _SERVER["small"]

_CONF = resources("100m 64Mi 100m 64Mi")

_CA = InitContainer(
    "trusted-ca-init", "creates the store of trusted certificates", only_when=_TRUSTED
)


def _wait(
    name: str,
    words: str,
    key: str,
    port: int,
    path: str,
    *,
    only_when: str = "",
    versions: VersionRange = ALWAYS,
) -> InitContainer:
    name, what = f"{{release}}-{name}-is-ready", f"waits until {words}"
    return InitContainer(name, what, key, port, path, only_when, resources=_WAIT, versions=versions)


def _db_wait(name: str, words: str, only_when: str = "") -> InitContainer:
    what = f"waits until the database is {words}"
    return InitContainer(name, what, "db", port=5432, only_when=only_when, resources=_DB_WAIT)


_API_WAIT = _wait("api", "the API of its zone responds", "api", 8080, HEALTH_PATH)
_GATEWAY_WAITS = (
    replace(
        _API_WAIT,
        what="waits until the API responds through the proxy of its zone",
        waits_for="proxy",
        versions=VersionRange(since=(1, 1190, 1)),
    ),
    replace(_API_WAIT, versions=_FIRST),
)
_DB_READY = _db_wait(
    "db-is-ready", "initialised (a row in table zones) and migrated to the newest schema"
)
_DB_MAJOR = _db_wait("db-major-version-is-ready", "PostgreSQL 16", "dbManagement.upgrade.enable")


def _conf_init(component: str) -> InitContainer:
    return InitContainer(
        f"{{release}}-{component}-nginx-conf-init",
        "copies the nginx configuration",
        resources=_CONF,
    )


def _box(name: str, amounts: Mapping[str, Resources], path: str, switch: str = "") -> Container:
    return Container(f"{{release}}-{name}", amounts, f"{path}.resources", switch)


def _part(
    key: str,
    value: str,
    *ports: int,
    kind: str = "Deployment",
    containers: tuple[Container, ...],
    steps: tuple[InitContainer, ...] = (),
    replicas: Mapping[str, int] = _SCALED,
    versions: VersionRange = ALWAYS,
) -> Component:
    """One workload for each zone. Those that connect to sessions on other machines can be left
    out.
    """
    name = f"{{release}}-{key}-{{zone}}"
    return Component(
        key=key,
        kind=kind,
        name=name,
        labels={"app.kubernetes.io/component": key},
        service=name,
        ports=ports,
        init_containers=(_CA, *steps),
        containers=containers,
        replicas=replicas,
        replicas_path=f"components.{value}.replicas",
        switch="" if key in ("proxy", "api", "manager") else f"components.{value}.enabled",
        claim_gib=10 if key in ("guac", "connection-proxy") else 0,
        versions=versions,
    )


def _server(key: str, amounts: Mapping[str, Resources]) -> tuple[Container, ...]:
    return (_box(f"{key}-{{zone}}", amounts, f"components.{key}"),)


def _with_nginx(key: str, amounts: Mapping[str, Resources], value: str) -> tuple[Container, ...]:
    path = f"components.{value}"
    return _box(key, amounts, path), _box(f"{key}-nginx", _NGINX, f"{path}.nginxSidecar")


_PROXY_STEPS = (
    _API_WAIT,
    _wait("manager", "the manager of its zone responds", "manager", 8181, "/__healthcheck"),
    _wait(
        "guac",
        "guac responds",
        "guac",
        9000,
        "/guac/__healthcheck",
        only_when="components.guac.enabled",
        versions=_FIRST,
    ),
    _wait(
        "rdp-gateway",
        "the RDP gateway responds",
        "rdp-gateway",
        9001,
        "/__healthcheck",
        only_when="components.rdpGateway.enabled",
        versions=_FIRST,
    ),
)
_CONNECTION = "components.connectionProxy"
_CONNECTIONS = (
    ("guac", "guac", _GUAC),
    ("rdp-gateway", "rdpGateway", _RDP),
    ("rdp-https-gateway", "rdpHttpsGateway", _RDP),
)
_COMPONENTS = (
    _part("proxy", "proxy", 8080, 8443, containers=_server("proxy", _PROXY), steps=_PROXY_STEPS),
    _part("api", "api", 8080, containers=_server("api", _SERVER), steps=(_DB_MAJOR, _DB_READY)),
    _part(
        "manager",
        "manager",
        8181,
        containers=_server("manager", _SERVER),
        steps=(_DB_MAJOR, _DB_READY, _API_WAIT),
    ),
    _part(
        *("guac", "guac", 9000, 3000),
        kind="StatefulSet",
        containers=_with_nginx("guac", _GUAC, "guac"),
        steps=(*_GATEWAY_WAITS, _conf_init("guac")),
        versions=_APART,
    ),
    _part(
        *("rdp-gateway", "rdpGateway", 9001, 5555, 3389),
        containers=_with_nginx("rdp-gateway", _RDP, "rdpGateway"),
        steps=_GATEWAY_WAITS,
        replicas=_ONE,
        versions=_APART,
    ),
    _part(
        *("rdp-https-gateway", "rdpHttpsGateway", 9002, 9443),
        kind="StatefulSet",
        containers=_with_nginx("rdp-https-gateway", _RDP, "rdpHttpsGateway"),
        steps=(*_GATEWAY_WAITS, _conf_init("rdp-https-gateway")),
        versions=_APART,
    ),
    _part(
        *("connection-proxy", "connectionProxy", 8443),
        kind="StatefulSet",
        containers=(
            _box("connection-proxy-nginx", _NGINX, f"{_CONNECTION}.nginx"),
            *(
                _box(
                    f"connection-proxy-{name}",
                    amounts,
                    f"{_CONNECTION}.{value}",
                    f"{_CONNECTION}.{value}.enabled",
                )
                for name, value, amounts in _CONNECTIONS
            ),
        ),
        steps=_GATEWAY_WAITS,
        versions=VersionRange(since=(1, 1190, 8)),
    ),
    Component(
        key="db",
        kind="StatefulSet",
        name="{release}-db-{version}",
        labels={"app.kubernetes.io/component": "db"},
        service="{release}-db",
        ports=(5432,),
        init_containers=(_CA,),
        containers=(_box("db", _DATABASE, "database"),),
        replicas=_ONE,
        switch="!database.standalone",
        claim_gib=8,
    ),
    Component(
        key="db-init",
        kind="Job",
        name="{release}-db-init",
        labels={"app.kubernetes.io/component": "db-init"},
        init_containers=(
            _CA,
            InitContainer(
                *("prepare-db-preseed", "prepares the first contents of the database"),
                only_when="kasmConfig.generatePreseed",
            ),
            InitContainer(
                "db-is-ready", "waits until the database accepts connections", "db", port=5432
            ),
        ),
        switch="dbManagement.initialize",
        may_be_absent=True,
    ),
)

C = Generation(
    letter="C",
    chart="kasm-helm",
    umbrella="kasm-platform",
    kasm="Kasm 1.19",
    source="oci://registry-1.docker.io/kasmweb/kasm-helm",
    newest=(1, 1190, 6),
    oldest=(1, 1190),
    postgres_major=16,
    minimum_helm=(3, 18),
    components=_COMPONENTS,
    keys=KEYS_C,
    paths={
        **PATHS,
        "zone_address": "proxy_hostname",
        "image_tag": "useImageTags",
        "passwords_secret": "kasmSecrets.name",
    },
    plain_secrets=("imagePullSecrets.password", "route.tls.key", "kasmSecrets.passwords"),
    makes_certificate=VersionRange(since=(1, 1200)),
    retains_database_after=(1, 1190, 7),
    carries_database={"dbManagement.initialize": False, "dbManagement.upgrade.enable": True},
    foreign_suffix="-deployment",
    breaks_circular_wait="--set dbManagement.initialize=false",
)
