"""The doctor's reads: collects a snapshot from the API server, and the current object of a fix.
Writes nothing.

A list that is not allowed is noted in the snapshot with the missing permission. A run makes at most
`BUDGET` requests besides logs; for each namespace with Kasm `KASM_BUDGET` more, and one for each
Secret in `basicAuthSecret`.
"""

import asyncio
import base64
import ssl
from collections.abc import Awaitable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from vdi.api.crd import build_crds
from vdi.cluster.units import format_time
from vdi.doctor.checks.run import UNPRIVILEGED
from vdi.doctor.fixes import fix_for
from vdi.doctor.installed import read_differences, releases_of
from vdi.doctor.objects.components import LEASE, lease_namespace
from vdi.doctor.objects.references import (
    gpu_config_maps,
    hosts_by_certificate,
    local_path_namespaces,
    pods_to_log,
    secrets_to_sign_in,
    service_to_try,
)
from vdi.doctor.objects.routing import SERVICE
from vdi.findings.model import Finding, Remedy
from vdi.gpu.sharing.changes import Change, change_between
from vdi.kasm.installation import containers_to_log, kasm_namespaces
from vdi.kube.clock import Clock
from vdi.kube.errors import (
    ApiError,
    ConnectionFailed,
    NotFound,
    ServerError,
    UnexpectedAnswer,
)
from vdi.kube.resource import (
    CLAIMS,
    CONFIG_MAPS,
    CRDS,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    EVENTS,
    JOBS,
    LEASES,
    PODS,
    SECRETS,
    SERVICES,
    STATEFUL_SETS,
    Resource,
)
from vdi.kube.transport import Client
from vdi.snapshot.certificate import read_certificate
from vdi.snapshot.check import Check, kinds_read
from vdi.snapshot.model import (
    NO_RESPONSE,
    Certificate,
    Difference,
    Scope,
    ServiceAttempt,
    Snapshot,
    Unreadable,
)
from vdi.snapshot.objects import KINDS, Objects
from vdi.snapshot.objects.config import LOCAL_PATH_CONFIG
from vdi.snapshot.objects.network import Service
from vdi.snapshot.reader import Reader

BUDGET = 40
KASM_BUDGET = 6
NODE_LEASES = "kube-node-lease"
_WARNINGS = "type=Warning"
_LEASE = f"metadata.name={LEASE}"
LOG_LINES = 200
LOG_BYTES = 2**20
_LOGS = 20
_LOG_SECONDS = 5.0
# Time that the API server has for a small request, before it counts as silent.
_SMALL_REQUEST_SECONDS = 10.0
_CONNECT_SECONDS = 3.0
# As above, where a machine outside the cluster waits in vain.
_API_SERVICE_SECONDS = 0.5

Object = dict[str, Any]

# Kinds that are not listed whole: their objects are selected, or named by others.
SELECTED = (EVENTS, LEASES, JOBS, CONFIG_MAPS, SECRETS, CRDS)
# Listed in the requested namespace alone. All others are listed in all namespaces whatever the
# scope, because the cause is often in another one: routes of all namespaces share Traefik's one
# table of hosts, and lead to the gateway's namespace. It is one list for each kind, whatever the
# number of sessions: what is read of a single session would cost a request each.
_IN_SCOPE = frozenset({"persistentvolumeclaims", "certificates"})
# Without the permission for all namespaces, of these the requested one is listed; for Kasm, of
# Deployments too.
_FALLING_BACK = frozenset(
    {
        *("vdisessions", "pods", "statefulsets", "services", "endpointslices"),
        *("ingressroutes", "ingresses", "middlewares", "serverstransports"),
    }
)
# Listed in namespaces with Kasm where they are not in the scope, beside their Jobs.
_OF_KASM_ELSEWHERE = (CLAIMS, SERVICES, ENDPOINT_SLICES, STATEFUL_SETS)


def rights_for(checks: Iterable[Check]) -> Iterator[tuple[str, str, str]]:
    """Verb, API group and resource of the permissions that a run of these checks needs, beside
    those for single Secrets. The chart's rules for gateway and CronJob are made from them.
    """
    kinds = {kind.partition("@")[0] for kind in kinds_read(checks)}
    for kind in KINDS.values():
        if kind.plural in kinds and kind is not SECRETS:
            yield "get" if kind in (CONFIG_MAPS, CRDS) else "list", kind.group, kind.plural
    if "pods/log" in kinds:
        yield "get", PODS.group, "pods/log"


