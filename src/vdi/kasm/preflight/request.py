"""What is to be installed: read from the user's values, from rendered manifests, or from the generation alone. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from vdi.kasm.generations.model import Generation, Version
from vdi.kasm.preflight.entry import HTTPS, RDP
from vdi.kasm.preflight.needs import Needs, needs_of_manifests
from vdi.kasm.preflight.presets import Preset
from vdi.kasm.value_paths import value_at
from vdi.kasm.values.options import Ingress

Values = Mapping[str, Any]


class BadInputError(ValueError):
    """Raised when a file is neither values nor manifests; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class PlannedRelease:
    """What the preflight holds the cluster against."""

    generation: Generation
    needs: Needs
    ingress: Ingress
    hostname: str = ""
    rdp: bool = False
    """Whether people's own RDP clients connect to Kasm at port 3389."""
    namespace: str = "kasm"
    release: str = "kasm"
    secret: str = ""
    """The Secret with passwords that the chart makes in the release; empty: it makes none, or it is not known."""


def plan_of_values(
    generation: Generation, version: Version, values: Values, namespace: str, release: str, *, size: str = ""
) -> PlannedRelease:
    """From values for the chart, which may be empty; a `size` is taken before theirs. Raises ValueError."""
    preset = Preset(generation, version, values, release, size)
    paths = generation.paths
    return PlannedRelease(
        generation=generation,
        needs=preset.needs(),
        ingress=_ingress(generation, values),
        hostname=str(value_at(values, paths["hostname"]) or ""),
        rdp=bool(value_at(values, "directRdpService.enabled")),
        namespace=namespace,
        release=release,
        secret=_own_secret(generation, values, release),
    )


def _own_secret(generation: Generation, values: Values, release: str) -> str:
    """A's is a hook, which replaces one of its own; values that name a Secret make the chart make none."""
    path = generation.paths.get("passwords_secret", "")
    named = "{release}" in generation.secrets and not (path and value_at(values, path))
    return generation.secrets.format(release=release) if named else ""


def _ingress(generation: Generation, values: Values) -> Ingress:
    """As the chart decides it; without values as K3s has it, by its Traefik."""
    paths = generation.paths
    if not values or "ingress_enabled" not in paths or value_at(values, paths["ingress_enabled"]):
        return Ingress.TRAEFIK
    kind = value_at(values, paths["proxy_service_type"]) or "LoadBalancer"
    return Ingress.LOADBALANCER if kind == "LoadBalancer" else Ingress.NONE


def plan_of_manifests(
    generation: Generation, documents: list[dict[str, Any]], namespace: str, source: str
) -> PlannedRelease:
    """From what `helm template` prints."""
    balanced = {port for document in documents for port in _balanced_ports(document)}
    hosts = [host for document in documents for host in _hosts(document)]
    ingress = Ingress.TRAEFIK if hosts else Ingress.LOADBALANCER if HTTPS in balanced else Ingress.NONE
    return PlannedRelease(
        generation=generation,
        needs=needs_of_manifests(documents, source),
        ingress=ingress,
        hostname=next(iter(hosts), ""),
        rdp=RDP in balanced,
        namespace=namespace,
    )


def _balanced_ports(document: Mapping[str, Any]) -> Iterable[int]:
    spec = document.get("spec") or {}
    if document["kind"] == "Service" and spec.get("type") == "LoadBalancer":
        return [int(port["port"]) for port in spec.get("ports") or ()]
    return []


def _hosts(document: Mapping[str, Any]) -> Iterable[str]:
    if document["kind"] != "Ingress":
        return []
    return [str(rule["host"]) for rule in (document.get("spec") or {}).get("rules") or () if rule.get("host")]


def with_answers(planned: PlannedRelease, *, hostname: str | None, ingress: Ingress | None) -> PlannedRelease:
    """What was said beside the values goes before them."""
    return replace(planned, hostname=hostname or planned.hostname, ingress=ingress or planned.ingress)


def sort_documents(documents: list[Any], name: str) -> tuple[Values | None, list[dict[str, Any]]]:
    """One file's YAML documents: values, or manifests. Raises BadInputError."""
    found = [document for document in documents if document is not None]
    if any(not isinstance(one, dict) for one in found):
        raise BadInputError(f"{name} has a document that is not a mapping; allowed: Helm values, or rendered manifests")
    if found and all("kind" in one and "apiVersion" in one for one in found):
        unnamed = [str(one["kind"]) for one in found if not (one.get("metadata") or {}).get("name")]
        if unnamed:
            raise BadInputError(f"{name}: a {unnamed[0]} without metadata.name")
        return None, found
    if len(found) > 1:
        raise BadInputError(f"{name} has {len(found)} documents; allowed: one with Helm values, or rendered manifests")
    return (found[0] if found else {}), []
