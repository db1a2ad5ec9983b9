"""Answers become values that the chart reads, that the check accepts, and that say what was
asked.
"""

import pytest
import yaml
from hypothesis import given

from unit.kasm.install_options import good_options, options, values_of
from vdi.findings.model import Severity
from vdi.kasm.generations import ALL
from vdi.kasm.generations.a import A
from vdi.kasm.generations.b import B
from vdi.kasm.generations.c import C
from vdi.kasm.generations.model import resources
from vdi.kasm.values.check import Subject, check_values
from vdi.kasm.values.render import (
    CHART,
    NODE_4GB,
    NODE_8GB,
    PROFILES,
    BadOptionsError,
    Ingress,
    InstallOptions,
    Profile,
    check,
    entries,
    render,
)

HOST = "kasm.example.com"


@given(good_options())
def test_rendered_values_pass_the_check(given_options: InstallOptions) -> None:
    text = render(given_options)
    values = yaml.safe_load(text)
    assert values == values_of(given_options)
    for path, _, comment in entries(given_options):
        assert given_options.generation.keys.read(path, given_options.chart_version), path
        assert f"# {comment}" in text
    subject = Subject(given_options.generation, given_options.chart_version, values)
    assert [each for each in check_values(subject) if each.severity is Severity.ERROR] == []


@given(options())
def test_options_are_rendered_or_refused(given_options: InstallOptions) -> None:
    try:
        check(given_options)
    except BadOptionsError as error:
        assert error.problems
        assert all(problem.startswith("--") and problem.endswith(".") for problem in error.problems)
        with pytest.raises(BadOptionsError):
            render(given_options)
    else:
        subject = Subject(
            given_options.generation, given_options.chart_version, values_of(given_options)
        )
        assert not any(each.severity is Severity.ERROR for each in check_values(subject))


def test_small_node_has_the_required_sizes_and_no_gateways() -> None:
    values = values_of(InstallOptions(C, HOST, profile=NODE_4GB))
    database, components = values["database"], values["components"]
    small = {
        "requests": {"cpu": "250m", "memory": "512Mi"},
        "limits": {"cpu": "500m", "memory": "1Gi"},
    }
    large = {
        "requests": {"cpu": "500m", "memory": "1Gi"},
        "limits": {"cpu": "1000m", "memory": "2Gi"},
    }
    assert database["resources"] == components["api"]["resources"] == small
    assert components["manager"]["resources"] == large
    assert database["storage"]["storageClassName"] == "local-path"
    assert values["imagePullPolicy"] == "IfNotPresent"
    assert [components[key] for key in ("guac", "rdpGateway", "rdpHttpsGateway")] == [
        {"enabled": False}
    ] * 3
    redis = values_of(InstallOptions(A, HOST, profile=NODE_8GB))["kasmApp"]["servicesToDeploy"][
        "kasmRedis"
    ]
    requests, limits = {"cpu": "100m", "memory": "256Mi"}, {"cpu": "200m", "memory": "512Mi"}
    assert redis["resources"] == {"requests": requests, "limits": limits}


def test_ingress_option_has_three_kinds() -> None:
    found = [values_of(InstallOptions(C, HOST, ingress=ingress)) for ingress in Ingress]
    kinds = [(values["proxyService"]["type"], values["ingress"]["enabled"]) for values in found]
    assert kinds == [("ClusterIP", True), ("LoadBalancer", False), ("ClusterIP", False)]
    text = render(InstallOptions(C, HOST, release="mine", ingress=Ingress.NONE, tls_secret="tls"))
    assert f"route {HOST} to Service mine-proxy-default, port 8080" in text


@pytest.mark.parametrize(("profile", "count"), [(NODE_4GB, 1), (NODE_8GB, 1), (CHART, 3)])
def test_generation_a_sets_replicas_of_every_component(profile: Profile, count: int) -> None:
    """Helm 4 drops the null that the chart has for them, and the chart's schema requires them."""
    options = InstallOptions(A, HOST, version=(1, 16, 0), profile=profile)
    services = values_of(options)["kasmApp"]["servicesToDeploy"]
    names = {
        "kasmProxy",
        "kasmApi",
        "kasmManager",
        "kasmGuac",
        "rdpGateway",
        "rdpHttpsGateway",
        "kasmShare",
    }
    assert {name for name, block in services.items() if "replicas" in block} == names
    assert services["kasmApi"]["replicas"] == count


def test_the_ingress_class_is_written_where_the_chart_reads_one() -> None:
    versions = ((1, 16, 0), (1, 16, 1), (1, 17, 0))
    found = [values_of(InstallOptions(A, HOST, version=version))["global"] for version in versions]
    assert [values.get("ingressClassName") for values in found] == [None, "traefik", "traefik"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            InstallOptions(C, "https://kasm.example.com"),
            "--hostname is 'https://kasm.example.com'; allowed: a DNS name",
        ),
        (InstallOptions(C, "10.0.0.1"), "--hostname is '10.0.0.1'"),
        (InstallOptions(C, HOST, size="huge"), "--size is 'huge'; allowed: small, medium, large"),
        (
            InstallOptions(C, HOST, size="large", profile=NODE_8GB),
            "such a node holds --size small only",
        ),
        (
            InstallOptions(C, HOST, version=(1, 1181, 0)),
            "--chart-version is 1.1181.0; allowed for kasm-helm: 1.1190.x",
        ),
        (InstallOptions(B, HOST), "--tls-secret is missing"),
        (
            InstallOptions(C, HOST),
            "--tls-secret is missing; chart kasm-helm 1.1190.6 mounts that Secret",
        ),
        (
            InstallOptions(A, HOST, ingress=Ingress.NONE),
            "--ingress is none; allowed for chart kasm-single-zone 1.17.0: traefik",
        ),
        (InstallOptions(C, HOST, release="Kasm_1"), "--release is 'Kasm_1'"),
    ],
)
def test_conflicting_options_are_refused(wrong: InstallOptions, words: str) -> None:
    with pytest.raises(BadOptionsError) as error:
        check(wrong)
    assert words in str(error.value)


def test_every_profile_has_figures_for_every_component() -> None:
    for profile in PROFILES:
        for generation in ALL:
            for version in (generation.oldest, generation.newest, (1, 1190, 8)):
                assert list(profile.entries(generation, version)) or profile is CHART


def test_profile_needs_figures_for_every_component() -> None:
    figures = {
        component.key: resources("1 2Gi 2 4Gi")
        for component in C.components
        if component.containers
    }
    large = Profile("16gb", "8 CPUs and 16 GB", figures)
    text = render(InstallOptions(C, HOST, profile=large, tls_secret="tls"))
    assert "Sized for one K3s node with 8 CPUs and 16 GB." in text
    values = yaml.safe_load(text)
    assert values["components"]["guac"]["resources"]["requests"] == {"cpu": "1", "memory": "2Gi"}
    assert "storageClassName" not in values["database"]["storage"]
    del figures["guac"]
    with pytest.raises(KeyError, match="guac"):
        render(InstallOptions(C, HOST, profile=large, tls_secret="tls"))
