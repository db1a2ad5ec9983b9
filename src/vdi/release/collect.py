"""Collection of `Facts` for preflight and diff: renders the chart and asks the API server. Writes
nothing.

The release's objects are tried on the API server in a dry run: rights, admission, quotas and
schemas are then its own answer. Objects in a namespace or of a kind that the install itself makes
first cannot be tried before; neither can objects of a kind whose CRD gets new fields.
"""

import asyncio
import base64
import socket
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import msgspec

from vdi.api.meta import API_VERSION
from vdi.cluster.objects import Node
from vdi.cluster.units import format_time
from vdi.helm import arguments
from vdi.helm.arguments import Change
from vdi.helm.discovery import Kinds, api_versions, may, server_version
from vdi.helm.errors import HelmFailedError
from vdi.helm.releases import (
    FIELD_MANAGER,
    RELEASE_NAME,
    RELEASE_NAMESPACE,
    parse_manifest,
    read_revisions,
)
from vdi.helm.run import Helm, parse_version, run_helm
from vdi.kinds import POOLS, TEMPLATES
from vdi.kube.clock import SYSTEM_CLOCK
from vdi.kube.errors import ApiError, Forbidden, NotFound
from vdi.kube.resource import (
    CRDS,
    DAEMON_SETS,
    DEPLOYMENTS,
    NAMESPACES,
    NODES,
    SECRETS,
    STORAGE_CLASSES,
    Resource,
)
from vdi.kube.transport import Client
from vdi.kube.wire import decode
from vdi.release.chart import Chart
from vdi.release.diff import Object, is_hook, losses, read_crds
from vdi.release.facts import Facts, ForeignObject, Refusal, settings_of
from vdi.snapshot.certificate import read_certificate
from vdi.snapshot.model import Certificate, Snapshot
from vdi.snapshot.objects import Objects, read_object
from vdi.snapshot.objects.meta import Named
from vdi.snapshot.reader import Reader

_EVERYTHING = Resource("*", "*", "*", "*", namespaced=False)
# Rights that Helm needs for each object of a release.
_VERBS = ("get", "create", "patch", "delete")
_DNS_SECONDS = 3.0
# Failures of Helm 4, which compares with the cluster while it renders: preflight reports all of
# these at once.
_LEFT_TO_PREFLIGHT = frozenset({"NotOurs", "UnknownKind"})
# Kinds of ours that the chart makes objects of.
_OWN = (TEMPLATES.kind, POOLS.kind)


async def collect_facts(client: Client, helm: Helm, chart: Chart, change: Change) -> Facts:
    """Everything that preflight and diff look at. Raises HelmFailedError, KubeError."""
    release, namespace = change.release, change.place.namespace
    revisions, kubernetes = await asyncio.gather(
        read_revisions(client, namespace, release), server_version(client)
    )
    rendered = await render(client, helm, change, kubernetes, is_upgrade=bool(revisions))
    objects = tuple(obj for obj in rendered if not is_hook(obj))
    settings = settings_of(objects)
    tls = settings.cluster.tls_secret
    if settings.cluster.edge_middleware:
        where = {namespace}
    else:
        where = {*settings.namespaces}
    # A name that does not resolve takes seconds: the API server is asked meanwhile.
    names = asyncio.create_task(look_up(settings.cluster.domain))
    spaces = {namespace, *settings.namespaces, *map(_namespace, objects)} - {""}
    desired = read_crds(objects)
    collector = _Collector(client, change)
    await asyncio.gather(
        collector.find_kinds(objects),
        *(collector.all_of(kind) for kind in (DEPLOYMENTS, DAEMON_SETS, NODES, STORAGE_CLASSES)),
        *(collector.one(NAMESPACES, name, note=f"namespaces {name}") for name in spaces),
        *(collector.one(CRDS, crd.metadata.name) for crd in desired),
        *(collector.read_secrets(space, tls if tls and space in where else "") for space in spaces),
    )
    facts = Facts(
        helm=helm,
        chart=chart,
        server=client.config.server,
        kubernetes=kubernetes,
        release=release,
        place=change.place,
        revisions=tuple(revisions),
        objects=objects,
        hooks=tuple(filter(is_hook, rendered)),
        snapshot=collector.snapshot(),
        namespaces=tuple(sorted(spaces)),
        unknown=frozenset(
            kind for kind, resource in collector.resources.items() if resource is None
        ),
        lacking=await collector.lacking(objects),
        node_images=frozenset(collector.node_images),
        traefik_known=await collector.kinds.find("traefik.io/v1alpha1", "IngressRoute") is not None,
        secrets=collector.secrets,
        names=await names,
    )
    collector.new_namespaces = frozenset(facts.new_namespaces)
    # The cluster's CRD would refuse or drop the new fields: the dry run can say nothing of such
    # objects.
    crds = facts.snapshot.objects.customresourcedefinitions
    extended = {crd.spec.names.kind for crd in desired if losses([crd], crds)}
    tried = [obj for obj in objects if obj["kind"] not in extended]
    return replace(
        facts,
        refusals=await collector.refusals(tried),
        foreign=await collector.foreign(objects),
    )


