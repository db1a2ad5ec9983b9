"""Settings from environment variables `VDI_*`, which the chart writes from its values: readers for
every process, and the operator's settings.

The doctor, `vdi install` and `vdi home` read the operator's settings from its Deployment. The
gateway's are in `vdi.gateway.settings`.
"""

import difflib
import re
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vdi.api.meta import RELEASE_NAMESPACE
from vdi.cluster.units import parse_duration, parse_quantity
from vdi.session.autoscaling import AutoscalingSettings
from vdi.session.cluster_settings import ClusterSettings

# Variable -> name of the setting, and the reader of its text, which raises ValueError with the
# allowed values.
Variables = Mapping[str, tuple[str, Callable[[str], Any]]]

LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
SUBDOMAIN = rf"{LABEL}(\.{LABEL})*"
# Where the chart mounts the token of /metrics.
METRICS_TOKEN_FILE = Path("/var/run/secrets/vdi-metrics/token")
# Variables of other commands, which a program started by hand may see.
_OTHERS = frozenset(
    {"VDI_CACHE", "VDI_STATE", "VDI_DEBUG", "VDI_USER", "VDI_KUBECONFIG", "VDI_CONTEXT"}
)


class SettingsError(Exception):
    """Raised when the environment cannot be used; the message names each variable, its value and
    what is allowed.
    """


def read_variables(
    environ: Mapping[str, str], variables: Variables, secret: Set[str] = frozenset()
) -> tuple[dict[str, Any], list[str]]:
    """Settings by name, of the variables that are set and not empty, and a sentence for each that
    cannot be read.

    A name that almost equals one of `variables` is a misspelling and a problem. Other `VDI_`
    variables belong to other commands, or come from Kubernetes for Services. Values of `secret`
    variables are not shown.
    """
    problems = _misspelt(environ, variables)
    values: dict[str, Any] = {}
    for variable, (name, read) in variables.items():
        text = environ.get(variable, "").strip()
        if not text:
            continue
        try:
            values[name] = read(text)
        except ValueError as why:
            shown = "(not shown)" if variable in secret else repr(text)
            problems.append(f"{variable}={shown}: {why}")
    return values, problems


def _misspelt(environ: Mapping[str, str], variables: Variables) -> list[str]:
    problems = []
    for name in environ.keys() - variables.keys() - _OTHERS:
        if name.startswith("VDI_"):
            near = difflib.get_close_matches(name, variables, n=1, cutoff=0.85)
        else:
            near = []
        if near:
            problems.append(f"{name}: this setting does not exist; did you mean {near[0]}?")
    return sorted(problems)


def matching(pattern: str, allowed: str) -> Callable[[str], str]:
    """A reader of text that matches; `allowed` describes the pattern in words."""

    def read(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"allowed: {allowed}")
        return text

    return read


def namespaces(text: str) -> tuple[str, ...]:
    """Reads names of namespaces, at least one, separated by commas."""
    names = tuple(part.strip() for part in text.split(","))
    if not all(re.fullmatch(LABEL, name) for name in names):
        raise ValueError("allowed: the name of a namespace, or several with commas between them")
    if len({*names}) < len(names):
        raise ValueError("a namespace is listed twice; allowed: once each")
    return names


