"""The operator's settings: environment variables `VDI_*`, read once at start. The chart writes them from its values."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from urllib.parse import urlsplit

from vdi.operator.metrics_token import METRICS_TOKEN_FILE
from vdi.operator.variables import (
    FORMAT,
    LABEL,
    LEVEL,
    SUBDOMAIN,
    SettingsError,
    Variables,
    address,
    duration,
    matching,
    number,
    read_variables,
)
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.units import parse_duration, parse_quantity


@dataclass(frozen=True, slots=True)
class Settings:
    """All choices of an operator process."""

    namespace: str = "vdi-sessions"
    """VDI_NAMESPACE: where sessions live."""
    workers: int = 32
    """VDI_WORKERS: how many sessions are worked on at the same time."""
    log_level: str = "info"
    """VDI_LOG_LEVEL: debug, info, warning or error."""
    metrics_host: str = "0.0.0.0"  # noqa: S104 -- probes and Prometheus come from outside the pod
    """Host part of VDI_METRICS_ADDR: where /healthz, /readyz and /metrics are served."""
    metrics_port: int = 8081
    """Port part of VDI_METRICS_ADDR."""
    log_format: str = "text"
    """VDI_LOG_FORMAT: text (`key=value`) or json (one object per line)."""
    count_other_workloads: bool = True
    """VDI_COUNT_OTHER_WORKLOADS: whether pods of other namespaces and of other programs count against the capacity."""
    queue_weights: Mapping[str, float] = field(default_factory=dict)
    """VDI_QUEUE_WEIGHTS, such as `alice@example.com=2,bob@example.com=0.5`: shares of users in the queue; others: 1."""
    gateway_url: str = ""
    """VDI_GATEWAY_URL: the gateway's internal listener, which gets the ends of sessions; empty: no reports."""
    gateway_token_file: Path = Path("/var/run/secrets/vdi-gateway/token")
    """VDI_GATEWAY_TOKEN_FILE: a token of this service account for the audience `vdi-gateway`, kept fresh."""
    metrics_token_file: Path = METRICS_TOKEN_FILE
    """VDI_METRICS_TOKEN_FILE: the token that whoever reads /metrics sends; without the file no one may."""
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    """VDI_DOMAIN, VDI_URL_PORT, VDI_ENTRY_POINT, VDI_TLS_SECRET, VDI_CERT_RESOLVER, VDI_REQUESTS_CPU,
    VDI_REQUESTS_MEMORY, VDI_GPU_RESOURCE, VDI_DRAIN_NOTICE, VDI_MAX_TIMEOUT, VDI_AGENT_PORT, VDI_EDGE_MIDDLEWARE:
    what holds for every session."""


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Settings from the environment; what is unset or empty has its default.

    Raises SettingsError with everything that is wrong at once.
    """
    values, problems = read_variables(environ, _VARIABLES)
    if problems:
        raise SettingsError("; ".join(problems))
    if "metrics_address" in values:
        values["metrics_host"], values["metrics_port"] = values.pop("metrics_address")
    of_cluster = {one.name for one in fields(ClusterSettings)} & values.keys()
    cluster = ClusterSettings(**{name: values.pop(name) for name in of_cluster})
    return Settings(cluster=cluster, **values)


def _quantity(text: str) -> str:
    if parse_quantity(text) <= 0:
        raise ValueError("allowed is a quantity above zero, such as 250m or 1Gi")
    return text


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme != "http" or not parts.hostname or parts.path.strip("/") or parts.query or parts.username:
        raise ValueError("allowed is http://HOST:PORT")
    return text.rstrip("/")


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("allowed are true and false")
    return text.lower() == "true"


def _weights(text: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        user, _, weight = part.rpartition("=")
        if not user or not re.fullmatch(r"\d{1,6}(\.\d{1,6})?", weight) or not float(weight):
            raise ValueError(f"{part!r} is not a weight; allowed are users with numbers above zero, such as alice=2")
        if user in weights:
            raise ValueError(f"{user!r} has two weights; allowed is one")
        weights[user] = float(weight)
    return weights


_VARIABLES: Variables = {
    "VDI_NAMESPACE": ("namespace", matching(LABEL, "the name of a namespace")),
    "VDI_DOMAIN": ("domain", matching(SUBDOMAIN, "a domain such as vdi.example.com")),
    "VDI_URL_PORT": ("url_port", number(1, 65535)),
    "VDI_ENTRY_POINT": ("entry_point", matching(r"[\w-]+", "the name of an entry point of Traefik")),
    "VDI_TLS_SECRET": ("tls_secret", matching(SUBDOMAIN, "the name of a Secret")),
    "VDI_CERT_RESOLVER": ("cert_resolver", matching(r"[\w-]+", "the name of a certificate resolver of Traefik")),
    "VDI_REQUESTS_CPU": ("requests_cpu", _quantity),
    "VDI_REQUESTS_MEMORY": ("requests_memory", _quantity),
    "VDI_GPU_RESOURCE": ("gpu_resource", matching(rf"{SUBDOMAIN}/[\w.-]+", "a resource such as nvidia.com/gpu")),
    "VDI_WORKERS": ("workers", number(1, 1000)),
    "VDI_DRAIN_NOTICE": ("drain_notice", parse_duration),
    "VDI_MAX_TIMEOUT": ("max_timeout", duration),
    "VDI_AGENT_PORT": ("agent_port", number(1, 65535)),
    "VDI_EDGE_MIDDLEWARE": ("edge_middleware", matching(SUBDOMAIN, "the name of a Middleware of Traefik")),
    "VDI_COUNT_OTHER_WORKLOADS": ("count_other_workloads", _truth),
    "VDI_QUEUE_WEIGHTS": ("queue_weights", _weights),
    "VDI_LOG_LEVEL": ("log_level", LEVEL),
    "VDI_LOG_FORMAT": ("log_format", FORMAT),
    "VDI_GATEWAY_URL": ("gateway_url", _url),
    "VDI_GATEWAY_TOKEN_FILE": ("gateway_token_file", Path),
    "VDI_METRICS_ADDR": ("metrics_address", address),
    "VDI_METRICS_TOKEN_FILE": ("metrics_token_file", Path),
}
