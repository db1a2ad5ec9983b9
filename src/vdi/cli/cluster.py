"""`vdi cluster`: a real Kubernetes cluster on this machine, for trying things and for tests.

The display of its steps and its errors as sentences also serve `vdi demo`.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from vdi.cli.console import SafeConsole
from vdi.cli.errors import FINDINGS, CliError
from vdi.cli.options import TimeoutFactor, examples, new_app
from vdi.cli.output import Output, OutputOption, columns, print_object
from vdi.cli.terminal import end_on_interrupt
from vdi.devcluster import cluster
from vdi.devcluster.binaries import BinaryUnavailable
from vdi.devcluster.binaries.packages import PackagesUnavailable
from vdi.devcluster.images import ImageFailed
from vdi.devcluster.images.archive import BadProgram
from vdi.devcluster.images.builder import NoBuilder
from vdi.devcluster.layout import ClusterError, layout_of
from vdi.devcluster.networks import MAX_NODES
from vdi.devcluster.progress import Progress, StepFailed
from vdi.devcluster.status import ClusterStatus

app = new_app(
    "A real Kubernetes cluster on this machine, from the real components, for trying things out and"
    " for tests. If you already have a cluster (K3s, k3d, kind, ...), you do not need this: install"
    " charts/vdi there with Helm."
)
PARTLY_REMOVED = "Parts of the cluster may be left: run the same command again."
_READY = {True: "Ready", False: "not Ready", None: "unknown (the API server does not say)"}
_EXPECTED = (
    ClusterError,
    StepFailed,
    BinaryUnavailable,
    NoBuilder,
    ImageFailed,
    BadProgram,
    PackagesUnavailable,
)

Name = Annotated[
    str, typer.Option("--name", help="Name of the cluster: a-z, 0-9 and -, at most 10.")
]
NodeCount = Annotated[
    int | None,
    typer.Option(
        "--nodes", min=1, max=MAX_NODES, help="Number of nodes, each with its own kubelet."
    ),
]


@contextmanager
def progress_of(name: str) -> Iterator[Progress]:
    """Show steps. Their logs go to a folder that is kept only when something failed."""
    folder = Path(tempfile.mkdtemp(prefix=f"vdi-{name}-"))
    with Progress(folder, SafeConsole(stderr=True)) as progress:
        yield progress
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


@contextmanager
def errors_in_words(*more: type[Exception], interrupted: str = "") -> Iterator[None]:
    """Turn what building and running a cluster may raise, and `more`, into one sentence and an exit
    code.

    `interrupted` is said after Ctrl-C: what is left, and how to go on.
    """
    expected: tuple[type[Exception], ...] = (*_EXPECTED, *more)
    try:
        with end_on_interrupt(f"Interrupted. {interrupted}".strip()):
            yield
    except expected as error:
        raise CliError(str(error)) from error


@app.command(
    epilog=examples(
        "cluster up --fake-gpus 4",
        "cluster up --nodes 3",
        "cluster up --control-plane-only --name dev -o json",
    )
)
def up(
    name: Name = "demo",
    control_plane_only: Annotated[
        bool,
        typer.Option(
            "--control-plane-only",
            help="API server and controllers, but no node: does not need root.",
        ),
    ] = False,
    fake_gpus: Annotated[
        int | None,
        typer.Option(
            "--fake-gpus", min=0, max=64, help="Simulate this many nvidia.com/gpu on each node."
        ),
    ] = None,
    nodes: NodeCount = None,
    install_packages: Annotated[
        bool, typer.Option("--install-packages", help="Install missing system tools with apt-get.")
    ] = False,
    timeout_factor: TimeoutFactor = 1.0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Start the cluster. If it is already running, repair what is broken and report it.

    An existing cluster, such as that of the demo after a power failure, is started with the options
    it was created with. The node needs root: the command uses sudo, only for its last steps. If you
    already have a cluster (K3s, k3d, kind), install the chart charts/vdi there with Helm instead.
    """
    with (
        errors_in_words(interrupted="What this command started is undone."),
        progress_of(name) as progress,
    ):
        made = cluster.up(
            name,
            control_plane_only=control_plane_only,
            fake_gpus=fake_gpus,
            nodes=nodes,
            install_packages=install_packages,
            timeout_factor=timeout_factor,
            progress=progress,
        )
    facts = {"server": made.server, "wasRunning": made.was_running, "nodes": list(made.nodes)}
    data = {"name": name, **facts, "fakeGpus": made.fake_gpus, "kubeconfig": str(made.kubeconfig)}
    lines = [
        f"Cluster {name!r} {'was already running' if made.was_running else 'is up'}: {made.server}"
    ]
    if len(made.nodes) > 1:
        lines.append(f"{len(made.nodes)} nodes: {', '.join(made.nodes)}")
    if made.fake_gpus:
        each = " on each node" if len(made.nodes) > 1 else ""
        no_hardware = "pods that request one are scheduled, but there is no hardware."
        lines.append(f"{made.fake_gpus} simulated GPUs{each}: {no_hardware}")
    print_object(data, output, lambda: [*lines, f"  export KUBECONFIG={made.kubeconfig}"])


