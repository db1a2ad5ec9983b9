"""`vdi gpu`: configure, status and verify the sharing of GPUs. What is right and wrong is decided in `vdi.gpu`."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, TypeVar

import typer

from vdi.cli.errors import FINDINGS, USAGE, CliError
from vdi.cli.findings import FindingsOption, FindingsOutput, paint, print_report
from vdi.cli.gpu.page import (
    healthy_lines,
    note_lines,
    plan_data,
    plan_lines,
    status_data,
    status_lines,
)
from vdi.cli.gpu.run import ConfigureOptions, configure_cluster, undo_on_cluster
from vdi.cli.long_work import INTERRUPTED
from vdi.cli.options import PROGRAM, Context, Kubeconfig, KubeConnection, examples, seconds_of
from vdi.cli.output import PageOption, PageOutput, print_data
from vdi.findings.model import exit_code
from vdi.findings.render import Report, findings_as_text
from vdi.gpu.collect import collect
from vdi.gpu.measure import measure
from vdi.gpu.sharing.config import Sharing
from vdi.gpu.sharing.dcgm import GpuMeasurements
from vdi.gpu.sharing.findings import find
from vdi.gpu.sharing.manifest import DEFAULT_KEY
from vdi.gpu.sharing.request import RefusedError, parse_request
from vdi.gpu.sharing.state import GpuState
from vdi.kube.transport import Client

T = TypeVar("T")

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Share each GPU among several desktops by time-slicing. It isolates neither memory nor faults.",
)


@app.command(
    epilog=examples(
        "gpu configure --replicas 8 --dry-run",
        "gpu configure --replicas 8",
        "gpu configure --replicas 8 --config big=2 --config whole=1 --node gpu-2=big --node gpu-3=whole",
        "gpu configure --undo",
    )
)
def configure(
    ctx: typer.Context,
    *,
    replicas: Annotated[int, typer.Option(help="How many desktops may share one GPU; 1: not shared.")] = 8,
    config: Annotated[
        list[str] | None, typer.Option("--config", metavar="NAME=REPLICAS", help="An additional named configuration.")
    ] = None,
    node: Annotated[
        list[str] | None,
        typer.Option("--node", metavar="NODE=NAME", help="A node with another configuration than the default."),
    ] = None,
    default: Annotated[
        str | None,
        typer.Option(
            "--default", metavar="NAME", help="Name of the configuration for all other nodes.", show_default="any"
        ),
    ] = None,
    rename_by_default: Annotated[
        bool,
        typer.Option("--rename-by-default", help="Advertise nvidia.com/gpu.shared instead of nvidia.com/gpu."),
    ] = False,
    fail_requests_greater_than_one: Annotated[
        bool,
        typer.Option("--fail-requests-greater-than-one", help="Pods that request more than one slice fail."),
    ] = False,
    mig_strategy: Annotated[
        str, typer.Option(help="For GPUs that MIG divides into equal parts, each of which is then shared: single.")
    ] = "none",
    undo: Annotated[bool, typer.Option("--undo", help="Restore the state before the first configure.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help=("Show the changes as a diff, without making them."))
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until the nodes advertise the configured GPUs.")
    ] = True,
    timeout: Annotated[str, typer.Option(help="Maximum time to wait.")] = "10m",
    output: PageOption = PageOutput.TABLE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Share the GPUs: set ConfigMap, ClusterPolicy and node labels, restart what needs it, and verify the nodes.

    Works with the GPU Operator and with the device plugin alone. Running desktops are not affected. The command can
    be repeated at any time.
    """
    connection = KubeConnection(kubeconfig=kubeconfig, context=context)
    if undo:
        _refuse_beside_undo(ctx)
    sharing = Sharing(replicas, rename_by_default, fail_requests_greater_than_one, mig_strategy)
    options = ConfigureOptions(sharing, default, tuple(config or ()), tuple(node or ()))
    seconds = seconds_of("--timeout", timeout) if wait and not dry_run else None
    work = undo_on_cluster if undo else configure_cluster
    with _refusals_in_words():  # what was typed wrongly is said also where no cluster answers
        parse_request(sharing, default or DEFAULT_KEY, options.configs, options.nodes if default else ())
    changed = _run(connection, lambda client: work(client, options, dry_run=dry_run, seconds=seconds))
    left, notes = changed.findings, [] if undo else changed.notes
    if output is PageOutput.JSON:
        found = [finding.public() for finding in left]
        print_data({**plan_data(changed.plan), "findings": found, "notes": notes}, output)
    else:
        lines = plan_lines(changed.plan) if dry_run or changed.plan.empty else []
        lines += healthy_lines(changed.state) if seconds is not None and not left else []
        for line in [*lines, *note_lines(notes)]:
            typer.echo(line)
        for line in findings_as_text(left):
            typer.echo(paint(line))
    if left:
        typer.echo(f"not done within {timeout}; check again: {PROGRAM} gpu verify{connection.flags}", err=True)
    raise typer.Exit(exit_code(left))


@app.command(epilog=examples("gpu status", "gpu status -o json"))
def status(
    *,
    output: PageOption = PageOutput.TABLE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show the GPUs of each node, how they are shared, how many are in use, and their load (DCGM exporter)."""

    async def look(client: Client) -> tuple[GpuState, GpuMeasurements]:
        state = await collect(client)
        return state, await measure(client, [node.name for node in state.gpu_nodes])

    state, measured = _run(KubeConnection(kubeconfig=kubeconfig, context=context), look)
    if output is PageOutput.JSON:
        print_data(status_data(state, measured), output)
        return
    for line in status_lines(state, measured):
        typer.echo(line)


@app.command(epilog=examples("gpu verify", "gpu verify -o json", "gpu verify -o junit"))
def verify(
    *,
    output: FindingsOption = FindingsOutput.TEXT,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Check whether each node advertises GPUs x replicas, and if not, why. Status 1: findings; 3: unknown."""
    state = _run(KubeConnection(kubeconfig=kubeconfig, context=context), collect)
    findings = find(state)
    code = exit_code(findings)
    about = {"nodes": status_data(state)["nodes"]}
    notes = [] if code else ["\n".join(healthy_lines(state))]
    print_report(Report(tool="vdi gpu verify", findings=findings, context=about, notes=notes), output)
    raise typer.Exit(code)


def _refuse_beside_undo(ctx: typer.Context) -> None:
    """An undo goes back to what was noted: nothing about the sharing can be asked for with it."""
    about_sharing = ("replicas", "config", "node", "default", "rename_by_default", "fail_requests_greater_than_one")
    for name in (*about_sharing, "mig_strategy"):
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = f"--{name.replace('_', '-')}"
            text = (
                f"{option} cannot be combined with --undo, which restores the previous state; allowed: --dry-run, "
                "--no-wait"
            )
            raise CliError(f"{text}, --timeout, -o", USAGE)


@contextmanager
def _refusals_in_words() -> Iterator[None]:
    try:
        yield
    except RefusedError as error:
        raise CliError("\n".join(error.problems), USAGE if error.usage else FINDINGS) from error


def _run(connection: KubeConnection, work: Callable[[Client], Awaitable[T]]) -> T:
    """`KubeConnection.run`, with refusals as errors, and Ctrl-C that says what is left."""
    try:
        with _refusals_in_words():
            return connection.run(work)
    except KeyboardInterrupt:
        see = f"{PROGRAM} gpu verify{connection.flags}"
        typer.echo(f"Interrupted. Changes so far are kept; run the same command again. To see them: {see}", err=True)
        raise typer.Exit(INTERRUPTED) from None
