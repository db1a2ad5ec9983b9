"""The doctor's reads: collects a snapshot from the API server, and the current object of a fix.
Writes nothing.

A list that is not allowed is noted in the snapshot with the missing permission. A run makes at most
`BUDGET` requests besides logs; for each namespace with Kasm `KASM_BUDGET` more, and one for each
Secret in `basicAuthSecret`.
"""

import asyncio
import base64
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from vdi.api.crd import build_crds
from vdi.cluster.units import format_time
from vdi.doctor.fixes import fix_for
from vdi.doctor.installed import read_differences, releases_of
from vdi.doctor.objects.components import LEASE, lease_namespace
from vdi.doctor.objects.references import (
    gpu_config_maps,
    hosts_by_certificate,
    local_path_namespaces,
    pods_to_log,
    secrets_to_sign_in,
)
from vdi.findings.model import Finding, Remedy
from vdi.gpu.sharing.changes import CLUSTER_POLICIES, RUNTIME_CLASSES, Change, change_between
from vdi.kasm.diagnosis.installation import containers_to_log, kasm_namespaces
from vdi.kinds import POOLS, ROUTES, SESSIONS, TEMPLATES
from vdi.kube.clock import Clock
from vdi.kube.errors import (
    ApiError,
    ConnectionFailed,
    NotFound,
    UnexpectedAnswer,
)
from vdi.kube.resource import (
    CLAIMS,
    CONFIG_MAPS,
    CRDS,
    DAEMON_SETS,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    EVENTS,
    INGRESSES,
    JOBS,
    LEASES,
    NETWORK_POLICIES,
    NODES,
    PODS,
    SECRETS,
    SERVICES,
    STATEFUL_SETS,
    STORAGE_CLASSES,
    VOLUMES,
    Resource,
)
from vdi.kube.transport import Client
from vdi.snapshot.certificate import read_certificate
from vdi.snapshot.model import Certificate, Difference, Scope, Snapshot, Unreadable
from vdi.snapshot.objects import Objects
from vdi.snapshot.objects.config import LOCAL_PATH_CONFIG
from vdi.snapshot.reader import Reader

BUDGET = 40
KASM_BUDGET = 6
NODE_LEASES = "kube-node-lease"
LOG_LINES = 200
LOG_BYTES = 2**20
_LOGS = 20
_LOG_SECONDS = 5.0
# Time that the API server has for a small request, before it counts as silent.
_SMALL_REQUEST_SECONDS = 10.0

Object = dict[str, Any]

MIDDLEWARES = Resource("traefik.io", "v1alpha1", "middlewares", "Middleware")
CERTIFICATES = Resource("cert-manager.io", "v1", "certificates", "Certificate")
RESOURCE_SLICES = Resource(
    "resource.k8s.io", "v1", "resourceslices", "ResourceSlice", namespaced=False
)
SERVERS_TRANSPORTS = Resource("traefik.io", "v1alpha1", "serverstransports", "ServersTransport")

# One list for each kind, whatever the number of sessions: what is read of a single session would
# cost a request each. Listed in all namespaces whatever the scope, because the cause is often in
# another one. Routes of all namespaces share Traefik's one table of hosts, and lead to the
# gateway's namespace.
_REQUEST_PATH = (ROUTES, INGRESSES, MIDDLEWARES, SERVERS_TRANSPORTS, SERVICES, ENDPOINT_SLICES)
EVERYWHERE = (
    SESSIONS,
    PODS,
    DEPLOYMENTS,
    DAEMON_SETS,
    STATEFUL_SETS,
    NETWORK_POLICIES,
    *_REQUEST_PATH,
)
# Without that permission, of these the requested namespace is listed; for Kasm, of Deployments too.
_FALLING_BACK = frozenset({"vdisessions", "pods", "statefulsets"}) | {
    kind.plural for kind in _REQUEST_PATH
}
IN_SCOPE = (CLAIMS, CERTIFICATES)
OF_CLUSTER = (
    *(TEMPLATES, POOLS, NODES, VOLUMES, STORAGE_CLASSES),
    *(CLUSTER_POLICIES, RUNTIME_CLASSES, RESOURCE_SLICES),
)
# Permissions of a run, beside those for single Secrets. The chart's rules for gateway and CronJob
# are made from them.
LISTED = (*EVERYWHERE, *IN_SCOPE, *OF_CLUSTER, EVENTS, LEASES, JOBS)
READ_ONE = (CRDS, CONFIG_MAPS)
LOGGED = PODS
# Listed in namespaces with Kasm where they are not in the scope, beside their Jobs.
OF_KASM_ELSEWHERE = (CLAIMS, SERVICES, ENDPOINT_SLICES, STATEFUL_SETS)


