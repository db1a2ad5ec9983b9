"""Reads what a validation looks at: the namespace of a Kasm, its certificate, and the web UI as a browser reaches it.

Of Secrets only labels, names of keys, and the public part of the certificate are kept.
"""

import asyncio
import base64
from datetime import UTC, datetime
from typing import Any

import msgspec

from vdi.helm.discovery import api_versions
from vdi.kasm.collect.outside import ask
from vdi.kasm.collect.preflight import INGRESS_ROUTES, INGRESSES, Reading, Request
from vdi.kasm.generations.model import matches
from vdi.kasm.preflight.facts import Answer
from vdi.kasm.preflight.installed import Installed, find_installed
from vdi.kasm.validate.checks import secret_name
from vdi.kasm.validate.entry import EVERYWHERE, hostname_of, leading
from vdi.kasm.validate.facts import Installation, Release
from vdi.kube.certificate import Certificate, read_certificate
from vdi.kube.errors import ApiError, KubeError, UnexpectedAnswer
from vdi.kube.resource import (
    CLAIMS,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    JOBS,
    NETWORK_POLICIES,
    PODS,
    SECRETS,
    SERVICES,
    STATEFUL_SETS,
    Resource,
)
from vdi.kube.transport import Client

AGENTS = Resource("agent.kasm.com", "v1alpha1", "agents", "Agent")
WORKSPACES = Resource("agent.kasm.com", "v1alpha1", "kasmworkspaces", "KasmWorkspace")
_OF_NAMESPACE = (
    DEPLOYMENTS,
    STATEFUL_SETS,
    JOBS,
    PODS,
    SERVICES,
    ENDPOINT_SLICES,
    CLAIMS,
    INGRESSES,
    NETWORK_POLICIES,
)
_ADDED = (INGRESS_ROUTES, AGENTS, WORKSPACES)
"""Kinds that not every cluster knows."""
_PROXY_PORT = 8080


async def collect_validate(client: Client, *, namespace: str, hostname: str, connect: str) -> Installation:
    """The Kasm of this namespace.

    Without a host name the one that leads to it is taken; `connect` is ADDRESS:PORT to go to in the place of what the
    name resolves to.
    """
    reading = Reading(client)
    releases: list[Release] = []
    added = await _added_kinds(reading)
    await asyncio.gather(
        *(reading.all_of(kind, namespace) for kind in _OF_NAMESPACE),
        *(reading.all_of(kind, namespace) for kind in added if kind is INGRESS_ROUTES),
        *(reading.all_of(kind) for kind in added if kind is not INGRESS_ROUTES),  # agents have namespaces of their own
        reading.all_of(INGRESSES, note=EVERYWHERE),
        _releases(reading, namespace, releases),
    )
    bare = Installation(
        objects=reading.objects,
        absent=frozenset(reading.absent),
        unread=reading.unread,
        namespace=namespace,
        now=datetime.now(UTC),
        releases=tuple(releases),
        hostname=hostname,
    )
    installed = find_installed(bare, namespace)
    if installed is None:
        return bare
    host = hostname or hostname_of(bare, installed)
    certificates, keys = await _secrets(reading, bare, installed)
    web, inside = await asyncio.gather(_web(installed, host, connect), _inside(client, bare, installed))
    return msgspec.structs.replace(
        bare,
        unread=reading.unread,
        hostname=host,
        certificates=certificates,
        secret_keys=keys,
        web=web,
        inside=inside,
    )


async def _added_kinds(reading: Reading) -> list[Resource]:
    """Those of them that the cluster knows: of others the API server only says that one may not read them."""
    try:
        known = await api_versions(reading.client)
    except ApiError:
        return list(_ADDED)
    reading.absent.update(kind.plural for kind in _ADDED if kind.api_version not in known)
    return [kind for kind in _ADDED if kind.api_version in known]


async def _releases(reading: Reading, namespace: str, found: list[Release]) -> None:
    async def read() -> None:
        secrets = await reading.client.list(SECRETS, namespace=namespace, label_selector="owner=helm", into=_OnlyLabels)
        for secret in secrets:
            labels = secret.metadata.labels
            found.append(Release(labels.get("name", ""), int(labels.get("version", "0")), labels.get("status", "")))

    await reading.attempt("secrets", Request("list", "secrets", namespace=namespace), read)


class _Labels(msgspec.Struct):
    labels: dict[str, str] = {}


class _OnlyLabels(msgspec.Struct):
    """A Secret without what is in it."""

    metadata: _Labels = msgspec.field(default_factory=_Labels)


async def _secrets(
    reading: Reading, found: Installation, installed: Installed
) -> tuple[dict[str, Certificate], dict[str, tuple[str, ...]]]:
    """Certificates of the ways in, and the names of the passwords."""
    certificates: dict[str, Certificate] = {}
    keys: dict[str, tuple[str, ...]] = {}

    async def certificate(name: str) -> None:
        async def read() -> None:
            secret = await reading.client.get(SECRETS, name, namespace=found.namespace, into=dict)
            text = (secret.get("data") or {}).get("tls.crt", "")
            certificates[name] = read_certificate(base64.b64decode(text))

        await reading.attempt(f"secrets/{name}", Request("get", "secrets", namespace=found.namespace), read)

    async def passwords(name: str) -> None:
        async def read() -> None:
            secret = await reading.client.get(SECRETS, name, namespace=found.namespace, into=dict)
            keys[name] = tuple(sorted(secret.get("data") or {}))

        await reading.attempt(f"secrets/{name}", Request("get", "secrets", namespace=found.namespace), read)

    names = sorted({way.secret for way in leading(found, installed) if way.secret})
    await asyncio.gather(*(certificate(name) for name in names), passwords(secret_name(installed)))
    return certificates, keys


async def _web(installed: Installed, host: str, connect: str) -> Answer | None:
    """As a browser would: by the name, over TLS."""
    if not host:
        return None
    return await ask("GET", f"https://{host}{installed.generation.health_path}", connect=connect)


async def _inside(client: Client, found: Installation, installed: Installed) -> Answer | None:
    """Past the way in, where we may; None where we may not, or there is no Service to ask."""
    proxy = installed.generation.component("proxy")
    names = [str(service["metadata"]["name"]) for service in found.all("services")]
    service = next((name for name in names if proxy and matches(proxy.service, name)), "")
    if not service:
        return None
    path = installed.generation.health_path.strip("/")
    page = Resource("", "v1", f"services/http:{service}:{_PROXY_PORT}/proxy/{path.rpartition('/')[0]}", "Page")
    url = f"service {service}, port {_PROXY_PORT}, through the API server"
    try:
        await client.get(page, path.rpartition("/")[2], namespace=found.namespace, into=dict[str, Any])
    except UnexpectedAnswer:
        return Answer(url, 200)  # it answered, and not in JSON
    except ApiError as error:
        return Answer(url, error.status, problem=error.message)
    except KubeError as error:
        return Answer(url, problem=str(error))
    return Answer(url, 200)
