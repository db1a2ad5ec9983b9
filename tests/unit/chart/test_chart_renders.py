"""Renders of values that a summary of all objects does not show."""

import json
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.docs_blocks import all_blocks
from tools.generate.chart_render import CHART, DEV_IMAGES, pod_specs, read_objects, render
from unit.cli.fake_cluster import FakeCluster

Object = dict[str, Any]
_API_SERVER = {
    "apiVersion": "discovery.k8s.io/v1",
    "kind": "EndpointSlice",
    "metadata": {"name": "kubernetes", "namespace": "default"},
    "addressType": "IPv4",
    "endpoints": [{"addresses": ["203.0.113.7"]}],
    "ports": [{"name": "https", "port": 16443, "protocol": "TCP"}],
}
_CLIENTS = ("vdi-operator", "vdi-gateway", "vdi-doctor")
_WITH_DOCTOR = ("--set", "doctor.schedule=@hourly")


def know(cluster: FakeCluster, kinds: Iterable[Object]) -> None:
    """As much of an API server as helm needs: it knows the kinds of these objects, and has one
    object, its own.
    """
    answers: dict[str, Object] = {
        "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "groups": []},
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes": _API_SERVER,
    }
    for version, kind in sorted({(made["apiVersion"], made["kind"]) for made in kinds}):
        group, _, short = version.rpartition("/")
        path = f"/apis/{version}" if group else f"/api/{version}"
        if path not in answers:
            answers[path] = {"kind": "APIResourceList", "groupVersion": version, "resources": []}
            groups = answers["/apis"]["groups"]
            groups += (
                [{"name": group, "versions": [{"groupVersion": version, "version": short}]}]
                if group
                else []
            )
        resource = {"name": f"{kind.lower()}s", "kind": kind, "namespaced": True, "verbs": ["get"]}
        answers[path]["resources"].append(resource)

    for path, answer in answers.items():
        cluster.answer("GET", path, answer)


