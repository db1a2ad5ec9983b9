"""Generation C: chart `kasm-helm` 1.1190.x, Kasm 1.19. Everything is named after the release.

Up to 1.1190.7 guac and the two RDP gateways are workloads of their own; afterwards they are containers of one
StatefulSet, the connection proxy. Requests equal limits for the CPU at every size.
"""

from dataclasses import replace

from vdi.kasm.generations.model import (
    Component,
    Container,
    Generation,
    Health,
    InitContainer,
    KnownIssue,
    Resources,
    VersionRange,
)

_TRUSTED = "trustedCaBundle.enabled"
_FIRST = VersionRange(until=(1, 1190, 0))
_LATER = VersionRange(since=(1, 1190, 1))
_APART = VersionRange(until=(1, 1190, 7))
_TOGETHER = VersionRange(since=(1, 1190, 8))
_SCALED = {"small": 1, "medium": 2, "large": 3}
_ONE = {"small": 1, "medium": 1, "large": 1}

_PROXY = {
    "small": Resources("500m", "512Mi", "500m", "512Mi"),
    "medium": Resources("500m", "512Mi", "500m", "1Gi"),
    "large": Resources("500m", "512Mi", "500m", "1Gi"),
}
_SERVER = {
    "small": Resources("500m", "512Mi", "500m", "1Gi"),
    "medium": Resources("500m", "512Mi", "500m", "1Gi"),
    "large": Resources("500m", "1Gi", "500m", "2Gi"),
}
_DATABASE = {
    "small": Resources("750m", "512Mi", "750m", "512Mi"),
    "medium": Resources("1500m", "2Gi", "1500m", "2Gi"),
    "large": Resources("4", "8Gi", "4", "8Gi"),
}
_GUAC = {
    "small": Resources("1", "512Mi", "1", "1Gi"),
    "medium": Resources("1500m", "512Mi", "1500m", "2Gi"),
    "large": Resources("2", "1Gi", "2", "4Gi"),
}
_RDP = {
    "small": Resources("500m", "512Mi", "500m", "512Mi"),
    "medium": Resources("1", "512Mi", "1", "512Mi"),
    "large": Resources("1500m", "512Mi", "1500m", "512Mi"),
}
_NGINX = {
    "small": Resources("500m", "256Mi", "500m", "256Mi"),
    "medium": Resources("500m", "384Mi", "500m", "384Mi"),
    "large": Resources("1", "512Mi", "1", "512Mi"),
}
_WAIT = Resources("200m", "128Mi", "200m", "128Mi")
_DB_WAIT = Resources("500m", "512Mi", "500m", "1Gi")
"""The API's small preset, whatever the size and whatever `components.api.resources` says."""
_CONF = Resources("100m", "64Mi", "100m", "64Mi")

_CA = InitContainer("trusted-ca-init", "creates the store of trusted certificates", only_when=_TRUSTED)
_API_WAIT = InitContainer(
    "{release}-api-is-ready",
    "waits until the API of its zone responds",
    "api",
    port=8080,
    path="/api/__healthcheck",
    resources=_WAIT,
)
_GATEWAY_WAITS = (
    InitContainer(
        "{release}-api-is-ready",
        "waits until the API responds through the proxy of its zone",
        "proxy",
        port=8080,
        path="/api/__healthcheck",
        resources=_WAIT,
        versions=_LATER,
    ),
    replace(_API_WAIT, versions=_FIRST),
)
_DB_READY = InitContainer(
    "db-is-ready",
    "waits until the database is initialised (a row in table zones) and migrated to the newest schema",
    "db",
    port=5432,
    resources=_DB_WAIT,
)
_DB_MAJOR = InitContainer(
    "db-major-version-is-ready",
    "waits until the database is PostgreSQL 16",
    "db",
    port=5432,
    only_when="dbManagement.upgrade.enable",
    resources=_DB_WAIT,
)


def _conf_init(component: str) -> InitContainer:
    return InitContainer(f"{{release}}-{component}-nginx-conf-init", "copies the nginx configuration", resources=_CONF)


def _component(key: str, kind: str, *, ports: tuple[int, ...], per_zone: bool = True, **rest: object) -> Component:
    name = f"{{release}}-{key}" + ("-{zone}" if per_zone else "")
    given = {"labels": {"app.kubernetes.io/component": key}, "service": name, "replicas": _SCALED, "name": name, **rest}
    return Component(key=key, kind=kind, ports=ports, **given)  # type: ignore[arg-type]


