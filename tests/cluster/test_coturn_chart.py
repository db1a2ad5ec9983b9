"""The TURN server's chart with real helm on a real API server: alone, in the parent, rotation, and
what is refused.
"""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cluster.helm_tools import CHART, Tools
from tools.generate.chart_render import read_objects
from vdi.gateway.settings import read_settings

COTURN = CHART / "charts/coturn"
AUTH = ("--set", "auth.existingSecret=turn-auth")
REQUIRED = ("--set", "realm=turn.example.com", "--set", "allowedPeers={10.42.0.0/16}")
NEEDED = (*REQUIRED, *AUTH)
IN_PARENT = tuple(word if word == "--set" else f"coturn.{word}" for word in REQUIRED)
SERVICE = (*NEEDED, "--set", "hostNetwork=false")


def render(tools: Tools, *words: str) -> dict[str, dict[str, Any]]:
    """The chart's objects alone, by kind and name."""
    done = tools.helm("template", "alone", str(COTURN), *words)
    assert done.returncode == 0, done.stderr
    return {
        f"{made['kind']}/{made['metadata']['name']}": made for made in read_objects(done.stdout)
    }


def options_of(objects: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """turnserver.conf, by option."""
    text = objects["Secret/alone-coturn-config"]["stringData"]["turnserver.conf"]
    made: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            made.setdefault(name, []).append(value)
    return made


# What is rendered


def test_standalone_chart_renders_deployment_and_config(tools: Tools) -> None:
    objects = render(tools, *NEEDED)
    assert set(objects) == {"Secret/alone-coturn-config", "Deployment/alone-coturn"}
    assert options_of(objects) == {
        "realm": ["turn.example.com"],
        "listening-port": ["3478"],
        "min-port": ["61000"],
        "max-port": ["65535"],
        "use-auth-secret": [""],
        "stale-nonce": ["600"],
        "fingerprint": [""],
        "allowed-peer-ip": ["10.42.0.0-10.42.255.255"],
        "denied-peer-ip": ["0.0.0.0-255.255.255.255", "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"],
        "no-multicast-peers": [""],
        "no-tcp-relay": [""],
        "user-quota": ["12"],
        "total-quota": ["400"],
        "max-bps": ["6250000"],
        "no-tls": [""],
        "no-cli": [""],
        "no-rfc5780": [""],
        "log-file": ["stdout"],
        "simple-log": [""],
        "pidfile": ["/run/coturn/turnserver.pid"],
        "userdb": ["/run/coturn/turndb"],
    }


def test_the_pod_has_no_rights_and_the_secret_is_in_files_only(tools: Tools) -> None:
    objects = render(tools, *NEEDED)
    deployment = objects["Deployment/alone-coturn"]
    pod = deployment["spec"]["template"]["spec"]
    assert pod["hostNetwork"] is True and pod["automountServiceAccountToken"] is False
    assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (
        True,
        65534,
    )
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
    }
    assert container["command"] == ["/bin/sh", "/etc/coturn/start.sh"] and "args" not in container
    assert [variable["name"] for variable in container["env"]] == ["POD_IP"]
    (auth,) = [volume["secret"] for volume in pod["volumes"] if volume["name"] == "auth"]
    assert auth["secretName"] == "turn-auth", "that of the values; the chart makes none"


