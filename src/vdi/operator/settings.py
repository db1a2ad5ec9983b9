"""The operator's settings: environment variables `VDI_*`, read once at start. The chart writes them from its values."""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from vdi.session.policy import Policy
from vdi.session.units import parse_duration, parse_quantity


class SettingsError(Exception):
    """Raised when the environment cannot be used; the message names each variable, its value and what is allowed."""


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
    policy: Policy = field(default_factory=Policy)
    """VDI_DOMAIN, VDI_URL_PORT, VDI_ENTRY_POINT, VDI_TLS_SECRET, VDI_CERT_RESOLVER, VDI_REQUESTS_CPU,
    VDI_REQUESTS_MEMORY, VDI_GPU_RESOURCE, VDI_DRAIN_NOTICE, VDI_AGENT_PORT: what holds for every session."""


_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_LEVELS = ("debug", "info", "warning", "error")
_FORMATS = ("text", "json")


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Settings from the environment; what is unset or empty has its default.

    Raises SettingsError with everything that is wrong at once. A variable that is almost one of ours is taken for a
    misspelling and refused; other `VDI_` variables belong to other commands, or are made by Kubernetes for Services.
    """
    problems = [*_misspelt(environ)]
    values: dict[str, Any] = {}
    for variable, (name, read) in _VARIABLES.items():
        text = environ.get(variable, "").strip()
        if not text:
            continue
        try:
            values[name] = read(text)
        except ValueError as why:
            problems.append(f"{variable}={text!r}: {why}")
    if problems:
        raise SettingsError("; ".join(problems))
    address = values.pop("metrics_address", None)
    if address:
        values["metrics_host"], values["metrics_port"] = address
    of_policy = {one.name for one in fields(Policy)} & values.keys()
    policy = Policy(**{name: values.pop(name) for name in of_policy})
    return Settings(policy=policy, **values)


def _misspelt(environ: Mapping[str, str]) -> list[str]:
    problems = []
    for name in environ.keys() - _VARIABLES.keys() - _OTHERS:
        near = difflib.get_close_matches(name, _VARIABLES, n=1, cutoff=0.85) if name.startswith("VDI_") else []
        if near:
            problems.append(f"{name}: there is no such setting; perhaps {near[0]} is meant")
    return sorted(problems)


def _matching(pattern: str, allowed: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"allowed is {allowed}")
        return text

    return read


def _number(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise ValueError(f"allowed is a whole number from {low} to {high}")
        return int(text)

    return read


def _quantity(text: str) -> str:
    if parse_quantity(text) <= 0:
        raise ValueError("allowed is a quantity above zero, such as 250m or 1Gi")
    return text


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]") or "0.0.0.0", _number(0, 65535)(port)  # noqa: S104 -- `:8081` means all addresses


def _level(text: str) -> str:
    if text.lower() not in _LEVELS:
        raise ValueError(f"allowed are {', '.join(_LEVELS)}")
    return text.lower()


def _format(text: str) -> str:
    if text.lower() not in _FORMATS:
        raise ValueError(f"allowed are {', '.join(_FORMATS)}")
    return text.lower()


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("allowed are true and false")
    return text.lower() == "true"


def _weights(text: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for part in filter(None, (one.strip() for one in text.split(","))):
        user, _, weight = part.rpartition("=")
        if not user or not re.fullmatch(r"\d{1,6}(\.\d{1,6})?", weight) or not float(weight):
            raise ValueError(f"{part!r} is not a weight; allowed are users with numbers above zero, such as alice=2")
        if user in weights:
            raise ValueError(f"{user!r} has two weights; allowed is one")
        weights[user] = float(weight)
    return weights


_VARIABLES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "VDI_NAMESPACE": ("namespace", _matching(_LABEL, "the name of a namespace")),
    "VDI_DOMAIN": ("domain", _matching(_SUBDOMAIN, "a domain such as vdi.example.com")),
    "VDI_URL_PORT": ("url_port", _number(1, 65535)),
    "VDI_ENTRY_POINT": ("entry_point", _matching(r"[\w-]+", "the name of an entry point of Traefik")),
    "VDI_TLS_SECRET": ("tls_secret", _matching(_SUBDOMAIN, "the name of a Secret")),
    "VDI_CERT_RESOLVER": ("cert_resolver", _matching(r"[\w-]+", "the name of a certificate resolver of Traefik")),
    "VDI_REQUESTS_CPU": ("requests_cpu", _quantity),
    "VDI_REQUESTS_MEMORY": ("requests_memory", _quantity),
    "VDI_GPU_RESOURCE": ("gpu_resource", _matching(rf"{_SUBDOMAIN}/[\w.-]+", "a resource such as nvidia.com/gpu")),
    "VDI_WORKERS": ("workers", _number(1, 1000)),
    "VDI_DRAIN_NOTICE": ("drain_notice", parse_duration),
    "VDI_AGENT_PORT": ("agent_port", _number(1, 65535)),
    "VDI_COUNT_OTHER_WORKLOADS": ("count_other_workloads", _truth),
    "VDI_QUEUE_WEIGHTS": ("queue_weights", _weights),
    "VDI_LOG_LEVEL": ("log_level", _level),
    "VDI_LOG_FORMAT": ("log_format", _format),
    "VDI_METRICS_ADDR": ("metrics_address", _address),
}
_OTHERS = frozenset({"VDI_CACHE", "VDI_STATE", "VDI_DEBUG", "VDI_USER", "VDI_KUBECONFIG", "VDI_CONTEXT"})
"""Variables of the other commands; an operator started by hand may well see them."""
