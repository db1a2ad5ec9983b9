"""The gateway's part of the chart with real helm on a real API server: rights, what is kept, what
is refused.
"""

import json
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.helm_tools import CHART, Tools, allowed_of, flat, rules_of
from support.permissions import gateway_rules
from vdi.gateway.brand import Brand
from vdi.gateway.settings import Settings, read_settings
from vdi.settings import read_settings as read_operator_settings

GATEWAY = "system:serviceaccount:vdi-system:vdi-gateway"
SERVERS = (
    "--set",
    "gateway.database.existingSecret=db",
    "--set",
    "gateway.redis.existingSecret=shared",
)
MAY_NOT = [
    ("get", "secrets", "vdi-sessions"),
    ("get", "secrets/alice-desktop-auth", "vdi-sessions"),
    ("list", "secrets", "vdi-sessions"),
    ("watch", "secrets", "vdi-sessions"),
    ("patch", "secrets/vdi-desktop-key", "vdi-system"),
    ("get", "secrets", "vdi-system"),
    ("get", "secrets/vdi-host-key", "vdi-system"),
    ("get", "secrets/vdi-other", "vdi-system"),
    ("patch", "secrets/vdi-gateway-users", "vdi-system"),
    ("delete", "secrets/vdi-gateway-keys", "vdi-system"),
    ("create", "pods", "vdi-sessions"),
    ("get", "pods", "vdi-sessions"),
    ("create", "pods --subresource=exec", "vdi-sessions"),
    ("patch", "vdisessions.vdi.kasm.io --subresource=status", "vdi-sessions"),
    ("create", "vdisessions.vdi.kasm.io", "vdi-system"),
    ("assign", "vdisessions.vdi.kasm.io", "default"),
    ("create", "vditemplates.vdi.kasm.io", ""),
    ("patch", "vdipools.vdi.kasm.io", ""),
    ("create", "serviceaccounts --subresource=token", "vdi-system"),
    ("create", "rolebindings.rbac.authorization.k8s.io", "vdi-sessions"),
    ("create", "ingressroutes.traefik.io", "vdi-sessions"),
    ("impersonate", "users", ""),
]


def pod_of(tools: Tools, *words: str) -> dict[str, Any]:
    spec: dict[str, Any] = tools.named("Deployment", "vdi-gateway", *words)["spec"]["template"][
        "spec"
    ]
    return spec


def settings_of(tools: Tools, *words: str) -> Settings:
    """The gateway's settings from the chart's variables; the content of Secrets is played."""
    secret = {"db": "postgresql+asyncpg://u:p@h/n", "shared": "redis://h:6379/0", "sso": "hush"}
    variables = {}
    for variable in pod_of(tools, *words)["containers"][0]["env"]:
        source = variable.get("valueFrom", {}).get("secretKeyRef", {})
        variables[variable["name"]] = variable.get("value") or secret[source["name"]]
    return read_settings(variables)


def mount_path(pod: dict[str, Any], volume: str) -> Path:
    (path,) = [
        mount["mountPath"]
        for mount in pod["containers"][0]["volumeMounts"]
        if mount["name"] == volume
    ]
    return Path(path)


# Rights


def test_gateway_rights_are_the_documented_ones(release: Tools) -> None:
    rules = {name: flat(gateway_rule) for name, gateway_rule in gateway_rules().items()}
    everywhere = rules["ClusterRole/vdi-gateway"]
    assert (
        rules_of(release, GATEWAY, "vdi-sessions")
        == everywhere | rules["Role/vdi-gateway-sessions"]
    )
    assert rules_of(release, GATEWAY, "vdi-system") == everywhere | rules["Role/vdi-gateway"]
    for namespace in ("kube-system", "default"):
        assert rules_of(release, GATEWAY, namespace) == everywhere, namespace

    release.upgrade(CHART, "--set", "gateway.doctor=true")
    doctor = rules["ClusterRole/vdi-gateway-doctor"]
    assert rules_of(release, GATEWAY, "default") == everywhere | doctor
    assert not any("secret" in resource for _, resource, _ in doctor)
    assert {verb for _, _, verb in doctor} == {"get", "list"}


def test_dangerous_requests_are_denied(release: Tools) -> None:
    may = [
        ("assign", "vdisessions.vdi.kasm.io", "vdi-sessions"),
        ("patch", "secrets/vdi-gateway-keys", "vdi-system"),
    ]
    assert allowed_of(release, GATEWAY, MAY_NOT + may) == may


