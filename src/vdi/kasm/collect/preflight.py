"""Reads from the API server what checklists look at. Nothing is written, nothing is judged.

What may not be read is noted with the permission that is missing; only that no API server answers, or that it does not
accept the account, is raised. What lies outside the API is `collect_outside`.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from vdi.diagnosis.grants import UNKNOWN, grant_commands
from vdi.findings.model import Remedy
from vdi.kasm.collect.outside import ask_registry, probe, read_clocks, read_tools, resolve
from vdi.kasm.preflight.checklist import Unreadable
from vdi.kasm.preflight.entry import HTTPS, RDP
from vdi.kasm.preflight.facts import Clocks, Disk, Facts, Resolution, node_addresses
from vdi.kube.errors import ApiError, BadRequest, Forbidden, NotFound, ServerError, TooManyRequests
from vdi.kube.resource import (
    DAEMON_SETS,
    DEPLOYMENTS,
    LEASES,
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

INGRESSES = Resource("networking.k8s.io", "v1", "ingresses", "Ingress")
INGRESS_CLASSES = Resource("networking.k8s.io", "v1", "ingressclasses", "IngressClass", namespaced=False)
INGRESS_ROUTES = Resource("traefik.io", "v1alpha1", "ingressroutes", "IngressRoute")

_EVERYWHERE = (NODES, PODS, SERVICES, DAEMON_SETS, STORAGE_CLASSES, INGRESS_CLASSES)
_NODE_LEASES = "kube-node-lease"
_ADDRESSES_ASKED = 20
"""So many addresses of nodes are tried for their ports, at most."""
_KUBELETS_AT_ONCE = 20


@dataclass
class Reading:
    """What has been read so far."""

    client: Client
    objects: dict[str, list[Object]] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    unread: dict[str, Unreadable] = field(default_factory=dict)

    async def all_of(self, kind: Resource, namespace: str | None = None, *, note: str = "") -> None:
        """All objects of a kind; kept under `note`, or its plural."""

        async def read() -> None:
            self.objects[note or kind.plural] = await self.client.list(kind, namespace=namespace, into=dict)

        await self.attempt(note or kind.plural, Request("list", kind.plural, kind.group, namespace), read)

    async def one(self, kind: Resource, name: str, namespace: str | None = None) -> None:
        """One object; that it is not there is known then."""

        async def read() -> None:
            found = await self.client.get(kind, name, namespace=namespace, into=dict)
            self.objects.setdefault(kind.plural, []).append(found)

        await self.attempt(kind.plural, Request("get", kind.plural, kind.group, namespace), read)

    async def attempt(self, note: str, request: "Request", read: Callable[[], Awaitable[None]]) -> None:
        """Read, or note why not."""
        try:
            await read()
        except NotFound as error:
            if error.api_missing:
                self.absent.add(note)
        except Forbidden as error:
            self.unread[note] = request.forbidden(error)
        except (ServerError, TooManyRequests, BadRequest) as error:
            self.unread[note] = Unreadable(
                f"{request.what} cannot be read: {error.message}", Remedy("Try again in a moment.")
            )


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked, for the words about its refusal."""

    verb: str
    plural: str
    group: str = ""
    namespace: str | None = None

    @property
    def what(self) -> str:
        """`deployments.apps`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def forbidden(self, error: ApiError) -> Unreadable:
        """Who lacks which permission, and the command that gives it."""
        match = re.search(r'User "([^"]+)"', error.message)
        who = match[1] if match else UNKNOWN
        where = f" in namespace {self.namespace}" if self.namespace else ""
        return Unreadable(
            f"{who} may not {self.verb} {self.what}{where}.",
            Remedy(
                f"Create this role, and bind it to {who}.",
                grant_commands("vdi-kasm", who, self.verb, self.what, namespace=self.namespace or ""),
            ),
        )


class _SecretMeta(msgspec.Struct):
    name: str
    annotations: dict[str, str] = {}


class _OnlyMeta(msgspec.Struct):
    """A Secret without what is in it."""

    metadata: _SecretMeta


async def collect_preflight(client: Client, *, namespace: str, hostname: str, registry: str, secret: str = "") -> Facts:
    """The cluster and its surroundings, for a Kasm that is to go into this namespace.

    Without a host name none is looked up; `registry` is the URL of the one that images come from; `secret` is the name
    of the Secret that the chart makes, if it is known.
    """
    reading = Reading(client)
    at_once = asyncio.gather(read_tools(), ask_registry(registry), _resolved(hostname))
    await asyncio.gather(
        *(reading.all_of(kind) for kind in _EVERYWHERE),
        reading.one(NAMESPACES, namespace),
        *(reading.all_of(kind, namespace) for kind in (DEPLOYMENTS, STATEFUL_SETS)),
        *([_secret(reading, namespace, secret)] if secret else []),
    )
    addresses = [address for node in reading.objects.get("nodes", ()) for address in node_addresses(node)]
    targets = [(address, port) for address in addresses[:_ADDRESSES_ASKED] for port in (HTTPS, RDP)]
    disks, clocks, probes = await asyncio.gather(_disks(reading), _clocks(reading), probe(targets))
    tools, answer, resolution = await at_once
    return Facts(
        objects=reading.objects,
        absent=frozenset(reading.absent),
        unread=reading.unread,
        disks=disks,
        clocks=clocks,
        probes=probes,
        tools=tools,
        registry=answer,
        resolution=resolution,
    )


async def _secret(reading: Reading, namespace: str, name: str) -> None:
    async def read() -> None:
        found = await reading.client.get(SECRETS, name, namespace=namespace, into=_OnlyMeta)
        reading.objects["secrets"] = [msgspec.to_builtins(found)]

    await reading.attempt("secrets", Request("get", "secrets", namespace=namespace), read)


async def _resolved(hostname: str) -> Resolution | None:
    return await resolve(hostname) if hostname else None


async def _disks(reading: Reading) -> dict[str, Disk]:
    """The kubelets' statistics, through the API server's node proxy, where that is allowed."""
    found: dict[str, Disk] = {}
    turns = asyncio.Semaphore(_KUBELETS_AT_ONCE)

    async def ask(name: str) -> None:
        stats = Resource("", "v1", f"nodes/{name}/proxy/stats", "Summary", namespaced=False)

        async def read() -> None:
            summary = await reading.client.get(stats, "summary", into=dict)
            file_system = (summary.get("node") or {}).get("fs") or {}
            if file_system.get("capacityBytes"):
                found[name] = Disk(int(file_system["capacityBytes"]), int(file_system.get("availableBytes", 0)))

        async with turns:
            await reading.attempt("nodes/proxy", Request("get", "nodes/proxy"), read)

    names = [str(node["metadata"]["name"]) for node in reading.objects.get("nodes", ())]
    await asyncio.gather(*(ask(name) for name in names))
    return found


async def _clocks(reading: Reading) -> Clocks:
    """The API server's time, and the heartbeats that kubelets wrote with their own clocks."""
    clocks = await read_clocks(reading.client.config)
    if clocks.now is None:
        return Clocks(problem=clocks.problem)
    leases = Reading(reading.client)
    await leases.all_of(LEASES, _NODE_LEASES)
    nodes = {
        str(lease["metadata"]["name"]): (
            datetime.fromisoformat(lease["spec"]["renewTime"]) - clocks.now
        ).total_seconds()
        for lease in leases.objects.get("leases", ())
        if (lease.get("spec") or {}).get("renewTime")
    }
    return Clocks(here=clocks.ahead, nodes=nodes)
