"""Collection of `Facts` for preflight and diff: renders the chart and asks the API server. Writes nothing.

The release's objects are tried on the API server in a dry run: rights, admission, quotas and schemas are then its own
answer. Objects in a namespace or of a kind that the install itself makes first cannot be tried before; neither can
objects of a kind whose CRD gets new fields.
"""

import asyncio
import base64
import socket
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from vdi.api.meta import API_VERSION
from vdi.cluster.objects import Node
from vdi.diagnosis.snapshot import Certificate, Snapshot
from vdi.doctor.objects.components import Traefik, find_traefiks
from vdi.doctor.objects.references import read_certificate
from vdi.helm import arguments
from vdi.helm.arguments import Change
from vdi.helm.discovery import Kinds, api_versions, may, server_version
from vdi.helm.errors import HelmFailedError
from vdi.helm.releases import RELEASE_NAME, RELEASE_NAMESPACE, parse_manifest, read_revisions
from vdi.helm.run import Helm, parse_version, run_helm
from vdi.kinds import POOLS, TEMPLATES
from vdi.kube.errors import ApiError, Forbidden, KubeError, NotFound
from vdi.kube.resource import CRDS, DAEMON_SETS, DEPLOYMENTS, NAMESPACES, NODES, SECRETS, STORAGE_CLASSES, Resource
from vdi.kube.transport import Client
from vdi.release.apply import HELM_MANAGER, crds_of, losses
from vdi.release.chart import Chart
from vdi.release.diff import is_hook
from vdi.release.facts import Facts, Object, Refusal, Stranger, Unreadable, settings_of

_EVERYTHING = Resource("*", "*", "*", "*", namespaced=False)
# What Helm does with each object of a release.
_VERBS = ("get", "create", "patch", "delete")

_DNS_SECONDS = 3.0
# Failures of Helm 4, which compares with the cluster while it renders: preflight says all of these at once.
_SAID_BY_PREFLIGHT = frozenset({"NotOurs", "UnknownKind"})
# Kinds of ours that the chart makes objects of.
_OWN = (TEMPLATES.kind, POOLS.kind)


async def render(client: Client, helm: Helm, change: Change, *, is_upgrade: bool) -> tuple[Object, ...]:
    """Render the chart with these values for this cluster: its objects and hooks. Raises HelmFailedError or KubeError.

    Objects of our own kinds are among them also where the cluster does not know those kinds yet: the CRDs come first.
    """
    version = parse_version(await server_version(client))
    kubernetes = ".".join(map(str, version)) if version else "1.30.0"
    there = await api_versions(client)

    async def template(apis: tuple[str, ...], *, lookups: bool) -> Sequence[Object]:
        words = arguments.template(change, kubernetes=kubernetes, apis=apis, is_upgrade=is_upgrade, lookups=lookups)
        output = await run_helm(helm, words, stdin=change.values.stdin)
        return parse_manifest(output.stdout)

    apis = (*there, *(f"{API_VERSION}/{kind}" for kind in _OWN))
    try:
        found = await template(apis, lookups=True)
    except HelmFailedError as error:
        if error.failure.code not in _SAID_BY_PREFLIGHT:
            raise
        found = await template(apis, lookups=False)
    kinds = Kinds(client)
    if all([await kinds.find(API_VERSION, kind) for kind in _OWN]):
        return tuple(found)
    late = [obj for obj in await template(apis, lookups=False) if obj["apiVersion"] == API_VERSION]
    known = {(obj["kind"], obj["metadata"]["name"]) for obj in found}
    return (*found, *(obj for obj in late if (obj["kind"], obj["metadata"]["name"]) not in known))