def test_gateway_account_reads_no_session_secret(release: Tools) -> None:
    """Registry credentials, users' own Secrets, desktops' tokens; but those with which the edge
    signs in.
    """
    web = ("image=registry.example.com/web:1", "protocol=Web", "basicAuthSecret.name=kasmvnc")
    others = ("alice-desktop-auth", "registry", "elsewhere")
    for name in ("kasmvnc", *others):
        release.kubectl("create", "secret", "generic", name, "--namespace", "vdi-sessions")
    try:
        tools = replace(release, kubeconfig=release.kubeconfig_of("vdi-gateway", "vdi-system"))
        for words in (*(("secret", name) for name in ("kasmvnc", *others)), ("secrets",)):
            is_refused(tools, "vdi-sessions", *words)
        chosen = [word for value in web for word in ("--set", f"templates.web.{value}")]
        release.upgrade(CHART, *chosen, "--set", "gateway.basicAuthSecrets={elsewhere}")
        for name in ("kasmvnc", "elsewhere"):
            assert tools.kubectl("get", "secret", name, "-n", "vdi-sessions", "-o", "name")
        for words in (("secret", "alice-desktop-auth"), ("secret", "registry"), ("secrets",)):
            is_refused(tools, "vdi-sessions", *words)
    finally:
        release.kubectl("delete", "secret", "kasmvnc", *others, "--namespace", "vdi-sessions")


def test_gateway_account_reads_neither_private_key(release: Tools, tmp_path: Path) -> None:
    """With its own token: the key of the desktops' addresses, and the private key of the wildcard
    certificate.
    """
    release.upgrade(CHART, "--set", "traefik.tlsSecret=vdi-wildcard")
    release.kubectl("create", "secret", "generic", "vdi-wildcard", "--namespace", "vdi-system")
    try:
        tools = replace(release, kubeconfig=release.kubeconfig_of("vdi-gateway", "vdi-system"))
        for words in (("secret", "vdi-host-key"), ("secret", "vdi-wildcard"), ("secrets",)):
            is_refused(tools, "vdi-system", *words)
        assert tools.kubectl("get", "secret", "vdi-gateway-keys", "-n", "vdi-system", "-o", "name")
        found = release.kubectl("get", "secret", "-n", "vdi-sessions", "-o", "name")
        assert "vdi-host-key" not in found and "vdi-wildcard" not in found
    finally:
        release.kubectl("delete", "secret", "vdi-wildcard", "--namespace", "vdi-system")


def is_refused(tools: Tools, namespace: str, *words: str) -> None:
    """The API server's own answer to `kubectl get`."""
    done = tools.try_kubectl("get", *words, "-n", namespace)
    assert done.returncode == 1 and "Forbidden" in done.stderr, words


# What is kept


@pytest.mark.long
def test_keys_users_and_history_outlive_upgrades_and_the_release(release: Tools) -> None:
    here = ("--namespace", "vdi-system")
    kept = {
        "vdi-gateway-keys": {"ring": "generated"},
        "vdi-gateway-users": {"users.yaml": "alice@example.com: {}"},
    }
    for secret, data in kept.items():
        patch = json.dumps({"stringData": data})
        release.kubectl("patch", "secret", secret, *here, "--type=merge", "-p", patch)
    release.upgrade(CHART, "--set", "logLevel=debug")
    assert {secret: release.secret(secret) for secret in kept} == kept
    assert release.helm("rollback", "vdi", *here).returncode == 0
    assert {secret: release.secret(secret) for secret in kept} == kept
    claim = release.kubectl("get", "pvc", "vdi-gateway", *here, "-o", "jsonpath={.metadata.uid}")

    done = release.helm("uninstall", "vdi", *here)
    assert done.returncode == 0, done.stderr
    assert (
        release.kubectl(
            "get", "deploy,svc,role", *here, "-o", "name", "-l", "app.kubernetes.io/name=vdi"
        )
        == ""
    )
    release.upgrade()
    assert {secret: release.secret(secret) for secret in kept} == kept, (
        "what was kept is taken over again"
    )
    assert (
        release.kubectl("get", "pvc", "vdi-gateway", *here, "-o", "jsonpath={.metadata.uid}")
        == claim
    )