@app.command(epilog=examples("cluster down --name dev", "cluster down -o json"))
def down(name: Name = "demo", output: OutputOption = Output.TABLE) -> None:
    """Stop the cluster and remove everything that belongs to it. Downloaded and built files stay in
    the cache.
    """
    with errors_in_words(interrupted=PARTLY_REMOVED):
        removed = cluster.down(name)
    if removed:
        there = f"Removed from cluster {name!r}: {', '.join(removed)}."
    else:
        there = f"There is no cluster {name!r}."
    print_object({"removed": removed}, output, lambda: [there])


@app.command(
    epilog=examples(
        "cluster nodes --add-node",
        "cluster nodes --cut-node vdi-demo-2",
        "cluster nodes --stop-node vdi-demo-3",
        "cluster nodes --start-node vdi-demo-3",
    )
)
def nodes(
    name: Name = "demo",
    add_node: Annotated[
        bool, typer.Option("--add-node", help="Add a node, with the images of the first one.")
    ] = False,
    stop_node: Annotated[
        str,
        typer.Option(
            "--stop-node",
            metavar="NODE",
            help="End all its processes at once, as a power cut does.",
        ),
    ] = "",
    cut_node: Annotated[
        str,
        typer.Option("--cut-node", metavar="NODE", help="Cut its network; its pods keep running."),
    ] = "",
    start_node: Annotated[
        str, typer.Option("--start-node", metavar="NODE", help="Start it again, with its network.")
    ] = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the nodes; add one, stop one, cut its network, or start it again.

    To see what happens to desktops when a node fails. The first node runs the control plane and is
    never stopped alone. Status 1 when a node is not Ready.
    """
    requested = [bool(option) for option in (add_node, stop_node, cut_node, start_node)]
    if sum(requested) > 1:
        raise typer.BadParameter(
            "only one of --add-node, --stop-node, --cut-node and --start-node at a time"
        )
    with errors_in_words(
        interrupted="`vdi cluster nodes` shows what was done; run the same command again."
    ):
        if add_node:
            with progress_of(name) as progress:
                cluster.add_node(name, progress=progress)
        elif start_node:
            with progress_of(name) as progress:
                cluster.start_node(name, start_node, progress=progress)
        elif stop_node:
            cluster.stop_node(name, stop_node)
        elif cut_node:
            cluster.cut_node(name, cut_node)
        cluster_status = cluster.status(name)
    print_object(
        msgspec.to_builtins(cluster_status.nodes), output, lambda: _node_lines(cluster_status)
    )
    if not any(requested):
        raise typer.Exit(
            0
            if cluster_status.nodes and all(node.ready for node in cluster_status.nodes)
            else FINDINGS
        )


@app.command(epilog=examples("cluster status", "cluster status -o json"))
def status(
    name: Name = "demo",
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the state of each process, of the nodes and of the add-ons. Status 1: something is
    broken.
    """
    with errors_in_words():
        cluster_status = cluster.status(name)
    print_object(msgspec.to_builtins(cluster_status), output, lambda: _status_lines(cluster_status))
    raise typer.Exit(0 if cluster_status.state == "running" else FINDINGS)


@app.command(epilog=examples("cluster logs kube-apiserver -f", "cluster logs vdi-demo-2/kubelet"))
def logs(
    component: Annotated[
        str, typer.Argument(help="Name of the component; without it they are listed.")
    ] = "",
    name: Name = "demo",
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Follow the log.")] = False,
) -> None:
    """Print a component's log."""
    with errors_in_words():
        layout = layout_of(name)
        known = {path.stem: path for path in sorted(layout.logs.glob("*.log"))}
        if not known:
            raise ClusterError(
                f"there is no cluster {name!r}, so there are no logs in {layout.logs}"
            )
        if settings := layout.load():
            for number in settings.node_numbers[1:]:
                for path in sorted(layout.of_node(number).logs.glob("*.log")):
                    known[f"{settings.name_of(number)}/{path.stem}"] = path
        if component and component not in known:
            raise ClusterError(f"component {component!r}: cluster {name!r} has {', '.join(known)}")
    if not component:
        print("\n".join(known))
        return
    # tail follows over rotation and ends with Ctrl-C, and this process has nothing else to do.
    words = ["tail", "-n", "+1", *(["-F"] if follow else []), str(known[component])]
    sys.stdout.flush()
    os.execvp(words[0], words)  # noqa: S606 - no shell is wanted


@app.command(epilog=examples("cluster kubeconfig", "cluster kubeconfig --print"))
def kubeconfig(
    name: Name = "demo",
    content: Annotated[
        bool,
        typer.Option("--print", help="Print the content instead of the path; it contains a key."),
    ] = False,
) -> None:
    """Print the path of the administrator's kubeconfig."""
    with errors_in_words():
        path = layout_of(name).kubeconfig
        if not path.exists():
            raise ClusterError(f"there is no cluster {name!r}: `vdi cluster up` creates one")
    print(path.read_text() if content else path)


def _status_lines(cluster_status: ClusterStatus) -> list[str]:
    if cluster_status.state == "absent":
        return [f"There is no cluster {cluster_status.name!r}: `vdi cluster up` creates one."]
    components = [(component.name, component) for component in cluster_status.components]
    components += [
        (f"{node.name}/{each.name}", each)
        for node in cluster_status.nodes
        for each in node.components
    ]
    rows = [
        [label, each.state, str(each.pid or "-"), str(each.restarts), each.last_exit or "-"]
        for label, each in components
    ]
    rows += [
        [addon.name, "running" if addon.ready else "not ready", "-", "-", addon.detail]
        for addon in cluster_status.addons
    ]
    lines = [f"Cluster {cluster_status.name!r} is {cluster_status.state}: {cluster_status.server}"]
    lines += columns(["COMPONENT", "STATE", "PID", "RESTARTS", "LAST EXIT"], rows)
    if cluster_status.control_plane_only:
        return lines
    several = len(cluster_status.nodes) > 1
    gpus = ""
    if cluster_status.fake_gpus:
        each = " on each node" if several else ""
        gpus = f", {cluster_status.fake_gpus} simulated GPUs{each}"
    ready = "" if several else f"Node {_READY[cluster_status.node_ready]}; "
    lines += _node_lines(cluster_status) if several else []
    return [*lines, f"{ready}HTTPS for desktops on 127.0.0.1:{cluster_status.websecure_port}{gpus}"]


def _node_lines(cluster_status: ClusterStatus) -> list[str]:
    if not cluster_status.nodes:
        return [
            f"There is no cluster {cluster_status.name!r} with nodes: `vdi cluster up` creates one."
        ]
    return columns(
        ["NODE", "STATE", "READY"],
        [[node.name, node.state, _READY[node.ready]] for node in cluster_status.nodes],
    )