async def collect_facts(client: Client, helm: Helm, chart: Chart, change: Change) -> Facts:
    """Everything that preflight and diff look at. Raises HelmFailedError, KubeError."""
    release, namespace = change.release, change.place.namespace
    revisions, kubernetes = await asyncio.gather(read_revisions(client, namespace, release), server_version(client))
    rendered = await render(client, helm, change, is_upgrade=bool(revisions))
    objects = tuple(obj for obj in rendered if not is_hook(obj))
    reading = _Reading(client, namespace)
    settings = settings_of(objects)
    tls = settings.cluster.tls_secret
    where = {namespace} if settings.cluster.edge_middleware else {*settings.namespaces}
    spaces = sorted({namespace, *settings.namespaces, *(_space(obj) for obj in objects)} - {""})
    resources = await reading.resources(objects)
    there = dict(zip(spaces, await asyncio.gather(*map(reading.namespace_of, spaces)), strict=True))
    names = asyncio.create_task(look_up(settings.cluster.domain))
    secrets = {space: keys for space in spaces if (keys := await reading.secrets(space)) is not None}
    desired = crds_of(objects)
    crds = await reading.crds(desired)
    extended = {crd["spec"]["names"]["kind"] for crd in desired if losses([crd], crds)}
    tried = [obj for obj in objects if obj["kind"] not in extended]
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
        namespaces=there,
        unknown=frozenset(kind for kind, resource in resources.items() if resource is None),
        lacking=await reading.lacking(objects, resources),
        nodes=tuple(await reading.try_list(NODES, Node)),
        traefiks=await reading.traefiks(),
        traefik_known=await Kinds(client).find("traefik.io/v1alpha1", "IngressRoute") is not None,
        classes=tuple(await reading.try_list(STORAGE_CLASSES, dict[str, Any])),
        secrets=secrets,
        certificates=await reading.certificates(tls, where) if tls else (),
        names=await names,
        refusals=await reading.refusals(tried, resources, there),
        strangers=await reading.strangers(objects, resources, there, change),
        unread=tuple(reading.unread),
    )