_PROXY_COMPONENT = _component(
    "proxy",
    "Deployment",
    ports=(8080, 8443),
    health=Health(what="nginx -t in the container, and a connection to port 8080"),
    init_containers=(
        _CA,
        _API_WAIT,
        InitContainer(
            "{release}-manager-is-ready",
            "waits until the manager of its zone responds",
            "manager",
            port=8181,
            path="/__healthcheck",
            resources=_WAIT,
        ),
        InitContainer(
            "{release}-guac-is-ready",
            "waits until guac responds",
            "guac",
            port=9000,
            path="/guac/__healthcheck",
            only_when="components.guac.enabled",
            resources=_WAIT,
            versions=_FIRST,
        ),
        InitContainer(
            "{release}-rdp-gateway-is-ready",
            "waits until the RDP gateway responds",
            "rdp-gateway",
            port=9001,
            path="/__healthcheck",
            only_when="components.rdpGateway.enabled",
            resources=_WAIT,
            versions=_FIRST,
        ),
    ),
    containers=(Container("{release}-proxy-{zone}", _PROXY, "components.proxy.resources"),),
    replicas_path="components.proxy.replicas",
)
_API_COMPONENT = _component(
    "api",
    "Deployment",
    ports=(8080,),
    health=Health(8080, "/api/__healthcheck"),
    init_containers=(_CA, _DB_MAJOR, _DB_READY),
    containers=(Container("{release}-api-{zone}", _SERVER, "components.api.resources"),),
    replicas_path="components.api.replicas",
)
_MANAGER_COMPONENT = _component(
    "manager",
    "Deployment",
    ports=(8181,),
    health=Health(8181, "/__healthcheck"),
    init_containers=(_CA, _DB_MAJOR, _DB_READY, _API_WAIT),
    containers=(Container("{release}-manager-{zone}", _SERVER, "components.manager.resources"),),
    replicas_path="components.manager.replicas",
)
_GUAC_COMPONENT = _component(
    "guac",
    "StatefulSet",
    ports=(9000, 3000),
    health=Health(3000, "/__healthcheck"),
    init_containers=(_CA, *_GATEWAY_WAITS, _conf_init("guac")),
    containers=(
        Container("{release}-guac", _GUAC, "components.guac.resources"),
        Container("{release}-guac-nginx", _NGINX, "components.guac.nginxSidecar.resources"),
    ),
    replicas_path="components.guac.replicas",
    switch="components.guac.enabled",
    claim_gib=10,
    versions=_APART,
)
_RDP_COMPONENT = _component(
    "rdp-gateway",
    "Deployment",
    ports=(9001, 5555, 3389),
    health=Health(5555, "/__healthcheck"),
    init_containers=(_CA, *_GATEWAY_WAITS),
    containers=(
        Container("{release}-rdp-gateway", _RDP, "components.rdpGateway.resources"),
        Container("{release}-rdp-gateway-nginx", _NGINX, "components.rdpGateway.nginxSidecar.resources"),
    ),
    replicas=_ONE,
    replicas_path="components.rdpGateway.replicas",
    switch="components.rdpGateway.enabled",
    versions=_APART,
)
_RDP_HTTPS_COMPONENT = _component(
    "rdp-https-gateway",
    "StatefulSet",
    ports=(9002, 9443),
    health=Health(9443, "/rdp-https-gateway/__healthcheck", "https"),
    init_containers=(_CA, *_GATEWAY_WAITS, _conf_init("rdp-https-gateway")),
    containers=(
        Container("{release}-rdp-https-gateway", _RDP, "components.rdpHttpsGateway.resources"),
        Container("{release}-rdp-https-gateway-nginx", _NGINX, "components.rdpHttpsGateway.nginxSidecar.resources"),
    ),
    replicas_path="components.rdpHttpsGateway.replicas",
    switch="components.rdpHttpsGateway.enabled",
    versions=_APART,
)
_CONNECTION = "components.connectionProxy"
_CONNECTION_COMPONENT = _component(
    "connection-proxy",
    "StatefulSet",
    ports=(8443,),
    health=Health(8443, "/__healthcheck", "https"),
    init_containers=(_CA, *_GATEWAY_WAITS),
    containers=(
        Container("{release}-connection-proxy-nginx", _NGINX, f"{_CONNECTION}.nginx.resources"),
        Container(
            "{release}-connection-proxy-guac", _GUAC, f"{_CONNECTION}.guac.resources", f"{_CONNECTION}.guac.enabled"
        ),
        Container(
            "{release}-connection-proxy-rdp-gateway",
            _RDP,
            f"{_CONNECTION}.rdpGateway.resources",
            f"{_CONNECTION}.rdpGateway.enabled",
        ),
        Container(
            "{release}-connection-proxy-rdp-https-gateway",
            _RDP,
            f"{_CONNECTION}.rdpHttpsGateway.resources",
            f"{_CONNECTION}.rdpHttpsGateway.enabled",
        ),
    ),
    replicas_path=f"{_CONNECTION}.replicas",
    switch=f"{_CONNECTION}.enabled",
    claim_gib=10,
    versions=_TOGETHER,
)
_DB_COMPONENT = _component(
    "db",
    "StatefulSet",
    ports=(5432,),
    per_zone=False,
    name="{release}-db-{version}",
    health=Health(what="psql -d kasm -U kasmapp -c 'SELECT 1' in the container"),
    init_containers=(_CA,),
    containers=(Container("{release}-db", _DATABASE, "database.resources"),),
    replicas=_ONE,
    switch="!database.standalone",
    claim_gib=8,
)
_DB_INIT_COMPONENT = _component(
    "db-init",
    "Job",
    ports=(),
    per_zone=False,
    service="",
    replicas={},
    init_containers=(
        _CA,
        InitContainer(
            "prepare-db-preseed", "prepares the first contents of the database", only_when="kasmConfig.generatePreseed"
        ),
        InitContainer("db-is-ready", "waits until the database accepts connections", "db", port=5432),
    ),
    switch="dbManagement.initialize",
    may_be_absent=True,
)

