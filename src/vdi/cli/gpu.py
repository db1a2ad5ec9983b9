"""`vdi gpu`: configure, status and verify the sharing of GPUs, with their pages. The decisions are
in `vdi.gpu`.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal

import typer

from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.cli.errors import COULD_NOT_LOOK, FINDINGS, USAGE, CliError
from vdi.cli.findings import FindingsOption, FindingsOutput, paint, print_report
from vdi.cli.options import (
    PROGRAM,
    DryRun,
    KubeConnection,
    examples,
    new_app,
    seconds_of,
    with_cluster,
)
from vdi.cli.output import Output, OutputOption, age, columns, now_utc, print_object
from vdi.cli.progress import ProgressView
from vdi.cli.terminal import end_on_interrupt
from vdi.findings.model import Finding, exit_code
from vdi.findings.render import Report, findings_as_text
from vdi.gpu.cluster import (
    UnreadableError,
    apply_change,
    collect,
    measure,
    restart_daemon_set,
    wait_until_settled,
)
from vdi.gpu.sharing.changes import diff_lines
from vdi.gpu.sharing.config import RENAMED, RESOURCE, Sharing
from vdi.gpu.sharing.dcgm import GpuMeasurements
from vdi.gpu.sharing.findings import find, node_findings, plugin_findings
from vdi.gpu.sharing.plan import (
    DEFAULT_KEY,
    RefusedError,
    SharingPlan,
    default_key,
    notes_on,
    parse_request,
    plan_configure,
    plan_undo,
    state_after,
)
from vdi.gpu.sharing.state import DaemonSet, GpuNode, GpuState, effect_on, picker_of
from vdi.kinds import SESSIONS, TEMPLATES
from vdi.kube.clock import SYSTEM_CLOCK
from vdi.kube.transport import Client
from vdi.session.lifetime import idle_since

app = new_app(
    "Share each GPU among several desktops by time-slicing. It isolates neither memory nor faults."
)

UNKNOWN = "UNKNOWN"
WHOLE_GPUS = (
    "BUSY and MEMORY are those of whole GPUs: under time-slicing it is unknown how much each"
    " desktop uses, and whether it is idle."
)


def status_data(state: GpuState, measured: GpuMeasurements | None = None) -> dict[str, Any]:
    """The page of `status` for `-o json`; without `measured` nothing of how busy the GPUs are."""
    policy = state.policy
    return {
        "namespace": state.namespace,
        "clusterPolicy": policy.metadata.name if policy else None,
        "configMap": state.config_name or None,
        "default": picker_of(state).default or None,
        "devicePlugins": [_plugin_data(plugin) for plugin in state.plugins],
        "runtimeClassNvidia": state.runtime_class,
        "nodes": [
            _node_data(node, state) | (_busy_data(node.name, measured) if measured else {})
            for node in state.gpu_nodes
        ],
        "notes": list(notes_on(state)),
    } | ({"dcgmExporters": list(measured.exporters)} if measured else {})


def _busy_data(node: str, measured: GpuMeasurements) -> dict[str, Any]:
    gpus = [
        {
            "gpu": gpu.index,
            "model": gpu.model,
            "busy": gpu.busy,
            "memoryUsedMiB": gpu.memory_used,
            "memoryMiB": gpu.memory,
        }
        for gpu in measured.nodes.get(node, ())
    ]
    return {
        "busy": measured.busy(node),
        "busyUnknown": measured.problems.get(node),
        "measured": gpus,
    }


def _plugin_data(plugin: DaemonSet) -> dict[str, Any]:
    status = plugin.workload.status
    return {
        "namespace": plugin.namespace,
        "name": plugin.name,
        "ready": status.number_ready,
        "desired": status.desired_number_scheduled,
    }


def _node_data(node: GpuNode, state: GpuState) -> dict[str, Any]:
    effect = effect_on(node, state)
    sharing = effect.sharing
    resource = sharing.resource if sharing else RESOURCE
    return {
        "node": node.name,
        "gpus": node.gpus,
        "product": node.label("nvidia.com/gpu.product") or None,
        "mig": node.mig,
        "config": effect.config or None,
        "sharing": sharing.method if sharing else None,
        "replicas": sharing.replicas if sharing else None,
        "resource": resource,
        "advertised": node.capacity(resource),
        "allocatable": node.allocatable(resource),
        "inUse": node.in_use,
        "problem": effect.problem or None,
    }


def status_lines(state: GpuState, measured: GpuMeasurements) -> list[str]:
    """The page of `status` for people."""
    data = status_data(state, measured)
    kind = "device plugin"
    if state.policy:
        kind = f"GPU Operator, ClusterPolicy {data['clusterPolicy']}"
    chosen = "none: GPUs are not shared"
    if data["configMap"]:
        chosen = f"{state.namespace}/{data['configMap']}"
    facts = {
        "Managed by": kind,
        "ConfigMap": chosen + (f", default {data['default']}" if data["default"] else ""),
        "Device plugin": (
            "; ".join(
                f"{plugin['namespace']}/{plugin['name']}, {plugin['ready']} of {plugin['desired']}"
                " pods ready"
                for plugin in data["devicePlugins"]
            )
            or "none found"
        ),
        "RuntimeClass": "nvidia exists" if state.runtime_class else "nvidia does not exist",
        "DCGM exporter": ", ".join(measured.exporters) or "none found",
    }
    lines = [f"{name + ':':<15}{value}" for name, value in facts.items()]
    if not data["nodes"]:
        return [
            *lines,
            "",
            f"No node has a GPU that Kubernetes knows of ({RESOURCE} or {RENAMED}).",
        ]
    header = [*_NODE_COLUMNS, "BUSY", "MEMORY"]
    lines += ["", *columns(header, map(_node_cells, data["nodes"]))]
    unknown = []
    for node in data["nodes"]:
        if node["busyUnknown"]:
            unknown.append(f"Node {node['node']}: {UNKNOWN}: {node['busyUnknown']}")
    notes = [WHOLE_GPUS] if measured.nodes else []
    return [*lines, *note_lines([*data["notes"], *notes, *unknown])]


# Header and field of each column of a node.
_NODE_COLUMNS = {
    "NODE": "node",
    "GPUS": "gpus",
    "PRODUCT": "product",
    "CONFIG": "config",
    "SHARING": "sharing",
    "REPLICAS": "replicas",
    "RESOURCE": "resource",
    "ADVERTISED": "advertised",
    "IN USE": "inUse",
}


def _node_cells(node: dict[str, Any]) -> list[str]:
    cells = ["-" if node[field] is None else str(node[field]) for field in _NODE_COLUMNS.values()]
    return [*cells, *_busy_cells(node)]


def _busy_cells(node: dict[str, Any]) -> list[str]:
    used = [gpu["memoryUsedMiB"] for gpu in node["measured"]]
    there = [gpu["memoryMiB"] for gpu in node["measured"]]
    busy = UNKNOWN if node["busy"] is None else f"{node['busy']:.0%}"
    if not there or None in there:
        return [busy, UNKNOWN]
    return [busy, f"{sum(used) / 1024:.1f} of {sum(there) / 1024:.1f} GiB"]


def note_lines(notes: Sequence[str]) -> list[str]:
    """The part of a page with notes."""
    if notes:
        return ["", "Notes", *(f"  {note}" for note in notes)]
    return []


def healthy_lines(state: GpuState) -> list[str]:
    """One line for each node that is as it should be."""
    lines = []
    for node in status_data(state)["nodes"]:
        known = "?" if node["gpus"] is None else node["gpus"]
        gpus = "1 GPU" if known == 1 else f"{known} GPUs"
        count = f"{gpus} x {node['replicas']}"
        lines.append(f"✓ node {node['node']}: {count} = {node['allocatable']} {node['resource']}")
    return lines


def plan_lines(plan: SharingPlan) -> list[str]:
    """The planned changes, as diffs."""
    if plan.empty:
        return ["Nothing to change."]
    lines = [
        line
        for change in plan.changes
        for line in [change.title, *(f"  {diff_line}" for diff_line in diff_lines(change)), ""]
    ]
    return lines + [
        f"restart DaemonSet {daemon_set.namespace}/{daemon_set.name}"
        for daemon_set in plan.restarts
    ]


def plan_data(plan: SharingPlan) -> dict[str, Any]:
    """The planned changes, for `-o json`."""
    changes = []
    body: dict[str, Any] | None
    for change in plan.changes:
        action, body = "patch", change.patch
        if change.before is None:
            action, body = "create", dict(change.after or {})
        elif change.after is None:
            action, body = "delete", None
        changes.append(
            {
                "action": action,
                "kind": change.resource.kind,
                "namespace": change.namespace,
                "name": change.name,
                "body": body,
            }
        )
    restarts = [
        {"namespace": daemon_set.namespace, "name": daemon_set.name} for daemon_set in plan.restarts
    ]
    return {"steps": changes, "restarts": restarts}


@dataclass(frozen=True, slots=True)
class Changed:
    """Result of a change of the sharing: its plan, the cluster now, and the findings that are
    left.
    """

    plan: SharingPlan
    state: GpuState
    notes: list[str]
    findings: list[Finding] = field(default_factory=list)


async def _change(
    client: Client,
    state: GpuState,
    plan: SharingPlan,
    findings: Callable[[GpuState], list[Finding]],
    *,
    dry_run: bool,
    seconds: float | None,
) -> Changed:
    """Make the changes, and wait `seconds` for the nodes (None: do not). Raises KubeError."""
    notes = list(notes_on(state_after(state, plan)))
    if dry_run:
        return Changed(plan, state, notes)
    with ProgressView() as view:
        for change in plan.changes:
            began = time.monotonic()
            await apply_change(client, change)
            view.passed(change.title, time.monotonic() - began)
        for daemon_set in plan.restarts:
            began = time.monotonic()
            await restart_daemon_set(client, daemon_set, SYSTEM_CLOCK)
            view.passed(
                f"restart DaemonSet {daemon_set.namespace}/{daemon_set.name}",
                time.monotonic() - began,
            )
        if seconds is None:
            return Changed(plan, state, notes)
        began = time.monotonic()
        state, left = await wait_until_settled(
            client, findings, view.waiting, seconds=seconds, clock=SYSTEM_CLOCK
        )
        outcome = "the nodes advertise what they should"
        if left:
            outcome = "the nodes do not advertise what they should"
        view.passed(outcome, time.monotonic() - began, well=not left)
    return Changed(plan, state, notes, left)


@app.command(
    epilog=examples(
        "gpu configure --replicas 8 --dry-run",
        "gpu configure --replicas 8",
        "gpu configure --replicas 8 --config big=2 --config whole=1 --node gpu-2=big --node"
        " gpu-3=whole",
        "gpu configure --undo",
    )
)
@with_cluster
def configure(
    connection: KubeConnection,
    ctx: typer.Context,
    *,
    replicas: Annotated[
        int, typer.Option(help="How many desktops may share one GPU; 1: not shared.")
    ] = 8,
    config: Annotated[
        list[str] | None,
        typer.Option(
            "--config", metavar="NAME=REPLICAS", help="An additional named configuration."
        ),
    ] = None,
    node: Annotated[
        list[str] | None,
        typer.Option(
            "--node",
            metavar="NODE=NAME",
            help="A node with another configuration than the default.",
        ),
    ] = None,
    default: Annotated[
        str | None,
        typer.Option(
            "--default",
            metavar="NAME",
            help="Name of the configuration for all other nodes.",
            show_default="any",
        ),
    ] = None,
    rename_by_default: Annotated[
        bool,
        typer.Option(
            "--rename-by-default", help="Advertise nvidia.com/gpu.shared instead of nvidia.com/gpu."
        ),
    ] = False,
    fail_requests_greater_than_one: Annotated[
        bool,
        typer.Option(
            "--fail-requests-greater-than-one", help="Pods that request more than one slice fail."
        ),
    ] = False,
    mig_strategy: Annotated[
        str,
        typer.Option(
            help="For GPUs that MIG divides into equal parts, each of which is then shared: single."
        ),
    ] = "none",
    undo: Annotated[
        bool, typer.Option("--undo", help="Restore the state before the first configure.")
    ] = False,
    dry_run: DryRun = False,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait/--no-wait", help="Wait until the nodes advertise the configured GPUs."
        ),
    ] = True,
    timeout: Annotated[str, typer.Option(help="Maximum time to wait.")] = "10m",
    output: OutputOption = Output.TABLE,
) -> None:
    """Share the GPUs: set ConfigMap, ClusterPolicy and node labels, restart what needs it, and
    verify the nodes.

    Works with the GPU Operator and with the device plugin alone. Running desktops are not affected.
    The command can be repeated at any time.
    """
    if undo:
        _refuse_beside_undo(ctx)
    sharing = Sharing(replicas, rename_by_default, fail_requests_greater_than_one, mig_strategy)
    configs, nodes = tuple(config or ()), tuple(node or ())
    seconds = None
    if wait and not dry_run:
        seconds = seconds_of("--timeout", timeout)

    async def work(client: Client) -> Changed:
        state = await collect(client)
        if undo:
            # Afterwards nothing is configured, which is no finding then.
            checks = _check_plugins_and_nodes
            return await _change(
                client, state, plan_undo(state), checks, dry_run=dry_run, seconds=seconds
            )
        request = parse_request(sharing, default_key(state, default), configs, nodes)
        return await _change(
            client, state, plan_configure(state, request), find, dry_run=dry_run, seconds=seconds
        )

    with _errors_in_words(connection):
        # Wrong options are reported also where no cluster responds.
        parse_request(sharing, default or DEFAULT_KEY, configs, nodes if default else ())
        changed = connection.run(work)
    left, notes = changed.findings, [] if undo else changed.notes
    if dry_run or changed.plan.empty:
        lines = plan_lines(changed.plan)
    else:
        lines = []
    lines += healthy_lines(changed.state) if seconds is not None and not left else []
    data = {
        **plan_data(changed.plan),
        "findings": [finding.public() for finding in left],
        "notes": notes,
    }
    print_object(
        data, output, lambda: [*lines, *note_lines(notes), *map(paint, findings_as_text(left))]
    )
    if left:
        typer.echo(
            f"not done within {timeout}; check again: {PROGRAM} gpu verify{connection.flags}",
            err=True,
        )
    raise typer.Exit(exit_code(left))


def user_lines(
    sessions: Iterable[VDISession], templates: Iterable[VDITemplate], now: datetime
) -> list[str]:
    """The desktops that hold GPUs, node by node."""
    from vdi.session.effective import gpus_of

    by_name, rows = {template.metadata.name: template for template in templates}, []
    for session in sessions:
        template, status = by_name.get(session.spec.template), session.status
        if status.pod_name and (gpus := gpus_of(session, template)):
            used = "-"
            if idle_since(session, template):
                used = age(status.last_activity_time, now)
            names = [status.node_name, str(gpus), session.spec.user, session.metadata.name]
            rows.append([*names, age(status.start_time, now), used])
    return [
        "",
        *columns(["NODE", "GPUS", "USER", "DESKTOP", "RUNNING FOR", "IDLE FOR"], sorted(rows)),
    ]


@app.command(epilog=examples("gpu status", "gpu status -o wide", "gpu status -o json"))
@with_cluster
def status(
    connection: KubeConnection,
    output: Annotated[
        Literal["table", "wide", "json", "yaml"],
        typer.Option("--output", "-o", help="Output format."),
    ] = "table",
) -> None:
    """Show the GPUs of each node, how they are shared, how many are in use, and their load (DCGM
    exporter).

    With -o wide also the desktops that hold GPUs, and their users.
    """

    async def look(client: Client) -> tuple[GpuState, GpuMeasurements, list[str]]:
        state = await collect(client)
        measured = await measure(client, state)
        if output != "wide":
            return state, measured, []
        templates = await client.list(TEMPLATES, into=VDITemplate)
        return (
            state,
            measured,
            user_lines(await client.list(SESSIONS, into=VDISession), templates, now_utc()),
        )

    with _errors_in_words(connection):
        state, measured, users = connection.run(look)
    print_object(
        status_data(state, measured), output, lambda: [*status_lines(state, measured), *users]
    )


@app.command(epilog=examples("gpu verify", "gpu verify -o json", "gpu verify -o junit"))
@with_cluster
def verify(
    connection: KubeConnection,
    output: FindingsOption = FindingsOutput.TEXT,
) -> None:
    """Check whether each node advertises GPUs x replicas, and if not, why. Status 1: findings; 3:
    unknown.
    """
    with _errors_in_words(connection):
        state = connection.run(collect)
    findings = find(state)
    code = exit_code(findings)
    about = {"nodes": status_data(state)["nodes"]}
    notes = [] if code else ["\n".join(healthy_lines(state))]
    print_report(
        Report(tool="vdi gpu verify", findings=findings, context=about, notes=notes), output
    )
    raise typer.Exit(code)


def _check_plugins_and_nodes(state: GpuState) -> list[Finding]:
    return [*plugin_findings(state), *node_findings(state)]


def _refuse_beside_undo(ctx: typer.Context) -> None:
    # An undo restores the recorded state, so options about the sharing would have no effect.
    about_sharing = (
        "replicas",
        "config",
        "node",
        "default",
        "rename_by_default",
        "fail_requests_greater_than_one",
    )
    for name in (*about_sharing, "mig_strategy"):
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise CliError(
                f"--{name.replace('_', '-')} cannot be combined with --undo, which restores the"
                " previous state; allowed: --dry-run, --no-wait, --timeout, -o",
                USAGE,
            )


@contextmanager
def _errors_in_words(connection: KubeConnection) -> Iterator[None]:
    """Refusals as errors of the command, and Ctrl-C that says what is left."""
    see = f"{PROGRAM} gpu verify{connection.flags}"
    try:
        with end_on_interrupt(
            f"Interrupted. Changes so far are kept; run the same command again. To see them: {see}"
        ):
            yield
    except UnreadableError as error:
        raise CliError(str(error), COULD_NOT_LOOK) from error
    except RefusedError as error:
        raise CliError("\n".join(error.problems), USAGE if error.usage else FINDINGS) from error