def test_disabled_gateway_renders_nothing(tools: Tools) -> None:
    def components(*words: str) -> set[str]:
        labels = [made["metadata"].get("labels", {}) for made in tools.render(*words)]
        return {each.get("app.kubernetes.io/component", "") for each in labels}

    off = ("--set", "gateway.enabled=false")
    assert "gateway" in components()
    assert "gateway" not in components(*off)
    operator = tools.named("Deployment", "vdi-operator", *off)
    container = operator["spec"]["template"]["spec"]["containers"][0]
    assert not {"VDI_EDGE_MIDDLEWARE", "VDI_GATEWAY_URL"} & {
        variable["name"] for variable in container["env"]
    }
    policy = tools.named("NetworkPolicy", "vdi-desktops", *off)
    (traefik,) = policy["spec"]["ingress"][0]["from"]
    assert traefik["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "traefik"}, (
        "and nobody else"
    )


# Values


def test_the_values_reach_the_gateways_settings(tools: Tools) -> None:
    default = settings_of(tools)
    code = read_settings({"VDI_LIMITS_FILE": "/etc/vdi/limits.yaml"})
    assert set(default.trusted_proxies) == set(code.trusted_proxies)
    assert default.probe_account == "system:serviceaccount:vdi-system:vdi-probe"
    same = replace(
        default, trusted_proxies=code.trusted_proxies, gateway_namespace=code.gateway_namespace
    )
    assert default.internal_url == "http://vdi-gateway.vdi-system.svc:8081"
    same = replace(same, probe_account=code.probe_account, internal_url=code.internal_url)
    assert same == code, "the chart's defaults are the code's"
    given = {
        "domain": "vdi.example.com",
        "urlPort": "8443",
        "sessions.namespace": "desks",
        "logLevel": "debug",
        "gateway.oidc.issuer": "https://sso.example.com/realms/x",
        "gateway.oidc.clientId": "vdi",
        "gateway.oidc.existingSecret": "sso",
        "gateway.oidc.scopes": "openid email roles",
        "gateway.oidc.groupsClaim": "roles",
        "gateway.oidc.name": "Example",
        "gateway.adminUsers[0]": "root@example.com",
        "gateway.adminGroups[0]": "it",
        "gateway.adminGroups[1]": "desk help",
        "gateway.retentionDays": "30",
        "gateway.login.idle": "1h",
        "gateway.login.max": "8h",
        "gateway.login.tokenSeconds": "60",
        "gateway.trustedProxies[0]": "10.1.0.0/16",
    }
    words = [word for name, value in given.items() for word in ("--set", f"{name}={value}")]
    made = settings_of(tools, *words, *SERVERS)
    assert (made.namespaces, made.gateway_namespace) == (("desks",), "vdi-system")
    assert made.portal_url == "https://portal.vdi.example.com:8443"
    assert made.oidc
    assert (made.oidc.issuer, made.oidc.client_id) == ("https://sso.example.com/realms/x", "vdi")
    assert (made.oidc.client_secret, made.oidc.scopes) == ("hush", "openid email roles")
    assert (made.oidc.groups_claim, made.oidc.name) == ("roles", "Example")
    assert made.admin_users == frozenset({"root@example.com"})
    assert made.admin_groups == frozenset({"it", "desk help"})
    assert (made.retention_days, made.token_seconds, made.log_level) == (30, 60, "debug")
    assert (made.login_idle.total_seconds(), made.login_max.total_seconds()) == (3600, 8 * 3600)
    assert made.trusted_proxies[0] == ip_network("10.1.0.0/16")
    assert (made.database_url, made.redis_url) == (
        "postgresql+asyncpg://u:p@h/n",
        "redis://h:6379/0",
    )


def test_the_brand_reaches_the_gateways_settings(tools: Tools, tmp_path: Path) -> None:
    portal = {
        "name": "Example Desks",
        "logo": "data:image/svg+xml;base64,PHN2Zz4=",
        "accent": "#0b6e4f",
        "banner": "For staff.",
        "terms": "Be good.\nBe quick.",
        "supportUrl": "mailto:it@example.com",
    }
    origins = ["https://icons.example.com", "https://b.example:8443"]
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump({"gateway": {"portal": {**portal, "iconOrigins": origins}}}))
    made = settings_of(tools, "-f", str(file))
    assert made.brand == Brand(*portal.values())
    assert made.icon_origins == (*origins,)


