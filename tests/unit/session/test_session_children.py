import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.builders import a_session
from unit.session.resolving import BEHIND_GATEWAY, IDENTITY, desktop_of, pod_of
from vdi.session.children import Route, Secret, build_home, build_route, build_secret, build_service
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.credentials import DesktopTokens

FIXTURES = Path(__file__).parent / "fixtures"
FULL_TEMPLATE: dict[str, Any] = {
    "env": [
        {"name": "SELKIES_ENCODER", "value": "nvh264enc"},
        {"name": "LICENCE", "valueFrom": {"secretKeyRef": {"name": "licence", "key": "key"}}},
    ],
    "volumes": [
        {"name": "data", "mountPath": "/data", "persistentVolumeClaim": {"claimName": "data"}},
        {"name": "conf", "mountPath": "/etc/app", "configMap": {"name": "conf"}},
        {
            "name": "nfs",
            "mountPath": "/nfs",
            "readOnly": False,
            "nfs": {"server": "10.0.0.9", "path": "/x"},
        },
    ],
    "placement": {
        "nodeSelector": {"gpu": "true"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "runtimeClassName": "nvidia",
    },
    "imagePullSecrets": [{"name": "registry"}],
}


def test_pod_is_as_the_golden_file_has_it() -> None:
    golden = FIXTURES / "pod-full.golden.json"
    assert pod_of(**FULL_TEMPLATE) == json.loads(golden.read_text())


@pytest.mark.parametrize(
    "template", [{}, FULL_TEMPLATE | {"volumes": []}, {"resources": {"defaultGPU": 0}}]
)
def test_pod_passes_the_restricted_standard(template: dict[str, Any]) -> None:
    spec = pod_of(**template)["spec"]
    assert all(
        set(volume) - {"name"} <= {"emptyDir", "persistentVolumeClaim"}
        for volume in spec["volumes"]
    )
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(spec)
    security = spec["securityContext"]
    assert (security["runAsNonRoot"], security["runAsUser"]) == (True, 1000)
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert all("hostPort" not in port for port in container["ports"])


def environment(built: dict[str, Any]) -> dict[str, Any]:
    """As the kubelet sees it: of two variables with one name the last counts."""
    return {
        variable["name"]: variable.get("value", variable.get("valueFrom"))
        for variable in built["spec"]["containers"][0]["env"]
    }


def test_desktop_requires_the_password_of_its_secret() -> None:
    env = environment(pod_of())
    assert env["SELKIES_ENABLE_BASIC_AUTH"] == "true"
    assert env["SELKIES_BASIC_AUTH_USER"] == "user"
    secret = {"secretKeyRef": {"name": "alice-desktop-auth", "key": "password"}}
    assert env["SELKIES_BASIC_AUTH_PASSWORD"] == secret


def test_behind_a_gateway_the_pod_has_digests_and_no_token() -> None:
    env = environment(pod_of(settings=BEHIND_GATEWAY))
    assert env["SELKIES_ENABLE_BASIC_AUTH"] == "false"
    taken = {
        name: from_["secretKeyRef"]["key"] for name, from_ in env.items() if isinstance(from_, dict)
    }
    assert taken == {
        "VDI_MASTER_TOKEN_SHA256": "passwordSha256",
        "VDI_AGENT_TOKEN_SHA256": "agentTokenSha256",
    }
    assert not [name for name in env if name.startswith("SELKIES_BASIC_AUTH")]
    keys = build_secret(identity=IDENTITY, tokens=DesktopTokens("p", "t"))["stringData"]
    assert keys["passwordSha256"] == sha256(b"p").hexdigest()
    assert keys["agentTokenSha256"] == sha256(b"t").hexdigest()


def test_session_s_time_zone_replaces_the_template_s() -> None:
    template: dict[str, Any] = {"env": [{"name": "TZ", "value": "Europe/Berlin"}]}
    assert (
        environment(pod_of(a_session(timeZone="Asia/Calcutta"), **template))["TZ"]
        == "Asia/Calcutta"
    )
    assert environment(pod_of(**template))["TZ"] == "Europe/Berlin"


def test_cpu_desktop_sees_no_gpu() -> None:
    built = pod_of(resources={"defaultGPU": 0})
    assert environment(built)["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert "nvidia.com/gpu" not in built["spec"]["containers"][0]["resources"]["limits"]


def test_everything_but_a_retained_home_dies_with_the_session() -> None:
    shared, own = desktop_of().home, desktop_of(a_session(persistence={"retain": False})).home
    assert shared and own
    children = [
        pod_of(),
        build_service(identity=IDENTITY),
        build_route(identity=IDENTITY, host="h", settings=ClusterSettings()),
        build_secret(identity=IDENTITY, tokens=DesktopTokens("p", "t")),
        build_home(identity=IDENTITY, home=own),
    ]
    for child in children:
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == (
            "VDISession",
            "uid-alice-desktop",
            True,
        )
        assert child["metadata"]["labels"]["vdi.kasm.io/session"] == "alice-desktop"
    assert "ownerReferences" not in build_home(identity=IDENTITY, home=shared)["metadata"]


def test_service_finds_the_pod_by_label_and_its_port_by_name() -> None:
    spec = build_service(identity=IDENTITY)["spec"]
    assert spec["clusterIP"] == "None"
    assert spec["selector"].items() <= pod_of()["metadata"]["labels"].items()
    assert spec["ports"][0]["targetPort"] == pod_of()["spec"]["containers"][0]["ports"][0]["name"]


@pytest.mark.parametrize(
    ("settings", "tls"),
    [
        (ClusterSettings(), {"certResolver": ""}),
        (ClusterSettings(tls_secret="wildcard", cert_resolver="le"), {"secretName": "wildcard"}),
        # The portal's route names the Secret, in a namespace of which the gateway does not read
        # every Secret.
        (ClusterSettings(tls_secret="wildcard", edge_middleware="vdi-edge"), {"certResolver": ""}),
        (
            ClusterSettings(cert_resolver="le"),
            {"certResolver": "le", "domains": [{"main": "*.vdi.localhost"}]},
        ),
    ],
)
def test_route_takes_its_certificate_from_where_the_policy_says(
    settings: ClusterSettings, tls: dict[str, Any]
) -> None:
    route = build_route(identity=IDENTITY, host="alice.vdi.localhost", settings=settings)
    assert route["spec"]["tls"] == tls
    assert route["spec"]["routes"][0]["match"] == "Host(`alice.vdi.localhost`)"
    assert route["spec"]["entryPoints"] == ["websecure"]


def test_route_passes_the_gateways_check_where_there_is_one() -> None:
    bare = build_route(identity=IDENTITY, host="h", settings=ClusterSettings())
    assert "middlewares" not in bare["spec"]["routes"][0]
    guarded = build_route(identity=IDENTITY, host="h", settings=BEHIND_GATEWAY)
    assert guarded["spec"]["routes"][0]["middlewares"] == [{"name": "vdi-edge"}]


@pytest.mark.parametrize(
    ("data", "token"),
    [(b'"agentToken": "YQ=="', "a"), (b'"agentToken": "/w=="', ""), (b'"password": "cHc="', "")],
)
def test_of_a_secret_only_the_agent_s_token(data: bytes, token: str) -> None:
    secret = msgspec.json.decode(b'{"metadata": {"name": "s"}, "data": {%s}}' % data, type=Secret)
    assert secret.agent_token == token
    assert "cHc=" not in str(secret)


def test_of_a_route_only_its_host() -> None:
    annotated = (
        b'{"metadata": {"name": "r", "annotations": {"vdi.kasm.io/host": "a.example.com", "x":'
        b' "y"}}}'
    )
    route, bare = (
        msgspec.json.decode(body, type=Route)
        for body in (annotated, b'{"metadata": {"name": "r"}}')
    )
    assert (route.host, bare.host) == ("a.example.com", "")
