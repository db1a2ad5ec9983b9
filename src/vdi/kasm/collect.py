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

import msgspec

from vdi.cluster.units import format_time
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
from vdi.kasm.installation import Installation
from vdi.kasm.preflight.checks import checklist
from vdi.kasm.preflight.entry import HTTPS, RDP
from vdi.kasm.preflight.model import (
    Preflight,
    Probe,
    Resolution,
    Surroundings,
    Tool,
    node_addresses,
)
from vdi.kasm.preflight.needs import PlannedRelease
from vdi.kasm.validate import NEEDS, Answer, Release, Validation, hostname_of
from vdi.kinds import ROUTES
from vdi.kube.clock import SYSTEM_CLOCK
from vdi.kube.errors import ApiError
from vdi.kube.resource import NAMESPACES, SECRETS
from vdi.kube.transport import Client
from vdi.snapshot.model import Snapshot
from vdi.snapshot.objects import KINDS, Objects
from vdi.snapshot.reader import Reader

_CONNECT_SECONDS = 2.0
_HTTP_SECONDS = 10.0
_TOOL_SECONDS = 20.0


async def resolve(host: str) -> Resolution | None:
    """The addresses of a name, as programs on this machine get them; None for an empty name."""
    if not host:
        return None
    loop = asyncio.get_running_loop()
    try:
        addresses = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return Resolution(host, problem=getattr(error, "strerror", None) or str(error))
    return Resolution(host, tuple(sorted({str(address[4][0]) for address in addresses})))


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
    return {"helm": helm, "kubectl": kubectl}


async def _helm() -> Tool:
    try:
        helm = await asyncio.to_thread(find_helm)
    except HelmUnavailableError as error:
        return Tool(problem=str(error))
    return Tool(".".join(str(number) for number in helm.version))


async def _kubectl() -> Tool:
    path = shutil.which("kubectl")
    if path is None:
        return Tool(problem="kubectl is not in PATH")
    command = (path, "version", "--client", "--output", "json")
    run = partial(
        subprocess.run, command, capture_output=True, text=True, timeout=_TOOL_SECONDS, check=False
    )
    try:
        done = await asyncio.to_thread(run)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Tool(problem=f"{path} cannot be run: {error}")
    try:
        return Tool(str(json.loads(done.stdout)["clientVersion"]["gitVersion"]))
    except (ValueError, KeyError, TypeError):
        output = done.stderr.strip() or "no version in its output"
        return Tool(problem=f"{path} version prints {output}")


async def ask(url: str, *, connect: str = "") -> Answer:
    """One request over the machine's own way out (proxies of the environment).

    `connect` is ADDRESS or ADDRESS:PORT, to go there in the place of what the URL's host resolves
    to. A certificate that is not trusted is noted, and the request sent again without verifying
    it.
    """
    try:
        return await _ask(url, connect, trust=True)
    except HTTP_ERRORS as error:
        if certificate_error(error) is None:
            return Answer(problem=_words(error))
    try:
        return await _ask(url, connect, trust=False)
    except HTTP_ERRORS as error:
        return Answer(problem=_words(error), trusted=False)


async def _ask(url: str, connect: str, *, trust: bool) -> Answer:
    tls = None if trust else unverified()
    async with (
        asyncio.timeout(_HTTP_SECONDS),
        open_client(url, seconds=_HTTP_SECONDS, tls=tls, connect=connect) as client,
        client.stream("GET", url) as answer,
    ):
        return Answer(answer.status, trusted=trust)


def _words(error: Exception) -> str:
    if isinstance(error, TIMEOUTS):
        return f"no response within {_HTTP_SECONDS:g} s"
    return reason_of(error)


# Of the kinds of a preflight, these are listed in Kasm's namespace alone.
_OF_NAMESPACE = frozenset({"deployments", "statefulsets"})
# So many addresses of nodes are tried for their ports, at most.
_ADDRESSES_ASKED = 20


def _snapshot(reader: Reader) -> Snapshot:
    return Snapshot(
        taken_at=format_time(SYSTEM_CLOCK.now()),
        objects=Objects(**reader.objects),
        unread=tuple(reader.unread.values()),
    )


async def collect_preflight(client: Client, planned: PlannedRelease) -> Preflight:
    """The cluster and its surroundings, as far as the checklist needs them.

    Without a host name none is looked up.
    """
    reader = Reader(client, "vdi-kasm")
    at_once = asyncio.gather(read_tools(), resolve(planned.hostname))
    items = checklist(Preflight(_snapshot(reader), Surroundings(), planned))
    needs = {plural for item in items for plural in item.needs}
    namespace = planned.namespace
    await asyncio.gather(
        reader.one(NAMESPACES, namespace),
        *(reader.all_of(KINDS[plural], namespace) for plural in needs & _OF_NAMESPACE),
        *(reader.all_of(KINDS[plural]) for plural in needs - _OF_NAMESPACE - {"namespaces"}),
    )
    snapshot = _snapshot(reader)
    addresses = [address for node in snapshot.objects.nodes for address in node_addresses(node)]
    probes = await probe(
        (address, port) for address in addresses[:_ADDRESSES_ASKED] for port in (HTTPS, RDP)
    )
    tools, resolution = await at_once
    return Preflight(snapshot, Surroundings(resolution, probes, tools), planned)


async def collect_validate(
    client: Client, *, namespace: str, hostname: str, connect: str
) -> Validation:
    """The Kasm of this namespace, and its web UI as a browser reaches it.

    Without a host name the one that leads to it is taken; `connect` is ADDRESS:PORT to go to in the
    place of what the name resolves to.
    """
    reader = Reader(client, "vdi-kasm")
    plurals = set(NEEDS)
    if not await _knows_routes(client):
        plurals.remove(ROUTES.plural)
    _, releases = await asyncio.gather(
        asyncio.gather(*(reader.all_of(KINDS[plural], namespace) for plural in plurals)),
        _releases(reader, namespace),
    )
    kasm = Installation(_snapshot(reader), namespace)
    web = None
    if kasm.installed:
        hostname = hostname or hostname_of(kasm, kasm.installed)
        if hostname:
            web = await ask(f"https://{hostname}{HEALTH_PATH}", connect=connect)
    return Validation(kasm, releases, hostname, web)


class _Labels(msgspec.Struct):
    labels: dict[str, str] = {}


class _OnlyLabels(msgspec.Struct):
    """A Secret without what is in it."""

    metadata: _Labels = msgspec.field(default_factory=_Labels)


async def _releases(reader: Reader, namespace: str) -> tuple[Release, ...]:
    """Revisions of Helm releases, by the labels of their Secrets."""
    releases: list[Release] = []

    async def read() -> None:
        for secret in await reader.client.list(
            SECRETS, namespace=namespace, label_selector="owner=helm", into=_OnlyLabels
        ):
            labels = secret.metadata.labels
            revision = int(labels.get("version", "0"))
            releases.append(Release(labels.get("name", ""), revision, labels.get("status", "")))

    await reader.attempt(SECRETS, read, verb="list", namespace=namespace)
    return tuple(releases)


async def _knows_routes(client: Client) -> bool:
    """Whether the cluster has Traefik's kinds: of others the API server only says that one may not
    read them.
    """
    try:
        return ROUTES.api_version in await api_versions(client)
    except ApiError:
        return True
