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
from typing import Any

import msgspec

from vdi.api.meta import API_VERSION, ObjectMeta
from vdi.cluster.objects import Node
from vdi.doctor.objects.components import Workload, traefiks_among
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
from vdi.kube.errors import ApiError, Forbidden, KubeError, NotFound
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
from vdi.release.chart import Chart
from vdi.release.diff import Object, crds_of, is_hook, losses
from vdi.release.facts import Facts, ForeignObject, Refusal, settings_of
from vdi.snapshot.certificate import read_certificate
from vdi.snapshot.model import Certificate, Unreadable
from vdi.snapshot.objects.workloads import WorkloadObject

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
    where = {namespace} if settings.cluster.edge_middleware else {*settings.namespaces}
    # A name that does not resolve takes seconds: the API server is asked meanwhile.
    names = asyncio.create_task(look_up(settings.cluster.domain))
    collector = _Collector(client, change)
    await collector.find_kinds(objects)
    await collector.find_namespaces(
        [namespace, *settings.namespaces, *(_namespace(obj) for obj in objects)]
    )
    spaces = collector.namespaces
    secrets = {
        space: keys for space in spaces if (keys := await collector.secrets(space)) is not None
    }
    desired = crds_of(objects)
    crds = await collector.crds(desired)
    # The cluster's CRD would refuse or drop the new fields: the dry run can say nothing of such
    # objects.
    extended = {crd["spec"]["names"]["kind"] for crd in desired if losses([crd], crds)}
    workloads = [
        Workload(kind.kind.lower(), workload)
        for kind in (DEPLOYMENTS, DAEMON_SETS)
        for workload in await collector.try_list(kind, WorkloadObject)
    ]
    return Facts(
        helm=helm,
        chart=chart,
        server=client.config.server,
        kubernetes=kubernetes,
        release=release,
        place=change.place,
        revisions=tuple(revisions),
        objects=objects,
        hooks=tuple(filter(is_hook, rendered)),
        crds=crds,
        namespaces=spaces,
        unknown=frozenset(
            kind for kind, resource in collector.resources.items() if resource is None
        ),
        lacking=await collector.lacking(objects),
        nodes=tuple(await collector.try_list(NODES, Node)),
        traefiks=traefiks_among(workloads),
        traefik_known=await collector.kinds.find("traefik.io/v1alpha1", "IngressRoute") is not None,
        classes=tuple(await collector.try_list(STORAGE_CLASSES, dict[str, Any])),
        secrets=secrets,
        certificates=await collector.certificates(tls, where) if tls else (),
        names=await names,
        refusals=await collector.refusals([obj for obj in objects if obj["kind"] not in extended]),
        foreign=await collector.foreign(objects),
        unread=tuple(collector.unread),
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
        words = arguments.template(
            change,
            kubernetes=".".join(map(str, version)),
            apis=apis,
            is_upgrade=is_upgrade,
            lookups=lookups,
        )
        output = await run_helm(helm, words, stdin=change.values.stdin)
        return parse_manifest(output.stdout)

    try:
        found = await template(lookups=True)
    except HelmFailedError as error:
        if error.failure.code not in _LEFT_TO_PREFLIGHT:
            raise
        found = await template(lookups=False)
    kinds = Kinds(client)
    if all([await kinds.find(API_VERSION, kind) for kind in _OWN]):
        return tuple(found)
    # Helm 4 believes `--api-versions` only without lookups, so a second run renders what the first
    # has left out.
    late = [obj for obj in await template(lookups=False) if obj["apiVersion"] == API_VERSION]
    known = {(obj["kind"], obj["metadata"]["name"]) for obj in found}
    return (*found, *(obj for obj in late if (obj["kind"], obj["metadata"]["name"]) not in known))


class _Secret(msgspec.Struct):
    metadata: ObjectMeta
    data: dict[str, msgspec.Raw] | None = None


class _Collector:
    """Reads for one release, and notes what this account may not read."""

    def __init__(self, client: Client, change: Change) -> None:
        self._client = client
        self._owner = change.place.namespace, change.release
        self._namespace = change.place.namespace
        self.kinds = Kinds(client)
        # By (apiVersion, kind); None: the API server does not know the kind.
        self.resources: dict[tuple[str, str], Resource | None] = {}
        # None: the namespace does not exist yet.
        self.namespaces: dict[str, Object | None] = {}
        self.unread: list[Unreadable] = []

    async def find_kinds(self, objects: Iterable[Object]) -> None:
        """Fill `resources` for these objects."""
        for version, kind in sorted({(obj["apiVersion"], obj["kind"]) for obj in objects}):
            self.resources[version, kind] = await self.kinds.find(version, kind)

    async def find_namespaces(self, names: Iterable[str]) -> None:
        """Fill `namespaces` for these names."""
        ordered = sorted({*names} - {""})
        self.namespaces = dict(
            zip(ordered, await asyncio.gather(*map(self._namespace_of, ordered)), strict=True)
        )

    async def _namespace_of(self, name: str) -> Object | None:
        try:
            return await self._client.get(NAMESPACES, name, into=dict[str, Any])
        except NotFound:
            return None
        except Forbidden as error:
            self.unread.append(Unreadable(f"namespaces {name}", error.message))
            return {"metadata": {"name": name}}

    async def try_list(self, resource: Resource, into: Any) -> list[Any]:
        """All objects of a kind; empty where this account may not list them."""
        try:
            return await self._client.list(resource, into=into)
        except Forbidden as error:
            self.unread.append(Unreadable(resource.plural, error.message))
            return []

    async def crds(self, desired: Sequence[Object]) -> tuple[Object, ...]:
        """The cluster's own versions of the chart's CRDs."""
        found = []
        for crd in desired:
            try:
                found.append(
                    await self._client.get(CRDS, crd["metadata"]["name"], into=dict[str, Any])
                )
            except NotFound:
                continue
            except Forbidden as error:
                self.unread.append(
                    Unreadable(f"{CRDS.plural} {crd['metadata']['name']}", error.message)
                )
        return tuple(found)

    async def lacking(self, objects: Iterable[Object]) -> tuple[str, ...]:
        """Rights that Helm would miss."""
        # One question for a cluster administrator, in the place of four for each kind and
        # namespace.
        if await may(self._client, "*", _EVERYTHING, None):
            return ()
        desired = {(SECRETS, self._namespace)}
        for obj in objects:
            resource = self.resources[obj["apiVersion"], obj["kind"]]
            if resource is not None:
                desired.add((resource, self._space_of(obj, resource) or ""))
        questions = [
            (verb, kind, where) for kind, where in sorted(desired, key=str) for verb in _VERBS
        ]
        answers = await asyncio.gather(
            *(may(self._client, verb, kind, where) for verb, kind, where in questions)
        )
        return tuple(
            f"{verb} {kind.plural}{'.' + kind.group if kind.group else ''}"
            + (f" -n {where}" if where else "")
            for (verb, kind, where), allowed in zip(questions, answers, strict=True)
            if not allowed
        )

    def _space_of(self, obj: Object, resource: Resource) -> str | None:
        return (_namespace(obj) or self._namespace) if resource.namespaced else None

    def _target(self, obj: Object) -> tuple[Resource, str | None] | None:
        """Kind and namespace of an object; None: the install itself makes one of them first."""
        resource = self.resources[obj["apiVersion"], obj["kind"]]
        if resource is None:
            return None
        where = self._space_of(obj, resource)
        return None if where and self.namespaces.get(where) is None else (resource, where)

    async def refusals(self, objects: Iterable[Object]) -> tuple[Refusal, ...]:
        """The API server's refusals of objects that can be tried before the install itself."""
        async with Client(self._client.config, field_manager=FIELD_MANAGER) as client:

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

            found = await asyncio.gather(*map(attempt, objects))
        return tuple(refusal for refusal in found if refusal)

    async def foreign(self, objects: Iterable[Object]) -> tuple[ForeignObject, ...]:
        """Objects that are there and belong to no release, or to another one."""

        async def look(obj: Object) -> ForeignObject | None:
            if (target := self._target(obj)) is None:
                return None
            (resource, where), name = target, obj["metadata"]["name"]
            try:
                found = await self._client.get(resource, name, namespace=where, into=dict[str, Any])
            except (NotFound, Forbidden):
                return None
            notes = found["metadata"].get("annotations") or {}
            owner = notes.get(RELEASE_NAMESPACE, ""), notes.get(RELEASE_NAME, "")
            if owner == self._owner:
                return None
            return ForeignObject(
                obj["kind"], where or "", name, "/".join(owner) if all(owner) else ""
            )

        found = await asyncio.gather(*map(look, objects))
        return tuple(foreign for foreign in found if foreign)

    async def secrets(self, namespace: str) -> dict[str, frozenset[str]] | None:
        """Names of Secrets and of their keys; their content is dropped at once."""
        try:
            found = await self._client.list(SECRETS, namespace=namespace, into=_Secret)
        except Forbidden as error:
            self.unread.append(Unreadable(f"{SECRETS.plural} {namespace}", error.message))
            return None
        return {secret.metadata.name: frozenset(secret.data or ()) for secret in found}

    async def certificates(self, name: str, namespaces: Iterable[str]) -> tuple[Certificate, ...]:
        """The public part of this TLS Secret in each of the namespaces."""
        found = []
        for namespace in sorted(namespaces):
            try:
                secret = await self._client.get(
                    SECRETS, name, namespace=namespace, into=dict[str, Any]
                )
                pem = base64.b64decode((secret.get("data") or {}).get("tls.crt", ""))
                found.append(read_certificate(namespace, name, pem))
            except NotFound:
                found.append(Certificate(namespace=namespace, secret=name, problem="missing"))
            except KubeError as error:
                self.unread.append(Unreadable(f"{SECRETS.plural} {namespace}/{name}", str(error)))
        return tuple(found)


async def look_up(domain: str) -> dict[str, str]:
    """Host names of portal and desktops -> why this machine cannot resolve them; empty: it can."""
    if domain == "localhost" or domain.endswith(".localhost"):
        return {}  # browsers resolve it themselves
    loop, found = asyncio.get_running_loop(), {}
    for host in (f"portal.{domain}", f"any-desktop.{domain}"):
        try:
            async with asyncio.timeout(_DNS_SECONDS):
                await loop.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
            found[host] = ""
        except (OSError, TimeoutError, UnicodeError) as error:
            found[host] = getattr(error, "strerror", None) or str(error) or "no answer"
    return found


def _namespace(obj: Object) -> str:
    return str(obj["metadata"].get("namespace") or "")
