"""Settings of an administrator for the pods of the release, with real helm and a real API
server.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.helm_tools import CHART, Tools
from tools.generate.chart_render import images_of, pod_specs

DIGEST = "sha256:" + "a" * 64
PLACEMENT: dict[str, Any] = {
    "podLabels": {"team": "desktops"},
    "nodeSelector": {"role": "infra"},
    "tolerations": [{"key": "infra", "operator": "Exists"}],
    "topologySpreadConstraints": [
        {
            "maxSkew": 1,
            "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "ScheduleAnyway",
        }
    ],
    "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["login.example.com"]}],
    "extraEnv": [{"name": "TZ", "value": "Europe/Berlin"}],
    "extraVolumes": [{"name": "extra", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "extra", "mountPath": "/extra"}],
    "serviceAccount": {"annotations": {"example.com/role": "operator"}},
}
VALUES: dict[str, Any] = {
    **PLACEMENT,
    "imagePullSecrets": ["own"],
    "image": {"digest": DIGEST},
    "global": {"imageRegistry": "mirror.example.com:5000/desktops", "imagePullSecrets": ["mirror"]},
    "gateway": {
        "nodeSelector": {"role": "edge"},
        "extraEnv": [{"name": "TZ", "value": "UTC"}],
        "serviceAccount": {"annotations": {"example.com/role": "gateway"}},
        "caBundle": {"configMap": "our-ca", "key": "bundle.pem"},
        "proxy": {"https": "http://proxy.example.com:3128", "noProxy": [".svc", "192.0.2.0/24"]},
    },
    "doctor": {"schedule": "*/10 * * * *"},
    "postgresql": {"enabled": True, "nodeSelector": {"role": "data"}, "image": {"digest": DIGEST}},
    "redis": {"enabled": True, "tolerations": [{"key": "infra", "operator": "Exists"}]},
    "coturn": {"enabled": True, "realm": "turn.example.com", "allowedPeers": ["10.42.0.0/16"]},
}


@pytest.fixture(scope="module")
def tools(tools: Tools) -> Tools:
    tools.kubectl("apply", "--server-side", "-f", str(CHART / "files/crds"))
    for namespace in ("vdi-system", "vdi-sessions"):
        tools.kubectl("create", "namespace", namespace)
    return tools


@pytest.fixture
def values_file(tmp_path: Path) -> Path:
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(VALUES))
    return path


def pods_of(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Pod specs by the name of the object that makes the pods."""
    return {made["metadata"]["name"]: spec for made in objects for _, spec in pod_specs(made)}


@pytest.mark.long
def test_placement_values_reach_every_pod(tools: Tools, values_file: Path) -> None:
    objects = tools.render("-f", str(values_file), "--skip-tests")
    workloads = [
        made
        for made in objects
        if made["kind"] in ("Deployment", "StatefulSet", "CronJob", "ServiceAccount")
    ]
    words = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-")
    assert len(tools.kubectl(*words, stdin=yaml.safe_dump_all(workloads)).splitlines()) == len(
        workloads
    )

    pods = pods_of(objects)
    operator, gateway, doctor = (pods[f"vdi-{name}"] for name in ("operator", "gateway", "doctor"))
    for key in ("tolerations", "topologySpreadConstraints", "hostAliases"):
        assert operator[key] == gateway[key] == doctor[key] == PLACEMENT[key]
    assert operator["nodeSelector"] == doctor["nodeSelector"] == {"role": "infra"}
    assert gateway["nodeSelector"] == {"role": "edge"}, "the gateway's own is used instead"
    assert pods["vdi-postgresql"]["nodeSelector"] == {"role": "data"}
    assert pods["vdi-redis"]["tolerations"] == PLACEMENT["tolerations"]
    assert "podAntiAffinity" in operator["affinity"], (
        "replicas prefer different nodes unless the values say otherwise"
    )

    for spec, zone in ((operator, "Europe/Berlin"), (gateway, "UTC")):
        (container,) = spec["containers"]
        assert {"name": "TZ", "value": zone} in container["env"]
        assert {"name": "extra", "mountPath": "/extra"} in container["volumeMounts"]
        assert {"name": "extra", "emptyDir": {}} in spec["volumes"]
    accounts = {
        made["metadata"]["name"]: made["metadata"]
        for made in objects
        if made["kind"] == "ServiceAccount"
    }
    assert accounts["vdi-operator"]["annotations"] == {"example.com/role": "operator"}
    assert accounts["vdi-gateway"]["annotations"] == {"example.com/role": "gateway"}
    (deployment,) = [
        made
        for made in objects
        if made["metadata"]["name"] == "vdi-operator" and "replicas" in made.get("spec", {})
    ]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert (
        labels["team"] == "desktops"
        and deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    )


def test_the_gateway_trusts_the_bundle_and_uses_the_proxy(tools: Tools, values_file: Path) -> None:
    pods = pods_of(tools.render("-f", str(values_file)))
    (container,) = pods["vdi-gateway"]["containers"]
    variables = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert variables["HTTPS_PROXY"] == "http://proxy.example.com:3128"
    assert variables["NO_PROXY"] == ".svc,192.0.2.0/24"
    assert variables["SSL_CERT_FILE"] == "/etc/vdi-ca/ca.crt"
    (volume,) = [
        volume for volume in pods["vdi-gateway"]["volumes"] if volume["name"] == "ca-bundle"
    ]
    assert volume["configMap"] == {
        "name": "our-ca",
        "items": [{"key": "bundle.pem", "path": "ca.crt"}],
    }


def test_mirror_and_digests_apply_to_every_image(tools: Tools, values_file: Path) -> None:
    objects = tools.render("-f", str(values_file), "--set", "templates=null")
    mirror = "mirror.example.com:5000/desktops"
    assert images_of(objects) == {
        f"{mirror}/vdi/vdi@{DIGEST}",
        f"{mirror}/library/postgres@{DIGEST}",
        f"{mirror}/library/redis:7.2-bookworm",
        f"{mirror}/coturn/coturn:4.17.2-r0",
    }
    for name, spec in pods_of(objects).items():
        secrets = {secret["name"] for secret in spec["imagePullSecrets"]}
        assert secrets >= {"mirror"}, name
