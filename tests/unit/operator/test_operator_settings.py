from datetime import timedelta
from pathlib import Path

import pytest

from vdi.session.autoscaling import AutoscalingSettings
from vdi.session.cluster_settings import ClusterSettings
from vdi.settings import Settings, SettingsError, read_settings


def test_empty_environment_means_the_defaults() -> None:
    assert (
        read_settings({}) == Settings() == read_settings({"VDI_TLS_SECRET": "", "VDI_DOMAIN": " "})
    )


def test_every_variable_is_read() -> None:
    settings = read_settings(
        {
            "VDI_NAMESPACE": "desks, lab",
            "VDI_OPERATOR_NAMESPACE": "kasm",
            "VDI_DOMAIN": "vdi.example.com",
            "VDI_URL_PORT": "8443",
            "VDI_ENTRY_POINT": "https",
            "VDI_TLS_SECRET": "wildcard",
            "VDI_CERT_RESOLVER": "le",
            "VDI_REQUESTS_CPU": "100m",
            "VDI_REQUESTS_MEMORY": "512Mi",
            "VDI_GPU_RESOURCE": "nvidia.com/gpu.shared",
            "VDI_WORKERS": "8",
            "VDI_LOG_LEVEL": "DEBUG",
            "VDI_METRICS_ADDR": "[::1]:9090",
            "VDI_LOG_FORMAT": "json",
            "VDI_COUNT_OTHER_WORKLOADS": "false",
            "VDI_QUEUE_WEIGHTS": "alice@example.com=2, b=c=0.5,",
            "VDI_DRAIN_NOTICE": "2m",
            "VDI_MAX_TIMEOUT": "168h",
            "VDI_AGENT_PORT": "9000",
            "VDI_EDGE_MIDDLEWARE": "vdi-edge",
            "VDI_GATEWAY_URL": "http://vdi-gateway.kasm.svc:8081/",
            "VDI_GATEWAY_TOKEN_FILE": "/run/token",
            "VDI_METRICS_TOKEN_FILE": "/run/metrics",
            "VDI_MAX_PLACEHOLDERS": "5",
            "VDI_HEADROOM": "cad=2, small=1",
            "VDI_PLACEHOLDER_NAMESPACE": "places",
            "VDI_PLACEHOLDER_IMAGE": "registry.example.com/vdi:1",
            "VDI_PLACEHOLDER_PRIORITY_CLASS": "vdi-placeholder",
        }
    )
    names = (
        "vdi.example.com",
        8443,
        "https",
        "wildcard",
        "le",
        "100m",
        "512Mi",
        "nvidia.com/gpu.shared",
    )
    weights = {"alice@example.com": 2.0, "b=c": 0.5}
    policy = ClusterSettings(*names, timedelta(minutes=2), 9000, "vdi-edge", max_timeout="168h")
    headroom = {"cad": 2, "small": 1}
    image = "registry.example.com/vdi:1"
    autoscaling = AutoscalingSettings(5, headroom, "places", image, "vdi-placeholder")
    files = ("http://vdi-gateway.kasm.svc:8081", Path("/run/token"), Path("/run/metrics"))
    first = (("desks", "lab"), "kasm", 8, "debug", "::1", 9090, "json", False, weights)
    assert settings == Settings(*first, *files, policy, autoscaling)
    assert settings.namespace == "desks"


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("VDI_URL_PORT", "https", "a whole number from 1 to 65535"),
        ("VDI_URL_PORT", "70000", "a whole number from 1 to 65535"),
        ("VDI_WORKERS", "0", "from 1 to 1000"),
        ("VDI_REQUESTS_MEMORY", "1Gib", "numbers such as 2, 500m"),
        ("VDI_REQUESTS_CPU", "-1", "above zero"),
        ("VDI_DOMAIN", "https://vdi.example.com", "a domain such as vdi.example.com"),
        ("VDI_NAMESPACE", "VDI", "the name of a namespace"),
        ("VDI_NAMESPACE", "desks,", "the name of a namespace, or several with commas"),
        ("VDI_NAMESPACE", "desks,lab,desks", "once each"),
        ("VDI_GPU_RESOURCE", "gpu", "nvidia.com/gpu"),
        ("VDI_LOG_LEVEL", "loud", "debug, info, warning, error"),
        ("VDI_METRICS_ADDR", "8081x", "from 0 to 65535"),
        ("VDI_LOG_FORMAT", "xml", "text, json"),
        ("VDI_COUNT_OTHER_WORKLOADS", "maybe", "true and false"),
        ("VDI_QUEUE_WEIGHTS", "alice", "numbers above zero, such as alice=2"),
        ("VDI_QUEUE_WEIGHTS", "alice=0", "above zero"),
        ("VDI_QUEUE_WEIGHTS", "alice=-1", "above zero"),
        ("VDI_QUEUE_WEIGHTS", "alice=1,alice=2", "allowed: one"),
        ("VDI_MAX_PLACEHOLDERS", "-1", "from 0 to 1000"),
        ("VDI_HEADROOM", "cad", "numbers from 1 to 999, as in cad=2"),
        ("VDI_HEADROOM", "cad=0", "from 1 to 999"),
        ("VDI_DRAIN_NOTICE", "60", "such as 30m"),
        ("VDI_MAX_TIMEOUT", "1 week", "such as 30m"),
        ("VDI_AGENT_PORT", "0", "from 1 to 65535"),
        ("VDI_EDGE_MIDDLEWARE", "Edge", "a Middleware of Traefik"),
        ("VDI_GATEWAY_URL", "https://gateway", "http://HOST:PORT"),
        ("VDI_GATEWAY_URL", "http://gateway/path", "http://HOST:PORT"),
        ("VDI_GATEWAY_URL", "http://me:secret@gateway", "http://HOST:PORT"),
    ],
)
def test_error_names_variable_value_and_what_is_allowed(
    variable: str, value: str, allowed: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings({variable: value})
    assert str(refused.value).startswith(f"{variable}={value!r}: ")
    assert allowed in str(refused.value)


def test_placeholders_need_an_image_and_a_priority_class() -> None:
    with pytest.raises(
        SettingsError, match=r"VDI_PLACEHOLDER_IMAGE, .*required with VDI_PLACEHOLDER_NAMESPACE"
    ):
        read_settings({"VDI_PLACEHOLDER_NAMESPACE": "places"})


def test_all_errors_are_reported_at_once() -> None:
    with pytest.raises(SettingsError, match=r"VDI_WORKERS.*VDI_LOG_LEVEL"):
        read_settings({"VDI_WORKERS": "x", "VDI_LOG_LEVEL": "x"})


def test_misspelling_is_refused_and_foreign_variables_are_not() -> None:
    with pytest.raises(
        SettingsError,
        match=r"VDI_REQUEST_CPU: this setting does not exist; did you mean VDI_REQUESTS_CPU\?",
    ):
        read_settings({"VDI_REQUEST_CPU": "1"})
    foreign = {
        "VDI_OPERATOR_SERVICE_HOST": "10.0.0.1",
        "VDI_OPERATOR_PORT": "tcp://10.0.0.1:80",
        "VDI_STATE": "/x",
    }
    assert read_settings(foreign | {"PATH": "/bin", "VDI_DEBUG": "1"}) == Settings()
