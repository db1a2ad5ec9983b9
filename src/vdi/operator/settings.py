"""The operator's settings: environment variables `VDI_*`, read once at start. The chart writes them from its values."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vdi.api.meta import RELEASE_NAMESPACE
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
    namespaces,
    number,
    read_variables,
    truth,
)
from vdi.session.autoscaling import AutoscalingSettings
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.units import parse_duration, parse_quantity


@dataclass(frozen=True, slots=True)
class Settings:
    """All choices of an operator process."""

    namespaces: tuple[str, ...] = ("vdi-sessions",)
    """VDI_NAMESPACE: where sessions live; several with commas, as in `desks,lab`. The first has the Lease."""
    operator_namespace: str = RELEASE_NAMESPACE
    """VDI_OPERATOR_NAMESPACE: where the operator's own Secrets are, out of the reach of desktops."""
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
    autoscaling: AutoscalingSettings = field(default_factory=AutoscalingSettings)
    """VDI_PLACEHOLDER_NAMESPACE, VDI_PLACEHOLDER_IMAGE, VDI_PLACEHOLDER_PRIORITY_CLASS, VDI_MAX_PLACEHOLDERS,
    VDI_HEADROOM (`cad=2,small=1`): how nodes are requested for waiting sessions."""

    @property
    def namespace(self) -> str:
        """The first of the sessions' namespaces: it has what there is once, such as the Lease."""
        return self.namespaces[0]


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
    autoscaling = _read_autoscaling(values)
    return Settings(cluster=cluster, autoscaling=autoscaling, **values)


def _read_autoscaling(values: dict[str, Any]) -> AutoscalingSettings:
    """Take the autoscaling settings out of `values`. Raises SettingsError where one is missing."""
    names = {name.name: f"autoscaling_{name.name}" for name in fields(AutoscalingSettings)}
    chosen = {name: values.pop(key) for name, key in names.items() if key in values}
    settings = AutoscalingSettings(**chosen)
    if settings.enabled:
        required = {
            "VDI_PLACEHOLDER_IMAGE": settings.image,
            "VDI_PLACEHOLDER_PRIORITY_CLASS": settings.priority_class,
        }
        if missing := [variable for variable, value in required.items() if not value]:
            raise SettingsError(f"{', '.join(missing)}: required with VDI_PLACEHOLDER_NAMESPACE")
    return settings


def _headroom(text: str) -> dict[str, int]:
    headroom: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        template, _, count = part.partition("=")
        if not re.fullmatch(SUBDOMAIN, template) or not re.fullmatch(r"[1-9]\d{0,2}", count):
            raise ValueError(f"{part!r} is not allowed; allowed: templates with numbers from 1 to 999, as in cad=2")
        headroom[template] = int(count)
    return headroom


def _quantity(text: str) -> str:
    if parse_quantity(text) <= 0:
        raise ValueError("allowed: a quantity above zero, such as 250m or 1Gi")
    return text


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme != "http" or not parts.hostname or parts.path.strip("/") or parts.query or parts.username:
        raise ValueError("allowed: http://HOST:PORT")
    return text.rstrip("/")


def _weights(text: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        user, _, weight = part.rpartition("=")
        if not user or not re.fullmatch(r"\d{1,6}(\.\d{1,6})?", weight) or not float(weight):
            raise ValueError(f"{part!r} is not a weight; allowed: users with numbers above zero, such as alice=2")
        if user in weights:
            raise ValueError(f"{user!r} has two weights; allowed: one")
        weights[user] = float(weight)
    return weights


_VARIABLES: Variables = {
    "VDI_NAMESPACE": ("namespaces", namespaces),
    "VDI_OPERATOR_NAMESPACE": ("operator_namespace", matching(LABEL, "the name of a namespace")),
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
    "VDI_COUNT_OTHER_WORKLOADS": ("count_other_workloads", truth),
    "VDI_QUEUE_WEIGHTS": ("queue_weights", _weights),
    "VDI_MAX_PLACEHOLDERS": ("autoscaling_max_placeholders", number(0, 1000)),
    "VDI_HEADROOM": ("autoscaling_headroom", _headroom),
    "VDI_PLACEHOLDER_NAMESPACE": ("autoscaling_namespace", matching(LABEL, "the name of a namespace")),
    "VDI_PLACEHOLDER_IMAGE": ("autoscaling_image", matching(r"\S+", "the name of an image")),
    "VDI_PLACEHOLDER_PRIORITY_CLASS": (
        "autoscaling_priority_class",
        matching(SUBDOMAIN, "the name of a PriorityClass"),
    ),
    "VDI_LOG_LEVEL": ("log_level", LEVEL),
    "VDI_LOG_FORMAT": ("log_format", FORMAT),
    "VDI_GATEWAY_URL": ("gateway_url", _url),
    "VDI_GATEWAY_TOKEN_FILE": ("gateway_token_file", Path),
    "VDI_METRICS_ADDR": ("metrics_address", address),
    "VDI_METRICS_TOKEN_FILE": ("metrics_token_file", Path),
}
