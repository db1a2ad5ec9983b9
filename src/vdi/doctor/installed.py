"""Reads of Helm's record of our releases, and of the objects in it, for
`vdi.doctor.objects.manifest`. Writes nothing.

A release's record holds its values, and with them passwords: only an administrator's own account
reads it, neither the gateway nor the CronJob.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from vdi.doctor.objects.components import gateways_in_scope, operators_in_scope
from vdi.doctor.objects.manifest import compare
from vdi.helm.releases import PENDING, Revision, decode_revision, deployed
from vdi.kube.errors import NotFound
from vdi.kube.resource import SECRETS, Resource
from vdi.kube.transport import Client
from vdi.snapshot.model import Difference, Snapshot

Object = dict[str, Any]
_INSTANCE = "app.kubernetes.io/instance"


def releases_of(snapshot: Snapshot) -> list[tuple[str, str]]:
    """Namespace and name of the Helm releases of operators and gateways in the scope."""
    ours = (*operators_in_scope(snapshot), *gateways_in_scope(snapshot))
    return sorted({(workload.namespace, workload.release) for workload in ours if workload.release})


async def read_differences(client: Client, namespace: str, name: str) -> list[Difference]:
    """Differences of a release's objects from its manifest; none while an upgrade is under way.
    Raises ApiError.
    """
    secrets = await client.list(
        SECRETS,
        namespace=namespace,
        label_selector=f"owner=helm,name={name},status notin (superseded,uninstalled)",
        into=Object,
    )
    revisions = sorted(map(decode_revision, secrets), key=lambda revision: -revision.version)
    revision = deployed(revisions)
    if revision is None or any(one.status in PENDING for one in revisions):
        return []
    by_kind: dict[tuple[str, str], list[Object]] = defaultdict(list)
    for desired in revision.objects():
        by_kind[desired["apiVersion"], desired["kind"]].append(desired)
    found = await asyncio.gather(
        *(_compare_kind(client, revision, objects) for objects in by_kind.values())
    )
    return [difference for differences in found for difference in differences]


async def _compare_kind(
    client: Client, revision: Revision, objects: list[Object]
) -> list[Difference]:
    release = f"{revision.namespace}/{revision.name}"
    rollback = f"helm rollback {revision.name} {revision.version} --namespace {revision.namespace}"
    if revision.apply_method == "ssa":
        rollback += " --force-conflicts"
    try:
        live = await _read_live(client, revision, objects)
    except NotFound:
        return []  # the API server does not know the kind: that is a finding of its own
    by_object = (
        compare(desired, live.get(_key(desired)), release, rollback) for desired in objects
    )
    return [difference for differences in by_object for difference in differences]


async def _read_live(
    client: Client, revision: Revision, objects: Iterable[Object]
) -> dict[tuple[str, str], Object]:
    """The objects of one kind that exist, in one request for all that have the release's label."""
    live: dict[tuple[str, str], Object] = {}
    labelled = []
    for one in objects:
        if _INSTANCE in (one["metadata"].get("labels") or {}):
            labelled.append(one)
    if labelled:
        selector = f"{_INSTANCE}={revision.name}"
        for obj in await client.list(_resource(labelled[0]), label_selector=selector, into=Object):
            live[_key(obj)] = obj
    for desired in objects:
        # Without the label, or the label was taken from it, or it does not exist.
        namespace, name = _key(desired)
        if (namespace, name) not in live:
            try:
                live[namespace, name] = await client.get(
                    _resource(desired), name, namespace=namespace or None, into=Object
                )
            except NotFound as error:
                if error.api_missing:
                    raise
    return live


def _key(obj: Object) -> tuple[str, str]:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _resource(obj: Object) -> Resource:
    """The kind of an object, with the plural that Kubernetes guesses, too. The chart names every
    namespace.
    """
    group, _, version = obj["apiVersion"].rpartition("/")
    kind = obj["kind"]
    plural = kind.lower()
    if plural.endswith("y"):
        plural = f"{plural[:-1]}ies"
    else:
        plural += "es" if plural.endswith("s") else "s"
    return Resource(group, version, plural, kind, namespaced=bool(obj["metadata"].get("namespace")))
