"""Reads for the checklists of Kasm: objects from the API server, and names, ports, programs and the
web UI beside it.

Called by `vdi kasm preflight` and `vdi kasm validate`. Writes nothing and judges nothing; every
measurement has a time limit.
"""

import asyncio
import json
import shutil
import socket
import subprocess
from collections.abc import Iterable
from functools import partial
from typing import Any

import msgspec

from vdi.helm.discovery import api_versions
from vdi.helm.errors import HelmUnavailableError
from vdi.helm.run import find_helm
from vdi.http_client import (
    HTTP_ERRORS,
    TIMEOUTS,
    certificate_error,
    open_client,
    reason_of,
    unverified,
)
from vdi.kasm.generations.model import HEALTH_PATH
from vdi.kasm.preflight.checks import find_installed
from vdi.kasm.preflight.entry import HTTPS, RDP
from vdi.kasm.preflight.facts import Answer, Facts, Probe, Resolution, Tool, node_addresses
from vdi.kasm.validate import Installation, Release, hostname_of
from vdi.kube.errors import ApiError
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
from vdi.snapshot.reader import Reader

_CONNECT_SECONDS = 2.0
_HTTP_SECONDS = 10.0
_TOOL_SECONDS = 20.0
# So many bytes of an answer are kept.
_BODY = 2000


async def resolve(host: str) -> Resolution | None:
    """The addresses of a name, as programs on this machine get them; None for an empty name."""
    if not host:
        return None
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return Resolution(host, problem=getattr(error, "strerror", None) or str(error))
    return Resolution(host, tuple(sorted({str(one[4][0]) for one in found})))


async def probe(targets: Iterable[tuple[str, int]]) -> tuple[Probe, ...]:
    """Whether anybody takes connections there."""
    return tuple(await asyncio.gather(*(_connect(address, port) for address, port in targets)))


async def _connect(address: str, port: int) -> Probe:
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(address, port)
    except ConnectionRefusedError:
        return Probe(address, port, "refused")
    except (OSError, TimeoutError):
        return Probe(address, port, "silent")
    writer.close()
    return Probe(address, port, "open")


async def read_tools() -> dict[str, Tool]:
    """helm and kubectl in PATH."""
    helm, kubectl = await asyncio.gather(_helm(), _kubectl())
    return {helm.name: helm, kubectl.name: kubectl}


async def _helm() -> Tool:
    try:
        found = await asyncio.to_thread(find_helm)
    except HelmUnavailableError as error:
        return Tool("helm", problem=str(error))
    return Tool("helm", ".".join(str(number) for number in found.version))


async def _kubectl() -> Tool:
    path = shutil.which("kubectl")
    if path is None:
        return Tool("kubectl", problem="kubectl is not in PATH")
    words = (path, "version", "--client", "--output", "json")
    run = partial(
        subprocess.run, words, capture_output=True, text=True, timeout=_TOOL_SECONDS, check=False
    )
    try:
        done = await asyncio.to_thread(run)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Tool("kubectl", problem=f"{path} cannot be run: {error}")
    try:
        return Tool("kubectl", str(json.loads(done.stdout)["clientVersion"]["gitVersion"]))
    except (ValueError, KeyError, TypeError):
        return Tool(
            "kubectl",
            problem=f"{path} version prints {done.stderr.strip() or 'no version in its output'}",
        )


async def ask(method: str, url: str, *, connect: str = "") -> Answer:
    """One request over the machine's own way out (proxies of the environment).

    `connect` is ADDRESS or ADDRESS:PORT, to go there in the place of what the URL's host resolves
    to. A certificate that is not trusted is noted, and the question asked again without looking at
    it.
    """
    try:
        return await _ask(method, url, connect, trust=True)
    except HTTP_ERRORS as error:
        if certificate_error(error) is None:
            return Answer(url, problem=_words(error))
    try:
        return await _ask(method, url, connect, trust=False)
    except HTTP_ERRORS as error:
        return Answer(url, problem=_words(error), trusted=False)


async def _ask(method: str, url: str, connect: str, *, trust: bool) -> Answer:
    tls = None if trust else unverified()
    async with (
        asyncio.timeout(_HTTP_SECONDS),
        open_client(url, seconds=_HTTP_SECONDS, tls=tls, connect=connect) as client,
        client.stream(method, url) as answer,
    ):
        return Answer(
            url, answer.status, (await answer.start(_BODY)).decode(errors="replace"), trusted=trust
        )