def number(low: int, high: int) -> Callable[[str], int]:
    """A reader of a whole number from `low` to `high`."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ValueError(f"allowed: a whole number from {low} to {high}")
        return int(text)

    return read


def one_of(*allowed: str) -> Callable[[str], str]:
    """A reader of one of these words, in any case."""

    def read(text: str) -> str:
        if text.lower() not in allowed:
            raise ValueError(f"allowed: {', '.join(allowed)}")
        return text.lower()

    return read


def truth(text: str) -> bool:
    """Reads `true` or `false`, in any case."""
    if text.lower() not in ("true", "false"):
        raise ValueError("allowed: true and false")
    return text.lower() == "true"


def address(text: str) -> tuple[str, int]:
    """Reads HOST:PORT to listen on; `:8081` means all addresses."""
    host, _, port = text.rpartition(":")
    return host.strip("[]") or "0.0.0.0", number(0, 65535)(port)  # noqa: S104 -- as documented


def duration(text: str) -> str:
    """Reads a length of time, and keeps it as it was written."""
    parse_duration(text)
    return text


LEVEL = one_of("debug", "info", "warning", "error")
FORMAT = one_of("text", "json")


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of an operator process."""

    # VDI_NAMESPACE: the sessions' namespaces, such as `desks,lab`. The first one has the Lease.
    namespaces: tuple[str, ...] = ("vdi-sessions",)
    # VDI_OPERATOR_NAMESPACE: where the operator's own Secrets are, out of the reach of desktops.
    operator_namespace: str = RELEASE_NAMESPACE
    # VDI_WORKERS: how many sessions are reconciled at the same time.
    workers: int = 32
    # VDI_LOG_LEVEL: debug, info, warning or error.
    log_level: str = "info"
    # Host part of VDI_METRICS_ADDR: where /healthz, /readyz and /metrics are served.
    metrics_host: str = "0.0.0.0"  # noqa: S104 -- probes and Prometheus come from outside the pod
    # Port part of VDI_METRICS_ADDR.
    metrics_port: int = 8081
    # VDI_LOG_FORMAT: text (`key=value`) or json (one object per line).
    log_format: str = "text"
    # VDI_COUNT_OTHER_WORKLOADS: whether pods of other namespaces and of other programs count
    # against the capacity.
    count_other_workloads: bool = True
    # VDI_QUEUE_WEIGHTS, such as `alice@example.com=2,bob@example.com=0.5`: shares of users in the
    # queue; others: 1.
    queue_weights: Mapping[str, float] = field(default_factory=dict)
    # VDI_GATEWAY_URL: the gateway's internal listener, which gets the ends of sessions; empty: no
    # reports.
    gateway_url: str = ""
    # VDI_GATEWAY_TOKEN_FILE: a token of this service account for the audience `vdi-gateway`, kept
    # fresh.
    gateway_token_file: Path = Path("/var/run/secrets/vdi-gateway/token")
    # VDI_METRICS_TOKEN_FILE: the token that a request for /metrics needs; without the file all are
    # refused.
    metrics_token_file: Path = METRICS_TOKEN_FILE
    # VDI_DOMAIN, VDI_URL_PORT, VDI_ENTRY_POINT, VDI_TLS_SECRET, VDI_CERT_RESOLVER,
    # VDI_REQUESTS_CPU, VDI_REQUESTS_MEMORY, VDI_GPU_RESOURCE, VDI_DRAIN_NOTICE, VDI_MAX_TIMEOUT,
    # VDI_AGENT_PORT, VDI_EDGE_MIDDLEWARE: choices that hold for every session.
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    # VDI_PLACEHOLDER_NAMESPACE, VDI_PLACEHOLDER_IMAGE, VDI_PLACEHOLDER_PRIORITY_CLASS,
    # VDI_MAX_PLACEHOLDERS, VDI_HEADROOM (`cad=2,small=1`): how nodes are requested for waiting
    # sessions.
    autoscaling: AutoscalingSettings = field(default_factory=AutoscalingSettings)

    @property
    def namespace(self) -> str:
        """The first of the sessions' namespaces, which has the Lease."""
        return self.namespaces[0]


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Settings from the environment; what is unset or empty has its default.

    Raises SettingsError with everything that is wrong at once.
    """
    values, problems = read_variables(environ, VARIABLES)
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
            raise ValueError(
                f"{part!r} is not allowed; allowed: templates with numbers from 1 to 999, as in"
                " cad=2"
            )
        headroom[template] = int(count)
    return headroom


def _quantity(text: str) -> str:
    if parse_quantity(text) <= 0:
        raise ValueError("allowed: a quantity above zero, such as 250m or 1Gi")
    return text


def internal_url(text: str) -> str:
    """The URL of a server in the cluster. Raises ValueError."""
    parts = urlsplit(text)
    if (
        parts.scheme != "http"
        or not parts.hostname
        or parts.path.strip("/")
        or parts.query
        or parts.username
    ):
        raise ValueError("allowed: http://HOST:PORT")
    return text.rstrip("/")


def _weights(text: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        user, _, weight = part.rpartition("=")
        if not user or not re.fullmatch(r"\d{1,6}(\.\d{1,6})?", weight) or not float(weight):
            raise ValueError(
                f"{part!r} is not a weight; allowed: users with numbers above zero, such as alice=2"
            )
        if user in weights:
            raise ValueError(f"{user!r} has two weights; allowed: one")
        weights[user] = float(weight)
    return weights


VARIABLES: Variables = {
    "VDI_NAMESPACE": ("namespaces", namespaces),
    "VDI_OPERATOR_NAMESPACE": ("operator_namespace", matching(LABEL, "the name of a namespace")),
    "VDI_DOMAIN": ("domain", matching(SUBDOMAIN, "a domain such as vdi.example.com")),
    "VDI_URL_PORT": ("url_port", number(1, 65535)),
    "VDI_ENTRY_POINT": (
        "entry_point",
        matching(r"[\w-]+", "the name of an entry point of Traefik"),
    ),
    "VDI_TLS_SECRET": ("tls_secret", matching(SUBDOMAIN, "the name of a Secret")),
    "VDI_CERT_RESOLVER": (
        "cert_resolver",
        matching(r"[\w-]+", "the name of a certificate resolver of Traefik"),
    ),
    "VDI_REQUESTS_CPU": ("requests_cpu", _quantity),
    "VDI_REQUESTS_MEMORY": ("requests_memory", _quantity),
    "VDI_GPU_RESOURCE": (
        "gpu_resource",
        matching(rf"{SUBDOMAIN}/[\w.-]+", "a resource such as nvidia.com/gpu"),
    ),
    "VDI_WORKERS": ("workers", number(1, 1000)),
    "VDI_DRAIN_NOTICE": ("drain_notice", parse_duration),
    "VDI_MAX_TIMEOUT": ("max_timeout", duration),
    "VDI_AGENT_PORT": ("agent_port", number(1, 65535)),
    "VDI_EDGE_MIDDLEWARE": (
        "edge_middleware",
        matching(SUBDOMAIN, "the name of a Middleware of Traefik"),
    ),
    "VDI_COUNT_OTHER_WORKLOADS": ("count_other_workloads", truth),
    "VDI_QUEUE_WEIGHTS": ("queue_weights", _weights),
    "VDI_MAX_PLACEHOLDERS": ("autoscaling_max_placeholders", number(0, 1000)),
    "VDI_HEADROOM": ("autoscaling_headroom", _headroom),
    "VDI_PLACEHOLDER_NAMESPACE": (
        "autoscaling_namespace",
        matching(LABEL, "the name of a namespace"),
    ),
    "VDI_PLACEHOLDER_IMAGE": ("autoscaling_image", matching(r"\S+", "the name of an image")),
    "VDI_PLACEHOLDER_PRIORITY_CLASS": (
        "autoscaling_priority_class",
        matching(SUBDOMAIN, "the name of a PriorityClass"),
    ),
    "VDI_LOG_LEVEL": ("log_level", LEVEL),
    "VDI_LOG_FORMAT": ("log_format", FORMAT),
    "VDI_GATEWAY_URL": ("gateway_url", internal_url),
    "VDI_GATEWAY_TOKEN_FILE": ("gateway_token_file", Path),
    "VDI_METRICS_ADDR": ("metrics_address", address),
    "VDI_METRICS_TOKEN_FILE": ("metrics_token_file", Path),
}
