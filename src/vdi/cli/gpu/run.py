"""What `vdi gpu configure` and its undo do on a cluster, step by step with progress on stderr."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from vdi.cli.progress import PassedStage, ProgressView
from vdi.findings.model import Finding
from vdi.gpu.carry_out import restart, take, wait_until_settled
from vdi.gpu.collect import collect
from vdi.gpu.findings import find, node_findings, plugin_findings
from vdi.gpu.notes import after_steps, notes_on
from vdi.gpu.observed import Observed
from vdi.gpu.sharing import Sharing
from vdi.gpu.time_slicing import Plan, default_key, plan_configure
from vdi.gpu.undo import plan_undo
from vdi.gpu.wish import parse_wish
from vdi.kube.clock import SYSTEM_CLOCK
from vdi.kube.transport import Client


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was typed: how the default shares, its name if one was given, NAME=REPLICAS and NODE=NAME."""

    sharing: Sharing
    default: str | None
    configs: tuple[str, ...]
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Changed:
    """What was done or would be, how the cluster is now, and what is still wrong."""

    plan: Plan
    observed: Observed
    notes: list[str]
    findings: list[Finding] = field(default_factory=list)


async def configure_cluster(client: Client, wanted: Wanted, *, dry_run: bool, seconds: float | None) -> Changed:
    """Bring the wish about and wait `seconds` for the nodes (None: do not). Raises RefusedError, KubeError."""
    observed = await collect(client)
    default = default_key(observed, wanted.default)
    plan = plan_configure(observed, parse_wish(wanted.sharing, default, wanted.configs, wanted.nodes))
    return await _change(client, observed, plan, find, dry_run=dry_run, seconds=seconds)


async def undo_on_cluster(client: Client, _: Wanted, *, dry_run: bool, seconds: float | None) -> Changed:
    """Back to what was before. Raises RefusedError, KubeError."""
    observed = await collect(client)
    return await _change(client, observed, plan_undo(observed), _after_undo, dry_run=dry_run, seconds=seconds)


def _after_undo(observed: Observed) -> list[Finding]:
    """That nothing is configured is as it should be then."""
    return [*plugin_findings(observed), *node_findings(observed)]


async def _change(
    client: Client,
    observed: Observed,
    plan: Plan,
    findings: Callable[[Observed], list[Finding]],
    *,
    dry_run: bool,
    seconds: float | None,
) -> Changed:
    notes = list(notes_on(after_steps(observed, plan)))
    if dry_run:
        return Changed(plan, observed, notes)
    with ProgressView() as view:
        for step in plan.steps:
            began = time.monotonic()
            await take(client, step)
            view.passed(PassedStage(step.title, time.monotonic() - began))
        for each in plan.restarts:
            began = time.monotonic()
            await restart(client, each, SYSTEM_CLOCK)
            view.passed(PassedStage(f"restart DaemonSet {each.namespace}/{each.name}", time.monotonic() - began))
        if seconds is None:
            return Changed(plan, observed, notes)
        began = time.monotonic()
        observed, left = await wait_until_settled(client, findings, view.waiting, seconds=seconds, clock=SYSTEM_CLOCK)
        words = "the nodes advertise what they should" if not left else "the nodes do not advertise what they should"
        view.passed(PassedStage(words, time.monotonic() - began), well=not left)
    return Changed(plan, observed, notes, left)