def template(helm: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [
        str(helm),
        "template",
        "vdi",
        str(CHART),
        "--namespace",
        "vdi-system",
        "--values",
        str(DEV_IMAGES),
    ]
    return subprocess.run(
        [*command, *words], capture_output=True, text=True, check=False, timeout=60
    )


def api_server_ports(objects: list[Object]) -> Iterator[tuple[str, list[int]]]:
    """By policy of the release's namespace: the ports that are open to every address."""
    for made in objects:
        if made["kind"] == "NetworkPolicy" and made["metadata"]["namespace"] == "vdi-system":
            for rule in made["spec"]["egress"]:
                if "to" not in rule:
                    yield made["metadata"]["name"], [port["port"] for port in rule["ports"]]


@pytest.mark.parametrize(
    ("words", "ports"),
    [
        ((), [443, 6443]),
        (("--set", "network.apiServerPorts={16443}"), [16443]),
        (("--set", "network.apiServerPorts={443,16443,443}"), [443, 16443]),
    ],
)
def test_the_api_server_is_reached_on_the_ports_that_are_set(
    helm: Path, words: tuple[str, ...], ports: list[int]
) -> None:
    objects = render(helm, "values.yaml", *_WITH_DOCTOR, *words)
    assert dict(api_server_ports(objects)) == dict.fromkeys(_CLIENTS, ports)


def test_the_port_that_a_cluster_names_is_added(
    helm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/dev/null")
    monkeypatch.setenv("KUBECACHEDIR", str(tmp_path))
    kinds = render(helm, "values.yaml", *_WITH_DOCTOR)
    with FakeCluster().running() as cluster:
        know(cluster, [*kinds, _API_SERVER])
        words = ("--dry-run=server", "--disable-openapi-validation", "--skip-tests")
        done = template(helm, *_WITH_DOCTOR, *words, "--kube-apiserver", cluster.url)
    assert done.returncode == 0, done.stderr
    assert "203.0.113.7/32" in done.stdout
    reached = dict(api_server_ports(read_objects(done.stdout)))
    assert reached == {name: [443, 6443, 16443] for name in _CLIENTS}


_ELSEWHERE = "network.apiServerPorts={16443}"
_OIDC = f"{_ELSEWHERE},gateway.oidc.clientId=vdi,gateway.oidc.issuer=https://sso.example.com"
_HOOK, _S3 = "gateway.notices.webhook", "gateway.recordings.s3"


@pytest.mark.parametrize(
    ("values", "reach"),
    [
        ("", ["desktop", "operator", "gateway", "doctor"]),
        (_ELSEWHERE, ["desktop"]),
        (f"{_OIDC}/x", ["desktop", "gateway"]),
        (f"{_OIDC}:8443/x", ["desktop"]),
        (
            f"{_ELSEWHERE},{_HOOK}.url=https://hooks.example.com/vdi,{_HOOK}.existingSecret=x",
            ["desktop", "gateway"],
        ),
        (
            f"{_ELSEWHERE},{_S3}.bucket=recordings,{_S3}.endpoint=https://s3.example.com,{_S3}.existingSecret=recordings",
            ["desktop", "gateway"],
        ),
    ],
)
def test_helm_test_plan_follows_the_api_server_ports(
    helm: Path, values: str, reach: list[str]
) -> None:
    """The rule for the API server names no address, so it opens port 443 of all hosts, if that is
    among the ports.
    """
    done = template(helm, "--set", values)
    assert done.returncode == 0, done.stderr
    plans = [
        made["data"].get("plan.json")
        for made in read_objects(done.stdout)
        if made["kind"] == "ConfigMap"
    ]
    (plan,) = [json.loads(text) for text in plans if text]
    assert plan["allowed"]["the internet 443"] == reach


def test_production_renders_without_the_parts_that_the_guide_names(
    helm: Path, tmp_path: Path
) -> None:
    (block,) = [
        block
        for block in all_blocks()
        if block.page == "docs/install.md" and "certManager:" in block.text
    ]
    values = tmp_path / "without.yaml"
    values.write_text(block.text)
    made = render(helm, "values-production.yaml", "--values", str(values))
    assert not {each["kind"] for each in made} & {"Certificate", "PodMonitor", "PrometheusRule"}
    assert "coturn" not in json.dumps(made)
    assert "VDI_TURN" not in json.dumps(made)


def test_metrics_of_another_release_do_not_count(helm: Path) -> None:
    """Missing metrics are found by the namespace that the release's PodMonitor gives them."""
    words = ("--set", "monitoring.rules=true", "--set", "doctor.schedule=@hourly")

    def silences(*more: str) -> list[str]:
        rules = [
            made
            for made in render(helm, "values.yaml", *words, *more)
            if made["kind"] == "PrometheusRule"
        ]
        found = [
            rule for made in rules for group in made["spec"]["groups"] for rule in group["rules"]
        ]
        names = {
            "VDIOperatorDown",
            "VDIOperatorWithoutLeader",
            "VDIGatewayDown",
            "VDIProbeSilent",
            "VDIDoctorSilent",
        }
        return [rule["expr"] for rule in found if rule.get("alert") in names]

    own = silences("--set", "monitoring.podMonitor=true")
    assert len(own) == 7
    assert all('{namespace="vdi-system"' in expression for expression in own)
    assert not any("namespace=" in expression for expression in silences()), (
        "a Prometheus set up by hand may have none"
    )


def priorities(objects: list[Object]) -> dict[str, str | None]:
    """Of the pods that run all the time, by Deployment or StatefulSet."""
    return {
        made["metadata"]["name"]: spec.get("priorityClassName")
        for made in objects
        if made["kind"] in ("Deployment", "StatefulSet")
        for _, spec in pod_specs(made)
    }


@pytest.mark.parametrize("base", ["", "https://docs.example.com/vdi/monitoring.html"])
def test_alerts_link_to_an_absolute_address_or_to_none(helm: Path, base: str) -> None:
    chosen = f"monitoring.rules=true,doctor.schedule=@hourly,monitoring.runbookUrl={base}"
    objects = render(helm, "values.yaml", "--set", chosen)
    links = []
    for made in objects:
        for group in made["spec"]["groups"] if made["kind"] == "PrometheusRule" else ():
            links += [rule["annotations"] for rule in group["rules"] if "alert" in rule]
    assert len(links) > 20
    for annotations in links:
        page = annotations["runbook_url"] if base else annotations["runbook"]
        assert page.startswith(f"{base or 'docs/monitoring.md'}#vdi"), page
        assert base or "runbook_url" not in annotations


def test_servers_outrank_desktops_in_production_alone(helm: Path) -> None:
    names = ("operator", "gateway", "postgresql", "redis", "coturn")
    found = priorities(render(helm, "values-production.yaml"))
    assert found == {f"vdi-{name}": "system-cluster-critical" for name in names}
    servers = "postgresql.enabled=true,redis.enabled=true,coturn.enabled=true,coturn.realm=r"
    peers = "coturn.allowedPeers={10.42.0.0/16}"
    assert set(priorities(render(helm, "values.yaml", "--set", f"{servers},{peers}")).values()) == {
        None
    }
