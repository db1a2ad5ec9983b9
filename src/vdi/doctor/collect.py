"""The reading half: fetches from the API server what a Snapshot is made of. Nothing is written, nothing is judged.

What may not be read is noted with the permission that is missing. At most `BUDGET` requests, besides logs; for each
namespace with Kasm `KASM_BUDGET` more, and one for each Secret in `basicAuthSecret` of a template.
"""

import asyncio
import base64
import re
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec

from vdi.api.crd import build_crds
from vdi.cluster.units import format_time
from vdi.diagnosis.snapshot import UNKNOWN_ACCOUNT, Certificate, Scope, Snapshot, Unreadable, grant_commands
from vdi.doctor.objects.components import LEASE, lease_namespace
from vdi.doctor.objects.references import (
    LOCAL_PATH_CONFIG,
    gpu_config_maps,
    hosts_by_certificate,
    local_path_namespaces,
    pods_to_log,
    read_certificate,
    secrets_to_sign_in,
)
from vdi.doctor.objects.sanitize import sanitize
from vdi.gpu.sharing.changes import CLUSTER_POLICIES, RUNTIME_CLASSES
from vdi.kasm.diagnosis.installation import containers_to_log, kasm_namespaces
from vdi.kinds import ROUTES, SESSIONS, TEMPLATES
from vdi.kube.clock import Clock
from vdi.kube.errors import ApiError, BadRequest, ConnectionFailed, Forbidden, NotFound, ServerError, TooManyRequests
from vdi.kube.resource import (
    CLAIMS,
    CONFIG_MAPS,
    CRDS,
    DAEMON_SETS,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    EVENTS,
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

BUDGET = 31
KASM_BUDGET = 6
LOG_LINES = 200
LOG_BYTES = 2**20
_LOGS = 20
_LOG_SECONDS = 5.0
# Seconds that the API server has for a small request, before it counts as silent.
_ANSWER_SECONDS = 10.0

Object = dict[str, Any]

_RBAC = "rbac.authorization.k8s.io"
MIDDLEWARES = Resource("traefik.io", "v1alpha1", "middlewares", "Middleware")
SERVERS_TRANSPORTS = Resource("traefik.io", "v1alpha1", "serverstransports", "ServersTransport")
ROLES = Resource(_RBAC, "v1", "roles", "Role")
BINDINGS = Resource(_RBAC, "v1", "rolebindings", "RoleBinding")
CLUSTER_ROLES = Resource(_RBAC, "v1", "clusterroles", "ClusterRole", namespaced=False)
CLUSTER_BINDINGS = Resource(_RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False)

# Asked of all namespaces whatever the scope, since what is broken is often elsewhere.
EVERYWHERE = (SESSIONS, PODS, DEPLOYMENTS, DAEMON_SETS, NETWORK_POLICIES)
# Of these at least the namespace in question is read; where it is Kasm's, of Deployments too.
_FALLING_BACK = frozenset({"vdisessions", "pods"})
IN_SCOPE = (CLAIMS, SERVICES, ENDPOINT_SLICES, ROUTES, MIDDLEWARES, SERVERS_TRANSPORTS, ROLES, BINDINGS)
OF_CLUSTER = (
    TEMPLATES,
    NODES,
    VOLUMES,
    STORAGE_CLASSES,
    CLUSTER_ROLES,
    CLUSTER_BINDINGS,
    CLUSTER_POLICIES,
    RUNTIME_CLASSES,
)


# Asked of namespaces with Kasm alone.
OF_KASM = (STATEFUL_SETS, JOBS)
# Asked of them too, where they are not in the scope.
OF_KASM_ELSEWHERE = (CLAIMS, SERVICES, ENDPOINT_SLICES)


async def collect(client: Client, scope: Scope, clock: Clock) -> Snapshot:
    """The cluster as it is now. Raises ConnectionFailed and Unauthorized: then nothing can be looked at."""
    reading = _Reading(client, scope)
    here = scope.namespace or None
    await reading.measure_api(clock)
    await asyncio.gather(
        *(reading.everywhere(kind) for kind in EVERYWHERE),
        *(reading.all_of(kind, namespace=here) for kind in IN_SCOPE),
        *(reading.all_of(kind) for kind in OF_CLUSTER),
        reading.all_of(EVENTS, namespace=here, field_selector="type=Warning"),
        reading.all_of(LEASES, namespace=here, field_selector=f"metadata.name={LEASE}"),
        reading.api_certificate(),
    )
    seen = reading.snapshot(format_time(clock.now()))
    await reading.kasm(kasm_namespaces(seen))
    if here and (other := lease_namespace(seen, here)) != here:
        await reading.all_of(LEASES, namespace=other, field_selector=f"metadata.name={LEASE}")
    await asyncio.gather(
        *(reading.basic_auth_secret(namespace, name) for namespace, name in secrets_to_sign_in(seen)),
        *(reading.one(CONFIG_MAPS, name, namespace) for namespace, name in gpu_config_maps(seen)),
        *(
            reading.one(CONFIG_MAPS, LOCAL_PATH_CONFIG, namespace, note=LOCAL_PATH_CONFIG)
            for namespace in local_path_namespaces(seen)
        ),
        *(reading.certificate(namespace, name) for namespace, name in hosts_by_certificate(seen)),
    )
    bare = reading.snapshot(format_time(clock.now()))
    await asyncio.gather(
        *(reading.log(namespace, name) for namespace, name in pods_to_log(bare, _LOGS)),
        *(reading.log(*container) for container in containers_to_log(bare)),
    )
    return reading.snapshot(bare.taken_at)


@dataclass
class _Reading:
    """What has been read so far."""

    client: Client
    scope: Scope
    objects: dict[str, list[Object]] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    unread: dict[str, Unreadable] = field(default_factory=dict)
    logs: dict[str, list[str]] = field(default_factory=dict)
    certificates: list[Certificate] = field(default_factory=list)
    api_certificate_ends: str = ""
    api_seconds: float = 0.0
    requests: int = 0
    budget: int = BUDGET

    def snapshot(self, taken_at: str) -> Snapshot:
        """What was seen, in an order that does not depend on who answered first."""
        return Snapshot(
            taken_at=taken_at,
            scope=self.scope,
            objects=dict(sorted(self.objects.items())),
            absent=tuple(sorted(self.absent)),
            unread=tuple(sorted(self.unread.values(), key=lambda one: one.kind)),
            logs=dict(sorted(self.logs.items())),
            certificates=tuple(
                sorted(self.certificates, key=lambda certificate: (certificate.namespace, certificate.secret))
            ),
            api_certificate_ends=self.api_certificate_ends,
            api_seconds=self.api_seconds,
        )

    async def measure_api(self, clock: Clock) -> None:
        """Read our CRDs one after the other: how long the API server takes, before many requests wait for each other.

        Raises ConnectionFailed when it takes a connection and does not answer.
        """
        took = []
        for crd in build_crds():
            began = clock.monotonic()
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await self.one(CRDS, crd["metadata"]["name"])
            except TimeoutError as error:
                why = f"it has not responded for {_ANSWER_SECONDS:g} s: it hangs, or is overloaded"
                raise ConnectionFailed(self.client.config.server, "GET customresourcedefinitions", why) from error
            took.append(clock.monotonic() - began)
        self.api_seconds = min(took)

    async def everywhere(self, kind: Resource) -> None:
        """Of all namespaces, or at least of the one in question."""
        if await self.all_of(kind, note=f"{kind.plural}@all"):
            return
        falls_back = kind.plural in _FALLING_BACK or (self.scope.kasm and kind is DEPLOYMENTS)
        if self.scope.namespace and falls_back:
            await self.all_of(kind, namespace=self.scope.namespace)
        else:
            self.unread[kind.plural] = self.unread[f"{kind.plural}@all"]

    async def all_of(
        self, kind: Resource, *, namespace: str | None = None, field_selector: str | None = None, note: str = ""
    ) -> bool:
        """All objects of a kind, in one request."""

        async def read() -> None:
            # One page: a list of thousands in pages would cost a request each.
            pages = self.client.pages(kind, namespace=namespace, field_selector=field_selector, size=0)
            async for page in pages:
                found = [_decoded(item) for item in page.items]
                self.objects.setdefault(kind.plural, []).extend(sanitize(kind.plural, one) for one in found)

        return await self._try(kind, note or kind.plural, namespace, "list", read)

    async def kasm(self, namespaces: Iterable[str]) -> None:
        """What checks of Kasm read beyond the rest."""
        for namespace in namespaces:
            self.budget += KASM_BUDGET
            calls = [self.all_of(kind, namespace=namespace) for kind in OF_KASM]
            if self.scope.namespace not in ("", namespace):
                calls += [self.all_of(kind, namespace=namespace) for kind in OF_KASM_ELSEWHERE]
                calls.append(self.all_of(EVENTS, namespace=namespace, field_selector="type=Warning"))
            await asyncio.gather(*calls)

    async def one(self, kind: Resource, name: str, namespace: str | None = None, *, note: str = "") -> None:
        """One object; that it is not there is known then."""

        async def read() -> None:
            found = await self.client.get(kind, name, namespace=namespace, into=dict)
            self.objects.setdefault(kind.plural, []).append(sanitize(kind.plural, found))

        await self._try(kind, note or kind.plural, namespace, "get", read, name=name)

    async def basic_auth_secret(self, namespace: str, name: str) -> None:
        """Whether a Secret has a user name and a password."""
        self.budget += 1
        await self.one(SECRETS, name, namespace, note="secrets@basicAuthSecret")

    async def certificate(self, namespace: str, name: str) -> None:
        """The public part of a TLS Secret; the key is dropped at once."""
        self.budget += 1

        async def read() -> None:
            found = await self.client.get(SECRETS, name, namespace=namespace, into=dict)
            text = (found.get("data") or {}).get("tls.crt", "")
            self.certificates.append(read_certificate(namespace, name, base64.b64decode(text)))

        before = len(self.certificates)
        if await self._try(SECRETS, "secrets", namespace, "get", read, name=name) and len(self.certificates) == before:
            self.certificates.append(Certificate(namespace=namespace, secret=name, problem="missing"))

    async def api_certificate(self) -> None:
        """When the certificate of the API server ends; what cannot be had so is no matter, since it answers others."""
        server, context = urlsplit(self.client.config.server), self.client.config.ssl_context()
        if context is None or not server.hostname:
            return
        try:
            async with asyncio.timeout(_LOG_SECONDS):
                _, writer = await asyncio.open_connection(server.hostname, server.port or 443, ssl=context)
        except (OSError, TimeoutError):
            return
        shown = writer.get_extra_info("peercert") or {}
        writer.close()
        if "notAfter" in shown:
            ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(shown["notAfter"]), UTC)
            self.api_certificate_ends = format_time(ends)

    async def log(self, namespace: str, pod: str, container: str = "") -> None:
        """The end of a pod's log."""
        key = f"{namespace}/{pod}/{container}" if container else f"{namespace}/{pod}"

        async def read() -> None:
            async with asyncio.timeout(_LOG_SECONDS):
                found = self.client.log_lines(
                    namespace, pod, container=container or None, tail=LOG_LINES, max_bytes=LOG_BYTES
                )
                lines = [line async for line in found]
            self.logs[key] = [line[:500] for line in lines]

        await self._try(PODS, "pods/log", namespace, "get", read, what="pods/log")

    async def _try(
        self,
        kind: Resource,
        note: str,
        namespace: str | None,
        verb: str,
        read: Callable[[], Any],
        *,
        what: str = "",
        name: str = "",
    ) -> bool:
        """Whether it was read, or is known not to be there."""
        plural = what or kind.plural
        if self.requests >= self.budget and plural != "pods/log":
            words = f"{plural} were not read: a run makes at most {self.budget} requests."
            self.unread[note] = Unreadable(note, words, "Check one namespace at a time: vdi doctor --namespace.")
            return False
        self.requests += plural != "pods/log"
        try:
            await read()
        except NotFound as error:
            if error.api_missing and plural != "pods/log":
                self.absent.add(plural)
        except Forbidden as error:
            self.unread[note] = _forbidden(error, kind, plural, verb, namespace, note, name)
            return False
        except (ServerError, TooManyRequests, BadRequest, TimeoutError) as error:
            if plural == "pods/log":
                return False  # its container has not started, or its node does not answer: other checks say so
            self.unread[note] = Unreadable(note, f"{plural} cannot be read: {error}", "", (f"kubectl get {plural} -A",))
            return False
        return True


def _decoded(item: Any) -> Object:
    found: Object = msgspec.json.decode(item)
    return found


def _forbidden(
    error: ApiError, kind: Resource, plural: str, verb: str, namespace: str | None, note: str, name: str
) -> Unreadable:
    who = match[1] if (match := re.search(r'User "([^"]+)"', error.message)) else UNKNOWN_ACCOUNT
    where = f"in namespace {namespace}" if namespace else "in all namespaces" if kind.namespaced else "in the cluster"
    group = f".{kind.group}" if kind.group else ""
    resource = f"{kind.plural}{group}{plural.removeprefix(kind.plural)}"
    # A role for all Secrets of a namespace would be for the desktops' passwords, too.
    one = name if kind is SECRETS else ""
    return Unreadable(
        note,
        f"{who} may not {verb} {plural}{group} {where}.",
        f"Create this role, and bind it to {who}.",
        grant_commands("vdi-doctor", who, verb, resource, namespace=namespace or "", resource_name=one),
    )