def _words(error: Exception) -> str:
    return (
        f"no response within {_HTTP_SECONDS:g} s"
        if isinstance(error, TIMEOUTS)
        else reason_of(error)
    )


Object = dict[str, Any]

_INGRESSES = Resource("networking.k8s.io", "v1", "ingresses", "Ingress")
_INGRESS_CLASSES = Resource(
    "networking.k8s.io", "v1", "ingressclasses", "IngressClass", namespaced=False
)
_INGRESS_ROUTES = Resource("traefik.io", "v1alpha1", "ingressroutes", "IngressRoute")
_OF_CLUSTER = (NODES, PODS, SERVICES, DAEMON_SETS, STORAGE_CLASSES, _INGRESS_CLASSES)
_OF_NAMESPACE = (
    DEPLOYMENTS,
    STATEFUL_SETS,
    JOBS,
    PODS,
    SERVICES,
    ENDPOINT_SLICES,
    CLAIMS,
    _INGRESSES,
)
# So many addresses of nodes are tried for their ports, at most.
_ADDRESSES_ASKED = 20


def _reader(client: Client) -> Reader:
    """A reader of whole objects: the checklists quote fields of any kind."""
    return Reader(client, "vdi-kasm", decode=lambda _, item: msgspec.json.decode(item))


async def _releases(reader: Reader, namespace: str) -> tuple[Release, ...]:
    """Revisions of Helm releases, by the labels of their Secrets."""
    releases: list[Release] = []

    async def read() -> None:
        for secret in await reader.client.list(
            SECRETS, namespace=namespace, label_selector="owner=helm", into=_OnlyLabels
        ):
            labels = secret.metadata.labels
            releases.append(
                Release(
                    labels.get("name", ""),
                    int(labels.get("version", "0")),
                    labels.get("status", ""),
                )
            )

    await reader.attempt(SECRETS, read, verb="list", namespace=namespace)
    return tuple(releases)


class _Labels(msgspec.Struct):
    labels: dict[str, str] = {}


class _OnlyLabels(msgspec.Struct):
    """A Secret without what is in it."""

    metadata: _Labels = msgspec.field(default_factory=_Labels)


async def collect_preflight(client: Client, *, namespace: str, hostname: str) -> Facts:
    """The cluster and its surroundings, for a Kasm that is to go into this namespace.

    Without a host name none is looked up.
    """
    reading = _reader(client)
    at_once = asyncio.gather(read_tools(), resolve(hostname))
    await asyncio.gather(
        *(reading.all_of(kind) for kind in _OF_CLUSTER),
        reading.one(NAMESPACES, namespace),
        *(reading.all_of(kind, namespace) for kind in (DEPLOYMENTS, STATEFUL_SETS)),
    )
    addresses = [
        address for node in reading.objects.get("nodes", ()) for address in node_addresses(node)
    ]
    probes = await probe(
        (address, port) for address in addresses[:_ADDRESSES_ASKED] for port in (HTTPS, RDP)
    )
    tools, resolution = await at_once
    return Facts(
        objects=reading.objects,
        unread=reading.unread,
        probes=probes,
        tools=tools,
        resolution=resolution,
    )


async def collect_validate(
    client: Client, *, namespace: str, hostname: str, connect: str
) -> Installation:
    """The Kasm of this namespace, and its web UI as a browser reaches it.

    Without a host name the one that leads to it is taken; `connect` is ADDRESS:PORT to go to in the
    place of what the name resolves to.
    """
    reading = _reader(client)
    kinds = [*_OF_NAMESPACE, *([_INGRESS_ROUTES] if await _knows_routes(client) else [])]
    _, releases = await asyncio.gather(
        asyncio.gather(*(reading.all_of(kind, namespace) for kind in kinds)),
        _releases(reading, namespace),
    )
    found = Installation(
        objects=reading.objects, unread=reading.unread, namespace=namespace, releases=releases
    )
    installed = find_installed(found, namespace)
    host = hostname or (hostname_of(found, installed) if installed else "")
    web = (
        await ask("GET", f"https://{host}{HEALTH_PATH}", connect=connect)
        if host and installed
        else None
    )
    return msgspec.structs.replace(found, hostname=host, web=web)


async def _knows_routes(client: Client) -> bool:
    """Whether the cluster has Traefik's kinds: of others the API server only says that one may not
    read them.
    """
    try:
        return _INGRESS_ROUTES.api_version in await api_versions(client)
    except ApiError:
        return True
