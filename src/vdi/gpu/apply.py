"""The writing half of the edge: sends a plan to the API server, and waits until the cluster is as it says."""

from collections.abc import Callable
from typing import Any

from vdi.findings.model import Finding, Severity
from vdi.gpu.collect import collect
from vdi.gpu.sharing.changes import Change
from vdi.gpu.sharing.state import DaemonSet, GpuState
from vdi.kube.clock import Clock
from vdi.kube.resource import CONFIG_MAPS, DAEMON_SETS
from vdi.kube.transport import Client

LOOK_EVERY = 2.0
"""Seconds between two looks while waiting; GPU Feature Discovery takes up to a minute for its labels."""


async def apply_change(client: Client, change: Change) -> None:
    """One change. ConfigMap and DaemonSet are changed only as they were looked at: Conflict when they are not."""
    if change.before is None:
        await client.create(change.resource, dict(change.after or {}), namespace=change.namespace, into=dict[str, Any])
        return
    if change.after is None:
        await client.delete(change.resource, change.name, namespace=change.namespace, into=dict[str, Any])
        return
    patch = change.patch
    if change.resource in (CONFIG_MAPS, DAEMON_SETS):  # the others are written all the time, and by us in single fields
        patch.setdefault("metadata", {})["resourceVersion"] = change.before["metadata"]["resourceVersion"]
    await client.patch(change.resource, change.name, patch, namespace=change.namespace, into=dict[str, Any])


async def restart_daemon_set(client: Client, daemon_set: DaemonSet, clock: Clock) -> None:
    """What `kubectl rollout restart` does."""
    note = {"annotations": {"kubectl.kubernetes.io/restartedAt": clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")}}
    patch = {"spec": {"template": {"metadata": note}}}
    await client.patch(DAEMON_SETS, daemon_set.name, patch, namespace=daemon_set.namespace, into=dict[str, Any])


async def wait_until_settled(
    client: Client,
    findings: Callable[[GpuState], list[Finding]],
    say: Callable[[str], None],
    *,
    seconds: float,
    clock: Clock,
) -> tuple[GpuState, list[Finding]]:
    """Look until nothing is wrong or unknown any more, or the time is over; what is left is returned, and then empty.

    `say` gets what is waited for.
    """
    deadline = clock.monotonic() + seconds
    while True:
        state = await collect(client, usage=False)
        left = [finding for finding in findings(state) if finding.severity is not Severity.WARNING]
        if not left or clock.monotonic() >= deadline:
            return state, left
        say(f"{left[0].object}: {left[0].message}")
        await clock.sleep(LOOK_EVERY)