def test_limits_reach_the_file_that_the_gateway_reads(tools: Tools, tmp_path: Path) -> None:
    default = {
        "sessions": 3,
        "hoursPerMonth": 200,
        "gpuHoursPerMonth": 50.5,
        "homeStorage": "100Gi",
    }
    limits = {"default": default, "users": {"alice@example.com": {"gpus": 8}}}
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump({"gateway": {"limits": limits}}))
    words = ("-f", str(file))
    data = tools.named("ConfigMap", "vdi-gateway", *words)["data"]
    assert yaml.safe_load(data["limits.yaml"]) == limits
    limits_file = settings_of(tools, *words).limits_file
    assert limits_file and limits_file.parent == mount_path(pod_of(tools, *words), "limits")
    annotations = [
        tools.named("Deployment", "vdi-gateway", *each)["spec"]["template"]["metadata"][
            "annotations"
        ]
        for each in (words, ())
    ]
    assert annotations[0] != annotations[1], "changed limits restart the gateway"


def test_replica_count_decides_volume_and_strategy(tools: Tools) -> None:
    several = (*SERVERS, "--set", "gateway.replicas=2")
    alone = tools.named("Deployment", "vdi-gateway")["spec"]
    assert (alone["replicas"], alone["strategy"]["type"]) == (1, "Recreate")
    assert {volume["name"] for volume in alone["template"]["spec"]["volumes"]} == {
        "limits",
        "tmp",
        "data",
        "metrics-token",
    }
    made = {(each["kind"], each["metadata"]["name"]): each for each in tools.render(*several)}
    both = made["Deployment", "vdi-gateway"]["spec"]
    assert both["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
    }
    assert {volume["name"] for volume in both["template"]["spec"]["volumes"]} == {
        "limits",
        "tmp",
        "metrics-token",
    }
    assert ("PersistentVolumeClaim", "vdi-gateway") not in made
    budget = made["PodDisruptionBudget", "vdi-gateway"]["spec"]
    assert budget == {"maxUnavailable": 1, "selector": both["selector"]}
    assert ("PodDisruptionBudget", "vdi-gateway") not in {
        (each["kind"], each["metadata"]["name"]) for each in tools.render()
    }


# Pods and network


def test_gateway_pod_passes_restricted(installed: Tools) -> None:
    spec = pod_of(installed)
    del spec["serviceAccountName"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "gateway"}, "spec": spec}
    installed.kubectl(
        "create",
        "--dry-run=server",
        "--namespace",
        "vdi-sessions",
        "-f",
        "-",
        stdin=json.dumps(pod),
    )
    assert spec["enableServiceLinks"] is False, (
        "VDI_GATEWAY_PORT=tcp://... would be a misspelt setting"
    )
    container = spec["containers"][0]
    assert container["args"] == ["gateway", "run"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    settings = settings_of(installed)
    assert ports == {"http": settings.public_addr[1], "internal": settings.internal_addr[1]}
    assert settings.database_url.removeprefix("sqlite+aiosqlite:///").startswith("/data/")


def test_the_operator_reports_to_the_gateway_as_itself(tools: Tools) -> None:
    deployment = tools.named("Deployment", "vdi-operator")
    pod = deployment["spec"]["template"]["spec"]
    variables = {variable["name"]: variable["value"] for variable in pod["containers"][0]["env"]}
    assert (
        variables["VDI_EDGE_MIDDLEWARE"]
        == tools.named("Middleware", "vdi-edge")["metadata"]["name"]
    )
    service = tools.named("Service", "vdi-gateway")
    internal = next(port["port"] for port in service["spec"]["ports"] if port["name"] == "internal")
    assert variables["VDI_GATEWAY_URL"] == f"http://vdi-gateway.vdi-system.svc:{internal}"
    account = f"system:serviceaccount:vdi-system:{pod['serviceAccountName']}"
    assert settings_of(tools).operator_account == account
    (volume,) = [volume for volume in pod["volumes"] if "projected" in volume]
    token = volume["projected"]["sources"][0]["serviceAccountToken"]
    assert token["audience"] == "vdi-gateway"
    assert (
        mount_path(pod, volume["name"]) / token["path"]
        == read_operator_settings(variables).gateway_token_file
    )