class _Reading:
    """Reads, and notes what it may not."""

    def __init__(self, client: Client, namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self.unread: list[Unreadable] = []

    async def resources(self, objects: Iterable[Object]) -> dict[tuple[str, str], Resource | None]:
        """The kinds of these objects, by apiVersion and kind."""
        kinds, found = Kinds(self._client), dict[tuple[str, str], Resource | None]()
        for version, kind in sorted({(obj["apiVersion"], obj["kind"]) for obj in objects}):
            found[version, kind] = await kinds.find(version, kind)
        return found

    async def namespace_of(self, name: str) -> Object | None:
        try:
            return await self._client.get(NAMESPACES, name, into=dict[str, Any])
        except NotFound:
            return None
        except Forbidden as error:
            self.unread.append(Unreadable("namespaces", error.message, name))
            return {"metadata": {"name": name}}

    async def try_list(self, resource: Resource, into: Any) -> list[Any]:
        try:
            return await self._client.list(resource, into=into)
        except Forbidden as error:
            self.unread.append(Unreadable(resource.plural, error.message))
            return []

    async def traefiks(self) -> tuple[Traefik, ...]:
        """Workloads that run Traefik, anywhere."""
        found = {}
        for kind in (DEPLOYMENTS, DAEMON_SETS):
            found[kind.plural] = await self.try_list(kind, dict[str, Any])
        return find_traefiks(Snapshot(taken_at="1970-01-01T00:00:00Z", objects=found))

    async def crds(self, desired: Sequence[Object]) -> tuple[Object, ...]:
        """Those of the chart's CRDs that the cluster has already, as it has them."""
        found = []
        for crd in desired:
            try:
                found.append(await self._client.get(CRDS, crd["metadata"]["name"], into=dict[str, Any]))
            except NotFound:
                continue
            except Forbidden as error:
                self.unread.append(Unreadable(CRDS.plural, error.message, crd["metadata"]["name"]))
        return tuple(found)

    async def lacking(
        self, objects: Iterable[Object], resources: dict[tuple[str, str], Resource | None]
    ) -> tuple[str, ...]:
        """Rights that Helm would miss."""
        if await may(self._client, "*", _EVERYTHING, None):
            return ()
        desired = {(SECRETS, self._namespace)}
        for obj in objects:
            resource = resources[obj["apiVersion"], obj["kind"]]
            if resource is not None:
                desired.add((resource, self._space_of(obj, resource) or ""))
        questions = [(verb, kind, where) for kind, where in sorted(desired, key=str) for verb in _VERBS]
        answers = await asyncio.gather(*(may(self._client, verb, kind, where) for verb, kind, where in questions))
        return tuple(
            f"{verb} {kind.plural}{'.' + kind.group if kind.group else ''}" + (f" -n {where}" if where else "")
            for (verb, kind, where), allowed in zip(questions, answers, strict=True)
            if not allowed
        )

    def _space_of(self, obj: Object, resource: Resource) -> str | None:
        return (obj["metadata"].get("namespace") or self._namespace) if resource.namespaced else None

    async def refusals(
        self,
        objects: Iterable[Object],
        resources: dict[tuple[str, str], Resource | None],
        spaces: dict[str, Object | None],
    ) -> tuple[Refusal, ...]:
        """What the API server would not take, of what can be tried before the install itself."""
        async with Client(self._client.config, field_manager=HELM_MANAGER) as client:

            async def attempt(obj: Object) -> Refusal | None:
                resource, meta = resources[obj["apiVersion"], obj["kind"]], obj["metadata"]
                where = self._space_of(obj, resource) if resource else None
                if resource is None or (where and spaces.get(where) is None):
                    return None
                try:
                    await client.apply(resource, meta["name"], obj, namespace=where, dry_run=True, into=msgspec.Raw)
                except ApiError as error:
                    name = f"{obj['kind']} {where + '/' if where else ''}{meta['name']}"
                    return Refusal(name, error.reason or type(error).__name__, error.message)
                return None

            found = await asyncio.gather(*map(attempt, objects))
        return tuple(refusal for refusal in found if refusal)

    async def strangers(
        self,
        objects: Iterable[Object],
        resources: dict[tuple[str, str], Resource | None],
        spaces: dict[str, Object | None],
        change: Change,
    ) -> tuple[Stranger, ...]:
        """Objects that are there and belong to no release, or to another one."""

        async def look(obj: Object) -> Stranger | None:
            resource, name = resources[obj["apiVersion"], obj["kind"]], obj["metadata"]["name"]
            where = self._space_of(obj, resource) if resource else None
            if resource is None or (where and spaces.get(where) is None):
                return None
            try:
                found = await self._client.get(resource, name, namespace=where, into=dict[str, Any])
            except (NotFound, Forbidden):
                return None
            notes = found["metadata"].get("annotations") or {}
            owner = notes.get(RELEASE_NAMESPACE, ""), notes.get(RELEASE_NAME, "")
            if owner == (change.place.namespace, change.release):
                return None
            return Stranger(obj["kind"], where or "", name, "/".join(owner) if all(owner) else "")

        found = await asyncio.gather(*map(look, objects))
        return tuple(stranger for stranger in found if stranger)

    async def secrets(self, namespace: str) -> dict[str, frozenset[str]] | None:
        """Names of Secrets and of their keys; their content is dropped at once."""
        try:
            found = await self._client.list(SECRETS, namespace=namespace, into=_Secret)
        except Forbidden as error:
            self.unread.append(Unreadable(SECRETS.plural, error.message, namespace))
            return None
        return {secret.metadata.name: frozenset(secret.data or ()) for secret in found}

    async def certificates(self, name: str, namespaces: Iterable[str]) -> tuple[Certificate, ...]:
        """The public part of this TLS Secret in each of the namespaces."""
        found = []
        for namespace in sorted(namespaces):
            try:
                secret = await self._client.get(SECRETS, name, namespace=namespace, into=dict[str, Any])
                pem = base64.b64decode((secret.get("data") or {}).get("tls.crt", ""))
                found.append(read_certificate(namespace, name, pem))
            except NotFound:
                found.append(Certificate(namespace=namespace, secret=name, problem="missing"))
            except KubeError as error:
                self.unread.append(Unreadable(SECRETS.plural, str(error), f"{namespace}/{name}"))
        return tuple(found)


class _Meta(msgspec.Struct):
    name: str


class _Secret(msgspec.Struct):
    metadata: _Meta
    data: dict[str, msgspec.Raw] | None = None


async def look_up(domain: str) -> dict[str, str]:
    """Whether portal and desktops have addresses, as this machine sees it."""
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


def _space(obj: Object) -> str:
    return str(obj["metadata"].get("namespace") or "")