async def collect(
    client: Client, scope: Scope, clock: Clock, checks: Iterable[Check] = UNPRIVILEGED
) -> Snapshot:
    """The snapshot of a cluster that these checks need. Raises ConnectionFailed and Unauthorized,
    with which nothing can be read.

    Three rounds: lists, the objects that these name (`vdi.doctor.objects.references`), then logs.
    Comparing with Helm's records takes one more request for each kind in a manifest.
    """
    kinds = kinds_read(checks)
    reading = _Reading(client, "vdi-doctor", BUDGET, scope=scope, kinds=kinds)
    if "customresourcedefinitions" in kinds:
        await reading.measure_api(clock)
    await reading.lists()
    # The second round is named by the first: which Secret a template needs, which ConfigMap the
    # device plugin reads.
    lists = reading.snapshot(format_time(clock.now()))
    await reading.kasm(kasm_namespaces(lists) if "jobs" in kinds else ())
    await reading.named_by(lists)
    bare = reading.snapshot(format_time(clock.now()))
    pods = pods_to_log(bare, _LOGS) if "pods/log" in kinds else ()
    containers = containers_to_log(bare) if "pods/log@kasm" in kinds else ()
    await asyncio.gather(
        *(reading.log(namespace, name) for namespace, name in pods),
        *(reading.log(*container) for container in containers),
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
    # As checks name them.
    kinds: frozenset[str] = frozenset()
    logs: dict[str, list[str]] = field(default_factory=dict)
    log_errors: dict[str, str] = field(default_factory=dict)
    certificates: list[Certificate] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    api_certificate_ends: str = ""
    service_attempt: ServiceAttempt | None = None
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
            log_errors=dict(sorted(self.log_errors.items())),
            certificates=tuple(
                sorted(self.certificates, key=lambda one: (one.namespace, one.secret))
            ),
            differences=tuple(self.differences),
            api_certificate_ends=self.api_certificate_ends,
            service_attempt=self.service_attempt,
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

    async def lists(self) -> None:
        """List each kind once that a check reads."""
        here = self.scope.namespace or None
        reads: list[Awaitable[object]] = []
        for kind in KINDS.values():
            if kind.plural not in self.kinds or kind in SELECTED:
                continue
            if kind.namespaced and kind.plural not in _IN_SCOPE:
                reads.append(self.everywhere(kind))
            else:
                reads.append(self.all_of(kind, here if kind.namespaced else None))
        if "events" in self.kinds:
            reads.append(self.all_of(EVENTS, here, field_selector=_WARNINGS))
        if "leases" in self.kinds:
            reads.append(self.all_of(LEASES, here, field_selector=_LEASE))
        if "leases@nodes" in self.kinds:
            reads.append(self.all_of(LEASES, NODE_LEASES, note="leases@nodes"))
        if "leases@kube-system" in self.kinds:
            reads.append(self.all_of(LEASES, "kube-system", note="leases@kube-system"))
        if "apiserver@certificate" in self.kinds:
            reads.append(self.api_certificate())
        await asyncio.gather(*reads)

    async def named_by(self, lists: Snapshot) -> None:
        """Read the single objects that these lists name."""
        here, reads = self.scope.namespace, list[Awaitable[object]]()
        if here and "leases" in self.kinds and (other := lease_namespace(lists, here)) != here:
            reads.append(self.all_of(LEASES, other, field_selector=_LEASE))
        if "secrets@basicAuthSecret" in self.kinds:
            secrets = secrets_to_sign_in(lists)
            self.budget += len(secrets)
            for namespace, name in secrets:
                reads.append(self.one(SECRETS, name, namespace, note="secrets@basicAuthSecret"))
        if "secrets@certificate" in self.kinds:
            certificates = hosts_by_certificate(lists)
            self.budget += len(certificates)
            reads += [self.certificate(namespace, name) for namespace, name in certificates]
        if "configmaps@gpu" in self.kinds:
            for namespace, name in gpu_config_maps(lists):
                reads.append(self.one(CONFIG_MAPS, name, namespace))
        if "configmaps@local-path" in self.kinds:
            for namespace in local_path_namespaces(lists):
                note = "configmaps@local-path"
                reads.append(self.one(CONFIG_MAPS, LOCAL_PATH_CONFIG, namespace, note=note))
        service = service_to_try(lists) if "services@address" in self.kinds else None
        api_service = lists.find("services", "kubernetes", "default")
        if service and service.spec.ports and api_service and api_service.spec.ports:
            reads.append(self.try_service(service, api_service))
        if "secrets@release" in self.kinds:
            reads += [self.release(namespace, name) for namespace, name in releases_of(lists)]
        await asyncio.gather(*reads)

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
                    for kind in _OF_KASM_ELSEWHERE
                    if kind is CLAIMS or f"{kind.plural}@all" in self.unread
                ]
                calls += [self.all_of(kind, namespace=namespace) for kind in unread]
                calls.append(self.all_of(EVENTS, namespace=namespace, field_selector=_WARNINGS))
            await asyncio.gather(*calls)

    async def try_service(self, service: Service, api_service: Service) -> None:
        """Note whether connections to a Service and to its pod are accepted. Only a machine of the
        cluster reaches addresses of Services: the API server's shows whether this is one.
        """
        name, namespace = service.metadata.name, service.metadata.namespace
        api = api_service.spec.cluster_ip, api_service.spec.ports[0].port
        own = service.spec.cluster_ip, service.spec.ports[0].port

        async def read() -> None:
            slices = await self.client.list(
                ENDPOINT_SLICES,
                namespace=namespace,
                label_selector=f"{SERVICE}={name}",
                into=Object,
            )
            endpoint = _endpoint_of(slices)
            if endpoint is None or not await _connects(*api, _API_SERVICE_SECONDS):
                return
            pod, address = await asyncio.gather(
                _connects(*endpoint, _CONNECT_SECONDS), _connects(*own, _CONNECT_SECONDS)
            )
            self.service_attempt = ServiceAttempt(
                service=f"service/{namespace}/{name}", pod=pod, address=address
            )

        note = "services@address"
        await self.attempt(ENDPOINT_SLICES, read, verb="list", namespace=namespace, note=note)

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
            data = found.get("data") or {}
            pem, key = (base64.b64decode(data.get(file, "")) for file in ("tls.crt", "tls.key"))
            self.certificates.append(read_certificate(namespace, name, pem, key))

        note = "secrets@certificate"
        await self.attempt(SECRETS, read, namespace=namespace, note=note, name=name)

    async def release(self, namespace: str, name: str) -> None:
        """Compare a release's objects with its manifest."""
        try:
            self.differences += await read_differences(self.client, namespace, name)
        except (ApiError, UnexpectedAnswer) as error:
            reason = (
                f"The release {namespace}/{name} is not compared with what Helm installed: {error}"
            )
            self.unread["secrets@release"] = Unreadable(
                "secrets@release", reason, Remedy("Run it as an administrator.")
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
        if container:
            key = f"{namespace}/{pod}/{container}"
        else:
            key = f"{namespace}/{pod}"

        async def read() -> None:
            lines = self.client.log_lines(
                namespace, pod, container=container or None, tail=LOG_LINES, max_bytes=LOG_BYTES
            )
            try:
                async with asyncio.timeout(_LOG_SECONDS):
                    self.logs[key] = [line[:500] async for line in lines]
            except ServerError as error:
                self.log_errors[f"{namespace}/{pod}"] = error.message[:500]
                raise
            except TimeoutError:
                self.log_errors[f"{namespace}/{pod}"] = NO_RESPONSE
                raise

        await self.attempt(PODS, read, namespace=namespace, subresource="/log")


def _endpoint_of(slices: Iterable[Object]) -> tuple[str, int] | None:
    """Address and port of a ready pod in EndpointSlices. Snapshots do not contain them, since
    people send those to others.
    """
    for one in slices:
        ports = [port["port"] for port in one.get("ports") or () if "port" in port]
        for endpoint in one.get("endpoints") or ():
            if ports and (endpoint.get("conditions") or {}).get("ready"):
                return endpoint["addresses"][0], ports[0]
    return None


async def _connects(host: str, port: int, seconds: float) -> bool:
    """Whether a TCP connection is accepted in this time."""
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