def test_pod_network_mode_is_restricted_with_service_and_policy(tools: Tools) -> None:
    objects = render(
        tools, *SERVICE, "--set", "tls.existingSecret=cert", "--set", "traefik.entryPoint=turn"
    )
    kinds = {"Service/alone-coturn", "NetworkPolicy/alone-coturn", "IngressRouteUDP/alone-coturn"}
    assert kinds < set(objects)
    ports = {
        (port["name"], port["port"], port.get("protocol"))
        for port in objects["Service/alone-coturn"]["spec"]["ports"]
    }
    assert ports == {("turn", 3478, "UDP"), ("turn-tcp", 3478, None), ("turn-tls", 5349, None)}
    assert objects["IngressRouteUDP/alone-coturn"]["spec"] == {
        "entryPoints": ["turn"],
        "routes": [{"services": [{"name": "alone-coturn", "port": 3478}]}],
    }
    policy = objects["NetworkPolicy/alone-coturn"]["spec"]
    assert policy["egress"] == [
        {
            "ports": [{"protocol": "UDP", "port": 1024, "endPort": 65535}],
            "to": [{"ipBlock": {"cidr": "10.42.0.0/16"}}],
        }
    ]
    assert ["from" in rule for rule in policy["ingress"]] == [False, True]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "turn"}}
    pod["spec"] = objects["Deployment/alone-coturn"]["spec"]["template"]["spec"]
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "closed"}}
    namespace["metadata"] |= {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}  # type: ignore[operator]
    tools.kubectl("apply", "-f", "-", stdin=json.dumps(namespace))
    tools.kubectl(
        "wait", "serviceaccount/default", "--for=create", "--namespace", "closed", "--timeout=30s"
    )
    tools.kubectl(
        "create", "--dry-run=server", "--namespace", "closed", "-f", "-", stdin=json.dumps(pod)
    )


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("10.42.0.0/16", "10.42.0.0-10.42.255.255"),
        ("192.168.77.0/24", "192.168.77.0-192.168.77.255"),
        ("172.16.0.0/12", "172.16.0.0-172.31.255.255"),
        ("10.42.3.7/32", "10.42.3.7-10.42.3.7"),
        ("10.128.0.0/9", "10.128.0.0-10.255.255.255"),
        ("2001:cafe:42::/56", "2001:cafe:42:0:0:0:0:0-2001:cafe:42:ff:ffff:ffff:ffff:ffff"),
        ("fd42::/48", "fd42:0:0:0:0:0:0:0-fd42:0:0:ffff:ffff:ffff:ffff:ffff"),
    ],
)
def test_allowed_network_becomes_an_address_range(tools: Tools, given: str, made: str) -> None:
    words = ("--set", "realm=turn.example.com", "--set", f"allowedPeers={{{given}}}", *AUTH)
    assert options_of(render(tools, *words))["allowed-peer-ip"] == [made]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("auth.existingSecret=",),
            "auth.existingSecret is empty: name a Secret with the key `secret`",
        ),
        (("realm=",), "realm is empty"),
        (("allowedPeers=null",), "allowedPeers is empty"),
        (("allowedPeers={10.0.0.0/8}",), "must be /9 to /32"),
        (("allowedPeers={0.0.0.0/0}",), "must be /9 to /32"),
        (("allowedPeers={169.254.0.0/16}",), "169.254.0.0/16 is not a range of pods"),
        (("allowedPeers={127.0.0.0/9}",), "is not a range of pods"),
        (("allowedPeers={10.42.0.1/16}",), "bits set after its prefix"),
        (("allowedPeers={10.42.0.300/32}",), "300 is more than 255"),
        (("allowedPeers={fe80::/64}",), "is not a range of pods"),
        (("allowedPeers={64:ff9b::/96}",), "is not a range of pods"),
        (("allowedPeers={2002:a2b::/32}",), "is not a range of pods"),
        (("allowedPeers={fd42:1::/16}",), "must be /32 to /128"),
        (("allowedPeers={pods}",), "/allowedPeers/0"),
        (
            ("relayPorts.min=65000", "relayPorts.max=64000"),
            "relayPorts.min: 65000 is more than relayPorts.max (64000)",
        ),
        (
            ("relayPorts.min=65500",),
            "quotas.total: 400 is more than the number of relay ports; allowed: at most 36",
        ),
        (("port=62000",), "port: 62000 is one of relayPorts"),
        (("port=443",), "/port"),
        (("traefik.entryPoint=turn",), "traefik.entryPoint: allowed only with hostNetwork: false"),
        (("metrics.enabled=true",), "metrics.address"),
        (
            ("hostNetwork=false", "externalIP=192.0.2.1"),
            "externalIP: allowed only with hostNetwork: true",
        ),
        (("quotas.perUser=0",), "/quotas/perUser"),
        (("realm=two words",), "/realm"),
        (("relm=x",), "relm"),
    ],
)
def test_invalid_or_open_values_are_refused(
    tools: Tools, words: tuple[str, ...], said: str
) -> None:
    sets = [part for word in words for part in ("--set", word)]
    done = tools.helm("template", "alone", str(COTURN), *NEEDED, *sets)
    assert done.returncode == 1
    assert said in done.stderr, done.stderr