async def render(
    client: Client, helm: Helm, change: Change, kubernetes: str, *, is_upgrade: bool
) -> tuple[Object, ...]:
    """Render the chart with these values for this cluster: its objects and hooks. Raises
    HelmFailedError or KubeError.

    Objects of our own kinds are among them also where the cluster does not know those kinds yet:
    the CRDs come first.
    """
    version = parse_version(kubernetes) or (1, 30, 0)
    apis = (*await api_versions(client), *(f"{API_VERSION}/{kind}" for kind in _OWN))

    async def template(*, lookups: bool) -> Sequence[Object]:
        command = arguments.template(
            change,
            kubernetes=".".join(map(str, version)),
            apis=apis,
            is_upgrade=is_upgrade,
            lookups=lookups,
        )
        output = await run_helm(helm, command, stdin=change.values.stdin)
        return parse_manifest(output.stdout)

    try:
        objects = await template(lookups=True)
    except HelmFailedError as error:
        if error.failure.code not in _LEFT_TO_PREFLIGHT:
            raise
        objects = await template(lookups=False)
    kinds = Kinds(client)
    if all([await kinds.find(API_VERSION, kind) for kind in _OWN]):
        return tuple(objects)
    # Helm 4 believes `--api-versions` only without lookups, so a second run renders what the first
    # has left out.
    late = [obj for obj in await template(lookups=False) if obj["apiVersion"] == API_VERSION]
    known = {(obj["kind"], obj["metadata"]["name"]) for obj in objects}
    return (*objects, *(obj for obj in late if (obj["kind"], obj["metadata"]["name"]) not in known))


class _Secret(Named):
    data: dict[str, str] = msgspec.field(default_factory=dict)


