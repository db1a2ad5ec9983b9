"""Our kinds, a garbage collector that knows them, and namespaces: what tests on a control plane
begin with.
"""

import os
import signal
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec

from support.waiting import eventually
from vdi.api.crd import build_crds
from vdi.devcluster import cluster
from vdi.kinds import ROUTES, SESSIONS
from vdi.kube.errors import NotFound
from vdi.kube.resource import (
    CLAIMS,
    CONFIG_MAPS,
    CRDS,
    DAEMON_SETS,
    DEPLOYMENTS,
    JOBS,
    NAMESPACES,
    PODS,
    SERVICES,
    STATEFUL_SETS,
    Resource,
)
from vdi.kube.transport import Client

SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
# Owners before what they own.
_AT_WORK = (
    SESSIONS,
    DEPLOYMENTS,
    STATEFUL_SETS,
    DAEMON_SETS,
    Resource("apps", "v1", "replicasets", "ReplicaSet"),
    Resource("batch", "v1", "cronjobs", "CronJob"),
    JOBS,
    PODS,
    CLAIMS,
    SERVICES,
    ROUTES,
)


async def install_crds(api: Client) -> None:
    """Ours, as generated; return when they are served. Traefik's come with the control plane."""
    for crd in build_crds():
        await api.apply(CRDS, crd["metadata"]["name"], crd, into=msgspec.Raw)
    for crd in build_crds():
        await eventually(
            partial(_is_served, api, crd["spec"]), f"{crd['metadata']['name']} is served"
        )


async def _is_served(api: Client, spec: dict[str, Any]) -> bool:
    kind = Resource(
        spec["group"], spec["versions"][0]["name"], spec["names"]["plural"], spec["names"]["kind"]
    )
    try:
        await api.list(kind, into=msgspec.Raw)
    except NotFound:
        return False
    return True


async def restart_garbage_collector(name: str, api: Client) -> None:
    """Return when it deletes what our kinds own.

    It looks for new kinds at its start and then every 30 s; until then it does not know which
    objects are orphans.
    """
    (manager,) = (
        component
        for component in cluster.status(name).components
        if component.name == "kube-controller-manager"
    )
    os.kill(manager.pid, signal.SIGKILL)  # the supervisor starts it again
    kind = {"apiVersion": SESSIONS.api_version, "kind": SESSIONS.kind}
    spec = {"user": "alice@example.com", "template": "none"}
    session = {**kind, "metadata": {"name": "probe"}, "spec": spec}
    owner = await api.create(SESSIONS, session, namespace="default", into=dict)
    reference = {**kind, "name": "probe", "uid": owner["metadata"]["uid"]}
    child = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "probe", "ownerReferences": [reference]},
    }
    await api.create(CONFIG_MAPS, child, namespace="default", into=msgspec.Raw)
    await api.delete(SESSIONS, "probe", namespace="default", into=msgspec.Raw)

    async def is_gone() -> bool:
        try:
            await api.get(CONFIG_MAPS, "probe", namespace="default", into=msgspec.Raw)
        except NotFound:
            return True
        return False

    await eventually(is_gone, "the garbage collector deletes a child of a session", 75)


async def make_namespace(api: Client, name: str) -> None:
    """Return when pods can be made in it, which needs the default service account.

    After a test that kills the API server that takes a while: the controller manager gives up after
    10 s, and the next one waits until the Lease of the last has run out, 15 s, and for its first
    lists.
    """
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    await api.create(NAMESPACES, body, into=msgspec.Raw)

    async def has_account() -> bool:
        try:
            await api.get(SERVICE_ACCOUNTS, "default", namespace=name, into=msgspec.Raw)
        except NotFound:
            return False
        return True

    await eventually(has_account, f"namespace {name} has its default service account", 75)


async def empty_namespace(api: Client, name: str) -> None:
    """Delete what is in it and has controllers at work or takes room; pods at once, others without
    waiting.

    The namespace stays until the control plane goes. To delete one, Kubernetes goes through every
    kind that there is, which takes 0.3 s of CPU.
    """
    for kind in _AT_WORK:
        with suppress(NotFound):  # a kind that the test has removed
            for found in await api.list(kind, namespace=name, into=dict):
                await _delete(api, kind, found["metadata"]["name"], name)


async def _delete(api: Client, kind: Resource, name: str, namespace: str) -> None:
    with suppress(NotFound):
        await api.delete(kind, name, namespace=namespace, grace_seconds=0, into=msgspec.Raw)