# What is installed


@pytest.mark.long
def test_rotation_adds_a_secret_and_keeps_the_previous(tools: Tools) -> None:
    url = "gateway.turn.urls={turn:turn.example.com:3478?transport=udp}"

    def upgrade(*words: str) -> dict[str, str]:
        tools.upgrade(CHART, "--set", "coturn.enabled=true", *IN_PARENT, "--set", url, *words)
        tools.fill_secrets()
        return tools.secret("vdi-coturn")

    def mounted(deployment: str, volume: str) -> dict[str, str]:
        """File name to key."""
        pod = tools.get("deployment", deployment, "-n", "vdi-system")["spec"]["template"]["spec"]
        (found,) = [load["secret"]["items"] for load in pod["volumes"] if load["name"] == volume]
        return {item["path"]: item["key"] for item in found}

    first = upgrade()
    assert set(first) == {"secret-1"} and len(first["secret-1"]) == 48
    assert upgrade("--set", "coturn.quotas.perUser=20") == first
    assert mounted("vdi-coturn", "auth") == {"secret": "secret-1"}

    second = upgrade("--set", "coturn.auth.rotation=2")
    assert second["secret-1"] == first["secret-1"] != second["secret-2"]
    assert mounted("vdi-coturn", "auth") == {"secret": "secret-2", "previousSecret": "secret-1"}
    assert (tools.home / "secret").read_text() == second["secret-2"], (
        "the previous one makes no credentials"
    )

    last = upgrade("--set", "coturn.auth.rotation=2", "--set", "coturn.auth.acceptPrevious=false")
    assert last == second
    assert mounted("vdi-coturn", "auth") == {"secret": "secret-2"}
    assert tools.helm("uninstall", "vdi", "--namespace", "vdi-system").returncode == 0


def test_gateway_signs_with_the_secret_of_coturn(tools: Tools) -> None:
    url = "turn:turn.example.com:3478?transport=udp"
    words = ("--set", "coturn.enabled=true", *IN_PARENT, "--set", f"gateway.turn.urls={{{url}}}")
    objects = {(one["kind"], one["metadata"]["name"]): one for one in tools.render(*words)}
    pod = objects["Deployment", "vdi-gateway"]["spec"]["template"]["spec"]
    variables = {
        variable["name"]: variable.get("value", "") for variable in pod["containers"][0]["env"]
    }
    settings = read_settings(
        {name: value for name, value in variables.items() if name.startswith("VDI_TURN")}
    )
    assert (settings.turn_urls, settings.turn_ttl) == ((url,), timedelta(hours=12))
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "turn"]
    assert "emptyDir" in volume, (
        "a volume of the Secret would wait for what the init container draws"
    )
    (init,) = pod["initContainers"]
    assert [mount["name"] for mount in init["volumeMounts"]] == ["turn"]
    (drawn,) = json.loads(
        next(
            variable["value"]
            for variable in init["env"]
            if variable["name"] == "VDI_SERVER_SECRETS"
        )
    )
    assert drawn == {
        "name": "vdi-coturn",
        "random": {"secret-1": 48},
        "files": {f"{init['volumeMounts'][0]['mountPath']}/secret": "secret-1"},
    }
    (mount,) = [
        volume_mount
        for volume_mount in pod["containers"][0]["volumeMounts"]
        if volume_mount["name"] == "turn"
    ]
    assert settings.turn_secret_file == Path(mount["mountPath"]) / "secret"
    without = json.dumps(tools.render("--set", "coturn.enabled=true", *IN_PARENT))
    assert "VDI_TURN" not in without