C = Generation(
    letter="C",
    plain_secrets=("imagePullSecrets.password", "route.tls.key", "kasmSecrets.passwords"),
    value_rules=frozenset(
        {
            *("hostname", "way_in", "zones", "database", "certificate"),
            *("plain_secrets", "passwords", "resolver", "images", "direct_rdp"),
        }
    ),
    makes_certificate=VersionRange(since=(1, 1200)),
    zone_aliases={"name": "zone_name", "proxy_hostname": "proxyAddress"},
    database_host="",
    retains_database_after=(1, 1190, 7),
    has_versioned_database=True,
    foreign_suffix="-deployment",
    breaks_circular_wait="--set dbManagement.initialize=false",
    chart="kasm-helm",
    kasm="Kasm 1.19",
    source="oci://registry-1.docker.io/kasmweb/kasm-helm",
    newest=(1, 1190, 6),
    oldest=(1, 1190),
    postgres_major=16,
    minimum_helm=(3, 18),
    components=(
        _PROXY_COMPONENT,
        _API_COMPONENT,
        _MANAGER_COMPONENT,
        _GUAC_COMPONENT,
        _RDP_COMPONENT,
        _RDP_HTTPS_COMPONENT,
        _CONNECTION_COMPONENT,
        _DB_COMPONENT,
        _DB_INIT_COMPONENT,
    ),
    paths={
        "hostname": "publicAddr",
        "size": "deploymentSize",
        "zones": "kasmZones",
        "zone_address": "proxy_hostname",
        "hardening": "applySecurity",
        "pull_policy": "imagePullPolicy",
        "image_tag": "useImageTags",
        "resolver": "nginxResolver",
        "storage_class": "database.storage.storageClassName",
        "storage_size": "database.storage.pvcSize",
        "retention": "database.storage.retentionPolicy.whenDeleted",
        "proxy_service_type": "proxyService.type",
        "ingress_enabled": "ingress.enabled",
        "ingress_class": "ingress.ingressClassName",
        "tls_secret": "certificate.secretName",
        "passwords_create": "kasmSecrets.create",
        "passwords_secret": "kasmSecrets.name",
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
            "kasm_proxy_waits_for_gateways",
            "the proxy also waits for guac and the RDP gateway: while one of them is down, Kasm is unavailable",
            "install 1.1190.1 or newer",
            _FIRST,
        ),
    ),
    secrets="{release}-secrets",
)
