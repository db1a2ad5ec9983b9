"""Reads from the API server what checklists look at. Nothing is written, nothing is judged.

What may not be read is noted with the permission that is missing; only that no API server answers, or that it does not
accept the account, is raised. Of Secrets only labels are kept. What lies outside the API is `outside`.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from vdi.diagnosis.grants import UNKNOWN, grant_commands
from vdi.findings.model import Remedy
from vdi.helm.discovery import api_versions
from vdi.kasm.collect.outside import ask, probe, read_tools, resolve
from vdi.kasm.generations.model import HEALTH_PATH
from vdi.kasm.preflight.checks import find_installed
from vdi.kasm.preflight.entry import HTTPS, RDP
from vdi.kasm.preflight.facts import Facts, Unreadable, node_addresses
from vdi.kasm.validate.checks import hostname_of
from vdi.kasm.validate.workloads import Installation, Release
from vdi.kube.errors import ApiError, BadRequest, Forbidden, NotFound, ServerError, TooManyRequests
from vdi.kube.resource import (
    CLAIMS,
    DAEMON_SETS,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    JOBS,
    NAMESPACES,
    NODES,
    PODS,
    SECRETS,
    SERVICES,
    STATEFUL_SETS,
    STORAGE_CLASSES,
    Resource,
)
from vdi.kube.transport import Client

Object = dict[str, Any]

_INGRESSES = Resource("networking.k8s.io", "v1", "ingresses", "Ingress")
_INGRESS_CLASSES = Resource("networking.k8s.io", "v1", "ingressclasses", "IngressClass", namespaced=False)
_INGRESS_ROUTES = Resource("traefik.io", "v1alpha1", "ingressroutes", "IngressRoute")
_OF_CLUSTER = (NODES, PODS, SERVICES, DAEMON_SETS, STORAGE_CLASSES, _INGRESS_CLASSES)
_OF_NAMESPACE = (DEPLOYMENTS, STATEFUL_SETS, JOBS, PODS, SERVICES, ENDPOINT_SLICES, CLAIMS, _INGRESSES)
_ADDRESSES_ASKED = 20
"""So many addresses of nodes are tried for their ports, at most."""


@dataclass
class Reading:
    """What has been read so far."""

    client: Client
    objects: dict[str, list[Object]] = field(default_factory=dict)
    unread: dict[str, Unreadable] = field(default_factory=dict)

    async def all_of(self, kind: Resource, namespace: str | None = None) -> None:
        """All objects of a kind."""

        async def read() -> None:
            self.objects[kind.plural] = await self.client.list(kind, namespace=namespace, into=dict)

        await self._attempt("list", kind, namespace, read)

    async def one(self, kind: Resource, name: str) -> None:
        """One object; that it is not there is known then."""

        async def read() -> None:
            self.objects[kind.plural] = [await self.client.get(kind, name, into=dict)]

        await self._attempt("get", kind, None, read)

    async def releases(self, namespace: str) -> tuple[Release, ...]:
        """Revisions of Helm releases, by the labels of their Secrets."""
        found: list[Release] = []

        async def read() -> None:
            for secret in await self.client.list(
                SECRETS, namespace=namespace, label_selector="owner=helm", into=_OnlyLabels
            ):
                labels = secret.metadata.labels
                found.append(Release(labels.get("name", ""), int(labels.get("version", "0")), labels.get("status", "")))

        await self._attempt("list", SECRETS, namespace, read)
        return tuple(found)

    async def _attempt(
        self, verb: str, kind: Resource, namespace: str | None, read: Callable[[], Awaitable[None]]
    ) -> None:
        """Read, or note why not."""
        what = f"{kind.plural}.{kind.group}" if kind.group else kind.plural
        try:
            await read()
        except NotFound:
            return
        except Forbidden as error:
            self.unread[kind.plural] = _forbidden(error, verb, what, namespace)
        except (ServerError, TooManyRequests, BadRequest) as error:
            words = f"{what} cannot be read: {error.message}"
            self.unread[kind.plural] = Unreadable(words, Remedy("Try again in a moment."))


def _forbidden(error: ApiError, verb: str, what: str, namespace: str | None) -> Unreadable:
    """Who lacks which permission, and the command that gives it."""
    match = re.search(r'User "([^"]+)"', error.message)
    who = match[1] if match else UNKNOWN
    where = f" in namespace {namespace}" if namespace else ""
    commands = grant_commands("vdi-kasm", who, verb, what, namespace=namespace or "")
    return Unreadable(
        f"{who} may not {verb} {what}{where}.", Remedy(f"Create this role, and bind it to {who}.", commands)
    )


class _Labels(msgspec.Struct):
    labels: dict[str, str] = {}


class _OnlyLabels(msgspec.Struct):
    """A Secret without what is in it."""

    metadata: _Labels = msgspec.field(default_factory=_Labels)


async def collect_preflight(client: Client, *, namespace: str, hostname: str) -> Facts:
    """The cluster and its surroundings, for a Kasm that is to go into this namespace.

    Without a host name none is looked up.
    """
    reading = Reading(client)
    at_once = asyncio.gather(read_tools(), resolve(hostname))
    await asyncio.gather(
        *(reading.all_of(kind) for kind in _OF_CLUSTER),
        reading.one(NAMESPACES, namespace),
        *(reading.all_of(kind, namespace) for kind in (DEPLOYMENTS, STATEFUL_SETS)),
    )
    addresses = [address for node in reading.objects.get("nodes", ()) for address in node_addresses(node)]
    probes = await probe((address, port) for address in addresses[:_ADDRESSES_ASKED] for port in (HTTPS, RDP))
    tools, resolution = await at_once
    return Facts(objects=reading.objects, unread=reading.unread, probes=probes, tools=tools, resolution=resolution)


async def collect_validate(client: Client, *, namespace: str, hostname: str, connect: str) -> Installation:
    """The Kasm of this namespace, and its web UI as a browser reaches it.

    Without a host name the one that leads to it is taken; `connect` is ADDRESS:PORT to go to in the place of what the
    name resolves to.
    """
    reading = Reading(client)
    kinds = [*_OF_NAMESPACE, *([_INGRESS_ROUTES] if await _knows_routes(client) else [])]
    _, releases = await asyncio.gather(
        asyncio.gather(*(reading.all_of(kind, namespace) for kind in kinds)), reading.releases(namespace)
    )
    found = Installation(objects=reading.objects, unread=reading.unread, namespace=namespace, releases=releases)
    installed = find_installed(found, namespace)
    host = hostname or (hostname_of(found, installed) if installed else "")
    web = await ask("GET", f"https://{host}{HEALTH_PATH}", connect=connect) if host and installed else None
    return msgspec.structs.replace(found, hostname=host, web=web)


async def _knows_routes(client: Client) -> bool:
    """Whether the cluster has Traefik's kinds: of others the API server only says that one may not read them."""
    try:
        return _INGRESS_ROUTES.api_version in await api_versions(client)
    except ApiError:
        return True