async def collect(
    client: Client, scope: Scope, clock: Clock, *, releases: bool = False
) -> Snapshot:
    """The cluster as it is now. Raises ConnectionFailed and Unauthorized, with which nothing can be
    read.

    Three rounds: lists, the objects that these name (`vdi.doctor.objects.references`), then logs.
    `releases`: compare with Helm's records too, which takes one more request for each kind in a
    manifest.
    """
    reading = _Reading(client, "vdi-doctor", BUDGET, scope=scope)
    here = scope.namespace or None
    await reading.measure_api(clock)
    await asyncio.gather(
        *(reading.everywhere(kind) for kind in EVERYWHERE),
        *(reading.all_of(kind, namespace=here) for kind in IN_SCOPE),
        *(reading.all_of(kind) for kind in OF_CLUSTER),
        reading.all_of(EVENTS, namespace=here, field_selector="type=Warning"),
        reading.all_of(LEASES, namespace=here, field_selector=f"metadata.name={LEASE}"),
        reading.all_of(LEASES, namespace=NODE_LEASES, note="leases@nodes"),
        reading.api_certificate(),
    )
    # The second round is named by the first: which Secret a template needs, which ConfigMap the
    # device plugin reads.
    lists = reading.snapshot(format_time(clock.now()))
    await reading.kasm(kasm_namespaces(lists))
    if here and (other := lease_namespace(lists, here)) != here:
        await reading.all_of(LEASES, namespace=other, field_selector=f"metadata.name={LEASE}")
    secrets, certificates = secrets_to_sign_in(lists), hosts_by_certificate(lists)
    reading.budget += len(secrets) + len(certificates)
    await asyncio.gather(
        *(
            reading.one(SECRETS, name, namespace, note="secrets@basicAuthSecret")
            for namespace, name in secrets
        ),
        *(reading.one(CONFIG_MAPS, name, namespace) for namespace, name in gpu_config_maps(lists)),
        *(
            reading.one(CONFIG_MAPS, LOCAL_PATH_CONFIG, namespace, note=LOCAL_PATH_CONFIG)
            for namespace in local_path_namespaces(lists)
        ),
        *(reading.certificate(namespace, name) for namespace, name in certificates),
        *(reading.release(*release) for release in (releases_of(lists) if releases else ())),
    )
    bare = reading.snapshot(format_time(clock.now()))
    await asyncio.gather(
        *(reading.log(namespace, name) for namespace, name in pods_to_log(bare, _LOGS)),
        *(reading.log(*container) for container in containers_to_log(bare)),
    )
    return reading.snapshot(bare.taken_at)


async def prepare_fix(client: Client, finding: Finding, snapshot: Snapshot) -> Change | None:
    """The change that fixes a finding, made from the object as it is now; None: a person has to, or
    it is gone.

    Raises ApiError and ConnectionFailed.
    """
    fix = fix_for(finding)
    if fix is None:
        return None
    namespace, name = fix.place(finding)
    try:
        there = await client.get(fix.resource, name, namespace=namespace, into=Object)
    except NotFound:
        return None
    return change_between(fix.resource, there, fix.change(there, snapshot))


