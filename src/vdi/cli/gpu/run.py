"""What `vdi gpu configure` and its undo do on a cluster, step by step with progress on stderr."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from vdi.cli.progress import PassedStage, ProgressView
from vdi.findings.model import Finding
from vdi.gpu.apply import apply_change, restart_daemon_set, wait_until_settled
from vdi.gpu.collect import collect
from vdi.gpu.sharing.config import Sharing
from vdi.gpu.sharing.findings import find, node_findings, plugin_findings
from vdi.gpu.sharing.notes import notes_on, state_after
from vdi.gpu.sharing.plan import SharingPlan, default_key, plan_configure
from vdi.gpu.sharing.request import parse_request
from vdi.gpu.sharing.state import GpuState
from vdi.gpu.sharing.undo import plan_undo
from vdi.kube.clock import SYSTEM_CLOCK
from vdi.kube.transport import Client


@dataclass(frozen=True, slots=True)
class ConfigureOptions:
    """What was typed: how the default shares, its name if one was given, NAME=REPLICAS and NODE=NAME."""

    sharing: Sharing
    default: str | None
    configs: tuple[str, ...]
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Changed:
    """What was done or would be, how the cluster is now, and what is still wrong."""

    plan: SharingPlan
    state: GpuState
    notes: list[str]
    findings: list[Finding] = field(default_factory=list)


async def configure_cluster(
    client: Client, options: ConfigureOptions, *, dry_run: bool, seconds: float | None
) -> Changed:
    """Configure it, and wait `seconds` for the nodes (None: do not). Raises RefusedError, KubeError."""
    state = await collect(client)
    default = default_key(state, options.default)
    plan = plan_configure(state, parse_request(options.sharing, default, options.configs, options.nodes))
    return await _change(client, state, plan, find, dry_run=dry_run, seconds=seconds)


async def undo_on_cluster(client: Client, _: ConfigureOptions, *, dry_run: bool, seconds: float | None) -> Changed:
    """Back to what was before. Raises RefusedError, KubeError."""
    state = await collect(client)
    return await _change(client, state, plan_undo(state), _after_undo, dry_run=dry_run, seconds=seconds)


def _after_undo(state: GpuState) -> list[Finding]:
    """That nothing is configured is as it should be then."""
    return [*plugin_findings(state), *node_findings(state)]


async def _change(
    client: Client,
    state: GpuState,
    plan: SharingPlan,
    findings: Callable[[GpuState], list[Finding]],
    *,
    dry_run: bool,
    seconds: float | None,
) -> Changed:
    notes = list(notes_on(state_after(state, plan)))
    if dry_run:
        return Changed(plan, state, notes)
    with ProgressView() as view:
        for change in plan.changes:
            began = time.monotonic()
            await apply_change(client, change)
            view.passed(PassedStage(change.title, time.monotonic() - began))
        for daemon_set in plan.restarts:
            began = time.monotonic()
            await restart_daemon_set(client, daemon_set, SYSTEM_CLOCK)
            view.passed(
                PassedStage(f"restart DaemonSet {daemon_set.namespace}/{daemon_set.name}", time.monotonic() - began)
            )
        if seconds is None:
            return Changed(plan, state, notes)
        began = time.monotonic()
        state, left = await wait_until_settled(client, findings, view.waiting, seconds=seconds, clock=SYSTEM_CLOCK)
        words = "the nodes advertise what they should" if not left else "the nodes do not advertise what they should"
        view.passed(PassedStage(words, time.monotonic() - began), well=not left)
    return Changed(plan, state, notes, left)
