"""Removes a Kasm. Its data stay unless their deletion is requested, and what stays is listed."""

from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

import msgspec

from vdi.helm import arguments
from vdi.helm.discovery import Kinds
from vdi.helm.errors import HelmFailed, HelmInterrupted
from vdi.helm.place import Place
from vdi.helm.releases import Revision, deployed, read_revisions
from vdi.helm.run import run_helm
from vdi.kasm.errors import KasmFailedError, KasmRefusedError
from vdi.kasm.generations import Generation
from vdi.kasm.install.run import Running, generation_of_release, read_passwords
from vdi.kube.errors import NotFound
from vdi.kube.resource import CLAIMS, SECRETS, STATEFUL_SETS
from vdi.kube.transport import Client

Object = dict[str, Any]
_AGENT_API, _AGENT_KINDS = "agent.kasm.com/v1alpha1", ("KasmWorkspace", "Agent")
"""Objects of Kasm's agent, in the order in which they have to go: their finalizers are taken off by its operator."""


@dataclass(frozen=True, slots=True)
class Removal:
    """What there is of a release."""

    release: str
    namespace: str
    revision: Revision
    generation: Generation
    statefulsets: tuple[str, ...]
    """Those whose volumes would go with them (whenDeleted is Delete)."""
    claims: tuple[str, ...]
    secrets: tuple[str, ...]
    """Secrets that helm does not remove, since they are hooks."""
    agents: tuple[tuple[str, int], ...] = ()
    """Objects of Kasm's agent: plural, and how many."""


async def plan_removal(client: Client, release: str, namespace: str) -> Removal:
    """What is there. Raises KasmRefusedError where there is no such Kasm; KubeError."""
    revisions = await read_revisions(client, namespace, release)
    if not revisions:
        raise KasmRefusedError(f"there is no release {release} in namespace {namespace}; allowed: an existing one")
    revision = deployed(revisions) or revisions[0]
    generation = generation_of_release(revision)
    sets = await client.list(STATEFUL_SETS, namespace=namespace, into=Object)
    own = [one for one in sets if _is_of(one["spec"]["template"]["metadata"], generation, release)]
    claims = await client.list(CLAIMS, namespace=namespace, into=Object)
    secret = generation.secrets.format(release=release)
    return Removal(
        release,
        namespace,
        revision,
        generation,
        tuple(one["metadata"]["name"] for one in own if _deletes(one)),
        tuple(sorted(claim["metadata"]["name"] for claim in claims if _is_of(claim["metadata"], generation, release))),
        (secret,) if await read_passwords(client, namespace, secret) is not None else (),
        await _agents(client, namespace),
    )


def check_agents(removal: Removal, place: Place) -> None:
    """Raises KasmRefusedError where sessions or agents of Kasm's own operator are there: they would never go."""
    if not removal.agents:
        return
    found = ", ".join(f"{count} {plural}" for plural, count in removal.agents)
    commands = "; ".join(f"kubectl {place.options} delete {plural} --all" for plural, _ in removal.agents)
    raise KasmRefusedError(
        f"there are {found} in namespace {removal.namespace}, whose finalizers only Kasm's agent removes. Delete "
        f"them first, in this order: {commands}"
    )


async def remove(run: Running, removal: Removal, *, delete_data: bool) -> None:
    """helm uninstall; volumes stay unless `delete_data`. Raises KasmFailedError, KubeError."""
    if not delete_data:
        for name in removal.statefulsets:
            patch = {"spec": {"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain"}}}
            await run.client.patch(STATEFUL_SETS, name, patch, namespace=removal.namespace, into=msgspec.Raw)
            run.view.say(f"  StatefulSet {name}: its volume is kept (whenDeleted was Delete)")
        for name in removal.claims:
            await _keep(run.client, name, removal.namespace)
    began = monotonic()
    run.view.waiting("helm removes the release")
    try:
        words = arguments.uninstall(run.release, run.place, seconds=run.seconds)
        await run_helm(run.helm, [*words, *removal.generation.uninstall_options], say=run.view.say)
    except (HelmFailed, HelmInterrupted) as error:
        raise KasmFailedError(str(error), interrupted=isinstance(error, HelmInterrupted)) from error
    run.view.stage("helm uninstall", monotonic() - began)
    if delete_data:
        for name in removal.claims:
            await _delete(run.client, CLAIMS, name, removal.namespace)
        for name in removal.secrets:
            await _delete(run.client, SECRETS, name, removal.namespace)
        run.view.say(f"  deleted: {len(removal.claims)} volumes, {len(removal.secrets)} Secrets")


async def _keep(client: Client, name: str, namespace: str) -> None:
    """Take the StatefulSet out of a claim's owners, with which the garbage collector would delete it.

    Its controller does so after the policy has changed, but only once the pod is ready, which the database of a broken
    Kasm may never be.
    """
    try:
        claim = await client.get(CLAIMS, name, namespace=namespace, into=Object)
    except NotFound:
        return
    owners = claim["metadata"].get("ownerReferences") or []
    others = [owner for owner in owners if owner["kind"] != STATEFUL_SETS.kind]
    if others != owners:
        version = claim["metadata"]["resourceVersion"]
        patch = {"metadata": {"ownerReferences": others, "resourceVersion": version}}
        await client.patch(CLAIMS, name, patch, namespace=namespace, into=msgspec.Raw)


async def _delete(client: Client, resource: Any, name: str, namespace: str) -> None:
    try:
        await client.delete(resource, name, namespace=namespace, into=msgspec.Raw)
    except NotFound:
        return


def _is_of(metadata: Mapping[str, Any], generation: Generation, release: str) -> bool:
    labels = metadata.get("labels") or {}
    own = labels.get("app.kubernetes.io/instance", "") in ("", release)
    return own and generation.component_of(labels) is not None


def _deletes(statefulset: Mapping[str, Any]) -> bool:
    policy = statefulset["spec"].get("persistentVolumeClaimRetentionPolicy") or {}
    return bool(policy.get("whenDeleted") == "Delete")


async def _agents(client: Client, namespace: str) -> tuple[tuple[str, int], ...]:
    kinds, found = Kinds(client), []
    for kind in _AGENT_KINDS:
        resource = await kinds.find(_AGENT_API, kind)
        if resource is not None:
            count = len(await client.list(resource, namespace=namespace, into=Object))
            found += [(f"{resource.plural}.{resource.group}", count)] if count else []
    return tuple(found)