class _Collector(Reader):
    def __init__(self, client: Client, change: Change) -> None:
        super().__init__(client, "vdi-install", decode=self._decode)
        self._owner = change.place.namespace, change.release
        self._namespace = change.place.namespace
        self.kinds = Kinds(client)
        # By (apiVersion, kind); None: the API server does not know the kind.
        self.resources: dict[tuple[str, str], Resource | None] = {}
        self.new_namespaces: frozenset[str] = frozenset()
        self.node_images: set[str] = set()
        self.secrets: dict[str, dict[str, frozenset[str]]] = {}
        self.certificates: list[Certificate] = []

    def _decode(self, plural: str, item: msgspec.Raw) -> Any:
        if plural == NODES.plural:
            for image in decode(item, Node, plural).status.images:
                self.node_images.update(image.names or ())
        return read_object(plural, item)

    def snapshot(self) -> Snapshot:
        """The cluster as far as it was read."""
        certificates = sorted(self.certificates, key=lambda certificate: certificate.namespace)
        unread = sorted(self.unread.values(), key=lambda unread: unread.kind)
        return Snapshot(
            taken_at=format_time(SYSTEM_CLOCK.now()),
            objects=Objects(**self.objects),
            certificates=tuple(certificates),
            unread=tuple(unread),
        )

    async def find_kinds(self, objects: Iterable[Object]) -> None:
        """Fill `resources` for these objects."""
        for version, kind in sorted({(obj["apiVersion"], obj["kind"]) for obj in objects}):
            self.resources[version, kind] = await self.kinds.find(version, kind)

    async def lacking(self, objects: Iterable[Object]) -> tuple[str, ...]:
        """Rights that Helm would miss."""
        # One question for a cluster administrator, in the place of four for each kind and
        # namespace.
        if await may(self.client, "*", _EVERYTHING, None):
            return ()
        desired = {(SECRETS, self._namespace)}
        for obj in objects:
            resource = self.resources[obj["apiVersion"], obj["kind"]]
            if resource is not None:
                desired.add((resource, self._space_of(obj, resource) or ""))
        questions = list(product(sorted(desired, key=str), _VERBS))
        answers = await asyncio.gather(
            *(may(self.client, verb, kind, where) for (kind, where), verb in questions)
        )
        lacking = []
        for ((kind, where), verb), allowed in zip(questions, answers, strict=True):
            if not allowed:
                group = f".{kind.group}" if kind.group else ""
                place = f" -n {where}" if where else ""
                lacking.append(f"{verb} {kind.plural}{group}{place}")
        return tuple(lacking)

    def _space_of(self, obj: Object, resource: Resource) -> str | None:
        if resource.namespaced:
            return _namespace(obj) or self._namespace
        return None

    def _target(self, obj: Object) -> tuple[Resource, str | None] | None:
        """Kind and namespace of an object; None: the install itself makes one of them first."""
        resource = self.resources[obj["apiVersion"], obj["kind"]]
        if resource is None:
            return None
        where = self._space_of(obj, resource)
        if where in self.new_namespaces:
            return None
        return (resource, where)

    async def refusals(self, objects: Iterable[Object]) -> tuple[Refusal, ...]:
        """The API server's refusals of objects that can be tried before the install itself."""
        async with Client(self.client.config, field_manager=FIELD_MANAGER) as client:

            async def attempt(obj: Object) -> Refusal | None:
                if (target := self._target(obj)) is None:
                    return None
                (resource, where), name = target, obj["metadata"]["name"]
                try:
                    await client.apply(
                        resource, name, obj, namespace=where, dry_run=True, into=msgspec.Raw
                    )
                except ApiError as error:
                    shown = f"{obj['kind']} {where + '/' if where else ''}{name}"
                    return Refusal(shown, error.reason or type(error).__name__, error.message)
                return None

            answers = await asyncio.gather(*map(attempt, objects))
        return tuple(refusal for refusal in answers if refusal)

    async def foreign(self, objects: Iterable[Object]) -> tuple[ForeignObject, ...]:
        """Objects that are there and belong to no release, or to another one."""

        async def look(obj: Object) -> ForeignObject | None:
            if (target := self._target(obj)) is None:
                return None
            (resource, where), name = target, obj["metadata"]["name"]
            try:
                existing = await self.client.get(resource, name, namespace=where, into=Named)
            except (NotFound, Forbidden):
                return None
            notes = existing.metadata.annotations
            owner = notes.get(RELEASE_NAMESPACE, ""), notes.get(RELEASE_NAME, "")
            if owner == self._owner:
                return None
            return ForeignObject(
                obj["kind"], where or "", name, "/".join(owner) if all(owner) else ""
            )

        answers = await asyncio.gather(*map(look, objects))
        return tuple(foreign for foreign in answers if foreign)

    async def read_secrets(self, namespace: str, tls: str) -> None:
        """Note names of Secrets and of their keys, and the certificate in the one for TLS, if a name
        is given. Their content is dropped at once.
        """

        async def read() -> None:
            secrets = await self.client.list(SECRETS, namespace=namespace, into=_Secret)
            self.secrets[namespace] = {
                secret.metadata.name: frozenset(secret.data) for secret in secrets
            }
            certificate = Certificate(namespace=namespace, secret=tls, problem="missing")
            for secret in secrets:
                if secret.metadata.name == tls:
                    pem = base64.b64decode(secret.data.get("tls.crt", ""))
                    certificate = read_certificate(namespace, tls, pem)
            if tls:
                self.certificates.append(certificate)

        note = f"{SECRETS.plural} {namespace}"
        await self.attempt(SECRETS, read, verb="list", namespace=namespace, note=note)


async def look_up(domain: str) -> dict[str, str]:
    """Host names of portal and desktops -> why this machine cannot resolve them; empty: it can."""
    if domain == "localhost" or domain.endswith(".localhost"):
        return {}  # browsers resolve it themselves
    loop, errors = asyncio.get_running_loop(), {}
    for host in (f"portal.{domain}", f"any-desktop.{domain}"):
        try:
            async with asyncio.timeout(_DNS_SECONDS):
                await loop.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
            errors[host] = ""
        except (OSError, TimeoutError, UnicodeError) as error:
            errors[host] = getattr(error, "strerror", None) or str(error) or "no answer"
    return errors


def _namespace(obj: Object) -> str:
    return str(obj["metadata"].get("namespace") or "")