@dataclass
class _Reading(Reader):
    """The parts of a snapshot that have been read so far."""

    scope: Scope = field(default_factory=Scope)
    logs: dict[str, list[str]] = field(default_factory=dict)
    certificates: list[Certificate] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    api_certificate_ends: str = ""
    api_seconds: float = 0.0

    def snapshot(self, taken_at: str) -> Snapshot:
        """A snapshot in an order that does not depend on which response came first."""
        return Snapshot(
            taken_at=taken_at,
            scope=self.scope,
            objects=Objects(**self.objects),
            absent=tuple(sorted(self.absent)),
            unread=tuple(sorted(self.unread.values(), key=lambda unread: unread.kind)),
            logs=dict(sorted(self.logs.items())),
            certificates=tuple(
                sorted(self.certificates, key=lambda one: (one.namespace, one.secret))
            ),
            differences=tuple(self.differences),
            api_certificate_ends=self.api_certificate_ends,
            api_seconds=self.api_seconds,
        )

    async def measure_api(self, clock: Clock) -> None:
        """Read our CRDs one after the other, before many requests wait for each other, and note the
        slowest.

        Raises ConnectionFailed when the API server accepts a connection and does not respond.
        """
        took = []
        for crd in build_crds():
            began = clock.monotonic()
            try:
                async with asyncio.timeout(_SMALL_REQUEST_SECONDS):
                    await self.one(CRDS, crd["metadata"]["name"])
            except TimeoutError as error:
                why = (
                    f"it has not responded for {_SMALL_REQUEST_SECONDS:g} s: it hangs, or is"
                    " overloaded"
                )
                raise ConnectionFailed(
                    self.client.config.server, "GET customresourcedefinitions", why
                ) from error
            took.append(clock.monotonic() - began)
        # The first one also opens the connection, and may wait for a credential plugin.
        self.api_seconds = max(took[1:])

    async def everywhere(self, kind: Resource) -> None:
        """List a kind in all namespaces, or at least in the requested one."""
        if await self.all_of(kind, note=f"{kind.plural}@all"):
            return
        falls_back = kind.plural in _FALLING_BACK or (self.scope.kasm and kind is DEPLOYMENTS)
        if self.scope.namespace and falls_back:
            await self.all_of(kind, namespace=self.scope.namespace)
        else:
            # The kind itself counts as unreadable too, so that no check which needs it reports a
            # pass.
            self.unread[kind.plural] = self.unread[f"{kind.plural}@all"]

    async def kasm(self, namespaces: Iterable[str]) -> None:
        """List the kinds that only checks of Kasm read."""
        for namespace in namespaces:
            self.budget += KASM_BUDGET
            calls = [self.all_of(JOBS, namespace=namespace)]
            if self.scope.namespace not in ("", namespace):
                unread = [
                    kind
                    for kind in OF_KASM_ELSEWHERE
                    if kind is CLAIMS or f"{kind.plural}@all" in self.unread
                ]
                calls += [self.all_of(kind, namespace=namespace) for kind in unread]
                calls.append(
                    self.all_of(EVENTS, namespace=namespace, field_selector="type=Warning")
                )
            await asyncio.gather(*calls)

    async def certificate(self, namespace: str, name: str) -> None:
        """Read the certificate of a TLS Secret. Its key is dropped at once."""

        async def read() -> None:
            try:
                found = await self.client.get(SECRETS, name, namespace=namespace, into=dict)
            except NotFound:
                self.certificates.append(
                    Certificate(namespace=namespace, secret=name, problem="missing")
                )
                return
            text = (found.get("data") or {}).get("tls.crt", "")
            self.certificates.append(read_certificate(namespace, name, base64.b64decode(text)))

        await self.attempt(SECRETS, read, namespace=namespace, name=name)

    async def release(self, namespace: str, name: str) -> None:
        """Compare a release's objects with its manifest."""
        try:
            self.differences += await read_differences(self.client, namespace, name)
        except (ApiError, UnexpectedAnswer) as error:
            words = (
                f"The release {namespace}/{name} is not compared with what Helm installed: {error}"
            )
            self.unread["secrets@release"] = Unreadable(
                "secrets@release", words, Remedy("Run it as an administrator.")
            )

    async def api_certificate(self) -> None:
        """Note when the API server's certificate expires. Without a connection of its own it stays
        unknown.
        """
        server, context = urlsplit(self.client.config.server), self.client.config.ssl_context()
        if context is None or not server.hostname:
            return
        try:
            async with asyncio.timeout(_LOG_SECONDS):
                _, writer = await asyncio.open_connection(
                    server.hostname, server.port or 443, ssl=context
                )
        except (OSError, TimeoutError):
            return
        shown = writer.get_extra_info("peercert") or {}
        writer.close()
        if "notAfter" in shown:
            ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(shown["notAfter"]), UTC)
            self.api_certificate_ends = format_time(ends)

    async def log(self, namespace: str, pod: str, container: str = "") -> None:
        """Read the end of a pod's log."""
        key = f"{namespace}/{pod}/{container}" if container else f"{namespace}/{pod}"

        async def read() -> None:
            async with asyncio.timeout(_LOG_SECONDS):
                lines = self.client.log_lines(
                    namespace, pod, container=container or None, tail=LOG_LINES, max_bytes=LOG_BYTES
                )
                self.logs[key] = [line[:500] async for line in lines]

        await self.attempt(PODS, read, namespace=namespace, subresource="/log")
